"""What a server is told: where it listens, what it keeps for how long, and what it refuses."""

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from asymtalker.config import InferenceConfig
from asymtalker.errors import UserError
from asymtalker.media.registry import cache_dir

TOKEN_VARIABLE = "ASYMTALKER_TOKEN"
SHORTEST_TOKEN = 16

CONSENT = (
    "The people seen and heard agree to be animated, and whoever watches the video will be told that it is synthetic."
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused, so that no request takes more of the machine than this."""

    request_mb: float = 32.0
    """Of a request with all its files; what is longer is not read to its end."""
    request_seconds: float = 120.0
    """In which a request has to have arrived."""
    megapixels: float = 50.0
    """Of a picture, before it is decoded."""
    picture_side: int = 12_000
    """Pixels of a picture's longer side."""
    sound_seconds: float = 300.0
    """Longest sound, and so longest video."""
    text_characters: int = 2_000
    """Of a typed text."""
    video_side: int = 1280
    """Pixels of the longer side of a video."""
    decode_seconds: float = 20.0
    """Of a processor, to decode an upload; and twice as many on the clock."""
    decode_mb: float = 1_500.0
    """Memory to decode an upload, beyond what the decoder's own code takes."""
    decoders: int = 2
    """Uploads that are decoded at once."""
    waiting: int = 64
    """Jobs that wait or are being made."""
    waiting_each: int = 16
    """Those of one address."""
    kept: int = 1_000
    """Jobs in all, with those that are done."""
    free_mb: float = 1_024.0
    """Room on the disk under which nothing new is taken."""
    uploads_a_minute: float = 60.0
    """Of one address: jobs and files."""
    requests_a_minute: float = 3_000.0
    """Of one address: everything."""


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve a page and an API that make talking videos."""

    host: str = "127.0.0.1"
    """Address to listen on. Any but this machine's own needs a token."""
    port: int = 7860
    """0 takes a free one."""
    token: str | None = None
    """What clients have to know; better given as ASYMTALKER_TOKEN in the environment, which no list of processes
    shows."""
    proxy: str | None = None
    """Address of a reverse proxy, whose word on who asks is taken (X-Forwarded-For, X-Forwarded-Proto)."""
    ice_servers: tuple[str, ...] = ()
    """STUN and TURN servers, such as stun:HOST turn:HOST:3478, by which live sessions get through NAT and firewalls; a
    TURN server wants ASYMTALKER_TURN_SECRET or ASYMTALKER_TURN_LOGIN in the environment."""
    data: Path = field(default_factory=lambda: cache_dir() / "serve")
    """Folder of jobs, used by one server at a time."""
    video_hours: float = 24.0
    """How long a video and its record are kept after it is done."""
    upload_minutes: float = 60.0
    """How long a portrait and a voice are kept at most; they are deleted as soon as their video is done."""
    model: str | None = None
    """Checkpoint folder, or a model of the Hugging Face hub; the bundled one by default."""
    device: str = "auto"
    """"auto" takes a GPU if there is one, else the CPU."""
    page: bool = True
    """--no-page serves the API alone."""
    ray: str | None = None
    """Make videos on Ray: "local" starts it on this machine, an address such as auto or ray://HOST:10001 joins a
    cluster."""
    replicas: str = "1"
    """With --ray: how many make videos at once, 2 or, scaled by how many wait, 1-4."""
    replica_cpus: float = 1.0
    """With --ray: processors of each."""
    replica_gpus: float = 0.0
    """With --ray: GPUs of each."""
    limits: Annotated[Limits, tyro.conf.arg(name="limit")] = field(default_factory=Limits)
    inference: Annotated[InferenceConfig, tyro.conf.arg(name="")] = field(default_factory=InferenceConfig)


def is_loopback(host: str) -> bool:
    """Whether only this machine itself can reach an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def chosen_token(settings: Serve) -> str | None:
    """The token that clients have to know, if any.

    Raises:
        UserError: if there is none where others than this machine can reach the server, or it could be guessed.
    """
    token = settings.token or os.environ.get(TOKEN_VARIABLE) or None
    if token is None:
        if not is_loopback(settings.host):
            raise UserError(
                f"Listening on {settings.host} lets others in: set a token, such as"
                f" {TOKEN_VARIABLE}=$(python3 -c 'import secrets; print(secrets.token_urlsafe())')."
            )
        return None
    if len(token) < SHORTEST_TOKEN or not token.isascii():
        raise UserError(f"The token can be guessed: take {SHORTEST_TOKEN} ASCII characters or more.")
    return token


def replica_range(text: str) -> tuple[int, int]:
    """Least and most replicas of ``"2"`` or ``"1-4"``.

    Raises:
        UserError: if it is neither.
    """
    ends = text.split("-")
    if len(ends) > 2 or not all(end.isdecimal() and int(end) for end in ends) or int(ends[0]) > int(ends[-1]):
        raise UserError(f"--replicas is a number or a range such as 1-4, not {text}.")
    return int(ends[0]), int(ends[-1])
