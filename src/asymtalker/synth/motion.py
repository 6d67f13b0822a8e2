"""The motion of a talking head from phonemes and loudness: ARKit blendshape weights and head pose at 25 FPS.

The mouth follows the dominance model of coarticulation (Cohen and Massaro, 1993): each phoneme pulls every channel
towards its own target with a weight that falls off exponentially in time, and the channel is the weighted mean. What
must happen whatever the neighbours do, the closure of the lips for p, b, m and in silence, overrides the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from asymtalker.synth.mesh import BLENDSHAPES
from asymtalker.synth.phonemes import SILENCE, phoneme_class
from asymtalker.synth.speech import Speech
from asymtalker.timeline import FPS, SAMPLE_RATE

MOUTH = {
    "jaw": ("jawOpen",),
    "forward": ("jawForward",),
    "funnel": ("mouthFunnel",),
    "pucker": ("mouthPucker",),
    "lower": ("mouthLowerDownLeft", "mouthLowerDownRight"),
    "upper": ("mouthUpperUpLeft", "mouthUpperUpRight"),
    "stretch": ("mouthStretchLeft", "mouthStretchRight"),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "press": ("mouthPressLeft", "mouthPressRight"),
    "roll_lower": ("mouthRollLower",),
    "roll_upper": ("mouthRollUpper",),
    "tongue": ("tongueOut",),
}
"""Channels of the mouth model and the blendshapes each one drives."""
CHANNELS = tuple(MOUTH)

_T = {"jaw": 0.13, "lower": 0.2, "upper": 0.12}
_S = {"jaw": 0.05, "lower": 0.3, "upper": 0.2, "stretch": 0.22}
_SH = {"jaw": 0.09, "funnel": 0.5, "pucker": 0.3, "upper": 0.2, "lower": 0.2, "forward": 0.15}
_K = {"jaw": 0.18, "lower": 0.15, "upper": 0.06}
_B = {"jaw": 0.09, "press": 0.25, "roll_lower": 0.14, "roll_upper": 0.1}
_F = {"jaw": 0.08, "roll_lower": 0.5, "upper": 0.24}
_TH = {"jaw": 0.16, "lower": 0.2, "upper": 0.1, "tongue": 0.25}

TARGETS: dict[str, dict[str, float]] = {
    SILENCE: {"jaw": 0.02},
    "i": {"jaw": 0.13, "lower": 0.28, "upper": 0.18, "stretch": 0.32, "smile": 0.2},
    "ɪ": {"jaw": 0.19, "lower": 0.25, "upper": 0.15, "stretch": 0.22, "smile": 0.1},
    "e": {"jaw": 0.25, "lower": 0.28, "upper": 0.15, "stretch": 0.26, "smile": 0.12},
    "ɛ": {"jaw": 0.33, "lower": 0.3, "upper": 0.15, "stretch": 0.18},
    "æ": {"jaw": 0.43, "lower": 0.34, "upper": 0.2, "stretch": 0.22},
    "a": {"jaw": 0.5, "lower": 0.3, "upper": 0.14},
    "ɑ": {"jaw": 0.52, "lower": 0.25, "upper": 0.1},
    "ɔ": {"jaw": 0.38, "funnel": 0.4, "pucker": 0.2, "lower": 0.1},
    "o": {"jaw": 0.29, "funnel": 0.4, "pucker": 0.45},
    "ʊ": {"jaw": 0.2, "funnel": 0.3, "pucker": 0.45},
    "u": {"jaw": 0.14, "funnel": 0.3, "pucker": 0.75},
    "y": {"jaw": 0.12, "funnel": 0.35, "pucker": 0.75},
    "ø": {"jaw": 0.25, "funnel": 0.4, "pucker": 0.5},
    "ʌ": {"jaw": 0.36, "lower": 0.2, "upper": 0.1},
    "ə": {"jaw": 0.23, "lower": 0.16, "upper": 0.08},
    "ɜ": {"jaw": 0.25, "funnel": 0.2, "pucker": 0.15, "lower": 0.15},
    **dict.fromkeys(("p", "b", "m"), _B),
    **dict.fromkeys(("f", "v"), _F),
    **dict.fromkeys(("θ", "ð"), _TH),
    **dict.fromkeys(("t", "d", "n"), _T),
    **dict.fromkeys(("s", "z", "ts"), _S),
    **dict.fromkeys(("ʃ", "ʒ", "tʃ", "dʒ"), _SH),
    **dict.fromkeys(("k", "ɡ", "ŋ"), _K),
    "w": {"jaw": 0.12, "funnel": 0.25, "pucker": 0.85},
    "l": {"jaw": 0.21, "lower": 0.22, "upper": 0.12, "tongue": 0.05},
    "ɹ": {"jaw": 0.15, "funnel": 0.3, "pucker": 0.35},
    "r": {"jaw": 0.18, "lower": 0.15, "upper": 0.08},
    "j": {"jaw": 0.13, "lower": 0.22, "upper": 0.14, "stretch": 0.25},
    "x": {"jaw": 0.22, "lower": 0.15, "upper": 0.05},
}
"""What each phoneme class wants of each channel when it is alone and loud; a channel not named is wanted at 0."""

GLIDES = {"aɪ": ("a", "ɪ"), "aʊ": ("a", "ʊ"), "eɪ": ("e", "ɪ"), "oʊ": ("o", "u"), "ɔɪ": ("ɔ", "ɪ"), "pf": ("p", "f")}
"""Phonemes that are two shapes, one after the other."""

# How strongly a phoneme class insists on (jaw, rounding, lip opening, contact): vowels on the jaw, sibilants on a
# closed jaw, labials on their contact; tongue consonants leave rounding to the vowels around them.
_GROUPS = {
    **dict.fromkeys(("jaw", "forward"), 0),
    **dict.fromkeys(("funnel", "pucker", "stretch", "smile"), 1),
    **dict.fromkeys(("lower", "upper"), 2),
    **dict.fromkeys(("press", "roll_lower", "roll_upper", "tongue"), 3),
}
_VOWEL_DOMINANCE = (1.0, 0.8, 0.8, 0.6)
_DOMINANCE = {
    SILENCE: (0.9, 0.6, 0.9, 0.6),
    **dict.fromkeys(("o", "ʊ", "u", "y", "ø", "ɔ"), (1.0, 1.2, 0.8, 0.6)),
    **dict.fromkeys(("p", "b", "m"), (0.5, 0.15, 0.4, 1.5)),
    **dict.fromkeys(("f", "v"), (1.3, 0.4, 1.0, 3.0)),
    **dict.fromkeys(("θ", "ð"), (0.8, 0.15, 0.5, 2.0)),
    **dict.fromkeys(("t", "d", "n", "l", "r", "j"), (0.6, 0.12, 0.5, 0.7)),
    **dict.fromkeys(("k", "ɡ", "ŋ"), (0.4, 0.08, 0.3, 0.6)),
    **dict.fromkeys(("s", "z", "ts"), (1.6, 0.3, 0.8, 0.7)),
    **dict.fromkeys(("ʃ", "ʒ", "tʃ", "dʒ"), (1.4, 1.2, 0.8, 0.7)),
    "w": (1.0, 2.0, 0.9, 0.6),
    "ɹ": (0.6, 0.8, 0.5, 0.6),
    "x": (0.15, 0.06, 0.15, 0.5),
}
# Falling-off rate of the dominance, 1/s, before and after the phoneme: rounding begins earliest.
_RISE = np.array([18.0, 9.0, 18.0, 26.0])
_FALL = np.array([18.0, 15.0, 18.0, 26.0])

CLOSURE_SECONDS = 0.046
"""Least time that a p, b or m keeps the lips shut: longer than a frame, so that no closure falls between two."""
MOUTH_BLOCK = 60 * FPS
"""Frames of the mouth that are worked out together."""
MOUTH_REACH = 20.0
"""Seconds beyond a block: the dominance of phonemes farther away is nothing beside the floor that all have."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one person moves in one clip."""

    jaw: float = 1.0
    rounding: float = 1.0
    lips: float = 1.0
    """Gains of the mouth's channels."""
    lead: float = 0.015
    """Seconds by which the mouth is ahead of the sound."""
    head: float = 1.0
    """Gain of head motion; 0 keeps still."""
    base_pose: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    """Mean yaw, pitch, roll in degrees and x, y, z in head heights."""
    blink_seconds: float = 3.5
    """Mean time between blinks."""
    gaze: float = 1.0
    """Gain of the eyes' wandering."""
    brows: float = 1.0
    mood: tuple[tuple[str, float], ...] = ()
    """Blendshapes that are on throughout the clip, with their mean weights."""
    asymmetry: float = 0.0
    """Share by which the left half of the face moves more than the right."""


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A clip's motion; frame ``k`` is the instant ``k / 25`` s."""

    blendshapes: np.ndarray
    """``(F, 52)`` float32 in [0, 1], in the order of ``BLENDSHAPES``."""
    poses: np.ndarray
    """``(F, 6)`` float32: yaw, pitch, roll in degrees, x, y, z in head heights."""


