import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asymtalker.dataset.batches import ChunkSource
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.generate.folder import checkpoint_folder
from asymtalker.media.video import probe_video
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.recipes import smoke
from asymtalker.train import teacher as teacher_loop
from asymtalker.train.teacher import (
    decoded_frames,
    draw_conditions,
    pixel_losses,
    pixel_window,
    teacher_losses,
    train_teacher,
)
from asymtalker.training.frozen import load_frozen
from asymtalker.training.network import build_transformer, start_transformer
from asymtalker.training.run_folder import RunFolder, build_optimizer
from torchrun import FORKS
from toy import TOY_CHUNK, TOY_OPTIMIZER, TOY_TRANSFORMER, assert_same, saved_state, toy_loop, toy_teacher


@pytest.fixture(scope="module")
def frozen(tiny_pipeline_folder):
    return load_frozen(tiny_pipeline_folder, "tre", toy_loop())


@pytest.fixture(scope="module")
def source(toy_corpus, frozen):
    return ChunkSource(toy_corpus, "train", frozen, TOY_CHUNK)


def losses_of(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [(line["step"], line["fm"]) for line in lines if "fm" in line]


@pytest.mark.parametrize("prediction_type", ["velocity", "change"])
def test_the_loss_of_a_batch_falls_with_every_step_on_it(source, frozen, prediction_type):
    config = toy_teacher(model=replace(TOY_TRANSFORMER, prediction_type=prediction_type), pixel_max_sigma=1.0)
    torch.manual_seed(0)
    transformer = start_transformer(config, frozen)
    batch = source.batch(2, numbered_generator(0, 0))
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=5e-3)
    totals = []
    for _ in range(10):
        losses = teacher_losses(config, transformer, frozen, source, batch, numbered_generator(0, 1), decode=True)
        assert set(losses) == {"fm", "tgc", "ff"}
        total = losses["fm"] + 0.1 * losses["tgc"] + 0.1 * losses["ff"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[1] < totals[0]
    assert totals[-1] < 0.7 * totals[0]


def test_only_the_transformer_gets_gradients(source, frozen):
    config = toy_teacher(pixel_max_sigma=1.0)
    transformer = build_transformer(config.model, frozen)
    batch = source.batch(1, numbered_generator(0, 0))
    losses = teacher_losses(config, transformer, frozen, source, batch, numbered_generator(0, 1), decode=True)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in transformer.parameters())
    assert all(p.grad is None for net in (frozen.codec.vae, frozen.audio_encoder) for p in net.parameters())


def test_the_given_head_is_not_in_the_loss(source, frozen):
    """Ground truth that differs only where it is given changes the conditions, never the target."""
    config = toy_teacher(audio_dropout=0.0)
    batch = source.batch(1, numbered_generator(0, 0))
    transformer = build_transformer(config.model, frozen)
    torch.nn.init.zeros_(transformer.proj_out.weight)
    torch.nn.init.zeros_(transformer.proj_out.bias)
    changed = batch.latents.clone()
    changed[:, :, :2] += 5
    batches = [batch, replace(batch, latents=changed)]
    values = [teacher_losses(config, transformer, frozen, source, b, numbered_generator(0, 1), False) for b in batches]
    assert torch.equal(values[0]["fm"], values[1]["fm"])


def test_dropout_of_conditions(source):
    batch = source.batch(4, numbered_generator(0, 0))
    none = draw_conditions(toy_teacher(audio_dropout=0.0), batch, numbered_generator(0, 1))
    assert torch.equal(none.continuity, batch.latents[:, :, :2])
    assert torch.equal(none.audio, batch.audio.frames(-2, TOY_CHUNK.frames + 2))
    first = source.batch(4, numbered_generator(0, 0), 0)
    both = draw_conditions(toy_teacher(audio_dropout=1.0), first, numbered_generator(0, 1))
    assert both.continuity is None
    assert not both.audio.any()


def test_the_window_of_the_pixel_losses_lies_after_the_head():
    config = toy_teacher(pixel_frames=5)
    windows = {pixel_window(config, 21, 2, numbered_generator(0, i)) for i in range(200)}
    assert min(windows) == (2, 3)
    assert max(windows) == (20, 21)
    firsts = {pixel_window(config, 21, 0, numbered_generator(0, i)) for i in range(200)}
    assert (0, 2) in firsts  # at the start of a first chunk latent frame 0 is a frame of its own
    assert decoded_frames(0, 2) == (0, 5)
    assert decoded_frames(2, 3) == (4, 9)
    assert decoded_frames(20, 21) == (76, 81)


