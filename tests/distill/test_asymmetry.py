"""Who is given what in a distillation: networks that note their passes stand for teacher, student and critic."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from asymtalker import flow
from asymtalker.dataset.batches import Batch, ChunkSource, ClipFeatures
from asymtalker.dataset.corpus import open_clip
from asymtalker.distill import loop as distill_loop
from asymtalker.distill.loop import (
    Extent,
    Generated,
    Networks,
    critic_update_loss,
    distill,
    generate,
    renoise,
    student_losses,
)
from asymtalker.flow import numbered_generator
from asymtalker.models.audio import ArraySource, AudioFeatures
from asymtalker.models.identity import Identity
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.rollout import Conditions
from asymtalker.train.teacher import draw_conditions
from asymtalker.training.frozen import load_frozen
from toy import (
    TOY_CHUNK,
    TOY_OPTIMIZER,
    RecordingNetwork,
    real_pixels,
    roll_out,
    saved_state,
    toy_distill,
    toy_loop,
    toy_teacher,
    toy_transformer,
)

HEAD = 2  # latent frames of 5 continuity frames
SHAPE = (2, 6, 3, 4, 4)
SIGMA = 0.4
NO_NETWORK = SimpleNamespace(network=contextlib.nullcontext)  # frozen parts of which none runs


def config(**changes):
    """A distillation without guidance, at one noise level."""
    return toy_distill(**({"guidance_scale": 1.0, "min_sigma": SIGMA, "max_sigma": SIGMA} | changes))


def chunk(**parts) -> Generated:
    """A student's chunk; its two continuity references, the real chunk and the portrait are four different tensors."""
    generator = torch.Generator().manual_seed(0)
    latents, truth, portrait, own, real = (torch.randn(SHAPE, generator=generator) for _ in range(5))
    latents = parts.get("latents", latents)
    audio = torch.randn(2, TOY_CHUNK.frames + 4, 16, generator=generator)
    identity = Identity(latents=portrait)
    batch = Batch(("a", "b"), (0, 0), truth, ClipFeatures(audio, -2), identity, (32, 32))
    student, teacher = (Conditions(audio, identity, given[:, :, :HEAD]) for given in (own, real))
    made = torch.cat([own[:, :, :HEAD], latents[:, :, HEAD:]], dim=2)
    return Generated(made.requires_grad_(), student, teacher, batch)


def always(value: float | torch.Tensor) -> RecordingNetwork:
    """A network that answers the same whatever it is given."""
    return RecordingNetwork(lambda given: torch.zeros_like(given.noisy) + value)


def with_other_head(network: RecordingNetwork) -> RecordingNetwork:
    """The same network, but for what it says of the head that is given."""

    def answer(given):
        output = network.answer(given).clone()
        output[:, :, :HEAD] += 100
        return output

    return RecordingNetwork(answer)


def losses_of(teacher, critic, generated, **changes):
    nets = Networks(teacher, None, critic)
    return student_losses(config(**changes), nets, NO_NETWORK, generated, numbered_generator(0, 1))


def critic_loss_of(critic, generated):
    nets = Networks(None, None, critic)
    return critic_update_loss(config(), nets, NO_NETWORK, generated, numbered_generator(0, 1))


def test_the_teacher_judges_on_the_real_continuity_and_the_critic_on_the_students_own():
    generated, teacher, critic = chunk(), always(1.0), always(0.0)
    losses_of(teacher, critic, generated)
    runs = len(teacher.passes), len(critic.passes)
    assert runs == (1, 1), f"teacher and critic run {runs} times, not once each"
    (judged,), (followed,) = teacher.passes, critic.passes
    torch.testing.assert_close(
        judged.noisy[:, :, :HEAD],
        generated.teacher.continuity,
        msg="the teacher does not judge on the real video's continuity (eq. 9)",
    )
    torch.testing.assert_close(
        followed.noisy[:, :, :HEAD],
        generated.student.continuity,
        msg="the critic does not follow the student on the student's own continuity (eq. 14)",
    )
    assert torch.equal(judged.noisy[:, :, HEAD:], followed.noisy[:, :, HEAD:]), (
        "the two scores are taken at different noisy points (eq. 11)"
    )
    for given in (judged, followed):
        assert torch.equal(given.identity, generated.batch.identity.latents), "a score is given another portrait"
        assert torch.equal(given.audio, generated.student.audio), "a score is given other sound than the student"


