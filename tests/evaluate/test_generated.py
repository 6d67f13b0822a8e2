"""What is generated for a reference: kept as long as nothing it depends on changes, and timed on one machine."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from asymtalker.dataset.corpus import ShardWriter
from asymtalker.errors import UserError
from asymtalker.evaluate import generated
from asymtalker.evaluate.clips import Method, open_method, open_reference
from asymtalker.evaluate.generated import generate_videos
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.output import OutputFile
from asymtalker.media.video import VideoWriter, read_video, write_video
from toy import ToyFace

KEYS = ("ann", "bob")


def corpus_of(folder: Path, first_seed: int) -> Path:
    """Held-out clips called ``KEYS`` of 21 frames, 64 x 64, whose faces and voices depend on the seed."""
    writer = ShardWriter(folder)
    writer.write(
        0, [replace(ToyFace(seed).clip("test", size=64), key=key) for seed, key in enumerate(KEYS, first_seed)]
    )
    writer.write_manifest()
    return folder


@pytest.fixture(scope="session")
def model(tiny_pipeline_folder, tmp_path_factory) -> Path:
    """The toy model, making pictures of 64 x 64."""
    folder = tmp_path_factory.mktemp("model") / "toy"
    shutil.copytree(tiny_pipeline_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"sample_size": 64, "num_inference_steps": 1}))
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("corpus"), 4)


@pytest.fixture
def other_corpus(tmp_path) -> Path:
    """The same names, other faces and voices."""
    return corpus_of(tmp_path / "other", 7)


@pytest.fixture
def generate(tmp_path, corpus, model):
    """Generate the corpus's held-out clips, or others, with the model, or another, into ``tmp_path/videos``."""
    given = model

    def run(reference: Path = corpus, model: Path = given) -> Method:
        pipeline = AsymTalkerPipeline.from_pretrained(model)
        return generate_videos(tmp_path / "videos", open_reference(reference), pipeline, 0, Console(stderr=True))

    return run


@pytest.fixture
def made(monkeypatch) -> list[str]:
    """The names of the videos that are made: short ones, without a model."""
    names = []

    def quick(self, image, audio, output, *, progress, **_):
        names.append(output.name.removeprefix(".").removesuffix(".part.mp4"))
        write_video(output, np.zeros((2, 64, 64, 3), np.uint8))
        progress(2, 2)

    monkeypatch.setattr(AsymTalkerPipeline, "generate_to_file", quick)
    return names


def record_of(folder: Path) -> dict:
    return json.loads((folder / "method.json").read_text())


def change_record(folder: Path, **values) -> None:
    (folder / "method.json").write_text(json.dumps(record_of(folder) | values))


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("vae/config.json", {"latents_mean": [0.5] * 6}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}),
        ("audio_encoder/config.json", {"layer_norm_eps": 0.5}),
        ("feature_extractor/preprocessor_config.json", {"do_normalize": True}),
        ("transformer/config.json", {"eps": 0.5}),
    ],
)
def test_videos_are_made_again_if_a_setting_of_a_part_changes(generate, made, model, tmp_path, file, setting):
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    generate()
    generate(model=moved)
    assert made == [*KEYS]  # where the model lies makes no difference
    path = moved / file
    path.write_text(json.dumps(json.loads(path.read_text()) | setting))
    generate(model=moved)
    assert made == [*KEYS, *KEYS]


def test_videos_are_made_again_by_another_version(generate, made, monkeypatch):
    generate()
    monkeypatch.setattr(generated, "__version__", "9.9")
    generate()
    assert made == [*KEYS, *KEYS]


def test_what_could_not_be_made_again_has_no_video(generate, other_corpus, tmp_path, monkeypatch):
    generate()
    work = AsymTalkerPipeline.generate_to_file

    def fails(self, image, audio, output, **options):
        work(self, image, audio, output, **options)
        if "ann" in output.name:
            raise UserError("The sound is damaged.")

    monkeypatch.setattr(AsymTalkerPipeline, "generate_to_file", fails)
    method = generate(other_corpus)
    assert set(method.clips) == {"bob"}
    assert method.about["failed"] == {"ann": "The sound is damaged."}
    assert set(method.about["seconds_per_video"]) == {"bob"}
    assert {path.name for path in (tmp_path / "videos").iterdir()} == {"method.json", "bob.mp4"}


