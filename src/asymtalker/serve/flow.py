"""A session in an event loop: moments as they are due, sound in of any rate."""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import AsyncGenerator

import numpy as np
import soxr

from asymtalker.errors import UserError
from asymtalker.media.channels import PassingChannels
from asymtalker.serve.session import Moment, Session
from asymtalker.timeline import SAMPLE_RATE

WAITING_MOMENTS = 8
"""Moments that wait for a slow reader; then the session waits, and is late."""


async def flow(session: Session) -> AsyncGenerator[Moment, None]:
    """The moments of a session, when they are due; it is closed where its reader stops."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[Moment | BaseException | None] = asyncio.Queue(WAITING_MOMENTS)

    def read() -> None:
        last: BaseException | None = None
        with contextlib.suppress(RuntimeError, concurrent.futures.CancelledError):  # the loop is closed
            try:
                for moment in session.moments():
                    asyncio.run_coroutine_threadsafe(waiting.put(moment), loop).result()
            except Exception as error:  # for the reader
                last = error
            asyncio.run_coroutine_threadsafe(waiting.put(last), loop).result()

    reader = threading.Thread(target=read, name="moments", daemon=True)
    reader.start()
    try:
        while (item := await waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closing = loop.run_in_executor(None, session.close)
        while reader.is_alive():
            while not waiting.empty():
                waiting.get_nowait()
            await asyncio.sleep(0.01)
        await closing


class Ear:
    """Sound of any rate, piece by piece, as a session takes it.

    Args:
        rate: of what comes, in Hz.
        channels: of it, whose mean is heard, or the louder one where they cancel each other.

    Raises:
        UserError: if there is no such sound.
    """

    def __init__(self, rate: int = SAMPLE_RATE, channels: int = 1):
        if not 8_000 <= rate <= 192_000 or not 1 <= channels <= 8:
            raise UserError(f"Sound is of 8,000 to 192,000 Hz and of 1 to 8 channels, not {rate} and {channels}.")
        self.rate, self.channels = rate, channels
        self._channels = PassingChannels()
        self._stream = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")

    def hear(self, data: bytes) -> np.ndarray:
        """Samples ``(n,)`` float32 at 16 kHz of 16-bit ones, little-endian, interleaved.

        Raises:
            UserError: if the bytes are no whole samples.
        """
        if len(data) % (2 * self.channels):
            raise UserError("Sound is whole samples of 16 bits, little-endian.")
        piece = np.frombuffer(data, "<i2").reshape(-1, self.channels).astype(np.float32) / 32768
        samples = piece[:, 0] if self.channels == 1 else self._channels.mono(piece, self.rate)
        return samples if self._stream is None else self._stream.resample_chunk(samples)

    def rest(self) -> np.ndarray:
        """What resampling still holds back, where sound pauses."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        held = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream.clear()
        return held


def pcm16(samples: np.ndarray) -> bytes:
    """Samples of 16 bits, little-endian, of floats in [-1, 1]."""
    return (np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes()
