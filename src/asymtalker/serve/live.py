"""Live sessions over a network: a WebSocket, WebRTC, and a page that uses it.

**WebSocket** ``/v1/live``. Text messages are JSON objects with a ``type``, binary ones are media.

1. The client sends ``{"type": "start", "portrait": BASE64 OF A PICTURE FILE, "consent": true}`` and, if it likes,
   ``size`` (256), ``seed`` (0), ``face``, ``crop`` (true), ``motion`` (1), ``gaze`` ("free"), ``blinks`` (true),
   ``rate`` (16000) of its sound, ``spoken`` (true: the sound comes as it is spoken; false: sooner, as a text-to-speech
   service gives it) and ``video``: ``"mp4"`` (fragments of H.264 and AAC, for MediaSource) or ``"jpeg"``.
2. The server answers ``{"type": "ready", "width", "height", "fps", "mime"}``, or ``{"type": "error", "detail"}`` and
   closes: 1008 what is asked for can't be done, 1013 the machine is full.
3. The client sends sound: PCM of 16 bits, little-endian, mono, in pieces of any length; ``{"type": "interrupt"}`` to
   have it fall silent, ``{"type": "end"}`` when there is no more to say.
4. The server sends the video in time, silence included. As ``"mp4"`` binary messages are the file's next bytes; as
   ``"jpeg"`` each is a byte, 1 for a JPEG picture and 2 for its sound (PCM as above, 640 samples at 16 kHz), the
   frame's number in four bytes, most significant first, and the data. Every two seconds comes ``{"type": "latency",
   "median", "p95", "frames", "stalls", "stalled", "needs", "lost"}``, times in milliseconds, the first two from sound
   in to picture out; after the last frame ``{"type": "end"}``.

**WebRTC**: ``POST /v1/live/offer`` with the fields of ``start`` and ``sdp``, the browser's offer of a microphone and a
data channel, which wants sound and picture; the answer is ``{"sdp", "type", "width", "height"}``. The figures come by
the data channel, and ``interrupt`` goes by it. ``GET /v1/live/ice`` gives ``{"iceServers"}`` for the browser's side.

Who may ask is decided by what the router is given; it listens nowhere by itself.
"""

import asyncio
import base64
import binascii
import contextlib
import io
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Literal

from fastapi import APIRouter, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse
from PIL import Image
from pydantic import BaseModel, Field, ValidationError
from starlette.websockets import WebSocketState

from asymtalker.errors import UserError
from asymtalker.generate.inputs import Picture
from asymtalker.models.motion.control import MOST, MotionControl
from asymtalker.serve.conversation import Answer
from asymtalker.serve.flow import Ear, flow, pcm16
from asymtalker.serve.fragments import MIME, Fragments
from asymtalker.serve.relays import Relays
from asymtalker.serve.rtc import Caller
from asymtalker.serve.session import Moment, Portrait, Session
from asymtalker.serve.stage import FullError, Stage
from asymtalker.timeline import FPS, SAMPLE_RATE

REFUSED, FULL = 1008, 1013  # WebSocket's codes
REPORTED_EVERY = 2.0  # seconds
MOST_SIDE = 1280
LARGEST_PICTURE = 16 << 20  # bytes
LARGEST_PIECE = 1 << 20
START_WITHIN = 10.0
"""Seconds in which a client has to say what it wants."""
JPEG_QUALITY = 85
CONSENT = "Declare consent: the people seen and heard agree to be animated, and whoever watches is told."


