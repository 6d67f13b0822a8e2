"""What one video and many of a list are made with: the settings of ``generate``, checks, progress, the pipeline."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from asymtalker.config import InferenceConfig
from asymtalker.errors import UserError
from asymtalker.provenance.disclosure import Disclosure

if TYPE_CHECKING:  # takes seconds to import
    from rich.progress import Progress

    from asymtalker.generate.pipeline import AsymTalkerPipeline

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Make a talking video from a portrait and a voice, or many of a list."""

    image: Path | None = None
    """A photograph with a face (JPEG, PNG, WebP, HEIC ...)."""
    audio: Path | None = None
    """Speech: wav, mp3, m4a, flac, ogg, or a video with sound; of any length."""
    output: Path | None = None
    """The MP4 file to write. It is replaced if it exists."""
    jobs: Path | None = None
    """Instead of these three, a CSV file with the columns image, audio and output, paths from its own folder (of a
    pipe, from where you are), and as columns of the same names any of seed, steps, guidance, face, track, crop, size,
    motion, gaze, blinks, label, consent. What is done is not done again."""
    model: str | None = None
    """Checkpoint folder, or a model of the Hugging Face hub; the bundled one by default."""
    seed: int = 0
    """The same seed gives the same video on one machine."""
    steps: int | None = None
    """Denoising steps per chunk; by default what the checkpoint was made for."""
    guidance: float | None = None
    """Audio guidance, 1 is none; by default what the checkpoint was made for."""
    face: int | None = None
    """Which face, counted from 1, the largest (default)."""
    track: int | None = None
    """Which sound track, counted from 1; by default the one that the file says is its default."""
    crop: bool = False
    """Show what is around the face alone, not the whole picture: close, where the picture is. Where it does not hold
    the face in that shape its edge goes on, blurred."""
    size: str | None = None
    """Pixels that the video fits into, 720 or HEIGHTxWIDTH such as 640x416; a crop has just these. A model that makes
    pixels makes so many of the face. By default the picture's own size up to 1280; of a crop the model's."""
    motion: float = 1.0
    """How far head and upper face move: 0 rests, 1 is as made, 2 twice as far; lips and lids are as they are."""
    gaze: Literal["free", "camera"] = "free"
    """"camera" keeps the eyes on what they look at in the portrait, however the head turns."""
    blinks: bool = True
    """Blink as the model makes it; --no-blinks keeps the eyes as open as in the portrait."""
    device: str = "auto"
    """"auto" takes a GPU if there is one, else the CPU."""
    disclosure: Annotated[Disclosure, tyro.conf.arg(name="")] = field(default_factory=Disclosure)
    inference: Annotated[InferenceConfig, tyro.conf.arg(name="")] = field(default_factory=InferenceConfig)

    def request(self) -> dict[str, Any]:
        """Keywords of :meth:`asymtalker.generate.pipeline.AsymTalkerPipeline.generate_to_file`, without the paths.

        Raises:
            UserError: if a value is out of range.
        """
        from asymtalker.media.portrait import parse_size
        from asymtalker.models.motion.control import MotionControl

        return {
            "seed": self.seed,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "face": self.face,
            "track": self.track,
            "crop": self.crop,
            "size": parse_size(self.size) if self.size else None,
            "control": MotionControl(self.motion, self.gaze, self.blinks),
            "disclosure": self.disclosure,
        }


def check_paths(image: Path, audio: Path, output: Path) -> None:
    """Check that files are there and the output can be written.

    Raises:
        UserError: if not.
    """
    from asymtalker.media.read import check_file
    from asymtalker.media.video import check_output

    check_file(image, "picture")
    check_file(audio, "audio file")
    check_output(output)


def speaks() -> bool:
    """Whether this process, of several (torchrun), is the one that speaks; see distributed.world."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def progress_bars() -> Iterator["Progress"]:
    """Progress with an ETA on stderr, of the process that speaks; gone where a sentence ends the work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True, highlight=False, quiet=not speaks())
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console) as bars:
        try:
            yield bars
        except UserError:
            bars.live.transient = True
            bars.live.stop()
            console.quiet = True  # or away from a terminal an empty line would follow
            raise


def beside(bars: "Progress") -> Say:
    """What says a sentence beside the bars."""
    return lambda sentence: bars.console.print(sentence, markup=False)


def load(settings: Generate, bars: "Progress") -> "AsymTalkerPipeline":
    """The pipeline; where it runs is said beside the bars."""
    from asymtalker.generate.pipeline import load_pipeline  # takes seconds: after the first sign of life

    pipeline = load_pipeline(settings.model, settings.device, settings.inference)
    beside(bars)(pipeline.described())
    return pipeline
