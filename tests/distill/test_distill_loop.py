import json
import shutil
from pathlib import Path

import pytest
import torch

from asymtalker.dataset.batches import ChunkSource
from asymtalker.distill import loop as distill_loop
from asymtalker.distill.loop import (
    Extent,
    Networks,
    critic_update_loss,
    distill,
    identity_strategy,
    renoise,
    rollout_spans,
    student_losses,
    student_sampler,
)
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import rollout
from asymtalker.training.frozen import load_frozen
from toy import assert_same, roll_out, saved_state, toy_distill, toy_loop

HEAD = 2  # latent frames of 5 continuity frames
TWO_CHUNKS = Extent(chunks=2, exit_step=1)


@pytest.fixture(scope="module")
def frozen(tiny_pipeline_folder):
    return load_frozen(tiny_pipeline_folder, "tre", toy_loop())


@pytest.fixture(scope="module")
def source(toy_corpus, frozen):
    config = toy_distill()
    return ChunkSource(toy_corpus, "train", frozen, config.chunk, config.chunks)


@pytest.fixture
def nets(tiny_pipeline_folder):
    return Networks.load(tiny_pipeline_folder / "transformer", toy_loop())


def gradients(network) -> list:
    return [parameter.grad for parameter in network.parameters()]


def test_all_three_start_from_the_teacher(nets):
    for trained in (nets.student, nets.critic):
        for own, given in zip(trained.parameters(), nets.teacher.parameters(), strict=True):
            assert torch.equal(own, given)
            assert own is not given
            assert own.requires_grad
            assert not given.requires_grad


@pytest.mark.parametrize("autocast", ["float32", "bfloat16"])
def test_the_student_loss_reaches_the_student_alone(nets, source, tiny_pipeline_folder, autocast):
    frozen = load_frozen(tiny_pipeline_folder, "tre", toy_loop(autocast=autocast))
    config = toy_distill()
    generated = roll_out(config, nets, frozen, source, TWO_CHUNKS, numbered_generator(0, 0))
    losses = student_losses(config, nets, frozen, generated, numbered_generator(0, 1))
    (losses["dmd"] + losses["anchor"]).backward()
    assert all(gradient is not None for gradient in gradients(nets.student))
    assert sum(float(gradient.abs().sum()) for gradient in gradients(nets.student)) > 0
    assert all(gradient is None for net in (nets.teacher, nets.critic) for gradient in gradients(net))
    assert all(parameter.grad is None for parameter in frozen.codec.vae.parameters())


def test_the_critic_loss_reaches_the_critic_alone(nets, source, frozen):
    config = toy_distill()
    generated = roll_out(config, nets, frozen, source, TWO_CHUNKS, numbered_generator(0, 0))
    critic_update_loss(config, nets, frozen, generated, numbered_generator(0, 1)).backward()
    assert all(gradient is not None for gradient in gradients(nets.critic))
    assert all(gradient is None for net in (nets.teacher, nets.student) for gradient in gradients(net))


@pytest.mark.parametrize(
    ("teacher", "student"),
    [("ground_truth", "generated"), ("ground_truth", "ground_truth"), ("generated", "generated")],
)
def test_each_side_gets_the_continuity_it_is_set_to(nets, source, frozen, teacher, student):
    config = toy_distill(teacher_continuity=teacher, student_continuity=student)
    with torch.no_grad():
        generated = roll_out(config, nets, frozen, source, TWO_CHUNKS, numbered_generator(0, 0))
    real = generated.batch.latents[:, :, :HEAD]
    own = generated.latents[:, :, :HEAD]
    assert torch.equal(generated.student.continuity, own)

    def is_real(continuity):
        return torch.allclose(continuity, real, atol=5e-3, rtol=2e-3)  # the cache holds float16

    assert is_real(generated.student.continuity) == (student == "ground_truth")
    assert is_real(generated.teacher.continuity) == (teacher == "ground_truth")
    assert torch.equal(generated.student.audio, generated.teacher.audio)


