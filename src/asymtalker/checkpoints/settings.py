"""Settings of the commands that make a checkpoint for use: ``assemble`` and ``convert``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asymtalker.config import IdentityStrategy


@dataclass(frozen=True, kw_only=True)
class Assemble:
    """Put trained parts together into a checkpoint for use."""

    vae: Path
    """Folder of the codec, such as RUN/vae."""
    audio: Path
    """Folder with audio_encoder/ and feature_extractor/."""
    transformer: Path
    """Folder of the transformer, such as RUN/transformer; the settings in its run's folder tell the chunk and, of a
    student, the steps, the shift and the fresh noise."""
    out: Path
    """Checkpoint folder to write."""
    recipe: str = "tiny"
    """Recipe the parts were trained by; gives the guidance, the identity strategy and what no run tells."""
    identity: IdentityStrategy | None = None
    """How the portrait enters the transformer; the recipe's by default."""
    image_encoder: Path | None = None
    """For clip and vtp: folder of the image encoder."""
    steps: int | None = None
    """Denoising steps per chunk; by default the run's, else the recipe's."""
    guidance: float | None = None
    """Audio guidance; the recipe's by default."""
    renew_noise: bool | None = None
    """Whether each step draws fresh noise, as a distilled student expects; by default the run's, else the recipe's."""
    size: str = "256"
    """HEIGHTxWIDTH of the video in pixels, or one number for a square, unless asymtalker generate says another."""
    name: str = "asymtalker-tiny"
    """Name of the checkpoint, written into every video it makes."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision the weights are stored in."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Make a checkpoint to train from, of Wan2.1's weights and a wav2vec2 encoder."""

    wan: str
    """Folder or hub id of a Wan2.1 checkpoint of diffusers, such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."""
    wav2vec: str
    """Folder or hub id of a wav2vec2 encoder, such as facebook/wav2vec2-base-960h."""
    out: Path
    """Checkpoint folder to write, for --model and --config.init of asymtalker train."""
    recipe: str = "wan_1_3b"
    """Recipe it is to be trained by; gives the chunk, the sampling and the identity strategy."""
    identity: IdentityStrategy | None = None
    """How the portrait enters the transformer; the recipe's by default."""
    image_encoder: Path | None = None
    """For clip and vtp: folder of the image encoder."""
    size: str = "512"
    """HEIGHTxWIDTH of the video in pixels, or one number for a square, unless asymtalker generate says another."""
    name: str = "asymtalker-init"
    """Name of the checkpoint."""
    seed: int = 0
    """Of the weights that are new."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Precision the weights are stored in."""
