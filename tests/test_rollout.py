from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from asymtalker import timeline
from asymtalker.codec import to_pixels
from asymtalker.config import SamplerConfig
from asymtalker.dataset.batches import ClipFeatures
from asymtalker.models.audio import ArraySource, AudioFeatures
from asymtalker.models.identity import Identity, temporal_reference
from asymtalker.rollout import Conditions, guided_velocity, predict_velocity, rollout, sample_chunk
from toy import TOY_CHUNK, TOY_SIZE, FoldingCodec, RecordingNetwork, ToyFace, toy_transformer

FRAMES = 18  # five chunks of 9 frames, the last one trimmed
SAMPLER = SamplerConfig(num_steps=2)
CLIP = ToyFace(2).clip("train", 40)


@pytest.fixture(scope="module")
def model():
    return toy_transformer()


@pytest.fixture
def features(toy_audio_encoder, toy_extractor):
    return AudioFeatures(toy_audio_encoder, toy_extractor, ArraySource(CLIP.audio[: FRAMES * 640]))


@pytest.fixture
def identity(toy_codec):
    return Identity(latents=temporal_reference(toy_codec, to_pixels(CLIP.frames[:1]), TOY_CHUNK.frames))


def roll(model, codec, audio, identity, *, seed=3, num_frames=FRAMES, **options):
    spans = timeline.chunk_spans(num_frames, TOY_CHUNK.frames, TOY_CHUNK.continuity_frames)
    settings = {"chunk": TOY_CHUNK, "size": (TOY_SIZE, TOY_SIZE), "sampler": SAMPLER, "seed": seed}
    return rollout(model, codec, audio, identity, spans, **(settings | options))


@pytest.fixture
def chunks(model, toy_codec, features, identity):
    return list(roll(model, toy_codec, features, identity))


@pytest.mark.parametrize("num_frames", [1, 9, 10, 13, 18])
def test_exactly_the_wanted_frames(model, toy_codec, features, identity, num_frames):
    pieces = [chunk.new_pixels for chunk in roll(model, toy_codec, features, identity, num_frames=num_frames)]
    assert torch.cat(pieces, dim=2).shape == (1, 3, num_frames, TOY_SIZE, TOY_SIZE)


def test_the_head_of_a_chunk_is_the_tail_of_the_one_before_encoded_anew(toy_codec, chunks):
    for before, chunk in pairwise(chunks):
        tail = before.pixels[:, :, -TOY_CHUNK.continuity_frames :]
        assert torch.equal(chunk.latents[:, :, :2], toy_codec.encode(tail))
        # decoding repeats the tail up to what the codec loses, and no later chunk can change what was given
        repeated = toy_codec.decode(toy_codec.encode(tail))
        torch.testing.assert_close(chunk.pixels[:, :, : TOY_CHUNK.continuity_frames], repeated)
        assert not torch.equal(chunk.latents[:, :, :2], before.latents[:, :, -2:])


def test_a_live_chunk_begins_with_the_frames_before_it_though_the_last_one_reached_further(
    model, toy_codec, features, identity
):
    """Of chunks of 9 frames two are added, so that each begins within the one before."""
    spans = [timeline.live_span(index, first, 2, 9, 5) for index, first in ((0, 0), (1, 5), (2, 7))]
    spans[0] = replace(spans[0], new=range(5))
    settings = {"chunk": TOY_CHUNK, "size": (TOY_SIZE, TOY_SIZE), "sampler": SAMPLER, "seed": 3, "grows": True}
    chunks = list(rollout(model, toy_codec, features, identity, iter(spans), **settings))
    assert [chunk.span.start for chunk in chunks] == [0, 0, 2]
    for before, chunk in pairwise(chunks):
        first = chunk.span.start - before.span.start
        assert torch.equal(chunk.latents[:, :, :2], toy_codec.encode(before.pixels[:, :, first : first + 5]))
    assert [chunk.new_pixels.shape[2] for chunk in chunks] == [5, 2, 2]


