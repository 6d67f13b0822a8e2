"""A run folder explains itself and resumes by the same command.

``config.json`` (resolved), ``version.json``, ``stats.jsonl``, TensorBoard events, ``samples/``, ``checkpoint/``.
However many processes there are, the main one alone writes the log.
"""

import contextlib
import json
import math
import platform
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

import asymtalker
from asymtalker import config as configs
from asymtalker.config import LoopConfig, OptimizerConfig
from asymtalker.errors import UserError
from asymtalker.media.atomic import clear_unfinished, write_atomic
from asymtalker.models.precision import choose_precision, describe_precision, precision_name
from asymtalker.training.checkpoint import Stateful, load_checkpoint, save_checkpoint
from asymtalker.training.distributed import GOES_ON, TrainConfig, barrier, from_all, from_main, whole_tensor, world

T = TypeVar("T")

LINE_SECONDS = 60
RUN_CONFIG = "config.json"
CHECKPOINT = "checkpoint"
SHOWN_CHANGES = 8
# These may change between the commands of one run; anything else would make it another run. Other ``steps`` go on from
# the checkpoint too, but a learning rate that falls (``final_scale``) then falls along another curve; other
# ``micro_batches`` change how many samples a step sees from then on, and fewer draw some samples once more.
RESUMABLE = (
    "loop.steps", "loop.micro_batches", "loop.log_every", "loop.checkpoint_every", "loop.sample_every", "loop.device",
    "loop.cache", "loop.gradient_checkpointing", "loop.cpu_offload",
)  # fmt: skip


def in_its_precision(config: TrainConfig, path: Path | None = None) -> TrainConfig:
    """The settings of a training in which ``"auto"`` has become a precision, which is said on stderr: the one that the
    run began with, so that all of its steps are alike, else what is quick on the main process's device.

    Args:
        config: its device is chosen.
        path: folder of the run.
    """
    loop, device = config.loop, torch.device(config.loop.device)
    wanted = loop.autocast
    if path and wanted == "auto" and (path / CHECKPOINT).exists() and (path / RUN_CONFIG).exists():
        wanted = json.loads((path / RUN_CONFIG).read_text())["loop"]["autocast"]
    chosen = from_main(precision_name(choose_precision(device, wanted)))
    config = replace(config, loop=replace(loop, autocast=chosen))
    if world().main:
        print(describe_precision(device, precision(config.loop) or torch.float32), file=sys.stderr)
    return config


def precision(loop: LoopConfig) -> torch.dtype | None:
    """The autocast type of a run, ``None`` for float32."""
    return choose_precision(torch.device(loop.device), loop.autocast)


def autocast(loop: LoopConfig) -> torch.autocast:
    """The precision of a run, as a context."""
    return torch.autocast(torch.device(loop.device).type, precision(loop), enabled=precision(loop) is not None)


class RunFolder:
    """Folder of one training run.

    Args:
        path: created if missing.
        config: any config dataclass; a folder with a checkpoint made with another one is refused.
        inputs: named input paths, recorded with the config.

    Raises:
        UserError: if the folder can't be made or holds a run with other settings (they are named).
    """

    def __init__(self, path: Path, config: Any, inputs: dict[str, str] | None = None):
        self.path = path
        resolved = configs.to_dict(config) | {"inputs": inputs or {}}
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: can't make the run folder ({error.strerror})") from error
        if world().main:
            clear_unfinished(path)
        barrier()
        saved = path / RUN_CONFIG
        self.checkpoint = path / CHECKPOINT
        if (path / "checkpoint.pt").exists():
            raise UserError(f"{path}: holds a run of an older version that can't be resumed; use another folder")
        if self.checkpoint.exists() and saved.exists():
            changed = [
                line
                for line in configs.difference(json.loads(saved.read_text()), resolved)
                if not line.startswith(RESUMABLE)
            ]
            if changed:
                more = [f"and {len(changed) - SHOWN_CHANGES} more"] if len(changed) > SHOWN_CHANGES else []
                shown = "; ".join([*changed[:SHOWN_CHANGES], *more])
                raise UserError(f"{path}: holds a run with other settings ({shown}); use another folder")
        barrier()  # all have looked
        if world().main:
            write_atomic(saved, json.dumps(resolved, indent=2))
            write_atomic(path / "version.json", json.dumps(_version(), indent=2))
        self.stats = path / "stats.jsonl"
        self._done = 0
        self._board = None

    def restart_stats(self, step: int) -> None:
        """Drop what was logged after ``step`` by a run that was killed."""
        self._done = step
        if self.stats.exists() and world().main:
            kept = [line for line in self.stats.read_text().splitlines() if _step_of(line) <= step]
            write_atomic(self.stats, "".join(line + "\n" for line in kept))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append one line to ``stats.jsonl`` and to TensorBoard, on the main process."""
        if not world().main:
            return
        with self.stats.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 1)} | values) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Write what TensorBoard's writer holds back, which a stop would lose."""
        if self._board is not None:
            self._board.flush()

    @property
    def board(self):
        """TensorBoard writer, made on first use."""
        if self._board is None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(str(self.path), purge_step=self._done + 1)
        return self._board


