"""What a training needs on so many GPUs: memory by part, operations, hours. What ``--dry-run`` prints.

Figures of the networks come from :mod:`asymtalker.sizing.training`, which measures them; here they are shared out.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from asymtalker.config import DistillConfig, LoopConfig, TeacherConfig
from asymtalker.errors import UserError
from asymtalker.training.distributed import check_processes
from asymtalker.training.run_folder import precision

GB = 10**9
SLACK = 0.1
"""Assumed share of memory that the allocator loses between tensors."""
MAX_GPUS = 1024
"""More are not suggested."""
LORA_RANK = 64
"""What is suggested where all weights do not fit."""


@dataclass(frozen=True)
class Gpu:
    """A model of GPU.

    Attributes:
        name: as it is given to ``--gpu``.
        memory: bytes, of 10^9 to the gigabyte of the data sheet: the few percent that makes less than there is stand
            for what driver and context keep.
        peak: dense bfloat16 operations a second with float32 sums.
    """

    name: str
    memory: int
    peak: float


GPUS = (
    Gpu("A100-40GB", 40 * GB, 312e12),
    Gpu("A100", 80 * GB, 312e12),
    Gpu("H100", 80 * GB, 989e12),
    Gpu("H200", 141 * GB, 989e12),
    Gpu("L40S", 48 * GB, 362e12),
    Gpu("RTX4090", 24 * GB, 165e12),
    Gpu("RTX5090", 32 * GB, 209e12),
)
"""NVIDIA's figures without sparsity, of H100 and H200 the SXM modules', as third parties quote them (A100, H100:
glennklockwood.com/garden/processors; L40S, RTX 4090: hmc-tech.com/gpus); the RTX 5090's is half its FP16 figure, which
is with FP16 sums."""


def gpu_named(name: str) -> Gpu:
    """The GPU called ``name``; case, spaces and hyphens don't matter.

    Raises:
        UserError: if it is not in the table.
    """
    plain = {re.sub(r"[\s_-]", "", gpu.name).lower(): gpu for gpu in GPUS}
    wanted = re.sub(r"[\s_-]", "", name).lower()
    if wanted not in plain:
        raise UserError(f"There is no GPU {name} in the table: choose {', '.join(gpu.name for gpu in GPUS)}.")
    return plain[wanted]


@dataclass(frozen=True)
class Weights:
    """How many numbers networks hold, and where.

    Attributes:
        parameters: by network, how many it has and how many of them are trained.
        states: by kind, bytes of weights, gradients, moments and averages over all GPUs; sharded.
        block: weights of one block of the transformer.
        outside: weights outside the blocks.
        frozen: bytes of the networks that every GPU holds whole.
    """

    parameters: dict[str, tuple[int, int]]
    states: dict[str, int]
    block: int
    outside: int
    num_blocks: int
    frozen: int


@dataclass(frozen=True)
class Plan:
    """What a training needs.

    Attributes:
        verb: what is trained, for the title.
        config: its settings.
        size: height and width in pixels.
        gpus: how many GPUs share the work.
        weights: what the networks hold.
        flops: by part, floating-point operations of one optimizer step over all GPUs.
        phases: most bytes of activations on a GPU in each of the phases of a step, one after the other.
        reading: most bytes of activations of encoding the next chunk meanwhile; 0 where all are kept.
        again: the same plan of other settings, for what would fit.
    """

    verb: str
    config: TeacherConfig | DistillConfig
    size: tuple[int, int]
    gpus: int
    weights: Weights
    flops: dict[str, float]
    phases: dict[str, int]
    reading: int
    again: Callable[[Any], "Plan"]

    @property
    def loop(self) -> LoopConfig:
        """The loop's settings."""
        return self.config.loop

    def sharded(self) -> dict[str, float]:
        """Bytes of each process's share of weights, gradients, moments and averages, on the GPU or, with
        ``cpu_offload``, in the host's memory."""
        return {name: size / self.gpus for name, size in self.weights.states.items()}

    def gpu_memory(self) -> dict[str, float]:
        """Bytes on each GPU by part; of activations the phase that needs most."""
        memory = {} if self.loop.cpu_offload else self.sharded()
        memory["codec and audio encoder, whole"] = self.weights.frozen
        memory |= self._temporary_weights()
        worst = max(self.phases, key=lambda name: self.phases[name])
        memory[f"activations: {worst}"] = self.phases[worst]
        memory |= {"activations: encoding the next chunk meanwhile": self.reading} if self.reading else {}
        memory["allocator's slack, assumed"] = SLACK * sum(memory.values())
        return memory

    def _temporary_weights(self) -> dict[str, float]:
        """Weights and gradients that are there for a moment: gathered from shards, or cast by autocast."""
        weights, half = self.weights, (precision(self.loop) or torch.float32).itemsize
        if self.gpus > 1 or self.loop.cpu_offload:
            outside = 4 * weights.outside
            return {
                "weights gathered: two blocks, and what is outside": 2 * half * weights.block + outside,
                "gradients of these, before they are shared out": outside + max((half + 4) * weights.block, outside),
            }
        if half == 4 or self.config.lora_rank:  # which holds them so
            return {}
        blocks = 1 if self.loop.gradient_checkpointing else weights.num_blocks
        return {"weights cast to bfloat16": half * blocks * weights.block}

    def total(self) -> float:
        """Bytes on each GPU."""
        return sum(self.gpu_memory().values())

    def seconds(self, gpu: Gpu, efficiency: float) -> float:
        """Seconds of an optimizer step at ``efficiency`` of the GPUs' peak."""
        return sum(self.flops.values()) / (self.gpus * gpu.peak * efficiency)

    def hours(self, gpu: Gpu, efficiency: float) -> float:
        """Hours of all steps."""
        return self.seconds(gpu, efficiency) * self.loop.steps / 3600


