"""What a measuring process does: random networks, ceilings, costs, times of parts."""

import json
import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models import modeling_utils
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from asymtalker.bench import ceiling as bench_ceiling
from asymtalker.bench import generation as bench_measure
from asymtalker.bench import machine
from asymtalker.bench import training as bench_train
from asymtalker.bench.ceiling import count_costs, measure_ceiling, seconds_of, token_count
from asymtalker.bench.generation import PartTimer, measure_stock
from asymtalker.bench.random_weights import random_pipeline
from asymtalker.config import InferenceConfig, to_dict
from asymtalker.errors import UserError
from asymtalker.generate import pipeline as generating
from asymtalker.generate import placement
from asymtalker.models.motion.painter import SIDE
from asymtalker.recipes import smoke, wan_1_3b
from asymtalker.sizing.costs import count_flops
from asymtalker.sizing.empty import describe_chunk
from asymtalker.timeline import latents_of_frames

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def random_smoke():
    return random_pipeline(smoke(), (32, 64), CPU)


@pytest.fixture(scope="module")
def network(random_smoke):
    return random_smoke.describe()


def weights(pipeline):
    parts = {"transformer": pipeline.transformer, "vae": pipeline.vae, "audio": pipeline.audio_encoder}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def test_random_weights_are_finite_and_follow_the_seed(random_smoke):
    first, again = weights(random_smoke), weights(random_pipeline(smoke(), (32, 64), CPU))
    other = weights(random_pipeline(smoke(), (32, 64), CPU, seed=1))
    assert all(value.isfinite().all() for value in first.values())
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["transformer.proj_out.weight"], other["transformer.proj_out.weight"])


def test_random_weights_are_stored_as_loaded_ones_are(random_smoke, tmp_path):
    """In bfloat16, save for what loading in bfloat16 leaves in float32."""
    random_smoke.transformer.save_pretrained(tmp_path)
    loaded = type(random_smoke.transformer).from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    made = {name: value.dtype for name, value in random_smoke.transformer.state_dict().items()}
    assert made == {name: value.dtype for name, value in loaded.state_dict().items()}
    assert set(made.values()) == {torch.bfloat16, torch.float32}


def test_random_pipeline_makes_moving_pictures_of_its_size(random_smoke):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    sound = np.random.default_rng(0).normal(0, 0.1, 34 * 640).astype(np.float32), 16_000
    frames = np.concatenate(list(random_smoke.stream(picture, sound, size=(64, 64), framed=True)))
    assert frames.shape == (34, 64, 64, 3)
    assert frames.std(axis=(1, 2, 3)).min() > 0
    assert frames.std(axis=0).max() > 0


def test_what_is_measured_is_a_student(random_smoke):
    assert not smoke().sampler.renew_noise
    assert random_smoke.settings.sampler == replace(smoke().sampler, renew_noise=True)


def test_sizes_that_tokens_do_not_divide_are_refused():
    with pytest.raises(UserError, match="64x80 does not fit this model: its height must be a multiple of 32 pixels"):
        random_pipeline(smoke(), (64, 80), CPU)


def test_costs_of_the_transformer_are_those_of_its_matrix_products(network):
    """Of one pass: tokens through the linear layers, and attention of all tokens on all. What remains is small."""
    sizes, tokens = network["transformer"], token_count(network)
    assert tokens == 9 * 1 * 2
    width, ffn, layers = 4 * 64, sizes["ffn_dim"], sizes["num_layers"]
    audio_tokens = 9 * 8
    linear = layers * (tokens * (6 * width**2 + 2 * width * ffn) + audio_tokens * 2 * width**2)
    attention = layers * (2 * tokens**2 * width + 2 * tokens * 8 * width)
    found = count_costs(network)
    assert found["transformer"] > 2 * (linear + attention)
    assert found["identity"] > found["re_encode"] > 0
    assert found["chunk"] == pytest.approx(
        4 * found["transformer"] + found["decode"] + found["re_encode"] + found["audio"]
    )


