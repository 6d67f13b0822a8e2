"""How long rollouts are, and what a batch of each network's update holds."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from asymtalker.distill.loop import Extent, check_draws, draw_batch
from asymtalker.errors import UserError
from asymtalker.recipes import RECIPES
from toy import toy_distill


@pytest.mark.parametrize("name", RECIPES)
def test_a_student_meets_continuity_that_came_of_generated_continuity(name):
    """A third chunk begins with frames of a second, which began with frames of a first; of 600 s 196 of 197 do so."""
    shares = RECIPES[name]().distill.rollout_shares
    assert len(shares) >= 3
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(0.2), "first chunks"
    assert sum(shares[2:]) >= 0.4, "with continuity of generated continuity"


def test_rollouts_are_as_long_as_their_shares_say():
    config = toy_distill(chunks=4, first_share=0.25, steps_per_sample=4)
    assert config.rollout_shares == (0.25, 0.25, 0.25, 0.25)
    config = replace(config, first_share=0.1)
    drawn = [Extent.draw(config, number) for number in range(2000)]
    chunks = Counter(extent.chunks for extent in drawn)
    for number, share in enumerate(config.rollout_shares, 1):
        assert chunks[number] / len(drawn) == pytest.approx(share, abs=0.04)
    steps = Counter(extent.exit_step for extent in drawn)
    assert all(steps[step] / len(drawn) == pytest.approx(0.25, abs=0.04) for step in range(4))
    assert replace(config, chunks=1).rollout_shares == (1.0,)
    assert {Extent.draw(replace(config, chunks=1), number).chunks for number in range(20)} == {1}


def test_rollouts_do_not_depend_on_what_else_is_drawn_and_runs_differ():
    config = toy_distill()
    drawn = [Extent.draw(config, number) for number in range(60)]
    other = replace(config, loop=replace(config.loop, seed=config.loop.seed + 1))
    assert drawn != [Extent.draw(other, number) for number in range(60)]
    assert drawn == [Extent.draw(config, number) for number in range(60)]


@pytest.mark.parametrize(("change", "flag"), [({"chunks": 0}, "chunks"), ({"first_share": 1.2}, "first-share")])
def test_rollouts_that_cannot_be_drawn_are_refused_by_flag(change, flag):
    with pytest.raises(UserError, match=f"--config.{flag}"):
        check_draws(toy_distill(**change))


def test_only_the_students_batches_hold_ground_truth():
    """The loss of the critic has no use for it, and encoding it takes a chunk's time."""
    asked, elapsed = [], []

    class Source:
        def batch(self, size: int, generator: torch.Generator, before: int, **options: bool) -> None:
            elapsed.append(before)
            asked.append(options["target"])
            assert not options["masks"]

    config = toy_distill(critic_updates=2)
    for number in range(6):
        draw_batch(config, Source(), number, torch.Generator())  # pyright: ignore[reportArgumentType]
    assert asked == [False, False, True] * 2
    step = config.chunk.frames - config.chunk.continuity_frames
    assert elapsed == [step * (Extent.draw(config, number).chunks - 1) for number in range(6)], "not how it begins"
    asked.clear()
    config = replace(config, student_continuity="ground_truth")
    for number in range(3):
        draw_batch(config, Source(), number, torch.Generator())  # pyright: ignore[reportArgumentType]
    assert asked == [True] * 3, "the student goes on from it"
