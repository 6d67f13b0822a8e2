"""From the arrays of clips to the metrics of a method: numbers with intervals, curves over time, what is missing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.evaluate.measure import frechet, signals
from asymtalker.evaluate.measure.cache import read_arrays, write_arrays
from asymtalker.evaluate.measure.features import Measured
from asymtalker.evaluate.measure.metrics import METRICS
from asymtalker.evaluate.measure.readings import ANGLES, LIDS, STRIDE, Truth, columns
from asymtalker.evaluate.measure.truth import truth_score
from asymtalker.models.sync import sync_score
from asymtalker.timeline import FPS

DRAWS = 1000
SHORTFALL = 0.5
"""Seconds that a clip may be shorter than a moment it is followed to."""
WINDOW_SECONDS = 5.0
"""Length of the windows in which FID is followed over time: all of one length, since FID depends on sample numbers."""


@dataclass(frozen=True)
class Value:
    """A metric's value over ``samples`` with a 95% interval; NaN ends where there is none."""

    value: float
    low: float
    high: float
    samples: int
    of: str
    """What the samples are: clips, frames, windows."""


@dataclass(frozen=True)
class Caveat:
    """A sentence on what something of a method is worth.

    Attributes:
        text: the sentence.
        metric: whose value it is about.
        curve: whose points it is about; without metric and curve it is about the method as a whole.
    """

    text: str
    metric: str | None = None
    curve: str | None = None


@dataclass(frozen=True)
class Summary:
    """All of one method.

    Attributes:
        values: by metric; those that could not be measured are absent.
        clips: by clip, its own scalars by metric and its ``notes``.
        curves: by name, ``{"x": seconds, "y": values, "clips": numbers}``.
        warnings: what the values and curves are worth.
    """

    values: dict[str, Value]
    clips: dict[str, dict[str, Any]]
    curves: dict[str, dict[str, list[float]]]
    warnings: list[Caveat]


DISTANCES = {"fid": ("inception", "frames"), "fvd": ("i3d", "windows"), "fd_face": ("expressions", "frames")}
"""Arrays that Fréchet distances are of, and what their samples are."""


class ReferenceStatistics:
    """Of the real clips' features, computed once for all methods.

    Args:
        clips: what was measured of them.
        kept: a file in which to keep the statistics for the next time.
        key: what changes when the clips' features do.
    """

    def __init__(self, clips: Mapping[str, Measured], kept: Path | None = None, key: str = ""):
        self.statistics: dict[str, frechet.Statistics] = {}
        if kept and (arrays := read_arrays(kept, key)):
            for metric in DISTANCES:
                if f"{metric} count" in arrays:
                    parts = (arrays[f"{metric} {name}"] for name in ("mean", "covariance", "root"))
                    self.statistics[metric] = frechet.Statistics(*parts, count=int(arrays[f"{metric} count"]))
            return
        for metric, (features, _) in DISTANCES.items():
            parts = [clip.arrays[features] for clip in clips.values() if features in clip.arrays]
            together = np.concatenate(parts) if parts else np.zeros((0, 1))
            if len(together) > 1:
                self.statistics[metric] = frechet.statistics(together)
        if kept:
            found = self.statistics.items()
            fields = {f"{metric} {name}": value for metric, about in found for name, value in vars(about).items()}
            write_arrays(kept, key, fields)


