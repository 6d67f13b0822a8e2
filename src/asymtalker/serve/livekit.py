"""An avatar for LiveKit Agents (extra ``livekit``), in LiveKit's own pattern:

    avatar = AvatarSession(Stage(AsymTalkerPipeline.from_pretrained()), Portrait(image="me.jpg", crop=True))
    await avatar.start(session, room=ctx.room)
    await session.start(agent=agent, room=ctx.room)

The head is made in the agent's own process, so that it joins no room of its own: the agent publishes its picture and
voice, in time with each other.
"""

import asyncio
from collections.abc import AsyncIterator

from livekit import rtc
from livekit.agents import AgentSession
from livekit.agents.voice.avatar import (
    AudioSegmentEnd,
    AvatarOptions,
    AvatarRunner,
    QueueAudioOutput,
    VideoGenerator,
)
from livekit.agents.voice.avatar import AvatarSession as BaseAvatarSession

from asymtalker.serve.flow import Ear, flow, pcm16
from asymtalker.serve.session import Portrait, Session
from asymtalker.serve.stage import Stage
from asymtalker.timeline import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME


class Head(VideoGenerator):
    """What LiveKit's runner asks for pictures: sound in, pictures and sound out.

    Args:
        session: makes them; it is closed by :meth:`aclose`.
    """

    def __init__(self, session: Session):
        self.session = session
        self._ear = Ear()
        self._ending = self._sounding = False

    @property
    def options(self) -> AvatarOptions:
        """What it gives."""
        height, width = self.session.size
        return AvatarOptions(
            video_width=width, video_height=height, video_fps=FPS, audio_sample_rate=SAMPLE_RATE, audio_channels=1
        )

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Say something; waits while too much is waiting to be said."""
        if isinstance(frame, AudioSegmentEnd):
            samples, self._ending = self._ear.rest(), True
        else:
            if (frame.sample_rate, frame.num_channels) != (self._ear.rate, self._ear.channels):
                self._ear = Ear(frame.sample_rate, frame.num_channels)
            samples = self._ear.hear(bytes(frame.data))
        while not self.session.room():
            await asyncio.sleep(0.02)
        if not self.session.over:
            self.session.push(samples)

    def clear_buffer(self) -> None:
        """Fall silent."""
        self._ear.rest()
        self._ending = False
        self.session.interrupt()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        height, width = self.session.size
        async for moment in flow(self.session):
            picture = rtc.VideoFrame(width, height, rtc.VideoBufferType.RGB24, moment.picture.tobytes())
            yield picture
            speaking = self.session.speaking
            self._sounding = speaking and (self._sounding or bool(moment.sound.any()))
            if self._sounding or moment.sound.any():
                yield rtc.AudioFrame(pcm16(moment.sound), SAMPLE_RATE, 1, SAMPLES_PER_FRAME)
            elif self._ending and not speaking:
                self._ending = False
                yield AudioSegmentEnd()

    async def aclose(self) -> None:
        """Close the session."""
        await asyncio.to_thread(self.session.close)


class AvatarSession(BaseAvatarSession):
    """A head for an agent.

    Args:
        stage: opens its session.
        portrait: who is seen.
    """

    def __init__(self, stage: Stage, portrait: Portrait):
        super().__init__()
        self._stage, self._portrait = stage, portrait
        self._runner: AvatarRunner | None = None
        self._head: Head | None = None

    @property
    def avatar_identity(self) -> str:
        """The participant that shows the head: the agent itself."""
        assert self._room is not None, "it has not been started"
        return self._room.local_participant.identity

    @property
    def provider(self) -> str:
        """Who makes it."""
        return "asymtalker"

    async def start(self, agent_session: AgentSession, room: rtc.Room) -> None:
        """Open a session, take the agent's voice, and publish picture and voice in the room once it is connected.

        Raises:
            UserError: if the picture can't be used or the machine is full.
        """
        self._head = Head(await asyncio.to_thread(self._stage.open, self._portrait))
        voice = QueueAudioOutput(sample_rate=SAMPLE_RATE)
        self._runner = AvatarRunner(room, audio_recv=voice, video_gen=self._head, options=self._head.options)
        await super().start(agent_session, room)
        agent_session.output.audio = voice
        await self._runner.start()

    async def aclose(self) -> None:
        """Take the head off; the agent's participant stays in the room."""
        if self._agent_session is not None:
            self._agent_session.off("conversation_item_added", self._on_conversation_item_added)
            self._agent_session = None
        if self._room is not None:
            self._room.off("connection_state_changed", self._on_connection_state_changed)
            self._room = None
        if self._wait_avatar_join_task is not None:
            self._wait_avatar_join_task.cancel()
            self._wait_avatar_join_task = None
        if self._runner is not None:
            await self._runner.aclose()
        if self._head is not None:
            await self._head.aclose()
        self._runner = self._head = None
