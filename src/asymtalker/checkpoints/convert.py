"""A checkpoint to train from, of published Wan2.1 weights: what fits is kept, sound takes the place of text."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker.checkpoints.settings import Convert
from asymtalker.codec import latent_size
from asymtalker.config import Recipe, TransformerConfig
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.atomic import check_writable, save_atomic
from asymtalker.media.portrait import parse_size
from asymtalker.models.folder import find_folder, read_settings
from asymtalker.models.identity import load_image_encoder, transformer_arguments
from asymtalker.models.loading import load_part, weight_files
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.training.network import size_flags

PATCHES = "patch_embedding.weight"
TEXT = "condition_embedder.text_embedder.linear_1.weight"
"""Takes text in Wan and sound here, of another size: of all that takes either, the only weight that can't be kept."""
SHARED = (
    "patch_size", "num_attention_heads", "attention_head_dim", "freq_dim", "ffn_dim", "num_layers", "cross_attn_norm",
    "eps", "rope_max_seq_len",
)  # fmt: skip
"""Settings that Wan's transformer and ours have in common."""


@dataclass(frozen=True)
class Conversion:
    """Names of weights, by what became of them.

    Attributes:
        kept: as they were.
        widened: with zeros for inputs that Wan has not.
        new: started at random, or, where sound is told apart by frame, at zero.
        dropped: of Wan, which have no place here.
    """

    kept: list[str] = field(default_factory=list)
    widened: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def convert_checkpoint(settings: Convert, recipe: Recipe) -> Conversion:
    """Write ``settings.out``, whole or not at all, and say on stderr what became of which weights.

    Args:
        settings: where the weights are.
        recipe: gives the chunk, the sampling and, unless set, the identity strategy.

    Raises:
        UserError: if weights are missing, damaged or of another architecture, or the folder can't be written.
    """
    check_writable(settings.out, folder=True)
    dtype, size = getattr(torch, settings.dtype), parse_size(settings.size)
    identity = settings.identity or recipe.teacher.model.identity
    wan = find_folder(settings.wan, ("transformer/*", "vae/*"))
    wav2vec = find_folder(settings.wav2vec)
    _check_encoder(wav2vec / "config.json")
    vae = load_part(AutoencoderKLWan, wan / "vae", dtype)
    audio_encoder = load_part(Wav2Vec2Model, wav2vec, dtype)
    image_encoder = load_image_encoder(identity, settings.image_encoder)
    arguments = transformer_arguments(identity, latent_channels=vae.config.z_dim, image_encoder=image_encoder)
    arguments |= {"audio_dim": audio_encoder.config.hidden_size, "audio_context": recipe.teacher.model.audio_context}
    transformer, conversion = convert_transformer(wan / "transformer", arguments, dtype, settings.seed)
    if (channels := transformer.config.latent_channels) != vae.config.z_dim:
        raise UserError(f"{wan}: the transformer makes {channels} channels, its codec {vae.config.z_dim}.")
    latent_size(size, vae.config.scale_factor_spatial, transformer.config.patch_size)
    for part in (transformer, vae):
        part.register_to_config(_name_or_path="")
    pipeline = AsymTalkerPipeline(
        transformer=transformer,
        vae=vae,
        audio_encoder=audio_encoder,
        feature_extractor=load_part(Wav2Vec2FeatureExtractor, wav2vec),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=recipe.sampler.shift),
        image_encoder=image_encoder,
        sample_size=size,
        chunk_frames=recipe.teacher.chunk.frames,
        continuity_frames=recipe.teacher.chunk.continuity_frames,
        num_inference_steps=recipe.sampler.num_steps,
        guidance_scale=recipe.sampler.guidance_scale,
        renew_noise=recipe.sampler.renew_noise,
        identity=identity,
        name=settings.name,
    )
    save_atomic(settings.out, pipeline.save_pretrained)
    _print_conversion(conversion, transformer)
    _print_size_flags(transformer, recipe.teacher.model, settings.recipe)
    return conversion


def convert_transformer(
    folder: Path, arguments: dict[str, Any], dtype: torch.dtype, seed: int = 0
) -> tuple[AsymTalkerTransformer3DModel, Conversion]:
    """Our transformer with the weights of Wan's in ``folder``, which is read a weight at a time.

    Text features of zeros and sound of zeros are the same to it: the layer that takes them keeps its bias. So with
    zeros in the mask and identity channels and in the sound it computes what Wan computes without a prompt.

    Args:
        folder: of a ``WanTransformer3DModel``, one file or several with an index.
        arguments: of ours that Wan has not.
        dtype: of the weights, save for those that are always float32.
        seed: of those that are new.

    Raises:
        UserError: if weights are missing, damaged, or of another shape than the configuration tells.
    """
    config = _read_config(folder)
    transformer = _empty(config, arguments)
    target, conversion, found = transformer.state_dict(), Conversion(), {}
    for name, weight in _read_weights(folder):
        if name == PATCHES and weight.shape[1] != config["in_channels"]:
            raise UserError(
                f"{folder}: {name} has the shape {tuple(weight.shape)}, but config.json tells of"
                f" {config['in_channels']} in_channels."
            )
        if name not in target:
            if not _may_be_dropped(name):
                raise UserError(f"{folder} holds {name}, of which config.json does not tell: fetch the files anew.")
            conversion.dropped.append(name)
        elif name != TEXT:
            found[name] = _widened(folder, name, weight, target[name].shape).to(_precision(name, dtype))
            (conversion.kept if weight.shape == target[name].shape else conversion.widened).append(name)
    generator = numbered_generator(seed, 0, "weights")
    for name in (name for name in target if name not in found):
        if not _may_be_new(name):
            raise UserError(f"{folder}: the weight {name} is missing; fetch the checkpoint anew.")
        conversion.new.append(name)
        found[name] = _new(name, target[name].shape, generator).to(_precision(name, dtype))
    transformer.load_state_dict(found, assign=True)
    return transformer.eval(), conversion


