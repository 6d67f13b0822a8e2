"""Rooms, microphones, noise and codecs for synthetic speech, so that real recordings lie inside its distribution.

Nothing here changes the length or moves a sound in time (by more than a millisecond), so phoneme times stay true.
"""

import numpy as np
from scipy import signal

from asymtalker.timeline import SAMPLE_RATE


def augment(samples: np.ndarray, rng: np.random.Generator, babble: np.ndarray | None = None) -> np.ndarray:
    """A recording of ``samples`` under random circumstances: voice, room, microphone, noise, codec, level.

    Args:
        samples: ``(N,)`` float32 in [-1, 1] at 16 kHz.
        rng: source of all choices.
        babble: ``(M,)`` other people's speech, used as one kind of noise; any length.

    Returns:
        ``(N,)`` float32 in [-1, 1].
    """
    if not len(samples):
        return samples
    out = samples.astype(np.float64)
    if rng.random() < 0.4:
        out = _wobble(out, rng)
    if rng.random() < 0.3:
        out = _breath(out, rng)
    if rng.random() < 0.5:
        out = _room(out, rng)
    if rng.random() < 0.6:
        out = _microphone(out, rng)
    if rng.random() < 0.7:
        out = out + _noise(out, rng, babble)
    if rng.random() < 0.35:
        out = _codec(out, rng)
    return _level(out, rng).astype(np.float32)


def _rms(samples: np.ndarray) -> float:
    """Root mean square of the parts that sound, 0 for silence."""
    loud = samples[np.abs(samples) > 0.02 * np.abs(samples).max(initial=0)]
    return float(np.sqrt(np.mean(loud**2))) if len(loud) else 0.0


def _smooth_noise(count: int, cutoff: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit variance that changes ``cutoff`` times a second or slower."""
    knots = max(4, int(np.ceil(count / SAMPLE_RATE * cutoff)) + 4)
    return np.interp(np.linspace(0, knots - 1, count), np.arange(knots), rng.normal(size=knots))


def _wobble(samples, rng):
    """The small unsteadiness of a living voice's pitch: times move to and fro by a fraction of a millisecond."""
    shift = _smooth_noise(len(samples), rng.uniform(4, 20), rng).clip(-2, 2) * rng.uniform(0.1, 0.4) * 1e-3
    times = np.arange(len(samples)) + shift * SAMPLE_RATE
    return np.interp(times, np.arange(len(samples)), samples)


def _breath(samples, rng):
    """Aspiration: noise over 1.5 kHz that follows the voice's envelope."""
    envelope = np.sqrt(np.maximum(signal.sosfiltfilt(_sos(30, "low"), samples**2), 0))
    hiss = signal.sosfilt(_sos(1500, "high"), rng.normal(size=len(samples)))
    return samples + hiss * envelope * rng.uniform(0.03, 0.25)


def _room(samples, rng):
    """A synthetic room: the direct sound, then exponentially decaying reflections (RT60 0.1 to 0.9 s)."""
    decay = rng.uniform(0.1, 0.9)
    times = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.normal(size=len(times)) * 10 ** (-3 * times / decay)
    response = np.asarray(signal.sosfilt(_sos(rng.uniform(2500, 7500), "low", 1), response))
    response[: int(rng.uniform(0.002, 0.012) * SAMPLE_RATE)] = 0
    response *= 10 ** (rng.uniform(-22, -1) / 20) / (np.sqrt(np.sum(response**2)) + 1e-12)
    response[0] = 1
    return signal.fftconvolve(samples, response)[: len(samples)]


def _microphone(samples, rng):
    """A smooth random frequency response of a few decibels, without delay."""
    spectrum = np.fft.rfft(samples)
    octaves = np.log2(np.linspace(1, SAMPLE_RATE / 2, len(spectrum)) / 50).clip(0)
    knots = rng.normal(0, rng.uniform(1, 6), size=9)
    gain = 10 ** (np.interp(octaves, np.linspace(0, 7.4, 9), knots) / 20)
    return np.fft.irfft(spectrum * gain, len(samples))


def _noise(samples, rng, babble):
    """White to brown noise, mains hum or other people, 5 to 40 dB under the speech (or faint, under silence)."""
    count, kind = len(samples), rng.random()
    if kind < 0.25 and babble is not None and np.any(babble):
        noise = np.resize(babble, count + len(babble))[int(rng.integers(len(babble))) :][:count].astype(np.float64)
    elif kind < 0.35:
        mains = rng.choice([50.0, 60.0])
        phase = 2 * np.pi * mains * np.arange(count) / SAMPLE_RATE
        noise = sum(rng.normal() / k * np.sin(k * phase) for k in range(1, 8)) + 0.05 * rng.normal(size=count)
    else:
        spectrum = np.fft.rfft(rng.normal(size=count))
        hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE).clip(20)
        noise = np.fft.irfft(spectrum * hertz ** -rng.uniform(0, 1), count)
        if rng.random() < 0.4:  # comes and goes
            noise *= np.exp(0.6 * _smooth_noise(count, rng.uniform(0.5, 4), rng))
    speech = _rms(samples)
    wanted = speech * 10 ** (-rng.uniform(5, 40) / 20) if speech else 10 ** (rng.uniform(-70, -35) / 20)
    return noise * wanted / (np.sqrt(np.mean(np.square(noise))) + 1e-12)


def _codec(samples, rng):
    """Telephone band with or without mu-law, a low-pass, or the holes that low bit rates leave in the spectrum."""
    kind = rng.integers(4)
    if kind == 0:
        return signal.sosfiltfilt(_sos(rng.uniform(2800, 7500), "low"), samples)
    if kind == 1:
        band = _sos((rng.uniform(150, 350), rng.uniform(3000, 3800)), "band")
        return signal.sosfiltfilt(band, samples)
    if kind == 2:
        band = _sos((200, 3400), "band")
        narrow = signal.sosfiltfilt(band, samples)
        peak = np.abs(narrow).max() + 1e-9
        law = np.sign(narrow) * np.log1p(255 * np.abs(narrow) / peak) / np.log(256)
        law = np.round(law * 127) / 127
        return np.sign(law) * np.expm1(np.abs(law) * np.log(256)) / 255 * peak
    _, _, spectrum = signal.stft(samples, SAMPLE_RATE, nperseg=min(512, len(samples)))
    magnitude = np.abs(spectrum)
    floor = magnitude.max(axis=0, keepdims=True) * 10 ** (-rng.uniform(30, 50) / 20)
    _, out = signal.istft(np.where(magnitude < floor, 0, spectrum), SAMPLE_RATE, nperseg=min(512, len(samples)))
    return np.resize(out, len(samples)) if len(out) >= len(samples) else np.pad(out, (0, len(samples) - len(out)))


def _level(samples, rng):
    """A recording level of -30 to -1 dB at the peak; one in ten is driven into clipping."""
    peak = np.abs(samples).max()
    if peak == 0:
        return samples
    limit = 10 ** (rng.uniform(-30, -1) / 20)
    scaled = samples * limit / peak
    if rng.random() < 0.1:
        return np.clip(scaled * rng.uniform(1.2, 3), -limit, limit)
    return scaled


def _sos(hertz: float | tuple[float, float], kind: str, order: int = 2) -> np.ndarray:
    return np.asarray(signal.butter(order, hertz, kind, fs=SAMPLE_RATE, output="sos"))