def summarize(
    clips: Mapping[str, Measured],
    reference: ReferenceStatistics | None,
    truths: Mapping[str, Truth],
    timestamps: Sequence[float],
    chunk: tuple[float, float] | None = None,
) -> Summary:
    """Metrics of one method's clips, without those of speed.

    Args:
        clips: what was measured, by name.
        reference: the real clips; ``None`` for the reference itself, which has no distance from itself.
        truths: what their faces are to do, by name, of those of which that is known.
        timestamps: seconds at which FID is followed.
        chunk: frames of the first chunk of a video and of each later one.
    """
    names = list(clips)
    rows: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(names):
        other = names[index - 1] if len(names) > 1 else None
        row = _clip_row(clips[name], clips[other] if other else None, chunk)
        against, notes = _truth_row(clips[name], truths.get(name), truths.get(other) if other else None)
        row |= against | _face_row(clips[name])
        row |= {"seconds": float(clips[name].arrays["frames"]) / FPS, "notes": [*clips[name].notes, *notes]}
        rows[name] = row
    values: dict[str, Value] = {}
    warnings: list[Caveat] = []
    for metric in METRICS:
        measured = np.array([row[metric] for row in rows.values() if row.get(metric) is not None], float)
        if len(measured):
            values[metric] = _mean(measured)
    if angles := [columns(clip.arrays["readings"], ANGLES) for clip in clips.values() if "readings" in clip.arrays]:
        diversity = signals.motion_diversity(angles)
        if np.isfinite(diversity):
            values["head_diversity"] = Value(diversity, np.nan, np.nan, len(angles), "clips")
    if reference is not None:
        _distances(clips, reference, values, warnings)
    curves = _curves(clips, reference, timestamps, warnings)
    return Summary(values, rows, curves, warnings)


def _clip_row(clip: Measured, other: Measured | None, chunk: tuple[float, float] | None) -> dict[str, Any]:
    arrays, row = clip.arrays, {}
    if "sync" in arrays:
        row |= dict(zip(("sync_c", "sync_d", "sync_offset"), arrays["sync"].tolist(), strict=True))
        if other is not None and "sound" in other.arrays:
            shuffled = sync_score(arrays["lips"], other.arrays["sound"])
            row |= {"sync_c_shuffled": shuffled.confidence, "sync_d_shuffled": shuffled.distance}
    row["face_found"] = float(arrays["found"].mean())
    if "portrait" in arrays:
        faceless = _first_faceless(arrays["found"])
        row |= _drift_row("identity", *_similarity(clip), signals.SAME_PERSON, above=False, faceless=faceless)
    if "portrait_face" in arrays:
        row |= _drift_row("face_distance", *_face_distance(clip), signals.SAME_BY_DLIB, above=True)
    _, distance, contrast = signals.colour_drift(arrays["lab"])
    if len(distance):
        row |= {"colour_drift": float(distance[-1]), "contrast_drift": float(contrast[-1])}
    if chunk is not None:
        boundaries = signals.chunk_boundaries(len(arrays["change"]), *chunk)
        if seam := signals.seams(arrays["change"], arrays["lab"], boundaries, arrays.get("eyes")):
            row |= {"seam_motion": seam.motion, "seam_colour": seam.colour, "seam_head": seam.head}
    return row


def _drift_row(
    metric: str, times: np.ndarray, values: np.ndarray, threshold: float, above: bool, faceless: float = float("nan")
) -> dict[str, Any]:
    """A clip's numbers of an identity curve; a face that is never found, or not from ``faceless`` on, is lost too."""
    if not len(times):
        return {f"{metric}_lost": 1.0, f"{metric}_first_lost": 0.0}
    drift = signals.drift(times, values, threshold, above)
    lost = [second for second in (drift.first_lost, faceless) if not np.isnan(second)]
    return {
        metric: drift.mean,
        f"{metric}_drift": None if np.isnan(drift.per_minute) else drift.per_minute,
        f"{metric}_lost": float(bool(lost)),
        f"{metric}_first_lost": min(lost, default=None),
    }


