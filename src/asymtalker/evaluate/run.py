"""The ``evaluate`` stage: measure videos against real ones, clip by clip, and write the report.

What was measured of a clip is kept in ``OUT/features`` and not measured again unless the clip, the networks or the
readout are others; what was generated is kept in ``OUT/videos``. So the same command goes on after a stop.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import asymtalker
from asymtalker.config import EvaluateConfig
from asymtalker.errors import UserError
from asymtalker.evaluate import clips as inputs
from asymtalker.evaluate import features
from asymtalker.evaluate.clips import Clip, CorpusClip, Method, Reference
from asymtalker.evaluate.features import Measured, measure_clip
from asymtalker.evaluate.generated import generate_videos
from asymtalker.evaluate.networks import Networks, describe, load_networks
from asymtalker.evaluate.report import write_report
from asymtalker.evaluate.summary import METRICS, Summary, Truth, Value, not_measured, summarize
from asymtalker.evaluate.summary import Reference as ReferenceStatistics
from asymtalker.generate.bench import describe_machine
from asymtalker.generate.pipeline import load_pipeline
from asymtalker.models.loading import load_part
from asymtalker.models.readout import FaceReadout, readings_of
from asymtalker.timeline import FPS
from asymtalker.whole import check_place, whole

REFERENCE = "reference"


def evaluate(settings: EvaluateConfig) -> None:
    """The ``evaluate`` verb: the report's path on stdout, progress on stderr."""
    timestamps = _timestamps(settings.seconds)
    named = _named_folders(settings)
    source = settings.reference or settings.corpus
    if source is None or (settings.reference and settings.corpus):
        raise UserError("Give what to compare with: --reference FOLDER, or --corpus FOLDER; one of the two.")
    check_place(settings.out / "index.html")
    reference = _first_clips(inputs.open_reference(source), settings.clips)
    device = "cuda" if settings.device == "auto" and torch.cuda.is_available() else settings.device
    device = "cpu" if device == "auto" else device
    readout = load_part(FaceReadout, settings.readout or bundled_readout(), torch.float32).eval().to(device)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    methods = [inputs.open_method(name, folder, reference) for name, folder in named.items()]
    methods = [_same_clips(method, reference) if settings.clips else method for method in methods]
    if not methods:
        pipeline = load_pipeline(settings.model, device)
        folder = settings.out / "videos" / pipeline.settings.name
        methods = [generate_videos(folder, reference, pipeline, settings.seed, console)]
        del pipeline
    networks = load_networks(settings.offline, device)
    for name, reason in (networks.missing or {}).items():
        console.print(f"{name} is not at hand, what needs it is not measured ({reason})", markup=False)
    sets = [Method(REFERENCE, reference.clips), *methods]
    work = _Work(settings.out / "features", reference, networks, readout, console)
    start = time.perf_counter()
    measured = {method.name: work.measure(method) for method in sets}
    cost = {"measured_seconds": time.perf_counter() - start, "video_minutes": work.measured_minutes}
    report = _report(settings, sets, measured, work.failed, reference, readout, networks, timestamps)
    report |= {"machine": describe_machine(device), "cost": cost}
    write_report(report, {method.name: method.clips for method in sets}, settings.out)
    print(settings.out / "index.html")


def bundled_readout() -> Path:
    """The folder of the readout that is shipped.

    Raises:
        UserError: if this installation has none.
    """
    folder = Path(str(resources.files("asymtalker"))) / "assets" / "readout"
    if not folder.is_dir():
        raise UserError("This installation has no bundled readout: give one with --readout.")
    return folder


def _timestamps(text: str) -> list[float]:
    try:
        moments = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UserError(f"--seconds must be numbers with commas between, such as 5,10,60: not {text}.") from None
    if min(moments) <= 0:
        raise UserError(f"--seconds must be moments above 0, not {text}.")
    return moments


def _named_folders(settings: EvaluateConfig) -> dict[str, Path]:
    """The methods given, by name."""
    if settings.generated and settings.compare:
        raise UserError("--generated is one method and --compare several: give one of the two.")
    if (settings.generated or settings.compare) and settings.model:
        raise UserError("--model generates videos, --generated and --compare take those that are there: give one.")
    if settings.generated:
        return {settings.generated.resolve().name: settings.generated}
    named = {}
    for pair in settings.compare:
        name, equals, folder = pair.partition("=")
        if not equals or not name or not folder or name in (*named, REFERENCE):
            raise UserError(f"--compare takes NAME=FOLDER, each name once and none called {REFERENCE}: not {pair}.")
        named[name] = Path(folder)
    return named


def _first_clips(reference: Reference, count: int | None) -> Reference:
    if count is None:
        return reference
    if count < 1:
        raise UserError(f"--clips must be at least 1, not {count}.")
    return replace(reference, clips=dict(sorted(reference.clips.items())[:count]))


