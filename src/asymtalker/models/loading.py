"""Load one trained network from its folder, choose where it runs, and send there what it works on."""

import contextlib
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from asymtalker.errors import UserError
from asymtalker.models.folder import read_settings

UNUSED = {"masked_spec_embed"}
"""Weights of wav2vec2's own training, which published encoders lack."""
HEADS = (  # of wav2vec2, then of CLIP
    *("lm_head.", "quantizer.", "project_q.", "project_hid.", "projector.", "classifier.", "masked_spec_embed"),
    *("text_model.", "text_projection.", "visual_projection.", "logit_scale"),
    *("vision_model.embeddings.position_ids", "embeddings.position_ids"),
)
"""Beginnings of the names of weights that published files hold besides those of the network taken from them."""
WEIGHTS = "diffusion_pytorch_model.safetensors"


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
    if issubclass(kind, ModelMixin):
        read_settings(folder / "config.json", kind.__name__)
    hide_bars()
    try:
        return load_network(kind, folder, dtype) if issubclass(kind, nn.Module) else kind.from_pretrained(folder)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{folder} cannot be loaded as {kind.__name__} ({reason}): make or fetch it anew.") from error


def load_network(kind: Any, source: str | Path, dtype: torch.dtype) -> Any:
    """A network of diffusers or transformers, of safetensors, all of its weights being there and no others: either
    library would draw missing ones at random and leave others out.

    Args:
        kind: its class.
        source: folder or hub id.
        dtype: of its weights.

    Raises:
        OSError: if the folder or a file of it is missing.
        SafetensorError: if the weights are damaged.
        ValueError: if some are missing, of another shape than its config tells, or of no use to it.
    """
    option = "dtype" if kind.__module__.startswith("transformers.") else "torch_dtype"
    options: dict[str, Any] = {option: dtype, "use_safetensors": True, "output_loading_info": True}
    with quiet():
        network, report = kind.from_pretrained(source, **options, ignore_mismatched_sizes=True)
    if wrong := sorted(report["mismatched_keys"]):  # ignored above to be said in one plain sentence here
        name, found, wanted = wrong[0]
        raise ValueError(f"its weight {name} is {_shape(found)}, where its config asks for {_shape(wanted)}")
    if missing := sorted(set(report["missing_keys"]) - UNUSED):
        raise ValueError(f"{len(missing)} of its weights are missing, such as {missing[0]}")
    if others := sorted(name for name in report["unexpected_keys"] if not name.startswith(HEADS)):
        raise ValueError(f"it has no place for {len(others)} of the weights there, such as {others[0]}")
    return network


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes)) or "a single number"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what diffusers and transformers log below errors."""
    loggers = [logging.getLogger(library) for library in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights of a network of diffusers: one, or those its index tells of.

    Raises:
        UserError: if the index is damaged or a file is missing.
    """
    index = folder / f"{WEIGHTS}.index.json"
    names = [WEIGHTS]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is damaged: fetch the checkpoint anew.") from error
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise UserError(f"{folder} lacks {', '.join(missing)}: fetch the checkpoint anew.")
    return names


def hide_bars() -> None:
    """Take off the bars that transformers and diffusers draw while they read or write weights on the disk."""
    for library in (transformers_logging, diffusers_logging):
        library.disable_progress_bar()


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
            f"The device {name} cannot be used (PyTorch has cpu and {known} here): choose another with --device"
            " or, in training, --config.loop.device."
        ) from error


@contextlib.contextmanager
def explain_out_of_memory(sentence: str) -> Iterator[None]:
    """One sentence for a GPU whose memory is full.

    Args:
        sentence: what it is, and what needs less.

    Raises:
        UserError: of the sentence.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(sentence) from error


def send(values: Tensor, device: torch.device) -> Tensor:
    """What is in the host's memory, on a device, without waiting for what a GPU is doing."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
