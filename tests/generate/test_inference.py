"""Options of inference change where and how a model runs, and what comes out only as far as they say."""

import shutil
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from asymtalker.codec import WanCodec, build_vae
from asymtalker.commands.cli import main
from asymtalker.config import CodecConfig, InferenceConfig
from asymtalker.errors import UserError
from asymtalker.generate import placement
from asymtalker.generate.pipeline import AsymTalkerPipeline, load_pipeline
from asymtalker.generate.placement import RECOMPILE_LIMIT, channels_last, check_inference, check_split
from asymtalker.media.video import read_video
from asymtalker.models.identity import Identity
from asymtalker.models.loading import load_part
from asymtalker.models.taehv import PreviewDecoder
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import Chunk, Conditions, predict_velocity
from asymtalker.timeline import SAMPLE_RATE, Span
from random_velocity import random_velocity, save_random_velocity
from torchrun import torchrun, torchrun_forks
from toy import TOY_CODEC, toy_transformer
from whole_loop import save_whole_loop, whole_loop

TRAINED_CODEC = Path(__file__).parents[1] / "wan_codec"
SMALL = {"num_attention_heads": 4, "attention_head_dim": 32, "ffn_dim": 512, "prediction_type": "velocity"}


def placed(checkpoint: Path, **options) -> AsymTalkerPipeline:
    return AsymTalkerPipeline.from_pretrained(checkpoint).place("cpu", InferenceConfig(**options))


def velocity(transformer: AsymTalkerTransformer3DModel) -> torch.Tensor:
    """Of a second chunk with random conditions."""
    torch.manual_seed(1)
    noisy, identity, head = torch.randn(1, 6, 3, 4, 4), torch.randn(1, 6, 3, 4, 4), torch.randn(1, 6, 2, 4, 4)
    conditions = Conditions(torch.randn(1, 13, 16), Identity(identity), head)
    with torch.inference_mode():
        return predict_velocity(transformer, noisy, torch.tensor([0.7]), conditions)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offload_changes_nothing(checkpoint, pipeline, portrait, sound, offload):
    expected = pipeline(portrait, (sound, SAMPLE_RATE)).frames
    assert np.array_equal(placed(checkpoint, offload=offload)(portrait, (sound, SAMPLE_RATE)).frames, expected)


def test_every_network_is_brought_in_for_each_chunk(checkpoint, portrait, sound, monkeypatch):
    from accelerate.hooks import CpuOffload

    brought = Counter()
    bring = CpuOffload.pre_forward

    def count(hook, module, *arguments, **options):
        brought[type(module).__name__] += 1
        return bring(hook, module, *arguments, **options)

    monkeypatch.setattr(CpuOffload, "pre_forward", count)
    moved = placed(checkpoint, offload="model")
    chunks = len(list(moved.stream(portrait, (sound, SAMPLE_RATE))))
    assert moved._execution_device == torch.device("cpu", 0)
    assert brought["AsymTalkerTransformer3DModel"] == 2 * chunks  # steps
    # decoded once a chunk; encoded once for the identity and once for the head of each later chunk
    assert brought["AutoencoderKLWan"] == 2 * chunks
    assert brought["Wav2Vec2Model"] >= 1


def test_group_offload_holds_one_block_at_a_time(checkpoint):
    pipeline = placed(checkpoint, offload="group")
    blocks = pipeline.transformer.blocks
    groups = [block._diffusers_hook.get_hook("group_offloading").group for block in blocks]
    assert [group.modules for group in groups] == [[block] for block in blocks]
    # The codec is small beside what decoding needs, and would be fetched for every latent frame.
    assert not any(hasattr(module, "_diffusers_hook") for module in pipeline.vae.modules())


def test_fp8_is_within_its_error(monkeypatch):
    pytest.importorskip("torchao")
    exact, rounded = toy_transformer(**SMALL), toy_transformer(**SMALL)
    placement.to_fp8(rounded, torch.device("cpu"))
    expected = velocity(exact)
    assert 0.001 < relative_error(velocity(rounded), expected) < 0.08  # measured 0.040
    with torch.no_grad():
        for weight in exact.blocks.parameters():
            if weight.ndim == 2:
                weight.mul_(1.25)
    assert relative_error(velocity(exact), expected) > 0.16  # what the bound would show of a wrong scale


def test_fp8_holds_the_blocks_in_half_the_memory():
    pytest.importorskip("torchao")
    from torchao.utils import get_model_size_in_bytes

    stored, rounded = toy_transformer(**SMALL).bfloat16(), toy_transformer(**SMALL).bfloat16()
    others = {name: weight for name, weight in rounded.state_dict().items() if not name.startswith("blocks.")}
    placement.to_fp8(rounded, torch.device("cpu"))
    assert get_model_size_in_bytes(rounded.blocks) < 0.56 * get_model_size_in_bytes(stored.blocks)
    for name, weight in others.items():
        assert torch.equal(rounded.state_dict()[name], weight), name


