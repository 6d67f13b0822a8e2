"""The avatar services in the real libraries of voice agents, with local queues and no cloud."""

import asyncio
import time

import numpy as np
import pytest

from asymtalker.config import LiveConfig
from asymtalker.errors import UserError
from asymtalker.serve.flow import pcm16
from asymtalker.serve.stage import FullError, Stage

LIVE = LiveConfig(frames=9, new=4, ahead=2, steps=1)
VOICE = (0.4 * np.sin(np.arange(36_000) / 15)).astype(np.float32)  # 1.5 s at 24 kHz


@pytest.fixture
def stage(moving_pipeline, monkeypatch):
    stage = Stage(moving_pipeline, LIVE)
    monkeypatch.setattr(
        stage, "rehearse", lambda _: 4.0
    )  # a busy machine would refuse; test_stage.py has the real one
    yield stage
    stage.close()


def loud(data: bytes) -> float:
    return float(np.abs(np.frombuffer(data, np.int16)).max()) / 32767


async def until(true, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        await asyncio.sleep(0.02)
    assert true()


class TestPipecat:
    """A pipeline of Pipecat's own, with the service and a processor that notes what comes out of it."""

    pytest.importorskip("pipecat", reason="needs the extra pipecat")

    @staticmethod
    async def run(stage, face, act) -> list:
        from pipecat.frames.frames import EndFrame
        from pipecat.pipeline.pipeline import Pipeline
        from pipecat.pipeline.runner import PipelineRunner
        from pipecat.pipeline.task import PipelineTask
        from pipecat.processors.frame_processor import FrameProcessor

        from asymtalker.serve.pipecat import AsymTalkerVideoService

        noted = []

        class Note(FrameProcessor):
            async def process_frame(self, frame, direction):
                await super().process_frame(frame, direction)
                noted.append(frame)
                await self.push_frame(frame, direction)

        service = AsymTalkerVideoService(stage, face)
        task = PipelineTask(Pipeline([service, Note()]), idle_timeout_secs=None)
        running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(task))
        try:
            await until(lambda: service.session is not None)
            await act(task, noted)
        finally:
            await task.queue_frame(EndFrame())
            await asyncio.wait_for(running, 30)
        assert service.session is None
        assert not stage.sessions
        return noted

    def test_speech_comes_out_whole_with_pictures_and_silence_with_pictures_alone(self, stage, face):
        from pipecat.frames.frames import (
            OutputImageRawFrame,
            SpeechOutputAudioRawFrame,
            TTSAudioRawFrame,
            TTSStoppedFrame,
        )

        def of(noted, kind):
            return [frame for frame in noted if isinstance(frame, kind)]

        async def act(task, noted):
            await until(lambda: len(of(noted, OutputImageRawFrame)) > 10)
            assert not of(noted, SpeechOutputAudioRawFrame)
            for piece in np.split(VOICE, 10):
                await task.queue_frame(TTSAudioRawFrame(audio=pcm16(piece), sample_rate=24_000, num_channels=1))
            await task.queue_frame(TTSStoppedFrame())
            await until(lambda: len(of(noted, SpeechOutputAudioRawFrame)) >= 37)

        noted = asyncio.run(self.run(stage, face, act))
        pictures, sounds = of(noted, OutputImageRawFrame), of(noted, SpeechOutputAudioRawFrame)
        assert pictures[0].size == (96, 96)
        assert len(pictures[0].image) == 96 * 96 * 3
        assert pictures[10].pts - pictures[9].pts == 40_000_000
        assert not of(noted, TTSAudioRawFrame), "speech is heard once"
        heard = np.frombuffer(b"".join(sound.audio for sound in sounds), np.int16)
        assert np.count_nonzero(np.abs(heard) > 300) == pytest.approx(24_000, rel=0.05)

    def test_an_interruption_silences_it(self, stage, face):
        from pipecat.frames.frames import InterruptionFrame, SpeechOutputAudioRawFrame, TTSAudioRawFrame

        async def act(task, noted):
            voice = pcm16(np.tile(VOICE, 6))
            await task.queue_frame(TTSAudioRawFrame(audio=voice, sample_rate=24_000, num_channels=1))
            await until(lambda: sum(isinstance(frame, SpeechOutputAudioRawFrame) for frame in noted) > 12)
            await task.queue_frame(InterruptionFrame())
            await until(lambda: any(isinstance(frame, InterruptionFrame) for frame in noted))
            await asyncio.sleep(0.3)
            before = len(noted)
            await asyncio.sleep(1.0)
            assert not any(isinstance(frame, SpeechOutputAudioRawFrame) for frame in noted[before:])
            await until(lambda: len(noted) > before + 3)  # it goes on listening

        asyncio.run(self.run(stage, face, act))


