"""Recipes, configs and the commands made of them."""

import dataclasses
import re
from pathlib import Path

import pytest

from asymtalker.commands import cli, stages
from asymtalker.config import ChunkConfig, MotionCodecTrainConfig, difference, to_dict
from asymtalker.errors import UserError
from asymtalker.recipes import RECIPES, smoke, tiny, wan_1_3b
from asymtalker.timeline import FPS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole(name):
    recipe = RECIPES[name]()
    for config in (recipe.codec, recipe.teacher, recipe.distill):
        if config and not isinstance(config, MotionCodecTrainConfig):  # whose frames are single ones
            stages.check_lengths(config)
    assert recipe.teacher.chunk == recipe.distill.chunk
    assert recipe.sampler.num_steps == recipe.distill.steps_per_sample
    assert recipe.sampler.shift == recipe.distill.shift


def test_the_paper_sizes_have_the_paper_settings():
    recipe = wan_1_3b()
    assert recipe.teacher.chunk.frames == 81
    assert (recipe.teacher.loop.steps, recipe.distill.loop.steps) == (15_000, 1_600)
    assert recipe.distill.steps_per_sample == 4
    assert (recipe.distill.teacher_continuity, recipe.distill.student_continuity) == ("ground_truth", "generated")


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        ({"chunk": ChunkConfig(frames=80)}, r"--config\.chunk\.frames"),
        ({"chunk": ChunkConfig(continuity_frames=4)}, r"--config\.chunk\.continuity-frames"),
        ({"chunk": ChunkConfig(frames=9, continuity_frames=9)}, "less than"),
        ({"pixel_frames": 4}, r"--config\.pixel-frames"),
        ({"pixel_frames": 1}, r"--config\.pixel-frames"),
        ({"pixel_every": 0}, r"--config\.pixel-every"),
        ({"model": dataclasses.replace(tiny().teacher.model, audio_context=9)}, r"--config\.model\.audio-context"),
        ({"model": dataclasses.replace(tiny().teacher.model, identity="clip")}, "which clip has not: give velocity"),
    ],
)
def test_lengths_that_no_causal_codec_makes_are_refused_by_flag(change, flag):
    with pytest.raises(UserError, match=flag):
        stages.check_lengths(dataclasses.replace(smoke().teacher, **change))


def test_the_ablations_of_table_4_are_the_references_it_names():
    references = {}
    for name in ("tiny", "tiny_gt_gt", "tiny_gen_gen"):
        distill = RECIPES[name]().distill
        references[name] = (distill.teacher_continuity, distill.student_continuity)
    assert references == {
        "tiny": ("ground_truth", "generated"),
        "tiny_gt_gt": ("ground_truth", "ground_truth"),
        "tiny_gen_gen": ("generated", "generated"),
    }


def test_a_teacher_on_generated_frames_needs_a_student_that_makes_them():
    distill = dataclasses.replace(RECIPES["tiny_gt_gt"]().distill, teacher_continuity="generated")
    with pytest.raises(UserError, match="student-continuity generated"):
        stages.check_lengths(distill)


@pytest.mark.parametrize("name", ["steps", "batch", "log_every", "checkpoint_every"])
def test_counts_below_one_are_refused_by_flag(name):
    with pytest.raises(UserError, match=f"--config.loop.{name.replace('_', '-')}"):
        stages.check_loop(dataclasses.replace(tiny().teacher.loop, **{name: 0}))


def test_differences_of_configs_are_named():
    old = dataclasses.replace(tiny().teacher, shift=3.0)
    assert difference(to_dict(old), to_dict(dataclasses.replace(old, shift=7.0))) == ["shift: 3.0 -> 7.0"]


@pytest.mark.parametrize("part", stages.TRAINED)
def test_train_takes_its_defaults_from_the_recipe(part, tmp_path):
    arguments = ["--part", part, "--recipe", "smoke", "--run", str(tmp_path), "--config.loop.steps", "7"]
    if part == "teacher":
        arguments += ["--corpus", str(tmp_path), "--model", str(tmp_path)]
    settings = cli.parse("train", stages.train_settings, arguments)
    expected = getattr(RECIPES["smoke"](), part)
    assert settings.config == dataclasses.replace(expected, loop=dataclasses.replace(expected.loop, steps=7))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--part", "nose"], "no part nose"),
        (["--recipe", "huge"], "no recipe huge"),
        (["--part", "codec", "--recipe", "wan_1_3b"], "published codec"),
    ],
)
def test_unknown_parts_and_recipes_are_named(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        stages.train_settings(arguments)


@pytest.mark.parametrize(
    ("script", "name"), [("runs/smoke.sh", "smoke"), ("runs/tiny.sh", "tiny"), ("README.md", "tiny")]
)
def test_clips_that_are_made_for_a_recipe_hold_its_rollouts(script, name):
    distill = RECIPES[name]().distill
    made = next(
        line for line in (ROOT / script).read_text().splitlines() if re.search(r"(synth .*/?|\$out/)corpus", line)
    )
    found = re.search(r"--seconds ([\d.]+)", made)
    assert found, made
    rollout = distill.chunk.frames + (distill.chunks - 1) * (distill.chunk.frames - distill.chunk.continuity_frames)
    assert float(found[1]) * FPS >= rollout, made


def test_what_the_papers_hours_allow_is_what_wan_recipes_do():
    """16 A100s: 4 chunks each a step of the teacher, 3 of a distillation with as many critic as student updates."""
    recipe = wan_1_3b()
    assert recipe.teacher.loop.batch * recipe.teacher.loop.micro_batches == 64
    assert recipe.distill.loop.batch * recipe.distill.loop.micro_batches == 48
    assert recipe.distill.critic_updates == 1
