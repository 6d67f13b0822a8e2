"""The machine that figures are measured on: what it is, how busy, and how much of its memory this process has held."""

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "torchao", "av")


CPU_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "sve", "bf16",
)  # fmt: skip
"""Linux's names of the instructions that speed depends on, of x86 and of Arm."""


def describe_machine(device: str) -> dict[str, Any]:
    """What the numbers depend on; ``device`` is PyTorch's name of it."""
    about = _processor()
    has = set((about.get("flags") or about.get("Features") or "").split())  # of x86, of Arm
    return {
        "cpu": about.get("model name") or platform.processor() or platform.machine(),
        "cpu_flags": [flag for flag in CPU_FLAGS if flag in has],
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),  # less than it has under ATEN_CPU_CAPABILITY
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().split("\n\n")[0].splitlines() if information.exists() else []
    pairs = [line.split(":", 1) for line in lines if ":" in line]
    return {name.strip(): value.strip() for name, value in pairs}


def load_average() -> dict[str, float]:
    """How busy the machine is; to be asked before the measuring."""
    return {"load_average_before": round(os.getloadavg()[0], 2)}


def versions() -> dict[str, str]:
    """Of the packages that speed depends on, as far as they are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def peak_rss_mib() -> float:
    """Most memory this process has held.

    Linux keeps ``ru_maxrss`` across exec, so that a child of a large process would report its parent's: ``VmHWM`` does
    not have that fault.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def peak_of_loading(device: torch.device) -> dict[str, float]:
    """Most that tensors took of a GPU until now, in MiB; what :func:`peak_memory` says is from now on."""
    if device.type != "cuda":
        return {}
    peak = torch.cuda.max_memory_allocated(device) / (1 << 20)
    torch.cuda.reset_peak_memory_stats(device)
    return {"load_peak_gpu_mib": round(peak, 1)}


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory this process has held, in MiB: of the host, and of the GPU what tensors took and what was kept."""
    peak = {"peak_rss_mib": round(peak_rss_mib(), 1)}
    if device.type == "cuda":
        peak["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated(device) / (1 << 20), 1)
        peak["peak_gpu_reserved_mib"] = round(torch.cuda.max_memory_reserved(device) / (1 << 20), 1)
    return peak


def synchronize(device: torch.device) -> None:
    """Wait for what the GPU, if there is one, has been given in the current stream, which all threads share."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
