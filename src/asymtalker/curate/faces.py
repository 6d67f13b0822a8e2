"""Stage 4: everyone's face through a span of a video, and a crop of the video around it, one clip each."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.dataset.corpus import video_writer
from asymtalker.errors import UserError
from asymtalker.media.face_mesh import SURE, Face, find_face, read_face
from asymtalker.media.portrait import FACE_SHARE, FaceBox, Placement, box_of, crop_frame, find_faces
from asymtalker.media.video import picture_of, resample_frames, timed_frames
from asymtalker.media.wav import encode_wav
from asymtalker.timeline import FPS, SAMPLES_PER_FRAME

LOOK_EVERY = 25
"""Frames after which others than those followed are looked for."""
SMOOTH = 25
"""Frames over which a crop that follows a face is smoothed, to both sides."""
LEAST_SHOWN = 0.5
"""Share of the frames below which someone is passing by and gets no clip."""
LEAP = 0.75
"""Widths of a face that it does not cover from one frame to the next: then it is someone else's."""


@dataclass
class FaceTrack:
    """One face through ``F`` frames: its mesh in each, ``None`` where it is lost."""

    meshes: list[Face | None] = field(default_factory=list)
    _last: Face | None = None

    def follow(self, frame: np.ndarray, box: FaceBox | None = None) -> None:
        """Find the face in the next frame: where it was, or in ``box``, which was found there."""
        mesh = box.mesh if box else None
        if mesh is None and self._last is not None and self.meshes[-1] is not None:
            mesh = read_face(frame, self._last.region)
            mesh = mesh if mesh.score >= SURE and _near(self._last, mesh) else None
        self.meshes.append(mesh)
        self._last = mesh or self._last

    @property
    def lost(self) -> bool:
        return self.meshes[-1] is None

    def is_of(self, box: FaceBox) -> bool:
        """Whether a face found in this frame is the one that was seen last."""
        return self._last is not None and box.mesh is not None and _near(self._last, box.mesh, 1.5)

    @property
    def shown(self) -> float:
        """Share of the frames in which it is seen."""
        return sum(mesh is not None for mesh in self.meshes) / len(self.meshes)

    def points(self) -> np.ndarray:
        """``(F, 478, 3)`` float32 pixels; where it is lost, NaN."""
        lost = np.full((478, 3), np.nan, np.float32)
        return np.stack([lost if mesh is None else mesh.points for mesh in self.meshes])

    def scores(self) -> np.ndarray:
        """How sure the mesh is in each frame ``(F,)``, 0 where it is lost."""
        return np.array([0.0 if mesh is None else mesh.score for mesh in self.meshes], np.float32)


def _near(before: Face, now: Face, leap: float = LEAP) -> bool:
    one, other = box_of(before.points), box_of(now.points)
    apart = np.hypot(one.left + one.width / 2 - other.left - other.width / 2, one.top - other.top)
    return bool(apart < leap * max(one.width, other.width)) and 0.5 < one.width / other.width < 2


def follow_faces(frames: Iterable[np.ndarray]) -> list[FaceTrack]:
    """Everyone's face in frames ``H W 3`` uint8, largest first; those seen in less than half of them are left out."""
    tracks: list[FaceTrack] = []
    count = 0
    for count, frame in enumerate(frames):
        for track in tracks:
            track.follow(frame)
        if count % LOOK_EVERY == 0:
            boxes = find_faces(frame)
        elif all(track.lost for track in tracks) and (face := find_face(frame)):
            boxes = [_boxed(face)]
        else:
            continue
        for box in boxes:
            free = [track for track in tracks if track.lost and track.is_of(box)]
            if free:
                free[0].meshes.pop()
                free[0].follow(frame, box)
            elif not any(track.is_of(box) for track in tracks):
                tracks.append(FaceTrack([None] * count))
                tracks[-1].follow(frame, box)
    seen = [track for track in tracks if track.shown >= LEAST_SHOWN]
    return sorted(seen, key=lambda track: -float(np.median(face_boxes(track.points())[:, 2])))


def _boxed(face: Face) -> FaceBox:
    box = box_of(face.points)
    return FaceBox(box.left, box.top, box.width, box.height, face.score, face)


def face_boxes(points: np.ndarray) -> np.ndarray:
    """Middle and side ``(F, 3)`` of the face box of meshes ``(F, 478, 3)``, linear between where they are NaN."""
    known = np.flatnonzero(~np.isnan(points[:, 0, 0]))
    boxes = [box_of(points[frame]) for frame in known]
    places = np.array([[box.left + box.width / 2, box.top + box.height / 2, box.width] for box in boxes])
    return np.stack([np.interp(np.arange(len(points)), known, column) for column in places.T], 1)


def crop_path(boxes: np.ndarray, follow: float) -> np.ndarray:
    """Middle and side ``(F, 3)`` of what a crop is laid around: still, where the face stays within ``follow`` of its
    widths around its middle, else its own way, smoothed, as large as the face is at most times."""
    still = np.median(boxes, axis=0)
    strays = np.abs(boxes[:, :2] - still[:2]).max() / still[2]
    path = np.tile(still, (len(boxes), 1))
    if strays > follow:
        weights = np.exp(-0.5 * (np.arange(-2 * SMOOTH, 2 * SMOOTH + 1) / SMOOTH) ** 2)
        for axis in (0, 1):
            padded = np.pad(boxes[:, axis], 2 * SMOOTH, mode="edge")
            path[:, axis] = np.convolve(padded, weights / weights.sum(), mode="valid")
    return path


