import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch

from asymtalker import recipes
from asymtalker.codec import recompute_decoder
from asymtalker.config import TeacherConfig
from asymtalker.dataset.batches import ChunkSource, encode_all
from asymtalker.distill.loop import Extent, Networks, critic_update_loss, student_losses
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.sizing import training as needs
from asymtalker.sizing.costs import count_flops
from asymtalker.sizing.fit import SLACK
from asymtalker.sizing.plan import Plan
from asymtalker.sizing.training import check_fits, frozen_like, frozen_of_recipe, passes, plan_training
from asymtalker.train.teacher import draw_batch, teacher_losses
from asymtalker.training.frozen import load_frozen
from asymtalker.training.network import build_transformer, start_transformer
from toy import TOY_CHUNK, TOY_SIZE, TOY_TRANSFORMER, roll_out, toy_distill, toy_loop, toy_teacher

SIZE = (TOY_SIZE, TOY_SIZE)


@pytest.fixture(scope="module")
def frozen(tiny_pipeline_folder):
    return load_frozen(tiny_pipeline_folder, "tre", toy_loop())


@pytest.fixture(scope="module")
def empty(frozen):
    return frozen_like(frozen)


def plan_teacher(config: TeacherConfig, frozen, size: tuple[int, int], gpus: int) -> Plan:
    return plan_training(config, config.model, frozen, size, gpus)


def teacher_step(config: TeacherConfig, frozen, corpus) -> int:
    """Operations of a real step."""
    source = ChunkSource(corpus, "train", frozen, config.chunk)
    encode_all(source)
    transformer = start_transformer(config, frozen).train()
    if config.loop.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
        recompute_decoder(frozen.codec.vae)

    def step() -> None:
        for index in range(config.loop.micro_batches):
            generator = numbered_generator(0, index)
            batch = draw_batch(config, source, 0, generator)
            losses = teacher_losses(config, transformer, frozen, source, batch, generator, decode=True)
            (losses["fm"] + losses["tgc"] + losses["ff"]).backward()

    return count_flops(step)