class StepRecord:
    """What one step saw and what came of it, micro-batch by micro-batch, on this process."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.values: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, values: Mapping[str, Tensor], **batch: Any) -> None:
        """Note the losses of a micro-batch and what names its samples, such as their keys."""
        for name, value in values.items():
            self.values[name].append(value.detach())
        self.batches.append(batch | {name: value.detach() for name, value in values.items()})

    def logged(self) -> dict[str, Tensor]:
        """Values ``(n,)`` by name."""
        return {name: torch.stack(values) for name, values in self.values.items()}


@contextlib.contextmanager
def names_batch(run: RunFolder, step: int, record: StepRecord) -> Iterator[None]:
    """Turn a :class:`FloatingPointError` of the block into a sentence, and write what the step had seen.

    Raises:
        UserError: with the name of the file, ``RUN/not-finite-RANK.json``.
    """
    try:
        yield
    except FloatingPointError as error:
        path = run.path / f"not-finite-{world().rank}.json"
        seen = [
            {name: float(value) if isinstance(value, Tensor) else value for name, value in batch.items()}
            for batch in record.batches
        ]
        write_atomic(path, json.dumps({"step": step, "batches": seen}, indent=2))
        named = path if world().size == 1 else path.with_name("not-finite-*.json")  # each process's
        raise UserError(
            f"Step {step}: {error}. {named} names the samples it saw: look at them, or use a lower learning rate."
        ) from error


def tracked(items: Sequence[T], what: str, shown: bool = True) -> Iterator[T]:
    """``items``, with a bar on stderr or, where that is a file, a line a minute."""
    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    console, began = Console(stderr=True), time.perf_counter()
    with Progress(*columns, console=console, disable=not shown) as progress:
        said = began
        for done, item in enumerate(progress.track(items)):
            now = time.perf_counter()
            if shown and not console.is_terminal and done and now - said >= LINE_SECONDS:
                left = timedelta(seconds=round((now - began) / done * (len(items) - done)))
                console.print(f"{what}: {done} of {len(items)}, {left} left")
                said = now
            yield item


@dataclass(frozen=True)
class Step:
    """A step of a run.

    Attributes:
        index: counted from 0.
        loop: of the run.
        log: takes in the values to log, one or several of each.
    """

    index: int
    loop: LoopConfig
    log: Callable[[Mapping[str, Tensor]], None]

    @property
    def number(self) -> int:
        """Steps done at its end."""
        return self.index + 1

    @property
    def samples(self) -> bool:
        """Whether it ends with sample videos."""
        return bool(self.loop.sample_every) and self.number % self.loop.sample_every == 0

    @property
    def saves(self) -> bool:
        """Whether a checkpoint follows. What is saved for use is to be written before: a run killed in between writes
        it again."""
        return self.number % self.loop.checkpoint_every == 0 or self.number == self.loop.steps


@contextlib.contextmanager
def run_steps(run: RunFolder, loop: LoopConfig, parts: dict[str, Stateful]) -> Iterator[Iterator[Step]]:
    """Every step not yet done, with progress, log, checkpoints and resume::

        with run_steps(run, loop, parts) as steps:
            for step in steps:
                ...
                step.log({"loss": loss})

    Progress and ETA go to stderr. All processes take all steps.
    """
    done = load_checkpoint(run.checkpoint, parts)
    run.restart_stats(done)
    progress = _Progress(run, loop, done)

    def steps() -> Iterator[Step]:
        for index in range(done, loop.steps):
            progress.step = index + 1
            step = Step(index, loop, progress.log)
            yield step
            if step.saves:
                run.flush()
                save_checkpoint(run.checkpoint, step.number, parts)

    with progress.shown, _interrupted(progress, loop):
        yield steps()


class _Progress:
    """What a run says of its steps: a bar and lines on stderr, means in the log."""

    def __init__(self, run: RunFolder, loop: LoopConfig, done: int):
        self.run, self.loop, self.step = run, loop, done
        self.console = Console(stderr=True)
        columns = TextColumn(run.path.name), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn()
        values = TextColumn("{task.fields[last]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        whole = *columns, TimeRemainingColumn(), values
        self.shown = Progress(*whole, console=self.console, expand=True, disable=not world().main)
        if done and world().main:
            self.console.print(f"going on from step {done}" if done < loop.steps else f"all {done} steps are done")
        self._bar = self.shown.add_task("", total=loop.steps, completed=done, last="")
        self._logged: dict[str, list[float]] = {}
        self._since, self._started = 0, time.perf_counter()

    def log(self, values: Mapping[str, Tensor]) -> None:
        """Take in the values of a step."""
        self._since += 1
        for name, value in values.items():
            self._logged.setdefault(name, []).extend(value.flatten().tolist())
        if self.step % self.loop.log_every == 0 or self.step == self.loop.steps:
            means = _means(from_all(self._logged))
            means["seconds_per_step"] = (time.perf_counter() - self._started) / self._since
            self.run.log(self.step, means)
            last = " ".join(f"{name} {value:.4g}" for name, value in means.items())
            self.shown.update(self._bar, last=last)
            if world().main and not self.console.is_terminal:
                left = timedelta(seconds=round(means["seconds_per_step"] * (self.loop.steps - self.step)))
                self.console.print(f"step {self.step} of {self.loop.steps}, {left} left: {last}", soft_wrap=True)
            self._logged, self._since, self._started = {}, 0, time.perf_counter()
        self.shown.advance(self._bar)


@contextlib.contextmanager
def _interrupted(progress: _Progress, loop: LoopConfig) -> Iterator[None]:
    """Say what to do when a run is stopped, or the GPU's memory is full."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if world().main and not (world().size > 1 and stop.args == (signal.SIGTERM,)):  # which torchrun brings about
            progress.console.print(f"stopped in step {progress.step}; {GOES_ON}")
        raise
    except torch.OutOfMemoryError as error:
        less = "give a smaller --config.loop.batch" if loop.batch > 1 else "take smaller frames or more GPUs"
        raise UserError(
            f"The GPU's memory is full in step {progress.step}: {less}; of teacher and student --dry-run says what"
            " fits."
        ) from error


