"""The ``serve`` verb: a server from its settings, until it is stopped."""

import logging
import socket
from contextlib import suppress

import uvicorn

from asymtalker.errors import UserError
from asymtalker.serve.app import create_app
from asymtalker.serve.page import mount_page
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Serve, chosen_token, replica_range

CONNECTIONS = 400
"""At once; what is beyond is told to come again."""


def serve(settings: Serve) -> None:
    """Serve until Ctrl-C or SIGTERM; what is being made then, or at a kill, is made again after the next start.

    Raises:
        UserError: if it can't listen there, or others could reach it without a token.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)  # Gradio's calls to itself
    token = chosen_token(settings)
    listening = listen(settings.host, settings.port)
    if settings.ray is None and replica_range(settings.replicas) != (1, 1):
        raise UserError("--replicas needs --ray: without it one process makes one video at a time.")
    service = Service(settings)
    app = create_app(service, token)
    if settings.page:
        mount_page(app, service)
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
        uvicorn.Server(config).run(sockets=[listening])


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
