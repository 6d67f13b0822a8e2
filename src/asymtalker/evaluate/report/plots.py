"""Figures of the report: curves over time and histograms as inline SVG, in the colours and the font of the page."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from asymtalker.evaluate.clips import REFERENCE

MARKERS = {"o": "●", "s": "■", "D": "◆", "^": "▲", "v": "▼"}
"""Matplotlib's signs and the letters that stand for them in a legend."""
COLOURS = 6
"""``--m0`` to ``--m5`` of report.css. Six and five signs have no common divisor: thirty methods all look different."""
SIGNS = 10
"""Of the method along its curve."""
BINS = 20
# Matplotlib can only write fixed colours: these stand for the page's, which differ between light and dark.
_INK, _MUTED, _RULE, _METHOD = "#010101", "#010102", "#010103", "#0101f{}"
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "asymtalker",  # the same numbers give the same file
    "text.parse_math": False,
    "font.size": 10.5,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": _RULE,
    "grid.linewidth": 0.6,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "lines.markersize": 5,
}

Curve = Mapping[str, Sequence[float | None]]
"""``x`` in seconds, ``y`` (``None`` where there is no value), and ``clips``, the number of clips behind each point."""


@dataclass(frozen=True)
class Style:
    """How a method looks in all figures; signs differ too, so that nothing hangs on colour alone.

    Attributes:
        drawn: the colour for Matplotlib, which :func:`_svg` replaces by ``colour``.
        colour: of the page, as CSS.
        marker: for Matplotlib.
        sign: the same as a letter.
    """

    drawn: str
    colour: str
    marker: str
    sign: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """The looks of the methods; the reference is drawn in the colour of text, with open circles."""
    looks = {REFERENCE: Style(_INK, "currentColor", "o", "○")}
    for index, name in enumerate(name for name in names if name != REFERENCE):
        marker, sign = list(MARKERS.items())[index % len(MARKERS)]
        colour = index % COLOURS
        looks[name] = Style(_METHOD.format(colour), f"var(--m{colour})", marker, sign)
    return {name: looks[name] for name in names}


def spans_decade(curves: Sequence[Curve], timestamps: Sequence[float]) -> bool:
    """Whether the timestamps that some curve reaches span more than a decade, so that time is drawn log-spaced."""
    longest = max((x + 1 for curve in curves for x in curve["x"] if x is not None), default=0)  # +1: starts of seconds
    reached = [time for time in timestamps if 0 < time <= longest]
    return bool(reached) and max(reached) > 10 * min(reached)


def curve_figure(
    key: str,
    label: str,
    curves: Mapping[str, Curve],
    looks: Mapping[str, Style],
    log_time: bool,
    threshold: tuple[float, str] | None = None,
    span: tuple[float, float] = (0.0, 0.0),
) -> str:
    """One SVG with the curves of all methods, and a strip with the numbers of clips below if these vary.

    Args:
        key: of the figure; its identifiers begin with it.
        label: of the vertical axis.
        curves: by method.
        looks: by method.
        log_time: whether time is log-spaced.
        threshold: where to draw a level line, and its name.
        span: what the vertical axis shows at least, or small changes would look large.
    """
    counted = any(len(set(curve["clips"])) > 1 for curve in curves.values())
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(5.4, 3.4 if counted else 2.9), layout="constrained")
        if counted:
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(5, 1))
            _draw_counts(lower, curves, looks)
        else:
            upper = lower = figure.subplots()
        for name, curve in curves.items():
            look = looks[name]
            x, y = _points(curve, "y")
            upper.plot(
                x,
                y,
                color=look.drawn,
                marker=look.marker,
                markerfacecolor="none" if name == REFERENCE else look.drawn,
                markevery=_signed(x, log_time),
                linewidth=1.6 if len(x) <= 100 else 1.1,
            )
        if threshold is not None:
            level, name = threshold
            upper.axhline(level, color=_MUTED, linewidth=1, linestyle=(0, (5, 3)))
            upper.annotate(
                name, (1, level), (0, 3), ha="right", xycoords=("axes fraction", "data"), textcoords="offset points",
                fontsize=9, color=_MUTED,
            )  # fmt: skip
        upper.set_ylabel(label)
        upper.margins(x=0.02)
        low, high = upper.get_ylim()
        upper.set_ylim(min(low, span[0]), max(high, span[1]))
        lower.set_xlabel("seconds, log-spaced" if log_time else "seconds")
        if log_time:
            upper.set_xscale("log")
            lower.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            lower.xaxis.set_major_formatter("{x:g}")
            lower.xaxis.set_minor_locator(NullLocator())
        else:
            upper.set_xlim(left=0)
        return _svg(figure, key, f"{label} over time")


