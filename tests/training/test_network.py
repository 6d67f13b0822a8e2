"""The transformer that is trained: loaded in place, adapted by LoRA, saved whole."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from asymtalker.commands import stages
from asymtalker.distill.loop import Networks, distill
from asymtalker.errors import UserError
from asymtalker.models.transformer import AsymTalkerTransformer3DModel
from asymtalker.sizing import training as needs
from asymtalker.sizing.training import check_fits
from asymtalker.train.teacher import train_teacher
from asymtalker.training.checkpoint import EMA, Weights
from asymtalker.training.distributed import check_processes, check_world
from asymtalker.training.network import (
    adapt,
    load_transformer,
    merged,
    save_transformer,
    transformer_config,
)
from asymtalker.training.run_folder import autocast
from toy import TOY_TRANSFORMER, assert_same, saved_state, toy_distill, toy_loop, toy_teacher

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny_pipeline_folder, tmp_path) -> Path:
    """A transformer's folder to damage."""
    return Path(shutil.copytree(tiny_pipeline_folder / "transformer", tmp_path / "transformer"))


def test_a_loaded_transformer_is_the_saved_one(folder, tmp_path):
    loaded = load_transformer(folder, toy_loop())
    given = AsymTalkerTransformer3DModel.from_pretrained(folder)
    assert_same(dict(loaded.state_dict()), dict(given.state_dict()))
    assert_same(dict(loaded.named_buffers()), dict(given.named_buffers()))
    save_transformer(loaded, tmp_path / "again")
    assert_same(load_file(tmp_path / "again" / FILE), load_file(folder / FILE))


def test_weights_in_bfloat16_are_trained_in_float32(folder):
    save_file({name: value.bfloat16() for name, value in load_file(folder / FILE).items()}, folder / FILE)
    loaded = load_transformer(folder, toy_loop())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_weights_in_several_files_are_read_and_a_missing_file_is_named(folder):
    whole = load_transformer(folder, toy_loop()).state_dict()
    weights = load_file(folder / FILE)
    (folder / FILE).unlink()
    names = [f"part-{index}.safetensors" for index in range(2)]
    index = {name: names[position % 2] for position, name in enumerate(weights)}
    for file in names:
        save_file({name: weights[name] for name in weights if index[name] == file}, folder / file)
    (folder / f"{FILE}.index.json").write_text(json.dumps({"weight_map": index}))
    assert_same(dict(load_transformer(folder, toy_loop()).state_dict()), dict(whole))
    (folder / names[1]).unlink()
    with pytest.raises(UserError, match=rf"lacks {names[1]}"):
        load_transformer(folder, toy_loop())


def test_the_size_of_a_saved_transformer_is_what_it_was_made_with(folder):
    assert transformer_config(folder, "tre") == TOY_TRANSFORMER
    config = json.loads((folder / "config.json").read_text())
    del config["patch_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"not whole .*patch_size"):
        transformer_config(folder, "tre")


@pytest.mark.parametrize("part", ["train", "distill"])
def test_training_is_refused_where_the_gpu_is_too_small(part, tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch):
    def on_gpu(config, model, frozen, size) -> None:
        check_fits(config, model, replace(frozen, device=torch.device("cuda")), size)

    monkeypatch.setattr(needs, "check_fits", on_gpu)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 1000))
    given = {"run": tmp_path / "run", "corpus": toy_corpus, "model": tiny_pipeline_folder}
    command, settings = {
        "train": (stages.train, stages.TrainTeacher(config=toy_teacher(), **given)),
        "distill": (stages.distill, stages.Distill(config=toy_distill(), **given)),
    }[part]
    with pytest.raises(UserError, match=r"at 32x32 needs .* on one GPU, and 0\.0 GB are there"):
        command(settings)
    assert not (tmp_path / "run" / "transformer").exists()


def test_other_weights_beside_those_of_a_network_are_refused(folder):
    save_file({"proj_out.bias": torch.ones(3)}, folder / "diffusion_pytorch_model.fp16.safetensors")
    with pytest.raises(UserError, match=r"not this network's, diffusion_pytorch_model\.fp16\.safetensors"):
        load_transformer(folder, toy_loop())