def _same_clips(method: Method, reference: Reference) -> Method:
    """The method's videos of the clips that are left."""
    clips = {name: clip for name, clip in method.clips.items() if name in reference.clips}
    if not clips:
        raise UserError(f"{method.name} has no video of the first {len(reference.clips)} clips: leave --clips out.")
    return replace(method, clips=clips)


class _Work:
    """Measures the clips of all methods with the same networks, and keeps what it measured."""

    def __init__(
        self,
        folder: Path,
        reference: Reference,
        networks: Networks,
        readout: FaceReadout,
        console: Console,
    ):
        self.measured_minutes = 0.0
        self.failed: dict[str, dict[str, str]] = {}
        self._folder, self._reference, self._networks, self._readout = folder, reference, networks, readout
        self._console = console
        weights = hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in readout.state_dict().values()))
        self._key = [features.VERSION, reference.size, networks.present(), weights.hexdigest()]

    def measure(self, method: Method) -> dict[str, Measured]:
        """What was measured of each clip of a method; those that failed are in ``failed``."""
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        failed, measured = self.failed.setdefault(method.name, {}), {}
        with Progress(*columns, *times, console=self._console) as bars:
            for name in bars.track(method.clips, description=f"measuring {method.name}"):
                try:
                    measured[name] = self._clip(method.name, method.clips[name])
                except UserError as error:
                    failed[name] = str(error)
                    bars.console.print(f"{method.name}, {name}: {error}", markup=False)
        return measured

    def _clip(self, method: str, clip: Clip) -> Measured:
        portrait = self._reference.portrait(clip.name)
        shown = None if portrait is None else hashlib.sha256(portrait.tobytes()).hexdigest()
        key = json.dumps([*self._key, clip.stamp(), shown])
        path = self._folder / method / f"{clip.name}.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as kept:
                if str(kept["key"]) == key:
                    notes = json.loads(str(kept["notes"]))
                    arrays = {name: kept[name] for name in kept.files if name not in ("key", "notes")}
                    return Measured(arrays, notes)
        real = self._reference.clips.get(clip.name)
        sound = real.sound() if isinstance(real, CorpusClip) else None
        made = measure_clip(clip, portrait, self._reference.size, self._networks, self._readout, sound)
        with whole(path) as partial, partial.open("wb") as file:
            kept: dict[str, Any] = made.arrays | {"key": np.array(key), "notes": np.array(json.dumps(made.notes))}
            np.savez(file, **kept)
        self.measured_minutes += float(made.arrays["frames"]) / FPS / 60
        return made


def _report(
    settings: EvaluateConfig,
    sets: list[Method],
    measured: Mapping[str, Mapping[str, Measured]],
    failed: Mapping[str, Mapping[str, str]],
    reference: Reference,
    readout: FaceReadout,
    networks: Networks,
    timestamps: list[float],
) -> dict[str, Any]:
    real = measured[REFERENCE]
    statistics = ReferenceStatistics(real)
    truths = _truths(reference.clips)
    outputs = tuple(readout.config.outputs)
    summaries: dict[str, Summary] = {}
    for method in sets:
        against = None if method.name == REFERENCE else statistics
        summary = summarize(measured[method.name], against, truths, outputs, timestamps, method.chunk)
        summaries[method.name] = replace(summary, values=summary.values | _speed(method, measured[method.name]))
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
                name: {"title": about.title, "unit": about.unit, "better": about.better}
                for name, about in METRICS.items()
            },
            "methods": {
                method.name: {
                    "values": {key: asdict(value) for key, value in _ordered(summaries[method.name].values)},
                    "clips": summaries[method.name].clips,
                    "curves": summaries[method.name].curves,
                    "warnings": summaries[method.name].warnings,
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
        elif value not in (None, False, ()):
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"--{key} {shown}")
    return " ".join(words)


def _truths(clips: Mapping[str, Clip]) -> dict[str, Truth]:
    """Ground truth of the clips that have some."""
    truths = {}
    for name, clip in clips.items():
        if isinstance(clip, CorpusClip) and (truth := clip.truth):
            truths[name] = readings_of(truth)
    return truths


def _speed(method: Method, measured: Mapping[str, Measured]) -> dict[str, Value]:
    """Metrics of speed, of the videos whose making was timed."""
    about, nothing = method.about, float("nan")
    timed = {name: seconds for name, seconds in about.get("seconds_per_video", {}).items() if name in measured}
    if not timed:
        return {}
    frames = sum(float(measured[name].arrays["frames"]) for name in timed)
    spent, count = sum(timed.values()), len(timed)
    values = {
        "fps": Value(frames / spent, nothing, nothing, count, "clips"),
        "real_time_factor": Value(spent / (frames / FPS), nothing, nothing, count, "clips"),
    }
    if first := list(about.get("first_chunk_seconds", {}).values()):
        values["first_chunk"] = Value(float(np.median(first)), nothing, nothing, len(first), "clips")
    if peak := about.get("peak_rss_mib"):
        values["peak_memory"] = Value(float(peak), nothing, nothing, count, "clips")
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
