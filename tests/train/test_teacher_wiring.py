"""Which frames and conditions the teacher's losses are of: clips whose frames and masks show their own number."""

from dataclasses import replace

import pytest
import torch

from asymtalker import flow
from asymtalker.codec import to_pixels
from asymtalker.config import OptimizerConfig
from asymtalker.dataset import corpus
from asymtalker.dataset.batches import Batch, ChunkSource, ClipFeatures
from asymtalker.dataset.corpus import NewClip, ShardWriter
from asymtalker.flow import numbered_generator
from asymtalker.models.identity import Identity, temporal_reference
from asymtalker.train import teacher as teacher_loop
from asymtalker.train.teacher import (
    draw_batch,
    draw_conditions,
    exchange_motion,
    held_out_losses,
    pixel_losses,
    teacher_losses,
    train_teacher,
)
from asymtalker.training.frozen import load_frozen
from asymtalker.training.run_folder import learning_rate
from toy import TOY_CHUNK, FoldingCodec, RecordingNetwork, ToyFace, real_pixels, saved_state, toy_loop, toy_teacher

HEAD = 2  # latent frames of 5 continuity frames
BITS = 7


def written(number: int) -> torch.Tensor:
    """``(32, 32)`` in 0 and 1: a bright column on the left, and a block 8 pixels wide for every bit that is set."""
    picture = torch.zeros(32, 32)
    picture[:, :8] = 1
    for bit in range(BITS):
        if number >> bit & 1:
            row, column = divmod(bit, 3)
            picture[8 * row : 8 * row + 8, 8 + 8 * column : 16 + 8 * column] = 1
    return picture


def read(pictures: torch.Tensor) -> list[int]:
    """The numbers that ``(F, 32, 32)`` show, bright above 0.5."""
    values = torch.zeros(len(pictures), dtype=torch.int64)
    for bit in range(BITS):
        row, column = divmod(bit, 3)
        block = pictures[:, 8 * row + 2 : 8 * row + 6, 10 + 8 * column : 14 + 8 * column]
        values += (block.mean((1, 2)) > 0.5).long() << bit
    return values.tolist()


def numbered(seed: int) -> NewClip:
    """A clip whose frame ``k`` shows ``32 seed + k``, and so does its mask."""
    clip = ToyFace(seed).clip("train")
    numbers = (255 * torch.stack([written(32 * seed + frame) for frame in range(21)])).byte().numpy()
    return replace(clip, frames=numbers[..., None].repeat(3, axis=-1), mask=numbers)


@pytest.fixture(scope="module")
def frozen(tiny_pipeline_folder):
    return load_frozen(tiny_pipeline_folder, "tre", toy_loop())


@pytest.fixture(scope="module")
def source(tmp_path_factory, frozen):
    writer = ShardWriter(tmp_path_factory.mktemp("numbered"))
    writer.write(0, [numbered(seed) for seed in range(3)])
    writer.write_manifest()
    return ChunkSource(writer.folder, "train", frozen, TOY_CHUNK)


@pytest.fixture(scope="module")
def batch(source):
    """Four different chunks."""
    batches = (source.batch(4, numbered_generator(0, number)) for number in range(1000))
    return next(batch for batch in batches if len(set(zip(batch.keys, batch.starts, strict=True))) == 4)


def numbers_of(batch, index: int, frames: range) -> list[int]:
    """What frames of a chunk, counted from its first, show."""
    first = 32 * int(batch.keys[index][-1]) + batch.starts[index]
    return [first + frame for frame in frames]


def losses_of(config, network, frozen, source, batch, seed=1, decode=False):
    return teacher_losses(config, network, frozen, source, batch, numbered_generator(0, seed), decode)


def test_pixels_and_masks_are_of_the_frames_that_are_asked_for(source, batch):
    for index in range(4):
        wanted = numbers_of(batch, index, range(3, 8))
        assert read(real_pixels(source, batch, 3, 8)[index, 0] / 2 + 0.5) == wanted, "pixels of other frames"
        assert read(source.face_mask(batch, 3, 8)[index, 0]) == wanted, "face masks of other frames"