def check_gpus(config: TeacherConfig | DistillConfig, gpus: int) -> None:
    """Check that a training can run on so many GPUs, a process on each.

    Raises:
        UserError: naming the flag that does not fit.
    """
    if gpus < 1:
        raise UserError("--gpus must be at least 1.")
    check_processes(config.loop, config.lora_rank, gpus)


def check_memory(plan: Plan, free_bytes: float) -> None:
    """Check that a training fits before it begins.

    Args:
        plan: of :func:`asymtalker.sizing.training.plan_teacher` or :func:`asymtalker.sizing.training.plan_distill`.
        free_bytes: free memory of each GPU.

    Raises:
        UserError: what it needs, what there is, and what would fit, if it does not even without slack.
    """
    if plan.total() / (1 + SLACK) > free_bytes:  # what is only assumed refuses nobody
        raise UserError(_describe_shortage(plan, free_bytes))


def _describe_shortage(plan: Plan, free_bytes: float) -> str:
    ways = what_fits(plan, free_bytes)
    advice = f"what fits: {'; or '.join(ways)}" if ways else "nothing that can be set makes it fit but a smaller size"
    return (
        f"{plan.verb.capitalize()} at {plan.size[0]}x{plan.size[1]} needs {plan.total() / GB:.1f} GB on"
        f" {f'each of {plan.gpus} GPUs' if plan.gpus > 1 else 'one GPU'}, and {free_bytes / GB:.1f} GB are there;"
        f" {advice}."
    )


def what_fits(plan: Plan, memory: float) -> list[str]:
    """Settings and numbers of GPUs with which a plan needs no more than ``memory`` bytes on each, computed: single
    changes or, where none does, several together."""
    ways = [flag for flag, _, changed in _savings(plan) if changed.total() <= memory]
    if more := _fewest_gpus(plan, memory):
        ways.append(more)
    if ways:
        return ways
    # LoRA is for one process, and offloading for many: one of them at a time.
    for left_out in ("lora_rank", "cpu_offload"):
        changed, flags = plan, list[str]()
        while found := next((change for change in _savings(changed) if change[1] != left_out), None):
            flags.append(found[0])
            changed = found[2]
            if changed.total() <= memory:
                ways.append(" ".join(flags))
                break
            if more := _fewest_gpus(changed, memory):
                ways.append(f"{more} and {' '.join(flags)}")
                break
    return list(dict.fromkeys(ways))


