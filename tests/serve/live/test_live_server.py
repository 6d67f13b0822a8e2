"""Live sessions of ``asymtalker serve``: what its other routes hold to holds for them too."""

import asyncio
import base64
import io
import json
import zipfile

import av
import numpy as np
import pytest
import websockets

from asymtalker.provenance.watermark import find_watermark
from asymtalker.serve.app import create_app
from asymtalker.serve.flow import pcm16
from asymtalker.serve.making import LocalMaker
from asymtalker.serve.run import add_live
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Serve
from asymtalker.serve.stage import Stage
from small_server import PORTRAIT, SmallMaker, running

TOKEN = "a-token-that-nobody-guesses"
KNOWN = {"Authorization": f"Bearer {TOKEN}"}


def server(folder, maker):
    return running(create_app(Service(Serve(data=folder), maker), TOKEN, add_live))


@pytest.fixture(scope="module")
def address(tmp_path_factory, moving_pipeline):
    maker = LocalMaker.__new__(LocalMaker)  # of the bundled model it would take seconds to load
    maker.pipeline = moving_pipeline
    with pytest.MonkeyPatch.context() as patch, server(tmp_path_factory.mktemp("live"), maker) as address:
        patch.setattr(Stage, "rehearse", lambda *_: 4.0)  # a busy machine would refuse
        yield address.replace("http", "ws")


def start(after: bytes = b"") -> str:
    """The message that asks for a session."""
    portrait = base64.b64encode(PORTRAIT + after).decode()
    return json.dumps({"type": "start", "portrait": portrait, "consent": True, "size": 256, "spoken": False})


async def first(address, message: str) -> dict:
    async with websockets.connect(f"{address}/v1/live", additional_headers=KNOWN, max_size=None) as live:
        await live.send(message)
        return json.loads(await live.recv())


def test_strangers_and_pages_of_other_sites_are_not_let_in(address):
    async def knock(**headers):
        async with websockets.connect(f"{address}/v1/live", additional_headers=headers):
            pass

    for headers in ({}, {"Authorization": "Bearer wrong"}, KNOWN | {"Origin": "https://elsewhere.example"}):
        with pytest.raises(websockets.InvalidStatus):
            asyncio.run(knock(**headers))
    asyncio.run(knock(**KNOWN, Origin=address.replace("ws", "http")))


def test_a_portrait_that_means_harm_is_refused_as_an_upload_is(address):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("evil.sh", "#!/bin/sh\n")
    said = asyncio.run(first(address, start(file.getvalue())))
    assert said["type"] == "error"
    assert "something else besides" in said["detail"]


def test_what_it_shows_says_that_it_is_synthetic(address, speech):
    async def watch() -> bytes:
        async with websockets.connect(f"{address}/v1/live", additional_headers=KNOWN, max_size=None) as live:
            await live.send(start())
            await live.send(pcm16(np.tile(speech, 2)))
            await live.send(json.dumps({"type": "end"}))
            return b"".join([message async for message in live if isinstance(message, bytes)])

    with av.open(io.BytesIO(asyncio.run(watch()))) as video:
        assert "AI-generated" in video.metadata["title"]
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) > 40
    assert find_watermark(frames) is not None


def test_while_the_model_is_loaded_it_says_so(tmp_path):
    with server(tmp_path, SmallMaker()) as address:
        said = asyncio.run(first(address.replace("http", "ws"), start()))
    assert "still being loaded" in said["detail"]
