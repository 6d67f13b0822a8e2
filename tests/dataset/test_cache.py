"""Buckets, and a corpus encoded beforehand or as it is drawn."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from asymtalker.commands.cli import main
from asymtalker.dataset import corpus
from asymtalker.dataset.batches import BatchesAhead, ChunkSource, encode_all
from asymtalker.dataset.buckets import View, nearest_bucket, view_of
from asymtalker.dataset.cache import Cache, Folders
from asymtalker.dataset.corpus import NewClip, ShardWriter
from asymtalker.dataset.encode import Encoder
from asymtalker.distill.loop import distill
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.magvit import MagvitTokenizer
from asymtalker.train.teacher import teacher_losses, train_teacher
from asymtalker.training.distributed import micro_batches
from asymtalker.training.frozen import load_frozen
from torchrun import FORKS, torchrun_forks
from toy import (
    TOY_CHUNK,
    ToyFace,
    assert_same,
    real_pixels,
    saved_state,
    toy_distill,
    toy_loop,
    toy_teacher,
    toy_transformer,
)

BUCKETS = ((32, 32), (48, 32), (32, 48))


def shaped(seed: int, split: str, above: int = 0, below: int = 0, left: int = 0, right: int = 0) -> NewClip:
    """A drawn face with more of a background that is not even around it."""
    clip = ToyFace(seed).clip(split)
    rim = (0, 0), (above, below), (left, right)
    return replace(
        clip,
        frames=np.pad(np.asarray(clip.frames), (*rim, (0, 0)), mode="reflect" if not seed else "edge"),
        mask=np.pad(np.asarray(clip.mask), rim),
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    """Clips of 32 x 32, 40 x 40, 48 x 32, 64 x 32 and 32 x 80 pixels, and a held-out one."""
    writer = ShardWriter(tmp_path_factory.mktemp("mixed"))
    shapes = [{}, {"above": 8, "right": 8}, {"below": 16}, {"below": 32}, {"left": 40, "right": 8}]
    writer.write(0, [shaped(seed, "train", **shape) for seed, shape in enumerate(shapes)])
    writer.write(1, [shaped(7, "test", left=16)])
    writer.write_manifest()
    return writer.folder


@pytest.fixture(scope="module")
def frozen(tiny_pipeline_folder):
    return load_frozen(tiny_pipeline_folder, "tre", toy_loop())


def with_strategy(frozen, strategy: str):
    torch.manual_seed(0)
    encoder = None
    if strategy == "clip":
        config = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
        encoder = CLIPVisionModel(config).eval()
    elif strategy == "vtp":
        encoder = MagvitTokenizer(
            base_channels=32, channel_multipliers=(1, 2, 2), num_res_blocks=1, codebook_bits=6, sample_size=16
        ).eval()
    return replace(frozen, strategy=strategy, image_encoder=encoder)


def rows(folder: Path) -> dict[str, corpus.ManifestRow]:
    return {row.key: row for row in corpus.read_manifest(folder)}


def files_of(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_clip_belongs_to_the_bucket_of_the_nearest_shape(mixed):
    found = {key: nearest_bucket(row, BUCKETS) for key, row in rows(mixed).items()}
    assert [found[f"train-toy{seed}"] for seed in range(5)] == [(32, 32), (32, 32), (48, 32), (48, 32), (32, 48)]
    assert nearest_bucket(rows(mixed)["train-toy4"], ()) == (32, 80)


def test_a_bucket_shows_the_face(mixed):
    clip = corpus.open_clip(mixed, "train-toy4")  # 32 x 80 with the face's middle at 56
    view = view_of(clip, (32, 48))
    assert view.size == (32, 48)
    assert view.box[1::2] == (0, 32)
    assert view.box[2] - view.box[0] == pytest.approx(48)
    assert view.box[2] == pytest.approx(80, abs=1), "as far to the right as the picture goes"
    seen = np.flatnonzero((view_of(clip, (32, 32)).cut(clip.mask()) > 127).any((0, 1)))
    assert (seen[0] + seen[-1] + 1) / 2 == pytest.approx(16, abs=1), "the face is in the middle"
    tall = corpus.open_clip(mixed, "train-toy3")  # the face at the upper end of 64 x 32
    assert view_of(tall, (32, 32)).box[1] < 4


def test_what_has_the_buckets_shape_is_scaled_as_a_whole_or_left_alone(mixed):
    clip = corpus.open_clip(mixed, "train-toy1")
    frames = clip.frames()
    assert view_of(clip, (40, 40)).cut(frames) is frames
    view = view_of(clip, (32, 32))
    assert view == View((0, 0, 40, 40), (32, 32))
    assert view.cut(frames).shape == (21, 32, 32, 3)
    assert view.cut(clip.mask()).shape == (21, 32, 32)


def test_batches_hold_clips_of_one_bucket(mixed, frozen):
    source = ChunkSource(mixed, "train", frozen, TOY_CHUNK, buckets=BUCKETS)
    assert set(source.sizes) == set(BUCKETS)
    seen = set()
    for seed in range(12):
        batch = source.batch(3, numbered_generator(seed, 0))
        seen.add(batch.size)
        assert {nearest_bucket(rows(mixed)[key], BUCKETS) for key in batch.keys} == {batch.size}
        height, width = batch.size
        assert batch.latents.shape[-2:] == batch.identity.latents.shape[-2:] == (height // 8, width // 8)
        assert real_pixels(source, batch, 0, 2).shape == (3, 3, 2, height, width)
        assert source.face_mask(batch, 0, 2).shape == (3, 1, 2, height, width)
    assert seen == set(BUCKETS)


def test_the_latents_of_a_bucket_are_of_the_frames_it_shows(mixed, frozen):
    source = ChunkSource(mixed, "train", frozen, TOY_CHUNK, buckets=BUCKETS)
    for seed in range(6):
        batch = source.batch(1, numbered_generator(seed, 0))
        expected = frozen.codec.encode(real_pixels(source, batch, 0, TOY_CHUNK.frames))
        torch.testing.assert_close(batch.latents, expected, atol=5e-3, rtol=2e-3)  # the cache holds float16


def test_one_bucket_changes_no_draw(toy_corpus, frozen):
    plain = ChunkSource(toy_corpus, "train", frozen, TOY_CHUNK)
    bucketed = ChunkSource(toy_corpus, "train", frozen, TOY_CHUNK, buckets=BUCKETS)
    for seed in range(4):
        one, other = (source.batch(3, numbered_generator(seed, 0)) for source in (plain, bucketed))
        assert_same(vars(one) | {"audio": 0, "identity": 0}, vars(other) | {"audio": 0, "identity": 0})
        assert torch.equal(one.identity.latents, other.identity.latents)
    assert plain.encoded.folders(plain.clips[0]) == bucketed.encoded.folders(plain.clips[0]), (
        "nothing is encoded twice"
    )


def test_other_buckets_have_folders_of_their_own(mixed, frozen):
    clip = corpus.open_clip(mixed, "train-toy4")
    folders = [Cache(Encoder(frozen, 9, (bucket,))).folders(clip) for bucket in ((32, 48), (32, 32), (32, 80))]
    for part in ("latents", "identity", "face"):
        assert len({vars(folder)[part] for folder in folders}) == 3
    assert len({folder.audio for folder in folders}) == 1
    assert folders[2] == Cache(Encoder(frozen, 9)).folders(clip)


@pytest.mark.parametrize("strategy", ["tre", "etr", "clip", "vtp"])
def test_cached_equals_on_the_fly(mixed, frozen, strategy, tmp_path):
    folder = shutil.copytree(mixed, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    frozen = with_strategy(frozen, strategy)
    before = files_of(folder)
    fly = ChunkSource(folder, "train", frozen, TOY_CHUNK, 2, buckets=BUCKETS, cache=False)
    drawn = [fly.batch(2, numbered_generator(seed, 0)) for seed in range(6)]
    beside = [(fly.face_mask(b, 3, 7), real_pixels(fly, b, -4, 2)) for b in drawn]
    assert files_of(folder) == before, "nothing is written"
    cached = ChunkSource(folder, "train", frozen, TOY_CHUNK, 2, buckets=BUCKETS)
    encode_all(cached)
    assert files_of(folder) != before
    for seed, (batch, more) in enumerate(zip(drawn, beside, strict=True)):
        again = cached.batch(2, numbered_generator(seed, 0))
        assert_same(
            vars(again) | {"audio": again.audio.features, "identity": vars(again.identity)},
            vars(batch) | {"audio": batch.audio.features, "identity": vars(batch.identity)},
        )
        assert again.audio.first == batch.audio.first
        assert_same((cached.face_mask(again, 3, 7), real_pixels(cached, again, -4, 2)), more)


def test_losses_are_the_same_cached_and_on_the_fly(mixed, frozen, tmp_path):
    config = toy_teacher(pixel_max_sigma=1.0)
    transformer = toy_transformer()
    plain = shutil.copytree(mixed, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    values = []
    for folder, cache in ((mixed, True), (plain, False)):
        source = ChunkSource(folder, "train", frozen, TOY_CHUNK, buckets=BUCKETS, cache=cache)
        for seed in range(3):
            generator = numbered_generator(seed, 1)
            batch = source.batch(2, generator)
            with torch.no_grad():
                losses = teacher_losses(config, transformer, frozen, source, batch, generator, decode=True)
            assert set(losses) == {"fm", "tgc", "ff"}
            values.append(losses)
    assert_same(values[:3], values[3:])


@pytest.mark.parametrize("what", ["teacher", "distill"])
def test_a_run_that_encodes_beside_itself_is_one_that_encoded_before(
    toy_corpus, tiny_pipeline_folder, tmp_path, monkeypatch, what
):
    """While one thread decodes frames the other encodes them, by networks of the same weights."""
    plain = shutil.copytree(toy_corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    threads = set()
    real = Encoder.latents
    monkeypatch.setattr(Encoder, "latents", lambda *given: (threads.add(threading.current_thread()), real(*given))[1])
    for name, corpus_folder, cache in (("before", toy_corpus, True), ("beside", plain, False)):
        loop = toy_loop(steps=3, cache=cache)
        paths = (tmp_path / name, corpus_folder, tiny_pipeline_folder)
        if what == "teacher":
            train_teacher(toy_teacher(loop=loop, pixel_max_sigma=1.0), *paths)
        else:
            distill(toy_distill(loop=loop), *paths)
    assert not (plain / "cache").exists()
    assert threads - {threading.main_thread()}
    assert_same(saved_state(tmp_path / "beside"), saved_state(tmp_path / "before"))


def test_what_is_kept_is_not_encoded_again(mixed, frozen, tmp_path, monkeypatch):
    folder = shutil.copytree(mixed, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    encode_all(ChunkSource(folder, "train", frozen, TOY_CHUNK, buckets=BUCKETS))
    for path in folder.glob("cache/*/train-toy2.safetensors"):
        path.unlink()
    real, encoded = Encoder.latents, set()

    def noted(encoder, clip, chunk):
        encoded.add(clip.key)
        return real(encoder, clip, chunk)

    monkeypatch.setattr(Encoder, "latents", noted)
    source = ChunkSource(folder, "train", frozen, TOY_CHUNK, buckets=BUCKETS, cache=False)
    drawn = {source.batch(1, numbered_generator(seed, 0)).keys[0] for seed in range(20)}
    assert len(drawn) > 2
    assert encoded == {"train-toy2"}


def test_a_clip_that_cannot_be_read_is_said_and_never_drawn(mixed, frozen, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(mixed, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    real = type(frozen.codec).encode

    def encode(codec, pixels):
        if pixels.shape[-2:] == (48, 32) and pixels.shape[2] == TOY_CHUNK.frames:
            raise UserError("No face was found.")
        return real(codec, pixels)

    monkeypatch.setattr(type(frozen.codec), "encode", encode)
    source = ChunkSource(folder, "train", frozen, TOY_CHUNK, buckets=BUCKETS)
    unread = {clip.key for clip in source.clips if source._encoder.bucket(clip) == (48, 32)}
    assert 0 < len(unread) < len(source.clips)
    drawn = {key for seed in range(20) for key in source.batch(2, numbered_generator(seed, 0)).keys}
    assert drawn == {clip.key for clip in source.clips}
    assert not drawn & unread
    said = capsys.readouterr().err
    for key in unread:
        assert f"{key} of {folder} can't be encoded: No face was found. It is left out." in said

    lone = ChunkSource(folder, "train", frozen, TOY_CHUNK, buckets=BUCKETS, cache=False)
    clip = next(clip for clip in lone.clips if clip.key in unread)
    with pytest.raises(UserError, match=f"{clip.key} .* can't be encoded: No face"):
        lone.encoded.latents(clip, 0)
    only = ChunkSource(folder, "train", frozen, TOY_CHUNK, buckets=[(48, 32)])
    with pytest.raises(UserError, match="none of its 5 clips"):
        encode_all(only)


def test_references_of_another_rule_of_portraits_are_not_met(frozen, tmp_path, monkeypatch):
    before = Folders.of(tmp_path, frozen, TOY_CHUNK.frames)
    monkeypatch.setattr(type(frozen.codec), "pictures", ("lips at rest",))
    after = Folders.of(tmp_path, replace(frozen), TOY_CHUNK.frames)
    assert after.identity != before.identity
    assert replace(after, identity=before.identity) == before, "nothing else is encoded anew"


def test_what_is_encoded_in_another_precision_is_kept_apart(frozen, tmp_path):
    before = Folders.of(tmp_path, frozen, TOY_CHUNK.frames)
    after = Folders.of(tmp_path, replace(frozen, autocast=torch.bfloat16), TOY_CHUNK.frames)
    assert before.face == after.face
    for part in ("latents", "identity", "audio"):
        assert getattr(before, part) != getattr(after, part)
    longer = Folders.of(tmp_path, frozen, TOY_CHUNK.frames + 4)
    assert (longer.audio, longer.latents == before.latents) == (before.audio, False)


def test_batches_read_ahead_are_those_drawn(mixed, frozen):
    source = ChunkSource(mixed, "train", frozen, TOY_CHUNK, buckets=BUCKETS)
    loop = toy_loop(micro_batches=2)
    ahead = BatchesAhead(loop, lambda update, generator: source.batch(2 + update % 2, generator), 5)
    for update in (0, 1, 4):  # gone on with after a pause too
        for number, (batch, generator) in zip(micro_batches(loop, update), ahead.of_update(update), strict=True):
            expected = numbered_generator(loop.seed, number)
            again = source.batch(2 + update % 2, expected)
            assert (batch.keys, batch.starts) == (again.keys, again.starts)
            assert torch.equal(batch.latents, again.latents)
            assert torch.equal(generator.get_state(), expected.get_state())


def test_what_goes_wrong_while_reading_ahead_is_said(mixed, frozen):
    def refuse(update: int, generator: torch.Generator):
        raise UserError("the shard is damaged")

    with pytest.raises(UserError, match="the shard is damaged"):
        next(BatchesAhead(toy_loop(), refuse, 1).of_update(0))


def test_networks_beside_others_share_their_weights_and_nothing_else(frozen):
    beside = frozen.beside()
    for one, other in ((frozen.codec.vae, beside.codec.vae), (frozen.audio_encoder, beside.audio_encoder)):
        assert one is not other
        assert all(a is b for a, b in zip(one.parameters(), other.parameters(), strict=True))
    pixels = torch.zeros(1, 3, 9, 32, 32)
    assert torch.equal(frozen.codec.encode(pixels), beside.codec.encode(pixels))
    assert frozen.codec.vae.encoder.conv_in is not beside.codec.vae.encoder.conv_in


def test_sizes_that_cannot_be_trained_on_are_refused(mixed, frozen):
    with pytest.raises(UserError, match=r"32 x 32, .* --config\.buckets"):
        ChunkSource(mixed, "train", frozen, TOY_CHUNK)
    for bucket in ((36, 32), (0, 32)):
        with pytest.raises(UserError, match=r"--config\.buckets has .* multiples of the codec's 8"):
            ChunkSource(mixed, "train", frozen, TOY_CHUNK, buckets=((32, 32), bucket))


ENCODE = ["--config.chunk.frames", "9", "--config.loop.autocast", "float32"]
ENCODE += ["--config.buckets", *(str(side) for size in BUCKETS for side in size)]


def test_encode_does_it_all_beforehand_and_goes_on_where_it_was(
    mixed, frozen, tiny_pipeline_folder, tmp_path, capsys, monkeypatch
):
    folder = shutil.copytree(mixed, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    command = ["encode", "--corpus", str(folder), "--model", str(tiny_pipeline_folder), *ENCODE]
    main(command)
    said = capsys.readouterr()
    assert said.out == f"{folder / 'cache'}\n"
    assert "encoded 6 clips" in said.err
    assert "6 of 6 are there" in said.err
    lost = sorted((folder / "cache").rglob("train-toy2.safetensors"))
    contents = [path.read_bytes() for path in lost]
    assert len(lost) == 4
    for path in lost[1:]:
        path.unlink()
    kept = files_of(folder)
    main(command)
    assert "encoded 1 clips" in capsys.readouterr().err
    assert [path.read_bytes() for path in lost] == contents
    after = files_of(folder)
    assert all(after[name] == when for name, when in kept.items() if name.endswith(".safetensors"))

    def fail(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(Encoder, "latents", fail)
    for split in ("train", "test"):
        ChunkSource(folder, split, frozen, TOY_CHUNK, buckets=BUCKETS)


def test_processes_share_the_clips_and_two_at_once_do_no_harm(mixed, frozen, tiny_pipeline_folder, tmp_path):
    folder = shutil.copytree(mixed, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    command = ["encode", "--corpus", str(folder), "--model", str(tiny_pipeline_folder), *ENCODE]
    two = [FORKS.Process(target=main, args=(command,), daemon=True) for _ in range(2)]
    for process in two:
        process.start()
    for process in two:
        process.join()
    assert [process.exitcode for process in two] == [0, 0]
    one = {path.name: path.read_bytes() for path in (folder / "cache").glob("latents-*/*")}
    assert len(one) == 6
    shutil.rmtree(folder / "cache")
    shared = torchrun_forks(2, main, command)
    assert shared.returncode == 0, shared.stderr
    assert shared.stdout == f"{folder / 'cache'}\n"
    assert "encoded 6 clips" in shared.stderr
    assert {path.name: path.read_bytes() for path in (folder / "cache").glob("latents-*/*")} == one
    assert not list((folder / "cache").rglob(".*")), "nothing half-written stays"


def test_encode_refuses_what_is_too_short(toy_corpus, tiny_pipeline_folder, capsys):
    arguments = ["encode", "--corpus", str(toy_corpus), "--model", str(tiny_pipeline_folder)]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--config.chunk.frames", "25"])
    assert stop.value.code == 2
    assert "no clip has the 25 frames" in capsys.readouterr().err


def test_a_cached_view_is_the_computed_one(mixed, frozen):
    source = ChunkSource(mixed, "train", frozen, TOY_CHUNK, buckets=BUCKETS)
    encoder = Encoder(frozen, TOY_CHUNK.frames, BUCKETS)
    for clip in source.clips:
        assert source.encoded.view(clip) == encoder.view(clip)
        json.dumps(encoder.view(clip).box)  # plain numbers


def test_a_person_of_clips_of_two_shapes_is_shown_in_the_shape_of_the_chunk(tmp_path, frozen):
    """The reference stands beside the chunk cell by cell, so it is from a clip of the same bucket."""
    writer = ShardWriter(tmp_path / "people")
    clips = [shaped(0, "train"), shaped(1, "train", above=16), shaped(2, "train", above=16)]
    writer.write(0, [replace(clip, identity_id="ann") for clip in clips])
    writer.write_manifest()
    source = ChunkSource(writer.folder, "train", frozen, TOY_CHUNK, buckets=BUCKETS)
    seen = set()
    for seed in range(12):
        batch = source.batch(2, numbered_generator(seed, 0))
        seen.add(batch.size)
        assert batch.identity.latents.shape == batch.latents.shape
    assert seen == {(32, 32), (48, 32)}
