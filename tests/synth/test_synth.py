import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asymtalker.config import SynthConfig
from asymtalker.dataset.corpus import open_clip, read_manifest
from asymtalker.errors import UserError
from asymtalker.media import registry
from asymtalker.media.face_mesh import Face
from asymtalker.synth.mesh import BLENDSHAPES
from asymtalker.synth.motion import animate
from asymtalker.synth.portraits import Portrait, find_portraits, photo_identity
from asymtalker.synth.pose import Pose
from asymtalker.synth.run import Job, _cast, film, synthesize_corpus
from asymtalker.synth.speech import speak, split_of

pytest.importorskip("espeakng_loader")


@dataclass
class Drawing:
    picture: np.ndarray
    mask: np.ndarray
    lip_aperture: float
    pose: Pose


class DrawnStudio:
    """Draws an oval face with a mouth: everything but the renderer is real."""

    YAW_LIMIT = 0.8

    def __init__(self, size: int):
        self.size = size
        self.colour = np.zeros(3)

    def cast_rendered(self, seed, procedural, backdrop):
        self.colour = np.random.default_rng(seed).uniform(80, 220, 3)

    def cast_photo(self, picture, landmarks, key):
        if picture.mean() < 5:
            raise UserError(f"{key}: too dark")
        self.colour = picture.mean(axis=(0, 1))

    def frame(self, weights, pose):
        pose = replace(pose, yaw=float(np.clip(pose.yaw, -self.YAW_LIMIT, self.YAW_LIMIT)))
        y, x = np.mgrid[: self.size, : self.size] / self.size - 0.5
        opening = float(weights[BLENDSHAPES.index("jawOpen")] - weights[BLENDSHAPES.index("mouthClose")])
        face = ((x - pose.x) / 0.3) ** 2 + (y / 0.4) ** 2 < 1
        mouth = ((x - pose.x) / 0.1) ** 2 + ((y - 0.2) / (0.005 + 0.2 * max(opening, 0))) ** 2 < 1
        picture = np.full((self.size, self.size, 3), 40.0)
        picture[face] = self.colour
        picture[mouth] = (90, 20, 20)
        return Drawing(picture.astype(np.uint8), face.astype(np.uint8) * 255, max(opening, 0.0), pose)


class StoppingStudio(DrawnStudio):
    """Draws no more once a shard is finished."""

    def __init__(self, folder: Path, size: int):
        super().__init__(size)
        self.folder = folder

    def frame(self, weights, pose):
        while list(self.folder.glob("shard-*.tar")):
            time.sleep(0.01)
        return super().frame(weights, pose)


def settings(out: Path, **changes) -> SynthConfig:
    return SynthConfig(out=out, **({"clips": 6, "seconds": 0.6, "size": 32, "workers": 1, "shard_clips": 2} | changes))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    synthesize_corpus(settings(folder), DrawnStudio)
    return folder


def test_clips_keep_the_contract(corpus):
    rows = read_manifest(corpus)
    assert len(rows) == 6
    assert len({row.identity_id for row in rows}) == 6
    for row in rows:
        clip = open_clip(corpus, row.key)
        truth = clip.info["ground_truth"]
        assert (row.frames, row.height, row.width, row.fps, row.kind) == (15, 32, 32, 25.0, "rendered")
        assert clip.frames().shape == (15, 32, 32, 3)
        assert clip.mask().shape == (15, 32, 32)
        assert len(clip.audio()) == 15 * 640
        assert row.split == split_of(row.identity_id) == split_of(row.voice_id)
        assert truth["blendshapes"]["names"] == list(BLENDSHAPES)
        assert np.shape(truth["blendshapes"]["weights"]) == (15, 52)
        assert np.shape(truth["head_pose"]) == (15, 6)
        assert len(truth["lip_aperture"]) == 15
        assert truth["phonemes"][-1][2] == pytest.approx(0.6, abs=1e-3)
        assert {"text", "language"} <= truth.keys()


def test_the_ground_truth_is_the_pose_shown(corpus, tmp_path):
    poses = np.array(open_clip(corpus, "clip-0000000").info["ground_truth"]["head_pose"])
    assert np.ptp(poses[:, 1]) > 0.1
    assert np.abs(poses[:, 0]).max() <= DrawnStudio.YAW_LIMIT
    synthesize_corpus(settings(tmp_path, clips=2, head_motion=0.0), DrawnStudio)
    still = np.array(open_clip(tmp_path, "clip-0000000").info["ground_truth"]["head_pose"])
    assert np.ptp(still, axis=0).max() == 0.0


