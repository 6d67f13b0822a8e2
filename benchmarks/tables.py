"""Tables 1 to 4 and figures 5 and 6 in the paper's form, from what ``runs/tables.sh`` trained and measured.

    python benchmarks/tables.py OUT

reads ``OUT/short/report.json``, ``OUT/long/report.json``, ``OUT/speed/*.json`` and ``OUT/runs/*``, of which any may be
missing, and writes ``OUT/tables.md``, ``OUT/figure5.svg`` and ``OUT/figure6.svg``.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asymtalker.evaluate.clips import REFERENCE
from asymtalker.evaluate.measure.metrics import METRICS
from asymtalker.evaluate.measure.signals import SAME_BY_DLIB
from asymtalker.evaluate.report.results import best_methods
from asymtalker.media.atomic import write_atomic
from cells import Notes, decimals, escaped, line
from figures import describe_speed, figure_5, figure_6, moments_table, read_speeds, save
from trainings import read_trainings, trained
from variants import NEEDS, OURS, STUDENT, TABLE_2, TABLE_3, TABLE_4, VARIANTS, other_systems

COLUMNS = {
    # the paper's
    "fid": "FID",
    "fvd": "FVD",
    "sync_c": "Sync-C",
    "sync_d": "Sync-D",
    # those that need no download
    "fd_face": "FD face",
    "lip_correlation": "Lip corr.",
    "face_distance": "Face dist.",
    "head_motion": "Head motion",
    "colour_drift": "Colour drift",
    "seam_motion": "Seams",
}
NOT_OF_REAL = ("fid", "fvd", "fd_face", "seam_motion")
ARROWS = {"low": "↓", "high": "↑", "near": "≈"}
RANDOM = "Its image encoder has random weights: the row proves the path and says nothing of the strategy."
INTRODUCTION = f"""# Tables and figures in the paper's form

Numbers of a small model on synthetic clips, not of the paper's model on its data: compare only rows of one table with
each other. In brackets the 95% interval over clips. ↓ less is better, ↑ more is better, ≈ should be as in real video;
bold is the best row, and where intervals overlap another choice of clips may order rows differently.

The first four columns are the paper's. FD face is the Fréchet distance of expressions as the face mesh reads them, Lip
corr. the correlation of the lip aperture with the truth, Face dist. the distance of dlib's embedding of the face from
the portrait's (at {SAME_BY_DLIB} its makers see another person; it is not ArcFace's similarity, and no stand-in for
it), Head motion in degrees, Colour drift in Delta E from the first second to the last, Seams the change where chunks
meet over that elsewhere.
"""
OFF = """The paper does not say what stands in for a module that is off. Here TRE off is the CLIP strategy, and AKD off
is no distillation: the teacher itself is sampled.
"""


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a set of clips; if there is none, one without methods."""
    path = folder / "report.json"
    if not path.is_file():
        reasons = dict.fromkeys(METRICS, f"the {folder.name} clips were not measured")
        return {"methods": {}, "timestamps": [], "not_measured": reasons}
    report = json.loads(path.read_text(encoding="utf-8"))
    for metric, reason in report["not_measured"].items():  # may name files below the home folder: not whose it is
        report["not_measured"][metric] = reason.replace(f"{Path.home()}/", "~/")
    return report


def table(
    report: Mapping[str, Any],
    heads: Sequence[str],
    rows: Iterable[tuple[Sequence[str], str]],
    remarks: Mapping[str, str],
) -> str:
    """A table of the paper's columns and of those that are always measured, with its footnotes, as Markdown.

    Args:
        report: of the set of short clips.
        heads: above the cells at the left.
        rows: the cells at the left, and the name of the method in the report. Real video comes below them.
        remarks: footnotes of methods.
    """
    notes, methods = Notes(), report["methods"]
    rows = [*rows, ([*[""] * (len(heads) - 1), "real video"], REFERENCE)]
    shown = list(dict.fromkeys(name for _, name in rows if name in methods))
    titles = [f"{title} {ARROWS[METRICS[metric].better]}" for metric, title in COLUMNS.items()]
    lines = [line([*heads, *titles]), line(["---"] * len(heads) + ["---:"] * len(titles))]
    for left, name in rows:
        title = escaped(left[-1])
        if name in methods:
            title += notes.sign(*([remarks[name]] if name in remarks else []), *_of_the_row(methods[name]))
            cells = [_cell(report, metric, name, shown, notes) for metric in COLUMNS]
        else:
            reason = f"not run: needs {NEEDS[name]}" if name in NEEDS else "not run"
            cells = [reason, *["–"] * (len(COLUMNS) - 1)]
        lines.append(line([*left[:-1], title, *cells]))
    below = [notes.listed(), _samples(methods, shown), _sampling(methods, shown)]
    return "\n\n".join(["\n".join(lines), *(text for text in below if text)]) + "\n"