def test_the_critic_learns_on_the_students_own_continuity():
    generated, critic = chunk(), always(0.0)
    critic_loss_of(critic, generated)
    (given,) = critic.passes
    torch.testing.assert_close(
        given.noisy[:, :, :HEAD],
        generated.student.continuity,
        msg="the critic is not trained on the student's own continuity (eq. 14)",
    )
    assert torch.equal(given.audio, generated.student.audio), "the critic is trained on other sound"
    assert torch.equal(given.identity, generated.batch.identity.latents), "the critic is trained on another portrait"


def test_scores_and_critic_are_told_that_the_head_is_clean():
    generated, teacher, critic = chunk(), always(1.0), always(0.0)
    losses_of(teacher, critic, generated)
    critic_loss_of(critic, generated)
    levels = torch.tensor([0.0, 0.0, 1000 * SIGMA]).expand(2, -1)
    for given in (*teacher.passes, *critic.passes):
        assert given.timestep.shape == levels.shape, "the given head is at the noise level of the body"
        torch.testing.assert_close(
            given.timestep, levels, msg="noise levels are not 0 for the head, sigma for the body"
        )
        assert (given.mask[:, :, :HEAD] == 1).all(), "the mask does not mark the given head"
        assert (given.mask[:, :, HEAD:] == 0).all(), "the mask marks what is to be generated as given"


def test_the_scores_do_not_count_the_given_head():
    plain, garbled = chunk(), chunk()
    teacher, critic = always(2.0), always(-1.0)
    one = losses_of(teacher, critic, plain)
    other = losses_of(with_other_head(teacher), with_other_head(critic), garbled)
    for name, loss in one.items():
        assert torch.equal(loss, other[name]), f"{name} counts what is said of the given head"
    (one["dmd"] + one["anchor"]).backward()
    (other["dmd"] + other["anchor"]).backward()
    assert torch.equal(plain.latents.grad, garbled.latents.grad), "the gradient counts what is said of the given head"
    assert not plain.latents.grad[:, :, :HEAD].any(), "the given head has a gradient"


def test_a_step_moves_the_student_to_the_teacher_and_away_from_the_critic():
    generated = chunk(latents=torch.zeros(SHAPE))
    losses_of(always(2.0), always(-1.0), generated)["dmd"].backward()
    moved = -generated.latents.grad
    assert (moved[:, :, HEAD:] > 0).all(), "the student moves from the teacher to the critic: the scores are swapped"
    assert not moved[:, :, :HEAD].any(), "the head, which is given, is in the loss"
    body = moved[:, :, HEAD:]
    expected = torch.full_like(body, (2 + 1) / 2 / body.numel())  # (real - fake) / mean |0 - real|, eq. 13
    torch.testing.assert_close(body, expected, msg="the gradient is not (fake - real) / mean |z - real| (eq. 13)")


def test_the_anchor_is_the_real_chunk_and_not_the_portrait():
    generated = chunk()
    truth = generated.batch.latents
    losses = losses_of(always(1.0), always(0.0), chunk(latents=truth))
    assert losses["anchor"] == 0, "the anchor is not 0 at the real chunk (eq. 7)"
    losses_of(always(1.0), always(0.0), generated)["anchor"].backward()
    difference = (truth - generated.latents)[:, :, HEAD:]
    assert torch.equal((-generated.latents.grad)[:, :, HEAD:].sign(), difference.sign()), (
        "the anchor does not pull to the real chunk (eq. 7)"
    )


