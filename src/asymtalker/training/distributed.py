"""Several processes, one training: who is who under ``torchrun``, and networks sharded over them (FSDP2).

A step is made of micro-batches, not of processes (:class:`asymtalker.config.LoopConfig`): each is drawn from a number
of its own and processes share them out, so the same gradient comes out of however many there are. Without
``torchrun`` there is one process, and networks are whole.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from asymtalker.config import (
    AudioTrainConfig,
    CodecTrainConfig,
    DistillConfig,
    LoopConfig,
    MotionCodecTrainConfig,
    TeacherConfig,
)
from asymtalker.errors import UserError
from asymtalker.models.loading import choose_device
from asymtalker.models.precision import choose_precision

M = TypeVar("M", bound=nn.Module)
TrainConfig = TypeVar(
    "TrainConfig", AudioTrainConfig, CodecTrainConfig, MotionCodecTrainConfig, DistillConfig, TeacherConfig
)

GOES_ON = "the same command starts it again, a training or encoding where it was"
TIMEOUT, LONG_TIMEOUT = timedelta(hours=1), timedelta(days=7)  # torchrun notices a process that died at once


@dataclass(frozen=True)
class World:
    """This process among all.

    Attributes:
        rank: 0 to ``size - 1``.
        size: number of processes; 1 without ``torchrun``.
    """

    rank: int
    size: int

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0


def world() -> World:
    """This process's place, by what ``torchrun`` put into the environment."""
    return World(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def start(device: str) -> torch.device:
    """Meet the other processes, if ``torchrun`` started this one; returns the device that is this one's.

    Args:
        device: see :func:`asymtalker.models.loading.choose_device`; of several processes on GPUs each has the one
            numbered ``LOCAL_RANK``.

    Raises:
        UserError: if the device can't be used, or there are more processes than GPUs on this machine.
    """
    launched = "RANK" in os.environ
    if launched and device.startswith(("auto", "cuda")) and torch.cuda.is_available():
        local, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= count:
            raise UserError(f"torchrun starts more processes than the {count} GPUs of this machine: give it fewer.")
        torch.cuda.set_device(local)  # before anything is put on the first one
    where = torch.device(choose_device(device))
    if where.type == "cuda" and where.index is None:
        where = torch.device("cuda", torch.cuda.current_device())
    if not launched:
        return where
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", timeout=TIMEOUT)
        _say_when_ended()
    return where


def leave() -> None:
    """Leave the other processes, if there are any; for one whose work is done. One that has failed must not, but end
    at once: NCCL would wait for what it still had to do with the others, and ``torchrun`` not see it fail."""
    if dist.is_initialized():
        dist.destroy_process_group()


def loss_of_process(error: RuntimeError) -> str | None:
    """What an error says of another process that is gone; ``None`` for other errors."""
    signs = ("Connection closed", "Connection reset", "Timed out", "NCCL", "Broken pipe")
    own = ("out of memory", "invalid usage", "invalid argument")
    said = str(error)
    if world().size == 1 or any(sign in said for sign in own) or not any(sign in said for sign in signs):
        return None
    return said.strip().splitlines()[0]


def _say_when_ended() -> None:
    """Say that the job ends when ``torchrun`` stops this process (SIGTERM), as it does when another was lost.

    From a thread, as this process may be waiting for the lost one within NCCL, where Python handles no signals until
    it is killed. The first two processes speak, of which one may be the lost one.
    """
    if world().size == 1 or world().rank > 1:
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def watch() -> None:
        with open(read, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] == signal.SIGTERM:
                    time.sleep(world().rank)  # the first, if it is there, ends the job by then
                    print(f"This job was stopped, or lost a process: {GOES_ON}.", file=sys.stderr, flush=True)

    threading.Thread(target=watch, daemon=True).start()


def on_its_device(config: TrainConfig) -> TrainConfig:
    """The settings of a training with the device that is this process's, after it has met the others.

    Raises:
        UserError: see :func:`start`.
    """
    return replace(config, loop=replace(config.loop, device=str(start(config.loop.device))))


def is_sharded() -> bool:
    """Whether networks are sharded, over one process or more."""
    return dist.is_initialized()


def patient_group() -> dist.ProcessGroup | None:
    """The processes, if there are several, waiting for each other for days; to be made while they are together."""
    if not dist.is_initialized():
        return None
    return cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=LONG_TIMEOUT))


def barrier(group: dist.ProcessGroup | None = None) -> None:
    """Wait for the other processes, if there are any.

    Args:
        group: of :func:`patient_group`, where one may have far more to do than another.
    """
    if dist.is_initialized():
        dist.barrier(group)


