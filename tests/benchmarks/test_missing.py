"""runs/missing.py: the packages that a machine's Python lacks."""

import importlib.metadata
import runpy
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "runs" / "missing.py"


@pytest.fixture
def missing(monkeypatch):
    """The script's function where nothing is installed but packages given with their requirements."""

    def ask(installed: dict[str, list[str]], *further: str) -> list[str]:
        def requires(name: str) -> list[str]:
            if name not in installed:
                raise PackageNotFoundError(name)
            return installed[name]

        monkeypatch.setattr(importlib.metadata, "requires", requires)
        return runpy.run_path(str(SCRIPT))["missing"](further)

    return ask


def test_lacking_packages_are_named_with_their_pins_and_pytorch_never(missing):
    names = [requirement.split("==")[0] for requirement in missing({}, "pytest")]
    assert {"av", "diffusers", "peft", "pytest"} <= set(names)
    assert "torch" not in names
    assert all("==" in requirement for requirement in missing({}, "pytest"))


def test_what_installed_packages_need_is_asked_for_too_and_other_platforms_are_not(missing):
    installed = {
        "diffusers": ["importlib_metadata", "windows-only; sys_platform == 'none'", "torch; extra == 'torch'"]
    }
    names = [requirement.split("==")[0] for requirement in missing(installed)]
    assert "importlib_metadata" in names
    assert "diffusers" not in names
    assert "windows-only" not in names
