"""The ``evaluate`` stage: measure videos against real ones, clip by clip, and write the report.

What was measured of a clip is kept in ``OUT/features`` and not measured again unless the clip or the networks are
others; what was generated is kept in ``OUT/videos``. So the same command goes on after a stop.
"""

import math
import re
import shlex
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import asymtalker
from asymtalker.bench.machine import describe_machine
from asymtalker.config import EvaluateConfig
from asymtalker.errors import UserError
from asymtalker.evaluate.clips import REFERENCE, Clip, CorpusClip, Method, Reference, open_method, open_reference
from asymtalker.evaluate.generated import generate_videos
from asymtalker.evaluate.measure.features import Measured
from asymtalker.evaluate.measure.measurer import Measurer
from asymtalker.evaluate.measure.metrics import METRICS
from asymtalker.evaluate.measure.networks import Networks, describe, load_networks
from asymtalker.evaluate.measure.readings import READINGS, Truth, readings_of
from asymtalker.evaluate.measure.summary import (
    SHORTFALL,
    Caveat,
    ReferenceStatistics,
    Summary,
    Value,
    not_measured,
    summarize,
)
from asymtalker.evaluate.report.report import write_report
from asymtalker.generate.pipeline import load_pipeline
from asymtalker.media.atomic import check_writable
from asymtalker.models.loading import choose_device
from asymtalker.timeline import FPS

SHAPE_TOLERANCE = 0.02
"""How far the ratio of a video's sides may be from the reference's without a remark."""


def evaluate(settings: EvaluateConfig) -> None:
    """The ``evaluate`` verb: the report's path on stdout, progress on stderr."""
    timestamps = _timestamps(settings.seconds)
    named = _named_folders(settings)
    source = settings.reference or settings.corpus
    if source is None or (settings.reference and settings.corpus):
        raise UserError("Give what to compare with: --reference FOLDER, or --corpus FOLDER; one of the two.")
    check_writable(settings.out / "index.html")
    reference = _first_clips(open_reference(source), settings.clips)
    device = choose_device(settings.device)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    names = reference.clips if settings.clips else None
    methods = [open_method(name, folder, names) for name, folder in named.items()]
    if not methods:
        pipeline = load_pipeline(settings.model, device)
        _check_name(pipeline.settings.name, "The checkpoint's name")
        folder = settings.out / "videos" / pipeline.settings.name
        methods = [generate_videos(folder, reference, pipeline, settings.seed, console)]
        del pipeline
    if empty := [method.name for method in methods if not method.clips]:
        raise UserError(f"{empty[0]} has no video of the first {len(reference.clips)} clips: leave --clips out.")
    networks = load_networks(settings.offline, device)
    for name, reason in (networks.missing or {}).items():
        console.print(f"{name} is not at hand, what needs it is not measured ({reason})", markup=False)
    sets = [Method(REFERENCE, reference.clips), *methods]
    measurer = Measurer(settings.out / "features", reference, networks, console)
    start = time.perf_counter()
    measured = {method.name: measurer.measure(method) for method in sets}
    cost = {"measured_seconds": time.perf_counter() - start, "video_minutes": measurer.measured_minutes}
    statistics = measurer.reference_statistics(measured[REFERENCE])
    report = _report(settings, sets, measured, measurer.failed, statistics, reference, networks, timestamps)
    report |= {"machine": describe_machine(device), "cost": cost}
    write_report(report, {method.name: method.clips for method in sets}, settings.out)
    print(settings.out / "index.html")
    if nothing := [method.name for method in sets if not measured[method.name]]:
        raise UserError(f"No clip of {', '.join(nothing)} could be measured: the report says why.")


def _timestamps(text: str) -> list[float]:
    try:
        moments = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"--seconds must be numbers with commas between, such as 5,10,60: not {text}.") from None
    if not all(0 < moment < math.inf for moment in moments):
        raise UserError(f"--seconds must be moments above 0, not {text}.")
    return moments


