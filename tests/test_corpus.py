import json
import resource
from dataclasses import replace

import numpy as np
import pytest

from asymtalker.corpus import NewClip, ShardWriter, open_clip, read_manifest, shard_name
from asymtalker.errors import UserError


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


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    writer = ShardWriter(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"Cannot write .*shard-000000\.tar \(the disk is full\)"):
            writer.write(0, [make_clip("00", frames=5)])
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