def test_voices_are_as_they_were_spoken_where_none_is_recorded(tmp_path):
    given = settings(tmp_path, clips=1)
    spoken, heard = (
        film(Job(replace(given, recorded_fraction=share), (), DrawnStudio), 0).audio for share in (0.0, 1.0)
    )
    voice = speak(np.random.default_rng(np.random.SeedSequence([given.seed, 0]).spawn(4)[1]), 0.6).samples
    assert np.array_equal(spoken, voice)
    assert not np.array_equal(heard, voice)


def test_a_held_out_portrait_is_no_backdrop_in_training(tmp_path, monkeypatch):
    pictures = [tmp_path / f"{shade}.png" for shade in range(60)]
    for shade, path in enumerate(pictures):
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)
    splits = [split_of(photo_identity(path)) for path in pictures]
    assert set(splits) == {"train", "test"}
    monkeypatch.setattr("asymtalker.synth.run.BACKDROP_SHARE", 1.0)
    seen = []
    monkeypatch.setattr(DrawnStudio, "cast_rendered", lambda self, seed, procedural, backdrop: seen.append(backdrop))
    portraits = tuple(Portrait(path.name, path, np.ones((478, 3), np.float32)) for path in pictures)
    job = Job(settings(tmp_path, photo_fraction=0.0), portraits, DrawnStudio)
    for seed in range(40):
        _, _, identity = _cast(job, DrawnStudio(8), np.random.default_rng(seed))
        assert splits[seen[-1][0, 0, 0]] == split_of(identity)


def test_workers_and_shards_do_not_change_clips(corpus, tmp_path):
    synthesize_corpus(settings(tmp_path / "two", workers=2), DrawnStudio)
    assert contents(tmp_path / "two") == contents(corpus)
    synthesize_corpus(settings(tmp_path / "one", clips=3, shard_clips=3), DrawnStudio)
    for row in read_manifest(tmp_path / "one"):
        ours, theirs = open_clip(tmp_path / "one", row.key), open_clip(corpus, row.key)
        np.testing.assert_array_equal(ours.frames(), theirs.frames())
        np.testing.assert_array_equal(ours.audio(), theirs.audio())
    synthesize_corpus(settings(tmp_path / "seed", clips=2, seed=1), DrawnStudio)
    other = open_clip(tmp_path / "seed", "clip-0000000")
    assert not np.array_equal(other.audio(), open_clip(corpus, "clip-0000000").audio())


def test_a_corpus_of_one_split_has_its_heads_and_voices_alone(tmp_path):
    for split in ("test", "train"):
        rows = synthesize_corpus(settings(tmp_path / split, split=split), DrawnStudio)
        assert len({row.identity_id for row in rows}) == 6
        assert {row.split for row in rows} == {split}
        assert {split_of(name) for row in rows for name in (row.identity_id, row.voice_id)} == {split}
    synthesize_corpus(settings(tmp_path / "two", split="test", workers=2), DrawnStudio)
    assert contents(tmp_path / "two") == contents(tmp_path / "test")


def test_portraits_of_one_split_alone_are_cast(tmp_path):
    paths = [tmp_path / f"{shade}.png" for shade in range(60)]
    for shade, path in enumerate(paths):
        Image.new("RGB", (8, 8), (shade + 60, 0, 0)).save(path)
    portraits = [Portrait(path.name, path, np.ones((478, 3), np.float32)) for path in paths]
    held_out = {path.name for path in paths if split_of(photo_identity(path)) == "test"}
    wanted = settings(tmp_path, photo_fraction=1.0, split="test")
    job = Job(wanted, tuple(portraits), DrawnStudio)
    seen = {_cast(job, DrawnStudio(8), np.random.default_rng(seed))[1] for seed in range(40)}
    assert seen == held_out
    others = tuple(portrait for portrait in portraits if portrait.name not in held_out)
    with pytest.raises(UserError, match=r"none of the \d+ portraits is of the split test"):
        _cast(Job(wanted, others, DrawnStudio), DrawnStudio(8), np.random.default_rng(0))


def test_long_motion_is_worked_out_in_blocks(monkeypatch):
    speech = speak(np.random.default_rng(2), 30.0)
    together = animate(speech, np.random.default_rng(3), 750)
    monkeypatch.setattr("asymtalker.synth.motion.MOUTH_BLOCK", 100)
    monkeypatch.setattr("asymtalker.synth.motion.MOUTH_REACH", 5.0)
    blocks = animate(speech, np.random.default_rng(3), 750)
    np.testing.assert_allclose(blocks.blendshapes, together.blendshapes, atol=1e-5)
    np.testing.assert_array_equal(blocks.poses, together.poses)