def test_the_face_mask_is_of_the_frames_that_are_decoded_and_the_chunks_that_are_near(
    source, batch, frozen, monkeypatch
):
    seen = []

    def noted(codec, predicted, clean, mask, first, stop):
        seen.append((predicted, clean, mask, first, stop))
        return {}

    monkeypatch.setattr(teacher_loop, "pixel_losses", noted)
    network = RecordingNetwork(lambda given: batch.latents + 1)
    config = toy_teacher(pixel_max_sigma=0.8, pixel_frames=5)
    for seed in range(24):
        first_or_later = replace(batch, elapsed=0 if seed % 2 else None)
        losses_of(config, network, frozen, source, first_or_later, seed, decode=True)
    assert len({(first, stop) for *_, first, stop in seen}) >= 3, "the window does not move"
    for predicted, clean, mask, first, stop in seen:
        assert len(predicted) == len(clean) == len(mask)
        torch.testing.assert_close(predicted[:, :, HEAD:], clean[:, :, HEAD:] + 1, msg="other chunks are decoded")
        decoded = range(max(0, 4 * first - 4), 4 * stop - 3)  # latent frame t > 0 is frames 4t - 3 to 4t
        which = [next(i for i, latents in enumerate(batch.latents) if torch.equal(latents, one)) for one in clean]
        for index, one in zip(which, mask, strict=True):
            wanted = numbers_of(batch, index, decoded)
            assert read(one[0]) == wanted, f"frames {wanted} are decoded, the mask is of {read(one[0])}"


def test_pixel_losses_apply_at_low_noise_levels_alone(source, batch, frozen, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        teacher_loop, "pixel_losses", lambda codec, predicted, *_: decoded.append(len(predicted)) or {}
    )
    network, config = RecordingNetwork(lambda given: given.identity), toy_teacher(pixel_max_sigma=0.6)
    near = 0
    for seed in range(12):
        losses_of(config, network, frozen, source, batch, seed, decode=True)
        levels = network.passes[-1].timestep
        near += int(((levels if levels.ndim == 1 else levels[:, -1]) <= 600).sum())
    assert 0 < near < 48
    assert sum(decoded) == near, "chunks above pixel_max_sigma are decoded, or some below are not"
    losses_of(config, network, frozen, source, batch, decode=False)
    assert sum(decoded) == near, "pixel losses in a step without"


@pytest.mark.parametrize(("first", "stop"), [(0, 2), (1, 2), (3, 4)])
def test_pixel_losses_compare_frames_of_the_window_with_the_same_frames(first, stop):
    """Each frame of the window is wrong by its own number: the loss under the mask of one frame is that number."""
    codec, num_latents = FoldingCodec(), 5
    frames = torch.randn(1, 3, 17, 1, 1, generator=torch.Generator().manual_seed(0))
    wrong = torch.arange(17.0).view(1, 1, 17, 1, 1)
    window = range(max(0, 4 * first - 4), 4 * stop - 3)
    clean, predicted = codec.encode(frames), codec.encode(frames + wrong)
    assert clean.shape[2] == num_latents
    for frame in window:
        mask = torch.zeros(1, 1, len(window), 1, 1)
        mask[:, :, frame - window.start] = 1
        lost = pixel_losses(codec, predicted, clean, mask, first, stop)
        expected = float(frame) if first == 0 or frame > window.start else 0.0  # the frame before is ground truth
        assert float(lost["ff"]) * len(window) == pytest.approx(expected, abs=1e-4), "the mask is of another frame"
    steps = [1.0] * (len(window) - 1)
    if first:
        steps[0] = window.start + 1.0  # from the true frame before the window
    assert float(lost["tgc"]) == pytest.approx(sum(steps) / len(steps), abs=1e-4), "tgc is of other frames"