def test_generated_continuity_is_the_students_own_tail_encoded_anew(nets, source, frozen):
    config = toy_distill(chunks=3)
    source = ChunkSource(source.folder, "train", frozen, config.chunk, config.chunks)
    generator = numbered_generator(0, 0)
    batch = source.batch(1, generator)
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.no_grad():
        generated = roll_out(config, nets, frozen, source, Extent(3, 1), numbered_generator(0, 0))
        parts = (nets.student, frozen.codec, batch.audio.moved(8), batch.identity, rollout_spans(config, 2))
        settings = {"chunk": config.chunk, "size": batch.size, "sampler": student_sampler(config), "seed": seed}
        chunks = list(rollout(*parts, **settings))
    tail = frozen.codec.encode(chunks[-1].pixels[:, :, -5:])
    assert torch.equal(generated.student.continuity, tail)


def test_a_first_chunk_is_made_without_continuity(nets, source, frozen):
    with torch.no_grad():
        alone = roll_out(toy_distill(), nets, frozen, source, Extent(1, 1), numbered_generator(0, 0))
    assert alone.student.continuity is None
    assert alone.teacher.continuity is None


def test_how_far_a_rollout_goes_is_random_and_the_same_for_all_micro_batches():
    config = toy_distill(chunks=3, steps_per_sample=4)
    drawn = [Extent.draw(config, number) for number in range(100)]
    assert drawn == [Extent.draw(config, number) for number in range(100)]
    assert {extent.chunks for extent in drawn} == {1, 2, 3}
    assert {extent.exit_step for extent in drawn} == {0, 1, 2, 3}


def test_gradient_flows_from_every_exit_step(nets, source, frozen):
    for exit_step in range(2):
        extent = Extent(1, exit_step)
        generated = roll_out(toy_distill(chunks=1), nets, frozen, source, extent, numbered_generator(0, 0))
        assert generated.latents.requires_grad


def test_noise_levels_of_the_scores_stay_inside():
    config = toy_distill(min_sigma=0.3, max_sigma=0.6)
    sigma, noisy, noise = renoise(config, torch.zeros(64, 1, 1, 1, 1), numbered_generator(0, 0))
    assert 0.3 <= sigma.min() < sigma.max() <= 0.6
    torch.testing.assert_close(noisy.flatten(), (sigma.view(-1, 1, 1, 1, 1) * noise).flatten())


def test_the_anchor_pulls_towards_the_real_chunk(nets, source, frozen):
    config = toy_distill()
    optimizer = torch.optim.AdamW(nets.student.parameters(), lr=3e-3)
    anchors = []
    for _ in range(6):
        generated = roll_out(config, nets, frozen, source, TWO_CHUNKS, numbered_generator(0, 0))
        losses = student_losses(config, nets, frozen, generated, numbered_generator(0, 1))
        optimizer.zero_grad()
        losses["anchor"].backward()
        optimizer.step()
        anchors.append(float(losses["anchor"].detach()))
    assert anchors[1] < anchors[0]
    assert anchors[-1] < anchors[1]