def _named_folders(settings: EvaluateConfig) -> dict[str, Path]:
    """The methods given, by name."""
    if settings.generated and settings.compare:
        raise UserError("--generated is one method and --compare several: give one of the two.")
    if (settings.generated or settings.compare) and settings.model:
        raise UserError("--model generates videos, --generated and --compare take those that are there: give one.")
    if settings.generated:
        name = settings.generated.resolve().name
        _check_name(name, "The folder's name")
        return {name: settings.generated}
    named = {}
    for pair in settings.compare:
        name, _, folder = pair.partition("=")
        if not folder or name in named:
            raise UserError(f"--compare takes NAME=FOLDER, each name once: not {pair}.")
        _check_name(name, "The name")
        named[name] = Path(folder)
    return named


def _check_name(name: str, what: str) -> None:
    """A method's name is also that of a folder of the report, and not the reference's."""
    if name == REFERENCE or not re.fullmatch(r"[^./\\][^/\\]*", name):
        raise UserError(
            f"{what} {name} can't be a method's: take --compare NAME=FOLDER with another, without slashes."
        )


def _first_clips(reference: Reference, count: int | None) -> Reference:
    if count is None:
        return reference
    if count < 1:
        raise UserError(f"--clips must be at least 1, not {count}.")
    return replace(reference, clips=dict(sorted(reference.clips.items())[:count]))


def _report(
    settings: EvaluateConfig,
    sets: list[Method],
    measured: Mapping[str, Mapping[str, Measured]],
    failed: Mapping[str, Mapping[str, str]],
    statistics: ReferenceStatistics,
    reference: Reference,
    networks: Networks,
    timestamps: list[float],
) -> dict[str, Any]:
    real = measured[REFERENCE]
    known = _truths(reference.clips)
    read = {name: Truth(READINGS, clip.arrays["readings"]) for name, clip in real.items() if "readings" in clip.arrays}
    summaries: dict[str, Summary] = {}
    for method in sets:  # the reference first
        itself = method.name == REFERENCE
        against, truths = (None, known) if itself else (statistics, read | known)
        summary = summarize(measured[method.name], against, truths, timestamps, method.chunk)
        values = summary.values | _speed(method, measured[method.name])
        if not itself:
            values |= _motion_ratio(values, summaries[REFERENCE].values)
        warnings = [*summary.warnings, *_caveats(method, reference, measured[method.name], real, timestamps)]
        summaries[method.name] = replace(summary, values=values, warnings=warnings)
    others = [summary for name, summary in summaries.items() if name != REFERENCE]
    seconds = sum(float(clip.arrays["frames"]) for clip in real.values()) / FPS
    return _plain(
        {
            "asymtalker": asymtalker.__version__,
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": _command(settings),
            "reference": {
                "path": str(settings.reference or settings.corpus),
                "clips": len(real),
                "seconds": seconds,
                "size": list(reference.size),
            },
            "networks": describe(networks),
            "timestamps": timestamps,
            "metrics": {
                name: {"title": about.title, "unit": about.unit, "better": about.better, "about": about.about}
                for name, about in METRICS.items()
            },
            "methods": {
                method.name: {
                    "values": {key: asdict(value) for key, value in _ordered(summaries[method.name].values)},
                    "clips": summaries[method.name].clips,
                    "curves": summaries[method.name].curves,
                    "warnings": [asdict(caveat) for caveat in summaries[method.name].warnings],
                    "failed": failed[method.name],
                    "about": method.about,
                }
                for method in sets
            },
            "not_measured": not_measured(networks.missing or {}, others),
        }
    )


def _ordered(values: Mapping[str, Value]) -> Iterable[tuple[str, Value]]:
    return ((metric, values[metric]) for metric in METRICS if metric in values)


def _command(settings: EvaluateConfig) -> str:
    words = ["asymtalker evaluate"]
    for key, value in asdict(settings).items():
        if value is True:
            words.append(f"--{key}")
        elif value is not None and value is not False and value != ():
            shown = value if isinstance(value, tuple) else (value,)
            words += [f"--{key}", *(shlex.quote(str(part)) for part in shown)]
    return " ".join(words)