def test_chunks_that_move_as_others_are_what_is_learned_head_and_all(source, batch, frozen, monkeypatch):
    """By a codec that takes all of the other clip, so that it shows which one that was."""
    asked = []

    def exchanged(latents, others, backward, portraits=None):
        asked.append((others, backward, portraits))
        return others + 50

    monkeypatch.setattr(frozen.codec, "with_motion_of", exchanged)
    network = RecordingNetwork(lambda given: torch.zeros_like(batch.latents))
    losses_of(toy_teacher(exchange=1.0), network, frozen, source, batch)
    (others, backward, portraits), head = asked[0], network.passes[-1].noisy[:, :, :HEAD]
    torch.testing.assert_close(head, others[:, :, :HEAD] + 50, msg="the continuity is of the chunk as it was")
    assert backward.shape == (len(batch.keys),)
    assert {tuple(one.flatten()[:8].tolist()) for one in others} == {
        tuple(one.flatten()[:8].tolist()) for one in batch.latents
    }, "others are not those of the batch"
    own, theirs = portraits
    torch.testing.assert_close(own, batch.identity.latents)
    order = [[bool((other == one).all()) for one in batch.latents].index(True) for other in others]
    torch.testing.assert_close(theirs, batch.identity.latents[order], msg="portraits are not those of the others")
    losses_of(toy_teacher(exchange=1.0), network, frozen, source, replace(batch, elapsed=0))
    assert asked[-1][2] is None, "a video does not begin with its portrait"
    asked.pop()
    losses_of(toy_teacher(exchange=0.0), network, frozen, source, batch)
    assert len(asked) == 1
    torch.testing.assert_close(network.passes[-1].noisy[:, :, :HEAD], batch.latents[:, :, :HEAD])
    shares = []
    for seed in range(30):
        losses_of(toy_teacher(exchange=0.5), network, frozen, source, batch, seed)
        shares.append((network.passes[-1].noisy[:, :, :HEAD].mean((1, 2, 3, 4)) > 25).float().mean())
    assert 0.3 < torch.stack(shares).mean() < 0.7


def test_which_chunks_move_as_which_and_which_way_is_drawn_for_each():
    """Latents of a chunk are its number, those of its portrait 10 more."""
    asked = []

    class Noted(FoldingCodec):
        def with_motion_of(self, latents, others, backward, portraits=None):
            asked.append((others[:, 0, 0, 0, 0].int().tolist(), backward, portraits))
            return others + 100

    chunks = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 6, 3, 1, 1)
    sound, portraits = ClipFeatures(torch.zeros(4, 9, 1), 0), Identity(latents=chunks + 10)
    batch = Batch(("a", "b", "c", "d"), (0, 0, 0, 0), chunks, sound, portraits, (32, 32), elapsed=TOY_CHUNK.frames)

    def exchanged(number, of=batch):
        return exchange_motion(toy_teacher(exchange=0.25), Noted(), of, numbered_generator(0, number))

    made = torch.stack([exchanged(number).latents[:, 0, 0, 0, 0] for number in range(200)]) >= 100
    others, backward = torch.tensor([order for order, *_ in asked]), torch.stack([way for _, way, _ in asked])
    assert torch.equal(others.sort(1).values, torch.arange(4).expand(200, -1)), "a chunk is left out"
    assert (others == torch.arange(4)).float().mean() < 0.4, "chunks move as themselves"
    for name, drawn, share in (
        ("exchanged", made, 0.25),
        ("backward", backward, 0.5),
        ("both", made & backward, 0.125),
    ):
        assert abs(drawn.float().mean() - share) < 0.05, f"another share of the chunks is {name}"
        assert drawn.float().mean(1).unique().numel() > 3, f"{name}: drawn for a batch as a whole"
    for order, _, (own, theirs) in asked:
        assert torch.equal(own, portraits.latents), "a portrait is not the chunk's own"
        assert theirs[:, 0, 0, 0, 0].int().tolist() == [10 + k for k in order], "a portrait is not the other's"
    for of, about in (
        (replace(batch, elapsed=None), True),
        (replace(batch, elapsed=0), False),
        (replace(batch, identity=Identity(tokens=torch.zeros(4, 2, 3))), False),
    ):
        exchanged(0, of)
        assert (asked[-1][2] is not None) == about, "about portraits, but in first chunks and where none is encoded"


