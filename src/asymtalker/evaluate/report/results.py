"""The report's main table: a metric a row, a method a column, the best of them marked."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from asymtalker.evaluate.clips import REFERENCE
from asymtalker.evaluate.report.formatting import NO_VALUE, decimal, minutes, places_for

BETTER = {"low": "↓", "high": "↑", "near": "≈"}


def results_table(report: dict[str, Any]) -> str:
    """The main table, a metric a row: methods are columns, since there are fewer of them."""
    methods, notes = report["methods"], _Notes(report)
    rows = []
    for metric, about in report["metrics"].items():
        values = {name: method["values"].get(metric) for name, method in methods.items()}
        if not any(values.values()) and metric in report["not_measured"]:
            continue
        best, decimals = best_methods(methods, metric, about["better"]), places_for(_shown(values.values()))
        cells = "".join(
            f"<td{_reference_class(name)}>{_cell(value, decimals, name in best, notes.signs(name, metric))}</td>"
            for name, value in values.items()
        )
        unit = f'<br><span class="small muted">{escape(about["unit"])}</span>' if about["unit"] else ""
        rows.append(
            f'<tr><th scope="row">{escape(about["title"])}&nbsp;{BETTER[about["better"]]}{unit}</th>{cells}</tr>'
        )
    heads = "".join(f'<th scope="col"{_reference_class(name)}>{_column(name, methods[name])}</th>' for name in methods)
    key = (
        "Values with their 95% intervals and the number of samples. ↓ less is better, ↑ more is better, ≈ should be as"
        f" in the {REFERENCE}, the real clips: no method is best there."
    )
    if len([name for name in methods if name != REFERENCE]) > 1:
        key += (
            " ★ and bold: best method, where the same clips of all were measured; where intervals overlap, another"
            " choice of clips may order them differently."
        )
    return (
        f'<p class="small muted">{key}</p><div class="scroll"><table class="results numbers sticky">'
        f'<thead><tr><th scope="col">Metric</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f"{notes.listed()}{_meanings(report)}"
    )


def _meanings(report: dict[str, Any]) -> str:
    listed = "".join(
        f"<dt>{escape(about['title'])}</dt><dd>{escape(about['about'])}</dd>" for about in report["metrics"].values()
    )
    return (
        f'<details><summary>What the numbers are</summary><dl class="facts">{listed}</dl>'
        '<p class="small muted">More in docs/evaluation.md of AsymTalker\'s code.</p></details>'
    )


def _reference_class(name: str) -> str:
    return ' class="reference"' if name == REFERENCE else ""


def _column(name: str, method: dict[str, Any]) -> str:
    seconds = sum(clip["seconds"] for clip in method["clips"].values())
    failed = f"<br>{len(method['failed'])} failed" if method["failed"] else ""
    size = f"{len(method['clips'])} clips<br>{minutes(seconds)}{failed}"
    return f'{escape(name)}<br><span class="small muted">{size}</span>'


def best_methods(methods: Mapping[str, Any], metric: str, better: str) -> set[str]:
    """Methods of a report, without the reference, that have the best value; none if only one has a value.

    Nor is there a best one among methods of which other clips were measured, or whose value rests on too little.
    """
    own = {
        name: method["values"][metric]["value"]
        for name, method in methods.items()
        if name != REFERENCE and method["values"].get(metric, {}).get("value") is not None
    }
    measured = {frozenset(methods[name]["clips"]) for name in own}
    doubtful = any(warning["metric"] == metric for name in own for warning in methods[name]["warnings"])
    if better == "near" or len(own) < 2 or len(measured) > 1 or doubtful:
        return set()
    best = (min if better == "low" else max)(own.values())
    return {name for name, value in own.items() if value == best}


def _shown(values: Iterable[Any]) -> list[float]:
    return [value[key] for value in values if value for key in ("value", "low", "high") if value[key] is not None]


def _cell(value: Any, decimals: int, best: bool, signs: str) -> str:
    if not value or value["value"] is None:
        return NO_VALUE + signs
    text = decimal(value["value"], decimals)
    if best:
        text = f'<span class="star" title="best">★</span><b>{text}</b>'
    interval = ""
    if value["low"] is not None and value["high"] is not None:
        low, high = (decimal(value[key], decimals) for key in ("low", "high"))
        interval = f'<span class="span small">{low} to {high}</span>'
    samples = f'<span class="span small muted">{value["samples"]:,} {escape(value["of"])}</span>'
    return f"{text}{signs}{interval}{samples}"


class _Notes:
    """Warnings, numbered as footnotes of the cells they concern; those of curves are shown with the curves."""

    def __init__(self, report: dict[str, Any]):
        self._lines: list[str] = []
        self._numbers: dict[tuple[str, str | None], list[int]] = {}
        for name, method in report["methods"].items():
            for warning in method["warnings"]:
                if warning["curve"] is None:
                    self._lines.append(f"{name}: {warning['text']}")
                    self._numbers.setdefault((name, warning["metric"]), []).append(len(self._lines))

    def signs(self, name: str, metric: str) -> str:
        numbers = self._numbers.get((name, metric), [])
        return "".join(f'<sup><a href="#note-{number}">{number}</a></sup>' for number in numbers)

    def listed(self) -> str:
        if not self._lines:
            return ""
        items = "".join(f'<li id="note-{i}">{escape(line)}</li>' for i, line in enumerate(self._lines, 1))
        return f'<div class="remark"><h3>Warnings</h3><ol class="notes">{items}</ol></div>'
