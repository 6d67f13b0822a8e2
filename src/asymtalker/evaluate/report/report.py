"""The report of ``asymtalker evaluate``: numbers as JSON and CSV, and one HTML page that needs no other file."""

import csv
import io
import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from asymtalker.errors import UserError
from asymtalker.evaluate.clips import REFERENCE, Clip
from asymtalker.evaluate.measure.signals import SAME_BY_DLIB, SAME_PERSON
from asymtalker.evaluate.report import pictures, plots
from asymtalker.evaluate.report.formatting import NO_VALUE, decimal, duration, minutes, places_for, seconds_text
from asymtalker.evaluate.report.results import results_table
from asymtalker.media.atomic import write_atomic

COLUMNS = ("method", "metric", "title", "unit", "better", "value", "low", "high", "samples", "of")
"""Of report.csv."""
CURVES = {
    "identity": ("Identity", "cosine similarity to the portrait", "Mean of each second."),
    "face_distance": ("Identity by dlib's network", "distance from the portrait", "Mean of each second."),
    "fid": ("FID", "FID", "Of frames in the seconds, five at most, before each time."),
    "fd_face": (
        "Fréchet distance of expressions",
        "Fréchet distance",
        "Of frames in the seconds, five at most, before each time.",
    ),
    "colour": ("Colour", "Delta E from the first second", "Distance of each second's mean colour from the first's."),
    "contrast": ("Contrast", "ratio to the first second", "Contrast of each second over the first's."),
}
"""Title, label of the axis, and what the points are."""
THRESHOLDS = {
    "identity": (SAME_PERSON, f"same person from {SAME_PERSON}"),
    "face_distance": (SAME_BY_DLIB, f"same person up to {SAME_BY_DLIB}"),
}
SPANS = {"contrast": (0.9, 1.1)}
"""What an axis shows at least, of curves that do not begin at 0."""
HISTOGRAMS = {"sync_c": "sync_c_shuffled", "sync_offset": None, "lip_correlation": "lip_correlation_shuffled"}
"""Metrics whose values of single clips are drawn, and what the same is with another clip's sound or truth."""
WHOLE_NUMBERS = ("sync_offset",)


def write_report(report: dict[str, Any], methods: Mapping[str, Mapping[str, Clip]], out: Path) -> None:
    """Write report.json, report.csv and index.html into the folder ``out``, each whole.

    Clips are read again for the pictures; one that can't be read is named in the page with the reason.

    Args:
        report: what report.json is to hold; a number that is missing is ``None``, not NaN.

            - ``asymtalker``, ``date``, ``command``: texts; ``machine``: texts by name.
            - ``cost``: ``measured_seconds``, ``video_minutes``.
            - ``reference``: ``path``, ``clips``, ``seconds``, ``size`` (height and width in pixels).
            - ``networks``: by name ``file``, ``sha256``, ``origin``, ``licence``; ``missing``, a reason or ``None``.
            - ``timestamps``: seconds at which curves are followed.
            - ``metrics``: by metric ``title``, ``unit``, ``better``, ``about``, as in
              :data:`asymtalker.evaluate.measure.metrics.METRICS`.
            - ``methods``: by name, the reference first, the ``values``, ``clips``, ``curves`` and ``warnings`` of a
              :class:`asymtalker.evaluate.measure.summary.Summary` (a warning is ``text``, ``metric`` and ``curve`` of
              its ``Caveat``), ``failed``: reasons by clip, and ``about``.
            - ``not_measured``: reasons by metric.
        methods: the clips of each method, by name.
        out: the folder; it is made, files of these names are replaced.

    Raises:
        UserError: if a file can't be written.
    """
    _write(out / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    _write(out / "report.csv", _csv(report))
    _write(out / "index.html", _page(report, methods))


def _write(path: Path, text: str) -> None:
    # File names may hold bytes that are no text, which Python carries as surrogates and UTF-8 has no place for
    write_atomic(path, text.encode("utf-8", "replace").decode("utf-8"))


def _csv(report: dict[str, Any]) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(COLUMNS)
    for name, method in report["methods"].items():
        for metric, about in report["metrics"].items():
            if value := method["values"].get(metric):
                numbers = [value[key] for key in ("value", "low", "high", "samples", "of")]
                rows.writerow([name, metric, about["title"], about["unit"], about["better"], *numbers])
    return out.getvalue()


def _page(report: dict[str, Any], methods: Mapping[str, Mapping[str, Clip]]) -> str:
    looks = plots.styles(list(report["methods"]))
    sections = {
        "results": ("Results", results_table(report)),
        "time": ("Over time", _curves(report, looks)),
        "lips": ("Lips and sound, clip by clip", _histograms(report, looks)),
        "pictures": ("Pictures", _pictures(report, methods)),
        "clips": ("Clips", _clips(report)),
        "made": ("How this was made", _networks(report) + _about(report)),
    }
    links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, (title, _) in sections.items())
    parts = [
        f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>' for key, (title, body) in sections.items()
    ]
    names = ", ".join(name for name in report["methods"] if name != REFERENCE)
    css = resources.files("asymtalker.evaluate.report").joinpath("report.css").read_text(encoding="utf-8")
    # The policy has the browser itself refuse whatever is not in this file
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Evaluation: {escape(names)}</title>\n<style>\n{css}</style>\n</head>\n<body>",
            _head(report),
            f'<nav aria-label="Contents">{links}</nav>',
            *parts,
            "</body>\n</html>\n",
        ]
    )