@pytest.mark.parametrize(("first", "stop"), [(0, 2), (1, 2), (2, 3)])
def test_pixel_losses_see_the_window_and_vanish_at_the_truth(source, frozen, first, stop):
    batch = source.batch(1, numbered_generator(0, 0))
    clean = batch.latents
    mask = torch.ones(1, 1, 5, 32, 32)
    assert all(value == 0 for value in pixel_losses(frozen.codec, clean, clean, mask, first, stop).values())
    predicted = (clean + 0.1).requires_grad_()
    sum(pixel_losses(frozen.codec, predicted, clean, mask, first, stop).values()).backward()
    touched = [t for t in range(3) if predicted.grad[:, :, t].any()]
    assert touched == list(range(first, stop))


def test_exchanging_motion_of_pixels_is_refused_before_anything_is_encoded(tmp_path, toy_corpus, tiny_pipeline_folder):
    corpus = shutil.copytree(toy_corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    with pytest.raises(UserError, match=r"--config\.exchange at 0"):
        train_teacher(toy_teacher(exchange=0.5), tmp_path / "run", corpus, tiny_pipeline_folder)
    assert not (corpus / "cache").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["continuity_dropout", "elsewhere", "audio_dropout", "exchange"])
@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_from_nothing_to_all(tmp_path, name, share):
    with pytest.raises(UserError, match=rf"--config\.{name.replace('_', '-')} is a share"):
        train_teacher(toy_teacher(**{name: share}), tmp_path / "run", tmp_path, tmp_path)
    assert not (tmp_path / "run").exists()


