"""Tables 1 to 4 and figures 5 and 6 in the paper's form, from what ``runs/tables.sh`` trained and measured.

    python benchmarks/tables.py OUT

reads ``OUT/short/report.json``, ``OUT/long/report.json``, ``OUT/speed/*.json`` and ``OUT/runs/*``, of which any may be
missing, and writes ``OUT/tables.md``, ``OUT/figure5.svg`` and ``OUT/figure6.svg``.
"""

import argparse
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from asymtalker.config import difference
from asymtalker.evaluate.summary import REFERENCE, WINDOW_SECONDS
from asymtalker.timeline import FPS
from asymtalker.whole import whole, write_whole

OURS = "AsymTalker (ours)"
STUDENT, TEACHER = "tre", "tre-teacher"
TABLE_2 = {("", ""): "clip-teacher", ("✓", ""): TEACHER, ("", "✓"): "clip", ("✓", "✓"): STUDENT}
"""(TRE, AKD); what stands in for a module that is off is said in ``runs/tables.sh``."""
TABLE_3 = {"CLIP": "clip", "VTP": "vtp", "ETR": "etr", "TRE (ours)": STUDENT}
TABLE_4 = {
    "Symmetric GT (GT / GT)": "tre-gt-gt",
    "Symmetric Gen. (Gen. / Gen.)": "tre-gen-gen",
    "Asymmetric (GT / Gen.), ours": STUDENT,
}
VARIANTS = {STUDENT, *TABLE_2.values(), *TABLE_3.values(), *TABLE_4.values()}
NEEDS = {
    "clip": "a CLIP model in CLIP_ENCODER",
    "clip-teacher": "a CLIP model in CLIP_ENCODER",
    "vtp": "an Open-MAGVIT2 tokenizer in VTP_ENCODER",
}
"""What ``runs/tables.sh`` skips a variant without."""
PAPER = {"fid": "FID", "fvd": "FVD", "sync_c": "Sync-C", "sync_d": "Sync-D"}
"""The columns of the paper."""
ALWAYS = {
    "fd_readout": "FD readout",
    "lip_correlation": "Lip corr.",
    "face_distance": "Face dist.",
    "head_motion": "Head motion",
    "colour_drift": "Colour drift",
    "seam_motion": "Seams",
}
"""Columns that need no published network."""
COLUMNS = PAPER | ALWAYS
NOT_OF_REAL = ("fid", "fvd", "fd_readout", "seam_motion")
ARROWS = {"low": "↓", "high": "↑", "near": "≈"}
CURVES = {
    "fid": "FID",
    "fd_readout": "Fréchet distance, readout features",
    "identity": "ArcFace similarity",
    "face_distance": "Distance of dlib's embeddings",
}
MEANS = ("identity", "face_distance")
"""Curves whose points are of single seconds: a moment's is the mean of the seconds before it."""
RANDOM = "Its image encoder has random weights: the row proves the path and says nothing of the strategy."
INTRODUCTION = """# Tables and figures in the paper's form

Numbers of a small model on synthetic clips, not of the paper's model on its data: compare only rows of one table with
each other. In brackets the 95% interval over clips. ↓ less is better, ↑ more is better, ≈ should be as in real video;
bold is the best row, and where intervals overlap another choice of clips may order rows differently.

The first four columns are the paper's. FD readout is the Fréchet distance of features of the face readout, Lip corr.
the correlation of the lip aperture with the truth, Head motion in degrees, Colour drift in Delta E from the first
second to the last, Seams the change where chunks meet over that elsewhere.
"""
OFF = """The paper does not say what stands in for a module that is off. Here TRE off is the CLIP strategy, and AKD off
is no distillation: the teacher itself is sampled.
"""
STYLE: Any = {
    "svg.hashsalt": "asymtalker",  # the same numbers give the same file
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
}
COLOURS = ("#1a6fb4", "#c8551b", "#3c8a3f", "#8451a8", "#a87b12", "#b03060")
MARKERS = "osD^v"


