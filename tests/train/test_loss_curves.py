"""Ten steps of the smoke recipe's two trainings give the stored losses: a change of what is computed shows.

After a change that is meant to: STORE_LOSSES=1 python -m pytest tests/train/test_loss_curves.py
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from asymtalker.dataset.corpus import ShardWriter
from asymtalker.distill.loop import distill
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.recipes import smoke
from asymtalker.train.teacher import train_teacher
from toy import ToyFace

STORED = Path(__file__).parents[1] / "losses" / "smoke.json"
STEPS = 10
NAMES = {"teacher": ("fm", "tgc", "ff", "grad_norm"), "distill": ("critic", "dmd", "anchor", "student_norm")}


@pytest.fixture(scope="module")
def curves(tmp_path_factory, toy_vae, toy_audio_encoder, toy_extractor) -> dict[str, dict[str, list[float]]]:
    """Losses step by step, on drawn faces of 96 x 96 and networks with random weights but the transformer's."""
    folder = tmp_path_factory.mktemp("curves")
    writer = ShardWriter(folder / "corpus")
    writer.write(0, [ToyFace(seed).clip("train", num_frames=97, size=96) for seed in range(2)])
    writer.write_manifest()
    toy_vae.save_pretrained(folder / "model" / "vae")
    toy_audio_encoder.save_pretrained(folder / "model" / "audio_encoder")
    toy_extractor.save_pretrained(folder / "model" / "feature_extractor")
    FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "model" / "scheduler")
    (folder / "model" / "model_index.json").write_text(
        json.dumps({"_class_name": "AsymTalkerPipeline", "identity": "tre"})
    )
    recipe = smoke()

    def loop(of):
        return replace(of.loop, steps=STEPS, log_every=1, checkpoint_every=STEPS, sample_every=0, autocast="float32")

    teacher = replace(recipe.teacher, loop=loop(recipe.teacher), pixel_max_sigma=1.0)  # whatever is drawn is decoded
    train_teacher(teacher, folder / "model" / "run", folder / "corpus", folder / "model")
    stir(folder / "model" / "run" / "transformer", folder / "model" / "transformer")
    student = replace(recipe.distill, loop=loop(recipe.distill))
    distill(student, folder / "student", folder / "corpus", folder / "model")
    runs = {"teacher": folder / "model" / "run", "distill": folder / "student"}
    return {what: losses(run, NAMES[what]) for what, run in runs.items()}


def stir(source: Path, target: Path) -> None:
    """A transformer's weights, each moved a little at random.

    Ten steps leave a network that answers with the portrait. Teacher, student and critic would agree to the last
    digits, and losses be made of rounding, which differs from one kind of processor to another.
    """
    transformer = AsymTalkerTransformer3DModel.from_pretrained(source)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    transformer.save_pretrained(target)


def losses(run: Path, names: tuple[str, ...]) -> dict[str, list[float]]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return {name: [line[name] for line in lines if name in line] for name in names}


@pytest.mark.slow
def test_losses_are_the_stored_ones(curves):
    if os.environ.get("STORE_LOSSES"):
        STORED.write_text(json.dumps(curves, indent=1) + "\n")
    stored = json.loads(STORED.read_text())
    for what, names in NAMES.items():
        for name in names:
            assert curves[what][name] == pytest.approx(stored[what][name], rel=5e-3), (what, name)
    assert len(curves["teacher"]["fm"]) == len(curves["distill"]["dmd"]) == STEPS
    assert len(curves["teacher"]["tgc"]) == 4
