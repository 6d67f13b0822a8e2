"""Live sessions through real connections: a WebSocket on loopback, and what it stands on."""

import asyncio
import base64
import io
import json
import threading
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
import websockets
from PIL import Image

import asymtalker
from asymtalker.errors import UserError
from asymtalker.media.sound import read_audio
from asymtalker.serve.conversation import Conversation, VoiceActivity
from asymtalker.serve.flow import Ear, pcm16
from asymtalker.serve.fragments import Fragments
from asymtalker.serve.live import FULL, REFUSED
from asymtalker.serve.session import Moment
from asymtalker.serve.stage import FullError
from live_calls import TOKEN, until


async def talk(address, start, said=(), *, interrupt_after: int | None = None):
    """All that the server sends to somebody who says this and that: JSON messages and binary ones, in order."""
    async with websockets.connect(
        f"{address.replace('http', 'ws', 1)}/v1/live", additional_headers=TOKEN, max_size=None
    ) as live:
        await live.send(json.dumps(start))
        got = [json.loads(await live.recv())]
        if got[0]["type"] != "ready":
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await live.recv()
            return [*got, closed.value.rcvd.code]
        for piece in said:
            await live.send(piece)
        if interrupt_after is None:
            await live.send(json.dumps({"type": "end"}))
        pieces = 0
        async for message in live:
            got.append(message if isinstance(message, bytes) else json.loads(message))
            pieces += isinstance(message, bytes) and message[:1] == b"\1"
            if message[:1] == b"\1" and interrupt_after in (pieces, pieces - 20):
                await live.send(json.dumps({"type": "interrupt" if pieces == interrupt_after else "end"}))
        return got


