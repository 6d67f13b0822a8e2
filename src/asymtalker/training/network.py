"""The transformer that is trained: made or loaded, sharded, adapted by LoRA, saved whole."""

import copy
import json
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from asymtalker.config import IdentityStrategy, LoopConfig, TeacherConfig, TransformerConfig
from asymtalker.errors import UserError
from asymtalker.flow import hashed_seed
from asymtalker.media.atomic import save_atomic
from asymtalker.models.folder import read_settings
from asymtalker.models.identity import transformer_arguments
from asymtalker.models.loading import weight_files
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.training.checkpoint import load_tensors
from asymtalker.training.distributed import barrier, place, whole_tensor, world
from asymtalker.training.frozen import Frozen, check_settings
from asymtalker.training.run_folder import precision

CLASS = AsymTalkerTransformer3DModel.__name__
NETWORKS_TOO_LARGE = (
    "The GPU's memory is too small for the networks and what their optimizer keeps: --dry-run says what fits."
)
"""For :func:`asymtalker.models.loading.explain_out_of_memory`, where a plan was wrong."""
LORA_MODULES = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0|add_[kv]_proj)|ffn\.net\.(0\.proj|2))"
LORA_TRAINED_TOO = (
    "patch_embedding", "condition_embedder.text_embedder", "condition_embedder.image_embedder", "visual_tokens",
    "audio_slots", "audio_modulator",
)  # fmt: skip
"""What sound and portrait come in by: not in Wan's weights, so that a change of low rank would not do."""


def start_transformer(config: TeacherConfig, frozen: Frozen) -> AsymTalkerTransformer3DModel:
    """The transformer of ``config.init``, or a new one that fits the frozen networks, placed where it is trained.

    Raises:
        UserError: if ``config.init`` holds none, or one of another size than ``config.model``.
    """
    if config.init:
        with init_empty_weights(include_buffers=False):
            expected = build_transformer(config.model, frozen)
        folder = config.init / "transformer"
        saved = read_settings(folder / "config.json", CLASS)
        if flags := size_flags(saved, config.model):
            raise UserError(f"{folder} holds another network than this run's: train with {flags}.")
        check_settings(folder, saved, json.loads(expected.to_json_string()))
        if config.lora_rank:
            return adapt(load_transformer(folder, config.loop, frozen=True), config.lora_rank, config.loop)
        return load_transformer(folder, config.loop)
    if config.lora_rank:
        raise UserError("--config.lora-rank changes weights that are there: give them with --config.init.")
    torch.manual_seed(hashed_seed(config.loop.seed, "weights"))
    transformer = build_transformer(config.model, frozen)
    transformer.initialize()
    return place(transformer, config.loop)


def size_flags(saved: dict[str, Any], model: TransformerConfig) -> str:
    """The flags that give a training the size of a network with these settings; none where ``model`` has it."""
    flags = []
    for name, wanted in vars(model).items():
        held = tuple(value) if isinstance(value := saved.get(name, wanted), list) else value
        flag = name.replace("_", "-")
        if held == wanted:
            continue
        if isinstance(held, bool):
            flags.append(f"--config.model.{'' if held else 'no-'}{flag}")
        else:
            flags.append(f"--config.model.{flag} {' '.join(map(str, held)) if isinstance(held, tuple) else held}")
    return " ".join(flags)


def build_transformer(config: TransformerConfig, frozen: Frozen) -> AsymTalkerTransformer3DModel:
    """A transformer with random weights whose channels fit the frozen networks."""
    return AsymTalkerTransformer3DModel(
        patch_size=config.patch_size,
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        latent_channels=frozen.codec.channels,
        audio_dim=frozen.audio_encoder.config.hidden_size,
        audio_context=config.audio_context,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        prediction_type=config.prediction_type,
        audio_modulation=config.audio_modulation,
        **transformer_arguments(
            config.identity, latent_channels=frozen.codec.channels, image_encoder=frozen.image_encoder
        ),
    )


def transformer_config(folder: Path, identity: IdentityStrategy) -> TransformerConfig:
    """The size of a transformer that was saved.

    Args:
        folder: where ``save_pretrained`` wrote it; what its settings do not name is as it is by default.
        identity: how the portrait enters, which they do not tell.

    Raises:
        UserError: if a setting that has no default is missing, or see
            :func:`asymtalker.models.folder.read_settings`.
    """
    settings = read_settings(folder / "config.json", CLASS)
    names = {field.name for field in fields(TransformerConfig)}
    known: dict[str, Any] = {name: value for name, value in settings.items() if name in names}
    try:
        known["patch_size"] = tuple(known["patch_size"])
        return TransformerConfig(**known, identity=identity)
    except (TypeError, KeyError) as error:
        raise UserError(f"{folder / 'config.json'} is not whole ({error}): make or fetch it anew.") from error


