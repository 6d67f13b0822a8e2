"""What generation needs of a GPU's memory, counted without memory, and what would fit where it is too little."""

import math
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import nn

from asymtalker.config import InferenceConfig
from asymtalker.errors import join_or
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.sizing.costs import measure
from asymtalker.sizing.empty import Network, empty_transformer, parts_of_chunk
from asymtalker.sizing.plan import GB, SLACK

OFFLOADS = ("none", "model", "group")
TILE = 256
"""Pixels on a side of diffusers' tiles."""


@dataclass(frozen=True)
class Needs:
    """Bytes on a GPU.

    Attributes:
        blocks: weights of the transformer's blocks.
        blocks_fp8: the same where the matrices are of 8 bits.
        largest: the largest of those matrices, which is of more bits while it is multiplied by.
        num_blocks: how many blocks there are.
        outside: weights of the transformer outside of them.
        beside: weights of all other networks.
        transformer: most of the activations of a pass, which processes share.
        held: frames of the chunk before, which each holds.
        codec: most of decoding, of a preview too, and of encoding again.
        tiled_codec: the same with tiles: at most so much.
    """

    blocks: int
    blocks_fp8: int
    largest: int
    num_blocks: int
    outside: int
    beside: int
    transformer: int
    held: int
    codec: int
    tiled_codec: int

    def total(self, config: InferenceConfig, processes: int = 1) -> float:
        """Bytes with these options, of each of some processes, in the phase that needs most."""
        blocks = self.blocks_fp8 if config.fp8 else self.blocks
        if config.offload == "group":  # one that runs, and the next
            blocks *= 2 / self.num_blocks
        weights, passing = blocks + self.outside, self.transformer / processes + self.held
        passing += self.largest if config.fp8 else 0
        codec = self.tiled_codec if config.vae_tiling else self.codec
        most = weights + max(passing, codec) if config.offload == "none" else max(weights + passing, codec)
        return (self.beside + most) * (1 + SLACK)


def count_needs(network: Network, beside: int) -> Needs:
    """Measure what a pipeline needs on its own networks without memory.

    Args:
        network: of a pipeline.
        beside: bytes of all weights but the transformer's.
    """
    autocast = network["autocast"] and getattr(torch, network["autocast"])
    transformer = empty_transformer(network)
    matrices = [module.weight for module in transformer.blocks.modules() if isinstance(module, nn.Linear)]
    blocks = sum(weight.nbytes for weight in transformer.blocks.parameters())
    saved = sum(weight.nbytes - weight.numel() - 4 * len(weight) for weight in matrices)  # a scale for each row
    parts = parts_of_chunk(network, transformer)
    peaks = {name: measure(run, autocast).peak for name, run in parts.items() if name not in ("audio", "identity")}
    return Needs(
        blocks=blocks,
        blocks_fp8=blocks - saved,
        largest=max(weight.nbytes for weight in matrices),
        num_blocks=len(transformer.blocks),
        outside=sum(weight.nbytes for weight in transformer.parameters()) - blocks,
        beside=beside,
        transformer=peaks.pop("transformer"),
        held=4 * 3 * network["frames"] * math.prod(network["size"]),
        codec=max(peaks.values()),
        tiled_codec=_tiled(network, transformer, peaks, autocast),
    )


def _tiled(
    network: Network, transformer: AsymTalkerTransformer3DModel, peaks: dict[str, int], autocast: torch.dtype | None
) -> int:
    """At most so many bytes of the codec in tiles: of one beside all, which overlap, or of putting them together."""
    size = network["size"]
    tile = [min(side, TILE) for side in size]
    if tile == size:
        return max(peaks.values())
    parts = parts_of_chunk(network | {"size": tile}, transformer)
    most = max(measure(parts[name], autocast).peak for name in ("decode", "re_encode"))
    frames = 3 * network["frames"] * math.prod(size) * getattr(torch, network["codec_dtype"]).itemsize
    return max(most + 2 * frames, 5 * frames, peaks.get("preview", 0))


def what_fits(
    needs: Needs, config: InferenceConfig, available: float, processes: int = 1, size: str | None = None
) -> list[str]:
    """Options, and bytes with them, with which no more than ``available`` bytes are needed: single ones or, where none
    does, as few together as do.

    Args:
        needs: of :func:`count_needs`.
        config: the options given, which stay.
        available: bytes that a process can have.
        processes: that share the work.
        size: the size that ``needs`` is of, where it is another than the one given.
    """
    offloads = OFFLOADS[OFFLOADS.index(config.offload) :] if processes == 1 else (config.offload,)
    helps = needs.tiled_codec < needs.codec
    tilings, fp8s = sorted({config.vae_tiling, config.vae_tiling or helps}), sorted({config.fp8, True})
    fitting: dict[int, list[str]] = {}
    for offload, tiling, fp8 in product(offloads, tilings, fp8s):
        changed = replace(config, offload=offload, vae_tiling=tiling, fp8=fp8)
        flags = [f"--size {size}"] * (size is not None) + [f"--offload {offload}"] * (offload != config.offload)
        flags += ["--vae-tiling"] * (tiling != config.vae_tiling) + ["--fp8"] * (fp8 != config.fp8)
        total = needs.total(changed, processes)
        if flags and total <= available and not (offload == "group" and config.compile):
            fitting.setdefault(len(flags), []).append(f"{' '.join(flags)} ({total / GB:.1f} GB)")
    return fitting[min(fitting)] if fitting else []


def describe_shortage(
    network: Network, beside: int, config: InferenceConfig, available: float, processes: int = 1
) -> str:
    """One sentence for a GPU whose memory is full: what generation needs, what there is, and what would fit, computed.

    Args:
        network: of a pipeline.
        beside: bytes of all weights but the transformer's.
        config: the options given.
        available: bytes that a process can have.
        processes: that share the work, one for each GPU.
    """
    needs, (height, width) = count_needs(network, beside), network["size"]
    ways = what_fits(needs, config, available, processes)
    if not ways:
        step = [network["vae"]["scale_factor_spatial"] * side for side in network["transformer"]["patch_size"][1:]]
        half = [max(side // 2 // each, 1) * each for side, each in zip((height, width), step, strict=True)]
        fewer = count_needs(network | {"size": half}, beside)
        ways = what_fits(fewer, config, available, processes, size=f"{half[0]}x{half[1]}")
    return (
        f"The GPU's memory is full: this model at {height}x{width} needs about"
        f" {needs.total(config, processes) / GB:.1f} GB, and {available / GB:.1f} GB are there;"
        f" {'what fits: ' + join_or(ways) if ways else 'nothing that can be set makes it fit'}."
    )


def available_bytes(device: torch.device) -> int:
    """What this process has of a GPU's memory, and what is free."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