def test_a_websocket_gives_pictures_and_their_sound_in_order(address, asked, speech):
    said = [pcm16(speech[at : at + 1_600]) for at in range(0, len(speech), 1_600)]
    got = asyncio.run(talk(address, asked | {"video": "jpeg", "spoken": False}, said))
    assert got[0] == {"type": "ready", "width": 96, "height": 96, "fps": 25, "mime": "image/jpeg"}
    assert got[-1] == {"type": "end"}
    media = [message for message in got if isinstance(message, bytes)]
    numbers = [int.from_bytes(message[1:5], "big") for message in media]
    assert numbers == [number for number in range(len(media) // 2) for _ in range(2)]
    assert Image.open(io.BytesIO(media[0][5:])).size == (96, 96)
    heard = np.concatenate([np.frombuffer(message[5:], "<i2") for message in media if message[0] == 2])
    expected = np.frombuffer(b"".join(said), "<i2")
    first = int(np.flatnonzero(np.abs(heard) > 10)[0] - np.flatnonzero(np.abs(expected) > 10)[0])
    assert np.abs(heard[first : first + len(expected)].astype(int) - expected).max() <= 2
    figures = [message for message in got if isinstance(message, dict) and message["type"] == "latency"]
    assert all(each["median"] is None or each["median"] > 0 for each in figures)


def test_sound_that_is_spoken_catches_up_in_silence_and_other_sound_is_kept_whole(address, asked):
    word, pause = np.full(6_400, 0.3, np.float32), np.zeros(32_000, np.float32)
    paused = {}
    for spoken in (True, False):
        start = asked | {"video": "jpeg", "spoken": spoken}
        got = asyncio.run(talk(address, start, [pcm16(np.concatenate([word, pause, word]))]))
        sounds = [message[5:] for message in got if isinstance(message, bytes) and message[:1] == b"\2"]
        paused[spoken] = np.diff(np.flatnonzero(np.frombuffer(b"".join(sounds), "<i2"))).max() - 1
    assert paused[False] == len(pause)
    assert paused[True] < len(pause) - 4 * 640


def test_an_mp4_plays_while_it_is_made(address, asked, speech):
    got = asyncio.run(talk(address, asked | {"rate": 48_000, "spoken": False}, [pcm16(speech.repeat(3))]))
    assert got[0]["mime"].startswith("video/mp4")
    data = [message for message in got if isinstance(message, bytes)]
    begun = av.open(io.BytesIO(b"".join(data[: len(data) // 2])))
    assert begun.metadata["title"] == "synthetic"
    half = sum(1 for _ in begun.decode(video=0))
    with av.open(io.BytesIO(b"".join(data))) as whole:
        frames = [frame for frame in whole.decode(video=0)]
    with av.open(io.BytesIO(b"".join(data))) as whole:
        seconds = sum(frame.samples / frame.sample_rate for frame in whole.decode(audio=0))
    assert half > 10
    assert len(frames) >= 48
    assert frames[0].width == 96
    assert seconds == pytest.approx(len(frames) / 25, abs=0.1)


def test_an_interruption_ends_what_is_said(address, asked):
    loud = pcm16((0.4 * np.sin(np.arange(160_000) / 15)).astype(np.float32))
    start = asked | {"video": "jpeg", "spoken": False}
    got = asyncio.run(talk(address, start, [loud], interrupt_after=20))
    sounds = [message[5:] for message in got if isinstance(message, bytes) and message[0] == 2]
    assert len(sounds) < 60, "of 250"
    assert any(sounds[15])
    assert not any(map(any, sounds[-5:]))


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"consent": False}, REFUSED, "consent"),
        ({"portrait": "no base64"}, REFUSED, "base64"),
        ({"portrait": base64.b64encode(b"no picture").decode()}, REFUSED, "picture"),
        ({"size": 5000}, REFUSED, "size"),
        ({"type": "stop"}, REFUSED, "type"),
    ],
)
def test_what_cannot_be_done_is_said_and_refused(address, asked, changes, code, says):
    error, closed = asyncio.run(talk(address, asked | changes))
    assert error["type"] == "error"
    assert says in error["detail"]
    assert closed == code


def test_a_full_machine_says_so(address, asked, stage, monkeypatch):
    def full(*_, **__):
        raise FullError("This machine is full.")

    monkeypatch.setattr(stage, "open", full)
    error, closed = asyncio.run(talk(address, asked))
    assert (error["detail"], closed) == ("This machine is full.", FULL)
    refused = httpx.post(f"{address}/v1/live/offer", json=asked | {"sdp": "v=0"}, headers=TOKEN)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]


def test_strangers_are_not_let_in(address, asked):
    async def stranger():
        with pytest.raises(websockets.InvalidStatus):
            async with websockets.connect(f"{address.replace('http', 'ws', 1)}/v1/live"):
                pass

    asyncio.run(stranger())
    assert httpx.post(f"{address}/v1/live/offer", json=asked | {"sdp": "v=0"}).status_code == 401
    assert httpx.get(f"{address}/live").status_code == 401
    assert "<video" in httpx.get(f"{address}/live", headers=TOKEN).text


def test_who_hangs_up_leaves_nothing_running(address, asked, stage):
    async def leave():
        async with websockets.connect(
            f"{address.replace('http', 'ws', 1)}/v1/live", additional_headers=TOKEN, max_size=None
        ) as live:
            await live.send(json.dumps(asked))
            for _ in range(5):
                await live.recv()
            assert len(stage.sessions) == 1
        for _ in range(100):
            if not stage.sessions:
                return
            await asyncio.sleep(0.1)

    asyncio.run(leave())
    assert not stage.sessions


class Listening:
    """Stands for a session: notes what it is told."""

    over = False

    def __init__(self):
        self.said, self.interrupted, self.speaking = [], 0, False

    def push(self, samples):
        self.said.append(samples)
        self.speaking = True

    def interrupt(self):
        self.interrupted += 1
        self.speaking = False


def hears(conversation, samples) -> None:
    for at in range(0, len(samples), 480):
        conversation.hear(samples[at : at + 480])


def test_who_speaks_over_it_is_let_speak():
    """Told by a real voice; clicks and silence are none."""
    head, heard = Listening(), []

    def answer(said):
        heard.append(len(said) / 16_000)
        yield np.ones(1_600, np.float32)

    conversation = Conversation(head, answer)  # pyright: ignore[reportArgumentType]
    speech = read_audio(Path(asymtalker.__file__).parent / "assets" / "demo" / "speech.wav")[: 2 * 16_000]
    silence, clicks = np.zeros(16_000, np.float32), np.zeros(16_000, np.float32)
    clicks[::8_000] = 0.8
    hears(conversation, np.concatenate([silence, clicks]))
    assert not heard
    hears(conversation, np.concatenate([speech, silence]))
    asyncio.run(until(lambda: head.said))
    assert sum(heard) == pytest.approx(2, abs=1.5)
    assert head.said
    assert not head.interrupted
    hears(conversation, speech[:16_000])
    assert head.interrupted == 1


def test_an_answer_that_was_interrupted_does_not_go_on():
    head, go = Listening(), threading.Event()

    def answer(_):
        yield np.ones(1_600, np.float32)
        go.wait(30)
        yield np.full(1_600, 2, np.float32)
        yield np.full(1_600, 3, np.float32)
        ended.set()

    ended = threading.Event()
    conversation = Conversation(head, answer)  # pyright: ignore[reportArgumentType]
    speech = read_audio(Path(asymtalker.__file__).parent / "assets" / "demo" / "speech.wav")[: 2 * 16_000]
    hears(conversation, np.concatenate([speech, np.zeros(16_000, np.float32)]))
    asyncio.run(until(lambda: head.said))
    conversation.interrupt()
    go.set()
    ended.wait(1)
    assert [samples[0] for samples in head.said] == [1]


def test_sound_of_any_rate_is_heard_at_16_khz():
    time = np.arange(48_000) / 48_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    ear = Ear(48_000, 2)
    data = pcm16(np.stack([tone, tone], 1).reshape(-1))
    heard = np.concatenate([*(ear.hear(data[at : at + 3_840]) for at in range(0, len(data), 3_840)), ear.rest()])
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert len(heard) == 16_000
    assert np.abs(heard - expected)[100:-100].max() < 0.01
    with pytest.raises(UserError, match="whole samples"):
        ear.hear(b"123")
    with pytest.raises(UserError, match="not 4000"):
        Ear(4_000)


def test_sides_that_cancel_are_heard_by_the_louder_one_while_they_do():
    rng = np.random.default_rng(0)
    voice, music = rng.normal(0, 0.1, (2, 3 * 48_000)).astype(np.float32)
    left, right = voice.copy(), voice.copy()
    right[48_000:96_000] *= -0.8  # the second second
    ear = Ear(48_000, 2)
    data = pcm16(np.stack([left, right], 1).reshape(-1))
    heard = np.concatenate([ear.hear(data[at : at + 3_840]) for at in range(0, len(data), 3_840)])
    alone = Ear(48_000)
    expected = np.concatenate([alone.hear(pcm16(left[at : at + 960])) for at in range(0, len(left), 960)])
    error = np.abs(heard - expected)
    assert error[:15_000].max() < 1e-3
    assert error[26_000:32_000].max() < 1e-3
    assert error[44_000:].max() < 1e-3
    sides = Ear(48_000, 2)
    both = sides.hear(pcm16(np.stack([voice, music], 1).reshape(-1)))
    mixed = Ear(48_000).hear(pcm16((voice + music) / 2))
    assert np.abs(both - mixed).max() < 1e-3  # unlike ones do not cancel


def test_voice_is_told_from_silence():
    activity = VoiceActivity()
    assert not any(speaks for _, speaks in activity.hear(np.zeros(32_000, np.float32)))


def test_sound_of_fragments_is_where_its_picture_is():
    fragments, data = Fragments((64, 96)), []
    for number in range(50):
        loud = number == 25
        picture = np.full((64, 96, 3), 255 * loud, np.uint8)
        data.append(fragments.add(Moment(number, picture, np.full(640, 0.5 * loud, np.float32))))
    whole = b"".join([*data, fragments.close()])
    frames = av.open(io.BytesIO(whole)).decode(video=0)
    seen = next(frame.time for frame in frames if frame.to_ndarray(format="gray").mean() > 128)
    sounds = av.open(io.BytesIO(whole)).decode(audio=0)
    loud = ((frame, np.abs(frame.to_ndarray()[0]) > 0.25) for frame in sounds)
    heard = next(frame.time + int(np.argmax(at)) / frame.sample_rate for frame, at in loud if at.any())
    assert heard == pytest.approx(seen, abs=0.025)


def test_fragments_are_of_one_frame_each():
    fragments = Fragments((64, 96))
    moments = [
        Moment(number, np.full((64, 96, 3), number, np.uint8), np.zeros(640, np.float32)) for number in range(8)
    ]
    data = [fragments.add(moment) for moment in moments]
    assert sum(b"moof" in piece for piece in data) >= 6, "a frame does not wait for those that follow"
    whole = b"".join([*data, fragments.close()])
    assert sum(1 for _ in av.open(io.BytesIO(whole)).decode(video=0)) == 8