def test_costs_grow_with_size_and_passes(network):
    once, larger = count_costs(network), count_costs(network | {"size": [64, 64], "passes": 8})
    assert larger["decode"] == pytest.approx(2 * once["decode"], rel=0.05)
    assert larger["chunk"] - larger["decode"] - larger["re_encode"] - larger["audio"] == 8 * larger["transformer"]


def test_a_preview_costs_its_decoder_and_the_end_of_a_chunk(network):
    whole = count_costs(network)
    shown = count_costs(network | describe_chunk(smoke().teacher.chunk, preview=True))
    assert shown["decode"] < whole["decode"]
    assert shown["chunk"] == pytest.approx(whole["chunk"] - whole["decode"] + shown["decode"] + shown["preview"])
    # Its last convolution alone, of 64 channels to three colours, 3 x 3, for all frames at 8 pixels a latent cell.
    cells = math.prod(side // network["vae"]["scale_factor_spatial"] for side in network["size"])
    assert shown["preview"] > 2 * 64 * 3 * 9 * 64 * cells * network["frames"]
    assert "preview" not in whole


def test_a_codec_of_motion_costs_its_painter_whatever_the_size():
    bundled = generating.load_pipeline(None, "cpu")
    network = bundled.describe()
    costs, larger = count_costs(network), count_costs(network | {"size": [1024, 768]})
    squares = [torch.zeros(1, channels, SIDE, SIDE) for channels in (3, 1, 3, 1)]
    assert costs["decode"] == costs["new_frames"] * count_flops(lambda: bundled.vae.painter(*squares))
    assert costs["chunk"] == pytest.approx(4 * costs["transformer"] + costs["decode"] + costs["audio"])
    assert larger == costs
    assert token_count(network) == latents_of_frames(network["frames"])
    with pytest.raises(UserError, match="no codec of motion"):
        measure_stock({"network": network, "inference": to_dict(InferenceConfig()), "runs": 1})


def test_guidance_doubles_the_passes(random_smoke, monkeypatch):
    sampler = replace(random_smoke.settings.sampler, guidance_scale=2.0)
    assert random_smoke.describe()["passes"] == 4
    monkeypatch.setattr(random_smoke, "settings", replace(random_smoke.settings, sampler=sampler))
    assert random_smoke.describe()["passes"] == 8
    assert random_smoke.describe(steps=3)["passes"] == 6


@pytest.mark.usefixtures("_quick_ceiling")
def test_ceiling_is_the_most_of_its_shapes(network):
    ceiling = measure_ceiling({"network": network, "attention": None})
    assert ceiling["dtype"] == "bfloat16"
    assert {"18x256x256", "18x256x1024", "18x1024x256"} < ceiling["matmul"].keys()
    assert ceiling["matmul_tflops"] == max(ceiling["matmul"].values())
    assert ceiling["attention_tflops"] > 0


def test_time_of_a_call_is_of_one_call(monkeypatch):
    calls = []
    monkeypatch.setattr(bench_ceiling, "time", SimpleNamespace(perf_counter=lambda: 0.02 * len(calls)))
    assert seconds_of(lambda: calls.append(1), CPU) == pytest.approx(0.02)
    assert len(calls) * 0.02 == pytest.approx(1.1 * bench_ceiling.MEASURED_SECONDS, rel=0.1)


def test_peaks_of_loading_and_of_running_are_apart(monkeypatch):
    held, gpu = [300 << 20], torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: held[0])
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 2 * held[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: held.__setitem__(0, 100 << 20))
    assert machine.peak_of_loading(gpu) == {"load_peak_gpu_mib": 300}
    assert machine.peak_memory(gpu).items() >= {"peak_gpu_mib": 100, "peak_gpu_reserved_mib": 200}.items()
    assert machine.peak_of_loading(CPU) == {}