def test_the_real_score_is_guided_by_the_sound_and_the_fake_is_not():
    def hears(given):
        return torch.zeros_like(given.noisy) + float(given.audio.any())

    generated = chunk(latents=torch.zeros(SHAPE))
    teacher, critic = RecordingNetwork(hears), RecordingNetwork(hears)
    losses_of(teacher, critic, generated, guidance_scale=3.0)["dmd"].backward()
    assert [bool(given.audio.any()) for given in teacher.passes] == [True, False], "the real score has no guidance"
    assert [bool(given.audio.any()) for given in critic.passes] == [True], "the fake score is guided"
    assert torch.equal(teacher.passes[1].noisy, teacher.passes[0].noisy), "guidance loses the continuity"
    body = -generated.latents.grad[:, :, HEAD:]
    expected = torch.full_like(body, (3 - 1) / 3 / body.numel())  # 0 + 3 (1 - 0) is real, 1 is fake
    torch.testing.assert_close(body, expected, msg="the guidance is not null + scale (v - null)")


def test_the_critic_learns_what_the_student_makes():
    generated = chunk()
    made = generated.latents.detach()
    perfect = always(made)
    torch.testing.assert_close(
        critic_loss_of(perfect, generated), torch.tensor(0.0), msg="a critic that knows the student's chunk has a loss"
    )
    torch.testing.assert_close(
        critic_loss_of(with_other_head(perfect), generated),
        torch.tensor(0.0),
        msg="the critic's loss counts the given head",
    )
    torch.testing.assert_close(
        critic_loss_of(RecordingNetwork(lambda given: made + given.sigma), generated),
        torch.tensor(1.0),
        msg="the critic's loss is not that of the velocity",
    )
    weight = torch.zeros(SHAPE, requires_grad=True)
    critic_loss_of(always(made + weight + 1), generated).backward()
    assert weight.grad[:, :, HEAD:].all(), "the critic's loss does not reach it"
    assert generated.latents.grad is None, "the critic's loss reaches the student"


def test_noise_levels_of_the_scores_are_uniform_and_shifted():
    settings = config(min_sigma=0.0, max_sigma=1.0, shift=5.0)
    sigma, _, _ = renoise(settings, torch.zeros(4000, 1, 1, 1, 1), numbered_generator(0, 0))
    uniform = sigma / (5 - 4 * sigma)  # the shift undone
    shares = torch.histc(uniform, 4, 0, 1) / 4000
    torch.testing.assert_close(shares, torch.full((4,), 0.25), atol=0.04, rtol=0, msg="levels are not shifted by 5")


@pytest.fixture(scope="module")
def frozen(tiny_pipeline_folder):
    return load_frozen(tiny_pipeline_folder, "tre", toy_loop())


@pytest.fixture(scope="module")
def source(toy_corpus, frozen):
    return ChunkSource(toy_corpus, "train", frozen, TOY_CHUNK, 3)


def recorded(frozen, source, extent: Extent, number: int = 0, **changes):
    """A rollout of a network that notes its passes and answers with the portrait, and what came of it."""
    student = RecordingNetwork(lambda given: given.identity.clone())
    nets = Networks(None, student, None)
    generated = roll_out(config(**changes), nets, frozen, source, extent, numbered_generator(0, number))
    return student.passes, generated


def test_a_rollout_hands_the_real_head_to_the_teacher_and_the_students_to_the_critic(frozen, source):
    nets = Networks(None, toy_transformer(), None)
    with torch.no_grad():
        generated = roll_out(config(), nets, frozen, source, Extent(2, 1), numbered_generator(0, 0))
    teacher, critic = always(1.0), always(0.0)
    losses_of(teacher, critic, generated)
    critic_loss_of(critic, generated)
    real = frozen.codec.encode(real_pixels(source, generated.batch, 0, TOY_CHUNK.continuity_frames))
    close = {"atol": 5e-3, "rtol": 2e-3}  # the cache holds float16
    for given in teacher.passes:
        torch.testing.assert_close(given.noisy[:, :, :HEAD], real, **close, msg="the teacher's head is not E(x[:K])")
    for given in critic.passes:
        head = given.noisy[:, :, :HEAD]
        own = generated.latents[:, :, :HEAD].detach()
        torch.testing.assert_close(head, own, msg="the critic's head is not the student's own")
        assert not torch.allclose(head, real, **close), "the critic's head is the real video's"