def test_the_teacher_is_given_the_real_head_clean_and_no_loss_counts_it(source, batch, frozen):
    def answer(given):
        output = batch.latents.clone()
        if given.mask.any():
            output[:, :, :HEAD] += 100
        return output

    network = RecordingNetwork(answer)
    config = toy_teacher(audio_dropout=0.0)
    lost = losses_of(config, network, frozen, source, batch)
    torch.testing.assert_close(lost["fm"], torch.tensor(0.0), msg="the loss counts the given head")
    first = losses_of(config, network, frozen, source, replace(batch, elapsed=0))
    torch.testing.assert_close(first["fm"], torch.tensor(0.0), msg="the loss is not that of the chunk")
    given, without = network.passes
    head = given.noisy[:, :, :HEAD]
    torch.testing.assert_close(head, batch.latents[:, :, :HEAD], msg="the head is not the real video's")
    assert given.mask[0, 0, :, 0, 0].tolist() == [1, 1, 0], "the mask does not mark the given head"
    assert not given.timestep[:, :HEAD].any(), "the head is at the noise level of the body"
    assert given.timestep[:, HEAD:].all()
    assert not without.mask.any(), "a first chunk is given a head"
    assert not torch.allclose(without.noisy[:, :, :HEAD], batch.latents[:, :, :HEAD]), "a first chunk's head is clean"
    for one in (given, without):
        assert torch.equal(one.audio, batch.audio.frames(-2, TOY_CHUNK.frames + 2)), "the teacher hears other frames"
        assert torch.equal(one.identity, batch.identity.latents), "the teacher sees another portrait"


def test_a_wrong_body_is_the_loss_at_every_noise_level_without_the_head(source, batch, frozen):
    network = RecordingNetwork(lambda given: batch.latents + 2 * given.sigma)
    for elapsed in (0, None):
        lost = losses_of(toy_teacher(), network, frozen, source, replace(batch, elapsed=elapsed))
        torch.testing.assert_close(lost["fm"], torch.tensor(4.0), msg="not the mean square of the velocity")


def test_noise_levels_are_drawn_from_the_shifted_grid():
    levels = flow.training_sigmas(2000, 5.0, 4, numbered_generator(0, 0))
    wanted = [5 * s / (1 + 4 * s) for s in (0.25, 0.5, 0.75, 1.0)]
    assert levels.unique().tolist() == pytest.approx(wanted), "noise levels are not the grid 1/N to 1, shifted"


def test_each_condition_is_left_out_by_its_own_share_alone(batch, source):
    sound = batch.audio.frames(-2, TOY_CHUNK.frames + 2)

    def drawn(of, audio_dropout):
        return draw_conditions(toy_teacher(audio_dropout=audio_dropout), of, numbered_generator(0, 1))

    no_sound = drawn(batch, 1.0)
    assert torch.equal(no_sound.continuity, batch.latents[:, :, :HEAD]), "audio_dropout leaves out the continuity"
    assert not no_sound.audio.any(), "audio_dropout leaves the sound"
    no_head = drawn(replace(batch, elapsed=0), 0.0)
    assert no_head.continuity is None, "the first chunk of a video has continuity"
    assert torch.equal(no_head.audio, sound), "the first chunk of a video has other sound"
    for one in (no_sound, no_head):
        assert torch.equal(one.identity.latents, batch.identity.latents), "a dropout changes the portrait"
    config = toy_teacher(continuity_dropout=0.25, elsewhere=0.6, audio_dropout=0.5, loop=toy_loop(batch=1))
    elapsed = [draw_batch(config, source, 0, numbered_generator(0, number)).elapsed for number in range(200)]
    for value, share in ((0, 0.25), (None, 0.75 * 0.6), (config.chunk.frames, 0.75 * 0.4)):
        assert abs(elapsed.count(value) / 200 - share) < 0.1, "the share of portraits of that time is another"
    some = [draw_conditions(config, batch, numbered_generator(0, number)) for number in range(200)]
    silent = torch.stack([~one.audio.flatten(1).any(1) for one in some]).float()
    assert 0.4 < silent.mean() < 0.6, "the share of chunks without sound is another"
    assert ((silent.mean(1) > 0) & (silent.mean(1) < 1)).any(), "sound is left out for a whole batch"


