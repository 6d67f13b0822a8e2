"""One process of a training, started by torchrun: process.py CORPUS MODEL JOBS, each job ``[what, run, changes]``.

With ``DIES_IN_STEP`` in the environment the second process is killed in that step, with ``DIES_ENCODING`` when it
begins to encode; with ``STUCK_IN_STEP`` the first handles no signals in that step. Bad input and signals go the way of
the command line.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch

from asymtalker.commands.exits import exit_by
from asymtalker.dataset.cache import Encoder
from asymtalker.distill.loop import distill
from asymtalker.train import teacher as teacher_loop
from asymtalker.train.teacher import train_teacher
from toy import toy_distill, toy_loop, toy_teacher


def train(what: str, run: str | Path, changes: dict, corpus: str | Path, model: str | Path) -> None:
    """Train a toy teacher or student of two micro-batches a step; ``changes`` are of its loop."""
    loop = toy_loop(**{"micro_batches": 2, "batch": 1} | changes)
    if what == "teacher":
        train_teacher(toy_teacher(loop=loop, pixel_max_sigma=1.0), Path(run), Path(corpus), Path(model))
    else:
        distill(toy_distill(loop=loop), Path(run), Path(corpus), Path(model))


def train_all() -> None:
    for job in json.loads(sys.argv[3]):
        train(*job, sys.argv[1], sys.argv[2])


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


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "DIES_IN_STEP" in os.environ and os.environ["RANK"] == "1":
        die_in_step(int(os.environ["DIES_IN_STEP"]))
    if "DIES_ENCODING" in os.environ and os.environ["RANK"] == "1":
        Encoder.latents = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    if "STUCK_IN_STEP" in os.environ and os.environ["RANK"] == "0":
        be_stuck_in_step(int(os.environ["STUCK_IN_STEP"]))
    exit_by(train_all)