def test_the_same_seed_gives_the_same_video_and_another_another(model, toy_codec, features, identity, chunks):
    again = list(roll(model, toy_codec, features, identity))
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(chunks, again, strict=True))
    other = next(roll(model, toy_codec, features, identity, seed=4))
    assert not torch.equal(other.latents, chunks[0].latents)


def test_streamed_equals_offline(model, toy_codec, toy_audio_encoder, toy_extractor, identity, chunks):
    """Sound that is read in small pieces, and a reader that does other things in between, make the same frames."""

    class Piecewise(ArraySource):
        def read(self, start, stop):
            pieces = [super(Piecewise, self).read(at, min(at + 999, stop)) for at in range(start, stop, 999)]
            return np.concatenate(pieces)

    source = Piecewise(CLIP.audio[: FRAMES * 640])
    audio = AudioFeatures(toy_audio_encoder, toy_extractor, source)
    stream = roll(model, toy_codec, audio, identity)
    for index, chunk in enumerate(stream):
        torch.manual_seed(index)  # what the reader does to global random numbers has no effect
        torch.rand(index + 1)
        assert torch.equal(chunk.new_pixels, chunks[index].new_pixels)


def test_a_chunk_does_not_depend_on_how_many_follow(model, toy_codec, features, identity, chunks):
    short = list(roll(model, toy_codec, features, identity, num_frames=9))
    assert torch.equal(short[0].latents, chunks[0].latents)


def test_where_work_goes_on_alone_the_next_sound_is_asked_for_before_a_chunk_is_shown(
    model, toy_codec, features, identity, chunks, monkeypatch
):
    asked: list[int] = []

    class Noted:
        def frames(self, start, stop):
            asked.append(start)
            return features.frames(start, stop)

    monkeypatch.setattr("asymtalker.rollout.still_working", lambda _: True)
    for index, chunk in enumerate(roll(model, toy_codec, Noted(), identity)):
        assert len(asked) == min(index + 2, len(chunks))
        assert torch.equal(chunk.latents, chunks[index].latents)


def test_ground_truth_continuity_carries_the_real_video(model, toy_codec, features, identity):
    def real(span):
        return toy_codec.encode(to_pixels(CLIP.frames[span.start : span.start + TOY_CHUNK.continuity_frames]))

    options = {"continuity": "ground_truth", "ground_truth": real}
    for chunk in list(roll(model, toy_codec, features, identity, **options))[1:]:
        start = chunk.span.start
        whole = toy_codec.encode(to_pixels(CLIP.frames[start : start + TOY_CHUNK.frames]))
        torch.testing.assert_close(chunk.latents[:, :, :2], whole[:, :, :2])  # prefix causality: E(x[:K]) = E(x)[:2]


def test_ground_truth_continuity_needs_the_real_video(model, toy_codec, features, identity):
    with pytest.raises(ValueError, match="ground_truth"):
        next(roll(model, toy_codec, features, identity, continuity="ground_truth"))


def test_gradient_flows_through_the_exit_step_of_the_exit_chunk_alone(model, toy_codec, features, identity, chunks):
    options = {"exit_chunk": 1, "exit_step": 0, "num_frames": 13}
    first, second = roll(model, toy_codec, features, identity, **options)
    assert not first.latents.requires_grad
    assert torch.equal(first.latents, chunks[0].latents)  # sampled to the end
    assert second.latents.requires_grad
    assert not torch.equal(second.latents, chunks[1].latents)
    with torch.no_grad():
        assert not any(c.latents.requires_grad for c in roll(model, toy_codec, features, identity, **options))


def conditions(identity, batch=1):
    generator = torch.Generator().manual_seed(0)
    return Conditions(torch.randn(batch, TOY_CHUNK.frames + 4, 16, generator=generator), identity)


