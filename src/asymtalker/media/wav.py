"""WAV files of 16 kHz mono PCM16, as corpora hold them. Those of others are read by :mod:`asymtalker.media.sound`."""

import io
import wave
from pathlib import Path

import numpy as np

from asymtalker.media.sound import window
from asymtalker.timeline import SAMPLE_RATE


def encode_wav(samples: np.ndarray) -> bytes:
    """16 kHz mono PCM16 of float samples in [-1, 1]."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def decode_wav(data: bytes) -> np.ndarray:
    """Samples ``(N,)`` float32 in [-1, 1] of :func:`encode_wav`."""
    with wave.open(io.BytesIO(data)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32767


def read_wav(path: Path, start: int, stop: int) -> np.ndarray:
    """Samples ``[start, stop)`` of a WAV file of 16 kHz, float32 in [-1, 1]; silence outside."""
    with wave.open(str(path), "rb") as file:
        assert file.getframerate() == SAMPLE_RATE
        begin, end = (min(max(0, place), file.getnframes()) for place in (start, stop))
        file.setpos(begin)
        samples = np.frombuffer(file.readframes(end - begin), "<i2").astype(np.float32) / 32767
    return window(samples, start - begin, stop - begin)
