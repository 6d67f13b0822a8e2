"""Do lips and sound belong together? SyncNet's confidence and distance, computed as they were published.

In three parts: :class:`SyncFeatures` makes the embeddings of a clip while its frames pass, the embeddings may be kept,
and :func:`sync_score` is the formula. The scores of a clip's lips with another clip's sound (the chance level) are
``sync_score(one["lips"], other["sound"])``.

Source: ``run_pipeline.py`` and ``SyncNetInstance.py`` of github.com/joonson/syncnet_python. It writes the crops as
JPEG and MPEG-4 files and reads them back, which is left out here.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import python_speech_features
import torch
from scipy.signal import medfilt

from asymtalker.models.syncnet import LIPS_SIZE, SOUND_SHAPE, WINDOW_FRAMES, SyncNet
from asymtalker.timeline import SAMPLE_RATE, SAMPLES_PER_FRAME

SMOOTHING = 13
"""Frames of the median filter on the middle and the size of the face box."""
MIN_FRAMES = SMOOTHING
"""A clip needs as many frames, and sound as long."""
CROP_SCALE = 0.4
"""Margin of the crop beside and below the face box, in sides of the box; none above."""
PADDING = 110
"""Grey outside the frame."""
MAX_OFFSET = 15
"""Frames that sound and picture are shifted against each other, to both sides."""
BATCH = 16
"""Windows embedded at once."""
CEPSTRUM_SAMPLES, CEPSTRUM_STEP = 400, 160
"""python_speech_features' own window and step: 25 ms and 10 ms."""
EMPHASIS = 0.97
"""python_speech_features' own pre-emphasis."""


@dataclass(frozen=True)
class SyncScore:
    """How well lips and sound of a clip go together.

    Attributes:
        confidence: median minus least of the mean distances over all offsets; near 0 for lips and sound that have
            nothing to do with each other, about 7 for real speakers.
        distance: the least of the mean distances.
        offset: frames at which it is reached: positive where the picture is late (what is heard at frame ``t`` is
            seen at ``t + offset``), negative where the sound is late, 0 where they agree.
    """

    confidence: float
    distance: float
    offset: int


def sync_score(lips: np.ndarray, sound: np.ndarray, max_offset: int = MAX_OFFSET) -> SyncScore:
    """Compare the embeddings of lips and sound ``(W, C)`` at all offsets.

    Beyond its ends the sound is continued with zeros, as published, so that in short clips much is compared with
    zeros: scores go together only with those of clips of like length. If lips and sound differ in length, what both
    have is compared.

    Raises:
        ValueError: if one is empty or they differ in width.
    """
    count = min(len(lips), len(sound))
    if not count or lips.shape[1:] != sound.shape[1:]:
        raise ValueError(f"need two lists of embeddings of one width, got {lips.shape} and {sound.shape}")
    lips = lips[:count]
    padded = np.pad(sound[:count], ((max_offset, max_offset), (0, 0)))
    # (2 max_offset + 1, W): row k compares lips at i with sound at i + k - max_offset. PyTorch's pairwise_distance,
    # which the published code calls, adds 1e-6 to differences.
    shifts = range(2 * max_offset + 1)
    distances = np.stack([np.linalg.norm(lips - padded[k : k + count] + 1e-6, axis=1) for k in shifts])
    means = distances.mean(axis=1, dtype=np.float64)
    best = int(np.argmin(means))
    confidence = float(np.median(means) - means[best])
    return SyncScore(confidence, float(means[best]), max_offset - best)


class HasBoxes(Protocol):
    """A face's way through a clip."""

    @property
    def boxes(self) -> np.ndarray:
        """``(F, 4)``: left, top, right, bottom in pixels, forehead to chin."""
        ...