@pytest.mark.parametrize("prediction_type", ["velocity", "change"])
def test_conversion_of_what_the_network_predicts(identity, prediction_type):
    model = toy_transformer(prediction_type=prediction_type)
    noisy, sigma = torch.randn(1, 6, 3, 4, 4), torch.tensor([0.4])
    velocity = predict_velocity(model, noisy, sigma, conditions(identity))
    mask = torch.zeros(1, 4, 3, 4, 4)
    change, variance = noisy - 0.6 * identity.latents, 0.4**2 + 0.6**2
    seen = noisy if prediction_type == "velocity" else change / variance**0.5
    output = model(torch.cat([seen, mask, identity.latents], 1), sigma * 1000, conditions(identity).audio).sample
    of_change = output / variance**0.5 + (2 * 0.4 - 1) / variance * change
    expected = output if prediction_type == "velocity" else of_change - identity.latents
    torch.testing.assert_close(velocity, expected)


def test_a_change_is_predicted_whoever_the_portrait_shows(identity):
    """The same change of another person: noisy latents and velocity differ by what the identity latents do."""
    model, sigma = toy_transformer(prediction_type="change"), torch.tensor([0.4])
    model.patch_embedding.weight.data[:, -identity.latents.shape[1] :] = 0  # what it knows of the person besides
    other = Identity(latents=identity.latents + torch.randn(1, 6, 1, 4, 4))
    noisy, further = torch.randn(1, 6, 3, 4, 4), other.latents - identity.latents
    first = predict_velocity(model, noisy, sigma, conditions(identity))
    second = predict_velocity(model, noisy + 0.6 * further, sigma, conditions(other))
    torch.testing.assert_close(second, first - further, atol=1e-4, rtol=1e-4)


def test_weights_in_half_precision_need_no_autocast(identity):
    noisy, sigma = torch.randn(1, 6, 3, 4, 4), torch.tensor([0.7])
    full = predict_velocity(toy_transformer(), noisy, sigma, conditions(identity))
    half = predict_velocity(toy_transformer().to(torch.bfloat16), noisy, sigma, conditions(identity))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.1, rtol=0.1)


def test_the_noisy_latents_under_a_given_head_do_not_matter(model, identity):
    given = torch.randn(1, 6, 2, 4, 4)
    with_head = Conditions(conditions(identity).audio, identity, given)
    noisy = torch.randn(1, 6, 3, 4, 4)
    changed = noisy.clone()
    changed[:, :, :2] += 1
    sigma = torch.tensor([0.7])
    first, second = (predict_velocity(model, x, sigma, with_head) for x in (noisy, changed))
    assert torch.equal(first[:, :, 2:], second[:, :, 2:])


def test_guidance_of_one_is_none_and_zero_is_null_audio(model, identity):
    noisy, sigma, given = torch.randn(1, 6, 3, 4, 4), torch.tensor([0.7]), conditions(identity)
    plain = predict_velocity(model, noisy, sigma, given)
    null = predict_velocity(model, noisy, sigma, given.without_audio())
    assert torch.equal(guided_velocity(model, noisy, sigma, given, 1.0), plain)
    torch.testing.assert_close(guided_velocity(model, noisy, sigma, given, 0.0), null)
    torch.testing.assert_close(guided_velocity(model, noisy, sigma, given, 3.0), null + 3 * (plain - null))


@pytest.mark.parametrize("renew_noise", [False, True])
def test_a_network_that_knows_the_clean_latents_is_sampled_exactly(identity, renew_noise):
    network = RecordingNetwork(lambda given: given.identity)
    sampler = SamplerConfig(num_steps=4, renew_noise=renew_noise)
    with torch.no_grad():
        sample = sample_chunk(
            network, conditions(identity), (1, 6, 3, 4, 4), sampler, torch.Generator().manual_seed(0)
        )
    torch.testing.assert_close(sample, identity.latents, atol=1e-5, rtol=1e-5)


def test_videos_side_by_side_hear_their_own_sound(model, toy_codec, features, identity):
    silence = torch.zeros(1, FRAMES, 16)
    pair = Identity(latents=identity.latents.repeat(2, 1, 1, 1, 1))
    sounds = [torch.cat([features.frames(0, FRAMES), second]) for second in (silence, silence + 1)]
    quiet, loud = (next(roll(model, toy_codec, ClipFeatures(both, 0), pair, batch=2)) for both in sounds)
    assert torch.equal(quiet.latents[0], loud.latents[0])
    assert not torch.equal(quiet.latents[1], loud.latents[1])


