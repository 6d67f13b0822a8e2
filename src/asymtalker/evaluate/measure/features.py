"""Everything that is measured on the frames of one clip, in one pass: the first of a metric's three parts.

What comes out are arrays; :mod:`asymtalker.evaluate.measure.summary` makes metrics of them. Memory does not grow with
a clip's length but for these arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from asymtalker.errors import UserError
from asymtalker.evaluate.clips import Clip
from asymtalker.evaluate.measure.faces import FaceTrack, NoFace, align_face, mesh_faces, portrait_box, track_faces
from asymtalker.evaluate.measure.networks import Networks
from asymtalker.evaluate.measure.readings import STRIDE, MeshReadings, portrait_sharpness
from asymtalker.evaluate.measure.truth import sound_delay
from asymtalker.models.recognition import embed_face
from asymtalker.models.sync import SyncFeatures, sync_score
from asymtalker.timeline import FPS

VERSION = 6
"""Of the arrays; another one measures clips anew."""
WINDOW = 16
"""Frames of a window of FVD; windows do not overlap."""
PAIRED_WINDOWS = 500
"""Windows of SyncNet that are kept to be paired with another clip's: 20 s."""
BLOCK = 48
MIN_FRAMES = 2


class Extractor(Protocol):
    """Takes a clip's frames block by block and keeps what it measures."""

    def add(self, frames: np.ndarray) -> None:
        """The next frames, ``(n, H, W, 3)`` uint8."""
        ...

    def finish(self) -> dict[str, np.ndarray]:
        """The arrays, when all frames were added."""
        ...


@dataclass(frozen=True)
class Measured:
    """Arrays of one clip, and remarks on it.

    Attributes:
        arrays: those that could be measured.

            - ``frames``: their number, ``()``.
            - ``change`` (F,): mean absolute difference from the frame before, of 0 to 255; ``lab`` (F, 6): mean and
              standard deviation of CIE Lab.
            - ``readings`` (F, n): the :data:`~asymtalker.evaluate.measure.readings.READINGS` of the face mesh;
              ``eyes`` (F, 3): where their middle is, and how far apart their outer corners are, in pixels;
              ``expressions`` (m, 52): the blendshapes of every fifth frame.
            - ``sharpness`` (k,): spread of the Laplacian over the face, of every fifth frame that shows one;
              ``face_scale`` (): pixels a centimetre of it; ``portrait_sharpness`` (): the portrait's at that scale.
            - ``inception`` (m, 2048): of every fifth frame; ``i3d`` (w, 400): of windows of 16.
            - ``identity`` (k, 512): ArcFace, of the frames ``identity_frames`` (k,); ``portrait`` (512,): of the
              picture.
            - ``face`` (k, 128): dlib's embeddings, of the frames ``face_frames`` (k,); ``portrait_face`` (128,).
            - ``sync`` (3,): SyncNet's confidence, distance and offset; ``lips``, ``sound`` (w, 1024): its embeddings
              of the first windows, to be paired with other clips'.
            - ``delay``: seconds by which its sound is later than the real clip's, ``()``.
            - ``found`` (s,): whether a face was found, of every frame or of one a second.
        notes: what was converted, and what could not be measured.
    """

    arrays: dict[str, np.ndarray]
    notes: list[str]


