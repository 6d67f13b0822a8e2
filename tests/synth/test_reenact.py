"""Photographs moved by real clips: what moves whom, how clips are joined, and that a stopped run goes on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from asymtalker.dataset.corpus import ShardWriter, open_clip, read_manifest
from asymtalker.errors import UserError
from asymtalker.media.face_readings import lip_aperture
from asymtalker.models.motion.codec import read_points
from asymtalker.synth import reenact as module
from asymtalker.synth.portraits import photo_identity
from asymtalker.synth.reenact import FADE, Reenact, joined, reenact
from drawn_face import drawn_clip
from moving_face import mesh_points, motion_network, textured_face


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A codec, a corpus of two real clips of one person, and photographs."""
    folder = tmp_path_factory.mktemp("reenact")
    face = textured_face()
    motion_network(mesh_points(face)).save_pretrained(folder / "model" / "vae")
    (folder / "photos").mkdir()
    for index in range(3):
        Image.fromarray(np.roll(face, 8 * index, 1)).save(folder / "photos" / f"{index}.png")
    writer = ShardWriter(folder / "corpus")
    clips = [replace(drawn_clip(seed, 30), split="train", kind="real", identity_id="anna") for seed in range(2)]
    writer.write(0, [*clips, replace(drawn_clip(2, 30), split="train", kind="photo")])
    writer.write_manifest()
    return folder


@pytest.fixture(autouse=True)
def usable(monkeypatch):
    """Drawn faces: all of the training split, their lips and lids however they are."""
    monkeypatch.setattr(module, "split_of", lambda _: "train")
    monkeypatch.setattr(module, "LIPS_CLOSED", 1.0)
    monkeypatch.setattr(module, "LIDS_CLOSED", 0.0)


def settings(given, output, **changes) -> Reenact:
    values = {"clips": 2, "seconds": 2.0, "size": 128} | changes
    where = {"corpus": given / "corpus", "portraits": given / "photos", "model": given / "model"}
    return Reenact(output=output, **(where | values))


def test_photographs_move_and_sound_as_the_people_of_the_clips(given, tmp_path):
    reenact(settings(given, tmp_path / "out"))
    rows = read_manifest(tmp_path / "out")
    assert [(row.key, row.kind, row.voice_id) for row in rows] == [
        (f"reenacted-{number:06d}", "reenacted", "anna") for number in range(2)
    ]
    assert all(row.identity_id.startswith("photo-") for row in rows)
    clip = open_clip(tmp_path / "out", rows[0].key)
    frames = clip.frames()
    assert frames.shape == (50, 128, 128, 3)
    assert len(clip.audio()) == 50 * 640
    assert lip_aperture(read_points(frames)).std() > 0.005, "the lips move"


def test_test_clips_show_people_and_pictures_of_no_training_clip(given, tmp_path, monkeypatch):
    photos = sorted((given / "photos").iterdir())
    held_out = photo_identity(photos[0])
    monkeypatch.setattr(module, "split_of", lambda identity: "test" if identity == held_out else "train")
    writer = ShardWriter(tmp_path / "corpus")
    people = {"anna": "train", "berta": "test"}
    writer.write(
        0,
        [
            replace(drawn_clip(0, 30), key=f"clip-{name}", split=split, kind="real", identity_id=name)
            for name, split in people.items()
        ],
    )
    writer.write_manifest()
    reenact(settings(given, tmp_path / "out", corpus=tmp_path / "corpus", clips=10, seconds=0.4))
    rows = read_manifest(tmp_path / "out")
    assert [row.split for row in rows] == ["train"] * 9 + ["test"]
    for row in rows:
        assert people[row.voice_id] == row.split
        assert (row.identity_id == held_out) == (row.split == "test")


def test_what_moves_a_photograph_is_the_change_from_closed_lips_with_its_sound(given):
    """Frame k of what is read of a clip has the sound of frame k."""
    clip = next(clip for clip in module.read_clips(given / "corpus") if clip.row.kind == "real")
    network = module.load_codec_network(given / "model" / "vae")
    film = module._Film(settings(given, given), network, [clip], module._portraits(settings(given, given)))
    motion, sound = film._read(clip)
    rest = int(lip_aperture(read_points(clip.frames())).argmin())
    assert not motion[rest].any()
    assert np.array_equal(sound[: len(clip.audio())], clip.audio()[: len(sound)])


def test_a_stopped_run_goes_on(given, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_CLIPS", 1)
    config = settings(given, tmp_path / "out", seconds=0.6)
    reenact(config)
    first, second = (tmp_path / "out" / f"shard-20000{index}.tar" for index in range(2))
    made, kept = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    reenact(config)
    assert second.read_bytes() == made
    assert first.stat().st_mtime_ns == kept


def test_clips_are_joined_without_a_step():
    first, second = torch.zeros(30, 2), torch.ones(30, 2)
    sound, heard = np.full(30 * 640, -1, np.float32), np.full(30 * 640, 1, np.float32)
    motion, mixed = joined(first, sound, second, heard)
    assert len(motion) == 60 - FADE
    assert len(mixed) == len(motion) * 640
    assert (motion[: 30 - FADE] == 0).all()
    assert (motion[30:] == 1).all()
    assert motion.diff(dim=0).max() < 0.2
    assert np.abs(np.diff(mixed)).max() < 0.01
    assert (mixed[: (30 - FADE) * 640] == -1).all()
    assert (mixed[30 * 640 :] == 1).all()


def test_what_cannot_be_used_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LIPS_CLOSED", 0.0)
    with pytest.raises(UserError, match="no photograph there has an upright head, closed lips"):
        reenact(settings(given, tmp_path / "out"))
    monkeypatch.setattr(module, "load_codec_network", lambda _: SimpleNamespace())
    with pytest.raises(UserError, match="its codec makes pixels"):
        reenact(settings(given, tmp_path / "out"))