class TestLiveKit:
    """LiveKit's own runner and queues; a room that is not connected."""

    pytest.importorskip("livekit.agents", reason="needs the extra livekit")

    def test_the_runners_queue_gives_speech_back_with_pictures(self, stage, face):
        from livekit import rtc
        from livekit.agents.voice.avatar import AudioSegmentEnd, QueueAudioOutput

        from asymtalker.serve.livekit import Head

        async def run():
            head, queue = Head(stage.open(face)), QueueAudioOutput(sample_rate=24_000)
            assert (head.options.video_width, head.options.video_fps, head.options.audio_sample_rate) == (
                96,
                25,
                16_000,
            )

            async def hand_on():
                async for frame in queue:
                    await head.push_audio(frame)

            handing = asyncio.create_task(hand_on())
            pictures, sounds, ended = 0, [], None
            for piece in np.split(VOICE, 10):
                await queue.capture_frame(rtc.AudioFrame(pcm16(piece), 24_000, 1, len(piece)))
            queue.flush()
            async for frame in head:
                pictures += isinstance(frame, rtc.VideoFrame)
                if isinstance(frame, rtc.AudioFrame):
                    sounds.append(bytes(frame.data))
                elif isinstance(frame, AudioSegmentEnd):
                    ended = pictures
                    break
            handing.cancel()
            await head.aclose()
            return pictures, sounds, ended

        pictures, sounds, ended = asyncio.run(run())
        heard = np.frombuffer(b"".join(sounds), np.int16)
        assert np.count_nonzero(np.abs(heard) > 300) == pytest.approx(24_000, rel=0.05)
        assert ended == pictures
        assert 38 <= len(sounds) <= pictures
        assert not stage.sessions

    def test_an_agents_voice_goes_to_the_head_and_is_published(self, stage, face, monkeypatch):
        """By LiveKit's agent session and runner, whose room is one that notes what is published."""
        from livekit import rtc
        from livekit.agents import AgentSession
        from livekit.agents.voice import avatar

        from asymtalker.serve.livekit import AvatarSession

        shown = []

        async def push(_, frame):
            shown.append(frame)

        async def publish(runner):
            runner._video_publication = runner._audio_publication = object()

        monkeypatch.setattr(rtc.AVSynchronizer, "push", push)
        monkeypatch.setattr(avatar.AvatarRunner, "_publish_track", publish)

        async def run():
            room, agent = rtc.Room(), AgentSession()
            head = AvatarSession(stage, face)
            assert head.provider == "asymtalker"
            await head.start(agent, room=room)
            voice = agent.output.audio
            assert voice is not None
            finished = []
            voice.on("playback_finished", finished.append)
            for piece in np.split(VOICE, 10):
                await voice.capture_frame(rtc.AudioFrame(pcm16(piece), 24_000, 1, len(piece)))
            voice.flush()
            await until(lambda: finished)
            assert not finished[0].interrupted
            assert finished[0].playback_position == pytest.approx(1.5, abs=0.3)
            for _ in range(4):
                await voice.capture_frame(rtc.AudioFrame(pcm16(np.tile(VOICE, 2)), 24_000, 1, 2 * len(VOICE)))
            sounded = len(shown)
            await until(lambda: any(isinstance(f, rtc.AudioFrame) and loud(f.data) > 0.1 for f in shown[sounded:]))
            voice.clear_buffer()
            await until(lambda: len(finished) == 2)
            assert finished[1].interrupted
            await head.aclose()

        asyncio.run(run())
        pictures = [frame for frame in shown if isinstance(frame, rtc.VideoFrame)]
        assert (pictures[0].width, pictures[0].height) == (96, 96)
        assert not stage.sessions

    def test_a_full_machine_is_said_before_anything_is_taken(self, stage, face, monkeypatch):
        from livekit import rtc
        from livekit.agents import AgentSession

        from asymtalker.serve.livekit import AvatarSession

        monkeypatch.setattr(stage, "rehearse", lambda _: 0.5)

        async def run():
            agent = AgentSession()
            with pytest.raises(FullError):
                await AvatarSession(stage, face).start(agent, room=rtc.Room())
            assert agent.output.audio is None

        asyncio.run(run())
        assert issubclass(FullError, UserError)
