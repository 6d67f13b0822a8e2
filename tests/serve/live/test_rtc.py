"""Calls by WebRTC on loopback."""

import asyncio

import httpx
import numpy as np
import pytest
from aiortc import RTCPeerConnection

from asymtalker.serve import rtc
from asymtalker.serve.session import Session
from live_calls import TOKEN, Microphone, dial, until


def test_a_caller_by_webrtc_sees_and_hears_it(address, asked, stage, speech):
    pictures, loudness, told = [], [0.0], []

    async def watch(track):
        while len(pictures) < 60:
            pictures.append((await track.recv()).to_ndarray(format="rgb24"))

    async def listen(track):
        while max(loudness) < 0.1:
            loudness.append(np.abs((await track.recv()).to_ndarray()).max() / 32768)

    async def call():
        caller, tracks, channel = await dial(address, asked, np.tile(speech.repeat(3), 3), told)
        await asyncio.wait_for(asyncio.gather(watch(tracks["video"]), listen(tracks["audio"])), 60)
        await until(lambda: any(each["median"] for each in told))
        channel.send("interrupt")
        await until(lambda: told[-1]["interruptions"])
        await caller.close()
        await until(lambda: not stage.sessions)

    asyncio.run(call())
    assert pictures[-1].shape == (96, 96, 3)
    assert np.abs(pictures[-1].astype(int) - pictures[30]).max() > 10
    assert told[-1]["type"] == "latency"
    assert told[-1]["median"] > 0
    assert told[-1]["interruptions"] == 1
    assert not stage.sessions


def test_a_caller_is_heard_at_the_pitch_of_his_voice(address, asked):
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(10 * 48_000) / 48_000)).astype(np.float32)
    pitches = []

    async def listen(track):
        heard = np.zeros(0)
        while len(heard) < 24_000:  # half a second without a gap
            frame = await track.recv()
            samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0] / 32768
            heard = np.concatenate([heard, samples]) if np.abs(samples).max() > 0.1 else np.zeros(0)
            rate = frame.sample_rate
        pitches.append(np.argmax(np.abs(np.fft.rfft(heard))) * rate / len(heard))

    async def call():
        caller, tracks, _ = await dial(address, asked, tone, [])
        await asyncio.wait_for(listen(tracks["audio"]), 60)
        await caller.close()

    asyncio.run(call())
    assert pitches[0] == pytest.approx(440, abs=5)


def test_who_calls_and_does_not_come_is_not_waited_for(address, asked, stage, monkeypatch):
    monkeypatch.setattr(rtc, "COMES_WITHIN", 1.0)

    async def call():
        caller = RTCPeerConnection()
        caller.addTrack(Microphone(np.zeros(0, np.float32)))
        caller.addTransceiver("video", direction="recvonly")
        await caller.setLocalDescription(await caller.createOffer())
        wanted = asked | {"sdp": caller.localDescription.sdp}
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(f"{address}/v1/live/offer", json=wanted, headers=TOKEN)
        assert answer.status_code == 200
        assert stage.sessions
        await until(lambda: not stage.sessions)
        await caller.close()

    asyncio.run(call())
    assert not stage.sessions


def test_a_session_that_fails_hangs_up(address, asked, stage, speech, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(Session, "frames", fail)

    async def call():
        caller, _, _ = await dial(address, asked, speech.repeat(3), [])
        await until(lambda: caller.connectionState == "closed")
        assert caller.connectionState == "closed"

    asyncio.run(call())
    assert not stage.sessions


def test_an_offer_that_is_none_is_refused(address, asked, stage):
    refused = httpx.post(f"{address}/v1/live/offer", json=asked | {"sdp": "nonsense"}, headers=TOKEN, timeout=60)
    assert refused.status_code == 422
    assert not stage.sessions
