"""Networks of a recipe's size with random weights, made where they run: what speed and memory are measured with."""

import math
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker.codec import WanCodec, latent_size
from asymtalker.config import Recipe
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.sizing.costs import recipe_audio_encoder, recipe_codec
from asymtalker.timeline import SAMPLE_RATE
from asymtalker.training.frozen import Frozen
from asymtalker.training.network import build_transformer

M = TypeVar("M", bound=nn.Module)

CONTRAST = 0.02
"""Of the random codec's pictures. A video encoder takes twice as long for strong noise as for a face."""


def random_network(build: Callable[[], M], device: torch.device, dtype: torch.dtype, seed: int) -> M:
    """The network that ``build`` makes, its weights drawn on the device in the type they are stored in.

    Its own initialisation costs neither memory nor time: it runs without storage. Weights keep the size of what goes
    through them (standard deviation one over the root of the inputs), gains are one, biases zero.

    Args:
        build: makes the network, of any weights.
        device: where it is to run.
        dtype: of the weights, save for those that the network's class keeps in float32.
        seed: the same seed gives the same weights on one kind of device.
    """
    with init_empty_weights(include_buffers=False):
        network = build()
    generator = torch.Generator(device).manual_seed(seed)
    kept = set(network._keep_in_fp32_modules or ())  # pyright: ignore[reportArgumentType, reportCallIssue]
    weights = {}
    for name, empty in network.named_parameters():
        stored = torch.float32 if kept & set(name.split(".")) else dtype
        weights[name] = _draw(name, torch.empty(empty.shape, dtype=stored, device=device), generator)
    network.load_state_dict(weights, strict=False, assign=True)
    nn.Module.to(network, device)  # the buffers
    return network.eval().requires_grad_(False)


def _draw(name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill one weight in place."""
    if name.endswith("bias"):
        return weight.zero_()
    if weight.ndim == 1 or name.endswith(("gamma", "original0")):  # gains of norms and of weight normalisation
        return weight.fill_(1)
    return weight.normal_(0, math.prod(weight.shape[1:]) ** -0.5, generator=generator)


def random_parts(recipe: Recipe, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Frozen:
    """The recipe's codec and wav2vec2 with random weights; the published ones' sizes where it trains none.

    Args:
        recipe: gives the sizes.
        device: where they are to run.
        dtype: of their weights.
        seed: see :func:`random_network`.

    Raises:
        UserError: if the recipe's identity strategy needs a published image encoder.
    """
    strategy = recipe.teacher.model.identity
    if strategy not in ("tre", "etr"):
        raise UserError(f"The identity strategy {strategy} needs a published image encoder: random weights have none.")
    vae = random_network(lambda: recipe_codec(recipe), device, dtype, seed)
    cast(nn.Module, vae.decoder.conv_out).get_parameter("weight").mul_(CONTRAST)
    encoder = random_network(lambda: recipe_audio_encoder(recipe), device, dtype, seed + 1)
    normalises = isinstance(encoder, Wav2Vec2Model)  # the bundled model's own hears how loud a sound is
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=SAMPLE_RATE, do_normalize=normalises)
    return Frozen(WanCodec(vae), encoder, extractor, strategy, None, None, device)


def random_pipeline(
    recipe: Recipe, size: tuple[int, int], device: torch.device, dtype: torch.dtype = torch.bfloat16, seed: int = 0
) -> AsymTalkerPipeline:
    """A pipeline of the recipe's size with random weights: it takes as long as a trained one and shows noise.

    Args:
        recipe: gives the sizes, the chunk and the sampling.
        size: height and width of its frames in pixels.
        device: where it is to run.
        dtype: of the weights, save for those that are always float32.
        seed: see :func:`random_network`.

    Raises:
        UserError: if tokens do not divide the size, or see :func:`random_parts`.
    """
    parts = random_parts(recipe, device, dtype, seed)
    latent_size(size, parts.codec.spatial, recipe.teacher.model.patch_size)
    transformer = random_network(lambda: build_transformer(recipe.teacher.model, parts), device, dtype, seed + 2)
    chunk, sampler = recipe.teacher.chunk, recipe.sampler
    return AsymTalkerPipeline(
        transformer=transformer,
        vae=cast(AutoencoderKLWan, parts.codec.vae),
        audio_encoder=parts.audio_encoder,
        feature_extractor=parts.extractor,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=sampler.shift),
        sample_size=size,
        chunk_frames=chunk.frames,
        continuity_frames=chunk.continuity_frames,
        num_inference_steps=sampler.num_steps,
        guidance_scale=sampler.guidance_scale,
        renew_noise=True,  # as assembled of a distillation: what is measured is the student
        identity=recipe.teacher.model.identity,
        name="random",
    )