@pytest.mark.parametrize(("own", "moves"), [("generated", True), ("ground_truth", False)])
def test_the_real_chunk_goes_on_from_where_the_student_has_the_head(frozen, source, monkeypatch, own, moves):
    """Where a codec can: the teacher's continuity and the anchor alike; the real head itself is not moved."""
    asked = []

    def moved(latents, given):
        asked.append(given)
        return latents + 7

    monkeypatch.setattr(frozen.codec, "going_on_from", moved)
    drawn = source.batch(config().loop.batch, numbered_generator(0, 0))
    _, generated = recorded(frozen, source, Extent(2, 1), student_continuity=own)
    torch.testing.assert_close(generated.batch.latents, drawn.latents + 7 * moves)
    torch.testing.assert_close(generated.teacher.continuity, generated.batch.latents[:, :, :HEAD])
    assert len(asked) == moves
    if moves:
        torch.testing.assert_close(asked[0], generated.latents[:, :, :HEAD].detach())
    _, generated = recorded(frozen, source, Extent(1, 1), student_continuity=own)
    assert generated.teacher.continuity is None
    assert len(asked) == moves, "a first chunk goes on from nothing"
    settings = config(student_continuity=own)
    bare = source.batch(settings.loop.batch, numbered_generator(0, 0), target=own == "ground_truth")
    nets = Networks(None, RecordingNetwork(lambda given: given.identity.clone()), None)
    generate(settings, nets, frozen, Extent(2, 1), bare, numbered_generator(0, 0))
    assert len(asked) == moves, "the critic's batch has no real chunk"


def test_each_video_of_a_batch_has_its_own_sound_portrait_and_continuity(frozen, source):
    two = {"loop": toy_loop(batch=2), "steps_per_sample": 1}
    number = next(n for n in range(100) if len(set(source.batch(2, numbered_generator(0, n)).keys)) == 2)
    (first, last), generated = recorded(frozen, source, Extent(2, 0), number, **two)
    batch = generated.batch
    for given, start in ((first, TOY_CHUNK.continuity_frames - TOY_CHUNK.frames), (last, 0)):
        heard = batch.audio.frames(start - 2, start + TOY_CHUNK.frames + 2)
        assert torch.equal(given.audio, heard), "a student hears another's sound"
        assert torch.equal(given.identity, batch.identity.latents), "a student sees another's portrait"
    shown = frozen.codec.decode(batch.identity.latents)[:, :, -TOY_CHUNK.continuity_frames :]  # all that is answered
    own = frozen.codec.encode(shown)
    torch.testing.assert_close(last.noisy[:, :, :HEAD], own, msg="a student goes on from another's frames")
    torch.testing.assert_close(generated.student.continuity, own, msg="the critic has another's continuity")
    assert torch.equal(generated.teacher.continuity, batch.latents[:, :, :HEAD]), (
        "the teacher has another's continuity"
    )
    assert torch.equal(generated.student.audio, last.audio), "the scores hear another's sound"
    (given,), generated = recorded(frozen, source, Extent(2, 0), number, student_continuity="ground_truth", **two)
    real = generated.batch.latents[:, :, :HEAD]
    torch.testing.assert_close(given.noisy[:, :, :HEAD], real, msg="a student goes on from another's real frames")


def test_the_last_chunk_is_made_up_to_the_exit_step_and_the_ones_before_whole(frozen, source):
    passes, generated = recorded(frozen, source, Extent(2, 1), steps_per_sample=4)
    whole, last = passes[:4], passes[4:]
    assert len(last) == 2, "the exit step is ignored"
    assert not any(given.records for given in whole), "a chunk before the last records gradients"
    assert [given.records for given in last] == [False, True], "not the exit step alone records gradients"
    assert all((given.mask == 0).all() for given in whole), "the first chunk is given a head"
    for given in last:
        head = given.noisy[:, :, :HEAD]
        torch.testing.assert_close(head, generated.student.continuity, msg="the student is given another head")


