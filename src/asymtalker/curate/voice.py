"""Stage 6: the clean voice: sound that is early or late put right, noise taken out, brought to one loudness."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import av
import av.filter
import numpy as np

from asymtalker.curate.corruption import BLOCK, block_levels
from asymtalker.curate.framed import FramedClip
from asymtalker.curate.recipe import Recipe
from asymtalker.media.atomic import atomic_path
from asymtalker.media.wav import encode_wav
from asymtalker.timeline import SAMPLE_RATE

PEAK = 0.98
"""No sample is louder, whatever loudness is asked for."""
ABOVE_FLOOR = 3.0
"""Decibels by which the denoiser's noise floor is set above the level of a clip's pauses."""
SHORTEST = 0.4
"""Seconds: what loudness is measured over (ITU-R BS.1770)."""


def clean_voice(
    clip: FramedClip, recipe: Recipe, late: float, separate: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, Any]:
    """Write the voice, :func:`voice_file`, of sound that comes ``late`` frames after the picture; returns ``loudness``
    before and ``gain`` in decibels. ``separate`` takes what is no voice out of sound ``(N,)``."""
    samples = clip.moved_sound(late)
    if separate is not None:
        samples = separate(samples)
    if recipe.denoise:
        samples = denoised(samples)
    before = loudness(samples)
    gain = 0.0 if recipe.loudness is None else gain_to(samples, before, recipe.loudness)
    samples = samples * 10 ** (gain / 20)
    with atomic_path(clip.folder / voice_file(separate is not None)) as partial:
        partial.write_bytes(encode_wav(samples.astype(np.float32)))
    return {"loudness": before, "gain": gain, "moved": late}


def voice_file(is_separated: bool) -> str:
    """Name of the clean voice in a clip's folder."""
    return "separated.wav" if is_separated else "voice.wav"


def denoised(samples: np.ndarray) -> np.ndarray:
    """Sound ``(N,)`` at 16 kHz without rumble and steady noise, by FFmpeg's ``afftdn``; as long as before, and not a
    sample late."""
    late = _filter_delay()
    floor = (
        20 * np.log10(max(1e-6, float(np.percentile(block_levels(samples), 10)))) if len(samples) > BLOCK else -80.0
    )
    return _filtered(np.pad(samples, (0, late)), floor + ABOVE_FLOOR)[late:]


@cache
def _filter_delay() -> int:
    """Samples by which the filters' output is late, which they don't tell."""
    rng = np.random.default_rng(0)
    loud = np.repeat(rng.uniform(size=40) > 0.5, 400).astype(np.float32)
    given = 0.3 * loud * rng.standard_normal(len(loud)).astype(np.float32)
    spectrum = np.fft.rfft(_filtered(given, -80.0), 2 * len(given)) * np.conj(np.fft.rfft(given, 2 * len(given)))
    return int(np.fft.irfft(spectrum)[: len(given)].argmax())


def _filtered(samples: np.ndarray, floor: float) -> np.ndarray:
    """Without what is below 60 Hz, and 20 dB less of noise of a level of ``floor`` dB."""
    graph = av.filter.Graph()
    source = graph.add_abuffer(
        sample_rate=SAMPLE_RATE, format="flt", layout="mono", time_base=Fraction(1, SAMPLE_RATE)
    )
    chain = [
        source,
        graph.add("highpass", "f=60"),
        graph.add("afftdn", f"nr=20:nf={min(-20.0, max(-80.0, floor)):.1f}"),
        graph.add("aformat", f"sample_fmts=flt:sample_rates={SAMPLE_RATE}:channel_layouts=mono"),
        graph.add("abuffersink"),
    ]
    for one, other in pairwise(chain):
        one.link_to(other)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None], np.float32), format="flt", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
    chain[0].push(frame)
    chain[0].push(None)
    parts: list[np.ndarray] = []
    while True:
        try:
            parts.append(chain[-1].pull().to_ndarray().ravel())  # type: ignore[union-attr]
        except (av.error.BlockingIOError, av.error.EOFError):
            break
    found = np.concatenate([np.zeros(0, np.float32), *parts])[: len(samples)]
    return np.pad(found, (0, len(samples) - len(found)))


def loudness(samples: np.ndarray) -> float:
    """Integrated loudness in LUFS, -70 of silence and of sound that is too short."""
    import pyloudnorm

    if len(samples) < SHORTEST * SAMPLE_RATE + 1:
        return -70.0
    with np.errstate(divide="ignore"):
        return max(-70.0, float(pyloudnorm.Meter(SAMPLE_RATE).integrated_loudness(samples.astype(np.float64))))


def gain_to(samples: np.ndarray, before: float, wanted: float) -> float:
    """Decibels that bring sound of loudness ``before`` to what is ``wanted``, or as near as its peaks allow."""
    if before <= -70:
        return 0.0
    peak = float(np.abs(samples).max(initial=0.0))
    most = 20 * np.log10(PEAK / peak) if peak else 0.0
    return float(min(wanted - before, most))
