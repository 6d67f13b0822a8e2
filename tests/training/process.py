"""One process of several trainings. As a script, for torchrun: process.py CORPUS MODEL JOBS DIES_IN_STEP."""

import hashlib
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch

from asymtalker.commands.exits import exit_by
from asymtalker.dataset.cache import Encoder
from asymtalker.distill.loop import distill
from asymtalker.train import teacher as teacher_loop
from asymtalker.train.teacher import train_teacher
from toy import TOY_OPTIMIZER, toy_distill, toy_loop, toy_teacher


def train(what: str, run: str | Path, changes: dict, corpus: str | Path, model: str | Path) -> None:
    """Train a toy teacher or student of two micro-batches a step; ``changes`` are of its loop."""
    optimizer = replace(TOY_OPTIMIZER, ema_decay=0.5)  # the average follows the weights within few steps
    loop = toy_loop(**{"micro_batches": 2, "batch": 1} | changes)
    if what == "teacher":
        train_teacher(
            toy_teacher(loop=loop, pixel_max_sigma=1.0, optimizer=optimizer), Path(run), Path(corpus), Path(model)
        )
    else:
        distill(toy_distill(loop=loop, student=optimizer), Path(run), Path(corpus), Path(model))


def die_in_step(number: int) -> None:
    """Let this process be killed in its ``number``-th step."""
    real, calls = teacher_loop.optimizer_step, []

    def last(*arguments):
        calls.append(1)
        if len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)

    teacher_loop.optimizer_step = last


def be_stuck_in_step(number: int) -> None:
    """Let this process be where it handles no signals for some seconds, as in NCCL, in its ``number``-th step."""
    real, calls = teacher_loop.optimizer_step, []

    def stuck(*arguments):
        calls.append(1)
        if len(calls) == number:
            hashlib.pbkdf2_hmac("sha256", b"", b"", 8_000_000)
        return real(*arguments)

    teacher_loop.optimizer_step = stuck


def train_all(
    corpus: str | Path,
    model: str | Path,
    jobs: list,
    dies_in_step: int = 0,
    stuck_in_step: int = 0,
    dies_encoding: bool = False,
) -> None:
    """Do jobs ``[what, run, changes]`` one after the other. Bad input and signals go the way of the command line.

    Args:
        corpus: what is trained on.
        model: folder of the frozen networks.
        jobs: see :func:`train`.
        dies_in_step: in which the second process is killed.
        stuck_in_step: in which the first process handles no signals.
        dies_encoding: whether the second process is killed when it begins to encode.
    """
    torch.set_num_threads(1)
    first = os.environ["RANK"] == "0"
    if dies_in_step and not first:
        die_in_step(dies_in_step)
    if dies_encoding and not first:
        Encoder.latents = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if stuck_in_step and first:
        be_stuck_in_step(stuck_in_step)

    def work() -> None:
        for job in jobs:
            train(*job, corpus, model)

    exit_by(work)


if __name__ == "__main__":
    train_all(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]))