@pytest.mark.parametrize("offload", ["model", "group"])
def test_fp8_goes_with_offload(checkpoint, portrait, sound, offload):
    pytest.importorskip("torchao")
    expected = placed(checkpoint, fp8=True)(portrait, (sound, SAMPLE_RATE)).frames
    moved = placed(checkpoint, fp8=True, offload=offload)
    assert np.array_equal(moved(portrait, (sound, SAMPLE_RATE)).frames, expected)


def test_tiles_show_nearly_the_same_picture():
    torch.manual_seed(0)
    config = CodecConfig(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=6,
        dim_mult=(1, 1, 1, 1),
        num_res_blocks=1,
        temperal_downsample=(False, True, True),
        is_residual=False,
        patch_size=None,
    )
    vae = build_vae(config).eval().requires_grad_(False)
    codec, latents = WanCodec(vae), torch.randn(1, 6, 1, 24, 40)
    with torch.inference_mode():
        pixels = codec.decode(latents)
        encoded = codec.encode(pixels)
        vae.enable_tiling()
        tiled, tiles = codec.decode(latents), codec.encode(pixels)
    assert not torch.equal(tiled[..., 256:], pixels[..., 256:])
    assert relative_error(tiled, pixels) < 0.1
    assert relative_error(tiles, encoded) < 0.1


def test_tiling_is_switched_on(checkpoint):
    assert placed(checkpoint, vae_tiling=True).vae.use_tiling
    assert not placed(checkpoint).vae.use_tiling


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_compiled_blocks_compute_the_same(checkpoint):
    plain = velocity(placed(checkpoint).transformer)
    assert relative_error(velocity(placed(checkpoint, compile=True).transformer), plain) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="--compile needs a C++ compiler")
def test_compilation_goes_with_fp8_and_with_two_processes(tmp_path, monkeypatch):
    """To whole graphs, which PyTorch then runs: inductor's code for each would take a minute."""
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, rounded = random_velocity({}), random_velocity({"fp8": True})
    both = random_velocity({"compile": True, "fp8": True})
    assert relative_error(both, rounded) < 1e-4 < relative_error(rounded, plain)
    done = torchrun_forks(2, save_random_velocity, {"compile": True}, tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert relative_error(torch.load(tmp_path / f"velocity{rank}.pt"), plain) < 1e-5


@pytest.mark.slow
def test_the_codec_is_whole_graphs_of_several_sizes(monkeypatch):
    """A few for each size, with the layout of a GPU; what there is of a size is used again."""
    vae = build_vae(replace(TOY_CODEC, num_res_blocks=0)).eval().requires_grad_(False)  # which has all kinds of layers
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", RECOMPILE_LIMIT)
    codec, inputs, graphs = WanCodec(vae), [], []
    for size in (2, 4):
        inputs.append((torch.randn(1, TOY_CODEC.z_dim, 5, 2, size), torch.randn(1, 3, 9, 16, 8 * size)))
    with torch.inference_mode():
        expected = [(codec.decode(latents), codec.encode(pixels)) for latents, pixels in inputs]
        channels_last(vae)
        for part in (vae.decoder, vae.encoder):
            part.compile(fullgraph=True, dynamic=False, backend="eager")
        torch._dynamo.utils.counters.clear()
        for (latents, pixels), (frames, encoded) in zip(inputs * 2, expected * 2, strict=True):
            assert torch.allclose(codec.decode(latents), frames, atol=1e-5)
            assert torch.allclose(codec.encode(pixels), encoded, atol=1e-4)
            graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] <= 9
    assert graphs[1] <= 2 * graphs[0]
    assert graphs[1:] == graphs[1:2] * 3


def test_channels_last_changes_the_layout_alone():
    vae = build_vae(TOY_CODEC).eval().requires_grad_(False)
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    codec, latents = WanCodec(vae), torch.randn(1, TOY_CODEC.z_dim, 3, 2, 2)
    with torch.inference_mode():
        expected = codec.decode(latents)
        channels_last(vae)
        assert torch.allclose(codec.decode(latents), expected, atol=1e-5)
    assert vae.decoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert not vae.decoder.conv_in.weight.is_contiguous()
    assert all(torch.equal(weight, before[name]) for name, weight in vae.state_dict().items())