def test_frames_are_drawn_when_they_are_asked_for(tmp_path):
    drawn = []
    clip = film(Job(settings(tmp_path), (), DrawnStudio), 0, lambda: drawn.append(1))
    pictures, masks = iter(clip.frames), iter(clip.mask)
    assert not drawn
    for count in range(1, 16):
        assert next(pictures).shape == (32, 32, 3)
        assert next(masks).shape == (32, 32)
        assert len(drawn) == count - 1  # it counts once the next one is asked for
    assert next(pictures, None) is None
    assert len(drawn) == 15
    assert len(clip.ground_truth()["lip_aperture"]) == 15


def run_for_subprocess(folder: str):
    synthesize_corpus(settings(Path(folder), workers=2), partial(StoppingStudio, Path(folder)))


def test_killed_run_resumes_to_the_same_corpus(corpus, tmp_path):
    folder = tmp_path / "killed"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += f"import test_synth\nif __name__ == '__main__': test_synth.run_for_subprocess({str(folder)!r})"
    script = tmp_path / "run.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    while not list(folder.glob("shard-*.tar")) and process.poll() is None:
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {name: data for name, data in contents(folder).items() if name.startswith("shard-")}
    assert 1 <= len(finished) < 3
    for pid in workers:  # they must not go on writing
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            time.sleep(0.05)
    times = {name: os.stat(folder / name).st_mtime_ns for name in finished}
    synthesize_corpus(settings(folder, workers=1), DrawnStudio)
    assert contents(folder) == contents(corpus)
    assert {name: os.stat(folder / name).st_mtime_ns for name in finished} == times


def test_a_corpus_from_before_a_setting_came_goes_on(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    path = tmp_path / "corpus" / "synth.json"
    known = json.loads(path.read_text())
    assert known.pop("recorded_fraction") == 0.75
    del known["split"]
    path.write_text(json.dumps(known))
    before = contents(tmp_path / "corpus")
    synthesize_corpus(settings(tmp_path / "corpus"), DrawnStudio)
    assert contents(tmp_path / "corpus") == before
    with pytest.raises(UserError, match=r"recorded_fraction: 0\.75 -> 0\.5"):
        synthesize_corpus(settings(tmp_path / "corpus", recorded_fraction=0.5), DrawnStudio)


def test_another_corpus_in_the_folder_is_refused(corpus):
    with pytest.raises(UserError, match=r"seconds: 0\.6 -> 0\.8"):
        synthesize_corpus(replace(settings(corpus), seconds=0.8), DrawnStudio)
    before = contents(corpus)
    synthesize_corpus(settings(corpus, workers=2), DrawnStudio)
    assert contents(corpus) == before


@pytest.mark.parametrize(
    "change",
    [
        *({"clips": 0}, {"seconds": 0.01}, {"size": 33}, {"workers": 0}, {"seed": -1}),
        *({"photo_fraction": 1.5}, {"pico_share": 1.5}, {"head_motion": -1.0}, {"head_motion": float("nan")}),
        {"recorded_fraction": -0.1},
    ],
)
def test_bad_settings_are_named(tmp_path, change):
    with pytest.raises(UserError, match=next(iter(change))):
        synthesize_corpus(settings(tmp_path, **change), DrawnStudio)


@pytest.fixture
def portraits(tmp_path, monkeypatch):
    """Pictures, of which the mesh finds a face in all but one."""
    folder = tmp_path / "faces" / "set"
    (folder / "sub").mkdir(parents=True)
    names = ["sub/a.jpg", "b.png", "dark.jpg", "test.jpg", "faceless.jpg"]
    for shade, name in zip((200, 120, 0, 80, 90), names, strict=True):
        Image.new("RGB", (40, 30), (shade, shade, shade)).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "index.tsv").write_text("file\tsame_as_test_portrait\nb.png\t\ntest.jpg\tother.jpg\n")
    face = Face(np.ones((478, 3), np.float32), 1.0, np.zeros(52, np.float32))
    monkeypatch.setattr(
        "asymtalker.synth.portraits.find_face", lambda picture: None if abs(int(picture[0, 0, 0]) - 90) < 3 else face
    )
    return folder


def test_portraits_are_those_with_a_face_that_are_not_test_portraits(portraits, capsys):
    assert [portrait.name for portrait in find_portraits(portraits)] == ["b.png", "dark.jpg", "sub/a.jpg"]
    said = capsys.readouterr().err
    assert "reading the faces of 5 pictures" in said
    assert "2 of 6 pictures" in said
    assert "test portraits" in said