class Start(BaseModel):
    """What a client asks for."""

    type: Literal["start"] = "start"
    portrait: str = Field(max_length=LARGEST_PICTURE * 4 // 3, description="A picture file in base64.")
    consent: bool = False
    size: int = Field(256, ge=64, le=MOST_SIDE, description="Pixels of the picture's sides, or of its longer one.")
    seed: int = Field(0, ge=0, le=2**31 - 1)
    face: int | None = Field(None, ge=1)
    crop: bool = True
    motion: float = Field(1.0, ge=0, le=MOST)
    gaze: Literal["free", "camera"] = "free"
    blinks: bool = True
    rate: int = Field(SAMPLE_RATE, ge=8_000, le=192_000)
    spoken: bool = True
    video: Literal["mp4", "jpeg"] = "mp4"

    def who(self, decode: Callable[[bytes], Picture]) -> Portrait:
        """Whom to show.

        Raises:
            UserError: if there is no consent or no picture.
        """
        if not self.consent:
            raise UserError(CONSENT)
        try:
            picture = base64.b64decode(self.portrait, validate=True)
        except binascii.Error as error:
            raise UserError("The portrait is no base64.") from error
        side = self.size - self.size % 2
        control = MotionControl(motion=self.motion, gaze=self.gaze, blinks=self.blinks)
        image = decode(picture)
        return Portrait(
            image=image, seed=self.seed, face=self.face, crop=self.crop, size=(side, side), control=control
        )


class Offer(Start):
    """What a browser asks for, with its half of a connection."""

    sdp: str = Field(max_length=1 << 16)


class Ice(BaseModel):
    """What a browser's ``RTCPeerConnection`` is made with."""

    iceServers: list[dict[str, Any]]


class Agreed(BaseModel):
    """The other half."""

    sdp: str
    type: str
    width: int
    height: int


def live_router(
    stage: Callable[[], Stage],
    *,
    dependencies: Sequence[Any] = (),
    decode: Callable[[bytes], Picture] = bytes,
    answer: Answer | None = None,
    tags: Mapping[str, str] | None = None,
    relays: Relays = Relays(),  # noqa: B008
) -> APIRouter:
    """The routes of live sessions, to be included in an application.

    Args:
        stage: gives what opens sessions, once the model is loaded.
        dependencies: FastAPI's, of all routes: who may ask.
        decode: makes a picture of a file that a stranger sent, or raises a ``UserError``.
        answer: what the head answers to what is said into a microphone; by default it says that itself.
        tags: of the MP4.
        relays: for WebRTC.
    """
    callers: set[Caller] = set()

    @contextlib.asynccontextmanager
    async def hanging_up(_: object) -> AsyncIterator[None]:
        yield
        await asyncio.gather(*(caller.close() for caller in list(callers)))

    router = APIRouter(dependencies=list(dependencies), lifespan=hanging_up)

    async def opened(start: Start) -> Session:
        portrait = await asyncio.to_thread(start.who, decode)
        return await asyncio.to_thread(stage().open, portrait, keeps_up=start.spoken and answer is None)

    @router.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, TimeoutError):
            try:
                start = Start.model_validate(await asyncio.wait_for(socket.receive_json(), START_WITHIN))
                session = await opened(start)
            except (UserError, ValidationError, ValueError, KeyError) as error:
                await _refuse(socket, error)
                return
            await _Live(socket, session, start, tags).run()

    @router.post("/v1/live/offer", response_model=Agreed)
    async def offer(request: Request, wanted: Offer) -> Agreed:
        try:
            session = await opened(wanted)
        except FullError as error:
            raise HTTPException(503, str(error), {"Retry-After": "10"}) from error
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        caller = Caller(session, answer, relays.ice_servers())
        callers.add(caller)
        caller.when_gone(lambda: callers.discard(caller))
        agreed = await _agreed(caller, wanted.sdp)
        if await request.is_disconnected():  # while it was opened; it would be held open for who never comes
            await caller.close()
        return agreed

    router.add_api_route("/v1/live/ice", lambda: Ice(iceServers=relays.ice_servers()), response_model=Ice, name="ice")

    @router.get("/live", response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return resources.files("asymtalker").joinpath("serve", "live.html").read_text("utf-8")

    return router


async def _agreed(caller: Caller, offer: str) -> Agreed:
    try:
        sdp, kind = await caller.agree(offer)
    except BaseException as error:
        await caller.close()
        if not isinstance(error, ValueError):
            raise
        raise HTTPException(422, "The offer is none of a microphone and a data channel.") from error
    height, width = caller.session.size
    return Agreed(sdp=sdp, type=kind, width=width, height=height)


async def _refuse(socket: WebSocket, error: Exception) -> None:
    full = isinstance(error, FullError)
    said = str(error) if isinstance(error, UserError) else "The first message is no start message."
    if isinstance(error, ValidationError):
        said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:3])
    await socket.send_json({"type": "error", "detail": said})
    await socket.close(FULL if full else REFUSED)