def test_attention_of_another_name_takes_effect_everywhere(checkpoint, monkeypatch):
    seen = []
    dispatch = placement.attend.__globals__["dispatch_attention_fn"]

    def watch(*arguments, **options):
        seen.append(options["backend"])
        return dispatch(*arguments, **options)

    monkeypatch.setitem(placement.attend.__globals__, "dispatch_attention_fn", watch)
    plain = velocity(placed(checkpoint).transformer)
    assert set(seen) == {None}
    seen.clear()
    other = placed(checkpoint, attention="_native_math").transformer
    seen.clear()
    assert relative_error(velocity(other), plain) < 1e-5
    assert seen == [AttentionBackendName._NATIVE_MATH] * 4  # two blocks, self- and cross-attention


@pytest.mark.parametrize("attention", ["_native_math", "flash"])
def test_attention_of_one_pipeline_is_not_that_of_others(checkpoint, attention):
    """diffusers keeps one for all that name none."""
    with suppress(UserError):
        placed(checkpoint, attention=attention)
    assert _AttentionBackendRegistry.get_active_backend()[0] == AttentionBackendName.NATIVE


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attention": "best"}, r"There is no attention best: choose .*native"),
        ({"offload": "group", "compile": True}, "--compile does not go with --offload group"),
        ({"preview": Path("none.pth")}, r"preview decoder none\.pth does not exist"),
    ],
)
def test_options_that_cannot_be_used_are_said_before_the_weights_load(options, says):
    with pytest.raises(UserError, match=says) as error:
        load_pipeline("/nowhere", "cpu", InferenceConfig(**options))
    assert "\n" not in str(error.value)


def test_a_kernel_for_another_machine_is_said(checkpoint):
    for name in ("flash", "_sage_qk_int8_pv_fp8_cuda"):
        with pytest.raises(UserError, match=f"attention {name} can't be used here") as error:
            placed(checkpoint, attention=name)
        assert "\n" not in str(error.value)


def test_packages_that_are_missing_are_said(monkeypatch):
    monkeypatch.setattr(placement, "find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    for options, says in [
        ({"fp8": True}, "needs torchao"),
        ({"offload": "model"}, "needs accelerate"),
        ({"compile": True}, r"needs a C\+\+ compiler"),
    ]:
        with pytest.raises(UserError, match=says):
            check_inference(InferenceConfig(**options))