def measure_clip(
    clip: Clip,
    portrait: np.ndarray | UserError | None,
    size: tuple[int, int],
    networks: Networks,
    real_sound: np.ndarray | UserError | None = None,
) -> Measured:
    """Measure a clip.

    Args:
        clip: the video.
        portrait: the picture whose face it is to keep, ``(H, W, 3)`` uint8, or why it can't be read; ``None`` takes
            the clip's own first frame.
        size: height and width at which pictures are compared; faces are looked at as they are.
        networks: those at hand; what needs another one is left out.
        real_sound: ``(n,)`` at 16 kHz, of the real clip that says the same, or why it can't be read, if there is one.

    Raises:
        UserError: if the clip can't be read, or has fewer than two frames.
    """
    notes = clip.notes()
    if clip.size != size:
        notes.append(f"{clip.size[1]}x{clip.size[0]}, pictures compared at {size[1]}x{size[0]}")
    track = _track(clip, networks)
    pictures, faces = _picture_extractors(networks), _identity_extractors(networks, track)
    if track.found.any():
        faces += _face_extractors(clip, track, networks, notes)
    else:
        notes.append("no face found: nothing that needs one is measured")
    first, count = _pass(clip, size, pictures, faces)
    arrays = {"frames": np.array(count), "found": track.found}
    if isinstance(real_sound, UserError):
        notes.append(f"not held against the real clip: {real_sound}")
    elif real_sound is not None and not real_sound.any():
        notes.append("the real clip is silent: not held against it")
    elif real_sound is not None:
        delay = sound_delay(clip.sound(), real_sound)
        if delay is None:
            notes.append("its sound is not that of the real clip: not held against that")
        else:
            arrays["delay"] = np.array(delay)
    for extractor in (*pictures, *faces):
        arrays |= extractor.finish()
    if arrays.keys() & {"identity", "face", "sharpness"}:
        arrays |= _of_portrait(portrait, first, arrays, networks, notes)
    return Measured(arrays, notes)


def _pass(
    clip: Clip, size: tuple[int, int], pictures: list[Extractor], faces: list[Extractor]
) -> tuple[np.ndarray, int]:
    """Show all frames to all extractors, to the first at ``size``; returns the first frame and their number."""
    first, count = None, 0
    for frames in _blocks(clip.frames()):
        first = frames[0] if first is None else first
        count += len(frames)
        sized = np.stack([_resized(frame, size) for frame in frames])
        for extractor in pictures:
            extractor.add(sized)
        for extractor in faces:
            extractor.add(frames)
    if first is None or count < MIN_FRAMES:
        raise UserError(f"{clip.name} has too few frames to measure ({count}).")
    return first, count


def _picture_extractors(networks: Networks) -> list[Extractor]:
    """What looks at any picture."""
    extractors: list[Extractor] = [PictureFeatures()]
    if networks.inception is not None:
        extractors.append(InceptionFeatures(networks.inception))
    if networks.i3d is not None:
        extractors.append(VideoFeatures(networks.i3d))
    return extractors


def _identity_extractors(networks: Networks, track: FaceTrack) -> list[Extractor]:
    """What tells people apart; a clip in which no face is found has nothing of it."""
    extractors: list[Extractor] = []
    if networks.arcface is not None and networks.yunet is not None:
        extractors.append(IdentityFeatures(networks, track))
    if networks.has_dlib:
        extractors.append(FaceFeatures(networks, track, 1 if _everywhere(networks) else FPS))
    return extractors


def _face_extractors(clip: Clip, track: FaceTrack, networks: Networks, notes: list[str]) -> list[Extractor]:
    """What else looks at a face."""
    extractors: list[Extractor] = [MeshReadings()]
    if networks.syncnet is not None:
        try:
            extractors.append(_Sync(SyncFeatures(track, clip.sound(), networks.syncnet)))
        except ValueError as error:
            notes.append(f"lip sync is not measured: {error}")
        else:
            if networks.yunet is None:
                notes.append("faces for lip sync were found by the face mesh, as YuNet is not at hand")
    return extractors


def _track(clip: Clip, networks: Networks) -> FaceTrack:
    """The face in every frame where a network needs it there; else in one frame a second, too few to follow it."""
    detector = networks.yunet or mesh_faces
    try:
        if _everywhere(networks):
            return track_faces(clip.frames(), detector)
        seconds = (frame for index, frame in enumerate(clip.frames()) if index % FPS == 0)
        return track_faces(seconds, detector, max_gap=0)
    except NoFace:
        nothing = np.zeros(1, bool)
        return FaceTrack(np.zeros((1, 4), np.float32), None, nothing.astype(np.float32), nothing)


def _everywhere(networks: Networks) -> bool:
    """Whether a network needs the face of every frame."""
    return networks.syncnet is not None or (networks.arcface is not None and networks.yunet is not None)


