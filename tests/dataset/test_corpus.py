import json
import resource
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from asymtalker.dataset.corpus import NewClip, ShardWriter, open_clip, read_manifest, shard_name
from asymtalker.errors import UserError
from drawn_face import background, draw_face


def make_clip(key: str, frames: int = 60, size: int = 64) -> NewClip:
    rng = np.random.default_rng(int(key))
    y, x = np.mgrid[:size, :size]
    pictures = np.stack(
        [np.stack([x * 3, y * 3, (x + 2 * k) * 2 % 256], axis=-1).clip(0, 255) for k in range(frames)]
    ).astype(np.uint8)
    mask = np.stack([((x - 32) ** 2 + (y - 30 - k / 8) ** 2 < 300) * 255 for k in range(frames)]).astype(np.uint8)
    return NewClip(
        key=key,
        split="train",
        source_id="drawn",
        identity_id=f"identity-{key}",
        voice_id="voice",
        kind="rendered",
        frames=pictures,
        mask=mask,
        audio=rng.uniform(-1, 1, 640 * frames - 7).astype(np.float32),
        ground_truth={"text": "né", "lip_aperture": [0.0] * frames},
        scores={"sync": 0.5},
    )


@pytest.fixture
def corpus(tmp_path):
    writer = ShardWriter(tmp_path / "corpus")
    writer.write(0, (make_clip(key) for key in ("00", "01")))
    writer.write(1, [make_clip("02", frames=5)])
    writer.write_manifest()
    return tmp_path / "corpus"


def test_round_trip(corpus):
    rows = read_manifest(corpus)
    assert [row.key for row in rows] == ["00", "01", "02"]
    assert [row.shard for row in rows] == [shard_name(0), shard_name(0), shard_name(1)]
    for row in rows:
        source = make_clip(row.key, row.frames)
        clip = open_clip(corpus, row.key)
        assert np.abs(clip.frames().astype(int) - source.frames).mean() < 2
        assert np.abs(clip.mask().astype(int) - source.mask).mean() < 4
        assert ((clip.mask() > 127) == (source.mask > 127)).mean() > 0.995
        assert np.abs(clip.audio() - source.audio).max() < 1e-4
        assert clip.info["ground_truth"] == source.ground_truth
        assert json.loads(row.scores) == {"sync": 0.5}
        assert {name: clip.info[name] for name in vars(row)} == vars(row)


def test_masks_that_are_left_out_are_the_face_meshs(tmp_path):
    writer = ShardWriter(tmp_path)
    face = draw_face(background(160, 160), (80, 80), 80)
    frames = np.stack([face, face, background(160, 160), np.roll(face, 20, axis=1)])
    writer.write(0, [replace(make_clip("00", frames=4), frames=frames, mask=None)])
    writer.write_manifest()
    clip = open_clip(tmp_path, "00")
    masks = clip.mask()
    assert masks.shape == (4, 160, 160)
    assert masks[0, 80, 80] == 255
    assert [0.1 < (mask > 127).mean() < 0.4 for mask in masks] == [True, True, False, True]
    assert not masks[2].any()
    columns = [np.nonzero(mask)[1].mean() for mask in (masks[0], masks[3])]
    assert columns[1] - columns[0] == pytest.approx(20, abs=2)
    np.testing.assert_array_equal(clip.mask(3, 4), masks[3:])


def test_seeking_is_exact(corpus):
    clip = open_clip(corpus, "01")
    whole, masks = clip.frames(), clip.mask()
    for start, stop in ((0, 1), (1, 3), (24, 26), (25, 26), (26, 27), (49, 60), (59, 60)):
        np.testing.assert_array_equal(clip.frames(start, stop), whole[start:stop])
        np.testing.assert_array_equal(clip.mask(start, stop), masks[start:stop])
    with pytest.raises(ValueError, match="frames 3 to 61"):
        clip.frames(3, 61)