@dataclass
class Notes:
    """Footnotes of one table, each said once."""

    lines: list[str] = field(default_factory=list)

    def sign(self, *texts: str) -> str:
        """The superscripts that stand for some sentences."""
        for text in texts:
            if text not in self.lines:
                self.lines.append(text)
        numbers = sorted(self.lines.index(text) + 1 for text in texts)
        return f"<sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""

    def listed(self) -> list[str]:
        """Markdown, a line a footnote."""
        return [f"{number}. {line}" for number, line in enumerate(self.lines, 1)]


def read_json(path: Path) -> dict[str, Any] | None:
    """What a file holds, or ``None`` if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def without_home(text: str) -> str:
    """A sentence that names files below the home folder, without saying whose it is."""
    return text.replace(str(Path.home()), "~")


def row_title(text: str) -> str:
    """Free text in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def decimals(values: Sequence[float]) -> int:
    """Places after the point that a column's numbers are shown with."""
    largest = max((abs(value) for value in values), default=0.0)
    return 1 if largest >= 100 else 2 if largest >= 1 else 3


def best(values: Mapping[str, float], better: str) -> float | None:
    """The best value of several methods; none if there is but one, or closeness to real video is what counts."""
    if better == "near" or len(values) < 2:
        return None
    return (min if better == "low" else max)(values.values())