class _Live:
    """A session at a WebSocket."""

    def __init__(self, socket: WebSocket, session: Session, start: Start, tags: Mapping[str, str] | None):
        self._socket, self._session, self._start = socket, session, start
        self._ear = Ear(start.rate)
        self._fragments = Fragments(session.size, tags) if start.video == "mp4" else None

    async def run(self) -> None:
        """Until either side ends it."""
        height, width = self._session.size
        mime = MIME if self._fragments else "image/jpeg"
        ready = {"type": "ready", "width": width, "height": height, "fps": FPS, "mime": mime}
        sending = asyncio.create_task(self._send(ready))
        receiving = asyncio.create_task(self._receive())
        try:
            done, _ = await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
            if receiving in done and receiving.exception() is None and receiving.result():
                await sending
            for task in done:
                if isinstance(error := task.exception(), UserError):
                    await self._socket.send_json({"type": "error", "detail": str(error)})
        finally:
            for task in (sending, receiving):
                task.cancel()
            await asyncio.gather(sending, receiving, return_exceptions=True)
            await asyncio.to_thread(self._session.close)
            if self._socket.application_state is WebSocketState.CONNECTED:
                with contextlib.suppress(RuntimeError):
                    await self._socket.close()

    async def _receive(self) -> bool:
        """Hear until there is no more to be said: true, or until the client has gone: false."""
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return False
            if data := message.get("bytes"):
                await self._say(data)
            elif self._control(message.get("text") or ""):
                return True

    async def _say(self, data: bytes) -> None:
        if len(data) > LARGEST_PIECE:
            raise UserError(f"A piece of sound has at most {LARGEST_PIECE} bytes.")
        while not self._session.room():  # the client is then not read, and has to wait too
            await asyncio.sleep(0.02)
        self._session.push(self._ear.hear(data))

    def _control(self, text: str) -> bool:
        """Do what a text message says. Returns whether it is the last."""
        try:
            kind = json.loads(text)["type"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError("A text message is a JSON object with a type.") from error
        if kind == "interrupt":
            self._ear.rest()
            self._session.interrupt()
        elif kind == "end":
            self._session.push(self._ear.rest())
            self._session.end()
            return True
        else:
            raise UserError("The type of a text message is interrupt or end.")
        return False

    async def _send(self, ready: dict[str, Any]) -> None:
        await self._socket.send_json(ready)
        reported = asyncio.get_running_loop().time()
        moments = flow(self._session)
        async with contextlib.aclosing(moments):
            async for moment in moments:
                for data in await asyncio.to_thread(self._encoded, moment):
                    await self._socket.send_bytes(data)
                now = asyncio.get_running_loop().time()
                if now - reported > REPORTED_EVERY:
                    reported = now
                    await self._socket.send_json({"type": "latency", **self._session.latency.report().plain()})
        if self._fragments and (data := self._fragments.close()):
            await self._socket.send_bytes(data)
        await self._socket.send_json({"type": "end"})

    def _encoded(self, moment: Moment) -> list[bytes]:
        if self._fragments is not None:
            data = self._fragments.add(moment)
            return [data] if data else []
        picture = io.BytesIO()
        Image.fromarray(moment.picture).save(picture, "JPEG", quality=JPEG_QUALITY)
        number = moment.number.to_bytes(4, "big")
        return [b"\1" + number + picture.getvalue(), b"\2" + number + pcm16(moment.sound)]
