"""Stages 5 to 7, published networks: what they say and make of a clip, where a recipe wants them and their weights are
at hand.

They come through :mod:`asymtalker.media.registry`; a clip is seen by each once and never again. DWPose is run by ONNX
Runtime itself: rtmlib, which would do the same, installs two more builds of OpenCV over the one that is here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import soxr

from asymtalker.curate.framed import FramedClip
from asymtalker.curate.hands import EVERY, is_over
from asymtalker.curate.picture import longest
from asymtalker.media.face_mesh import OVAL
from asymtalker.media.portrait import box_of, wider_box
from asymtalker.media.registry import fetch_file
from asymtalker.timeline import FPS, SAMPLE_RATE

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

BATCH = 64
POSE_HEIGHT, POSE_WIDTH = 384, 288
MEAN, SPREAD = np.array([[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]], np.float32)
"""Of the colours of ImageNet's pictures."""
FACE_POINTS, HANDS = range(23, 91), (range(91, 112), range(112, 133))
"""Of the 133 points of COCO-WholeBody."""
SURE_POINT = 0.3
MISSING = 0.25
"""Share of the face's points that are unsure in a frame in which they count as missing."""
PARSE_SIDE = 512
FACE_PARTS = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13)
"""Of CelebAMask-HQ's: skin, brows, eyes, glasses, nose, mouth and lips."""
TEXT_SIDE = 512
"""Pixels a side, at which letters of a thirtieth of the picture are still seen."""
TEXT_EVERY = FPS // 2
LETTERS, SURE_LETTERS, LEAST_LETTERS = 0.3, 0.5, 0.001
"""How likely a pixel has to be letters, and those of one line on average; and the share of the picture from which on
they count."""
LINE, LINE_ON_FACE = 3.0, 4.5
"""How many times longer than high a line is at least; on faces the network takes noses for letters."""
MDX_RATE, MDX_FFT, MDX_HOP, MDX_BINS, MDX_STEPS = 44_100, 7_680, 1_024, 3_072, 256
MDX_GAIN = 1.009
"""Of Kim Vocal 2, by Ultimate Vocal Remover's table."""


@dataclass(frozen=True)
class _Boxes:
    boxes: np.ndarray


@cache
def _syncnet() -> Any:
    import torch

    from asymtalker.models.syncnet import load_syncnet

    return load_syncnet(fetch_file("syncnet", offline=True)).to("cuda" if torch.cuda.is_available() else "cpu")


def normalised(pictures: np.ndarray) -> np.ndarray:
    """Pictures ``(..., 3)`` in [0, 255] as networks want them that began with ImageNet's, float32."""
    return ((pictures - MEAN) / SPREAD).astype(np.float32)


def onnx_session(path: str | Path) -> "InferenceSession":
    """An ONNX network, on a GPU if there is one, else in one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    there = onnxruntime.get_available_providers()
    wanted = [one for one in ("CUDAExecutionProvider", "CPUExecutionProvider") if one in there]
    return onnxruntime.InferenceSession(path, options, providers=wanted)


@cache
def _session(name: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    """A registered ONNX network as a function of its one input."""
    session = onnx_session(fetch_file(name, offline=True))
    (given,) = session.get_inputs()
    return lambda values: [np.asarray(output) for output in session.run(None, {given.name: values})]


def syncnet_scores(clip: FramedClip) -> dict[str, Any]:
    """SyncNet's ``sync_confidence``, ``sync_distance`` and ``sync_offset`` (eq. 22), as published."""
    from asymtalker.models.sync import SyncFeatures, sync_score

    boxes = _Boxes(np.stack([wider_box(box_of(mesh)) for mesh in clip.filled]))
    features = SyncFeatures(boxes, clip.sound, _syncnet())
    for batch in _batches(clip):
        features.add(batch)
    found = features.finish()
    score = sync_score(found["lips"], found["sound"])
    return {"sync_confidence": score.confidence, "sync_distance": score.distance, "sync_offset": score.offset}


def _batches(clip: FramedClip) -> Iterator[np.ndarray]:
    batch: list[np.ndarray] = []
    for frame in clip.frames():
        batch.append(frame)
        if len(batch) == BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def pose_scores(clip: FramedClip) -> dict[str, Any]:
    """What DWPose says: ``points_missing``, the share of frames in which many of the face's points are unsure, and
    ``pose_hands``, the longest time in seconds for which its hands are over the face."""
    missing, over = [], []
    for number, (frame, mesh) in enumerate(zip(clip.frames(), clip.filled, strict=True)):
        if number % EVERY == 0:
            points, sure = whole_body(_session("dwpose"), frame)
            missing.append(float((sure[list(FACE_POINTS)] < SURE_POINT).mean()) > MISSING)
            hands = [points[list(hand)][sure[list(hand)] >= SURE_POINT] for hand in HANDS]
            over.append(any(is_over(hand, mesh) for hand in hands))
    return {"points_missing": float(np.mean(missing)), "pose_hands": longest(np.array(over)) * EVERY / FPS}


