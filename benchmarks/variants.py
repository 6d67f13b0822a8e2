"""What the paper's tables compare: the names that ``runs/tables.sh`` gives its models."""

from collections.abc import Mapping
from typing import Any

from asymtalker.evaluate.clips import REFERENCE

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
VARIANTS = {*TABLE_2.values(), *TABLE_3.values(), *TABLE_4.values()}
NEEDS = {
    "clip": "a CLIP model in CLIP_ENCODER",
    "clip-teacher": "a CLIP model in CLIP_ENCODER",
    "vtp": "an Open-MAGVIT2 tokenizer in VTP_ENCODER",
}
"""What ``runs/tables.sh`` skips a variant without."""
LONG_NAMES = {method: title for title, method in TABLE_4.items()} | {
    STUDENT: OURS,
    TEACHER: "teacher, not distilled",
    "clip-teacher": "CLIP teacher, not distilled",
    REFERENCE: "real video",
}


def long_name(name: str) -> str:
    """A method outside its table, such as in the legend of a figure."""
    return LONG_NAMES.get(name, name)


def other_systems(report: Mapping[str, Any]) -> list[str]:
    """The methods of a report that are none of ours."""
    return [name for name in report["methods"] if name not in VARIANTS and name != REFERENCE]