def _head(report: dict[str, Any]) -> str:
    """What was measured against what, and what was not."""
    real, cost = report["reference"], report["cost"]
    others = [name for name in report["methods"] if name != REFERENCE]
    height, width = real["size"]
    clips = ", ".join(f"{name} ({len(report['methods'][name]['clips'])} clips)" for name in others)
    took = f"{duration(cost['measured_seconds'])} for {decimal(cost['video_minutes'], 1)} minutes of video"
    facts = {
        "Reference": f"{escape(real['path'])}<br>{real['clips']} clips, {minutes(real['seconds'])}, "
        f"pictures compared at {width}×{height} pixels",
        "Methods": escape(clips),
        "Took": took if cost["video_minutes"] else "all was measured before",
        "Machine": "<br>".join(f"{escape(key)}: {escape(str(text))}" for key, text in report["machine"].items()),
        "Version": f"AsymTalker {escape(report['asymtalker'])}",
        "Date": escape(report["date"]),
        "Command": f"<code>{escape(report['command'])}</code>",
    }
    listed = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in facts.items() if value)
    methods = "1 method" if len(others) == 1 else f"{len(others)} methods"
    return (
        f"<header><h1>Evaluation of {methods} against {real['clips']} reference clips</h1>"
        f'<dl class="facts">{listed}</dl>{_not_measured(report)}</header>'
    )


def _not_measured(report: dict[str, Any]) -> str:
    if not report["not_measured"]:
        return '<p class="muted">Every metric was measured.</p>'
    by_reason: dict[str, list[str]] = {}
    for metric, reason in report["not_measured"].items():
        by_reason.setdefault(reason, []).append(_title(report, metric))
    items = "".join(
        f"<li><b>{escape('; '.join(titles))}</b>: {escape(reason)}</li>" for reason, titles in by_reason.items()
    )
    return f'<div class="remark"><h2>Not measured</h2><ul>{items}</ul></div>'


def _title(report: dict[str, Any], metric: str) -> str:
    about = report["metrics"].get(metric)
    return about["title"] if about else metric.replace("_", " ")


def _curves(report: dict[str, Any], looks: Mapping[str, plots.Style]) -> str:
    every = [curve for method in report["methods"].values() for curve in method["curves"].values()]
    log_time = plots.spans_decade(every, report["timestamps"])
    figures = []
    for key, (title, label, points) in CURVES.items():
        curves = {name: method["curves"][key] for name, method in report["methods"].items() if key in method["curves"]}
        if not curves:
            continue
        drawing = plots.curve_figure(key, label, curves, looks, log_time, THRESHOLDS.get(key), SPANS.get(key, (0, 0)))
        legend = "".join(
            f"<li>{_sign(looks[name])}{escape(name)}{_count(curve)}</li>" for name, curve in curves.items()
        )
        caveats = "".join(
            f"<br>{escape(name)}: {escape(warning['text'])}"
            for name in curves
            for warning in report["methods"][name]["warnings"]
            if warning["curve"] == key
        )
        figures.append(
            f"<figure><h3>{title}</h3>{drawing}"
            f'<figcaption><ul class="legend">{legend}</ul>{points}{caveats}</figcaption></figure>'
        )
    if not figures:
        return "<p>No curve could be measured.</p>"
    return (
        "<p>Means over the clips that last that long: where clips end, those that remain may be different people.</p>"
        f'<div class="figures">{"".join(figures)}</div>'
    )


