"""Trained parts put together."""

import json
import shutil

import pytest
from safetensors import SafetensorError

from asymtalker.checkpoints.assemble import assemble_checkpoint
from asymtalker.checkpoints.settings import Assemble
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.recipes import smoke
from asymtalker.training.run_folder import RUN_CONFIG
from toy import toy_transformer


@pytest.fixture
def run(tmp_path, tiny_pipeline_folder):
    """A training run with its transformer."""
    shutil.copytree(tiny_pipeline_folder / "transformer", tmp_path / "run" / "transformer")
    chunk = {"frames": 17, "continuity_frames": 9}
    (tmp_path / "run" / RUN_CONFIG).write_text(json.dumps({"chunk": chunk, "loop": {"steps": 1}}))
    return tmp_path / "run"


def assembled(run, parts, **flags) -> AsymTalkerPipeline:
    transformer = run / "transformer"
    settings = Assemble(vae=parts / "vae", audio=parts, transformer=transformer, out=run / "model", **flags)
    assemble_checkpoint(settings, smoke())
    return AsymTalkerPipeline.from_pretrained(settings.out)


def test_the_chunk_is_that_of_the_run(run, tiny_pipeline_folder):
    settings = assembled(run, tiny_pipeline_folder).settings
    assert (settings.chunk.frames, settings.chunk.continuity_frames) == (17, 9)
    assert settings.sampler.num_steps == smoke().sampler.num_steps


def test_a_transformer_outside_a_run_takes_the_recipes_chunk(run, tiny_pipeline_folder):
    (run / RUN_CONFIG).unlink()
    assert assembled(run, tiny_pipeline_folder).settings.chunk == smoke().teacher.chunk


@pytest.mark.parametrize("text", ["{", "[]", '{"loop": {}}', '{"chunk": 7}'])
def test_settings_that_are_none_are_refused(run, tiny_pipeline_folder, text):
    (run / RUN_CONFIG).write_text(text)
    with pytest.raises(UserError, match=RUN_CONFIG):
        assembled(run, tiny_pipeline_folder)
    assert not (run / "model").exists()


def test_a_student_is_sampled_as_its_run_distilled_it(run, tiny_pipeline_folder):
    settings = {"chunk": {"frames": 17, "continuity_frames": 9}, "steps_per_sample": 3, "shift": 7.5}
    (run / RUN_CONFIG).write_text(json.dumps(settings))
    sampler = assembled(run, tiny_pipeline_folder).settings.sampler
    assert (sampler.num_steps, sampler.shift, sampler.renew_noise) == (3, 7.5, True)


@pytest.mark.parametrize(
    ("part", "change", "flag", "says"),
    [
        ("transformer", {"latent_channels": 4}, {}, "4 latent channels, but the codec of --vae has 6"),
        ("transformer", {"audio_dim": 8}, {}, "8 audio features, but the encoder of --audio gives 16"),
        ("transformer", {}, {"size": "40"}, "height must be a multiple of 16"),
        ("transformer", {}, {"steps": 0}, "--steps must be at least 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(run, tiny_pipeline_folder, part, change, flag, says):
    toy_transformer(**change).save_pretrained(run / part)
    with pytest.raises(UserError, match=says):
        assembled(run, tiny_pipeline_folder, **flag)
    assert not (run / "model").exists()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(run, tiny_pipeline_folder, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("asymtalker.checkpoints.assemble.AsymTalkerPipeline.save_pretrained", full)
    before = sorted(run.iterdir())
    with pytest.raises(UserError, match="disk is full"):
        assembled(run, tiny_pipeline_folder)
    assert sorted(run.iterdir()) == before