def _of_the_row(method: Mapping[str, Any]) -> list[str]:
    """What there is to say of all values of a method."""
    failed = [f"{len(method['failed'])} of its clips could not be measured."] if method["failed"] else []
    return failed + [
        warning["text"] for warning in method["warnings"] if warning["metric"] is None and warning["curve"] is None
    ]


def _cell(report: Mapping[str, Any], metric: str, name: str, shown: Sequence[str], notes: Notes) -> str:
    """A method's value, in bold if it is the best of those shown, its interval and its footnotes."""
    found = {other: report["methods"][other]["values"].get(metric) for other in shown}
    values = {other: value for other, value in found.items() if value and value["value"] is not None}
    if name not in values:
        return f"–{notes.sign(_missing(report, metric, name))}"
    numbers = [value[key] for value in values.values() for key in ("value", "low", "high") if value[key] is not None]
    places = decimals(numbers)
    text = f"{values[name]['value']:.{places}f}"
    low, high = values[name]["low"], values[name]["high"]
    interval = "" if low is None or high is None else f" [{low:.{places}f}, {high:.{places}f}]"
    warnings = [warning["text"] for warning in report["methods"][name]["warnings"] if warning["metric"] == metric]
    best = best_methods({other: report["methods"][other] for other in shown}, metric, METRICS[metric].better)
    if name != REFERENCE and text in {f"{values[other]['value']:.{places}f}" for other in best}:
        text = f"**{text}**"  # what looks the same is as good
    return text + interval + notes.sign(*warnings)


def _missing(report: Mapping[str, Any], metric: str, name: str) -> str:
    """Why a method has no value; no word of which column, so that columns share the sentence."""
    if name == REFERENCE and metric in NOT_OF_REAL:
        return "Real video has no distance from itself, and no chunks."
    if metric in report["not_measured"]:
        return f"Not measured: {report['not_measured'][metric]}"
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
        settings = methods[name]["about"].get("settings", {})
        if name in VARIANTS and "sampler" in settings:
            sampler = settings["sampler"]
            how = f"{sampler['num_steps']} steps, guidance {sampler['guidance_scale']:g}"
            rows.setdefault(how, []).append(name)
    said = [f"{how}: {', '.join(names)}" for how, names in rows.items()]
    return f"Sampled in {'; '.join(said)}." if said else ""


def measured_on(name: str, report: Mapping[str, Any]) -> str:
    """One line on a set of clips."""
    if not report["methods"]:
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
    short, long = read_report(out / "short"), read_report(out / "long")
    if not short["methods"] and not long["methods"]:
        raise SystemExit(f"{out} has no short/report.json and no long/report.json: run runs/tables.sh first.")
    remarks = dict.fromkeys(NEEDS, RANDOM) if random_encoders else {}
    table_1 = [*(([name], name) for name in other_systems(short)), ([OURS], STUDENT)]
    table_2 = [([*modules, name], name) for modules, name in TABLE_2.items()]
    table_3 = [([title], name) for title, name in TABLE_3.items()]
    table_4 = [([title], name) for title, name in TABLE_4.items()]
    return "\n".join(
        [
            INTRODUCTION,
            f"{measured_on('short', short)}\n{measured_on('long', long)}\n",
            "## Table 1: comparison\n",
            table(short, ["Method"], table_1, remarks),
            "## Table 2: modules\n",
            OFF,
            table(short, ["TRE", "AKD", "Run"], table_2, remarks),
            "## Table 3: identity strategies\n",
            table(short, ["Setting"], table_3, remarks),
            "## Table 4: continuity references\n",
            table(short, ["Setting (teacher / student)"], table_4, remarks),
            "## Figure 5: long videos\n\n![Figure 5](figure5.svg)\n",
            "Of the five seconds before each moment, or fewer where moments are closer together; means over the"
            " clips.\n",
            moments_table(long),
            "## Figure 6: speed\n\n![Figure 6](figure6.svg)\n",
            describe_speed(read_speeds(out), short),
            "## What was trained\n",
            trained(read_trainings(out / "runs")),
        ]
    )


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
    long, speeds = read_report(out / "long"), read_speeds(out)
    save(lambda: figure_5(long), out / "figure5.svg")
    save(lambda: figure_6(speeds), out / "figure6.svg")
    write_atomic(out / "tables.md", text)
    print(out / "tables.md")


if __name__ == "__main__":
    main()