def test_stock_pipeline_is_of_the_same_size(network):
    found = measure_stock({"network": network, "inference": to_dict(InferenceConfig()), "runs": 1})
    assert found["fitted"] == "bfloat16, one process"
    assert found["frames_per_chunk"] == network["frames"]
    assert found["fps"] == pytest.approx(network["frames"] / found["seconds_per_chunk"], rel=0.01)
    assert found["part_seconds"]["transformer"] > 0
    assert found["part_seconds"]["decode"] > 0


def test_stock_frames_end_as_ours_do(network, monkeypatch):
    shapes = []
    monkeypatch.setattr(bench_measure, "to_frames", lambda pixels: shapes.append((pixels.shape, pixels.aminmax())))
    measure_stock({"network": network, "inference": to_dict(InferenceConfig()), "runs": 1})
    assert shapes
    for shape, (least, most) in shapes:
        assert shape == (1, 3, network["frames"], *network["size"])
        assert -1 <= least < 0 < most <= 1


@pytest.mark.parametrize(
    ("offload", "options", "said"),
    [
        ("model", {"vae_tiling": True}, "VAE tiling, offload model"),
        ("group", {"attention": "_native_math"}, "offload group, attention _native_math"),
    ],
)
def test_stock_pipeline_is_fitted_as_ours_is(network, monkeypatch, offload, options, said):
    made, inference = [], InferenceConfig(offload=offload, **options)

    def keep(pipeline, device, config):
        placement.fit(pipeline, device, config)
        made.append(pipeline)

    monkeypatch.setattr(bench_measure, "fit", keep)
    monkeypatch.setattr(_AttentionBackendRegistry, "_active_backend", _AttentionBackendRegistry._active_backend)
    found = measure_stock({"network": network, "inference": to_dict(inference), "runs": 1})
    assert found["fitted"] == f"bfloat16, one process, {said}"
    (pipeline,) = made
    assert pipeline.vae.use_tiling == inference.vae_tiling
    processors = {block.attn1.processor._attention_backend for block in pipeline.transformer.blocks}
    assert processors == {inference.attention and AttentionBackendName(inference.attention)}
    grouped = pipeline.transformer.blocks[0]._diffusers_hook if offload == "group" else None
    assert (grouped is not None) == (offload == "group")
    assert hasattr(pipeline.transformer, "_hf_hook") == (offload == "model")


def test_stock_blocks_are_compiled_when_ours_are(network, monkeypatch):
    made = []
    monkeypatch.setattr(bench_measure, "_time_stock", lambda pipeline, *_: made.append(pipeline) or {})
    measure_stock({"network": network, "inference": to_dict(InferenceConfig(compile=True)), "runs": 1})
    (pipeline,) = made
    parts = [*pipeline.transformer.blocks, pipeline.vae.decoder, pipeline.vae.encoder]
    assert all(part._compiled_call_impl is not None for part in parts)
    assert pipeline.transformer._compiled_call_impl is None


@pytest.mark.usefixtures("_quick_ceiling")
def test_the_kernel_of_the_ceiling_is_loaded_first(network, monkeypatch):
    """A kernel of the hub is downloaded when it is set, and not when it is called."""
    loaded = []
    monkeypatch.setattr(modeling_utils.ModelMixin, "set_attention_backend", lambda _, name: loaded.append(name))
    assert measure_ceiling({"network": network, "attention": "native"})["attention_tflops"] > 0
    assert loaded == ["native"]
    with pytest.raises(UserError, match="attention flash can't be used here"):
        measure_ceiling({"network": network, "attention": "flash"})


@pytest.mark.parametrize("measure", [measure_ceiling, measure_stock])
def test_too_little_memory_for_what_is_beside_is_said(network, monkeypatch, measure):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench_ceiling, "_random", full)
    monkeypatch.setattr(bench_measure, "random_network", full)
    with pytest.raises(UserError, match="memory is too small for"):
        measure({"network": network, "inference": to_dict(InferenceConfig()), "attention": None, "runs": 1})


