"""Fit a pipeline to the machine: what lies where, how precisely, compiled or not, and over how many processes.

Everything here is diffusers' and torchao's own; what is ours is to say in one sentence what does not go together.
"""

import contextlib
import logging
import math
import os
import shutil
import sysconfig
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import torch
from diffusers.models._modeling_parallel import ContextParallelConfig
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import nn

from asymtalker.config import InferenceConfig
from asymtalker.errors import UserError
from asymtalker.media.read import check_file
from asymtalker.models.loading import quiet
from asymtalker.models.transformer import AsymTalkerTransformer3DModel, attend
from asymtalker.training.distributed import world

RECOMPILE_LIMIT = 64
"""Graphs that PyTorch keeps of one function, after which it fails."""


def check_inference(config: InferenceConfig) -> None:
    """Check what can be checked before the weights load.

    Raises:
        UserError: naming the options that exclude each other, or what an option needs and is not here.
    """
    processes = world().size
    if processes > 1 and config.offload != "none":
        raise UserError(
            f"--offload {config.offload} does not go with torchrun, under which every process holds all weights: leave"
            " it out."
        )
    if config.compile and config.offload == "group":
        raise UserError("--compile does not go with --offload group, which works inside the blocks: take one of them.")
    if config.compile:
        _check_compilers()
    if config.offload == "model" and find_spec("accelerate") is None:
        raise UserError("--offload model needs accelerate: pip install accelerate, or take --offload group.")
    if config.fp8 and find_spec("torchao") is None:
        raise UserError(
            "--fp8 needs torchao: install the extra fp8 (pip install -c constraints.txt '.[fp8]'), or leave --fp8 out."
        )
    names = sorted(backend.value for backend in AttentionBackendName)
    if config.attention is not None and config.attention not in names:
        raise UserError(f"There is no attention {config.attention}: choose {', '.join(names)}.")
    if config.preview is not None:
        check_file(config.preview, "preview decoder")


def _check_compilers() -> None:
    """What PyTorch's inductor and, on a GPU, Triton compile with."""
    if not (shutil.which("g++") or shutil.which("clang++")):
        raise UserError("--compile needs a C++ compiler (g++ or clang++): install one, or leave --compile out.")
    if not torch.cuda.is_available():
        return
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        raise UserError("--compile needs a C compiler (gcc or clang) on a GPU: install one, or leave --compile out.")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        raise UserError(
            "--compile needs Python's headers (Python.h) on a GPU: install them (python3-dev, python3-devel), or leave"
            " --compile out."
        )


def fit(pipeline: DiffusionPipeline, device: torch.device, config: InferenceConfig) -> None:
    """Offload, tiling, attention and compilation of any pipeline with a transformer and a codec.

    On a GPU cuDNN then tries its kernels on the first chunk, of the process, and keeps to the quickest: shapes are the
    same in all chunks.

    Args:
        pipeline: with a ``transformer`` and a ``vae``; what else it has stays on the device in any case but
            ``offload="model"``.
        device: this process's.
        config: of which ``fp8`` and ``preview`` are not looked at.

    Raises:
        UserError: if the attention cannot be used here.
    """
    transformer, vae = pipeline.components["transformer"], pipeline.components["vae"]
    of_pixels = isinstance(vae, AutoencoderKLWan)  # a codec of motion has little to tile or compile
    if config.vae_tiling and of_pixels:
        vae.enable_tiling()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        channels_last(vae)
    with quiet():
        _move(pipeline, device, config.offload)
        if config.attention is not None:
            set_attention(transformer, config.attention, device)
    if config.compile:
        # Every size of frames has up to five graphs, of what comes first and later: 8, as it is, are two sizes.
        torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
        transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
        if of_pixels and not config.vae_tiling:  # tiles at the edge have shapes of their own, too many graphs
            vae.decoder.compile(fullgraph=True, dynamic=False)
            vae.encoder.compile(fullgraph=True, dynamic=False)