class Numbers:
    """Sound whose feature of a frame is the frame's number."""

    def frames(self, start, stop):
        return torch.arange(start, stop, dtype=torch.float32).view(1, -1, 1)


def echo(given):
    """Latents that decode to the sound of their own frames."""
    frames = given.audio[:, 2:-2].transpose(1, 2)[..., None, None]
    return FoldingCodec().encode(frames.expand(-1, 3, -1, 1, 1))


@pytest.mark.parametrize("memoryless", [False, True])
def test_frame_k_of_a_rollout_is_made_from_the_sound_of_frame_k(monkeypatch, memoryless):
    monkeypatch.setattr(FoldingCodec, "memoryless", memoryless)
    network = RecordingNetwork(echo, FoldingCodec.channels)
    portrait = Identity(latents=torch.zeros(1, FoldingCodec.channels, 3, 1, 1))
    made = list(roll(network, FoldingCodec(), Numbers(), portrait, num_frames=17, size=(1, 1)))
    assert len(made) == 3
    for chunk in made:
        shown = chunk.pixels[0, 0, :, 0, 0].round().int().tolist()
        span = chunk.span
        assert shown == list(range(span.start, span.stop)), f"frames {span.start} to {span.stop} show those of {shown}"
    parts = {"at once": [chunk.new_pixels for chunk in made], "in parts": [p for chunk in made for p in chunk.shown()]}
    for how, pixels in parts.items():
        video = torch.cat(pixels, dim=2)[0, 0, :, 0, 0].round().int().tolist()
        assert video == list(range(17)), f"the video, {how}, is made of the frames {video}"


def test_lids_are_asked_for_in_the_frames_that_a_chunk_adds(monkeypatch):
    asked = []
    monkeypatch.setattr(FoldingCodec, "memoryless", True)
    monkeypatch.setattr(
        FoldingCodec,
        "decode_frames",
        lambda self, latents, *others: asked.append(others[-1](latents[0, 0, :, 0, 0])) or iter(()),
    )
    network = RecordingNetwork(echo, FoldingCodec.channels)
    portrait = Identity(latents=torch.zeros(1, FoldingCodec.channels, 3, 1, 1))
    made = roll(network, FoldingCodec(), Numbers(), portrait, num_frames=15, size=(1, 1), closing=lambda *given: given)
    for chunk in made:
        list(chunk.shown())
    frames, begins, closed = zip(*asked, strict=True)
    assert frames == (range(9), range(9, 13), range(13, 15))
    assert begins == (0, 5, 5)
    assert all(len(one) == 3 for one in closed)


def test_a_given_head_is_clean_and_marked_and_a_first_chunk_has_none(model, toy_codec, features, identity):
    network = RecordingNetwork(lambda given: given.identity.clone())
    sampler = SamplerConfig(num_steps=2, shift=1.0)
    first, second = roll(network, toy_codec, features, identity, num_frames=13, sampler=sampler)
    for index, given in enumerate(network.passes):
        level = 1000.0 if index % 2 == 0 else 500.0
        head = 0 if index < 2 else 2
        levels = given.timestep.expand(1, 3) if given.timestep.ndim == 2 else given.timestep[:, None].expand(1, 3)
        assert levels[0].tolist() == [0.0] * head + [level] * (3 - head), "noise level: 0 for the head, sigma after it"
        assert given.mask.amax((0, 1, 3, 4)).tolist() == given.mask.amin((0, 1, 3, 4)).tolist()
        assert given.mask[0, 0, :, 0, 0].tolist() == [1.0] * head + [0.0] * (3 - head), "mask: 1 for the given head"
        assert torch.equal(given.identity, identity.latents), "another portrait"
    tail = toy_codec.encode(first.pixels[:, :, -TOY_CHUNK.continuity_frames :])
    for given in network.passes[2:]:
        head = given.noisy[:, :, :2]
        torch.testing.assert_close(head, tail, msg="the head is not the tail of the chunk before, encoded anew")
    assert torch.equal(second.latents[:, :, :2], tail)


