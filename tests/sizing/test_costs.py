from functools import partial

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import nn
from torch.utils.checkpoint import checkpoint

from asymtalker.codec import build_vae
from asymtalker.sizing.costs import count_flops, measure, num_parameters, on_meta, recomputed
from toy import TOY_AUDIO, TOY_CODEC, TOY_TRANSFORMER, toy_transformer

BATCH, LATENTS, SIDE = 2, 3, 8
FRAMES = 1 + 4 * (LATENTS - 1)
CONTEXT = TOY_TRANSFORMER.audio_context


def inputs(device: str, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    channels = 2 * TOY_CODEC.z_dim + 4
    shapes = (
        (BATCH, channels, LATENTS, SIDE, SIDE),
        (BATCH, LATENTS),
        (BATCH, FRAMES + 2 * CONTEXT, TOY_AUDIO.hidden_size),
    )
    return tuple(torch.ones(shape, device=device, dtype=dtype) for shape in shapes)


def loss(network: nn.Module, device: str) -> torch.Tensor:
    return network(*inputs(device, next(network.parameters()).dtype)).sample.float().square().mean()


def matrix_products() -> int:
    """Operations of the toy transformer's forward pass, counted by hand."""
    config, channels = TOY_TRANSFORMER, 2 * TOY_CODEC.z_dim + 4
    width = config.num_attention_heads * config.attention_head_dim
    frames, tokens = BATCH * LATENTS, BATCH * LATENTS * (SIDE // 2) ** 2
    slots = 4 + 2 * CONTEXT  # audio tokens of a latent frame
    per_chunk = tokens // BATCH
    linear = tokens * (4 * channels) * width  # patches
    linear += frames * (config.freq_dim * width + width * width + width * 6 * width)  # time
    linear += BATCH * (FRAMES + 2 * CONTEXT) * (TOY_AUDIO.hidden_size * width + width * width)  # sound
    linear += tokens * width * 4 * TOY_CODEC.z_dim  # output
    block = tokens * 4 * width * width + 2 * tokens * per_chunk * width  # self-attention
    block += tokens * 2 * width * width + frames * slots * 2 * width * width + 2 * tokens * slots * width  # to sound
    block += tokens * 2 * width * config.ffn_dim
    return 2 * (linear + config.num_layers * block)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_are_those_of_the_matrix_products(dtype):
    network = toy_transformer().to(dtype)
    assert count_flops(lambda: network(*inputs("cpu", dtype))) == matrix_products()


def test_what_is_measured_without_memory_is_what_is_computed():
    empty = on_meta(toy_transformer).train()
    real = toy_transformer().train()
    assert num_parameters(empty.parameters()) == num_parameters(real.parameters())
    measured = measure(lambda: loss(empty, "meta"), None)
    assert measured.flops == count_flops(lambda: loss(real, "cpu").backward())
    assert all(parameter.is_meta and parameter.grad is None for parameter in empty.parameters())


def saved_bytes(network: nn.Module) -> int:
    """What a real network keeps for its backward pass besides its weights."""
    own = {tensor.untyped_storage().data_ptr() for tensor in network.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss(network, "cpu")
    assert result.requires_grad
    return sum(storage.nbytes() for storage in saved.values())


def test_activations_are_those_that_a_real_network_keeps():
    empty = on_meta(toy_transformer).train()
    measured = measure(lambda: loss(empty, "meta"), None)
    assert measured.kept == pytest.approx(saved_bytes(toy_transformer().train()), rel=0.05)
    assert measured.peak >= measured.kept


def test_operations_of_a_codec_are_those_of_a_real_one():
    def decode(vae: AutoencoderKLWan, device: str) -> torch.Tensor:
        latents = torch.ones(1, TOY_CODEC.z_dim, 3, 4, 4, device=device, requires_grad=True)
        return vae.decode(latents).sample.float().mean()

    real = build_vae(TOY_CODEC).eval().requires_grad_(False)
    empty = on_meta(lambda: build_vae(TOY_CODEC)).eval().requires_grad_(False)
    measured = measure(lambda: decode(empty, "meta"), None)
    assert measured.flops == count_flops(lambda: decode(real, "cpu").backward())


def test_checkpointing_trades_operations_for_memory():
    plain = on_meta(lambda: toy_transformer(num_layers=8)).train()
    forward = measure(torch.no_grad()(lambda: loss(plain, "meta")), None)
    before = measure(lambda: loss(plain, "meta"), None)
    anew = partial(recomputed, None)
    plain.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, context_fn=anew))
    after = measure(lambda: loss(plain, "meta"), None)
    assert 0.9 * forward.flops < after.flops - before.flops <= forward.flops
    assert after.peak < 0.5 * before.peak
    assert after.kept < 0.25 * before.kept


def test_attention_keeps_no_weights():
    def attend(tokens: int) -> int:
        states = torch.ones(1, 1, tokens, 16, device="meta", requires_grad=True)
        return measure(lambda: nn.functional.scaled_dot_product_attention(states, states, states).sum(), None).peak

    assert attend(4096) == pytest.approx(4 * attend(1024), rel=0.01)


def test_autocast_halves_what_linear_layers_keep():
    empty = on_meta(lambda: nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))).requires_grad_(False)

    def run(dtype: torch.dtype | None) -> int:
        states = torch.ones(10_000, 64, device="meta", requires_grad=True)
        return measure(lambda: nn.functional.silu(empty(states)).sum(), dtype).kept

    assert run(torch.bfloat16) < 0.6 * run(None)