def from_main(value: Any) -> Any:
    """What ``value`` is on the main process."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def from_all(value: Any) -> list[Any]:
    """``value`` of every process, in their order."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world().size
    dist.all_gather_object(values, value)
    return values


def check_processes(loop: LoopConfig, lora_rank: int, processes: int) -> None:
    """Check that so many processes can do a training together.

    Raises:
        UserError: naming the flag that does not fit.
    """
    if lora_rank < 0:
        raise UserError(f"--config.lora-rank must be 0, for none, or more, not {lora_rank}.")
    if lora_rank and processes > 1:
        raise UserError(f"--config.lora-rank is for one process, not {processes}: train all weights, or use one GPU.")
    if lora_rank and loop.cpu_offload:
        raise UserError("--config.lora-rank does not go with --config.loop.cpu-offload: leave one of them out.")
    if loop.micro_batches % processes:
        count = loop.micro_batches
        raise UserError(
            f"{processes} processes can't share out the {count} micro-batch{'es' * (count > 1)} of a step evenly: give"
            f" --config.loop.micro-batches {-(-count // processes) * processes}."
        )


def check_world(loop: LoopConfig, lora_rank: int = 0) -> None:
    """Check that the processes there are can do a training, and that it needs no others.

    Raises:
        UserError: naming the flag that does not fit.
    """
    check_processes(loop, lora_rank, world().size)
    if lora_rank and "RANK" in os.environ:
        raise UserError("--config.lora-rank is for one process without torchrun: leave that out.")
    if loop.cpu_offload and "RANK" not in os.environ:
        raise UserError("--config.loop.cpu-offload needs torchrun, on one GPU: torchrun --nproc-per-node 1 ...")


def micro_batches(loop: LoopConfig, update: int) -> range:
    """The numbers of this process's micro-batches of one update, ``world().size`` apart from each other and from those
    of the next update.

    Args:
        loop: how many there are over all processes.
        update: counted from the start of the run.
    """
    first = update * loop.micro_batches
    return range(first + world().rank, first + loop.micro_batches, world().size)


def gradient_share(loop: LoopConfig) -> float:
    """What to multiply the loss of a micro-batch by before ``backward``: gradients add up over the micro-batches of a
    process and are averaged over the processes."""
    return world().size / loop.micro_batches


def place(module: M, loop: LoopConfig) -> M:
    """Put a network where it is trained: on the run's device whole or, under ``torchrun``, in shards.

    The linear maps of each block are a unit (FSDP2): their weights are gathered, in the run's precision, when the
    block is computed and given up again after it; gradients are averaged in float32. All other weights (norms,
    modulation, patches, time, sound, output) are a unit gathered in float32, as autocast finds them without
    ``torchrun``. What is trained, its gradients and whatever an optimizer keeps of it are float32 shards. What the
    last linear map of a block returns must not be changed in place: FSDP2 has to see its gradient.

    Args:
        module: the transformer, with weights or on the meta device; the latter gets memory, without values yet.
        loop: device, precision, offloading.
    """
    device = torch.device(loop.device)
    # Not among the weights, computed when the network was made: to_empty would lose them.
    buffers = [
        (owner, name, value) for owner in module.modules() for name, value in owner.named_buffers(recurse=False)
    ]
    empty = any(parameter.is_meta for parameter in module.parameters())
    if dist.is_initialized():
        mesh = init_device_mesh(device.type, (world().size,))
        pin = device.type == "cuda"
        offload = CPUOffloadPolicy(pin_memory=pin) if loop.cpu_offload else OffloadPolicy()
        dtype = choose_precision(device, loop.autocast)
        inside = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
        outside = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        if loop.cpu_offload and pin:  # the update is the processor's work, and torchrun leaves each process one thread
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"])))
        for block in module.get_submodule("blocks").children():
            maps: list[nn.Module] = [part for part in block.modules() if isinstance(part, nn.Linear)]
            fully_shard(maps, mesh=mesh, mp_policy=inside, offload_policy=offload)
        # The root too gives its weights up after a pass: they change between passes that no backward pass follows.
        fully_shard(module, mesh=mesh, mp_policy=outside, offload_policy=offload, reshard_after_forward=True)
    if empty:
        module.to_empty(device="cpu" if loop.cpu_offload else device)
    elif not dist.is_initialized():
        nn.Module.to(module, device)
    for owner, name, value in buffers:
        setattr(owner, name, value.to(device))
    return module


def whole_tensor(value: Tensor) -> Tensor:
    """A tensor gathered from its shards, on all processes; others as they are."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own_part(value: Tensor) -> Tensor:
    """This process's shard of a tensor, sharing its memory; others as they are."""
    return value.to_local() if isinstance(value, DTensor) else value
