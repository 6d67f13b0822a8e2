"""A person who calls by WebRTC: microphone in, picture and voice out, figures by a data channel."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError

from asymtalker.serve.conversation import Answer, Conversation
from asymtalker.serve.flow import flow, pcm16
from asymtalker.serve.session import Moment, Session
from asymtalker.timeline import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

log = logging.getLogger("asymtalker.serve")
VIDEO_CLOCK = 90_000
REPORTED_EVERY = 2.0  # seconds
COMES_WITHIN = 20.0  # seconds
WAITING = 10
"""Moments that wait for a slow connection; older ones are dropped."""


class _Track(MediaStreamTrack):
    """Moments of a session, as one of its two tracks gives them."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.waiting: asyncio.Queue[Moment | None] = asyncio.Queue()

    def put(self, moment: Moment | None) -> None:
        """Let a moment be sent; ``None`` is the last."""
        while self.waiting.qsize() >= WAITING:
            self.waiting.get_nowait()
        self.waiting.put_nowait(moment)

    async def recv(self) -> av.VideoFrame | av.AudioFrame:
        moment = await self.waiting.get()
        if moment is None:
            self.stop()
            raise MediaStreamError
        if self.kind == "video":
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(moment.picture), format="rgb24")
            frame.pts, frame.time_base = moment.number * (VIDEO_CLOCK // FPS), Fraction(1, VIDEO_CLOCK)
            return frame
        samples = np.frombuffer(pcm16(moment.sound), np.int16)[None]
        sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        sound.sample_rate, sound.pts = SAMPLE_RATE, moment.number * SAMPLES_PER_FRAME
        sound.time_base = Fraction(1, SAMPLE_RATE)
        return sound


class Caller:
    """One connection and its session, which ends with it.

    Args:
        session: is closed when the caller has gone.
        answer: see :class:`asymtalker.serve.conversation.Conversation`.
        ice_servers: see :meth:`asymtalker.serve.relays.Relays.ice_servers`; of each kind the first one is asked.
    """

    def __init__(self, session: Session, answer: Answer | None = None, ice_servers: Sequence[Mapping[str, Any]] = ()):
        self.session, self.conversation = session, Conversation(session, answer)
        servers = [RTCIceServer(**server) for server in ice_servers]  # given none at all, aiortc asks one of Google's
        self._connection = RTCPeerConnection(RTCConfiguration(servers))
        self._relayed = any(server.username for server in servers)
        self._picture, self._voice = _Track("video"), _Track("audio")
        self._tasks: set[asyncio.Task[None]] = set()
        self._gone: Callable[[], None] = lambda: None
        self._closed = False

    def when_gone(self, gone: Callable[[], None]) -> None:
        """Have something done when it is over."""
        self._gone = gone

    async def agree(self, sdp: str) -> tuple[str, str]:
        """Answer a browser's offer. Returns the answer and its type.

        Raises:
            ValueError: if it is no offer.
        """
        connection = self._connection
        if "m=audio" not in sdp or "m=video" not in sdp:
            raise ValueError("no microphone is offered, or no picture asked for")

        @connection.on("track")
        def _(track: MediaStreamTrack) -> None:
            if track.kind == "audio":
                self._begin(self._hear(track))

        @connection.on("datachannel")
        def _(channel: RTCDataChannel) -> None:
            channel.on("message", self._told)
            channel.on("close", self.close)
            self._begin(self._report(channel))

        @connection.on("connectionstatechange")
        async def _() -> None:
            if connection.connectionState == "connected":
                self._begin(self._show())
            elif connection.connectionState in ("failed", "closed"):
                await self.close()

        await connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        connection.addTrack(self._picture)
        connection.addTrack(self._voice)
        await connection.setLocalDescription(await connection.createAnswer())
        if self._relayed and "typ relay" not in connection.localDescription.sdp:
            log.warning("the TURN server gives no address: it can't be reached, or knows another secret")
        self._begin(self._give_up())
        return connection.localDescription.sdp, connection.localDescription.type

    async def _give_up(self) -> None:
        """Hang up where nobody has come."""
        await asyncio.sleep(COMES_WITHIN)
        if self._connection.connectionState in ("new", "connecting"):
            await self.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hear(self, track: MediaStreamTrack) -> None:
        convert = av.AudioResampler("flt", "mono", SAMPLE_RATE)
        with contextlib.suppress(MediaStreamError):
            while not self.session.over:
                for frame in convert.resample(cast(av.AudioFrame, await track.recv())):
                    if self.session.room():  # a microphone does not wait
                        self.conversation.hear(frame.to_ndarray().reshape(-1))

    def _told(self, message: str | bytes) -> None:
        if message == "interrupt":
            self.conversation.interrupt()

    async def _show(self) -> None:
        try:
            async with contextlib.aclosing(flow(self.session)) as moments:
                async for moment in moments:
                    self._picture.put(moment)
                    self._voice.put(moment)
        except Exception:
            log.exception("a live session failed")
        finally:
            self._picture.put(None)
            self._voice.put(None)
        await self.close()

    async def _report(self, channel: RTCDataChannel) -> None:
        while channel.readyState == "open" and not self.session.over:
            figures = self.session.latency.report().plain() | {"interruptions": self.conversation.interruptions}
            channel.send(json.dumps({"type": "latency", **figures}))
            await asyncio.sleep(REPORTED_EVERY)

    async def close(self) -> None:
        """Hang up."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self.session.close)
        await self._connection.close()
        for task in list(self._tasks):
            if task is not asyncio.current_task():
                task.cancel()
        self._gone()