def _resized(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle part of the same shape, scaled to ``size``."""
    if frame.shape[:2] == size:
        return frame
    height, width = size
    scale = max(height / frame.shape[0], width / frame.shape[1])
    rows, columns = round(height / scale), round(width / scale)
    top, left = (frame.shape[0] - rows) // 2, (frame.shape[1] - columns) // 2
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(frame[top : top + rows, left : left + columns], (width, height), interpolation=way)


def _blocks(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    held: list[np.ndarray] = []
    for frame in frames:
        held.append(frame)
        if len(held) == BLOCK:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


class PictureFeatures:
    """Change from frame to frame, and colour: no network."""

    def __init__(self):
        self._last: np.ndarray | None = None
        self._change: list[float] = []
        self._lab: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        for frame in frames:
            self._change.append(0.0 if self._last is None else float(cv2.absdiff(frame, self._last).mean()))
            lab = cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
            self._lab.append(np.concatenate([lab.mean(0), lab.std(0)]))
            self._last = frame

    def finish(self) -> dict[str, np.ndarray]:
        return {"change": np.array(self._change, np.float32), "lab": np.stack(self._lab).astype(np.float32)}


class _Strided:
    """Picks every ``stride``-th frame of a clip out of its blocks."""

    def __init__(self, stride: int = STRIDE):
        self._stride, self._seen = stride, 0

    def pick(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The chosen frames, or what there is of each, of the next block, and their numbers in the clip."""
        numbers = np.arange(self._seen, self._seen + len(frames))
        self._seen += len(frames)
        chosen = numbers % self._stride == 0
        return frames[chosen], numbers[chosen]


class InceptionFeatures:
    """Inception-v3 of every fifth frame."""

    def __init__(self, network: Any):
        self._network, self._strided, self._parts = network, _Strided(), []

    @torch.inference_mode()
    def add(self, frames: np.ndarray) -> None:
        chosen, _ = self._strided.pick(frames)
        if len(chosen):
            pixels = torch.from_numpy(chosen).permute(0, 3, 1, 2).to(next(self._network.parameters()).device)
            self._parts.append(self._network(pixels).float().cpu().numpy())

    def finish(self) -> dict[str, np.ndarray]:
        return {"inception": np.concatenate(self._parts)}


class VideoFeatures:
    """I3D of windows of ``WINDOW`` frames, called as StyleGAN-V calls it: logits before the softmax, 400 a window.

    StyleGAN-V takes one window of each video; here a clip's windows follow each other, and what is left over at its
    end is not used.
    """

    def __init__(self, network: Any):
        self._network, self._held, self._parts = network, None, [np.zeros((0, 400), np.float32)]

    @torch.inference_mode()
    def add(self, frames: np.ndarray) -> None:
        held = frames if self._held is None else np.concatenate([self._held, frames])
        while len(held) >= WINDOW:
            window = torch.from_numpy(np.ascontiguousarray(held[:WINDOW])).permute(3, 0, 1, 2)[None]
            parameter = next(self._network.parameters(), None)
            window = window if parameter is None else window.to(parameter.device)
            logits = self._network(window, rescale=True, resize=True, return_features=True)
            self._parts.append(logits.float().cpu().numpy())
            held = held[WINDOW:]
        self._held = held

    def finish(self) -> dict[str, np.ndarray]:
        return {"i3d": np.concatenate(self._parts)}


class _Sync:
    """SyncNet's scores of a clip, and the embeddings of its beginning."""

    def __init__(self, features: SyncFeatures):
        self._features = features
        self.add = features.add

    def finish(self) -> dict[str, np.ndarray]:
        embeddings = self._features.finish()
        score = sync_score(embeddings["lips"], embeddings["sound"])
        scores = np.array([score.confidence, score.distance, score.offset])
        return {"sync": scores} | {name: rows[:PAIRED_WINDOWS] for name, rows in embeddings.items()}


class IdentityFeatures:
    """ArcFace embeddings, of unit length, of every fifth frame in which the face was found."""

    def __init__(self, networks: Networks, track: FaceTrack):
        self._networks, self._track, self._strided = networks, track, _Strided()
        self._parts: list[np.ndarray] = []
        self._frames: list[int] = []

    def add(self, frames: np.ndarray) -> None:
        if self._track.points is None:
            return
        chosen, numbers = self._strided.pick(frames)
        faces = []
        for frame, number in zip(chosen, numbers, strict=True):
            if self._track.found[number]:
                faces.append(align_face(frame, self._track.points[number]))
                self._frames.append(int(number))
        if faces:
            self._parts.append(embed_faces(self._networks.arcface, np.stack(faces)))

    def finish(self) -> dict[str, np.ndarray]:
        vectors = np.concatenate(self._parts) if self._parts else np.zeros((0, 512))
        return {"identity": vectors, "identity_frames": np.array(self._frames, int)}


def embed_faces(session: Any, faces: np.ndarray) -> np.ndarray:
    """ArcFace embeddings ``(N, 512)`` of unit length of aligned faces ``(N, 112, 112, 3)`` uint8 RGB."""
    pixels = (faces.astype(np.float32).transpose(0, 3, 1, 2) - 127.5) / 127.5
    name = session.get_inputs()[0].name
    vectors = np.concatenate([session.run(None, {name: pixels[i : i + 1]})[0] for i in range(len(pixels))])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class FaceFeatures:
    """dlib's embeddings of one frame a second, where the face was found in it.

    Args:
        networks: with dlib's two.
        track: the face in every ``step``-th frame.
    """

    def __init__(self, networks: Networks, track: FaceTrack, step: int):
        self._networks, self._track, self._step, self._strided = networks, track, step, _Strided(FPS)
        self._rows: list[np.ndarray] = []
        self._frames: list[int] = []

    def add(self, frames: np.ndarray) -> None:
        if not self._track.found.any():
            return
        for frame, number in zip(*self._strided.pick(frames), strict=True):
            if self._track.found[number // self._step]:
                self._rows.append(dlib_embedding(self._networks, frame, self._track.boxes[number // self._step]))
                self._frames.append(int(number))

    def finish(self) -> dict[str, np.ndarray]:
        return {"face": np.array(self._rows).reshape(-1, 128), "face_frames": np.array(self._frames, int)}


def dlib_embedding(networks: Networks, picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """dlib's embedding ``(128,)`` of the face in a box (:class:`~asymtalker.evaluate.measure.faces.DetectedFace`)."""
    assert networks.dlib_points is not None
    assert networks.dlib_face is not None
    return embed_face(networks.dlib_points, networks.dlib_face, picture, portrait_box(box))


def _of_portrait(
    portrait: np.ndarray | UserError | None,
    first: np.ndarray,
    measured: dict[str, np.ndarray],
    networks: Networks,
    notes: list[str],
) -> dict[str, np.ndarray]:
    """What a clip is held against of the largest face of its portrait, or of its own first frame: the embeddings of
    the recognition networks at hand, and how sharp it is."""
    if portrait is None:
        notes.append("compared with its own first frame: there is no portrait")
    picture = first if portrait is None else portrait
    faces = [] if isinstance(picture, UserError) else (networks.yunet or mesh_faces)(picture)
    if isinstance(picture, UserError) or not faces:
        why = str(picture) if isinstance(picture, UserError) else "no face found in the portrait"
        notes.append(f"identity and sharpness are not measured: {why}")
        return {}
    largest = max(faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
    arrays = {}
    if "sharpness" in measured:
        sharpness = portrait_sharpness(picture, float(measured["face_scale"]))
        arrays |= {} if sharpness is None else {"portrait_sharpness": np.array(sharpness)}
    if networks.arcface is not None and largest.points is not None:
        arrays["portrait"] = embed_faces(networks.arcface, align_face(picture, largest.points)[None])[0]
    if networks.has_dlib:
        arrays["portrait_face"] = dlib_embedding(networks, picture, largest.box)
    return arrays
