"""The whole stage: reports, resume, bad clips, generation, and distortions that move the metric they should."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from asymtalker.config import EvaluateConfig
from asymtalker.dataset.corpus import ShardWriter
from asymtalker.errors import UserError
from asymtalker.evaluate import run
from asymtalker.evaluate.clips import FileClip, open_method, open_reference
from asymtalker.evaluate.measure import measurer
from asymtalker.evaluate.measure.networks import LOADERS, Networks, load_networks
from asymtalker.evaluate.run import evaluate
from asymtalker.media.video import read_video, write_video
from drawn_face import background, drawn_clip
from real_data import DATA


@pytest.fixture(autouse=True)
def _no_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("ASYMTALKER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def measure_anew(tmp_path, drawn_corpus):
    """Run the stage against the drawn corpus; gives ``report.json``."""

    def run_stage(**settings) -> dict:
        defaults = {
            "out": tmp_path / "report",
            "reference": drawn_corpus,
            "offline": True,
            "device": "cpu",
        }
        evaluate(EvaluateConfig(**(defaults | settings)))
        out = settings.get("out", tmp_path / "report")
        return json.loads((out / "report.json").read_text())

    return run_stage


@pytest.fixture(scope="module")
def features_of_reference(tmp_path_factory) -> Path:
    """What the first test that measures the corpus leaves of it to the others."""
    return tmp_path_factory.mktemp("features") / "reference"


@pytest.fixture
def measure(measure_anew, features_of_reference, tmp_path):
    """The same, but the corpus is measured once for all tests; what does not fit it is measured anew."""
    kept = tmp_path / "report" / "features" / "reference"
    if features_of_reference.exists():
        shutil.copytree(features_of_reference, kept)
    yield measure_anew
    if kept.exists() and not features_of_reference.exists():
        shutil.copytree(kept, features_of_reference)


def distorted(drawn_videos, folder, change):
    """The drawn videos with ``change(frames, samples)`` applied."""
    folder.mkdir()
    for path in sorted(drawn_videos.glob("*.mp4")):
        write_video(folder / path.name, *change(*read_video(path)))
    return folder


def value(report, method, metric):
    return report["methods"][method]["values"][metric]["value"]


def test_real_against_real_is_no_distance_and_everything_else_is_listed(measure_anew, drawn_videos, capsys):
    report = measure_anew(generated=drawn_videos)
    method = drawn_videos.resolve().name
    assert list(report["methods"]) == ["reference", method]
    # the files went through one more compression than the corpus
    assert value(report, method, "fd_face") < 0.2  # what is drawn reads otherwise at once
    assert value(report, method, "head_motion") == pytest.approx(value(report, "reference", "head_motion"), rel=0.2)
    assert report["methods"][method]["failed"] == {}
    assert set(report["not_measured"]) >= {"fid", "fvd", "sync_c", "sync_d", "identity"}
    assert "--offline" in report["not_measured"]["fid"]
    measured = set(report["methods"][method]["values"])
    assert measured | set(report["not_measured"]) == set(report["metrics"])
    assert report["reference"]["clips"] == 3
    assert report["cost"]["video_minutes"] == pytest.approx(2 * 3 * 60 / 25 / 60)
    assert capsys.readouterr().out.endswith("index.html\n")


def test_what_was_measured_is_kept_until_the_clip_changes(measure_anew, drawn_videos, tmp_path, monkeypatch):
    videos = tmp_path / "videos"
    shutil.copytree(drawn_videos, videos)
    first = measure_anew(generated=videos)
    seen = []
    original = measurer.measure_clip
    monkeypatch.setattr(measurer, "measure_clip", lambda clip, *rest: seen.append(clip.name) or original(clip, *rest))
    again = measure_anew(generated=videos)
    assert seen == []
    assert again["cost"]["video_minutes"] == 0
    for method, told in again["methods"].items():
        assert told["values"] == first["methods"][method]["values"]
    shutil.copy(drawn_videos / "drawn0.mp4", videos / "drawn2.mp4")
    changed = measure_anew(generated=videos)
    assert seen == ["drawn2"]
    assert changed["methods"]["videos"]["clips"]["drawn0"] == again["methods"]["videos"]["clips"]["drawn0"]
    assert changed["methods"]["videos"]["clips"]["drawn2"] != again["methods"]["videos"]["clips"]["drawn2"]


@pytest.mark.slow
def test_distortions_move_their_metric(measure, drawn_videos, tmp_path):
    def blurred(frames, samples):
        spread = np.stack([np.roll(frames, (dy, dx), (1, 2)) for dy in range(-4, 5, 2) for dx in range(-4, 5, 2)])
        return spread.mean(0).astype(np.uint8), samples

    def tinted(frames, samples):
        late = frames.astype(int)
        late[25:] += np.array([25, 0, -25])
        return late.clip(0, 255).astype(np.uint8), samples

    def still(frames, samples):
        return np.repeat(frames[:1], len(frames), 0), samples

    folders = {
        change.__name__: distorted(drawn_videos, tmp_path / change.__name__, change)
        for change in (blurred, tinted, still)
    }
    report = measure(compare=(f"real={drawn_videos}", *(f"{name}={folder}" for name, folder in folders.items())))
    assert value(report, "blurred", "sharpness") < 0.5 * value(report, "real", "sharpness")
    assert value(report, "still", "sharpness") == pytest.approx(value(report, "real", "sharpness"), rel=0.1)
    assert value(report, "still", "fd_face") > 3 * value(report, "real", "fd_face")
    assert value(report, "tinted", "colour_drift") > 5 + value(report, "real", "colour_drift")
    assert abs(value(report, "blurred", "colour_drift") - value(report, "real", "colour_drift")) < 0.5
    assert value(report, "still", "head_motion") == pytest.approx(0, abs=0.15)  # as far as compression moves points
    assert value(report, "real", "head_motion") > 3 * value(report, "still", "head_motion")
    assert value(report, "real", "head_motion_ratio") == pytest.approx(1, abs=0.2)
    assert value(report, "still", "head_motion_ratio") < 0.3


def test_one_bad_clip_never_ends_the_run(measure, drawn_videos, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(drawn_videos, videos)
    whole = (videos / "drawn0.mp4").read_bytes()
    (videos / "drawn0.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(videos / "drawn1.mp4", np.stack([background(160, 160)] * 60))
    report = measure(generated=videos)["methods"]["videos"]
    assert set(report["failed"]) == {"drawn0"}
    assert "drawn0.mp4" in report["failed"]["drawn0"]
    assert report["clips"]["drawn1"]["notes"][0] == "no sound"
    assert "no face found" in report["clips"]["drawn1"]["notes"][1]
    assert report["values"]["head_motion"]["samples"] == 1
    assert report["values"]["colour_drift"]["samples"] == 2


def test_a_method_of_which_nothing_could_be_measured_is_an_error_after_the_report(measure, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "drawn0.mp4").write_text("no video")
    with pytest.raises(UserError, match="No clip of broken could be measured"):
        measure(generated=tmp_path / "broken")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(report["methods"]["broken"]["failed"]) == {"drawn0"}


def test_another_shape_than_the_references_is_said(measure, drawn_videos, tmp_path):
    wide = distorted(drawn_videos, tmp_path / "wide", lambda frames, samples: (frames[:, 20:110], samples))
    warnings = [warning["text"] for warning in measure(generated=wide)["methods"]["wide"]["warnings"]]
    assert any("of another shape than the reference (3)" in text for text in warnings)


@pytest.mark.slow
def test_clips_are_generated_timed_and_kept(measure, tiny_pipeline_folder, tmp_path, monkeypatch):
    index = tmp_path / "toy" / "model_index.json"
    shutil.copytree(tiny_pipeline_folder, tmp_path / "toy")
    settings = {"sample_size": 160, "chunk_frames": 9, "continuity_frames": 5, "num_inference_steps": 1, "name": "toy"}
    index.write_text(json.dumps(json.loads(index.read_text()) | settings))
    report = measure(model=str(tmp_path / "toy"), clips=2)
    made = tmp_path / "report" / "videos" / "toy"
    assert sorted(path.name for path in made.iterdir()) == ["drawn0.mp4", "drawn1.mp4", "method.json"]
    about = report["methods"]["toy"]["about"]
    assert about["chunk"] == {"first": 9, "step": 4}
    assert set(about["seconds_per_video"]) == {"drawn0", "drawn1"}
    assert value(report, "toy", "fps") == pytest.approx(120 / sum(about["seconds_per_video"].values()), rel=1e-3)
    assert value(report, "toy", "first_chunk") > 0
    assert value(report, "toy", "seam_motion") > 0
    assert report["methods"]["toy"]["clips"]["drawn0"]["seconds"] == 2.4
    (made / "drawn1.mp4").unlink()
    kept = (made / "drawn0.mp4").stat().st_mtime_ns
    measure(model=str(tmp_path / "toy"), clips=2)
    assert (made / "drawn0.mp4").stat().st_mtime_ns == kept
    assert (made / "drawn1.mp4").is_file()
    other = tmp_path / "other"
    writer = ShardWriter(other)
    writer.write(0, [replace(drawn_clip(seed + 5), key=f"drawn{seed}") for seed in range(2)])
    writer.write_manifest()
    before = (made / "drawn0.mp4").read_bytes()
    measure(model=str(tmp_path / "toy"), reference=other)
    assert (made / "drawn0.mp4").read_bytes() != before  # the same name, another face and voice
    with pytest.raises(UserError, match="another checkpoint or seed"):
        measure(model=str(tmp_path / "toy"), clips=2, seed=3)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"seconds": "5,x"}, "--seconds must be numbers"),
        ({"seconds": "0,5"}, "above 0"),
        ({"clips": 0}, "--clips must be at least 1"),
        ({"compare": ("here",)}, "NAME=FOLDER"),
        ({"compare": ("reference=.",)}, "reference can't be a method's"),
        ({"compare": ("a=missing",)}, "There is no folder missing"),
        ({"generated": "x", "compare": ("a=b",)}, "give one of the two"),
        ({"generated": "x", "model": "m"}, "take those that are there"),
        ({"compare": ("../a=.",)}, "can't be a method's"),
        ({"seconds": "nan,5"}, "above 0"),
        ({"device": "abacus"}, "cannot be used"),
    ],
)
def test_bad_settings_are_one_sentence(measure, settings, says, tmp_path):
    if "generated" in settings:
        settings = settings | {"generated": tmp_path}
    with pytest.raises(UserError, match=says):
        measure(**settings)
    assert not (tmp_path / "report" / "report.json").exists()


def test_folders_without_videos_and_damaged_records_are_one_sentence(drawn_videos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no videos"):
        open_method("a", tmp_path / "empty")
    shutil.copytree(drawn_videos, tmp_path / "videos")
    (tmp_path / "videos" / "method.json").write_text('{"chunk": {"first": "x"}}')
    with pytest.raises(UserError, match=r"method\.json is damaged"):
        open_method("a", tmp_path / "videos")
    (tmp_path / "videos" / "method.json").unlink()
    shutil.copy(drawn_videos / "drawn0.mp4", tmp_path / "videos" / "drawn0.mov")
    with pytest.raises(UserError, match="two videos called drawn0"):
        open_reference(tmp_path / "videos")


def test_a_folder_of_videos_is_a_reference_too(measure, drawn_videos, tmp_path):
    report = measure(reference=drawn_videos, generated=drawn_videos, out=tmp_path / "files")
    method = drawn_videos.resolve().name
    assert value(report, method, "fd_face") == pytest.approx(0, abs=1e-4)
    assert value(report, method, "lip_correlation") == pytest.approx(1)  # what is read of real clips is the truth
    assert value(report, method, "lip_lag") == 0
    assert value(report, method, "lip_amplitude") == pytest.approx(1)
    assert value(report, method, "blendshape_error") == pytest.approx(0)
    assert "lip_correlation" not in report["methods"]["reference"]["values"]
    assert "synthetic corpus" in report["not_measured"]["lip_closures"]


@pytest.mark.slow
def test_lips_of_real_people_are_held_against_what_is_read_of_them(measure, tmp_path, monkeypatch):
    speakers = sorted(DATA.glob("clips/*.mpg"))[1:3]
    if not speakers:
        pytest.skip(f"no clips in {DATA}")
    monkeypatch.setattr(run, "load_networks", lambda *_: Networks(missing=dict.fromkeys(LOADERS, "not needed here")))
    for path in speakers:
        frames, samples = read_video(path)
        videos = {
            "real": frames,
            "late": np.concatenate([np.repeat(frames[:1], 3, 0), frames[:-3]]),
            "still": np.repeat(frames[:1], len(frames), 0),
        }
        for name, shown in videos.items():
            write_video(tmp_path / name / f"{path.stem}.mp4", shown, samples)
    methods = tuple(f"{name}={tmp_path / name}" for name in ("late", "still"))
    report = measure(reference=tmp_path / "real", compare=methods, out=tmp_path / "lips")
    assert value(report, "late", "lip_correlation") > 0.97
    assert value(report, "late", "lip_lag") == 3
    assert value(report, "late", "lip_amplitude") == pytest.approx(1, abs=0.1)
    assert value(report, "late", "sharpness") == pytest.approx(1, abs=0.15)
    assert value(report, "late", "head_motion_ratio") == pytest.approx(1, abs=0.1)
    assert value(report, "still", "lip_correlation") < 0.6
    assert value(report, "still", "lip_amplitude") < 0.1
    assert value(report, "still", "blinks") == 0 < value(report, "reference", "blinks")
    assert value(report, "still", "fd_face") > 5 * value(report, "late", "fd_face")


def test_crops_and_rates_of_other_systems_are_taken_from_their_record(drawn_videos, tmp_path):
    frames, samples = read_video(drawn_videos / "drawn0.mp4")
    grid = np.concatenate([np.zeros_like(frames), frames], axis=2)
    write_video(tmp_path / "grid" / "drawn0.mp4", grid, samples)
    record = {
        "fps": 50,
        "chunk": {"first": 20, "step": 10},
        "crop": {"left": 160, "top": 0, "width": 160, "height": 160},
    }
    (tmp_path / "grid" / "method.json").write_text(json.dumps(record))
    method = open_method("grid", tmp_path / "grid")
    assert method.chunk == (10, 5)
    clip = method.clips["drawn0"]
    assert clip.size == (160, 160)
    assert np.abs(next(clip.frames()).astype(int) - frames[0]).mean() < 3


def test_sound_that_begins_late_stays_late(drawn_videos, tmp_path):
    """Picture and sound are read from the moment the file begins, whichever of them comes first."""
    frames, samples = read_video(drawn_videos / "drawn0.mp4")
    for name, late, first in (("sound", 0.4, 0), ("picture", 0.0, 10)):
        path = tmp_path / f"{name}.mkv"
        with av.open(str(path), "w") as container:
            picture = container.add_stream("libx264", rate=25, options={"crf": "1"})
            picture.width = picture.height = 160
            sound = container.add_stream("pcm_s16le", rate=16_000)
            sound.layout = "mono"
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = index + first
                container.mux(picture.encode(frame))
            block = av.AudioFrame.from_ndarray((samples[None] * 32767).astype(np.int16), layout="mono")
            block.sample_rate, block.pts = 16_000, round(late * 16_000)
            container.mux(sound.encode(block))
            container.mux(picture.encode(None))
            container.mux(sound.encode(None))
        clip = FileClip(path)
        silence = round(late * 16_000)
        heard = clip.sound()
        assert len(heard) == pytest.approx(len(samples) + silence, abs=32)
        assert np.abs(heard[silence : silence + 16_000] - samples[:16_000]).max() < 1e-3
        assert not heard[:silence].any()
        seen = list(clip.frames())
        assert len(seen) == len(frames) + first
        assert np.abs(seen[first + 30].astype(int) - frames[30]).mean() < 3


@pytest.mark.slow
def test_other_networks_measure_anew_and_so_does_damage(measure_anew, drawn_videos, tmp_path, monkeypatch):
    seen = []
    original = measurer.measure_clip
    monkeypatch.setattr(measurer, "measure_clip", lambda clip, *rest: seen.append(clip.name) or original(clip, *rest))
    measure_anew(generated=drawn_videos, clips=2)
    assert len(seen) == 4
    kept = tmp_path / "report" / "features" / "reference" / "drawn1.npz"
    kept.write_bytes(kept.read_bytes()[:200])
    measure_anew(generated=drawn_videos, clips=2)
    assert seen[4:] == ["drawn1"]
    monkeypatch.setattr(run, "load_networks", lambda *_: Networks(missing=dict.fromkeys(LOADERS, "gone")))
    report = measure_anew(generated=drawn_videos, clips=2)
    assert len(seen) == 9
    assert "face_distance" in report["not_measured"]  # and not a value of what is said to be missing


def test_damaged_shards_and_links_cost_their_clip_alone(measure, drawn_videos, drawn_corpus, tmp_path):
    videos, damaged = tmp_path / "videos", tmp_path / "damaged"
    shutil.copytree(drawn_videos, videos)
    (videos / "drawn0.mp4").unlink()
    (videos / "drawn0.mp4").symlink_to(tmp_path / "nowhere.mp4")
    writer = ShardWriter(damaged)
    for seed in range(4):
        writer.write(seed, [drawn_clip(seed)])
    writer.write_manifest()
    shard = damaged / "shard-000002.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    shard = damaged / "shard-000003.tar"
    data = shard.read_bytes()
    at = data.index(b"RIFF")
    shard.write_bytes(data[:at] + b"JUNK" + data[at + 4 :])
    report = measure(reference=damaged, generated=videos)
    assert set(report["methods"]["videos"]["failed"]) == {"drawn0", "drawn2"}
    assert set(report["methods"]["reference"]["failed"]) == {"drawn2"}
    (note,) = report["methods"]["reference"]["clips"]["drawn3"]["notes"]
    assert note.startswith("not held against the real clip: ")
    assert "the sound of drawn3 is damaged" in note
    assert report["methods"]["videos"]["values"]["lip_correlation"]["samples"] == 1


def test_a_full_disk_ends_the_run_and_keeps_the_last_report(measure, drawn_videos, tmp_path, monkeypatch):
    before = measure(generated=drawn_videos)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    shutil.rmtree(tmp_path / "report" / "features")
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="the disk is full"):
        measure(generated=drawn_videos)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == before


def test_what_its_maker_could_not_make_is_among_the_failed(measure, drawn_videos, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(drawn_videos, videos)
    (videos / "drawn1.mp4").unlink()
    (videos / "method.json").write_text(json.dumps({"failed": {"drawn1": "no face in the portrait"}}))
    report = measure(generated=videos)
    assert report["methods"]["videos"]["failed"] == {"drawn1": "no face in the portrait"}
    assert "no face in the portrait" in (tmp_path / "report" / "index.html").read_text()


def test_what_is_missing_or_short_is_said(measure, drawn_videos, tmp_path):
    shutil.copytree(drawn_videos, tmp_path / "some")
    (tmp_path / "some" / "drawn1.mp4").rename(tmp_path / "some" / "stranger.mp4")
    frames, samples = read_video(drawn_videos / "drawn0.mp4")
    write_video(tmp_path / "some" / "drawn0.mp4", frames[:40], samples[: 40 * 640])
    warnings = measure(generated=tmp_path / "some", seconds="2,5,10")["methods"]["some"]["warnings"]
    assert [warning["text"] for warning in warnings if not warning["metric"] and not warning["curve"]] == [
        "Real clips without a video here (1 of 3): drawn1.",
        "Videos named after no real clip, so without a portrait (1): stranger.",
        "Videos that end before the real clip does (1): drawn0.",
        "No clip lasts 5, 10 seconds: distances over time end before.",
    ]


def test_offline_there_is_what_packages_have_and_the_others_say_why_not():
    networks = load_networks(offline=True)
    assert networks.present() == ["dlib_points", "dlib_face"]
    assert set(networks.missing or {}) == set(LOADERS) - set(networks.present())
