"""Save and resume everything that has state, in one file that appears whole."""

import copy
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Generic, Protocol, TypeVar

import torch

from asymtalker.errors import UserError
from asymtalker.whole import whole

M = TypeVar("M", bound=torch.nn.Module)


class Stateful(Protocol):
    """What a checkpoint holds: modules, optimizers, averages."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class EMA(Generic[M]):
    """Exponential moving average of a module's parameters, in float32.

    Args:
        module: the network that is trained; its buffers are taken as they are now.
        decay: share of the average that one update keeps; 0 makes it the parameters themselves.

    Attributes:
        module: the averaged network, in evaluation mode and without gradients.
    """

    def __init__(self, module: M, decay: float):
        self.decay = decay
        self.module = copy.deepcopy(module).float().eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: M) -> None:
        """Move the average towards ``module`` by ``1 - decay``."""
        for average, parameter in zip(self.module.parameters(), module.parameters(), strict=True):
            average.lerp_(parameter.float(), 1 - self.decay)

    def state_dict(self) -> dict[str, Any]:
        return self.module.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.module.load_state_dict(state_dict)


def save_checkpoint(path: Path, step: int, parts: dict[str, Stateful]) -> None:
    """Write ``parts`` as they are after ``step`` steps to ``path``, replacing an older checkpoint in one move.

    Raises:
        UserError: if the disk is full or ``path`` can't be written.
    """
    state = {"step": step, **{name: part.state_dict() for name, part in parts.items()}}
    with whole(path) as partial, partial.open("wb") as file:  # of a name, PyTorch would not say why it can't write
        torch.save(state, file)


def load_checkpoint(path: Path, parts: dict[str, Stateful]) -> int:
    """Load ``parts`` in place and return the number of steps done; 0 if there is no checkpoint yet.

    Raises:
        UserError: if the file is of another model or not readable.
    """
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (KeyError, RuntimeError, TypeError, ValueError, EOFError, UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path}: not a checkpoint of this run ({reason}); remove it or use another run folder"
        ) from error
    return state["step"]