def test_weights_that_do_not_fit_are_named(folder):
    weights = load_file(folder / FILE)
    save_file({name: value for name, value in weights.items() if name != "proj_out.bias"}, folder / FILE)
    with pytest.raises(UserError, match=r"the weight proj_out\.bias is missing"):
        load_transformer(folder, toy_loop())
    save_file(weights | {"proj_out.bias": torch.zeros(3)}, folder / FILE)
    with pytest.raises(UserError, match=r"proj_out\.bias has the shape \(3,\), but config\.json tells"):
        load_transformer(folder, toy_loop())
    (folder / FILE).write_bytes(b"{}")
    with pytest.raises(UserError, match="damaged or cut short"):
        load_transformer(folder, toy_loop())
    (folder / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    with pytest.raises(UserError, match="tells of a WanTransformer3DModel"):
        load_transformer(folder, toy_loop())


def inputs() -> tuple:
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(1, 13, 16, generator=generator)
    return torch.randn(1, 16, 3, 4, 4, generator=generator), torch.tensor([500.0]), audio


@torch.no_grad()
def test_low_rank_changes_begin_as_none_and_are_saved_in_the_weights(folder, tmp_path):
    plain = load_transformer(folder, toy_loop())
    adapted = adapt(load_transformer(folder, toy_loop(), frozen=True), 2, toy_loop())
    assert torch.equal(plain(*inputs()).sample, adapted(*inputs()).sample)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    changed = adapted(*inputs()).sample
    assert float((changed - plain(*inputs()).sample).abs().max()) > 1e-2
    save_transformer(adapted, tmp_path / "merged")
    loaded = load_transformer(tmp_path / "merged", toy_loop())
    assert loaded.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(loaded(*inputs()).sample, changed, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_is_frozen_takes_less_memory_and_computes_the_same(folder):
    loop = toy_loop(autocast="bfloat16")
    trained, frozen = load_transformer(folder, loop), load_transformer(folder, loop, frozen=True)
    sizes = [sum(p.numel() * p.itemsize for p in network.blocks.parameters()) for network in (trained, frozen)]
    assert sizes[1] < 0.6 * sizes[0]
    with autocast(loop):
        assert torch.equal(frozen(*inputs()).sample, trained(*inputs()).sample)


def test_only_changes_and_what_is_new_are_trained(folder):
    loop = toy_loop(autocast="bfloat16")
    adapted = adapt(load_transformer(folder, loop, frozen=True), 2, loop)
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {"patch_embedding.weight", "audio_slots", "condition_embedder.text_embedder.linear_1.weight"} <= trained
    assert any("attn1.to_q.lora_A" in name for name in trained)
    assert not any("base_layer" in name or name.startswith("proj_out") for name in trained)
    dtypes = {name: parameter.dtype for name, parameter in adapted.named_parameters()}
    assert dtypes["blocks.0.attn1.to_q.base_layer.weight"] == torch.bfloat16
    assert dtypes["blocks.0.norm2.weight"] == dtypes["blocks.0.scale_shift_table"] == torch.float32
    assert all(dtypes[name] == torch.float32 for name in trained)
    assert Weights(adapted).state_dict().keys() == trained
    average = EMA(adapted, 0.9)
    shared = [a is b for a, b in zip(average.module.parameters(), adapted.parameters(), strict=True)]
    assert shared == [not parameter.requires_grad for parameter in adapted.parameters()]


def test_a_student_and_a_critic_by_lora_share_the_teachers_weights(folder):
    nets = Networks.load(folder, toy_loop(), lora_rank=2)
    teacher = dict(nets.teacher.named_parameters())
    for net in (nets.student, nets.critic):
        named = dict(net.named_parameters())
        assert named["blocks.0.attn1.to_q.base_layer.weight"] is teacher["blocks.0.attn1.to_q.weight"]
        assert named["patch_embedding.weight"] is not teacher["patch_embedding.weight"]
    assert not any(parameter.requires_grad for parameter in nets.teacher.parameters())


def test_merging_leaves_weights_without_changes_alone():
    weights = {"a.weight": torch.ones(2, 2), "b": torch.zeros(3)}
    assert_same(merged(weights), weights)


def test_lora_is_for_one_process_and_needs_weights(tmp_path, toy_corpus, tiny_pipeline_folder, monkeypatch):
    corpus = shutil.copytree(toy_corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    with pytest.raises(UserError, match=r"--config\.init"):
        train_teacher(toy_teacher(lora_rank=2), tmp_path / "run", corpus, tiny_pipeline_folder)
    assert not (corpus / "cache").exists()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="without torchrun"):
        check_world(toy_loop(), 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="for one process, not 2"):
        check_world(toy_loop(), 2)
    with pytest.raises(UserError, match=r"does not go with --config\.loop\.cpu-offload"):
        check_processes(toy_loop(cpu_offload=True), 2, 1)
    with pytest.raises(UserError, match="must be 0, for none, or more"):
        check_processes(toy_loop(), -1, 1)


@pytest.mark.parametrize("what", ["teacher", "distill"])
def test_a_run_by_lora_resumes_bit_for_bit(what, tmp_path, toy_corpus, tiny_pipeline_folder):
    def train(run: str, steps: int) -> None:
        loop = toy_loop(steps=steps, batch=1, checkpoint_every=2, log_every=1)
        paths = (tmp_path / run, toy_corpus, tiny_pipeline_folder)
        if what == "teacher":
            train_teacher(toy_teacher(loop=loop, init=tiny_pipeline_folder, lora_rank=2), *paths)
        else:
            distill(toy_distill(loop=loop, lora_rank=2), *paths)

    train("straight", 4)
    train("resumed", 2)
    train("resumed", 4)
    assert_same(saved_state(tmp_path / "straight"), saved_state(tmp_path / "resumed"))
    before = load_file(tiny_pipeline_folder / "transformer" / FILE)
    after = load_file(tmp_path / "straight" / "transformer" / FILE)
    assert not torch.equal(before["blocks.0.attn1.to_q.weight"], after["blocks.0.attn1.to_q.weight"])
    assert torch.equal(before["blocks.0.norm2.weight"], after["blocks.0.norm2.weight"])