def test_same_clips_give_same_bytes(corpus, tmp_path):
    writer = ShardWriter(tmp_path / "again")
    assert not writer.has(0)
    writer.write(1, [make_clip("02", frames=5)])
    writer.write(0, [make_clip("00"), make_clip("01")])
    writer.write_manifest()
    assert writer.has(0)
    for name in (shard_name(0), shard_name(1), "manifest.parquet"):
        assert (corpus / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.parametrize("in_memory", [1 << 20, 1000])
def test_pictures_drawn_one_by_one_give_the_same_bytes(corpus, tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr("asymtalker.dataset.corpus.VIDEO_IN_MEMORY", in_memory)
    taken = []

    def drawn(clip: NewClip) -> NewClip:
        frames = (taken.append(("frame", index)) or frame for index, frame in enumerate(clip.frames))
        mask = (taken.append(("mask", index)) or mask for index, mask in enumerate(clip.mask))
        return replace(clip, frames=frames, mask=mask, ground_truth=lambda: (clip.ground_truth or {}) | {})

    ShardWriter(tmp_path / "drawn").write(0, (drawn(make_clip(key)) for key in ("00", "01")))
    assert (tmp_path / "drawn" / shard_name(0)).read_bytes() == (corpus / shard_name(0)).read_bytes()
    assert taken[:4] == [("frame", 0), ("mask", 0), ("frame", 1), ("mask", 1)]
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == [shard_name(0)]


def test_a_long_clip_is_written_and_read_in_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("asymtalker.dataset.corpus.VIDEO_IN_MEMORY", 1 << 14)
    count, size = 1500, 128
    clip = replace(
        make_clip("00", frames=1),
        frames=(np.full((size, size, 3), k % 200, np.uint8) for k in range(count)),
        mask=(np.zeros((size, size), np.uint8) for _ in range(count)),
        audio=np.zeros(640 * count, np.float32),
    )
    tracemalloc.start()
    writer = ShardWriter(tmp_path)
    writer.write(0, [clip])
    writer.write_manifest()
    long = open_clip(tmp_path, "00")
    for start in range(0, count, 100):
        block = long.frames(start, start + 100)
        assert np.abs(block[:, 0, 0, 0].astype(int) - np.arange(start, start + 100) % 200).max() < 4
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # its pictures are 74 MB, a block and its list 10 MB


def test_interrupted_shard_does_not_appear(tmp_path):
    def clips():
        yield make_clip("00", frames=5)
        raise KeyboardInterrupt

    writer = ShardWriter(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        writer.write(0, clips())
    assert not writer.has(0)
    assert list(tmp_path.iterdir()) == []
    assert writer.write_manifest() == []


@pytest.mark.parametrize("in_memory", [1 << 20, 1000])
def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, in_memory):
    monkeypatch.setattr("asymtalker.dataset.corpus.VIDEO_IN_MEMORY", in_memory)
    writer = ShardWriter(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"Cannot write .*shard-000000\.tar \(the disk is full\)"):
            writer.write(0, [make_clip("00", frames=50)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_cleared(corpus):
    left = corpus / ".shard-000007.tar.123.part"
    left.write_bytes(b"half a shard")
    ShardWriter(corpus).clear()
    assert not left.exists()
    assert len(read_manifest(corpus)) == 3


def test_bad_corpora_are_named(corpus, tmp_path):
    with pytest.raises(UserError, match=r"not a corpus.*manifest\.parquet"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match="no clip 'nobody'"):
        open_clip(corpus, "nobody")
    shard = corpus / shard_name(0)
    whole = shard.read_bytes()
    for length in (len(whole) // 2, 700, 100):
        shard.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"shard-000000\.tar"):
            open_clip(corpus, "01").frames()
    shard.unlink()
    with pytest.raises(UserError, match="lost its shard"):
        open_clip(corpus, "00")
    (corpus / "manifest.parquet").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="no manifest"):
        read_manifest(corpus)


def test_clips_that_break_the_contract_are_refused(tmp_path):
    clip = make_clip("00", frames=5)
    for change in ({"audio": clip.audio[:640]}, {"mask": clip.mask[:-1]}, {"key": "a.b"}):
        with pytest.raises(ValueError, match=r"samples|mask|key"):
            ShardWriter(tmp_path).write(0, [replace(clip, **change)])