def test_every_chunk_starts_from_its_own_noise_and_every_step_renews_it(frozen, source):
    passes, _ = recorded(frozen, source, Extent(2, 1))
    first, second, later, _ = (given.noisy[:, :, HEAD:] for given in passes)
    assert not torch.equal(first, later), "two chunks start from the same noise"
    sigma = passes[1].timestep.flatten()[-1] / 1000
    clean = passes[0].identity[:, :, HEAD:]
    assert (second - (1 - sigma) * clean - sigma * first).abs().max() > 0.1, "the noise is not renewed between steps"


def test_every_chunk_of_a_rollout_hears_the_frames_it_makes(frozen, source):
    passes, generated = recorded(frozen, source, Extent(3, 0), steps_per_sample=1)
    batch = generated.batch
    clip = open_clip(source.folder, batch.keys[0])
    features = AudioFeatures(frozen.audio_encoder, frozen.extractor, ArraySource(clip.audio()))
    new = TOY_CHUNK.frames - TOY_CHUNK.continuity_frames
    for before, given in zip((2, 1, 0), passes, strict=True):
        start = batch.starts[0] - before * new

        def heard(late: int, start: int = start):
            return features.frames(start + late - 2, start + late + TOY_CHUNK.frames + 2)

        torch.testing.assert_close(
            given.audio, heard(0), atol=5e-3, rtol=2e-3, msg="a chunk does not hear the sound of its own frames"
        )
        assert (heard(1) - heard(0)).abs().max() > 0.05, "the sound is too even for this test"
    batches = draw_conditions(toy_teacher(audio_dropout=0.0), batch, numbered_generator(0, 0))
    assert torch.equal(passes[-1].audio, batches.audio), "student and teacher's training hear different frames"
    assert torch.equal(generated.student.audio, batches.audio), "the scores hear other frames than the student"
    assert torch.equal(passes[0].identity, batch.identity.latents), "the student is given another portrait"


