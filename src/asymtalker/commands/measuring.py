"""The process that measures for :mod:`asymtalker.bench.run`: a task, its JSON and a file for the sentence of a
UserError in, one JSON line out."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asymtalker.bench.ceiling import measure_ceiling, measure_limits
from asymtalker.bench.generation import measure_pipeline, measure_stock
from asymtalker.bench.training import measure_distill, measure_train
from asymtalker.commands.exits import exit_by
from asymtalker.errors import UserError
from asymtalker.media.atomic import write_atomic
from asymtalker.training.distributed import world

TASKS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "pipeline": measure_pipeline,
    "stock": measure_stock,
    "limits": measure_limits,
    "ceiling": measure_ceiling,
    "train": measure_train,
    "distill": measure_distill,
}


def main() -> None:
    """Do one measurement in this process."""

    def work() -> None:
        try:
            found = TASKS[sys.argv[1]](json.loads(sys.argv[2]))
        except UserError as error:
            write_atomic(Path(sys.argv[3]), str(error))
            raise
        if world().main:
            print(json.dumps(found))

    exit_by(work)


if __name__ == "__main__":
    main()