def test_a_gpu_that_is_too_small_is_refused_before_networks_are_made(frozen, empty, monkeypatch):
    config = toy_teacher()
    needed = int(plan_teacher(config, empty, SIZE, 1).total() / (1 + SLACK))
    on_gpu = replace(frozen, device=torch.device("cuda:0"))

    def free(size: int, frozen=on_gpu) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (size, 10 * needed))
        check_fits(config, config.model, frozen, SIZE)

    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 1000)  # by the frozen networks, which the plan counts
    free(needed - 998)  # of what is only assumed nothing
    with pytest.raises(UserError, match=r"on one GPU, and .* GB are there; what fits: --config"):
        free(needed // 2)
    free(needed // 2, frozen)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_operations_of_a_teacher_step_are_those_of_a_real_one(frozen, empty, toy_corpus, checkpointing):
    loop = toy_loop(micro_batches=2, gradient_checkpointing=checkpointing)
    model = replace(TOY_TRANSFORMER, num_layers=5)
    config = toy_teacher(model=model, loop=loop, pixel_max_sigma=1.0, continuity_dropout=0.0)  # all are decoded
    plan = plan_teacher(config, empty, SIZE, gpus=2)
    assert sum(plan.flops.values()) == pytest.approx(teacher_step(config, frozen, toy_corpus), rel=0.01)
    assert (plan.flops["transformer: computed anew"] > 0) == checkpointing


def test_only_the_expected_share_of_chunks_is_decoded(empty):
    def decoding(**changes) -> float:
        plan = plan_teacher(toy_teacher(shift=1.0, **changes), empty, SIZE, gpus=1)
        return plan.flops["pixel losses: decoding, there and back"]

    every = decoding(pixel_max_sigma=1.0)
    assert decoding(pixel_max_sigma=0.5) == pytest.approx(every / 2, rel=0.01)
    assert decoding(pixel_max_sigma=1.0, pixel_every=4) == pytest.approx(every / 4)


@pytest.mark.parametrize("continuity", ["generated", "ground_truth"])
def test_operations_of_a_distillation_step_are_the_mean_of_real_ones(
    frozen, empty, toy_corpus, tiny_pipeline_folder, continuity
):
    config = toy_distill(student_continuity=continuity)
    source = ChunkSource(toy_corpus, "train", frozen, config.chunk, config.chunks)
    encode_all(source)
    nets = Networks.load(tiny_pipeline_folder / "transformer", config.loop)
    critic = student = 0.0
    for chunks, exit_step in product(range(1, config.chunks + 1), range(config.steps_per_sample)):
        extent, share = Extent(chunks, exit_step), config.rollout_shares[chunks - 1] / config.steps_per_sample

        def update_critic(extent: Extent = extent) -> None:
            with torch.no_grad():
                generated = roll_out(config, nets, frozen, source, extent, numbered_generator(0, 0))
            critic_update_loss(config, nets, frozen, generated, numbered_generator(0, 1)).backward()

        def update_student(extent: Extent = extent) -> None:
            generated = roll_out(config, nets, frozen, source, extent, numbered_generator(0, 0))
            losses = student_losses(config, nets, frozen, generated, numbered_generator(0, 1))
            (losses["dmd"] + losses["anchor"]).backward()

        critic += share * count_flops(update_critic)
        student += share * count_flops(update_student)
    real = config.critic_updates * critic + student
    plan = plan_training(config, TOY_TRANSFORMER, empty, SIZE, gpus=1)
    assert sum(plan.flops.values()) == pytest.approx(real, rel=0.01)


def test_parameters_are_the_networks_own(frozen, empty):
    plan = plan_teacher(toy_teacher(), empty, SIZE, gpus=1)
    transformer = build_transformer(TOY_TRANSFORMER, frozen)
    real = sum(p.numel() for p in transformer.parameters())
    assert plan.parameters["transformer"] == (real, real)
    assert plan.states["weights"] == 4 * real
    codec = sum(p.numel() for p in frozen.codec.vae.parameters())
    assert plan.parameters["codec"] == (codec, 0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_deep_transformer_costs_what_is_inferred_from_two_shallow_ones(empty, monkeypatch, checkpointing):
    model = replace(TOY_TRANSFORMER, num_layers=6)
    loop = toy_loop(gradient_checkpointing=checkpointing)

    def cost():
        passes.cache_clear()
        return passes(model, TOY_CHUNK.frames, empty, loop, 0, (4, 4))

    inferred = cost()
    monkeypatch.setattr(needs, "MEASURED_BLOCKS", (6, 7))  # all six are measured
    assert cost() == inferred


def test_a_teacher_is_held_as_it_is_computed(empty):
    loop = toy_loop(autocast="bfloat16")
    plan = plan_training(toy_distill(loop=loop), TOY_TRANSFORMER, empty, SIZE, gpus=1)
    total, _ = plan.parameters["student"]
    held = plan.states["weights of teacher, student and critic"] - 2 * 4 * total
    assert 2 * total < held < 3 * total


def test_lora_trains_a_fraction_and_costs_less(empty):
    whole = plan_teacher(toy_teacher(), empty, SIZE, gpus=1)
    lora = plan_teacher(toy_teacher(lora_rank=2), empty, SIZE, gpus=1)
    total, trained = lora.parameters["transformer"]
    assert 0 < trained < total
    assert lora.states["AdamW's two moments"] == 8 * trained
    assert lora.flops["transformer: backward"] < whole.flops["transformer: backward"]
    with pytest.raises(UserError, match="one GPU"):
        plan_teacher(toy_teacher(lora_rank=2, loop=toy_loop(micro_batches=2)), empty, SIZE, gpus=2)


def test_encoding_on_the_fly_costs_operations(empty):
    cached = plan_teacher(toy_teacher(), empty, SIZE, gpus=1)
    fresh = plan_teacher(toy_teacher(loop=toy_loop(cache=False)), empty, SIZE, gpus=1)
    assert set(fresh.flops) - set(cached.flops) == {"encoding on the fly"}
    assert fresh.total() > cached.total(), "the next chunk is encoded while this one is trained on"
    assert fresh.flops["encoding on the fly"] > 0


@pytest.mark.slow
def test_planning_takes_no_memory():
    pytest.importorskip("resource")
    grown = """
import resource
from asymtalker import recipes
from asymtalker.sizing.training import frozen_of_recipe, plan_training
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
recipe, before = recipes.wan_14b(), most()
plan_training(recipe.teacher, recipe.teacher.model, frozen_of_recipe(recipe), (512, 512), gpus=1)
print(most() - before)
"""
    done = subprocess.run([sys.executable, "-c", grown], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 300_000  # kilobytes


def billions(plan: Plan, network: str) -> float:
    return plan.parameters[network][0] / 1e9


def test_the_paper_s_sizes_are_planned_without_memory():
    recipe = recipes.wan_14b()
    plan = plan_teacher(recipe.teacher, frozen_of_recipe(recipe), (512, 512), gpus=1)
    assert billions(plan, "transformer") == pytest.approx(14.3, abs=0.2)
    assert billions(plan, "codec") == pytest.approx(0.127, abs=0.001)
    assert billions(plan, "audio encoder") == pytest.approx(0.094, abs=0.001)
    # twice the weights for every token, and attention's two products of all tokens with all
    tokens, width, blocks = 21 * 32 * 32, 40 * 128, 40
    expected = 2 * billions(plan, "transformer") * 1e9 * tokens + 4 * tokens**2 * width * blocks
    chunks = recipe.teacher.loop.batch * recipe.teacher.loop.micro_batches
    # a little less: keys and values of the cross-attention are of the few audio tokens only
    assert 0.85 * expected < plan.flops["transformer: forward"] / chunks < expected


def test_a_size_that_tokens_do_not_divide_is_one_sentence(empty):
    with pytest.raises(UserError, match="height must be a multiple of 16 pixels, its width of 16"):
        plan_teacher(toy_teacher(), empty, (40, 32), gpus=1)
