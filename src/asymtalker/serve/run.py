"""The ``serve`` verb: a server from its settings, until it is stopped."""

import io
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from types import FrameType

import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.provenance.disclosure import AS_USUAL
from asymtalker.provenance.marks import Marks
from asymtalker.provenance.origin import TITLE
from asymtalker.serve.app import create_app
from asymtalker.serve.live import live_router
from asymtalker.serve.relays import Relays
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Serve, chosen_token, replica_range
from asymtalker.serve.stage import Stage

CONNECTIONS = 400
"""At once; what is beyond is told to come again."""


def serve(settings: Serve) -> None:
    """Serve until Ctrl-C or SIGTERM; what is being made then, or at a kill, is made again after the next start.

    Raises:
        UserError: if it can't listen there, others could reach it without a token, or options don't go together.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("httpx", "httpx2", "aioice"):  # Gradio's calls to itself, and addresses of who calls
        logging.getLogger(name).setLevel(logging.WARNING)
    token, relays = chosen_token(settings), Relays.chosen(settings.ice_servers)
    if settings.ray is not None and find_spec("ray") is None:
        raise UserError("--ray needs Ray: pip install -c constraints.txt '.[serve,ray]'.")
    if settings.ray is not None and settings.ice_servers:
        raise UserError("--ice-servers are for live sessions, which there are none of with --ray.")
    listening = listen(settings.host, settings.port)
    if settings.ray is None and replica_range(settings.replicas) != (1, 1):
        raise UserError("--replicas needs --ray: without it one process makes one video at a time.")
    service = Service(settings)
    live = settings.ray is None  # on the model in this process
    app = create_app(service, token, partial(add_live, relays=relays) if live else None)
    if settings.page:
        from asymtalker.serve.page import mount_page  # and with it Gradio, which takes seconds to import

        mount_page(app, service, live)
    host, port = listening.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,  # of addresses and of ids, by which videos can be had
        server_header=False,
        proxy_headers=settings.proxy is not None,
        forwarded_allow_ips=settings.proxy,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=3,
    )
    with listening:
        _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ctrl-C ends it in order, which waits for a model that is being loaded; once more, and it ends at once."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See :class:`uvicorn.Server`."""
        if self.should_exit and sig == signal.SIGINT:
            print("asymtalker: stopped by Ctrl-C.", file=sys.stderr, flush=True)
            os._exit(128 + sig)  # what was being made is made again, as after a kill
        super().handle_exit(sig, frame)


def add_live(app: FastAPI, service: Service, relays: Relays = Relays()) -> None:  # noqa: B008
    """Live sessions on the pipeline that makes the jobs' videos."""
    stages: list[Stage] = []

    def stage() -> Stage:
        from asymtalker.serve.making import LocalMaker  # takes seconds to import

        if not isinstance(service.maker, LocalMaker):
            raise UserError("The model is still being loaded: try again in a moment.")
        if not stages:
            stages.append(Stage(service.maker.pipeline, marks=_watermarking))
        return stages[0]

    def decode(sent: bytes) -> np.ndarray:
        with service.uploads.kept(io.BytesIO(sent)) as upload:
            made = service.uploads.picture(upload).path
        try:
            return np.asarray(Image.open(made).convert("RGB"))
        finally:
            made.unlink(missing_ok=True)

    app.include_router(live_router(stage, decode=decode, tags={"title": TITLE}, relays=relays))


def _watermarking() -> Callable[[np.ndarray], np.ndarray]:
    """Marks the pictures of one session with a number of its own."""
    number, marks = secrets.randbits(48), list[Marks]()

    def draw(picture: np.ndarray) -> np.ndarray:
        if not marks:
            marks.append(Marks(AS_USUAL, number, picture.shape[:2]))
        return marks[0].draw(picture)

    return draw


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: if the address is none of this machine's, or taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except (OSError, OverflowError) as error:
        with suppress(OSError):
            listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"Can't listen on {host}:{port} ({reason}): choose another --host or --port.") from error
    return listening
