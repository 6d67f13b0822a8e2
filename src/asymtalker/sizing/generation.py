"""What generation needs of a GPU's memory, counted without memory, and what would fit where it is too little."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from asymtalker.config import InferenceConfig
from asymtalker.sizing.costs import measure
from asymtalker.sizing.empty import Network, empty_transformer, holds_motion, parts_of_chunk
from asymtalker.sizing.fit import GB, SLACK, Option, Way, shortage, what_fits

TILE = 256
"""Pixels on a side of diffusers' tiles."""


@dataclass(frozen=True)
class Needs:
    """Bytes on a GPU."""

    blocks: int  # weights of the transformer's blocks
    blocks_fp8: int  # the same where the matrices are of 8 bits
    num_blocks: int  # not bytes
    beside: int  # all other weights, and the frames of a chunk
    transformer: int  # most of the activations of a pass, which processes share
    codec: int  # most of decoding, of a preview too, and of encoding again
    tiled_codec: int  # the same with tiles: at most so much

    def total(self, config: InferenceConfig, processes: int = 1) -> float:
        """Bytes with these options, of each of some processes, in the phase that needs most."""
        blocks = self.blocks_fp8 if config.fp8 else self.blocks
        if config.offload == "group":  # one that runs, and the next
            blocks *= 2 / self.num_blocks
        passing = self.transformer / processes
        codec = self.tiled_codec if config.vae_tiling else self.codec
        most = blocks + max(passing, codec) if config.offload == "none" else max(blocks + passing, codec)
        return (self.beside + most) * (1 + SLACK)


def count_needs(network: Network, beside: int) -> Needs:
    """Measure what a pipeline needs, on its own networks without memory; ``beside`` bytes are of all weights but
    the transformer's."""
    autocast = network["autocast"] and getattr(torch, network["autocast"])
    transformer, size = empty_transformer(network), network["size"]
    matrices = [module.weight for module in transformer.blocks.modules() if isinstance(module, nn.Linear)]
    blocks = sum(weight.nbytes for weight in transformer.blocks.parameters())

    def peaks(size: list[int], *names: str) -> list[int]:
        parts = parts_of_chunk(network | {"size": size}, transformer)
        return [measure(parts[name], autocast).peak for name in names if name in parts]

    codec, preview = max(peaks(size, "decode", "re_encode")), max(peaks(size, "preview"), default=0)
    tiled, tile = codec, [min(side, TILE) for side in size]
    if tile != size:  # one tile beside all, which overlap, or putting them together
        frames = 3 * network["frames"] * math.prod(size) * getattr(torch, network["codec_dtype"]).itemsize
        tiled = max(max(peaks(tile, "decode", "re_encode")) + 2 * frames, 5 * frames)
    outside = sum(weight.nbytes for weight in transformer.parameters()) - blocks
    return Needs(
        blocks=blocks,
        blocks_fp8=blocks - sum(weight.nbytes - weight.numel() for weight in matrices),
        num_blocks=len(transformer.blocks),
        beside=beside + outside + 4 * 3 * network["frames"] * math.prod(size),
        transformer=peaks(size, "transformer")[0],
        codec=max(codec, preview),
        tiled_codec=max(tiled, preview),
    )


def savings(config: InferenceConfig, processes: int) -> Sequence[Option[InferenceConfig]]:
    """The options of generation that can save memory."""

    def setting(flag: str, **options: bool | str) -> Way[InferenceConfig]:
        return flag, lambda config: replace(config, **options)

    offloads = {"none": ["model", "group"], "model": ["group"], "group": []}[config.offload] * (processes == 1)
    placings = [
        setting(f"--offload {name}", offload=name) for name in offloads if name != "group" or not config.compile
    ]
    return placings, [setting("--vae-tiling", vae_tiling=True)], [setting("--fp8", fp8=True)]


def describe_shortage(
    network: Network, beside: int, config: InferenceConfig, available: float, processes: int = 1
) -> str:
    """One sentence for a GPU of too few ``available`` bytes to each of ``processes``: what generation needs, and what
    would fit, computed."""
    needs, (height, width) = count_needs(network, beside), network["size"]
    said = f"this model at {height}x{width} needs about {needs.total(config, processes) / GB:.1f} GB"

    def ways(needs: Needs) -> list[str]:
        return what_fits(
            config, savings(config, processes), lambda changed: needs.total(changed, processes), available
        )

    fitting = ways(needs)
    if not fitting:
        spatial = 2 if holds_motion(network) else network["vae"]["scale_factor_spatial"]
        step = [spatial * side for side in network["transformer"]["patch_size"][1:]]
        half = [max(side // 2 // each, 1) * each for side, each in zip((height, width), step, strict=True)]
        fewer, smaller = count_needs(network | {"size": half}, beside), f"--size {half[0]}x{half[1]}"
        if (total := fewer.total(config, processes)) <= available:
            fitting = [f"{smaller} ({total / GB:.1f} GB)"]
        else:
            fitting = [f"{smaller} and {way}" for way in ways(fewer)]
    return shortage(f"The GPU's memory is full: {said}", available, fitting)
