import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from asymtalker.codec import to_pixels
from asymtalker.config import ChunkConfig
from asymtalker.dataset import corpus
from asymtalker.dataset.batches import ChunkSource, encode_all, open_held_out
from asymtalker.dataset.cache import Cache
from asymtalker.dataset.chunks import Chooser, chunk_starts, reference_frames
from asymtalker.dataset.corpus import ShardWriter
from asymtalker.errors import UserError
from asymtalker.models.audio import ArraySource, AudioFeatures
from asymtalker.models.identity import encode_then_repeat, temporal_reference
from asymtalker.training.frozen import load_frozen
from toy import TOY_CHUNK, ToyFace, real_pixels, toy_loop


@pytest.fixture(scope="module")
def frozen(tiny_pipeline_folder):
    return load_frozen(tiny_pipeline_folder, "tre", toy_loop())


@pytest.fixture(scope="module")
def source(toy_corpus, frozen):
    return ChunkSource(toy_corpus, "train", frozen, TOY_CHUNK)


def generator(seed: int = 0):
    return torch.Generator().manual_seed(seed)


def folders(source: ChunkSource):
    assert isinstance(source.encoded, Cache)
    return source.encoded.folders(source.clips[0])


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=5e-3, rtol=2e-3)  # the cache holds float16


def test_starts_cover_the_clip_to_its_end():
    assert chunk_starts(105, 81) == [0, 24]
    assert chunk_starts(200, 81) == [0, 40, 80, 119]
    assert chunk_starts(81, 81) == [0]
    assert chunk_starts(40, 33) == [0, 7]
    assert chunk_starts(80, 81) == []


def test_references_are_fixed_by_the_key_and_inside_the_clip():
    frames = reference_frames("a", 105, 81)
    assert frames == reference_frames("a", 105, 81)
    assert frames[:2] == chunk_starts(105, 81)
    assert [4 * frame // 105 for frame in frames[2:]] == [0, 1, 2, 3]
    assert len({tuple(reference_frames(str(key), 105, 81)) for key in range(8)}) > 1


def test_a_video_that_begins_with_the_chunk_has_its_first_frame_as_portrait(source, frozen):
    batch = source.batch(3, generator(), 0)
    assert batch.elapsed == 0
    assert source.batch(1, generator()).elapsed is None
    first = real_pixels(source, batch, 0, 1)
    for index in range(3):
        expected = temporal_reference(frozen.codec, first[index : index + 1], TOY_CHUNK.frames)
        close(batch.identity.latents[index : index + 1], expected)


def test_the_portrait_of_a_later_chunk_is_how_its_video_began():
    row = SimpleNamespace(identity_id="a")
    clip, other = (SimpleNamespace(key=key, num_frames=250, row=row) for key in "ab")
    chooser = Chooser([clip, other], 73, lead=136)  # pyright: ignore[reportArgumentType]
    starts = chunk_starts(250, 73)
    for elapsed in (0, 68, 136):
        for seed in range(6):
            chosen = chooser.choose(clip, generator(seed), elapsed)  # pyright: ignore[reportArgumentType]
            began = chosen.start - elapsed
            assert chosen.portrait is clip
            assert began - 40 < starts[chosen.reference] <= began
    assert chooser.choose(clip, generator()).portrait is other  # pyright: ignore[reportArgumentType]


def test_a_batch_is_what_encoding_the_clip_now_gives(source, frozen):
    batch = source.batch(3, generator())
    for index, (key, start) in enumerate(zip(batch.keys, batch.starts, strict=True)):
        clip = corpus.open_clip(source.folder, key)
        pixels = to_pixels(clip.frames(start, start + TOY_CHUNK.frames))
        close(batch.latents[index : index + 1], frozen.codec.encode(pixels))
        features = AudioFeatures(frozen.audio_encoder, frozen.extractor, ArraySource(clip.audio()))
        span = (-2, TOY_CHUNK.frames + 2)
        close(batch.audio.frames(*span)[index : index + 1], features.frames(start + span[0], start + span[1]))
        picture = [to_pixels(clip.frames(f, f + 1)) for f in reference_frames(key, clip.num_frames, TOY_CHUNK.frames)]
        references = [temporal_reference(frozen.codec, p, TOY_CHUNK.frames)[0] for p in picture]
        assert min((batch.identity.latents[index] - r).abs().max() for r in references) < 5e-3
        assert torch.equal(real_pixels(source, batch, 2, 5)[index], pixels[0, :, 2:5])


def test_the_head_of_a_chunk_is_the_encoding_of_its_first_frames(source, frozen):
    batch = source.batch(2, generator())
    head = frozen.codec.encode(real_pixels(source, batch, 0, TOY_CHUNK.continuity_frames))
    close(batch.latents[:, :, :2], head)


def test_a_batch_is_a_pure_function_of_the_generator(source):
    first, second, other = (source.batch(4, generator(seed)) for seed in (1, 1, 2))
    assert first.keys == second.keys
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.identity.latents, second.identity.latents)
    assert (first.keys, first.starts) != (other.keys, other.starts)


