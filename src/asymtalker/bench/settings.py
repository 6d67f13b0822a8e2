"""Settings of the commands that measure speed and memory: ``bench generate``, ``bench train`` and
``bench distill``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from asymtalker.config import InferenceConfig, Precision


@dataclass(frozen=True, kw_only=True)
class BenchGenerate:
    """Measure speed and memory of generation; says the figures, and writes them with the machine as JSON."""

    seconds: str = "10,60,600"
    """Lengths of audio, separated by commas; each is measured in a process of its own."""
    out: Path | None = None
    """The JSON file to write, such as benchmarks/results/name.json; by default nothing is written."""
    model: str | None = None
    """Checkpoint folder; the bundled one by default."""
    image: Path | None = None
    """A portrait; the bundled one by default."""
    audio: Path | None = None
    """Speech, repeated or cut to each length; the bundled one by default."""
    recipe: str | None = None
    """Measure networks of this recipe's size in place of a checkpoint; needs --random-weights."""
    random_weights: bool = False
    """With --recipe: a recipe has no weights, and speed does not depend on them."""
    size: str | None = None
    """HEIGHTxWIDTH of the video in pixels; by default what the checkpoint was made for, or of a recipe 512x512."""
    steps: int | None = None
    """Denoising steps per chunk; by default what the checkpoint or recipe was made for."""
    gpus: int = 1
    """Processes that share every chunk (context parallelism), one per GPU."""
    stock: bool = True
    """Measure diffusers' stock pipeline too, as a yardstick."""
    device: str = "auto"
    """"auto" takes a GPU if there is one, else the CPU."""
    inference: Annotated[InferenceConfig, tyro.conf.arg(name="")] = field(default_factory=InferenceConfig)


@dataclass(frozen=True, kw_only=True)
class _BenchSteps:
    recipe: str
    """Whose size and batch."""
    random_weights: bool = False
    """Always needed: there are no others."""
    size: str = "512x512"
    """HEIGHTxWIDTH of the frames in pixels."""
    out: Path | None = None
    """The JSON file to write, such as benchmarks/results/name.json; by default nothing is written."""
    steps: int = 5
    """Optimizer steps to take the median of, after two to warm up; of one micro-batch on each process."""
    batch: int | None = None
    """Samples of a micro-batch; by default the recipe's."""
    gradient_checkpointing: bool | None = None
    """By default the recipe's."""
    gpus: int = 1
    """Processes that share the weights (FSDP2), one per GPU."""
    device: str = "auto"
    """"auto" takes a GPU if there is one, else the CPU."""
    precision: Precision = "auto"
    """"auto" computes in bfloat16 on a GPU and on a processor that has instructions for it, in float32 on others."""


@dataclass(frozen=True, kw_only=True)
class BenchTrain(_BenchSteps):
    """Measure training steps of a recipe's teacher on random chunks; says the figures, and writes them with the
    machine as JSON."""


@dataclass(frozen=True, kw_only=True)
class BenchDistill(_BenchSteps):
    """Measure updates of a recipe's critic and student, after the longest rollouts, on random chunks; says the
    figures, and writes them with the machine as JSON."""