def _first_faceless(found: np.ndarray) -> float:
    """Start of the first whole second in no frame of which a face was found; NaN if there is none."""
    seconds = found[: len(found) // FPS * FPS].reshape(-1, FPS)
    without = np.flatnonzero(~seconds.any(1))
    return float(without[0]) if len(without) else float("nan")


def _truth_row(clip: Measured, truth: Truth | None, other: Truth | None) -> tuple[dict[str, Any], list[str]]:
    """Scores against the truth, and remarks."""
    if truth is None or "readings" not in clip.arrays or "delay" not in clip.arrays:
        return {}, []
    readings, delay = clip.arrays["readings"], float(clip.arrays["delay"])
    try:
        score = truth_score(readings, truth, delay)
    except ValueError as error:
        return {}, [f"not held against the real clip: {error}"]
    row = {
        "lip_correlation": score.lips.correlation,
        "lip_lag": float(score.lips.lag),
        "lip_amplitude": score.lips.amplitude,
        "lip_closures": score.closures,
        "blendshape_error": score.blendshape_error,
        "pose_error": score.pose_error,
    }
    if other is not None:
        with suppress(ValueError):  # of a clip that is too short
            row["lip_correlation_shuffled"] = truth_score(readings, other, delay).lips.correlation
    return row, []


def _face_row(clip: Measured) -> dict[str, Any]:
    if "readings" not in clip.arrays:
        return {}
    readings = clip.arrays["readings"]
    blinks = signals.blink_times(columns(readings, LIDS).mean(1))
    row = {
        "head_motion": signals.head_motion(columns(readings, ANGLES)),
        "blinks": 60 * FPS * len(blinks) / len(readings),
    }
    if clip.arrays.get("portrait_sharpness", 0) > 0:
        row["sharpness"] = float(np.nanmedian(clip.arrays["sharpness"]) / clip.arrays["portrait_sharpness"])
    return row


def _similarity(clip: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds and cosine similarity to the portrait, of the frames in which the face was found."""
    return clip.arrays["identity_frames"] / FPS, clip.arrays["identity"] @ clip.arrays["portrait"]


def _face_distance(clip: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds and distance of dlib's embeddings from the portrait's, likewise."""
    return clip.arrays["face_frames"] / FPS, np.linalg.norm(clip.arrays["face"] - clip.arrays["portrait_face"], axis=1)


def _mean(measured: np.ndarray) -> Value:
    """Mean over clips, with the 2.5% and 97.5% points of the means of clips drawn with replacement."""
    low = high = float("nan")
    if len(measured) > 1:
        rng = np.random.default_rng(0)
        means = measured[rng.integers(len(measured), size=(DRAWS, len(measured)))].mean(1)
        low, high = (float(end) for end in np.percentile(means, [2.5, 97.5]))
    return Value(float(measured.mean()), low, high, len(measured), "clips")


def _distances(
    clips: Mapping[str, Measured], reference: ReferenceStatistics, values: dict[str, Value], warnings: list[Caveat]
) -> None:
    for metric, (features, unit) in DISTANCES.items():
        parts = [clip.arrays[features] for clip in clips.values() if len(clip.arrays.get(features, ()))]
        count = sum(map(len, parts))
        if metric not in reference.statistics or count < 2:
            continue
        distance = frechet.bootstrap(parts, reference.statistics[metric])
        values[metric] = Value(distance.value, distance.low, distance.high, count, unit)
        dimensions = parts[0].shape[1]
        if (fewest := min(count, distance.reference_samples)) < dimensions:
            text = (
                f"{METRICS[metric].title} rests on {fewest} {unit}, fewer than its {dimensions} features: it comes out"
                " too large, and can be compared only with one of as many samples."
            )
            warnings.append(Caveat(text, metric=metric))


def _curves(
    clips: Mapping[str, Measured],
    reference: ReferenceStatistics | None,
    timestamps: Sequence[float],
    warnings: list[Caveat],
) -> dict[str, dict[str, list[float]]]:
    curves = {
        "identity": _curve(
            [signals.per_second(*_similarity(clip)) for clip in clips.values() if "portrait" in clip.arrays],
        ),
        "face_distance": _curve(
            [signals.per_second(*_face_distance(clip)) for clip in clips.values() if "portrait_face" in clip.arrays],
        ),
        "colour": _curve([_colour_curve(clip, 1) for clip in clips.values()]),
        "contrast": _curve([_colour_curve(clip, 2) for clip in clips.values()]),
    }
    for metric, (features, _) in DISTANCES.items():
        if reference is not None and metric in reference.statistics and metric != "fvd":
            curve = curves[metric] = _windows(clips, features, reference.statistics[metric], timestamps)
            dimensions, fewest = len(reference.statistics[metric].mean), min(curve["samples"], default=np.inf)
            if fewest < dimensions:
                text = (
                    f"{METRICS[metric].title} over time rests on {fewest:g} frames or more a point, fewer than its"
                    f" {dimensions} features: every point comes out too large; compare points, not values."
                )
                warnings.append(Caveat(text, curve=metric))
    return {name: curve for name, curve in curves.items() if curve["x"]}


def _colour_curve(clip: Measured, which: int) -> tuple[np.ndarray, np.ndarray]:
    curves = signals.colour_drift(clip.arrays["lab"])
    return curves[0], curves[which]


def _curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[float]]:
    """Means over the clips that last that long, second by second."""
    values: dict[int, list[float]] = {}
    for seconds, means in curves:
        for second, value in zip(seconds.tolist(), means.tolist(), strict=True):
            values.setdefault(int(second), []).append(value)
    order = sorted(values)
    return {
        "x": [float(second) for second in order],
        "y": [float(np.mean(values[second])) for second in order],
        "clips": [float(len(values[second])) for second in order],
    }


def _windows(
    clips: Mapping[str, Measured], features: str, reference: frechet.Statistics, timestamps: Sequence[float]
) -> dict[str, list[float]]:
    """Fréchet distance of what the clips show in the seconds before each timestamp that some of them reach."""
    curve: dict[str, list[float]] = {"x": [], "y": [], "clips": [], "samples": []}
    length = min([WINDOW_SECONDS, *np.diff([0.0, *sorted(timestamps)])])
    for end in sorted(timestamps):
        chosen = []
        for clip in clips.values():
            if features in clip.arrays and clip.arrays["frames"] >= (end - SHORTFALL) * FPS:
                times = np.arange(len(clip.arrays[features])) * STRIDE / FPS
                chosen.append(clip.arrays[features][(times >= end - length) & (times < end)])
        if sum(map(len, chosen)) > 1:
            curve["x"].append(float(end))
            curve["y"].append(frechet.frechet_distance(np.concatenate(chosen), reference))
            curve["clips"].append(float(len(chosen)))
            curve["samples"].append(float(sum(map(len, chosen))))
    return curve


def not_measured(missing: Mapping[str, str], summaries: Sequence[Summary]) -> dict[str, str]:
    """Metrics that no method has, and why."""
    reasons = {}
    for metric, about in METRICS.items():
        if any(metric in summary.values for summary in summaries):
            continue
        lacking = [f"{name}: {missing[name]}" for name in about.needs if name in missing]
        reasons[metric] = "; ".join(lacking) or _REASONS.get(metric, "no clip allows it")
    return reasons


_TRUTH = (
    "no video has the name and the sound of a real clip that shows a face; real clips themselves are held against"
    " ground truth alone, which synthetic ones have"
)
_PAIR = "it takes two clips for which the same is measured with their own sound"
_SPEED = "these videos were not generated by this command"
_SEAM = "no method says in method.json how its videos are made in chunks, or no video is longer than one"
_REASONS = {
    "lip_correlation": _TRUTH,
    "lip_lag": _TRUTH,
    "lip_amplitude": _TRUTH,
    "lip_closures": "no clip with its own sound has p, b or m at known times: it needs a synthetic corpus",
    "lip_correlation_shuffled": _PAIR,
    "sync_c_shuffled": _PAIR,
    "sync_d_shuffled": _PAIR,
    "blendshape_error": _TRUTH,
    "pose_error": _TRUTH,
    "fps": _SPEED,
    "real_time_factor": _SPEED,
    "first_chunk": _SPEED,
    "peak_memory": _SPEED,
    "peak_gpu_memory": "no GPU was used, or the videos were not generated by this command",
    "fps_loaded": "no videos are of asymtalker baseline",
    "head_motion_ratio": "it takes faces in real clips, and heads that move there",
    "head_diversity": "it takes two clips with faces",
    "sharpness": "no face was found in a clip and its portrait",
    "seam_motion": _SEAM,
    "seam_colour": _SEAM,
    "seam_head": f"{_SEAM}, by some frames, and shows a face",
}
