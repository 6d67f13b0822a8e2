"""Trainings on a GPU, whole and by LoRA, encoding beside the training: the paths that a CPU does not take."""

import json
import math
import shutil

import pytest
import torch

from asymtalker.distill.loop import distill
from asymtalker.train.teacher import train_teacher
from toy import toy_distill, toy_loop, toy_teacher

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("what", ["teacher", "distill"])
def test_a_training_runs_and_resumes(what, lora_rank, toy_corpus, tiny_pipeline_folder, tmp_path):
    corpus = shutil.copytree(toy_corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("cache"))
    for steps in (2, 3):
        loop = toy_loop(
            steps=steps, device="cuda", autocast="bfloat16", cache=False, gradient_checkpointing=True, sample_every=3
        )
        if what == "teacher":
            config = toy_teacher(loop=loop, pixel_max_sigma=1.0, lora_rank=lora_rank, init=tiny_pipeline_folder)
            train_teacher(config, tmp_path / "run", corpus, tiny_pipeline_folder)
        else:
            distill(toy_distill(loop=loop, lora_rank=lora_rank), tmp_path / "run", corpus, tiny_pipeline_folder)
    lines = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    losses = [line["fm" if what == "teacher" else "dmd"] for line in lines if "seconds_per_step" in line]
    assert len(losses) == 3
    assert all(map(math.isfinite, losses))
    assert (tmp_path / "run" / "samples" / "step-000003.mp4").exists()