def channels_last(vae: nn.Module) -> None:
    """Lay the weights of 3-D convolutions out as tensor cores read them, channels last; what they compute then comes
    out so too. Values stay; torch.compile does this to 2-D convolutions only.

    Args:
        vae: changed in place, wherever its weights are.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)


def check_split(transformer: AsymTalkerTransformer3DModel, latent_size: tuple[int, int], processes: int) -> None:
    """Check that the tokens of a latent frame can be dealt out to the processes.

    Args:
        transformer: the network.
        latent_size: height and width of a latent frame.
        processes: how many there are.

    Raises:
        UserError: if they can't be dealt out evenly.
    """
    tokens = math.prod(latent_size) // math.prod(transformer.config.patch_size)
    if tokens % processes:
        raise UserError(
            f"A latent frame has {tokens} tokens, which {processes} processes can't share out evenly: give torchrun a"
            f" number that divides {tokens}."
        )


def to_fp8(transformer: AsymTalkerTransformer3DModel, device: torch.device) -> None:
    """Make weights of the blocks' linear layers float8 with a scale per row, on ``device``; all else stays as it is,
    for norms, noise level and the first and last layers cost little and matter much."""
    logging.getLogger("torchao").setLevel(logging.ERROR)  # it complains about each kernel that it can't load
    from torchao.quantization import Float8WeightOnlyConfig, quantize_

    quantize_(
        transformer.blocks,
        Float8WeightOnlyConfig(set_inductor_config=False),
        filter_fn=lambda module, _: isinstance(module, nn.Linear),
        device=device,
    )


def _move(pipeline: DiffusionPipeline, device: torch.device, offload: str) -> None:
    """To the device, or to the host's memory with hooks that bring to the device what runs.

    In groups: the transformer by blocks, the next one copied while one runs; what is small, beside what decoding
    needs, stays on the device.
    """
    if offload == "none":
        pipeline.to(device)
        return
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
        return
    on_gpu, cpu = device.type == "cuda", torch.device("cpu")
    for name, part in pipeline.components.items():
        if name == "transformer":
            part.enable_group_offload(
                device, cpu, offload_type="block_level", num_blocks_per_group=1, use_stream=on_gpu
            )
        elif isinstance(part, nn.Module):
            part.to(device)


def set_attention(transformer: ModelMixin, name: str, device: torch.device) -> None:
    """Take diffusers' attention of this name, after loading and trying it: some show only when called that they are
    for another machine, precision or head size.

    Args:
        transformer: its config has the number and size of the heads; its weights may be anywhere.
        name: of the kernel.
        device: where it is to run.

    Raises:
        UserError: if it cannot be used here.
    """
    head = (1, 4, transformer.config.num_attention_heads, transformer.config.attention_head_dim)
    states = torch.zeros(head, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32, device=device)
    try:
        # diffusers makes what is chosen for one network the choice of all that make none: leaving this takes it back
        with attention_backend(AttentionBackendName.NATIVE), torch.inference_mode():
            transformer.set_attention_backend(name)
            attend(states, states, states, AttentionBackendName(name))
    except Exception as error:  # of a missing package, a download, a kernel: libraries agree on no kind
        transformer.reset_attention_backend()
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"The attention {name} can't be used here ({reason.rstrip('.')}): choose another.") from error


def split_tokens(transformer: AsymTalkerTransformer3DModel, processes: int) -> None:
    """Context parallelism by Ulysses: every process holds its share of the tokens, and in attention its share of the
    heads.

    Raises:
        UserError: if the heads can't be dealt out evenly, or the attention not be split.
    """
    heads = transformer.config.num_attention_heads
    if heads % processes:
        raise UserError(
            f"The transformer has {heads} attention heads, which {processes} processes can't share out evenly: give"
            f" torchrun a number that divides {heads}."
        )
    with _countable_cpu():
        try:
            transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=processes))
        except ValueError as error:
            raise UserError(f"This --attention can't be split over processes: {error}") from error


@contextlib.contextmanager
def _countable_cpu() -> Iterator[None]:
    """diffusers (up to 0.42 at least) picks a device by its rank modulo the number of accelerators: 0 on a CPU."""
    if torch.accelerator.is_available():
        yield
        return
    with mock.patch("torch.accelerator.device_count", return_value=1):
        yield