def test_a_log_file_is_told_how_far_it_is(tmp_path, toy_corpus, tiny_pipeline_folder, capsys):
    train_teacher(toy_teacher(loop=toy_loop(steps=3)), tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert [line.split(",")[0] for line in said] == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert "0:00:00 left: fm " in said[-1]


@pytest.mark.parametrize("autocast", ["float32", "bfloat16"])
def test_resumed_training_is_uninterrupted_training_bit_for_bit(
    tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch, autocast
):
    config = toy_teacher(
        optimizer=replace(TOY_OPTIMIZER, final_scale=0.1),
        audio_noise=0.1,
        loop=toy_loop(autocast=autocast),
    )
    train_teacher(config, tmp_path / "straight", toy_corpus, tiny_pipeline_folder)

    real, calls = teacher_loop.optimizer_step, []

    def killed_in_step_five(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(teacher_loop, "optimizer_step", killed_in_step_five)
    with pytest.raises(KeyboardInterrupt):
        train_teacher(config, tmp_path / "killed", toy_corpus, tiny_pipeline_folder)
    assert saved_state(tmp_path / "killed")["step"] == 3
    monkeypatch.setattr(teacher_loop, "optimizer_step", real)
    train_teacher(config, tmp_path / "killed", toy_corpus, tiny_pipeline_folder)

    assert_same(saved_state(tmp_path / "straight"), saved_state(tmp_path / "killed"))
    assert losses_of(tmp_path / "straight") == losses_of(tmp_path / "killed")


@pytest.mark.slow
def test_training_killed_by_the_system_resumes_bit_for_bit(tmp_path, toy_corpus, tiny_pipeline_folder):
    config = toy_teacher(loop=toy_loop(steps=10_000, checkpoint_every=3))
    given = (config, tmp_path / "killed", toy_corpus, tiny_pipeline_folder)
    process = FORKS.Process(target=train_teacher, args=given, daemon=True)
    process.start()
    while not (tmp_path / "killed" / "checkpoint").exists():
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    loop = toy_loop(steps=saved_state(tmp_path / "killed")["step"] + 4, checkpoint_every=3)
    for run in ("killed", "straight"):
        train_teacher(toy_teacher(loop=loop), tmp_path / run, toy_corpus, tiny_pipeline_folder)
    assert_same(saved_state(tmp_path / "straight"), saved_state(tmp_path / "killed"))
    assert losses_of(tmp_path / "straight") == losses_of(tmp_path / "killed")


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(
    tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch
):
    real, calls = teacher_loop.flow_matching_loss, []

    def broken(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(teacher_loop, "flow_matching_loss", broken)
    with pytest.raises(UserError, match=r"Step 4: the loss .*not-finite-0\.json names the samples"):
        train_teacher(toy_teacher(), tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    seen = json.loads((tmp_path / "run" / "not-finite-0.json").read_text())
    (batch,) = seen["batches"]
    assert seen["step"] == 4
    assert len(batch["keys"]) == len(batch["starts"]) == 2
    assert math.isnan(batch["fm"])
    saved = saved_state(tmp_path / "run")
    assert saved["step"] == 3
    assert all(bool(value.isfinite().all()) for value in saved["transformer"].values())


def test_a_run_writes_averaged_weights_held_out_losses_and_samples(tmp_path, toy_corpus, tiny_pipeline_folder):
    loop = toy_loop(steps=10, batch=1, checkpoint_every=10, sample_every=10, autocast="bfloat16")
    run = tmp_path / "run"
    train_teacher(toy_teacher(loop=loop), run, toy_corpus, tiny_pipeline_folder)
    average = saved_state(run)["ema"]
    saved = AsymTalkerTransformer3DModel.from_pretrained(run / "transformer")
    assert_same(dict(saved.state_dict()), dict(average))
    last = saved_state(run)["transformer"]
    assert not any(torch.equal(average[name], value) for name, value in last.items() if "to_q" in name)
    logged = {}
    for line in (run / "stats.jsonl").read_text().splitlines():
        logged |= json.loads(line)
    assert {"fm", "held_out", "held_out_0.5", "sample_l1", "grad_norm"} <= logged.keys()
    video = probe_video(run / "samples" / "step-000010.mp4")
    assert (video.width, video.height) == (64, 32)
    assert video.seconds == pytest.approx(13 / 25, abs=0.01)  # two chunks of 9 frames that share 5
    assert video.audio_rate == 16_000


def test_training_goes_on_from_the_weights_of_a_pipeline(frozen, tiny_pipeline_folder):
    started = start_transformer(toy_teacher(init=tiny_pipeline_folder), frozen)
    given = AsymTalkerTransformer3DModel.from_pretrained(tiny_pipeline_folder / "transformer")
    assert_same(dict(started.state_dict()), dict(given.state_dict()))


def test_weights_of_another_size_are_refused_by_name(frozen, tiny_pipeline_folder):
    wider = toy_teacher(model=replace(TOY_TRANSFORMER, ffn_dim=96), init=tiny_pipeline_folder)
    with pytest.raises(UserError, match=r"another network .* train with --config\.model\.ffn-dim 48"):
        start_transformer(wider, frozen)


def test_a_refused_command_does_not_claim_the_run_folder(tmp_path, toy_corpus, tiny_pipeline_folder):
    coarse = toy_teacher(model=replace(TOY_TRANSFORMER, patch_size=(1, 3, 3)))
    with pytest.raises(UserError, match="4 x 4 latent cells, which patches of 3 x 3 do not divide"):
        train_teacher(coarse, tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    train_teacher(toy_teacher(), tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    with pytest.raises(UserError, match=r"shift: 3\.0 -> 4\.0"):
        train_teacher(toy_teacher(shift=4.0), tmp_path / "run", toy_corpus, tiny_pipeline_folder)


def test_patches_of_pixels_do_not_suit_a_codec_of_motion(tmp_path, toy_corpus):
    with pytest.raises(UserError, match="1 x 1 latent cells, which patches of 2 x 2 do not divide"):
        train_teacher(toy_teacher(), tmp_path / "run", toy_corpus, checkpoint_folder(None))


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path, toy_corpus, tiny_pipeline_folder):
    for name, checkpointing in (("plain", False), ("checkpointed", True)):
        config = toy_teacher(loop=toy_loop(steps=2, gradient_checkpointing=checkpointing))
        train_teacher(config, tmp_path / name, toy_corpus, tiny_pipeline_folder)
    assert losses_of(tmp_path / "plain") == losses_of(tmp_path / "checkpointed")


def test_pixel_losses_can_be_left_out(tmp_path, toy_corpus, tiny_pipeline_folder):
    for every, expected in ((1, True), (4, False)):  # more than the steps there are: never
        config = toy_teacher(loop=toy_loop(steps=3), pixel_every=every, pixel_max_sigma=1.0)
        run = tmp_path / str(every)
        train_teacher(config, run, toy_corpus, tiny_pipeline_folder)
        lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
        assert any("tgc" in line for line in lines) == expected


def test_only_maps_are_decayed(frozen):
    transformer = start_transformer(toy_teacher(), frozen)
    groups = build_optimizer(transformer, TOY_OPTIMIZER).param_groups
    assert [group["weight_decay"] for group in groups] == [TOY_OPTIMIZER.weight_decay, 0.0]
    decayed, kept = (group["params"] for group in groups)
    names = {id(p): name for name, p in transformer.named_parameters()}
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decayed)
    assert {"audio_slots", "scale_shift_table", "blocks.0.scale_shift_table"} <= {names[id(p)] for p in kept}
    assert len(decayed) + len(kept) == len(names)


def test_a_run_without_git_records_an_unknown_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    RunFolder(tmp_path / "run", toy_teacher())
    assert json.loads((tmp_path / "run" / "version.json").read_text())["commit"] == "unknown"


def test_a_run_of_other_settings_is_refused_with_the_first_differences(tmp_path):
    RunFolder(tmp_path, toy_teacher()).checkpoint.mkdir()
    with pytest.raises(UserError, match=r"other settings \(shift: 3\.0 -> 4\.0\)"):
        RunFolder(tmp_path, toy_teacher(shift=4.0))
    with pytest.raises(UserError, match=r"\(.*; and \d+ more\); use another folder"):
        RunFolder(tmp_path, smoke().codec)
    RunFolder(tmp_path, toy_teacher(loop=toy_loop(steps=99)))  # goes on
