"""Save and resume everything that has state, in one file that appears whole."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch

from asymtalker.errors import UserError


class Stateful(Protocol):
    """What a checkpoint holds: modules, optimizers, averages."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class EMA:
    """Exponential moving average of a module's parameters, kept in float32.

    ``decay`` 0 makes the average the parameters themselves.
    """

    def __init__(self, module: torch.nn.Module, decay: float):
        self.decay = decay
        self.average = {name: p.detach().float().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Move the average towards ``module`` by ``1 - decay``."""
        for name, parameter in module.named_parameters():
            self.average[name].lerp_(parameter.detach().float(), 1 - self.decay)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Write the average into ``module``."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.average[name])

    def state_dict(self) -> dict[str, Any]:
        return self.average

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        for name, value in state_dict.items():
            self.average[name].copy_(value)


def save_checkpoint(path: Path, step: int, parts: dict[str, Stateful]) -> None:
    """Write ``parts`` as they are after ``step`` steps to ``path``, replacing an older checkpoint in one move."""
    temporary = path.with_suffix(".partial")
    torch.save({"step": step, **{name: part.state_dict() for name, part in parts.items()}}, temporary)
    os.replace(temporary, path)


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