def _caveats(
    method: Method,
    reference: Reference,
    measured: Mapping[str, Measured],
    real: Mapping[str, Measured],
    timestamps: list[float],
) -> list[Caveat]:
    """Caveats on real clips without a video, videos without a real clip, short ones, and moments that none reaches."""
    without = [name for name in reference.clips if name not in method.clips]
    alone = [name for name in method.clips if name not in reference.clips and name not in reference.portraits]
    lengths = {name: float(clip.arrays["frames"]) / FPS for name, clip in measured.items()}
    full = {name: float(clip.arrays["frames"]) / FPS for name, clip in real.items()}
    short = [name for name, seconds in lengths.items() if seconds + SHORTFALL < full.get(name, 0)]
    shape = reference.size[1] / reference.size[0]
    shapes = {name: method.clips[name].size for name in measured}
    other = [name for name, (height, width) in shapes.items() if abs(width / height / shape - 1) > SHAPE_TOLERANCE]
    beyond = [f"{moment:g}" for moment in timestamps if moment - SHORTFALL > max(lengths.values(), default=0)]
    said = {
        f"Real clips without a video here ({len(without)} of {len(reference.clips)}): {_some(without)}.": without,
        f"Videos named after no real clip, so without a portrait ({len(alone)}): {_some(alone)}.": alone,
        f"Videos that end before the real clip does ({len(short)}): {_some(short)}.": short,
        f"Videos of another shape than the reference ({len(other)}): {_some(other)}. The middle part of their pictures"
        " is compared, and FID, FVD and colour speak of framing too; asymtalker benchmark cuts real videos as"
        " generation frames its own.": other,
        f"No clip lasts {', '.join(beyond)} seconds: distances over time end before.": beyond,
    }
    return [Caveat(sentence) for sentence, found in said.items() if found]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _truths(clips: Mapping[str, Clip]) -> dict[str, Truth]:
    """Ground truth of the clips that have some."""
    truths = {}
    for name, clip in clips.items():
        try:
            if isinstance(clip, CorpusClip) and (truth := clip.truth):
                truths[name] = readings_of(truth)
        except (UserError, ValueError, KeyError, TypeError):
            continue  # damaged
    return truths


def _motion_ratio(values: Mapping[str, Value], real: Mapping[str, Value]) -> dict[str, Value]:
    """How much heads move over how much they do in the real clips, of their means: single clips may keep still."""
    own, true, nothing = values.get("head_motion"), real.get("head_motion"), float("nan")
    if own is None or true is None or not true.value > 0:
        return {}
    return {"head_motion_ratio": Value(own.value / true.value, nothing, nothing, own.samples, "clips")}


def _speed(method: Method, measured: Mapping[str, Measured]) -> dict[str, Value]:
    """Metrics of speed, of the videos whose making was timed."""
    about, nothing = method.about, float("nan")

    def value(number: float, count: int) -> Value:
        return Value(number, nothing, nothing, count, "clips")

    def rate(times: str) -> tuple[float, int] | None:
        timed = {name: seconds for name, seconds in about.get(times, {}).items() if name in measured}
        frames = sum(float(measured[name].arrays["frames"]) for name in timed)
        return (frames / sum(timed.values()), len(timed)) if timed else None

    values = {}
    if made := rate("seconds_per_video"):
        values |= {"fps": value(*made), "real_time_factor": value(FPS / made[0], made[1])}
    if made := rate("loaded_seconds_per_video"):
        values["fps_loaded"] = value(*made)
    if first := [seconds for name, seconds in about.get("first_chunk_seconds", {}).items() if name in measured]:
        values["first_chunk"] = value(float(np.median(first)), len(first))
    for metric, key in (("peak_memory", "peak_rss_mib"), ("peak_gpu_memory", "peak_gpu_mib")):
        if peak := about.get(key):
            values[metric] = value(float(peak), len(measured))
    return values


def _plain(value: Any) -> Any:
    """JSON values: numbers that are none are null."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
