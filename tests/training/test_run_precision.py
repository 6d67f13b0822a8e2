"""The precision of a run: chosen once, said, recorded, and kept when the run goes on elsewhere."""

import json

import pytest
import torch

from asymtalker.errors import UserError
from asymtalker.models import precision as choice
from asymtalker.training.run_folder import RunFolder, in_its_precision, precision
from toy import toy_loop, toy_teacher

AUTO = toy_teacher(loop=toy_loop(autocast="auto"))


@pytest.fixture
def processor(monkeypatch):
    """A processor with instructions for bfloat16, or without."""
    return lambda quick: monkeypatch.setattr(choice, "has_bfloat16", lambda: quick)


def begin(path, config):
    """A run that has made a checkpoint; returns what it recorded."""
    run = RunFolder(path, config)
    run.checkpoint.mkdir(exist_ok=True)
    return json.loads((path / "config.json").read_text())["loop"]["autocast"]


@pytest.mark.parametrize(("quick", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_becomes_what_is_quick_here_and_is_said(tmp_path, processor, capsys, quick, chosen):
    processor(quick)
    config = in_its_precision(AUTO, tmp_path)
    assert config.loop.autocast == chosen == begin(tmp_path, config)
    assert precision(config.loop) == (torch.bfloat16 if quick else None)
    assert f"on cpu in {chosen}" in capsys.readouterr().err


@pytest.mark.parametrize(("began", "elsewhere"), [("float32", True), ("bfloat16", False)])
def test_a_run_that_goes_on_elsewhere_keeps_its_precision(tmp_path, processor, capsys, began, elsewhere):
    processor(not elsewhere)
    begin(tmp_path, in_its_precision(AUTO, tmp_path))
    processor(elsewhere)
    capsys.readouterr()
    config = in_its_precision(AUTO, tmp_path)
    assert config.loop.autocast == began == begin(tmp_path, config)
    said = capsys.readouterr().err
    assert f"in {began}" in said
    assert ("float32 would be quicker on this processor" in said) == (began == "bfloat16")


def test_another_precision_makes_another_run(tmp_path, processor):
    processor(False)
    begin(tmp_path, in_its_precision(AUTO, tmp_path))
    other = in_its_precision(toy_teacher(loop=toy_loop(autocast="bfloat16")), tmp_path)
    with pytest.raises(UserError, match=r"loop\.autocast: float32 -> bfloat16"):
        begin(tmp_path, other)


def test_a_folder_without_a_checkpoint_begins_anew(tmp_path, processor):
    processor(False)
    RunFolder(tmp_path, in_its_precision(AUTO, tmp_path))
    processor(True)
    assert in_its_precision(AUTO, tmp_path).loop.autocast == "bfloat16"
