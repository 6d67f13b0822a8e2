"""A corpus of real videos: framed faces, people kept apart, what can't be used said and left out."""

import shutil

import numpy as np
import pytest

from asymtalker.curate.run import Curate, curate, held_out_people
from asymtalker.dataset.corpus import open_clip, read_manifest
from asymtalker.errors import UserError
from asymtalker.media.video import write_video
from drawn_face import background


@pytest.fixture
def videos(drawn_videos, tmp_path):
    """Two videos of one person and one of another."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for seed in range(3):
        shutil.copy(drawn_videos / f"drawn{seed}.mp4", folder)
    (folder / "index.tsv").write_text("file\tspeaker\ndrawn0.mp4\tanna\ndrawn1.mp4\tanna\ndrawn2.mp4\tbert\n")
    return folder


def test_videos_become_clips_of_people(videos, tmp_path):
    curate(Curate(input=videos, output=tmp_path / "corpus", size=128))
    rows = read_manifest(tmp_path / "corpus")
    assert [(row.key, row.identity_id, row.split, row.kind) for row in rows] == [
        ("drawn0", "real-anna", "train", "real"),
        ("drawn1", "real-anna", "train", "real"),
        ("drawn2", "real-bert", "test", "real"),
    ]
    clip = open_clip(tmp_path / "corpus", "drawn1")
    frames, masks = clip.frames(), clip.mask()
    assert len(frames) == 60
    assert frames.shape[1] == frames.shape[2] <= 128
    covered = (masks > 127).mean((1, 2))
    assert (covered > 0.1).all(), "the face fills its part of every frame"
    assert (covered < 0.6).all()
    assert len(clip.audio()) == 60 * 640


def test_what_cannot_be_used_is_said_and_left_out(videos, tmp_path, capsys):
    write_video(videos / "empty.mp4", np.stack([background(160, 160)] * 30), np.zeros(19_200, np.float32))
    (videos / "broken.mp4").write_bytes(b"no video")
    curate(Curate(input=videos, output=tmp_path / "corpus"))
    assert len(read_manifest(tmp_path / "corpus")) == 3
    said = capsys.readouterr().err
    assert "empty.mp4 is left out: no face was found in it." in said
    assert "broken.mp4 is left out" in said


def test_a_stopped_run_goes_on(videos, tmp_path, monkeypatch):
    monkeypatch.setattr("asymtalker.curate.run.SHARD_CLIPS", 1)
    config = Curate(input=videos, output=tmp_path / "corpus")
    curate(config)
    (tmp_path / "corpus" / "shard-100001.tar").unlink()
    kept = (tmp_path / "corpus" / "shard-100000.tar").stat().st_mtime_ns
    curate(config)
    assert len(read_manifest(tmp_path / "corpus")) == 3
    assert (tmp_path / "corpus" / "shard-100000.tar").stat().st_mtime_ns == kept


def test_a_folder_without_usable_videos_is_an_error(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        curate(Curate(input=tmp_path / "nowhere", output=tmp_path / "corpus"))
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match="None of the 0 videos"):
        curate(Curate(input=tmp_path / "videos", output=tmp_path / "corpus"))


def test_those_of_fewest_videos_are_held_out():
    assert held_out_people(["a"] * 5 + ["b"] * 2 + ["c"]) == {"b", "c"}
    people = [str(k) for k in range(40) for _ in range(k + 1)]
    assert held_out_people(people) == {"0", "1", "2", "3"}


@pytest.mark.parametrize("frames", [2, -2])
def test_sound_that_comes_late_or_early_is_put_right(videos, tmp_path, frames):
    sounds = {}
    for late in (0, frames):
        curate(Curate(input=videos, output=tmp_path / str(late), size=128, sound_late=late / 25))
        sounds[late] = open_clip(tmp_path / str(late), "drawn0").audio()
    moved, shift = sounds[frames], 640 * frames
    assert len(moved) == len(sounds[0])
    first, second = (moved[:-shift], sounds[0][shift:]) if frames > 0 else (moved[-shift:], sounds[0][:shift])
    assert np.array_equal(first, second)
