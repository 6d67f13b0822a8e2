"""Which precision networks are computed in: bfloat16 where the device has instructions for it, float32 elsewhere."""

import platform

import torch

from asymtalker.config import Precision


def choose_precision(device: torch.device, wanted: Precision = "auto") -> torch.dtype | None:
    """The type in which ``torch.autocast`` runs networks of float32 weights; ``None`` leaves them in float32.

    Args:
        device: where they run. What is not a CPU takes bfloat16.
        wanted: ``"auto"`` asks what it has instructions for, the others are taken as they are.
    """
    if wanted == "auto":
        wanted = "bfloat16" if device.type != "cpu" or has_bfloat16() else "float32"
    return torch.bfloat16 if wanted == "bfloat16" else None


def weights_precision(device: torch.device, wanted: Precision = "auto") -> torch.dtype:
    """The type that weights are held in to generate: on a GPU, for half the memory, the one they are computed in."""
    return (choose_precision(device, wanted) if device.type != "cpu" else None) or torch.float32


def precision_name(autocast: torch.dtype | None) -> Precision:
    """What :func:`choose_precision` has chosen, as settings name it."""
    return "float32" if autocast is None else "bfloat16"


def describe_precision(device: torch.device, computed: torch.dtype) -> str:
    """Where networks run and in which precision they are computed, in a few words for a person."""
    said = f"on {device} in {str(computed).removeprefix('torch.')}"
    if device.type != "cpu":
        return said
    said += f", {(threads := torch.get_num_threads())} thread{'s' * (threads > 1)}"
    slow = computed == torch.bfloat16 and not has_bfloat16()
    return f"{said}; float32 would be quicker on this processor" if slow else said


def has_bfloat16() -> bool:
    """Whether PyTorch sees the CPU's instructions for bfloat16: AVX512-BF16 or AMX on x86, or Arm's.

    Without them products and convolutions take ten to a hundred times as long as in float32. Nothing is timed, so that
    one machine makes one video of a seed, however busy it is.
    """
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    # oneDNN's own answer asks an x86 processor for no more than AVX-512, where it only acts as if.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
