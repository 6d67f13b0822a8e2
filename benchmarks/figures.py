"""Figures 5 and 6: drawn, and as numbers."""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from asymtalker.evaluate.clips import REFERENCE
from asymtalker.evaluate.measure.summary import WINDOW_SECONDS
from asymtalker.media.atomic import atomic_path
from asymtalker.timeline import FPS
from cells import Notes, decimals, escaped, line
from variants import STUDENT, long_name, other_systems

CURVES = {
    "fid": "FID",
    "fd_face": "Fréchet distance, expressions",
    "identity": "ArcFace similarity",
    "face_distance": "Distance of dlib's embeddings",
}
MEANS = ("identity", "face_distance")
"""Curves whose points are of single seconds: a moment's is the mean of the seconds before it."""
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


def followed(report: Mapping[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """By curve of figure 5 and method, its values at the report's moments."""
    return {
        key: {
            name: at_moments(method["curves"][key], report["timestamps"], mean=key in MEANS)
            for name, method in report["methods"].items()
            if key in method["curves"]
        }
        for key in CURVES
    }


def why_missing(report: Mapping[str, Any], key: str) -> str:
    """Why figure 5 has no such curve."""
    return f"Not measured: {report['not_measured'].get(key, 'no clip reaches a moment')}"


def figure_5(report: Mapping[str, Any]) -> Figure:
    """Fréchet distances and identity of long videos over time."""
    figure = Figure(figsize=(15, 3.8), layout="constrained")
    moments, names = report["timestamps"], list(report["methods"])
    handles: dict[str, Any] = {}
    for axes, (key, curves) in zip(figure.subplots(1, len(CURVES)), followed(report).items(), strict=True):
        axes.set_title(CURVES[key])
        if not any(value is not None for values in curves.values() for value in values):
            axes.set_axis_off()
            reason = textwrap.fill(why_missing(report, key), 38)
            axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, parse_math=False)
            continue
        for name, values in curves.items():
            index = names.index(name)  # the same look in all panels; the first method is the real clips
            colour = "#555555" if name == REFERENCE else COLOURS[(index - 1) % len(COLOURS)]
            marker = MARKERS[index % len(MARKERS)]
            numbers = [np.nan if value is None else value for value in values]
            (handles[name],) = axes.plot(moments, numbers, color=colour, marker=marker, markersize=5)
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


def moments_table(report: Mapping[str, Any]) -> str:
    """The numbers of figure 5 as Markdown."""
    notes, moments = Notes(), report["timestamps"]
    lines = [
        line(["", "method", *(f"{moment:g} s" for moment in moments)]),
        line(["---"] * 2 + ["---:"] * len(moments)),
    ]
    for key, curves in followed(report).items():
        numbers = [value for values in curves.values() for value in values if value is not None]
        places = decimals(numbers)
        for name, values in curves.items():
            warnings = report["methods"][name]["warnings"]
            sign = notes.sign(*(warning["text"] for warning in warnings if warning["curve"] == key))
            cells = ["–" if value is None else f"{value:.{places}f}" for value in values]
            lines.append(line([CURVES[key], escaped(long_name(name)) + sign, *cells]))
        if not numbers:
            lines.append(line([CURVES[key] + notes.sign(why_missing(report, key)), "", *["–"] * len(moments)]))
    return "\n".join([*lines, "", notes.listed()]).rstrip() + "\n"


def read_speeds(out: Path) -> dict[str, dict[str, Any]]:
    """The reports of ``asymtalker bench generate`` by model, ours first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("speed/*.json"))}
    return {name: found[name] for name in sorted(found, key=lambda name: name != STUDENT)}


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


def describe_speed(speeds: Mapping[str, Mapping[str, Any]], short: Mapping[str, Any]) -> str:
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
        if fps := short["methods"][name]["values"].get("fps_loaded"):
            lines.append(
                f"- {escaped(name)}: {fps['value']:.2f} FPS over {fps['samples']} short clips, with loading of the"
                " weights each time: not in the figure, which is of other sound"
            )
    return "\n".join(lines) + "\n"


def save(figure: Callable[[], Figure], path: Path) -> None:
    """Write a figure as SVG, whole."""
    with matplotlib.rc_context(STYLE), atomic_path(path) as partial:
        figure().savefig(partial, format="svg", metadata={"Date": None})
