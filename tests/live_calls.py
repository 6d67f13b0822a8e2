"""Live sessions that are served, and callers by WebRTC."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from fastapi import Depends, FastAPI, HTTPException
from fastapi.requests import HTTPConnection

from asymtalker.config import LiveConfig
from asymtalker.serve.flow import pcm16
from asymtalker.serve.live import live_router
from asymtalker.serve.stage import Stage
from small_server import running

LIVE = LiveConfig(frames=9, new=4, ahead=2, steps=1)
TOKEN = {"Authorization": "Bearer secret"}


def check(connection: HTTPConnection) -> None:
    if connection.headers.get("authorization") != TOKEN["Authorization"]:
        raise HTTPException(401, "Who are you?")


@contextmanager
def served_live(stage: Stage, **more) -> Iterator[str]:
    """A server of live sessions for those who know the token."""
    app = FastAPI()
    app.include_router(live_router(lambda: stage, dependencies=[Depends(check)], tags={"title": "synthetic"}, **more))
    with running(app) as address:
        yield address


class Microphone(MediaStreamTrack):
    """Gives samples at 48 kHz in time, and silence after them."""

    kind = "audio"

    def __init__(self, samples):
        super().__init__()
        self.samples, self.at, self.begun = samples, 0, time.monotonic()

    async def recv(self):
        await asyncio.sleep(max(0.0, self.begun + self.at / 48_000 - time.monotonic()))
        piece = np.zeros(960, np.float32)
        given = self.samples[self.at : self.at + 960]
        piece[: len(given)] = given
        frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm16(piece), np.int16)[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self.at, Fraction(1, 48_000)
        self.at += 960
        return frame


async def until(true, seconds=20.0) -> None:
    """Wait until something is so, or long enough."""
    for _ in range(round(seconds / 0.1)):
        if true():
            return
        await asyncio.sleep(0.1)


async def dial(address, asked, samples, told, how: RTCConfiguration | None = None):
    """A call: its connection, and the tracks that come by it."""
    caller, tracks = RTCPeerConnection(how or RTCConfiguration([])), {}
    caller.addTrack(Microphone(samples))
    caller.addTransceiver("video", direction="recvonly")
    channel = caller.createDataChannel("figures")
    channel.on("message", lambda message: told.append(json.loads(message)))
    caller.on("track", lambda track: tracks.setdefault(track.kind, track))
    await caller.setLocalDescription(await caller.createOffer())
    wanted = asked | {"sdp": caller.localDescription.sdp}
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{address}/v1/live/offer", json=wanted, headers=TOKEN)
    assert answer.status_code == 200, answer.text
    agreed = answer.json()
    assert (agreed["width"], agreed["height"]) == (96, 96)
    await caller.setRemoteDescription(RTCSessionDescription(agreed["sdp"], agreed["type"]))
    await until(lambda: len(tracks) == 2)
    return caller, tracks, channel
