"""Save and resume everything that has state: a folder of safetensors that appears whole.

Each process's shards are in a file of their own; any number of processes can go on from what any other number wrote.
"""

import contextlib
import copy
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter

from asymtalker.errors import UserError
from asymtalker.media.atomic import atomic_path
from asymtalker.training.distributed import barrier, from_main, own_part, world

M = TypeVar("M", bound=torch.nn.Module)

FILE_BYTES = 2 * 10**9


class Stateful(Protocol):
    """What a checkpoint holds: tensors by name, which loading fills in place."""

    def state_dict(self) -> dict[str, Tensor]: ...


class Weights:
    """The weights of a network that are trained, and its buffers."""

    def __init__(self, module: torch.nn.Module):
        self.module = module
        self.frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}

    def state_dict(self) -> dict[str, Tensor]:
        return _trained(self.module, self.frozen)


class EMA(Generic[M]):
    """Exponential moving average of a module's parameters, in float32.

    Args:
        module: the network that is trained; its buffers are taken as they are now. Weights that are not trained are
            shared with it.
        decay: share of the average that one update keeps; 0 makes it the parameters themselves.
        average: a network of the same weights that becomes the average; a copy of ``module`` if not given, which
            sharded networks can't be.

    Attributes:
        module: the averaged network, in evaluation mode and without gradients.
    """

    def __init__(self, module: M, decay: float, average: M | None = None):
        self.decay = decay
        trained = Weights(module)
        if average is None:
            average = copy.deepcopy(module, {id(p): p for p in module.parameters() if not p.requires_grad})
        self.module = average.eval().requires_grad_(False)
        self.frozen = trained.frozen

    @torch.no_grad()
    def update(self, module: M) -> None:
        """Move the average towards ``module`` by ``1 - decay``."""
        for average, parameter in zip(self.module.parameters(), module.parameters(), strict=True):
            if parameter.requires_grad:
                own_part(average).lerp_(own_part(parameter), 1 - self.decay)

    def state_dict(self) -> dict[str, Tensor]:
        return _trained(self.module, self.frozen)


def _trained(module: torch.nn.Module, frozen: Collection[str]) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


class OptimizerState:
    """What AdamW keeps of each weight, by the weight's name, so that it does not depend on how weights are grouped.

    Args:
        module: whose weights ``optimizer`` trains.
        optimizer: AdamW. What it would make at its first step is made here.
    """

    def __init__(self, module: torch.nn.Module, optimizer: torch.optim.AdamW):
        self.weights = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.optimizer = optimizer
        for weight in self.weights.values():
            moments = {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
            optimizer.state[weight] = {"step": torch.zeros((), device=weight.device)} | moments

    def state_dict(self) -> dict[str, Tensor]:
        state = self.optimizer.state
        return {f"{name}.{key}": state[weight][key] for name, weight in self.weights.items() for key in state[weight]}


def save_checkpoint(path: Path, step: int, parts: dict[str, Stateful]) -> None:
    """Write ``parts`` as they are after ``step`` steps to the folder ``path``. It takes an older one's place once it
    is whole.

    Processes that share the work write into one folder: it must be on a file system that all of them see.

    Raises:
        UserError: if the disk is full or ``path`` can't be written.
    """
    with contextlib.ExitStack() as stack:
        # One process makes the folder appear, after all have written.
        partial = Path(from_main(str(stack.enter_context(atomic_path(path))) if world().main else ""))
        tensors = _tensors(step, parts)
        with _quiet():
            writer = HuggingFaceStorageWriter(str(partial), _files(tensors), save_distributed=True)
            try:
                dcp.save(tensors, storage_writer=writer, no_dist=not dist.is_initialized())
            except CheckpointException as error:  # on all processes, whoever failed
                raise next(iter(error.failures.values()))[0] from error
    barrier()


def load_checkpoint(path: Path, parts: dict[str, Stateful]) -> int:
    """Load ``parts`` in place and return the number of steps done; 0 if there is no checkpoint yet.

    Raises:
        UserError: if the folder is of another model or not readable.
    """
    if not from_main(path.exists()):  # a disk that machines share may show it later to some
        return 0
    state = _tensors(0, parts)
    try:
        load_tensors(path, state)
    except (CheckpointException, RuntimeError, ValueError, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"{path}: not a checkpoint of this run ({reason}); remove it or use another run folder"
        ) from error
    return int(state["step"])


def load_tensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Fill ``tensors``, each its process's shard or whole, with those of the same names in a folder of safetensors."""
    with _quiet():
        reader = HuggingFaceStorageReader(path=str(folder))
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())


def _tensors(step: int, parts: dict[str, Stateful]) -> dict[str, Tensor]:
    state = {f"{part}.{name}": value for part, held in parts.items() for name, value in held.state_dict().items()}
    return {"step": torch.tensor(step)} | state


def _files(tensors: dict[str, Tensor]) -> dict[str, int]:
    """The file of each tensor, numbered from 1: a process holds one in memory at a time, twice."""
    files, number, size = {}, 1, 0
    for name, value in tensors.items():
        size += value.numel() * value.element_size() // world().size
        files[name] = number
        if size >= FILE_BYTES:
            number, size = number + 1, 0
    return files


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warning that there is one process only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield
