"""Trained parts put together."""

import json
import shutil

import pytest

from asymtalker.errors import UserError
from asymtalker.generate.assemble import assemble_checkpoint
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.recipes import smoke
from asymtalker.run_folder import RUN_CONFIG
from asymtalker.stages import Assemble


@pytest.fixture
def run(tmp_path, tiny_pipeline_folder):
    """A training run with its transformer."""
    shutil.copytree(tiny_pipeline_folder / "transformer", tmp_path / "run" / "transformer")
    chunk = {"frames": 17, "continuity_frames": 9}
    (tmp_path / "run" / RUN_CONFIG).write_text(json.dumps({"chunk": chunk, "loop": {"steps": 1}}))
    return tmp_path / "run"


def assembled(run, parts) -> AsymTalkerPipeline:
    settings = Assemble(vae=parts / "vae", audio=parts, transformer=run / "transformer", out=run / "model")
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