def table(
    report: Mapping[str, Any] | None,
    rows: Sequence[tuple[Sequence[str], str]],
    heads: Sequence[str],
    remarks: Mapping[str, str],
) -> str:
    """A table of the paper's columns and of those that are always measured, with its footnotes, as Markdown.

    Args:
        report: of the set of short clips, or ``None`` if nothing was measured.
        rows: the cells at the left, and the name of the method in the report.
        heads: above the cells at the left.
        remarks: footnotes of methods.
    """
    notes = Notes()
    methods = report["methods"] if report else {}
    about = report["metrics"] if report else {}
    shown = list(dict.fromkeys(name for _, name in rows if name in methods))
    columns: list[Callable[[str], str]] = [
        _column(report, metric, shown, notes) for metric in COLUMNS if report is not None
    ]
    titles = [f"{title} {ARROWS[about[key]['better']]}" if key in about else title for key, title in COLUMNS.items()]
    lines = [_line([*heads, *titles]), _line(["---"] * len(heads) + ["---:"] * len(titles))]
    for cells, name in rows:
        if name in methods:
            method = methods[name]
            said = [remarks[name]] if name in remarks else []
            if method["failed"]:
                said.append(f"{len(method['failed'])} of its clips could not be measured.")
            left = [*cells[:-1], row_title(cells[-1]) + notes.sign(*said)]
            lines.append(_line([*left, *(column(name) for column in columns)]))
        else:
            reason = f"not run: needs {NEEDS[name]}" if name in NEEDS else "not run"
            lines.append(_line([*cells[:-1], row_title(cells[-1]), reason, *["–"] * (len(COLUMNS) - 1)]))
    below = ["\n".join(notes.listed()), _samples(methods, shown), _sampling(methods, shown)]
    return "\n\n".join(["\n".join(lines), *(text for text in below if text)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _column(report: Mapping[str, Any], metric: str, shown: Sequence[str], notes: Notes) -> Callable[[str], str]:
    """What makes a method's cell of one column: the value in bold if it is best, its interval, its footnotes."""
    methods = report["methods"]
    values = {name: methods[name]["values"].get(metric) for name in shown}
    own = {name: value["value"] for name, value in values.items() if value and name != REFERENCE}
    top = best(own, report["metrics"].get(metric, {}).get("better", "near"))
    numbers = [value[key] for value in values.values() if value for key in ("value", "low", "high") if value[key]]
    places = decimals(numbers)
    title = report["metrics"].get(metric, {}).get("title", COLUMNS[metric])

    def cell(name: str) -> str:
        value = values[name]
        if not value or value["value"] is None:
            return f"–{notes.sign(_missing(report, metric, name))}"
        text = f"{value['value']:.{places}f}"
        if top is not None and name in own and text == f"{top:.{places}f}":  # what looks the same is as good
            text = f"**{text}**"
        warnings = [line for line in methods[name]["warnings"] if line.startswith(f"{title} ")]
        if value["low"] is not None and value["high"] is not None:
            text += f" [{value['low']:.{places}f}, {value['high']:.{places}f}]"
        return text + notes.sign(*warnings)

    return cell


def _missing(report: Mapping[str, Any], metric: str, name: str) -> str:
    """Why a method has no value; no word of which column, so that columns share the sentence."""
    if name == REFERENCE and metric in NOT_OF_REAL:
        return "Real video has no distance from itself, and no chunks."
    if metric in report["not_measured"]:
        return f"Not measured: {without_home(report['not_measured'][metric])}"
    clips = report["methods"][name]["clips"].values()
    reasons = sorted({note for clip in clips for note in clip["notes"]})
    why = "; ".join(reasons) or "no reason noted"
    return f"Not measured: none of this method's clips allows it ({why})."


def _samples(methods: Mapping[str, Any], shown: Sequence[str]) -> str:
    """How many samples each column rests on."""
    parts = []
    for metric, title in COLUMNS.items():
        values = [methods[name]["values"].get(metric) for name in shown if name != REFERENCE]
        counts = sorted({(value["samples"], value["of"]) for value in values if value})
        if counts:
            low, high = counts[0][0], counts[-1][0]
            parts.append(f"{title} {low:,}{f' to {high:,}' if high != low else ''} {counts[0][1]}")
    return f"Samples a row: {'; '.join(parts)}." if parts else ""


def _sampling(methods: Mapping[str, Any], shown: Sequence[str]) -> str:
    """With how many steps and what guidance our rows were sampled."""
    rows: dict[str, list[str]] = {}
    for name in shown:
        about = methods[name]["about"]
        if name in VARIANTS and "steps" in about:
            rows.setdefault(f"{about['steps']} steps, guidance {about['guidance_scale']:g}", []).append(name)
    said = [f"{how}: {', '.join(names)}" for how, names in rows.items()]
    return f"Sampled in {'; '.join(said)}." if said else ""


def other_systems(report: Mapping[str, Any] | None) -> list[str]:
    """The methods that are none of ours."""
    return [name for name in (report["methods"] if report else {}) if name not in VARIANTS and name != REFERENCE]


def at_moments(
    curve: Mapping[str, Sequence[float | None]], moments: Sequence[float], *, mean: bool
) -> list[float | None]:
    """A curve at the moments of figure 5, ``None`` where it does not reach or has no value.

    Args:
        curve: ``x`` in seconds and ``y``.
        moments: in seconds.
        mean: whether the curve is one of means of single seconds, which are averaged over the same window before each
            moment as the Fréchet distances are of; otherwise it has values at the moments themselves.
    """
    points = {x: y for x, y in zip(curve["x"], curve["y"], strict=True) if x is not None}
    if not mean:
        return [points.get(float(moment)) for moment in moments]
    window = float(min([WINDOW_SECONDS, *np.diff([0.0, *sorted(moments)])]))
    last = max(points, default=-1.0) + 1
    values: list[float | None] = []
    for moment in moments:
        inside = [y for x, y in points.items() if y is not None and moment - window <= x < moment]
        values.append(float(np.mean(inside)) if inside and moment <= last else None)
    return values


def followed(report: Mapping[str, Any] | None) -> dict[str, dict[str, list[float | None]]]:
    """By curve of figure 5 and method, its values at the report's moments."""
    if report is None:
        return {key: {} for key in CURVES}
    return {
        key: {
            name: at_moments(method["curves"][key], report["timestamps"], mean=key in MEANS)
            for name, method in report["methods"].items()
            if key in method["curves"]
        }
        for key in CURVES
    }


def long_name(name: str) -> str:
    """A method in the legend of a figure."""
    names = {STUDENT: OURS, TEACHER: "teacher, not distilled", REFERENCE: "real video"}
    symmetric = {method: title for title, method in TABLE_4.items() if method != STUDENT}
    return (names | symmetric | {"clip-teacher": "CLIP teacher, not distilled"}).get(name, name)


def why_missing(report: Mapping[str, Any] | None, key: str) -> str:
    """Why figure 5 has no such curve."""
    if report is None:
        return "the long clips were not measured"
    return without_home(report["not_measured"].get(key, "no clip reaches a moment"))


def figure_5(report: Mapping[str, Any] | None) -> Figure:
    """Fréchet distances and identity of long videos over time."""
    figure = Figure(figsize=(15, 3.8), layout="constrained")
    moments = report["timestamps"] if report else []
    names = list(report["methods"]) if report else []
    handles: dict[str, Any] = {}
    for axes, (key, curves) in zip(figure.subplots(1, len(CURVES)), followed(report).items(), strict=True):
        axes.set_title(CURVES[key])
        if not any(value is not None for values in curves.values() for value in values):
            axes.set_axis_off()
            reason = textwrap.fill(f"Not measured: {why_missing(report, key)}", 38)
            axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, parse_math=False)
            continue
        for index, name in enumerate(names):
            if name in curves:
                colour = "#555555" if name == REFERENCE else COLOURS[(index - 1) % len(COLOURS)]
                values = [np.nan if value is None else value for value in curves[name]]
                marker = MARKERS[index % len(MARKERS)]
                (handles[name],) = axes.plot(moments, values, color=colour, marker=marker, markersize=5)
        axes.set_xscale("log")
        axes.set_xticks(moments, [f"{moment:g}" for moment in moments])
        axes.minorticks_off()
        axes.set_xlim(0.8 * min(moments), 1.25 * max(moments))
        axes.set_xlabel("seconds of video")
        if key != "identity":
            axes.set_ylim(0, 1.08 * max(axes.get_ylim()[1], 1e-6))
    if handles:
        figure.legend(
            list(handles.values()), [long_name(name) for name in handles], loc="outside lower center", ncols=4
        )
    return figure


def figure_6(speeds: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Frames a second, a bar a model."""
    figure = Figure(figsize=(7, 1.4 + 0.55 * max(1, len(speeds))), layout="constrained")
    axes = figure.subplots()
    if not speeds:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "Speed was not measured.", ha="center", va="center")
        return figure
    names = list(speeds)[::-1]
    values = [speeds[name]["results"][0]["fps"] for name in names]
    bars = axes.barh([long_name(name) for name in names], values, color=COLOURS[0], height=0.6)
    axes.bar_label(bars, fmt="%.1f", padding=4)
    axes.axvline(FPS, color="#555555", linestyle="--", linewidth=1, label=f"{FPS} FPS: as fast as it plays")
    axes.set_xlim(0, 1.15 * max(*values, FPS))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"frames a second, {speeds[names[0]]['results'][0]['seconds']:g} s of sound")
    figure.legend(loc="outside lower center")
    return figure


def save(figure: Callable[[], Figure], path: Path) -> None:
    """Write a figure as SVG, whole."""
    with matplotlib.rc_context(STYLE), whole(path) as partial:
        figure().savefig(partial, format="svg", metadata={"Date": None})


def moments_table(report: Mapping[str, Any] | None) -> str:
    """The numbers of figure 5 as Markdown."""
    notes = Notes()
    moments = report["timestamps"] if report else []
    lines = [
        _line(["", "method", *(f"{moment:g} s" for moment in moments)]),
        _line(["---"] * 2 + ["---:"] * len(moments)),
    ]
    for key, curves in followed(report).items():
        numbers = [value for values in curves.values() for value in values if value is not None]
        places = decimals(numbers)
        for name, values in curves.items():
            cells = ["–" if value is None else f"{value:.{places}f}" for value in values]
            lines.append(_line([CURVES[key], row_title(long_name(name)), *cells]))
        if not numbers:
            sign = notes.sign(f"Not measured: {why_missing(report, key)}")
            lines.append(_line([CURVES[key] + sign, "", *["–"] * len(moments)]))
    return "\n".join([*lines, "", *notes.listed()]).rstrip() + "\n"


@dataclass(frozen=True)
class Training:
    """One run of ``asymtalker train`` or ``asymtalker distill``.

    Attributes:
        name: of the model that came of it.
        config: its settings.
        steps: done.
        seconds: they took, wall clock.
    """

    name: str
    config: dict[str, Any]
    steps: int
    seconds: float

    @property
    def teacher(self) -> bool:
        """Whether it is one, and not a student."""
        return "steps_per_sample" not in self.config


def read_trainings(folder: Path) -> list[Training]:
    """The runs that have logged something, teachers first."""
    trainings = []
    for path in sorted(folder.glob("*/config.json")):
        steps, seconds = 0, 0.0
        stats = path.with_name("stats.jsonl")
        for line in stats.read_text(encoding="utf-8").splitlines() if stats.is_file() else ():
            logged = json.loads(line)
            if "seconds_per_step" in logged:
                seconds += logged["seconds_per_step"] * (logged["step"] - steps)
                steps = logged["step"]
        if steps:
            config = json.loads(path.read_text(encoding="utf-8"))
            trainings.append(Training(path.parent.name, config, steps, seconds))
    return sorted(trainings, key=lambda training: not training.teacher)


def trained(trainings: Sequence[Training]) -> str:
    """What was trained, for how long, and by which settings the runs differ, as Markdown."""
    if not trainings:
        return "No training run was found.\n"
    lines = [_line(["run", "what", "steps", "clips a step", "seconds a step", "hours"])]
    lines.append(_line(["---"] * 2 + ["---:"] * 4))
    for run in trainings:
        wanted = run.config["loop"]["steps"]
        steps = f"{run.steps:,}" + ("" if run.steps >= wanted else f" of {wanted:,}: not finished")
        what = "teacher" if run.teacher else "student"
        times = [f"{run.seconds / run.steps:.2f}", f"{run.seconds / 3600:.2f}"]
        lines.append(_line([run.name, what, steps, str(run.config["loop"]["batch"]), *times]))
    corpora = sorted({run.config["inputs"]["corpus"] for run in trainings})
    seeds = sorted({run.config["loop"]["seed"] for run in trainings})
    sentences = [
        f"All on the clips of {', '.join(corpora)}, once, with seed {', '.join(map(str, seeds))}: the intervals in the"
        " tables are over clips, and say nothing of what another training of the same row would give.",
        "Teachers start from random weights, students from the teacher of their row.",
        *_differences("Teachers", [run for run in trainings if run.teacher]),
        *_differences("Students", [run for run in trainings if not run.teacher]),
    ]
    return "\n".join([*lines, "", *sentences]) + "\n"


def _differences(what: str, runs: Sequence[Training]) -> list[str]:
    """Settings in which some run differs from the first, as a sentence."""
    changed: set[str] = set()
    for run in runs[1:]:
        changed |= {line.split(":")[0] for line in difference(runs[0].config, run.config)}
    changed -= {"inputs.model"}
    if len(runs) < 2:
        return []
    return [f"{what} differ in {', '.join(sorted(changed))}." if changed else f"{what} have the same settings."]


def describe_speed(speeds: Mapping[str, Mapping[str, Any]], short: Mapping[str, Any] | None) -> str:
    """What figure 6 was measured on, and how fast other systems were when they made their videos."""
    lines = [] if speeds else ["- ours: not measured"]
    for name, report in speeds.items():
        machine, result = report["machine"], report["results"][0]
        lines.append(
            f"- {long_name(name)}: {result['fps']:.1f} FPS on {result['seconds']:g} s of sound (median of"
            f" {result['runs']}), {machine['steps']} steps, guidance {machine['guidance_scale']:g}, {machine['cpu']},"
            f" {machine['cores']} cores, {machine['threads']} threads, {machine['device']}, load average before"
            f" {machine['load_average_before']}"
        )
    for name in other_systems(short):
        if short and (fps := short["methods"][name]["values"].get("fps")):
            lines.append(
                f"- {row_title(name)}: {fps['value']:.2f} FPS over {fps['samples']} short clips, with loading of the"
                " weights each time: not in the figure, which is of other sound"
            )
    return "\n".join(lines) + "\n"


def read_speeds(out: Path) -> dict[str, dict[str, Any]]:
    """The reports of ``asymtalker bench generate`` by model, ours first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("speed/*.json"))}
    return {name: found[name] for name in sorted(found, key=lambda name: name != STUDENT)}