def _sign(look: plots.Style) -> str:
    return f'<span class="sign" style="color:{look.colour}" aria-hidden="true">{look.sign}</span>'


def _count(curve: plots.Curve) -> str:
    """Of one that rests on equally many clips everywhere; else the figure shows the numbers."""
    counts = set(curve["clips"])
    return f' <span class="muted">({counts.pop():.0f} clips)</span>' if len(counts) == 1 else ""


def _histograms(report: dict[str, Any], looks: Mapping[str, plots.Style]) -> str:
    columns = []
    for metric, shuffled in HISTOGRAMS.items():
        own = {name: _of_clips(method, metric) for name, method in report["methods"].items()}
        other = {name: _of_clips(method, shuffled) for name, method in report["methods"].items()}
        together = [value for values in (*own.values(), *other.values()) for value in values]
        if not together:
            continue
        edges = plots.bins(together, metric in WHOLE_NUMBERS)
        unit = report["metrics"].get(metric, {}).get("unit") or _title(report, metric)
        rows = [
            f'<div class="row">{_sign(looks[name])}{escape(name)}'
            + plots.histogram(f"{metric}-{index}", unit, values, other[name], edges, looks[name])
            + "</div>"
            for index, (name, values) in enumerate(own.items())
            if values
        ]
        columns.append(f"<div><h3>{escape(_title(report, metric))}</h3>{''.join(rows)}</div>")
    if not columns:
        return "<p>Neither lip sync nor lip aperture could be measured.</p>"
    key = (
        '<ul class="legend"><li><span class="bar full"></span>a clip with its own sound or truth</li>'
        '<li><span class="bar line"></span>the same picture with another clip’s: what chance gives</li></ul>'
    )
    return f'{key}<div class="figures bars">{"".join(columns)}</div>'


def _of_clips(method: dict[str, Any], metric: str | None) -> list[float]:
    values = (clip.get(metric) for clip in method["clips"].values())
    return [value for value in values if value is not None]


def _pictures(report: dict[str, Any], methods: Mapping[str, Mapping[str, Clip]]) -> str:
    """Chosen clips, each with all methods under each other."""
    measured = {name: [clip for clip in method["clips"] if clip in methods.get(name, {})]
                for name, method in report["methods"].items()}  # fmt: skip
    chosen = pictures.choose_clips({name: clips for name, clips in measured.items() if clips})
    samples = sum(len(clips[: pictures.SAMPLES]) for clips in chosen.values())
    problems: list[str] = []
    parts = []
    for clip in dict.fromkeys(clip for clips in chosen.values() for clip in clips):
        videos, strips = [], []
        for name, clips in chosen.items():
            if clip not in clips:
                continue
            room = pictures.SAMPLES_BYTES // samples if clip in clips[: pictures.SAMPLES] else None
            try:
                shown = pictures.show_clip(
                    methods[name][clip], report["methods"][name]["clips"][clip]["seconds"], room
                )
            except UserError as error:
                problems.append(f"<li>{escape(name)}, {escape(clip)}: {escape(str(error))}</li>")
                continue
            strips.append(_strip(name, shown))
            videos.append(_video(name, shown) if shown.sample else "")
        playable = f'<div class="samples">{"".join(videos)}</div>' if any(videos) else ""
        parts.append(f"<h3>{escape(clip)}</h3>{playable}{''.join(strips)}")
    if problems:
        parts.insert(0, f'<div class="remark"><h3>Not shown</h3><ul>{"".join(problems)}</ul></div>')
    if not chosen:
        return "<p>There is no clip to show.</p>"
    return (
        f"<p>{pictures.FRAMES} frames from the first to the last of each clip, and samples to play: the beginnings of"
        f" clips, cut to at most {pictures.SAMPLE_SECONDS} seconds, at most {pictures.SAMPLE_SIZE[0]} pixels high and"
        f" compressed again.</p>{''.join(parts)}"
    )