def _means(logged: list[dict[str, list[float]]]) -> dict[str, float]:
    """Mean of each value over all processes."""
    names = dict.fromkeys(name for values in logged for name in values)
    all_values = {name: [value for values in logged for value in values.get(name, ())] for name in names}
    return {name: sum(values) / len(values) for name, values in all_values.items()}


def build_optimizer(module: torch.nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW; only the weights of linear maps and convolutions are decayed, not biases, norms, tables and positions."""
    wanted = [p for p in module.parameters() if p.requires_grad]
    maps = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Linear | _ConvNd)}
    groups = [
        {"params": [p for p in wanted if id(p) in maps], "weight_decay": config.weight_decay},
        {"params": [p for p in wanted if id(p) not in maps], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)  # of shards it is a loop otherwise


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine from ``lr`` to ``lr * final_scale``."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    position = min(1.0, step / max(1, steps))
    return (
        config.lr * warmup * (config.final_scale + (1 - config.final_scale) * 0.5 * (1 + math.cos(math.pi * position)))
    )


def optimizer_step(optimizer: torch.optim.Optimizer, config: OptimizerConfig, lr: float) -> Tensor:
    """Clip, check, step and clear gradients; returns the gradient norm before clipping.

    Raises:
        FloatingPointError: before the update, if a gradient is not finite.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = whole_tensor(torch.nn.utils.clip_grad_norm_(parameters, config.grad_clip))  # of all shards
    if not torch.isfinite(norm):
        raise FloatingPointError("the loss or its gradient is not finite; stopped before the optimizer step")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # a line cut short by a kill


def _version() -> dict[str, str]:
    return {
        "asymtalker": asymtalker.__version__,
        "commit": _commit() or "unknown",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _commit() -> str | None:
    """The commit of the working copy this file belongs to; ``None`` for an installed package or without git."""
    package = Path(__file__).parent
    command = ["git", "ls-files", "--error-unmatch", Path(__file__).name]
    try:
        if subprocess.run(command, cwd=package, capture_output=True, check=False).returncode:
            return None
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=package, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return head.stdout.strip()