def random_style(rng: np.random.Generator) -> Style:
    """A random way of moving; the mean head pose is random too, so that clips begin in different poses."""
    limits = np.array([24, 13, 12, 0.08, 0.06, 0.12])
    pose = (rng.normal(size=6) * [9, 4.5, 3.5, 0.03, 0.02, 0.05]).clip(-limits, limits)
    return Style(
        jaw=float(rng.uniform(0.75, 1.35)),
        rounding=float(rng.uniform(0.8, 1.2)),
        lips=float(rng.uniform(0.7, 1.3)),
        lead=float(rng.uniform(0.0, 0.03)),
        head=float(rng.uniform(0.3, 1.5)),
        base_pose=tuple(float(v) for v in pose),
        blink_seconds=float(rng.uniform(2.0, 5.5)),
        gaze=float(rng.uniform(0.3, 1.3)),
        brows=float(rng.uniform(0.3, 1.3)),
        mood=_random_mood(rng),
        asymmetry=float(rng.normal(0, 0.06)),
    )


def _random_mood(rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    moods: list[tuple[float, dict[str, float]]] = [
        (0.4, {"mouthSmile": 0.03}),
        (0.3, {"mouthSmile": 0.22, "cheekSquint": 0.15, "eyeSquint": 0.1}),
        (0.12, {"browDown": 0.25, "mouthFrown": 0.12, "eyeSquint": 0.1}),
        (0.1, {"browInnerUp": 0.25, "browOuterUp": 0.2, "eyeWide": 0.12}),
        (0.08, {"browInnerUp": 0.3, "mouthFrown": 0.18}),
    ]
    _, mood = moods[rng.choice(len(moods), p=[share for share, _ in moods])]
    strength = rng.uniform(0.4, 1.3)
    chosen = []
    for name, weight in mood.items():
        chosen += [(full, weight * strength) for full in (name, f"{name}Left", f"{name}Right") if full in BLENDSHAPES]
    return tuple(chosen)


def animate(speech: Speech, rng: np.random.Generator, num_frames: int, style: Style | None = None) -> Motion:
    """Motion of a head that says ``speech``.

    Args:
        speech: the clean recording: loudness is measured on it.
        rng: source of all choices.
        num_frames: frames; those after the recording's end are silent.
        style: how the person moves; random when not given.
    """
    style = style or random_style(rng)
    phonemes = _complete(speech.phonemes, num_frames / FPS)
    loudness = phoneme_loudness(speech, phonemes)
    times = np.arange(num_frames) / FPS
    weights = dict.fromkeys(BLENDSHAPES, np.zeros(num_frames))
    weights |= _mouth(phonemes, loudness, times, style, rng)
    accents = [
        (0.5 * (start + end), loud)
        for (symbol, start, end), loud in zip(phonemes, loudness, strict=True)
        if "ˈ" in symbol and loud > 0.5
    ]
    speaking = _speaking(phonemes, times)
    poses = _head(accents, speaking, style, rng)
    _add(weights, _brows(accents, times, style, rng))
    _add(weights, _mood(style, weights, rng))
    _add(weights, _eyes(poses, times, style, rng))
    blendshapes = np.stack([weights[name] for name in BLENDSHAPES], axis=1)
    return Motion(blendshapes=blendshapes.clip(0, 1).astype(np.float32), poses=poses.astype(np.float32))


def _add(weights: dict[str, np.ndarray], more: dict[str, np.ndarray]) -> None:
    for name, values in more.items():
        weights[name] = weights[name] + values


def _complete(phonemes: Sequence[tuple[str, float, float]], seconds: float) -> list[tuple[str, float, float]]:
    end = phonemes[-1][2] if phonemes else 0.0
    return [*phonemes, (SILENCE, end, seconds + 1)] if end < seconds else list(phonemes)


def phoneme_loudness(speech: Speech, phonemes: Sequence[tuple[str, float, float]]) -> np.ndarray:
    """Loudness ``(N,)`` of each phoneme in [0, 1]: 1 at the clip's loud vowels, 0 at 30 dB below and in silence."""
    levels = []
    for symbol, start, end in phonemes:
        part = speech.samples[int(start * SAMPLE_RATE) : max(int(end * SAMPLE_RATE), int(start * SAMPLE_RATE) + 1)]
        sounding = symbol != SILENCE and len(part)
        levels.append(10 * np.log10(np.mean(np.square(part, dtype=np.float64)) + 1e-9) if sounding else -90.0)
    levels = np.array(levels)
    spoken = levels[levels > -90]
    reference = np.percentile(spoken, 90) if len(spoken) else 0.0
    return ((levels - reference) / 30 + 1).clip(0, 1)


def _shapes(phonemes, loudness):
    """Split glides in two and look up each shape's class: ``[(class, start, end, gain)]``."""
    shapes = []
    for (symbol, start, end), loud in zip(phonemes, loudness, strict=True):
        name = "pf" if symbol.startswith("pf") else phoneme_class(symbol)
        stress = 1.15 if "ˈ" in symbol else 1.0 if "ˌ" in symbol else 0.85
        gain = 1.0 if name == SILENCE else stress * (0.6 + 0.45 * loud)
        if name in GLIDES:
            middle = start + 0.55 * (end - start)
            first, second = GLIDES[name]
            shapes += [(first, start, middle, gain), (second, middle, end, gain)]
        else:
            shapes.append((name, start, end, gain))
    return shapes


def _mouth(phonemes, loudness, times, style, rng) -> dict[str, np.ndarray]:
    shapes = _shapes(phonemes, loudness)
    targets = np.array([[TARGETS[name].get(channel, 0.0) for channel in CHANNELS] for name, *_ in shapes])  # N C
    gains = np.array([gain for *_, gain in shapes]) * np.exp(rng.normal(0, 0.1, len(shapes)))
    opening = [CHANNELS.index(c) for c in ("jaw", "lower", "upper", "stretch", "smile")]
    targets[:, opening] *= gains[:, None]
    dominance = np.array([_DOMINANCE.get(name, _VOWEL_DOMINANCE) for name, *_ in shapes])  # N 4
    starts, ends = (np.array([shape[i] for shape in shapes]) for i in (1, 2))
    short_pause = [name == SILENCE and end - start < 0.25 for name, start, end, _ in shapes]
    dominance[short_pause] *= 0.3

    # full strength in the middle of the phoneme, falling off from there
    margin = np.minimum(0.3 * (ends - starts), 0.06)
    groups = np.array([_GROUPS[channel] for channel in CHANNELS])
    values = np.empty((len(times), len(CHANNELS)))
    for first in range(0, len(times), MOUTH_BLOCK):
        block = times[first : first + MOUTH_BLOCK]
        near = slice(
            int(np.searchsorted(ends, block[0] - MOUTH_REACH)), int(np.searchsorted(starts, block[-1] + MOUTH_REACH))
        )
        moment = block[:, None] + style.lead
        before = np.maximum(starts[near] + margin[near] - moment, 0)  # F N
        after = np.maximum(moment - ends[near] + margin[near], 0)
        for group in range(4):
            pull = dominance[near, group] * np.exp(-_RISE[group] * before - _FALL[group] * after) + 1e-9
            mean = pull @ targets[near, groups == group] / pull.sum(axis=1, keepdims=True)
            values[first : first + MOUTH_BLOCK, groups == group] = mean

    channel = {name: values[:, i] for i, name in enumerate(CHANNELS)}
    channel["jaw"] = channel["jaw"] * style.jaw
    for name in ("funnel", "pucker"):
        channel[name] = channel[name] * style.rounding
    for name in ("lower", "upper", "stretch"):
        channel[name] = channel[name] * style.lips
    closed = _closure(shapes, times)
    for name in ("lower", "upper", "funnel", "stretch", "tongue"):
        channel[name] = channel[name] * (1 - closed)
    left, right = 1 + style.asymmetry, 1 - style.asymmetry
    weights = {"mouthClose": closed * channel["jaw"].clip(0, 1)}
    for name, blendshapes in MOUTH.items():
        for blendshape in blendshapes:
            side = left if blendshape.endswith("Left") else right if blendshape.endswith("Right") else 1.0
            weights[blendshape] = channel[name] * side
    return weights


def closures(phonemes: Sequence[tuple[str, float, float]]) -> list[tuple[float, float]]:
    """Intervals in seconds in which p, b, m and the first half of pf shut the lips.

    A stop's last part is its burst, with the lips apart again; m is shut throughout. None is shorter than
    :data:`CLOSURE_SECONDS`.
    """
    intervals = []
    for symbol, start, end in phonemes:
        name = "p" if symbol.startswith("pf") else phoneme_class(symbol)
        if name not in ("p", "b", "m"):
            continue
        stop = end if name == "m" else start + 0.6 * (end - start)
        middle, half = 0.5 * (start + stop), max(0.5 * (stop - start), 0.5 * CLOSURE_SECONDS)
        intervals.append((middle - half, middle + half))
    return intervals


def _closure(shapes, times) -> np.ndarray:
    """How far the lips are closed whatever the jaw does, in [0, 1]: labial closures, and silences but the briefest."""
    closed = np.zeros(len(times))
    for start, stop in closures([(name, start, end) for name, start, end, _ in shapes]):
        closed = np.maximum(closed, _plateau(times, start, stop, 0.06, 0.05))
    for name, start, end, _ in shapes:
        if name == SILENCE and end - start > 0.25:
            # lips come to rest after the sound and part a moment before the next one
            rest = 0.0 if start == 0 else 0.1
            closed = np.maximum(closed, _plateau(times, start + rest, end - 0.09, rest + 0.02, 0.08))
    return closed


def _plateau(times, start, stop, rise, fall):
    """1 on ``[start, stop]``, smooth ramps of ``rise`` seconds before it and ``fall`` seconds after it."""
    up = ((times - start) / rise + 1).clip(0, 1)
    down = ((stop - times) / fall + 1).clip(0, 1)
    ramp = np.minimum(up, down)
    return ramp * ramp * (3 - 2 * ramp)


def _speaking(phonemes, times) -> np.ndarray:
    sounding = np.zeros(len(times))
    for symbol, start, end in phonemes:
        if symbol != SILENCE:
            sounding[(times >= start - 0.02) & (times < end + 0.02)] = 1
    return gaussian_filter1d(sounding, 0.25 * FPS, mode="nearest")


def _drift(count: int, seconds: float, rng: np.random.Generator, columns: int = 1) -> np.ndarray:
    """Stationary smooth noise ``(count, columns)`` of unit variance that changes over ``seconds``."""
    sigma = seconds * FPS
    pad = int(4 * sigma) + 1
    white = rng.normal(size=(count + 2 * pad, columns))
    return gaussian_filter1d(white, sigma, axis=0)[pad : pad + count] * np.sqrt(2 * np.sqrt(np.pi) * sigma)


def _head(accents, speaking, style: Style, rng) -> np.ndarray:
    """Poses ``(F, 6)``: a slow sway, a faster one while speaking, and nods on stressed syllables."""
    count = len(speaking)
    slow = _drift(count, 0.9, rng, 6) * [3.2, 1.8, 1.6, 0.012, 0.008, 0.015]
    fast = _drift(count, 0.22, rng, 6) * [1.0, 1.1, 0.7, 0.002, 0.002, 0.003] * (0.15 + speaking[:, None])
    nods = np.zeros(count)
    times = np.arange(count) / FPS
    for moment, loud in accents:
        if rng.random() < 0.5:
            depth, width = rng.gamma(4, 0.6) * loud, rng.uniform(0.09, 0.16)
            nods += depth * np.exp(-0.5 * ((times - moment - 0.03) / width) ** 2)
            # the head is lifted a little before it falls
            nods -= 0.35 * depth * np.exp(-0.5 * ((times - moment + 2.2 * width) / width) ** 2)
    motion = slow + fast
    motion[:, 1] -= nods  # pitch > 0 lifts the face
    # turning carries the head's middle sideways
    motion[:, 3] += 0.001 * motion[:, 0]
    return np.array(style.base_pose) + style.head * motion


def _brows(accents, times, style: Style, rng) -> dict[str, np.ndarray]:
    inner, outer = np.zeros(len(times)), np.zeros(len(times))
    for moment, loud in accents:
        if rng.random() < 0.3:
            lift = (
                style.brows * loud * rng.uniform(0.15, 0.5) * _plateau(times, moment - 0.08, moment + 0.15, 0.16, 0.3)
            )
            inner, outer = np.maximum(inner, lift), np.maximum(outer, rng.uniform(0.3, 1.0) * lift)
    wander = 0.05 * style.brows * _drift(len(times), 0.6, rng)[:, 0]
    return {
        "browInnerUp": (inner + wander).clip(0),
        "browOuterUpLeft": (outer * (1 + style.asymmetry) + wander).clip(0),
        "browOuterUpRight": (outer * (1 - style.asymmetry) + wander).clip(0),
        "browDownLeft": (-wander).clip(0),
        "browDownRight": (-wander).clip(0),
    }


def _mood(style: Style, weights: dict[str, np.ndarray], rng) -> dict[str, np.ndarray]:
    count = len(weights["jawOpen"])
    level = (1 + 0.25 * _drift(count, 0.8, rng)[:, 0]).clip(0.3, 1.7)
    rounded = (weights["mouthPucker"] + weights["mouthFunnel"]).clip(0, 1)  # a smile gives way to rounded lips
    return {name: weight * level * (1 - 0.6 * rounded * name.startswith("mouth")) for name, weight in style.mood}


def _eyes(poses, times, style: Style, rng) -> dict[str, np.ndarray]:
    """Blinks, and a gaze that rests near the camera, jumps, and holds its aim while the head turns."""
    count = len(times)
    aim = np.zeros((count, 2))  # degrees to the subject's left, up
    moment = 0.0
    while moment < times[-1] + 1e-6:
        away = rng.random() < 0.15
        aim[int(np.ceil(moment * FPS)) :] = rng.normal(0, [9, 5] if away else [2.0, 1.2], 2) * style.gaze
        moment += rng.uniform(0.3, 0.9) if away else rng.gamma(2.0, 0.7) + 0.2
    aim = gaussian_filter1d(aim, 0.4, axis=0, mode="nearest")  # a saccade takes one to two frames
    left = aim[:, 0] - poses[:, 0]  # yaw > 0 turns to the subject's left
    up = aim[:, 1] - poses[:, 1]
    left, up = (left / 32).clip(-0.8, 0.8), (up / 28).clip(-0.7, 0.7)
    blink = _blinks(times, style, rng)
    down = (-up).clip(0)
    weights = {"eyeWideLeft": 0.25 * up.clip(0), "eyeWideRight": 0.25 * up.clip(0)}
    for side, sign in (("Left", 1), ("Right", -1)):
        weights[f"eyeLookOut{side}"] = (sign * left).clip(0)
        weights[f"eyeLookIn{side}"] = (-sign * left).clip(0)
        weights[f"eyeLookUp{side}"] = up.clip(0)
        weights[f"eyeLookDown{side}"] = down
        weights[f"eyeBlink{side}"] = np.maximum(blink, 0.35 * down)  # lids follow the eyes
    return weights


def _blinks(times, style: Style, rng) -> np.ndarray:
    """Lid closure in [0, 1]: 70 ms down, a moment shut, 110 ms up; now and then two in a row."""
    blink = np.zeros(len(times))
    moment = rng.uniform(0, style.blink_seconds)
    while moment < times[-1]:
        for start in (moment, moment + 0.3) if rng.random() < 0.12 else (moment,):
            stretch = rng.uniform(0.85, 1.15)
            shape = _plateau(times, start, start + 0.035, 0.07 * stretch, 0.11 * stretch)
            blink = np.maximum(blink, shape * rng.uniform(0.92, 1.0))
        moment += max(0.6, rng.gamma(4.0, style.blink_seconds / 4))
    return blink