def _precision(name: str, dtype: torch.dtype) -> torch.dtype:
    """That of a weight: norms, time and modulation stay in float32, as loading them keeps them."""
    kept = AsymTalkerTransformer3DModel._keep_in_fp32_modules
    return torch.float32 if set(kept) & set(name.split(".")) else dtype


def _may_be_new(name: str) -> bool:
    """Whether a weight is one of what sound and portrait come in by."""
    return (
        name in ("audio_slots", TEXT)
        or name.startswith(("condition_embedder.image_embedder.", "visual_tokens."))
        or any(part in name for part in (".add_k_proj.", ".add_v_proj.", ".norm_added_k."))
    )


def _may_be_dropped(name: str) -> bool:
    """Whether a weight is one that only Wan's image to video has, for a picture that comes in as features."""
    return "image_embedder" in name or any(part in name for part in (".add_k_proj.", ".add_v_proj.", ".norm_added_"))


def _new(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A weight that Wan has not, in float32."""
    if name == "audio_slots" or name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:  # of a norm
        return torch.ones(shape)
    return nn.init.xavier_uniform_(torch.empty(shape), generator=generator)


def _widened(folder: Path, name: str, weight: Tensor, shape: torch.Size) -> Tensor:
    """A weight of Wan in our shape: the patch embedding ``(D, C, ...)`` has zeros for inputs that Wan has not.

    The inputs of its image to video are noise, mask and picture, in our order; a strategy without identity latents
    lacks the last.
    """
    if weight.shape == shape:
        return weight
    if name != PATCHES or (len(weight), weight.shape[2:]) != (shape[0], shape[2:]):
        raise UserError(f"{folder}: {name} has the shape {tuple(weight.shape)}, but config.json tells {tuple(shape)}.")
    common = min(shape[1], weight.shape[1])
    fitted = weight.new_zeros(shape)
    fitted[:, :common] = weight[:, :common]
    return fitted


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    config = read_settings(path, "WanTransformer3DModel")
    if missing := [key for key in (*SHARED, "in_channels", "out_channels") if key not in config]:
        raise UserError(f"{path} has no {missing[0]}: fetch the checkpoint anew.")
    if config.get("qk_norm") != "rms_norm_across_heads":
        raise UserError(f"{path}: qk_norm is {config.get('qk_norm')}, but ours is rms_norm_across_heads, as Wan2.1's.")
    return config


def _check_encoder(path: Path) -> None:
    """Check that a file of transformers' tells of a wav2vec2; others load as one, with what they lack at random."""
    try:
        found = json.loads(path.read_text()).get("model_type")
    except (OSError, ValueError) as error:
        raise UserError(f"{path.parent} has no readable config.json: give the folder of a wav2vec2.") from error
    if found != Wav2Vec2Config.model_type:
        raise UserError(f"{path} tells of a {found}, not of a {Wav2Vec2Config.model_type}.")


def _empty(config: dict[str, Any], arguments: dict[str, Any]) -> AsymTalkerTransformer3DModel:
    """Ours, of Wan's size, its weights without memory."""
    sizes = {key: config[key] for key in SHARED} | {"latent_channels": config["out_channels"]}
    sizes["patch_size"] = tuple(config["patch_size"])
    with init_empty_weights(include_buffers=False):
        return AsymTalkerTransformer3DModel(**sizes | arguments)


def _read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of a checkpoint's file or files."""
    for name in weight_files(folder):
        try:
            with safe_open(folder / name, "pt") as file:
                for key in list(file.keys()):
                    yield key, file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{folder / name} is damaged or cut short ({error}): fetch it anew.") from error


def _print_conversion(conversion: Conversion, transformer: AsymTalkerTransformer3DModel) -> None:
    """What became of the weights, those of all blocks in one line."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    sizes = {name: weight.numel() for name, weight in transformer.state_dict().items()}
    for what, names in vars(conversion).items():
        count = sum(sizes.get(name, 0) for name in names)
        size = f", {count / 1e6:,.1f} M parameters" if count else ""
        console.print(f"{what}: {len(names)} weights{size}", markup=False)
        if what != "kept":
            parts = dict.fromkeys(
                ".".join("*" if word.isdigit() else word for word in name.split(".")) for name in names
            )
            for part in parts:
                console.print(f"  {part}", markup=False)


def _print_size_flags(transformer: AsymTalkerTransformer3DModel, model: TransformerConfig, recipe: str) -> None:
    """The flags to train with where the recipe is of another size."""
    if flags := size_flags(dict(transformer.config), model):
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"The recipe {recipe} is for another network: train with {flags}.", markup=False
        )
