"""Servers on ports of their own. What makes their videos is small, so that tests load no model: real files
all the same, as long as the sound, written and streamed as a pipeline's are."""

import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from asymtalker.media.sound import AudioFile
from asymtalker.media.video import VideoWriter
from asymtalker.serve.app import create_app
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Limits, Serve
from asymtalker.timeline import frames_of_samples

DEMO = Path(__file__).parents[1] / "src" / "asymtalker" / "assets" / "demo"


class SmallMaker:
    """Shows the portrait, brighter and darker; ``pace`` seconds a frame."""

    def close(self) -> None:
        """Holds nothing."""

    def __init__(self, pace: float = 0.0):
        self.pace, self.made = pace, list[str]()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, order: Any, live: Any, progress: Callable[[int, int], None], say: Callable) -> None:
        picture = np.asarray(Image.open(order.portrait).convert("RGB").resize((64, 64)))
        audio = AudioFile(order.sound)
        total, track = frames_of_samples(audio.num_samples), audio.track()
        self.made.append(order.output.parent.name)
        self.go.wait(30)
        metadata = {"title": "AI-generated talking head video"}
        with VideoWriter(
            order.output, (64, 64), audio_rate=track.rate, audio_channels=track.channels, metadata=metadata, live=live
        ) as writer:
            for frame in range(total):
                writer.write((picture * (0.6 + 0.4 * np.cos(frame / 3))).astype(np.uint8)[None])
                writer.write_audio(track.take_until(writer.seconds))
                progress(frame + 1, total)
                time.sleep(self.pace)


@contextmanager
def running(app: Any) -> Iterator[str]:
    """A server's address, on this machine, while it serves an application."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def served(
    folder: Path, make: Any = None, token: str | None = None, page: bool = False, limits: Limits | None = None, **more
) -> Iterator[tuple[httpx.Client, Service]]:
    """A client of a server that is ready, and what the server stands on."""
    settings = replace(Serve(data=folder), limits=limits or Limits(), **more)
    service = Service(settings, make or SmallMaker())
    app = create_app(service, token)
    if page:
        from asymtalker.serve.page import mount_page

        mount_page(app, service)
    with running(app) as address, httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        assert service.ready.wait(60)
        yield client, service


def speech(seconds: float = 0.6, rate: int = 16_000) -> bytes:
    """A WAV of a tone."""
    samples = np.sin(np.arange(int(seconds * rate)) * 0.05) * 0.3
    file = BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, rate, 0, "NONE", ""))
        sound.writeframes((samples * 32767).astype("<i2").tobytes())
    return file.getvalue()


PORTRAIT = (DEMO / "portrait.png").read_bytes()


def ask(
    client: httpx.Client, /, path: str = "/v1/jobs", *, files: dict | None = None, **fields: Any
) -> httpx.Response:
    """A job, by default one that is taken."""
    given = {"portrait": PORTRAIT, "sound": speech()} | (files or {})
    headers = {"X-Client": fields.pop("client")} if "client" in fields else {}
    data = {"consent": "true", **{name: str(value) for name, value in fields.items()}}
    sent = {name: value for name, value in given.items() if value is not None}
    return client.post(path, data=data, files=sent, headers=headers)


def wait_for(client: httpx.Client, id: str, *states: str, seconds: float = 60) -> dict[str, Any]:
    """A job once it is in one of some states, by default any in which it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = client.get(f"/v1/jobs/{id}").json()
        if job.get("state") in (states or ("done", "failed", "cancelled")):
            return job
        time.sleep(0.03)
    raise AssertionError(f"the job is still {job}")