def test_what_compiling_for_a_gpu_needs_is_said(monkeypatch, tmp_path):
    have = {"g++"}
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: name if name in have else None)
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    check_inference(InferenceConfig(compile=True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"needs a C compiler \(gcc or clang\) on a GPU"):
        check_inference(InferenceConfig(compile=True))
    have.add("gcc")
    with pytest.raises(UserError, match=r"needs Python's headers \(Python\.h\)"):
        check_inference(InferenceConfig(compile=True))
    (tmp_path / "Python.h").touch()
    check_inference(InferenceConfig(compile=True))


def test_what_several_processes_cannot_share_is_said(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match="--offload model does not go with torchrun"):
        check_inference(InferenceConfig(offload="model"))
    check_split(toy_transformer(), (4, 4), 4)
    with pytest.raises(UserError, match="has 4 tokens, which 3 processes"):
        check_split(toy_transformer(), (4, 4), 3)
    with pytest.raises(UserError, match="2 attention heads, which 4 processes"):
        placement.split_tokens(toy_transformer(), 4)


def test_flags_reach_the_pipeline(checkpoint, portrait, voice, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("asymtalker.generate.pipeline.check_inference", given.append)
    inputs = ["--image", str(portrait), "--audio", str(voice), "--output", str(tmp_path / "a.mp4"), "--device", "cpu"]
    main(["generate", *inputs, "--model", str(checkpoint), "--offload", "group", "--vae-tiling"])
    assert set(given) == {InferenceConfig(offload="group", vae_tiling=True)}


def test_bfloat16_weights_make_nearly_the_same_video(checkpoint, pipeline, portrait, sound):
    stored = AsymTalkerPipeline.from_pretrained(checkpoint, torch_dtype=torch.bfloat16)
    block = stored.transformer.blocks[0]
    assert block.attn1.to_q.weight.dtype == torch.bfloat16
    assert block.scale_shift_table.dtype == block.norm2.weight.dtype == torch.float32
    expected = pipeline(portrait, (sound, SAMPLE_RATE), crop=True).frames.astype(float)
    made = stored(portrait, (sound, SAMPLE_RATE), crop=True).frames
    assert np.abs(made - expected).mean() < 1  # measured 0.41; another seed's first chunk is 2.9 off
    other = pipeline(portrait, (sound, SAMPLE_RATE), crop=True, seed=1).frames
    assert np.abs(other - expected)[:9].mean() > 2


def test_preview_shows_its_own_frames_but_the_codec_makes_the_head(checkpoint, pipeline, portrait, sound, tmp_path):
    torch.manual_seed(0)
    torch.save(PreviewDecoder(6).state_dict(), tmp_path / "preview.pth")
    shown = placed(checkpoint, preview=tmp_path / "preview.pth")
    decoded = []
    decode = shown.vae.decode
    shown.vae.decode = lambda latents: (decoded.append(latents), decode(latents))[1]
    frames = shown(portrait, (sound, SAMPLE_RATE), crop=True).frames
    plain = pipeline(portrait, (sound, SAMPLE_RATE), crop=True).frames
    assert frames.shape == plain.shape
    assert np.abs(frames.astype(float) - plain).mean() > 3
    chunks = len(list(pipeline.stream(portrait, (sound, SAMPLE_RATE))))
    assert len(decoded) == chunks - 1  # for the next chunk's head only
    # Random weights of the preview would show in its latents if they went round the loop.
    assert relative_error(decoded[-1], _last_latents(pipeline, portrait, sound)) < 0.06  # measured 0.03


def test_the_end_of_a_chunk_is_decoded_nearly_as_if_after_the_rest():
    codec = WanCodec(load_part(AutoencoderKLWan, TRAINED_CODEC))  # a random one hardly forgets
    latents = torch.randn(1, codec.channels, 11, 4, 4, generator=torch.Generator().manual_seed(0))
    span = Span(index=0, start=0, stop=41, continuity=0, new=range(41))
    whole = Chunk(span, latents, codec, Identity())
    tail = Chunk(span, latents, codec, Identity(), preview=PreviewDecoder(codec.channels))
    with torch.inference_mode():
        exact, near = whole.pixels_of(range(36, 41)), tail.pixels_of(range(36, 41))
        assert torch.equal(exact, whole.pixels[:, :, -5:])
        assert near.shape == exact.shape
        assert relative_error(near, exact) < 0.01  # measured 0.004
        assert relative_error(codec.decode(latents[:, :, -2:])[:, :, -5:], exact) > 0.1  # without what comes before


def _last_latents(pipeline, portrait, sound) -> torch.Tensor:
    """What the last chunk but one is decoded from."""
    decoded = []
    decode = pipeline.vae.decode
    pipeline.vae.decode = lambda latents: (decoded.append(latents), decode(latents))[1]
    try:
        list(pipeline.stream(portrait, (sound, SAMPLE_RATE)))
    finally:
        del pipeline.vae.decode
    return decoded[-2]


def test_a_process_that_writes_nothing_fetches_no_frames(checkpoint, pipeline, portrait, voice, sound, monkeypatch):
    chunks = len(list(pipeline.stream(portrait, (sound, SAMPLE_RATE))))
    other, decoded = AsymTalkerPipeline.from_pretrained(checkpoint), []
    decode = other.vae.decode
    other.vae.decode = lambda latents: (decoded.append(latents), decode(latents))[1]
    monkeypatch.setattr("asymtalker.generate.pipeline.fetch_frames", lambda _: pytest.fail("fetched"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    other.processes = 2
    other.generate_to_file(portrait, voice, voice.with_suffix(".mp4"), say=lambda _: None)
    assert len(decoded) == chunks - 1  # for the next chunk's head only
    assert not voice.with_suffix(".mp4").exists()


@pytest.mark.slow
def test_two_processes_make_the_same_latents_as_one(checkpoint, tmp_path):
    done = torchrun_forks(2, save_whole_loop, checkpoint, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = whole_loop(checkpoint)
    for rank in range(2):
        assert torch.allclose(torch.load(tmp_path / f"latents{rank}.pt"), expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_write_one_video(checkpoint, portrait, voice, tmp_path):
    def command(output: Path) -> list[str]:
        inputs = ["--image", str(portrait), "--audio", str(voice), "--output", str(output), "--device", "cpu"]
        return ["generate", *inputs, "--crop", "--model", str(checkpoint)]

    main(command(tmp_path / "one.mp4"))
    done = torchrun(2, "--module", "asymtalker", *command(tmp_path / "out" / "two.mp4"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out' / 'two.mp4'}\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["two.mp4"]
    (one, heard), (two, heard_too) = (
        read_video(path) for path in (tmp_path / "one.mp4", tmp_path / "out" / "two.mp4")
    )
    assert one.shape == two.shape
    assert np.array_equal(heard, heard_too)
    # Frames differ by bfloat16's rounding, and what H.264 makes of it in the noise that a random codec decodes.
    blocks = [frames.reshape(-1, 4, 8, 4, 8, 3).mean(axis=(2, 4)) for frames in (one, two)]
    assert np.abs(blocks[0] - blocks[1]).mean() < 2
