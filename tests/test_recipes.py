"""Recipes, configs and the commands made of them."""

import dataclasses

import pytest

from asymtalker.commands import cli, stages
from asymtalker.config import ChunkConfig, difference, to_dict
from asymtalker.errors import UserError
from asymtalker.recipes import RECIPES, tiny, wan_1_3b


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_whole(name):
    recipe = RECIPES[name]()
    configs = [config for config in (recipe.codec, recipe.teacher, recipe.distill) if config]
    for config in configs:
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
        ({"crop": 14}, r"--config\.crop"),
    ],
)
def test_lengths_that_no_causal_codec_makes_are_refused_by_flag(change, flag):
    with pytest.raises(UserError, match=flag):
        stages.check_lengths(dataclasses.replace(tiny().teacher, **change))


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
    old = to_dict(tiny().teacher)
    new = to_dict(dataclasses.replace(tiny().teacher, shift=7.0))
    assert difference(old, new) == ["shift: 3.0 -> 7.0"]


@pytest.mark.parametrize("part", stages.TRAINED)
def test_train_takes_its_defaults_from_the_recipe(part, tmp_path):
    arguments = ["--part", part, "--recipe", "smoke", "--run", str(tmp_path), "--config.loop.steps", "7"]
    if part in ("readout", "teacher"):
        arguments += ["--corpus", str(tmp_path)]
    if part == "teacher":
        arguments += ["--model", str(tmp_path)]
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