def test_a_clip_that_can_no_longer_be_read_has_no_video(generate, made, other_corpus, tmp_path):
    generate(other_corpus)
    shard = other_corpus / "shard-000000.tar"
    data = shard.read_bytes()
    at = data.index(b"RIFF")
    shard.write_bytes(data[:at] + b"JUNK" + data[at + 4 :])
    method = generate(other_corpus)
    assert set(method.clips) == {"bob"}
    assert set(method.about["failed"]) == {"ann"}
    assert not (tmp_path / "videos" / "ann.mp4").exists()


def test_a_stop_leaves_neither_the_old_video_nor_a_part_of_the_new_one(generate, other_corpus, tmp_path, monkeypatch):
    generate()
    writer = VideoWriter.write

    def stopped(self, frames):
        if self.seconds:
            raise KeyboardInterrupt
        writer(self, frames)

    monkeypatch.setattr(VideoWriter, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        generate(other_corpus)
    assert {path.name for path in (tmp_path / "videos").iterdir()} == {"method.json", "bob.mp4"}


@pytest.mark.parametrize("reserve", [False, True])
def test_a_full_disk_is_no_fault_of_the_clip(generate, tmp_path, monkeypatch, reserve):
    full = OSError(errno.ENOSPC, "No space left on device")

    def fills_up(self, data):
        if not reserve:
            self.error = full
            raise full
        self.full = full  # the room kept back is used up
        return write(self, data)

    write = OutputFile.write
    monkeypatch.setattr(OutputFile, "write", fills_up)
    with pytest.raises(UserError, match="disk is full"):
        generate()
    assert record_of(tmp_path / "videos")["failed"] == {}
    monkeypatch.setattr(OutputFile, "write", write)
    assert set(generate().clips) == {*KEYS}


def test_what_a_killed_run_left_is_removed(generate, made, tmp_path):
    generate()
    folder = tmp_path / "videos"
    for name in ("..a.part.mp4.7.part", "..a.part.mp4.7.part.reserve", ".a.part.mp4", ".method.json.7.part"):
        (folder / name).touch()
    (folder / ".mine").touch()
    generate()
    assert {path.name for path in folder.iterdir()} == {"method.json", ".mine", *(f"{key}.mp4" for key in KEYS)}


def test_times_are_of_one_machine(generate, made, tmp_path):
    folder = tmp_path / "videos"
    here = generate().about
    assert set(here["seconds_per_video"]) == set(here["first_chunk_seconds"]) == {*KEYS}
    elsewhere = {"cpu": "abacus"}
    change_record(folder, machine=elsewhere, peak_rss_mib=1e9, peak_gpu_mib=1e9)
    about = generate().about
    assert about["machine"] == elsewhere  # nothing was made here
    assert about["seconds_per_video"] == here["seconds_per_video"]
    (folder / "ann.mp4").unlink()
    about = generate().about
    assert about["machine"] == here["machine"]
    assert set(about["seconds_per_video"]) == set(about["first_chunk_seconds"]) == {"ann"}
    assert 0 < about["peak_rss_mib"] < 1e9
    assert not about["peak_gpu_mib"]


def test_peak_memory_is_the_most_of_all_runs(monkeypatch):
    monkeypatch.setattr(generated, "describe_machine", lambda device: {"device": device})
    pipeline: Any = SimpleNamespace(device=torch.device("cuda"))
    record = {"failed": {}, "inputs": {}, "machine": generated._machine(pipeline)}
    record |= {"seconds_per_video": {}, "first_chunk_seconds": {}, "peak_rss_mib": 1e9}
    for mib in (5, 3):
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _, mib=mib: mib << 20)
        generated._note(record, f"after{mib}", "hash", 1.0, 0.5, pipeline)
    assert (record["peak_gpu_mib"], record["peak_rss_mib"]) == (5, 1e9)
    assert set(record["seconds_per_video"]) == {"after5", "after3"}


@pytest.mark.parametrize("peak", ["lots", -1, [4]])
@pytest.mark.parametrize("key", ["peak_rss_mib", "peak_gpu_mib"])
def test_a_peak_that_is_no_number_is_one_sentence(drawn_videos, tmp_path, key, peak):
    shutil.copytree(drawn_videos, tmp_path / "videos")
    (tmp_path / "videos" / "method.json").write_text(json.dumps({key: peak}))
    with pytest.raises(UserError, match=r"method\.json is damaged"):
        open_method("a", tmp_path / "videos")


def test_the_toy_model_really_makes_them(generate, tmp_path):
    generate()
    assert read_video(tmp_path / "videos" / "ann.mp4")[0].shape == (21, 64, 64, 3)