def _savings(plan: Plan) -> Iterator[tuple[str, str, Plan]]:
    """Flags that save memory, the setting's name and the plan with it; those that train something else come last."""
    config, loop = plan.config, plan.loop
    if not loop.gradient_checkpointing:
        changed = replace(config, loop=replace(loop, gradient_checkpointing=True))
        yield "--config.loop.gradient-checkpointing", "gradient_checkpointing", plan.again(changed)
    if not loop.cache:
        changed = replace(config, loop=replace(loop, cache=True))
        yield "--config.loop.cache (encoding all of the corpus first)", "cache", plan.again(changed)
    if loop.batch > 1:
        yield "--config.loop.batch 1", "batch", plan.again(replace(config, loop=replace(loop, batch=1)))
    if not loop.cpu_offload and not config.lora_rank:
        changed = replace(config, loop=replace(loop, cpu_offload=True))
        yield "--config.loop.cpu-offload", "cpu_offload", replace(plan, config=changed)
    if plan.gpus == 1 and not config.lora_rank and not loop.cpu_offload:
        changed = replace(config, lora_rank=LORA_RANK)
        yield f"--config.lora-rank {LORA_RANK}", "lora_rank", plan.again(changed)
    if isinstance(config, TeacherConfig) and config.pixel_losses:
        changed = replace(config, pixel_every=loop.steps + 1)
        yield f"--config.pixel-every {loop.steps + 1} (no pixel losses)", "pixel_every", plan.again(changed)


def _fewest_gpus(plan: Plan, memory: float) -> str | None:
    """The next power of two of GPUs that fits, in words; none for LoRA, which is for one."""
    gpus = 1
    while gpus < MAX_GPUS and not plan.config.lora_rank:
        gpus *= 2
        if gpus > plan.gpus and replace(plan, gpus=gpus).total() <= memory:
            share = -(-plan.loop.micro_batches // gpus) * gpus
            flag = f" with --config.loop.micro-batches {share}" if share != plan.loop.micro_batches else ""
            return f"{gpus} GPUs of this memory{flag}"
    return None


def print_plan(plan: Plan, gpu: Gpu, efficiency: float) -> None:
    """Print the tables of a plan and whether it fits, to stdout."""
    console = Console(soft_wrap=True, highlight=False)
    loop = plan.loop
    height, width = plan.size
    chunks = loop.batch * loop.micro_batches
    console.print(
        f"{plan.verb}, {height}x{width}, {plan.config.chunk.frames} frames, {plan.gpus} x {gpu.name};"
        f" {chunks} chunk{'s' * (chunks > 1)} a step, {loop.batch} at a time; {loop.steps:,} steps"
    )
    sizes = {name: (total / 1e6, trained / 1e6) for name, (total, trained) in plan.weights.parameters.items()}
    flops = plan.flops | {"in all": sum(plan.flops.values())}
    memory = (
        plan.gpu_memory() | {"in all": plan.total()} | {f"  (phase: {name})": n for name, n in plan.phases.items()}
    )
    console.print(_table(("parameters", "millions", "trained"), sizes))
    console.print(
        _table(("operations of a step, all GPUs", "TFLOP"), {name: (n / 1e12,) for name, n in flops.items()})
    )
    console.print(_table(("memory of each process", "GPU, GB"), {name: (n / GB,) for name, n in memory.items()}))
    if loop.cpu_offload:
        host = plan.sharded() | {"in all": sum(plan.sharded().values())}
        console.print(_table(("offloaded", "host, GB"), {name: (n / GB,) for name, n in host.items()}))
    console.print(
        f"time: {plan.seconds(gpu, efficiency):.3g} s a step, {plan.hours(gpu, efficiency):,.3g} hours in all, if"
        f" {efficiency:.0%} of {gpu.peak / 1e12:.0f} TFLOP/s are reached (assumed)"
        f"{', and what offloading moves to and fro' * loop.cpu_offload}"
    )
    total = plan.total()
    if total <= gpu.memory:
        console.print(f"fits: {total / GB:.1f} of {gpu.memory / GB:.0f} GB")
    else:
        console.print(_describe_shortage(plan, gpu.memory))


def _table(columns: Sequence[str], rows: Mapping[str, Sequence[float]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for name, values in rows.items():
        table.add_row(name, *(f"{value:,.2f}" for value in values))
    return table