class SyncFeatures:
    """Makes the embeddings of one clip of 25 FPS while its frames pass; keeps no more frames than one batch.

    Window ``i`` is frames ``i`` to ``i + 4`` and the 0.2 s of sound from the start of frame ``i``; there are
    ``W = min(F, whole frames of sound) - 5``, one less than would fit into the frames, since the last steps of the
    cepstrum are missing there.

    Args:
        track: the face's boxes in all ``F`` frames of the clip.
        samples: ``(n,)`` float in [-1, 1] at 16 kHz, from the first frame on.
        syncnet: in evaluation mode; embeddings are made on the device that it is on.

    Raises:
        ValueError: if frames or sound are shorter than ``MIN_FRAMES`` frames.
    """

    def __init__(self, track: HasBoxes, samples: np.ndarray, syncnet: SyncNet):
        both = min(len(track.boxes), len(samples) // SAMPLES_PER_FRAME)
        if both < MIN_FRAMES:
            raise ValueError(f"a clip needs {MIN_FRAMES} frames with sound, this one has {both}")
        self.num_windows = both - WINDOW_FRAMES
        self._places = smooth_places(track.boxes)
        self._samples = samples
        self._syncnet = syncnet
        self._device = next(syncnet.parameters()).device
        self._seen = 0
        self._crops: list[np.ndarray] = []
        self._lips: list[np.ndarray] = []

    def add(self, frames: np.ndarray) -> None:
        """The next frames ``(n, H, W, 3)`` uint8 of the clip, however many.

        Raises:
            ValueError: if the clip has more frames than its track.
        """
        if self._seen + len(frames) > len(self._places):
            raise ValueError(f"{self._seen + len(frames)} frames for a track of {len(self._places)}")
        for frame in frames:
            if self._seen < self.num_windows + WINDOW_FRAMES - 1:  # what follows is in no window
                self._crops.append(crop_lips(frame, *self._places[self._seen]))
            self._seen += 1
            if len(self._crops) == BATCH + WINDOW_FRAMES - 1:
                self._embed_lips()

    def finish(self) -> dict[str, np.ndarray]:
        """The embeddings, ``{"lips": (W, 1024), "sound": (W, 1024)}`` float32, when all frames were added.

        Raises:
            ValueError: if frames are missing.
        """
        if self._seen != len(self._places):
            raise ValueError(f"only {self._seen} frames for a track of {len(self._places)}")
        if len(self._crops) >= WINDOW_FRAMES:
            self._embed_lips()
        return {"lips": np.concatenate(self._lips), "sound": self._embed_sound()}

    @torch.inference_mode()
    def _embed_lips(self) -> None:
        crops = torch.from_numpy(np.stack(self._crops)).to(self._device)  # (n, 224, 224, 3)
        self._lips.append(self._syncnet.embed_lips(crops.permute(0, 3, 1, 2).float()).cpu().numpy())
        self._crops = self._crops[-(WINDOW_FRAMES - 1) :]  # these are also in windows that are to come

    @torch.inference_mode()
    def _embed_sound(self) -> np.ndarray:
        parts = []
        for first in range(0, self.num_windows, BATCH):
            cepstra = cepstrum_windows(self._samples, first, min(BATCH, self.num_windows - first))
            parts.append(self._syncnet.embed_sound(torch.from_numpy(cepstra).to(self._device)).cpu().numpy())
        return np.concatenate(parts)


def smooth_places(boxes: np.ndarray) -> np.ndarray:
    """Boxes ``(F, 4)`` to ``(F, 3)`` float64: x and y of the middle and half the longer side, filtered along time.

    Like the published code's, the median filter takes zeros beyond the ends, so ``F`` must be 7 or more.
    """
    left, top, right, bottom = boxes.astype(np.float64).T
    places = (left + right) / 2, (top + bottom) / 2, np.maximum(bottom - top, right - left) / 2
    return np.stack([medfilt(values, SMOOTHING) for values in places], axis=1)


def crop_lips(frame: np.ndarray, x: float, y: float, half: float) -> np.ndarray:
    """What SyncNet sees of a frame: the face with much room below, grey outside the frame.

    Args:
        frame: ``(H, W, 3)`` uint8 RGB.
        x: middle of the face box.
        y: middle of the face box.
        half: half its longer side, in pixels like the others.

    Returns:
        ``(224, 224, 3)`` uint8, in BGR.
    """
    below, beside = half * (1 + 2 * CROP_SCALE), half * (1 + CROP_SCALE)
    margin = int(below)
    padded = cv2.copyMakeBorder(frame, *[margin] * 4, cv2.BORDER_CONSTANT, value=[PADDING] * 3)
    x, y = x + margin, y + margin
    crop = padded[int(y - half) : int(y + below), int(x - beside) : int(x + beside)]
    return cv2.resize(crop, (LIPS_SIZE, LIPS_SIZE))[..., ::-1]


def cepstrum_windows(samples: np.ndarray, first: int, count: int) -> np.ndarray:
    """Cepstral coefficients of the windows ``first`` to ``first + count - 1``, as cut from those of the whole sound.

    Only the samples that they need are looked at, so that the memory for it does not grow with the sound's length.

    Args:
        samples: ``(n,)`` float in [-1, 1] at 16 kHz; taken as 16-bit integers, in whose scale SyncNet was trained.
        first: window to begin with; window ``i`` begins at sample ``640 i``.
        count: of windows.

    Returns:
        ``(count, 13, 20)`` float32, time last.
    """
    steps_per_frame, steps = SAMPLES_PER_FRAME // CEPSTRUM_STEP, SOUND_SHAPE[1]
    needed = steps_per_frame * (count - 1) + steps
    start = first * SAMPLES_PER_FRAME
    stop = start + CEPSTRUM_STEP * (needed - 1) + CEPSTRUM_SAMPLES
    piece = samples[max(0, start - 1) : stop].astype(np.float64)
    piece = np.clip(np.round(piece * 32768), -32768, 32767)
    # The filter looks one sample back, also from the piece's first sample; so it is applied here, on one sample more.
    before = piece[:-1] if start else np.concatenate([[0.0], piece[:-1]])
    emphasised = piece[len(piece) - len(before) :] - EMPHASIS * before
    cepstra = python_speech_features.mfcc(emphasised, SAMPLE_RATE, preemph=0).T.astype(np.float32)  # (13, needed)
    return np.stack([cepstra[:, steps_per_frame * i : steps_per_frame * i + steps] for i in range(count)])