def logged(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    timing = ("time", "seconds_per_step")
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


def test_resumed_distillation_is_uninterrupted_distillation_bit_for_bit(
    tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch
):
    config = toy_distill(loop=toy_loop(steps=4, batch=1, checkpoint_every=2), critic_updates=1)
    distill(config, tmp_path / "straight", toy_corpus, tiny_pipeline_folder)

    real, calls = distill_loop.student_losses, []

    def killed_in_step_four(*arguments):
        calls.append(1)
        if len(calls) == 4:  # after this step's update of the critic
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(distill_loop, "student_losses", killed_in_step_four)
    with pytest.raises(KeyboardInterrupt):
        distill(config, tmp_path / "killed", toy_corpus, tiny_pipeline_folder)
    assert saved_state(tmp_path / "killed")["step"] == 2
    monkeypatch.setattr(distill_loop, "student_losses", real)
    distill(config, tmp_path / "killed", toy_corpus, tiny_pipeline_folder)

    assert logged(tmp_path / "straight") == logged(tmp_path / "killed")
    assert_same(saved_state(tmp_path / "straight"), saved_state(tmp_path / "killed"))


def test_a_run_trains_both_and_saves_the_averaged_student(tmp_path, toy_corpus, tiny_pipeline_folder):
    config = toy_distill(loop=toy_loop(steps=1, batch=1, sample_every=1))
    distill(config, tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    saved = AsymTalkerTransformer3DModel.from_pretrained(tmp_path / "run" / "transformer")
    teacher = AsymTalkerTransformer3DModel.from_pretrained(tiny_pipeline_folder / "transformer")
    checkpoint = saved_state(tmp_path / "run")
    assert all(torch.equal(p, checkpoint["ema"][name]) for name, p in saved.named_parameters())
    for part in ("student", "critic"):
        assert any(not torch.equal(p, checkpoint[part][name]) for name, p in teacher.named_parameters())
    assert {"critic", "dmd", "anchor", "student_norm", "critic_norm"} <= logged(tmp_path / "run")[-2].keys()
    assert (tmp_path / "run" / "samples" / "step-000001.mp4").exists()


def test_a_teacher_that_is_not_finite_stops_the_run(tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch):
    real = distill_loop.load_transformer

    def broken(*arguments, **options):
        network = real(*arguments, **options)
        torch.nn.init.constant_(network.proj_out.bias, float("nan"))
        return network

    monkeypatch.setattr(distill_loop, "load_transformer", broken)
    with pytest.raises(UserError, match=r"Step 0: .* not finite"):
        distill(toy_distill(), tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    assert json.loads((tmp_path / "run" / "not-finite-0.json").read_text())["batches"][0]["keys"]
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_clips_that_do_not_hold_the_rollout_are_refused(tmp_path, toy_corpus, tiny_pipeline_folder):
    with pytest.raises(UserError, match=r"no train clip has the 25 frames .* longest has 21"):
        distill(toy_distill(chunks=5), tmp_path / "run", toy_corpus, tiny_pipeline_folder)


def test_clips_that_patches_do_not_divide_are_refused(tmp_path, toy_corpus, tiny_pipeline_folder):
    with pytest.raises(UserError, match="do not divide"):
        distill(toy_distill(buckets=((24, 24),)), tmp_path / "run", toy_corpus, tiny_pipeline_folder)


def test_a_folder_without_a_teacher_is_refused(tmp_path, toy_corpus, tiny_pipeline_folder):
    with pytest.raises(UserError, match=r"has no model_index\.json: give the folder"):
        distill(toy_distill(), tmp_path / "run", toy_corpus, tmp_path)
    shutil.copytree(tiny_pipeline_folder, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "transformer")
    with pytest.raises(UserError, match=r"transformer has no config\.json"):
        distill(toy_distill(), tmp_path / "run", toy_corpus, tmp_path / "model")


def test_a_model_of_an_identity_that_there_is_not_is_one_sentence(tmp_path):
    index = tmp_path / "model_index.json"
    index.write_text('{"_class_name": "AsymTalkerPipeline", "identity": "none"}')
    with pytest.raises(UserError, match="an identity that can't be: 'none'"):
        identity_strategy(tmp_path)
    index.write_text('{"_class_name": "AsymTalkerPipeline"}')
    assert identity_strategy(tmp_path) == "tre"


def test_the_batch_is_rolled_out_together(nets, source, frozen):
    config = toy_distill(loop=toy_loop(batch=2), student_continuity="ground_truth")
    with torch.no_grad():
        generated = roll_out(config, nets, frozen, source, TWO_CHUNKS, numbered_generator(0, 0))
    assert generated.latents.shape == generated.batch.latents.shape
    assert generated.latents.shape[0] == 2


def test_real_continuity_needs_no_chunks_before_the_last(nets, source, frozen, monkeypatch):
    """Table 4, (ground truth, ground truth): the student is given what the teacher is given."""
    made = []
    real = distill_loop.rollout

    def counted(*arguments, **options):
        for chunk in real(*arguments, **options):
            made.append(chunk.span.index)
            yield chunk

    monkeypatch.setattr(distill_loop, "rollout", counted)
    config = toy_distill(student_continuity="ground_truth", chunks=3)
    with torch.no_grad():
        extents = [Extent(1 + index % 3, 1) for index in range(6)]
        generated = [
            roll_out(config, nets, frozen, source, extent, numbered_generator(0, index))
            for index, extent in enumerate(extents)
        ]
    assert made == [0, 1, 2, 0, 1, 2]
    for one in generated:
        if one.head:
            assert torch.equal(one.teacher.continuity, one.batch.latents[:, :, :HEAD])
            torch.testing.assert_close(one.student.continuity, one.teacher.continuity, atol=5e-3, rtol=2e-3)
