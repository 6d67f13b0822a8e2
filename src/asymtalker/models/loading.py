"""Load one trained network from its folder, and choose where it runs."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Wav2Vec2Model

from asymtalker.errors import UserError
from asymtalker.models.audio import load_audio_encoder


def load_part(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A part of a checkpoint. Its weights are safetensors: a checkpoint must not be able to run code.

    Args:
        kind: the class of diffusers or transformers.
        folder: where its ``save_pretrained`` wrote it.
        dtype: of its weights, if it has any.

    Raises:
        UserError: if the folder is missing, damaged, not whole, or holds something else.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: give the folder of a trained {kind.__name__}.")
    try:
        if kind is Wav2Vec2Model:
            return load_audio_encoder(folder, dtype)
        options = {"torch_dtype": dtype, "use_safetensors": True} if issubclass(kind, torch.nn.Module) else {}
        return kind.from_pretrained(folder, **options)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} cannot be loaded as {kind.__name__} ({reason}): make or fetch it anew.") from error


def choose_device(name: str) -> str:
    """The device of a name; ``"auto"`` is a GPU if there is one, else the CPU.

    Raises:
        UserError: if it cannot be used.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
        return name
    except (RuntimeError, AssertionError) as error:
        known = "cuda" if torch.cuda.is_available() else "no GPU"
        raise UserError(
            f"The device {name} cannot be used (PyTorch has cpu and {known} here): leave --device out."
        ) from error
