"""What a network costs: floating-point operations and memory, measured on the code itself.

Networks are built on PyTorch's meta device, where a tensor has a shape and no memory, and run there. So a figure can't
drift from the code as a formula would, and a network of any size is measured on any machine.
"""

import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count
from transformers import Wav2Vec2Config, Wav2Vec2Model

from asymtalker.codec import build_vae
from asymtalker.config import MotionCodecTrainConfig, Recipe
from asymtalker.errors import UserError
from asymtalker.models.audio import AudioEncoder
from asymtalker.models.speech_encoder import build_speech_encoder

M = TypeVar("M", bound=nn.Module)

aten = torch.ops.aten


CPU_ATTENTION = {  # the one kernel of attention that PyTorch's counter does not know
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}

# What CUDA's autocast computes in bfloat16, and in float32, of what the networks here are made of
# (torch/include/ATen/autocast_mode.h). ``F.normalize`` stands for the ``norm`` in it, ``interpolate`` for upsampling.
LOWERED = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm}
RAISED = {F.layer_norm, F.rms_norm, F.group_norm, F.normalize, F.interpolate, F.softmax, Tensor.softmax}


@dataclass(frozen=True)
class Cost:
    """What running something costs: operations, and bytes of new tensors that are alive."""

    flops: int  # of matrix products, convolutions and attention; a multiply-add is two
    peak: int  # at most, with what lies between operations and gradients on their way
    kept: int  # at the end of the forward pass: what the backward pass needs


def count_flops(function: Callable[[], object]) -> int:
    """Operations (:class:`Cost`) of what ``function`` runs on any device, forwards and backwards."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        function()
    return counter.get_total_flops()


def measure(function: Callable[[], Tensor], autocast: torch.dtype | None) -> Cost:
    """What ``function`` would cost on a GPU; it works on meta tensors alone.

    Attention counts as one kernel that never keeps its weights, as PyTorch's memory-efficient one and flash attention.

    Args:
        function: a forward pass. The number it returns is differentiated, unless it was computed without gradient.
            Gradients of the weights of :func:`on_meta` are given up as soon as they are whole.
        autocast: precision as under ``torch.autocast`` on a GPU; ``None`` computes in the types of the tensors.
    """
    with _Meter() as meter:
        with _GpuKernels(autocast):
            loss = function()
        kept = meter.live
        if loss.requires_grad:
            loss.backward()
    return Cost(meter.flops, meter.peak, kept)


def recomputed(autocast: torch.dtype | None) -> tuple[nullcontext[None], "_GpuKernels"]:
    """``context_fn`` of gradient checkpointing: :func:`measure` does not itself reach what is computed anew."""
    return nullcontext(), _GpuKernels(autocast)


def on_meta(build: Callable[[], M]) -> M:
    """The network that ``build`` makes, without memory for its weights; gradients of them are not kept."""
    with torch.device("meta"):
        network = build()
    for parameter in (p for p in network.parameters() if p.requires_grad):
        parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
    return network


def recipe_codec(recipe: Recipe) -> AutoencoderKLWan:
    """The codec of a recipe; diffusers' defaults are the published one of Wan2.1: 16 channels, 8 times in space.

    Raises:
        UserError: if it is a codec of motion.
    """
    if isinstance(recipe.codec, MotionCodecTrainConfig):
        raise UserError("This recipe's codec holds motion; without weights only codecs of pixels are measured.")
    return build_vae(recipe.codec.model) if recipe.codec else AutoencoderKLWan()


def recipe_audio_encoder(recipe: Recipe) -> AudioEncoder:
    """The audio encoder of a recipe; transformers' defaults are the published base model's."""
    return build_speech_encoder(recipe.audio.model) if recipe.audio else Wav2Vec2Model(Wav2Vec2Config())


def num_parameters(parameters: Iterable[Tensor]) -> int:
    """How many numbers there are in ``parameters``."""
    return sum(parameter.numel() for parameter in parameters)


class _GpuKernels(TorchFunctionMode):
    """The types that autocast gives on a GPU, and attention as one kernel, for meta tensors: PyTorch has no autocast
    for them, and attention that keeps its weights."""

    def __init__(self, autocast: torch.dtype | None):
        self.autocast = autocast

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        attention = func is F.scaled_dot_product_attention
        if self.autocast is not None and (attention or func in LOWERED or func in RAISED):
            dtype = torch.float32 if func in RAISED else self.autocast
            args = tuple(_cast(value, dtype) for value in args)
            kwargs = {name: _cast(value, dtype) for name, value in kwargs.items()}
        if attention:
            return _attend(*args, **kwargs)
        return func(*args, **kwargs)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any) -> Tensor:
    """``(B, heads, L, d)`` on ``(B, heads, N, d)``; a mask only adds to what attention costs, so it is left out."""
    if query.ndim == 3:
        return _attend(query[None], key[None], value[None])[0]
    return aten._scaled_dot_product_efficient_attention(query, key, value, None, torch.is_grad_enabled())[0]


class _Meter(TorchDispatchMode):
    """Counts as ``FlopCounterMode``, which holds on to the graph, so that nothing would ever be free, and follows the
    memory of the tensors that are made."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, given = kwargs or {}, list[Tensor]()
        call = func, _shapes(args, given), _shapes(tuple(kwargs.items()), given)
        known = {_address(tensor) for tensor in given}
        if call in _RESULTS:
            flops, shapes, form = _RESULTS[call]
            leaves = [at and torch.empty_strided(*at[:2], dtype=at[2], device="meta") for at in shapes]
            result = tree_unflatten(leaves, form)
        else:
            result = func(*args, **kwargs)
            leaves, form = tree_flatten(result)
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **kwargs, out_val=result) if count else 0
            if all(x is None or (getattr(x, "is_meta", False) and _address(x) not in known) for x in leaves):
                _RESULTS[call] = flops, [x if x is None else _shapes(x, []) for x in leaves], form
        self.flops += flops
        for made in leaves:
            if isinstance(made, Tensor):
                storage = made.untyped_storage()
                if storage._cdata not in known:  # neither a view nor written in place
                    known.add(storage._cdata)
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, size: int) -> None:
        self.live -= size


_RESULTS: dict[Any, tuple[int, list[Any], Any]] = {}
"""Operations, and shapes of results that are new tensors, of each call: else PyTorch's Python code finds them anew for
each of the many alike layers, which takes most of the time."""


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _shapes(value: Any, tensors: list[Tensor]) -> Any:
    """Of an argument what results depend on, hashable; the tensors in it are added to ``tensors``."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, list | tuple):
        return tuple(_shapes(each, tensors) for each in value)
    return type(value), value  # 1 equals 1.0 and True
