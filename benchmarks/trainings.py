"""What ``runs/tables.sh`` trained: how long, and by which settings the runs differ."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asymtalker.config import difference
from cells import line


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
        for text in stats.read_text(encoding="utf-8").splitlines() if stats.is_file() else ():
            logged = json.loads(text)
            if "seconds_per_step" in logged:
                seconds += logged["seconds_per_step"] * (logged["step"] - steps)
                steps = logged["step"]
        if steps:
            config = json.loads(path.read_text(encoding="utf-8"))
            trainings.append(Training(path.parent.name, config, steps, seconds))
    return sorted(trainings, key=lambda training: not training.teacher)


def trained(trainings: Sequence[Training]) -> str:
    """A table of the runs and sentences on their settings, as Markdown."""
    if not trainings:
        return "No training run was found.\n"
    lines = [line(["run", "what", "steps", "clips a step", "seconds a step", "hours"])]
    lines.append(line(["---"] * 2 + ["---:"] * 4))
    for run in trainings:
        wanted = run.config["loop"]["steps"]
        steps = f"{run.steps:,}" + ("" if run.steps >= wanted else f" of {wanted:,}: not finished")
        what = "teacher" if run.teacher else "student"
        times = [f"{run.seconds / run.steps:.2f}", f"{run.seconds / 3600:.2f}"]
        lines.append(line([run.name, what, steps, str(run.config["loop"]["batch"]), *times]))
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
    if len(runs) < 2:
        return []
    changed = {text.split(":")[0] for run in runs[1:] for text in difference(runs[0].config, run.config)}
    changed -= {"inputs.model"}
    return [f"{what} differ in {', '.join(sorted(changed))}." if changed else f"{what} have the same settings."]