def _points(curve: Curve, which: str) -> tuple[np.ndarray, np.ndarray]:
    """A curve's points as arrays; seconds are drawn at their middles, which a log axis needs for the first too."""
    x, y = np.array(curve["x"], float), np.array(curve[which], float)  # None becomes NaN: a gap
    return (x + 0.5 if len(x) and x[0] == 0 else x), y


def _signed(x: np.ndarray, log_time: bool) -> list[int]:
    """Which points bear a method's sign: all of a few, else some that lie evenly along the axis."""
    if len(x) <= SIGNS:
        return list(range(len(x)))
    place = np.log(x) if log_time else x
    return np.unique(np.searchsorted(place, np.linspace(place[0], place[-1], SIGNS))).tolist()


def _draw_counts(axes: Axes, curves: Mapping[str, Any], looks: Mapping[str, Style]) -> None:
    alike: dict[tuple, list[str]] = {}
    for name, curve in curves.items():
        alike.setdefault((tuple(curve["x"]), tuple(curve["clips"])), []).append(name)
    for names in alike.values():
        colour = looks[names[0]].drawn if len(names) == 1 else _INK
        x, y = _points(curves[names[0]], "clips")
        axes.plot(x, y, color=colour, linewidth=1.2, drawstyle="steps-mid", marker="." if len(x) <= 12 else "")
    most = max(max(curve["clips"]) for curve in curves.values() if curve["clips"])
    axes.set_ylim(0, 1.15 * most)
    axes.set_yticks([0, most])
    axes.set_ylabel("clips")


def bins(values: Sequence[float], whole: bool) -> list[float]:
    """Edges of the bars of a histogram; ``whole`` numbers get one bar each. There is at least one value."""
    if whole:
        return np.arange(np.floor(min(values)) - 0.5, np.ceil(max(values)) + 1).tolist()
    low, high = min(values), max(values)
    room = 0.5 if low == high else 0.0
    return np.linspace(low - room, high + room, BINS + 1).tolist()


def histogram(
    key: str, label: str, values: Sequence[float], shuffled: Sequence[float], edges: list[float], look: Style
) -> str:
    """One small SVG: ``values`` as filled bars, ``shuffled`` as an outline.

    Args:
        key: of the figure; its identifiers begin with it.
        label: of the horizontal axis.
        values: of true pairs, one a clip.
        shuffled: of clips with another clip's sound.
        edges: of the bars.
        look: of the method.
    """
    with matplotlib.rc_context(_SETTINGS | {"axes.grid.axis": "y"}):
        figure = Figure(figsize=(4.4, 1.35))
        axes = figure.add_axes((0.11, 0.36, 0.87, 0.58))  # fixed, so that those of all methods stand in line
        axes.hist(values, edges, color=look.drawn, alpha=0.75, rwidth=0.92)
        if shuffled:
            axes.hist(shuffled, edges, histtype="step", color=_INK, linewidth=1.3)
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, None)
        axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))
        axes.xaxis.set_major_locator(MaxNLocator(7, integer=edges[0] % 1 == 0.5))
        axes.set_ylabel("clips")
        axes.set_xlabel(label)
        return _svg(figure, key, f"Histogram: {label}")


def _svg(figure: Figure, key: str, title: str) -> str:
    """The figure as an ``<svg>`` element that can stand in a page beside others."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # The style element would hold for the whole page; the rest is of no use there and names foreign addresses
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{key}-', body).replace("url(#", f"url(#{key}-")
    colours = {_INK: "currentColor", _MUTED: "var(--muted)", _RULE: "var(--rule)"}
    colours |= {_METHOD.format(index): f"var(--m{index})" for index in range(COLOURS)}
    for drawn, colour in colours.items():
        body = body.replace(drawn, colour)
    return f'<svg {box[0]} role="img" aria-label="{escape(title)}">{body}'