def _strip(name: str, shown: pictures.Shown) -> str:
    height, width = shown.size
    frames = "".join(
        f'<figure><img src="{uri}" width="{width}" height="{height}" alt="{escape(name)} at {seconds_text(at)}">'
        f"<figcaption>{seconds_text(at)}</figcaption></figure>"
        for at, uri in shown.frames
    )
    most = (width + 3) * pictures.FRAMES
    return f'<div class="strip" style="--strip:{most}px"><p>{escape(name)}</p><div class="frames">{frames}</div></div>'


def _video(name: str, shown: pictures.Shown) -> str:
    silent = ", no sound" if shown.silent else ""
    return (
        f'<figure><video controls playsinline preload="metadata" src="{shown.sample}"></video>'
        f"<figcaption>{escape(name)}<br>first {seconds_text(shown.sample_seconds)}{silent}</figcaption></figure>"
    )


def _clips(report: dict[str, Any]) -> str:
    """Failures in sight; all numbers of all clips on demand."""
    failed = "".join(
        f"<li><b>{escape(name)}, {escape(clip)}</b>: {escape(reason)}</li>"
        for name, method in report["methods"].items()
        for clip, reason in method["failed"].items()
    )
    parts = [
        f'<div class="remark"><h3>Failed</h3><ul>{failed}</ul></div>' if failed else "<p>No clip failed.</p>",
    ]
    for name, method in report["methods"].items():
        if method["clips"]:
            parts.append(
                f"<details><summary>{escape(name)}: {len(method['clips'])} clips</summary>"
                f"{_clip_table(report, method['clips'])}</details>"
            )
    return "".join(parts)


def _clip_table(report: dict[str, Any], clips: Mapping[str, Mapping[str, Any]]) -> str:
    keys = {key for clip in clips.values() for key in clip} - {"seconds", "notes"}
    order = ["seconds", *(key for key in report["metrics"] if key in keys), *sorted(keys - set(report["metrics"]))]
    decimals = {key: places_for([clip[key] for clip in clips.values() if clip.get(key) is not None]) for key in order}
    heads = "".join(f'<th scope="col">{escape(_title(report, key))}</th>' for key in order)
    rows = []
    for name, clip in clips.items():
        cells = "".join(
            f"<td>{NO_VALUE if clip.get(key) is None else decimal(clip[key], decimals[key])}</td>" for key in order
        )
        notes = "<br>".join(escape(note) for note in clip["notes"])
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}<td class="text">{notes}</td></tr>')
    return (
        '<div class="scroll"><table class="wide numbers sticky">'
        f'<thead><tr><th scope="col">Clip</th>{heads}<th scope="col" class="text">Notes</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _networks(report: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f"<td>{'missing: ' + escape(about['missing']) if about['missing'] else 'used'}</td>"
        f"<td>{_text(about['licence'])}</td>"
        f'<td class="file">{_text(about["file"])}<br><code class="muted">{_text(about["sha256"])}</code></td>'
        f"<td>{_text(about['origin'])}</td></tr>"
        for name, about in report["networks"].items()
    )
    if not rows:
        return "<p>No published network was used.</p>"
    heads = "".join(
        f'<th scope="col">{head}</th>' for head in ("Network", "", "Licence", "File and SHA-256", "Origin")
    )
    return (
        f'<h3>Networks</h3><div class="scroll"><table class="networks"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _about(report: dict[str, Any]) -> str:
    parts = [
        f"<details><summary>{escape(name)}</summary>"
        f"<pre>{escape(json.dumps(method['about'], indent=2, ensure_ascii=False))}</pre></details>"
        for name, method in report["methods"].items()
        if method["about"]
    ]
    return f"<h3>What the methods say of themselves</h3>{''.join(parts)}" if parts else ""


def _text(value: Any) -> str:
    return NO_VALUE if value in (None, "") else escape(str(value))