def crop_frames(frames: Iterable[np.ndarray], path: np.ndarray, side: int) -> Iterator[tuple[np.ndarray, Placement]]:
    """Each frame's crop ``(side, side, 3)`` and where it was cut out."""
    for frame, (x, y, width) in zip(frames, path.tolist(), strict=True):
        portrait = crop_frame(frame, FaceBox(x - width / 2, y - width / 2, width, width, 1.0), (side, side))
        yield portrait.picture, portrait.placement


def span_frames(video: Path, start: int, stop: int) -> Iterator[np.ndarray]:
    """Frames ``[start, stop)`` of a video at 25 FPS, each ``H W 3`` uint8; decoding begins near the first."""
    frames = timed_frames(video, max(0.0, start / FPS - 0.5))
    for frame in resample_frames(_from(frames, start), start / FPS, stop - start):
        yield picture_of(frame)


def _from(frames: Iterator[tuple[float, Any]], start: int) -> Iterator[tuple[float, Any]]:
    """Frames from the last before ``start`` on, whose time may count as the first one's."""
    before: tuple[float, Any] | None = None
    first = float(Fraction(start, FPS))
    for time, frame in frames:
        if time > first:
            if before is not None:
                yield before
                before = None
            yield time, frame
        else:
            before = time, frame
    if before is not None:
        yield before


def face_scores(points: np.ndarray, meshes: np.ndarray, shape: tuple[int, int]) -> dict[str, float]:
    """What a face's way through a span says.

    Args:
        points: ``(F, 478, 3)`` in pixels of the video, NaN where it is lost.
        meshes: how sure the mesh is ``(F,)``, 0 where it is lost.
        shape: height and width of the video.
    """
    boxes = face_boxes(points)
    found = ~np.isnan(points[:, 0, 0])
    beyond = (points[found, :, :2] < 0) | (points[found, :, :2] > (shape[1], shape[0]))
    outside = beyond.any(-1).mean(-1)
    steps = np.hypot(*np.diff(boxes[:, :2], axis=0).T) / boxes[1:, 2] if len(boxes) > 1 else np.zeros(1)
    sizes = np.abs(np.diff(np.log(boxes[:, 2]))) if len(boxes) > 1 else np.zeros(1)
    return {
        "face_visible": float(found.mean()),
        "face_pixels": float(np.median(boxes[:, 2])),
        "face_cut": float(np.percentile(outside, 90)),
        "face_score": float(np.percentile(meshes, 10)),
        "shake": float(max(steps.max(), sizes.max())),
    }


def write_clips(
    folder: Path, video: Path, sound: np.ndarray, start: int, stop: int, size: int, follow: float
) -> list[dict[str, Any]]:
    """Write into ``folder``, for everyone in frames ``[start, stop)`` of a video, ``face<n>/clip.mp4``, ``clip.wav``
    and ``points.npy`` (F, 478, 3), the mesh in pixels of the clip.

    Args:
        folder: is there.
        video: of any frame rate.
        sound: ``(640 F,)`` of the span.
        start: in frames of 25 FPS.
        stop: likewise.
        size: largest side of a clip in pixels.
        follow: see :func:`crop_path`.

    Raises:
        UserError: if the video has fewer frames there than it had.

    Returns:
        For each face its ``scores`` and ``crop`` (left, top, right, bottom of its first frame).
    """
    shape = (0, 0)

    def watched() -> Iterator[np.ndarray]:
        nonlocal shape
        for frame in span_frames(video, start, stop):
            shape = frame.shape[:2]
            yield frame

    found = []
    for number, track in enumerate(follow_faces(watched())):
        points = track.points()
        if len(points) != stop - start:
            raise UserError(f"{len(points)} of its {stop - start} frames can be read.")
        path = crop_path(face_boxes(points), follow)
        side = max(16, min(size, round(float(path[0, 2]) / FACE_SHARE) // 2 * 2))
        place = folder / f"face{number}"
        place.mkdir()
        seen = np.empty_like(points)
        first: Placement | None = None
        outside = 0.0
        with (place / "clip.mp4").open("wb") as file, video_writer(file) as write:
            frames = islice(span_frames(video, start, stop), len(points))
            for index, (picture, placement) in enumerate(crop_frames(frames, path, side)):
                write(picture)
                first = first or placement
                outside = max(outside, placement.beyond(shape))
                seen[index] = placement.seen(points[index], (side, side))
        np.save(place / "points.npy", seen)
        (place / "clip.wav").write_bytes(encode_wav(sound[: SAMPLES_PER_FRAME * len(points)]))
        assert first is not None
        crop = [first.left, first.top, first.left + first.width, first.top + first.height]
        scores = face_scores(points, track.scores(), shape) | {"outside": outside, "frames": len(points)}
        found.append({"scores": scores, "crop": crop, "size": side})
    return found