def whole_body(network: Callable[[np.ndarray], list[np.ndarray]], frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 133 points ``(133, 2)`` of the person in a picture ``(H, W, 3)`` uint8, in its pixels, and how sure each is
    ``(133,)``.

    Args:
        network: DWPose: ``(1, 3, 384, 288)`` to how likely each half pixel of a row and of a column is.
        frame: is seen whole.
    """
    height, width = frame.shape[:2]
    scale = min(POSE_HEIGHT / height, POSE_WIDTH / width)
    shift = (POSE_WIDTH - scale * width) / 2, (POSE_HEIGHT - scale * height) / 2
    place = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    seen = cv2.warpAffine(frame, place, (POSE_WIDTH, POSE_HEIGHT)).astype(np.float32)
    across, down = network(normalised(seen).transpose(2, 0, 1)[None])
    found = np.stack([across[0].argmax(-1), down[0].argmax(-1)], -1) / 2
    return (found - shift) / scale, np.minimum(across[0].max(-1), down[0].max(-1))


def parsed_mask(frame: np.ndarray) -> np.ndarray:
    """The face in a picture ``(S, S, 3)`` uint8 as BiSeNet parses it: ``(S, S)`` uint8, face = 255."""
    return parse_face(_session("bisenet"), frame)


def parse_face(network: Callable[[np.ndarray], list[np.ndarray]], frame: np.ndarray) -> np.ndarray:
    """See :func:`parsed_mask`; ``network`` takes ``(1, 3, 512, 512)`` to ``(1, 19, 512, 512)``."""
    seen = cv2.resize(frame, (PARSE_SIDE, PARSE_SIDE)).astype(np.float32)
    parts = network(normalised(seen).transpose(2, 0, 1)[None])[0][0].argmax(0)
    face = np.isin(parts, FACE_PARTS).astype(np.uint8) * 255
    return cv2.resize(face, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def text_scores(clip: FramedClip) -> dict[str, float]:
    """``text``, the longest time in seconds for which letters are seen, of two frames a second."""
    seen = [
        letters_share(_session("text"), frame, mesh) >= LEAST_LETTERS
        for number, (frame, mesh) in enumerate(zip(clip.frames(), clip.filled, strict=True))
        if number % TEXT_EVERY == 0
    ]
    return {"text": longest(np.array(seen)) * TEXT_EVERY / FPS}


def letters_share(network: Callable[[np.ndarray], list[np.ndarray]], frame: np.ndarray, mesh: np.ndarray) -> float:
    """The share of a picture ``(S, S, 3)`` uint8, with a face ``(478, 3)`` in it, that is lines of letters.

    ``network`` takes ``(1, 3, 512, 512)``, in BGR and [-1, 1], to how likely each pixel is the inner part of a line of
    text (PP-OCR's DB, Liao and others 2020).
    """
    outline = (mesh[list(OVAL), :2] * TEXT_SIDE / len(frame)).astype(np.float32)
    seen = cv2.resize(frame, (TEXT_SIDE, TEXT_SIDE), interpolation=cv2.INTER_CUBIC)[..., ::-1].astype(np.float32)
    likely = network((seen / 127.5 - 1).transpose(2, 0, 1)[None])[0][0, 0]
    count, lines, boxes, middles = cv2.connectedComponentsWithStats((likely > LETTERS).astype(np.uint8))
    found = 0
    for number in range(1, count):
        _, _, width, height, pixels = boxes[number].tolist()
        on_face = cv2.pointPolygonTest(outline, middles[number].tolist(), False) >= 0
        if width >= (LINE_ON_FACE if on_face else LINE) * height and likely[lines == number].mean() >= SURE_LETTERS:
            found += pixels
    return found / TEXT_SIDE**2


def separated(samples: np.ndarray) -> np.ndarray:
    """The voice in sound ``(N,)`` at 16 kHz, without music, by Kim Vocal 2; as long as before."""
    return separate_voice(_session("separation"), samples)


def separate_voice(network: Callable[[np.ndarray], list[np.ndarray]], samples: np.ndarray) -> np.ndarray:
    """See :func:`separated`; ``network`` takes spectra ``(1, 4, 3072, 256)``, real and imaginary parts of two
    channels, to those of the voice. Pieces of 6 s overlap by a half and are faded into each other."""
    import torch

    sound = soxr.resample(samples, SAMPLE_RATE, MDX_RATE)
    length = MDX_HOP * (MDX_STEPS - 1)
    window, fade = torch.hann_window(MDX_FFT), np.hanning(length + 1)[:-1].astype(np.float32)
    padded = np.pad(sound, (length // 2, length)).astype(np.float32)
    voice = np.zeros_like(padded)
    for start in range(0, len(padded) - length + 1, length // 2):
        piece = torch.from_numpy(padded[start : start + length])
        spectrum = torch.stft(piece, MDX_FFT, MDX_HOP, window=window, return_complex=True)[:MDX_BINS]  # (3072, 256)
        both = torch.stack([spectrum.real, spectrum.imag] * 2)[None].numpy()
        made = torch.from_numpy(network(both)[0])[0].reshape(2, 2, MDX_BINS, MDX_STEPS).mean(0)
        whole = torch.zeros(MDX_FFT // 2 + 1, MDX_STEPS, dtype=torch.complex64)
        whole[:MDX_BINS] = torch.complex(made[0], made[1])
        voice[start : start + length] += (
            fade * torch.istft(whole, MDX_FFT, MDX_HOP, window=window, length=length).numpy()
        )
    found = soxr.resample(MDX_GAIN * voice[length // 2 :][: len(sound)], MDX_RATE, SAMPLE_RATE)[: len(samples)]
    return np.pad(found, (0, len(samples) - len(found))).astype(np.float32)
