"""A video service for Pipecat: put it after the text-to-speech service of a pipeline (extra ``pipecat``).

    stage = Stage(AsymTalkerPipeline.from_pretrained())
    avatar = AsymTalkerVideoService(stage, Portrait(image="me.jpg", crop=True, size=(512, 512)))
    pipeline = Pipeline([transport.input(), stt, llm, tts, avatar, transport.output()])

Speech is taken and given out again with its pictures, so that transports show both in time; in silence the head goes
on listening. What a person says over it interrupts it, as Pipecat's interruption frames say.
"""

import asyncio
from typing import Any

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    OutputImageRawFrame,
    SpeechOutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
)
from pipecat.processors.frame_processor import FrameDirection
from pipecat.services.ai_service import AIService
from pipecat.services.settings import ServiceSettings

from asymtalker.serve.flow import Ear, flow, pcm16
from asymtalker.serve.session import Portrait, Session
from asymtalker.serve.stage import Stage
from asymtalker.timeline import SAMPLE_RATE


class AsymTalkerVideoService(AIService):
    """Pictures for a bot's voice.

    Args:
        stage: opens the session when the pipeline starts.
        portrait: who is seen.
        options: of Pipecat's service.
    """

    def __init__(self, stage: Stage, portrait: Portrait, **options: Any):
        super().__init__(**{"settings": ServiceSettings(model=None)} | options)
        self._stage, self._portrait = stage, portrait
        self._session: Session | None = None
        self._showing: asyncio.Task[None] | None = None
        self._ear = Ear()

    @property
    def session(self) -> Session | None:
        """The session, while the pipeline runs."""
        return self._session

    async def start(self, frame: StartFrame) -> None:
        """Open the session.

        Raises:
            UserError: if the picture can't be used or the machine is full.
        """
        await super().start(frame)
        self._session = await asyncio.to_thread(self._stage.open, self._portrait)
        self._showing = self.create_task(self._show(self._session))

    async def stop(self, frame: EndFrame) -> None:
        """Close it."""
        await super().stop(frame)
        await self._close()

    async def cancel(self, frame: CancelFrame) -> None:
        """Close it."""
        await super().cancel(frame)
        await self._close()

    async def _close(self) -> None:
        if self._session is not None:
            await asyncio.to_thread(self._session.close)
        if self._showing is not None:
            await self.cancel_task(self._showing)
        self._session = self._showing = None

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Speech is said, an interruption heeded, all else handed on."""
        await super().process_frame(frame, direction)
        session = self._session
        if isinstance(frame, TTSAudioRawFrame) and session is not None:
            if (frame.sample_rate, frame.num_channels) != (self._ear.rate, self._ear.channels):
                self._ear = Ear(frame.sample_rate, frame.num_channels)
            await self._say(session, self._ear.hear(frame.audio))
            return
        if isinstance(frame, TTSStoppedFrame) and session is not None:
            await self._say(session, self._ear.rest())
        elif isinstance(frame, InterruptionFrame) and session is not None:
            self._ear.rest()
            session.interrupt()
        await self.push_frame(frame, direction)

    @staticmethod
    async def _say(session: Session, samples: Any) -> None:
        while not session.room():
            await asyncio.sleep(0.02)
        session.push(samples)

    async def _show(self, session: Session) -> None:
        height, width = session.size
        async for moment in flow(session):
            picture = OutputImageRawFrame(image=moment.picture.tobytes(), size=(width, height), format="RGB")
            picture.pts = round(moment.seconds * 1e9)
            await self.push_frame(picture)
            if moment.sound.any():
                await self.push_frame(
                    SpeechOutputAudioRawFrame(audio=pcm16(moment.sound), sample_rate=SAMPLE_RATE, num_channels=1)
                )
