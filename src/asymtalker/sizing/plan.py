"""What a training needs on so many GPUs: memory by part, operations, hours. What ``--dry-run`` prints.

Figures of the networks come from :mod:`asymtalker.sizing.training`, which measures them; here they are shared out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from asymtalker.config import DistillConfig, LoopConfig, TeacherConfig
from asymtalker.errors import UserError
from asymtalker.sizing.fit import GB, SLACK, Option, Way, shortage, what_fits

LORA_RANK = 64
"""What is suggested where all weights do not fit."""


class Gpu(NamedTuple):
    """A model of GPU: its bytes, of 10^9 to the data sheet's gigabyte (the few percent that makes less than there is
    stand for what driver and context keep), and dense bfloat16 operations a second with float32 sums."""

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
class Plan:
    """What a training needs."""

    verb: str  # what is trained, for the title
    config: TeacherConfig | DistillConfig
    size: tuple[int, int]  # height and width in pixels
    gpus: int
    parameters: dict[str, tuple[int, int]]  # by network, how many it has and how many of them are trained
    states: dict[str, int]  # bytes of weights, gradients, moments and averages over all GPUs; sharded
    passing: int  # bytes of weights gathered from their shards, and of their gradients before they are shared out
    frozen: int  # bytes of the networks that every GPU holds whole
    flops: dict[str, float]  # by part, operations of one optimizer step over all GPUs
    phases: dict[str, int]  # most bytes of activations on a GPU in each phase of a step, one after the other
    reading: int  # and meanwhile of encoding the next chunk; 0 where all are kept
    again: Callable[[Any, int], "Plan"]  # the same of other settings and GPUs

    @property
    def loop(self) -> LoopConfig:
        """The loop's settings."""
        return self.config.loop

    def gpu_memory(self) -> dict[str, float]:
        """Bytes on each GPU by part; of activations the phase that needs most."""
        memory = {name: size / self.gpus for name, size in self.states.items() if not self.loop.cpu_offload}
        memory["codec and audio encoder, whole"] = self.frozen
        if self.gpus > 1 or self.loop.cpu_offload:
            memory["weights gathered, and their gradients"] = self.passing
        worst = max(self.phases, key=lambda name: self.phases[name])
        memory[f"activations: {worst}"] = self.phases[worst]
        if self.reading:
            memory["activations: encoding the next chunk meanwhile"] = self.reading
        memory["allocator's slack, assumed"] = SLACK * sum(memory.values())
        return memory

    def total(self) -> float:
        """Bytes on each GPU."""
        return sum(self.gpu_memory().values())

    def seconds(self, gpu: Gpu, efficiency: float) -> float:
        """Seconds of an optimizer step at ``efficiency`` of the GPUs' peak."""
        return sum(self.flops.values()) / (self.gpus * gpu.peak * efficiency)


def savings(plan: Plan) -> Sequence[Option[Plan]]:
    """What can make a training need less memory, if it is not set; what trains something else comes last."""
    micro_batches, never = plan.loop.micro_batches, plan.loop.steps + 1

    def change(flag: str, gpus: int = 0, loop: Mapping[str, int] | None = None, **settings: int) -> Way[Plan]:
        def changed(plan: Plan) -> Plan:
            config = replace(plan.config, loop=replace(plan.loop, **loop or {}), **settings)
            return plan.again(config, gpus or plan.gpus)

        return flag, changed

    def share_out(gpus: int) -> Way[Plan]:
        count = -(-micro_batches // gpus) * gpus
        more = f" with --config.loop.micro-batches {count}" * (count != micro_batches)
        return change(f"{gpus} GPUs of this memory{more}", gpus, {"micro_batches": count})

    options = [
        [change("--config.loop.gradient-checkpointing", loop={"gradient_checkpointing": True})],
        [change("--config.loop.cache (encoding all of the corpus first)", loop={"cache": True})],
        [change("--config.loop.batch 1", loop={"batch": 1})],
        [change("--config.loop.cpu-offload", loop={"cpu_offload": True})],
        [share_out(2**power) for power in range(1, 11) if 2**power > plan.gpus],
        [change(f"--config.lora-rank {LORA_RANK}", lora_rank=LORA_RANK)],
    ]
    if isinstance(plan.config, TeacherConfig):
        options.append([change(f"--config.pixel-every {never} (no pixel losses)", pixel_every=never)])
    return options


def describe_shortage(plan: Plan, available: float) -> str:
    """One sentence for GPUs of too little memory: what the training needs, what there is, and what would fit."""
    ways = what_fits(plan, savings(plan), Plan.total, available)
    gpus = f"each of {plan.gpus} GPUs" if plan.gpus > 1 else "one GPU"
    needs = f"{plan.verb.capitalize()} at {plan.size[0]}x{plan.size[1]} needs {plan.total() / GB:.1f} GB on {gpus}"
    return shortage(needs, available, ways)


def print_plan(plan: Plan, gpu: Gpu, efficiency: float) -> None:
    """Print the tables of a plan and whether it fits, to stdout."""
    loop, chunks = plan.loop, plan.loop.batch * plan.loop.micro_batches
    print(
        f"{plan.verb}, {plan.size[0]}x{plan.size[1]}, {plan.config.chunk.frames} frames, {plan.gpus} x {gpu.name};"
        f" {chunks} chunk{'s' * (chunks > 1)} a step, {loop.batch} at a time; {loop.steps:,} steps"
    )
    sizes = {name: total for name, (total, _) in plan.parameters.items()}
    sizes |= {f"{name}, trained": trained for name, (_, trained) in plan.parameters.items() if trained}
    others = {f"  (phase: {name})": size for name, size in plan.phases.items()}
    others |= {"  (offloaded, the host's)": sum(plan.states.values()) / plan.gpus} if loop.cpu_offload else {}
    _print_table("parameters", "millions", sizes, 1e6)
    _print_table("operations of a step, all GPUs", "TFLOP", plan.flops | {"in all": sum(plan.flops.values())}, 1e12)
    _print_table("memory of each process", "GPU, GB", plan.gpu_memory() | {"in all": plan.total()} | others, GB)
    seconds = plan.seconds(gpu, efficiency)
    print(
        f"time: {seconds:.3g} s a step, {seconds * loop.steps / 3600:,.3g} hours in all, if"
        f" {efficiency:.0%} of {gpu.peak / 1e12:.0f} TFLOP/s are reached (assumed)"
        f"{', and what offloading moves to and fro' * loop.cpu_offload}"
    )
    fits = f"fits: {plan.total() / GB:.1f} of {gpu.memory / GB:.0f} GB"
    print(fits if plan.total() <= gpu.memory else describe_shortage(plan, gpu.memory))


def _print_table(title: str, unit: str, rows: Mapping[str, float], scale: float) -> None:
    print(f"{title:<56}{unit:>14}", *(f"{name:<56}{value / scale:>14,.2f}" for name, value in rows.items()), sep="\n")
