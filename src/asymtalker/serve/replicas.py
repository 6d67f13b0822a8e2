"""The same jobs made on Ray Serve: replicas that hold a pipeline each, on one machine or a cluster, as many as wait.

Clients see one address, that of the server, which keeps all records and files: replicas are given bytes and give bytes
back, so no file system has to be shared.
"""

import asyncio
import queue
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError

from asymtalker.config import InferenceConfig
from asymtalker.errors import UserError
from asymtalker.media.video import Follower
from asymtalker.serve.settings import Serve, replica_range
from asymtalker.serve.worker import LostError, Order, StoppedError

APPLICATION = "asymtalker"
BLOCK = 1 << 20  # bytes of a finished video that are sent at a time
EVENTS = 256
"""That may wait for a slow connection; then the video waits."""
DOWNSCALE_SECONDS = 60.0
"""How long a replica stays without work, above the least number."""


class Replica:
    """Makes one video at a time, on a pipeline of its own.

    Args:
        model: checkpoint folder, which has to be on its machine, or a model of the hub; ``None`` is the bundled one.
        device: where to run.
        inference: how it is fitted to the machine.
    """

    def __init__(self, model: str | None, device: str, inference: InferenceConfig):
        from asymtalker.serve.making import LocalMaker  # only where videos are made

        self._make = LocalMaker(model, device, inference)
        self._make.warm_up()

    async def make(self, portrait: bytes, sound: bytes, options: dict[str, Any]) -> AsyncIterator[tuple[str, Any]]:
        """What happens while a video is made, as it happens.

        Yields:
            ``("live", bytes)``, ``("progress", (done, total))``, ``("said", sentence)``; at last the finished file as
            ``("video", bytes)`` in pieces, or ``("refused", sentence)``.
        """
        events: queue.Queue[tuple[str, Any] | None] = queue.Queue(EVENTS)
        wanted = threading.Event()
        wanted.set()
        with tempfile.TemporaryDirectory() as folder:
            work = asyncio.get_running_loop().run_in_executor(
                None, self._work, Path(folder), portrait, sound, options, events, wanted
            )
            try:
                while (event := await asyncio.to_thread(events.get)) is not None:
                    yield event
                await work
            finally:
                wanted.clear()  # nobody listens any more
                while not work.done():
                    while not events.empty():
                        events.get_nowait()
                    await asyncio.wait([work], timeout=0.05)

    def _work(
        self,
        folder: Path,
        portrait: bytes,
        sound: bytes,
        options: dict[str, Any],
        events: "queue.Queue[tuple[str, Any] | None]",
        wanted: threading.Event,
    ) -> None:
        order = Order(
            portrait=folder / "portrait.png", sound=folder / "sound.wav", output=folder / "video.mp4", options=options
        )
        order.portrait.write_bytes(portrait)
        order.sound.write_bytes(sound)

        def progress(done: int, total: int) -> None:
            if not wanted.is_set():
                raise StoppedError
            events.put(("progress", (done, total)))

        try:
            self._make(order, _Told(events), progress, lambda sentence: events.put(("said", sentence)))
            with order.output.open("rb") as file:
                while wanted.is_set() and (block := file.read(BLOCK)):
                    events.put(("video", block))
        except UserError as error:
            said = str(error).replace(str(order.portrait), "the picture").replace(str(order.sound), "the sound")
            events.put(("refused", said))
        except StoppedError:
            pass
        finally:
            events.put(None)


class _Told:
    """A file whose bytes are events."""

    def __init__(self, events: "queue.Queue[tuple[str, Any] | None]"):
        self._events = events

    def write(self, data: bytes) -> int:
        self._events.put(("live", bytes(data)))
        return len(data)


class RayMaker:
    """Has videos made by replicas; a :class:`~asymtalker.serve.worker.Maker`.

    Args:
        settings: where Ray is, the replicas and what they load.

    Raises:
        UserError: if Ray can't be reached, or has no room for the replicas.
    """

    def __init__(self, settings: Serve):
        least, most = replica_range(settings.replicas)
        self._keeper = ThreadPoolExecutor(1)  # processes that Ray starts are killed when the thread ends that began it
        begin = partial(ray.init, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
        try:
            self._keeper.submit(begin, settings.ray).result()
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"Ray can't be reached at {settings.ray}: {error}") from error
        deployment = serve.deployment(
            name="maker",
            max_ongoing_requests=1,  # a pipeline's networks work for one at a time
            ray_actor_options={"num_cpus": settings.replica_cpus, "num_gpus": settings.replica_gpus},
            num_replicas=least if least == most else None,
            autoscaling_config=None
            if least == most
            else {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": 1,
                "upscale_delay_s": 1,
                "downscale_delay_s": DOWNSCALE_SECONDS,
            },
        )(Replica)
        serve.start(proxy_location="Disabled")  # clients come to the server's own address
        application = deployment.bind(settings.model, settings.device, settings.inference)
        try:
            handle = serve.run(application, name=APPLICATION, route_prefix=None)
        except RuntimeError as error:
            raise UserError(f"The replicas did not start: {error}") from error
        self._handle = handle.options(stream=True)

    def __call__(
        self,
        order: Order,
        live: Follower,
        progress: Callable[[int, int], None],
        say: Callable[[str], None],
    ) -> None:
        """See :class:`~asymtalker.serve.worker.Maker`.

        Raises:
            LostError: if the replica is lost meanwhile.
        """
        answers: Any = self._handle.make.remote(order.portrait.read_bytes(), order.sound.read_bytes(), order.options)
        unfinished, whole = order.output.with_suffix(".part"), False
        try:
            with unfinished.open("wb") as video:
                for kind, value in answers:
                    if kind == "live":
                        live.write(value)
                    elif kind == "progress":
                        progress(*value)
                    elif kind == "said":
                        say(value)
                    elif kind == "refused":
                        raise UserError(value)
                    else:
                        video.write(value)
                        whole = True
            if not whole:
                raise LostError("the replica gave no video")
            unfinished.replace(order.output)
        except RayError as error:
            raise LostError("a replica was lost") from error
        except BaseException:
            answers.cancel()
            raise
        finally:
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """End the replicas, and Ray where it was started here."""
        serve.shutdown()
        ray.shutdown()
        self._keeper.shutdown()