def test_too_little_memory_for_random_weights_is_said(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    job = {"recipe": "smoke", "device": "cpu", "size": [32, 64], "inference": to_dict(InferenceConfig())}
    monkeypatch.setattr(generating, "available_bytes", lambda _: 0)
    for module, name, says in [
        (bench_measure, "random_pipeline", "too small for the weights"),
        (generating, "fit", r"memory is full: this model at 32x64 needs .* nothing that can be set makes it fit"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(UserError, match=says):
                bench_measure._load(job)


def test_options_survive_json():
    inference = InferenceConfig(preview=Path("taew2_1.pth"), offload="group", vae_tiling=True)
    for given in (inference, InferenceConfig()):
        assert bench_measure._inference({"inference": json.loads(json.dumps(to_dict(given)))}) == given


def test_too_little_memory_for_training_names_what_is_left_to_do(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bench_train, "teacher_losses", full)
    job = {"recipe": "smoke", "device": "cpu", "size": [32, 64], "precision": "auto", "steps": 1, "batch": 2}
    says = "give a smaller --batch, --gradient-checkpointing True, more --gpus or a smaller --size"
    with pytest.raises(UserError, match=says):
        bench_train.measure_train(job | {"gradient_checkpointing": False})
    with pytest.raises(UserError, match="give more --gpus or a smaller --size"):
        bench_train.measure_train(job | {"batch": 1, "gradient_checkpointing": True})


def test_a_measured_step_is_of_one_micro_batch_on_each_process(monkeypatch):
    job = {"device": "cpu", "precision": "auto", "batch": None, "gradient_checkpointing": None}
    recipe = wan_1_3b()  # whose own step has 64
    for processes in (1, 3):
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        assert bench_train._configured(job, recipe.teacher).loop.micro_batches == processes


def test_another_thread_does_not_wait_for_the_gpu(monkeypatch):
    """It would wait for the work of the timer's own thread, as there is one stream."""
    waited = []
    monkeypatch.setattr(bench_measure, "synchronize", lambda _: waited.append(threading.get_ident()))

    class Work:
        def do(self):
            pass

    timer, work = PartTimer(CPU), Work()
    timer.watch(work, "do", lambda _: "work")
    thread = threading.Thread(target=work.do)
    thread.start()
    thread.join()
    assert waited == []
    work.do()
    assert waited == [threading.get_ident()] * 2
    assert timer.calls["work"] == 2


def test_parts_of_another_thread_are_counted_apart():
    class Work:
        def here(self):
            time.sleep(0.02)

        def there(self):
            time.sleep(0.03)

    timer, work = PartTimer(CPU), Work()
    timer.watch(work, "here", lambda call: f"here {call}")
    timer.watch(work, "there", lambda _: "there")
    work.here()
    thread = threading.Thread(target=work.there)
    thread.start()
    work.here()
    thread.join()
    report = timer.report(1.0)
    assert report.keys() == {"here 0", "here 1", "there", "other"}
    assert timer.hidden.keys() == {"there"}
    assert report["other"] == pytest.approx(1 - report["here 0"] - report["here 1"], abs=1e-3)
    assert report["there"] >= 0.03


def test_paper_size_is_described_without_its_weights():
    """Published sizes: the 1.3B transformer of Wan, its codec, wav2vec2-base."""
    from accelerate import init_empty_weights

    from asymtalker.sizing.costs import num_parameters, recipe_audio_encoder, recipe_codec

    with init_empty_weights():
        codec, encoder = recipe_codec(wan_1_3b()), recipe_audio_encoder(wan_1_3b())
    assert num_parameters(codec.parameters()) == pytest.approx(126.9e6, rel=1e-3)
    assert num_parameters(encoder.parameters()) == pytest.approx(94.4e6, rel=1e-3)
