"""Videos made in this process, on one loaded pipeline."""

import ctypes
import gc
import io
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from asymtalker.config import InferenceConfig
from asymtalker.generate.pipeline import load_pipeline
from asymtalker.media.sound import read_audio
from asymtalker.media.video import Follower
from asymtalker.models.motion.control import MotionControl
from asymtalker.provenance.disclosure import Disclosure
from asymtalker.serve.settings import CONSENT
from asymtalker.serve.worker import Order
from asymtalker.timeline import SAMPLE_RATE

log = logging.getLogger("asymtalker.serve")
WARM_SIZE = 512
"""Pixels of the video that warms up: what most are asked for in."""


class LocalMaker:
    """A :class:`~asymtalker.serve.worker.Maker` on a pipeline of its own, which others in the process may share.

    Args:
        model: checkpoint folder, or a model of the hub; ``None`` is the bundled one.
        device: where to run.
        inference: how it is fitted to the machine.

    Raises:
        UserError: if one of them cannot be used.
    """

    def __init__(self, model: str | None, device: str, inference: InferenceConfig):
        self.pipeline = load_pipeline(model, device, inference)

    def __call__(
        self,
        order: Order,
        live: Follower,
        progress: Callable[[int, int], None],
        say: Callable[[str], None],
    ) -> None:
        """See :class:`~asymtalker.serve.worker.Maker`."""
        options = order.options
        try:
            self.pipeline.generate_to_file(
                order.portrait,
                order.sound,
                order.output,
                seed=options["seed"],
                size=(options["size"], options["size"]),
                control=MotionControl(options["motion"], options["gaze"], options["blinks"]),
                disclosure=Disclosure(consent=f"Whoever asked for this video declared: {CONSENT}"),
                progress=progress,
                say=say,
                live=live,
            )
        finally:
            give_back_memory()

    def close(self) -> None:
        """See :class:`~asymtalker.serve.worker.Maker`; the process ends with it."""

    def warm_up(self) -> None:
        """Make a second of video of the bundled demo, in which threads start and kernels are chosen."""
        begin, demo = time.monotonic(), Path(str(resources.files("asymtalker"))) / "assets" / "demo"
        size = WARM_SIZE if self.pipeline.moves_pictures else min(self.pipeline.settings.size)
        with tempfile.TemporaryDirectory() as place:
            self.pipeline.generate_to_file(
                demo / "portrait.png",
                (read_audio(demo / "speech.wav")[:SAMPLE_RATE], SAMPLE_RATE),
                Path(place) / "video.mp4",
                size=(size, size),
                say=lambda sentence: None,
                live=io.BytesIO(),
            )
        log.info("warmed up in %.1f s", time.monotonic() - begin)


def give_back_memory() -> None:
    """Free what refers to itself, and have the C library return what was freed. Left to themselves Python looks for
    the one too seldom and glibc keeps the other, so that a server holds 2 MiB more after every video."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