def test_faces_are_read_once(portraits, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "out" / "portraits.npz"
    first = find_portraits(portraits, kept, workers=2)
    shutil.copy(portraits / "b.png", portraits / "copy.png")
    monkeypatch.setattr("asymtalker.synth.portraits.find_face", lambda picture: pytest.fail("read again"))
    again = find_portraits(portraits, kept)
    assert [portrait.name for portrait in again] == ["b.png", "copy.png", "dark.jpg", "sub/a.jpg"]
    assert np.array_equal(first[0].landmarks, again[0].landmarks)
    assert capsys.readouterr().err.count("reading the faces") == 1
    kept.write_bytes(b"damaged")
    monkeypatch.undo()
    with pytest.raises(UserError, match="shows a face"):
        find_portraits(portraits, kept)


def test_photo_heads_come_from_the_portraits(portraits, tmp_path):
    rows = synthesize_corpus(
        settings(tmp_path / "out", clips=6, portraits=portraits, photo_fraction=1.0, seconds=0.2), DrawnStudio
    )
    assert {row.kind for row in rows} == {"photo"}
    assert {row.source_id for row in rows} == {"b.png", "sub/a.jpg"}  # the dark one can't be fitted
    assert len({row.identity_id for row in rows}) == 2


def test_a_portrait_that_cannot_be_read_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("asymtalker.synth.run.BACKDROP_SHARE", 1.0)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "whole.png")
    monkeypatch.setattr("asymtalker.synth.run.split_of", lambda identity: "train")
    seen = []
    monkeypatch.setattr(DrawnStudio, "cast_rendered", lambda self, seed, procedural, backdrop: seen.append(backdrop))
    portraits = tuple(
        Portrait(path.name, path, np.ones((478, 3), np.float32)) for path in sorted(tmp_path.glob("*.png"))
    )
    for fraction, kind in ((0.0, "rendered"), (1.0, "photo")):
        job = Job(settings(tmp_path, photo_fraction=fraction), portraits, DrawnStudio)
        for seed in range(6):
            assert _cast(job, DrawnStudio(8), np.random.default_rng(seed))[0] == kind
    assert all(backdrop[0, 0, 0] == 200 for backdrop in seen)


def test_a_folder_without_a_finished_shard_takes_other_settings(corpus, tmp_path):
    with pytest.raises(UserError, match="no folder of portraits"):
        synthesize_corpus(settings(tmp_path / "out", portraits=tmp_path / "nowhere"), DrawnStudio)
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    shutil.copy(corpus / "synth.json", tmp_path / "out")
    rows = synthesize_corpus(settings(tmp_path / "out", clips=1, seed=9), DrawnStudio)
    assert len(rows) == 1


class InterruptedStudio(DrawnStudio):
    def frame(self, weights, pose):
        raise KeyboardInterrupt


def test_a_stopped_run_says_how_to_go_on_and_leaves_nothing_half(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        synthesize_corpus(settings(tmp_path), InterruptedStudio)
    assert "the same command goes on" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["synth.json"]


def test_unusable_portraits_are_refused(portraits, tmp_path):
    with pytest.raises(UserError, match="no folder of portraits"):
        find_portraits(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    shutil.copy(portraits / "faceless.jpg", tmp_path / "empty")
    with pytest.raises(UserError, match="none of the 1 pictures"):
        find_portraits(tmp_path / "empty")


def test_the_registered_portraits_serve_by_name(tmp_path, monkeypatch):
    cached = tmp_path / "cache" / "cc0_portraits" / "female" / "512"
    cached.mkdir(parents=True)
    Image.new("RGB", (64, 64), (180, 120, 100)).save(cached / "0.jpg")
    table = tmp_path / "table.tsv"
    table.write_text(f"path\tsize\tsha256\nfemale/512/0.jpg\t{(cached / '0.jpg').stat().st_size}\t-\n")
    monkeypatch.setenv("ASYMTALKER_CACHE", str(tmp_path / "cache"))
    entry = replace(registry.REGISTRY["cc0_portraits"], listed=table)
    monkeypatch.setitem(registry.REGISTRY, "cc0_portraits", entry)
    face = Face(np.ones((478, 3), np.float32), 1.0, np.zeros(52, np.float32))
    monkeypatch.setattr("asymtalker.synth.portraits.find_face", lambda picture: face)
    rows = synthesize_corpus(
        settings(tmp_path / "out", clips=1, portraits=Path("cc0"), photo_fraction=1.0, seconds=0.2), DrawnStudio
    )
    assert [row.source_id for row in rows] == ["female/512/0.jpg"]