def test_every_chunk_has_noise_of_its_own_that_comes_from_the_seed(toy_codec, features, identity):
    def noises(seed):
        network = RecordingNetwork(lambda given: given.identity.clone())
        list(roll(network, toy_codec, features, identity, num_frames=17, seed=seed))
        return [given.noisy[:, :, 2:] for given in network.passes[::2]]

    first, second, third = noises(3)
    assert not torch.equal(first, second), "two chunks start from the same noise"
    assert not torch.equal(second, third), "two chunks start from the same noise"
    assert all(torch.equal(one, other) for one, other in zip(noises(3), (first, second, third), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(noises(4), (first, second, third), strict=True)), (
        "the noise of a later chunk does not depend on the seed"
    )


@pytest.mark.parametrize("renew_noise", [False, True])
def test_noise_between_steps_is_fresh_or_the_one_the_step_found(identity, renew_noise):
    network = RecordingNetwork(lambda given: 2 * given.identity)
    sampler = SamplerConfig(num_steps=4, shift=1.0, renew_noise=renew_noise)
    sample_chunk(network, conditions(identity), (1, 6, 3, 4, 4), sampler, torch.Generator().manual_seed(0))
    noises = []
    for given, sigma in zip(network.passes, (1.0, 0.75, 0.5, 0.25), strict=True):
        torch.testing.assert_close(given.timestep, torch.tensor([1000 * sigma]), msg="noise levels do not fall evenly")
        noises.append((given.noisy - (1 - sigma) * 2 * identity.latents) / sigma)
    for one, other in pairwise(noises):
        same = torch.allclose(one, other, atol=1e-3)
        assert same != renew_noise, "the noise is kept between steps" if same else "the noise is renewed between steps"
        assert 0.8 < float(other.std()) < 1.2, "the noise is not of unit variance"


@pytest.mark.parametrize("exit_step", [0, 2])
def test_the_exit_step_alone_records_a_graph(identity, exit_step):
    """Gradients of a chunk that is left at a step are those of this step alone, on latents that are given to it."""
    model = toy_transformer(prediction_type="velocity").train()
    given: list = []
    model.register_forward_pre_hook(lambda module, args: given.append((args, torch.is_grad_enabled())))
    sampler = SamplerConfig(num_steps=4, renew_noise=True)
    generator = torch.Generator().manual_seed(0)
    left = sample_chunk(model, conditions(identity), (1, 6, 3, 4, 4), sampler, generator, exit_step)
    assert [records for _, records in given] == [False] * exit_step + [True], "not the exit step alone records a graph"
    left.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    hidden, level, *others = given[-1][0]
    assert not hidden.requires_grad, "the latents of the exit step hang on the steps before it"
    clean = hidden[:, :6] - level / 1000 * model(hidden.detach(), level, *others).sample
    torch.testing.assert_close(left, clean, msg="what is returned is not the clean prediction of the exit step")
    clean.square().sum().backward()
    for one, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad, msg="the gradient is not that of the exit step alone")


def test_guidance_asks_twice_of_the_same_chunk_with_and_without_sound(identity):
    network = RecordingNetwork(lambda given: torch.zeros_like(given.noisy) + float(given.audio.any()))
    given = Conditions(conditions(identity).audio, identity, torch.ones(1, 6, 2, 4, 4))
    sampler = SamplerConfig(num_steps=1, guidance_scale=3.0)
    made = sample_chunk(network, given, (1, 6, 3, 4, 4), sampler, torch.Generator().manual_seed(0))
    assert [bool(one.audio.any()) for one in network.passes] == [True, False], "the chunk is not guided by its sound"
    assert torch.equal(network.passes[0].noisy, network.passes[1].noisy), "guidance loses the continuity"
    torch.testing.assert_close(made[:, :, 2:], torch.full((1, 6, 1, 4, 4), 3.0), msg="not null + 3 (v - null)")