def test_a_step_is_as_many_critic_updates_as_are_set_each_on_a_rollout_of_its_own(
    tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch
):
    made: dict[str, list[torch.Tensor]] = {"critic_update_loss": [], "student_losses": []}

    def noted(name):
        real = getattr(distill_loop, name)

        def call(settings, nets, frozen, generated, generator):
            made[name].append(generated.latents.detach())
            return real(settings, nets, frozen, generated, generator)

        return call

    for name in made:
        monkeypatch.setattr(distill_loop, name, noted(name))
    settings = toy_distill(critic_updates=3, chunks=1, loop=toy_loop(steps=2, batch=1))
    distill(settings, tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    critic, student = made["critic_update_loss"], made["student_losses"]
    assert (len(critic), len(student)) == (6, 2), "a step is not 3 updates of the critic and one of the student"
    everything = [*critic, *student]
    for index, one in enumerate(everything):
        assert not any(torch.equal(one, other) for other in everything[:index]), "two updates share a rollout"


def test_the_anchor_counts_by_its_weight(tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch):
    """Losses that are weights of the network: the gradient is what each counts, on average over micro-batches."""
    gradients = []
    real = distill_loop.optimizer_step

    def losses(settings, nets, *_):
        bias = nets.student.proj_out.bias
        return {"dmd": bias[0], "anchor": bias[1]}

    def noted(optimizer, *arguments):
        weights = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients.append([float(value) for p in weights for value in p.grad.flatten()[:2] if len(weights) == 1])
        return real(optimizer, *arguments)

    monkeypatch.setattr(distill_loop, "student_losses", losses)
    monkeypatch.setattr(distill_loop, "optimizer_step", noted)
    settings = toy_distill(
        critic_updates=1, chunks=1, anchor_weight=0.25, loop=toy_loop(steps=1, batch=1, micro_batches=2)
    )
    distill(settings, tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    assert gradients[-1] == [1.0, 0.25], "the student's loss is not dmd + anchor_weight * anchor"


def test_student_and_critic_have_each_their_own_rate_and_clipping(
    tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch
):
    noted = []
    monkeypatch.setattr(
        distill_loop, "optimizer_step", lambda optimizer, config, lr: noted.append((config, lr)) or torch.zeros(())
    )
    student, critic = (replace(TOY_OPTIMIZER, lr=lr, warmup_steps=0, grad_clip=lr) for lr in (0.25, 0.5))
    settings = toy_distill(critic_updates=2, chunks=1, student=student, critic=critic, loop=toy_loop(steps=1, batch=1))
    distill(settings, tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    assert noted == [(critic, 0.5), (critic, 0.5), (student, 0.25)], "an update is by another network's settings"


def test_what_is_saved_for_use_is_the_average_of_the_student(tmp_path, toy_corpus, tiny_pipeline_folder):
    settings = toy_distill(critic_updates=1, chunks=1, loop=toy_loop(steps=1, batch=1))  # ema_decay 0.9
    distill(settings, tmp_path / "run", toy_corpus, tiny_pipeline_folder)
    saved = AsymTalkerTransformer3DModel.from_pretrained(tmp_path / "run" / "transformer")
    start = AsymTalkerTransformer3DModel.from_pretrained(tiny_pipeline_folder / "transformer")
    student = saved_state(tmp_path / "run")["student"]
    moved = 0.0
    for (name, one), before in zip(saved.named_parameters(), start.parameters(), strict=True):
        expected = 0.9 * before + 0.1 * student[name]
        torch.testing.assert_close(one, expected, msg=f"{name} is not 0.9 of what it was and 0.1 of the student's")
        moved += float((student[name] - before).abs().sum().detach())
    assert moved > 0, "the student did not move"


def test_gradient_of_a_rollout_is_that_of_its_exit_step_alone(frozen, source):
    """What the student is given in the exit step, given once more by itself, has the same gradient."""
    student = toy_transformer().train()
    given = []
    student.register_forward_pre_hook(lambda module, args: given.append((args, torch.is_grad_enabled())))
    settings = config(steps_per_sample=4)
    generated = roll_out(
        settings, Networks(None, student, None), frozen, source, Extent(2, 2), numbered_generator(0, 0)
    )
    recording = [arguments for arguments, records in given if records]
    assert len(recording) == 1, f"{len(recording)} passes record gradients, not one"
    pull = torch.randn(generated.latents.shape, generator=torch.Generator().manual_seed(0))
    (generated.latents * pull).sum().backward()
    rolled = [p.grad.clone() for p in student.parameters()]
    student.zero_grad()
    (arguments,) = recording
    assert not any(a.requires_grad for a in arguments if a is not None), "the exit step's input has a gradient"
    alone = student(*(a.detach() if a is not None else None for a in arguments)).sample
    sigma = flow.expand(arguments[1] / 1000, alone)
    clean = -sigma * flow.preconditioning(sigma)[0] * alone  # but for what has no gradient
    (clean[:, :, HEAD:] * pull[:, :, HEAD:]).sum().backward()
    for one, parameter in zip(rolled, student.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, msg="the gradient is not the exit step's alone")


def test_the_student_sees_nothing_of_the_real_chunk(frozen, source):
    generator = numbered_generator(0, 0)
    batch = source.batch(1, generator)
    other = replace(batch, latents=batch.latents + 3)
    made = []
    for of in (batch, other):
        nets = Networks(None, toy_transformer(), None)
        with torch.no_grad():
            made.append(generate(config(), nets, frozen, Extent(2, 1), of, numbered_generator(0, 1)))
    assert torch.equal(made[0].latents, made[1].latents), "the student sees the real chunk"
    assert torch.equal(made[0].student.continuity, made[1].student.continuity), "its continuity holds the real video"