def load_transformer(folder: Path, loop: LoopConfig, frozen: bool = False) -> AsymTalkerTransformer3DModel:
    """The transformer in ``folder``, in float32, placed where it is trained: no process holds more than its shards.

    Args:
        folder: where ``save_pretrained`` wrote it.
        loop: device, precision, offloading.
        frozen: not to be trained, or by LoRA alone (:func:`adapt`): the linear maps of the blocks are then held in the
            precision they are computed in, half the memory for the same values.

    Raises:
        UserError: if a file or a weight is missing, damaged or of another shape than the configuration tells.
    """
    settings = read_settings(folder / "config.json", CLASS)
    with init_empty_weights(include_buffers=False):
        transformer = cast(AsymTalkerTransformer3DModel, AsymTalkerTransformer3DModel.from_config(settings))
    check_weights(folder, transformer)
    if frozen:
        store_as_computed(transformer, loop)
    transformer = place(transformer, loop)
    load_tensors(folder, transformer.state_dict())
    return transformer


def check_weights(folder: Path, transformer: nn.Module) -> None:
    """Check that the files in ``folder`` hold all weights of ``transformer``.

    Raises:
        UserError: naming the file, or the weight and its shape.
    """
    expected = {name: tuple(value.shape) for name, value in transformer.state_dict().items()}
    names = weight_files(folder)
    if others := sorted(file.name for file in folder.glob("*.safetensors") if file.name not in names):
        raise UserError(f"{folder} holds weights that are not this network's, {others[0]}: move them away.")
    for file in (folder / name for name in names):
        try:
            with safe_open(file, "pt") as weights:
                for name in list(weights.keys()):
                    shape, wanted = tuple(weights.get_slice(name).get_shape()), expected.pop(name, None)
                    if wanted is not None and shape != wanted:
                        raise UserError(f"{file}: {name} has the shape {shape}, but config.json tells {wanted}.")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged or cut short ({error}): make or fetch it anew.") from error
    if expected:
        raise UserError(f"{folder}: the weight {next(iter(expected))} is missing; make or fetch it anew.")


def adapt(transformer: AsymTalkerTransformer3DModel, rank: int, loop: LoopConfig) -> AsymTalkerTransformer3DModel:
    """Let changes of low rank to the linear layers of the blocks be trained instead of the weights (LoRA, by peft).

    They begin as no change. What sound and portrait come in by is trained whole.

    Args:
        transformer: whole, on its device, loaded as frozen; not sharded.
        rank: of the changes.
        loop: the seed.
    """
    from peft import LoraConfig

    torch.manual_seed(hashed_seed(loop.seed, "weights"))
    transformer.requires_grad_(False)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=LORA_MODULES))
    for name, parameter in transformer.named_parameters():
        if "lora_" in name or name.startswith(LORA_TRAINED_TOO):
            parameter.requires_grad_(True).data = parameter.data.float()
    return transformer


def store_as_computed(transformer: AsymTalkerTransformer3DModel, loop: LoopConfig) -> None:
    """Hold the linear maps of the blocks, nearly all weights, as autocast would cast them each time."""
    for module in transformer.blocks.modules():
        if isinstance(module, nn.Linear):
            module.to(precision(loop) or torch.float32)


def shared_copy(transformer: AsymTalkerTransformer3DModel) -> AsymTalkerTransformer3DModel:
    """A copy for :func:`adapt` that shares the weights which that leaves as they are."""
    named = transformer.named_parameters()
    return copy.deepcopy(transformer, {id(p): p for name, p in named if not name.startswith(LORA_TRAINED_TOO)})


def merged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights with the changes of LoRA added, ``W + B A``, under the names they have without it; float32."""
    names = {name: name.replace(".base_layer.", ".") for name in weights if ".lora_" not in name}
    plain = {name: weights[held].float() for held, name in names.items()}
    for held in (name for name in names if name.endswith(".base_layer.weight")):
        layer = held.removesuffix(".base_layer.weight")
        low, high = (weights[f"{layer}.lora_{side}.default.weight"].float() for side in "AB")
        plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + high @ low
    return plain


def save_transformer(transformer: AsymTalkerTransformer3DModel, folder: Path) -> None:
    """Write a transformer whole, a diffusers folder, with LoRA's changes in its weights; all processes call this."""
    state = {}
    for name, value in transformer.state_dict().items():
        value = whole_tensor(value.detach())  # a weight at a time, so that no GPU holds all
        if world().main:
            state[name] = value.cpu()
    if world().main:
        settings = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
        with init_empty_weights(include_buffers=False):
            plain = cast(AsymTalkerTransformer3DModel, AsymTalkerTransformer3DModel.from_config(settings))
        plain.load_state_dict(merged(state), assign=True)
        save_atomic(folder, plain.save_pretrained)
    barrier()