def test_the_split_and_the_masks_are_those_of_the_corpus(source):
    batch = source.batch(8, generator())
    assert all(key.startswith("train-") for key in batch.keys)
    mask = source.face_mask(batch, 0, 3)
    assert mask.shape == (8, 1, 3, 32, 32)
    assert 0 <= mask.min() < 0.1
    assert 0.9 < mask.max() <= 1


def test_held_out_chunks_are_of_the_test_split(toy_corpus, frozen):
    held_out = open_held_out(toy_corpus, frozen, TOY_CHUNK, buckets=(), cache=True)
    assert {row.key for row in held_out.rows} == {"test-toy4", "test-toy5"}
    assert open_held_out(toy_corpus, frozen, ChunkConfig(frames=25), buckets=(), cache=True) is None


def test_clips_are_encoded_once(source, toy_corpus, frozen, monkeypatch):
    def fail(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(type(frozen.codec), "encode", fail)
    again = ChunkSource(toy_corpus, "train", frozen, TOY_CHUNK)
    assert torch.equal(again.batch(1, generator()).latents, source.batch(1, generator()).latents)


def test_encoding_goes_on_where_it_was_stopped(toy_corpus, tmp_path, frozen):
    folder = shutil.copytree(toy_corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    before = ChunkSource(folder, "train", frozen, TOY_CHUNK)
    encode_all(before)
    kept, lost = sorted(folders(before).latents.iterdir())[:2]
    written = kept.stat().st_mtime_ns
    expected = lost.read_bytes()
    lost.unlink()
    after = ChunkSource(folder, "train", frozen, TOY_CHUNK)
    encode_all(after)
    assert kept.stat().st_mtime_ns == written
    assert lost.read_bytes() == expected
    assert folders(after) == folders(before)
    shard = after.clips[0].shard
    os.utime(shard)  # as if the corpus had been written again
    encode_all(ChunkSource(folder, "train", frozen, TOY_CHUNK))
    assert kept.stat().st_mtime_ns > written


def test_another_codec_length_or_strategy_does_not_meet_old_values(toy_corpus, source, frozen, tiny_pipeline_folder):
    shorter = ChunkSource(toy_corpus, "train", frozen, ChunkConfig(frames=5, continuity_frames=1))
    assert folders(shorter).latents != folders(source).latents
    assert folders(shorter).audio == folders(source).audio
    etr = load_frozen(tiny_pipeline_folder, "etr", toy_loop())
    repeated = ChunkSource(toy_corpus, "train", etr, TOY_CHUNK)
    assert folders(repeated).identity != folders(source).identity
    assert folders(repeated).latents == folders(source).latents
    latents = repeated.batch(1, generator()).identity.latents
    assert torch.equal(latents[:, :, :1].expand_as(latents), latents)
    changed = load_frozen(tiny_pipeline_folder, "tre", toy_loop())
    next(changed.codec.vae.parameters()).data += 1
    assert changed.codec_digest != frozen.codec_digest
    picture = torch.zeros(1, 3, 1, 32, 32)
    assert torch.equal(etr.encode_identity(picture, 9).latents, encode_then_repeat(etr.codec, picture, 9))


def test_chunks_in_a_row_leave_room_before_the_last(toy_corpus, frozen):
    rollout = ChunkSource(toy_corpus, "train", frozen, TOY_CHUNK, chunks=3)
    batch = rollout.batch(8, generator())
    assert min(batch.starts) >= 8  # two chunks of 9 frames that share 5
    moved = batch.audio.moved(8)
    assert torch.equal(moved.frames(8, 17), batch.audio.frames(0, 9))
    real_pixels(rollout, batch, -8, -3)


def test_clips_that_are_too_short_are_named(toy_corpus, frozen):
    with pytest.raises(UserError, match=r"no train clip has the 25 frames .* longest has 21"):
        ChunkSource(toy_corpus, "train", frozen, ChunkConfig(frames=25))


def test_a_corpus_without_clips_of_the_split_is_refused(tmp_path, frozen):
    writer = ShardWriter(tmp_path)
    writer.write(0, [ToyFace(0).clip("test", 9)])
    writer.write_manifest()
    with pytest.raises(UserError, match=r"no train clip .* longest has 0"):
        ChunkSource(tmp_path, "train", frozen, TOY_CHUNK)


def test_a_folder_without_a_codec_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*vae"):
        load_frozen(tmp_path, "tre", toy_loop())


def test_clips_of_several_sizes_are_refused(tmp_path, frozen):
    writer = ShardWriter(tmp_path / "mixed")
    writer.write(0, [ToyFace(seed).clip("train", size=size) for seed, size in ((0, 32), (1, 48))])
    writer.write_manifest()
    with pytest.raises(UserError, match="32 x 32, 48 x 48"):
        ChunkSource(tmp_path / "mixed", "train", frozen, TOY_CHUNK)


def test_the_reference_is_from_another_clip_of_the_same_person_where_there_is_one(tmp_path, frozen):
    """Eq. 24 draws it from the same identity."""
    writer = ShardWriter(tmp_path / "people")
    people = ["ann", "ann", "ann", "bob"]
    clips = [replace(ToyFace(seed).clip("train"), identity_id=name) for seed, name in enumerate(people)]
    writer.write(0, [*clips, replace(ToyFace(4).clip("test"), identity_id="bob")])
    writer.write_manifest()
    source = ChunkSource(writer.folder, "train", frozen, TOY_CHUNK)
    pictures = {
        clip.key: [
            temporal_reference(frozen.codec, to_pixels(clip.frames(f, f + 1)), TOY_CHUNK.frames)[0] for f in frames
        ]
        for clip in source.clips
        for frames in [reference_frames(clip.key, clip.num_frames, TOY_CHUNK.frames)]
    }
    portraits: dict[str, set[str]] = {}
    for seed in range(30):
        batch = source.batch(2, generator(seed), masks=False)
        for key, latents in zip(batch.keys, batch.identity.latents, strict=True):
            far = {other: min((latents - one).abs().max() for one in those) for other, those in pictures.items()}
            portraits.setdefault(key, set()).add(min(far, key=lambda other: far[other]))
            assert min(far.values()) < 5e-3
    ann = {"train-toy0", "train-toy1", "train-toy2"}
    assert {key: portraits[key] for key in ann} == {key: ann - {key} for key in ann}, "each shows the other two"
    assert portraits["train-toy3"] == {"train-toy3"}, "alone in its split"


def test_a_critics_batch_is_the_same_without_ground_truth_and_encodes_none(toy_corpus, frozen, monkeypatch):
    source = ChunkSource(toy_corpus, "train", frozen, TOY_CHUNK, chunks=2, cache=False)
    whole = source.batch(2, generator(3))
    monkeypatch.setattr(type(source.encoded), "latents", lambda *_: pytest.fail("ground truth is encoded"))
    bare = source.batch(2, generator(3), target=False, masks=False)
    assert (bare.keys, bare.starts, bare.size) == (whole.keys, whole.starts, whole.size)
    assert torch.equal(bare.audio.features, whole.audio.features)
    assert torch.equal(bare.identity.latents, whole.identity.latents)
    assert bare.latents.shape == (*whole.latents.shape[:2], 0, *whole.latents.shape[3:])
    assert bare.masks is None


def test_masks_are_read_with_the_batch(source, monkeypatch):
    """In the thread that reads ahead, so that training does not wait for them."""
    batch = source.batch(2, generator())
    monkeypatch.setattr(type(source.encoded), "mask", lambda *_: pytest.fail("masks are read later"))
    assert source.face_mask(batch, 0, TOY_CHUNK.frames).shape == (2, 1, TOY_CHUNK.frames, 32, 32)
    for index, (key, start) in enumerate(zip(batch.keys, batch.starts, strict=True)):
        clip = corpus.open_clip(source.folder, key)
        expected = torch.from_numpy(clip.mask(start + 2, start + 5)).float() / 255
        assert torch.equal(source.face_mask(batch, 2, 5)[index, 0], expected)