def test_the_learning_rate_warms_up_and_then_falls():
    config = OptimizerConfig(lr=2.0, warmup_steps=4, final_scale=0.1)
    rates = [learning_rate(config, step, 1000) for step in (0, 1, 3, 500, 1000)]
    assert rates == pytest.approx([0.5, 1.0, 2.0, 1.1, 0.2], rel=1e-3)


def test_the_reference_frame_lies_outside_the_chunk(source, frozen):
    """Frames of these clips differ, so a reference tells which frame it is of."""
    pictures: dict[str, list[torch.Tensor]] = {}
    with torch.no_grad():
        for row in source.rows:
            pixels = to_pixels(corpus.open_clip(source.folder, row.key).frames(0, 21))
            one_by_one = pixels[0].movedim(1, 0)[:, :, None]  # (21, 3, 1, H, W)
            pictures[row.key] = list(temporal_reference(frozen.codec, one_by_one, TOY_CHUNK.frames))
    inside = []
    for seed in range(12):
        batch = source.batch(2, numbered_generator(0, seed))
        for key, start, reference in zip(batch.keys, batch.starts, batch.identity.latents, strict=True):
            distances = torch.stack([(reference - one).abs().mean() for one in pictures[key]])
            assert distances.min() < 5e-3, "the reference is no frame of the clip"
            inside.append(start <= int(distances.argmin()) < start + TOY_CHUNK.frames)
    assert not any(inside), f"{sum(inside)} of {len(inside)} references lie inside the chunk (eq. 24)"


def test_held_out_losses_are_of_the_real_head_and_the_body(source, frozen):
    network = RecordingNetwork(lambda given: given.identity + 99 * ~given.audio.any() + 9 * ~given.mask.any())
    config = toy_teacher()
    losses = held_out_losses(config, network, frozen, source)
    assert losses["held_out_without_audio"] > 9 * losses["held_out_without_continuity"] > 81 * losses["held_out"]
    levels = (250.0, 500.0, 750.0, 950.0)
    for given, level in zip(network.passes[4:8], levels, strict=True):
        assert given.timestep.ndim == 1, "without continuity"
        assert given.timestep.eq(level).all()
        assert given.audio.any()
    for given in network.passes[8:]:
        assert given.timestep[:, :HEAD].eq(0).all(), "without audio alone"
        assert not given.audio.any()
    for given, level in zip(network.passes[:4], levels, strict=True):
        assert given.timestep.ndim == 2, "held-out chunks are without continuity"
        assert given.timestep[:, :HEAD].eq(0).all(), "the head is at the noise level of the body"
        torch.testing.assert_close(given.timestep[:, HEAD:], torch.full_like(given.timestep[:, HEAD:], level))
        assert given.audio.any()


def test_the_terms_of_the_loss_count_by_their_weights(tmp_path, source, tiny_pipeline_folder, monkeypatch):
    """Losses that are weights of the network: the gradient is what each counts, on average over micro-batches."""
    gradients = []
    real = teacher_loop.optimizer_step

    def losses(config, transformer, *_):
        bias = transformer.proj_out.bias
        return {"fm": bias[0], "tgc": bias[1], "ff": bias[2]}

    def noted(optimizer, *arguments):
        (weight,) = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        gradients.append(weight.grad[:3].tolist())
        return real(optimizer, *arguments)

    monkeypatch.setattr(teacher_loop, "teacher_losses", losses)
    monkeypatch.setattr(teacher_loop, "optimizer_step", noted)
    config = toy_teacher(tgc_weight=0.25, ff_weight=0.5, loop=toy_loop(steps=1, micro_batches=2))
    train_teacher(config, tmp_path / "run", source.folder, tiny_pipeline_folder)
    assert gradients == [[1.0, 0.25, 0.5]], "the loss is not fm + tgc_weight * tgc + ff_weight * ff (eq. 5)"
    state = saved_state(tmp_path / "run")
    average, trained = (state[part]["proj_out.bias"][:3] for part in ("ema", "transformer"))
    assert trained.abs().min() > 0
    torch.testing.assert_close(average, 0.1 * trained, msg="the average is not 0.9 of what it was, 0, and 0.1 of it")