def measured_on(name: str, report: Mapping[str, Any] | None) -> str:
    """One line on a set of clips."""
    if report is None:
        return f"- {name}: not measured"
    real = report["reference"]
    length = real["seconds"] / max(1, real["clips"])
    return (
        f"- {name}: {real['clips']} held-out clips of {length:.4g} s on average, `{real['path']}`, measured"
        f" {report['date'][:10]} by AsymTalker {report['asymtalker']}"
    )


def document(out: Path, random_encoders: bool) -> str:
    """All of tables.md.

    Args:
        out: of ``runs/tables.sh``.
        random_encoders: whether the image encoders of the CLIP and VTP strategies have random weights.
    """
    short, long = read_json(out / "short" / "report.json"), read_json(out / "long" / "report.json")
    if short is None and long is None:
        raise SystemExit(f"{out} has no short/report.json and no long/report.json: run runs/tables.sh first.")
    remarks = dict.fromkeys(NEEDS, RANDOM) if random_encoders else {}
    real = (["real video"], REFERENCE)
    tables = {
        "Table 1: comparison": (["Method"], [*(([name], name) for name in other_systems(short)), ([OURS], STUDENT)]),
        "Table 2: modules": (
            ["TRE", "AKD", "Run"],
            [([*modules, name], name) for modules, name in TABLE_2.items()],
        ),
        "Table 3: identity strategies": (["Setting"], [([title], name) for title, name in TABLE_3.items()]),
        "Table 4: continuity references": (
            ["Setting (teacher / student)"],
            [([title], name) for title, name in TABLE_4.items()],
        ),
    }
    parts = [INTRODUCTION, "\n".join([measured_on("short", short), measured_on("long", long)]) + "\n"]
    for title, (heads, rows) in tables.items():
        parts += [f"## {title}\n", *([OFF] if rows[0][1] == "clip-teacher" else [])]
        last = ([*[""] * (len(heads) - 1), real[0][0]], REFERENCE)
        parts.append(table(short, [*rows, last], heads, remarks))
    parts += [
        "## Figure 5: long videos\n\n![Figure 5](figure5.svg)\n",
        "Of the five seconds before each moment, or fewer where moments are closer together; means over the clips.\n",
        moments_table(long),
        "## Figure 6: speed\n\n![Figure 6](figure6.svg)\n",
        describe_speed(read_speeds(out), short),
        "## What was trained\n",
        trained(read_trainings(out / "runs")),
    ]
    return "\n".join(parts)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description="Tables 1 to 4 and figures 5 and 6 from what runs/tables.sh measured."
    )
    parser.add_argument("out", type=Path, help="folder that runs/tables.sh wrote")
    parser.add_argument("--random-encoders", action="store_true", help="mark the rows of CLIP and VTP")
    arguments = parser.parse_args()
    out: Path = arguments.out
    text = document(out, arguments.random_encoders)
    long, speeds = read_json(out / "long" / "report.json"), read_speeds(out)
    save(lambda: figure_5(long), out / "figure5.svg")
    save(lambda: figure_6(speeds), out / "figure6.svg")
    write_whole(out / "tables.md", text)
    print(out / "tables.md")


if __name__ == "__main__":
    main()
