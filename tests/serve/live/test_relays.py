"""STUN and TURN servers: what both sides of a call are told of them, and calls through a real one."""

import asyncio
import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection

from asymtalker.errors import UserError
from asymtalker.serve.relays import Relays
from live_calls import TOKEN, dial, served_live, until

TURN = shutil.which("turnserver")
SECRET = "known to both servers"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("ASYMTALKER_TURN_SECRET", "ASYMTALKER_TURN_LOGIN"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_nobody_is_asked_by_default():
    assert Relays.chosen(()).ice_servers() == []


@pytest.mark.parametrize(
    ("urls", "login", "says"),
    [
        (("http://here",), "", "http://here is none of stun:HOST:PORT"),
        (("stun:",), "", "stun: is none of"),
        (("turn:here:3478",), "", "ASYMTALKER_TURN_SECRET"),
        (("turn:here:3478",), "nobody", "NAME:PASSWORD"),
    ],
)
def test_what_cannot_be_a_server_is_said(environment, urls, login, says):
    environment.setenv("ASYMTALKER_TURN_LOGIN", login)
    with pytest.raises(UserError, match=says):
        Relays.chosen(urls)


def test_a_login_is_given_to_turn_servers_alone(environment):
    environment.setenv("ASYMTALKER_TURN_LOGIN", "me:a:b")
    servers = Relays.chosen(("stun:one", "turn:two:3478?transport=tcp", "turns:three")).ice_servers()
    assert servers == [
        {"urls": ["stun:one"]},
        {"urls": ["turn:two:3478?transport=tcp", "turns:three"], "username": "me", "credential": "a:b"},
    ]


def test_a_secret_makes_names_that_end(environment):
    environment.setenv("ASYMTALKER_TURN_SECRET", SECRET)
    (server,) = Relays.chosen(("turn:here",)).ice_servers()
    assert 0 < int(server["username"]) - time.time() <= 3600
    expected = hmac.new(SECRET.encode(), server["username"].encode(), hashlib.sha1).digest()
    assert server["credential"] == base64.b64encode(expected).decode()


@contextmanager
def turn_server(folder):
    """The address of coturn on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [TURN, "-n", "--use-auth-secret", "--static-auth-secret", SECRET, "--realm", "here", "--no-cli"]
    command += ["--listening-ip", "127.0.0.1", "--relay-ip", "127.0.0.1", "--listening-port", str(port)]
    command += ["--no-tls", "--no-dtls", "--allow-loopback-peers", "--log-file", "stdout"]
    command += ["--pidfile", str(folder / "pid"), "--userdb", str(folder / "users")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield f"turn:127.0.0.1:{port}"
        finally:
            server.terminate()


async def relayed(address, asked, samples):
    """A caller whose network lets nothing through but what goes by the TURN server that the page is told of."""
    async with httpx.AsyncClient() as client:
        told = (await client.get(f"{address}/v1/live/ice", headers=TOKEN)).json()
    how = RTCConfiguration([RTCIceServer(**each) for each in told["iceServers"]], RTCIceTransportPolicy.RELAY)
    return await dial(address, asked, samples, [], how)


@pytest.mark.skipif(not TURN, reason="needs coturn (apt: coturn)")
def test_a_caller_behind_a_firewall_sees_it_through_a_turn_server(stage, asked, speech, environment, tmp_path):
    environment.setenv("ASYMTALKER_TURN_SECRET", SECRET)

    async def call(address):
        caller, tracks, _ = await relayed(address, asked, speech.repeat(3))
        assert "typ relay" in caller.localDescription.sdp
        assert "typ host" not in caller.localDescription.sdp
        pictures = [(await asyncio.wait_for(tracks["video"].recv(), 30)).to_ndarray(format="rgb24") for _ in range(30)]
        await caller.close()
        await until(lambda: not stage.sessions)
        return pictures

    with turn_server(tmp_path) as url, served_live(stage, relays=Relays.chosen((url,))) as address:
        pictures = asyncio.run(call(address))
    assert pictures[0].shape == (96, 96, 3)
    assert pictures[0].std() > 10


@pytest.mark.skipif(not TURN, reason="needs coturn (apt: coturn)")
def test_a_turn_server_that_knows_another_secret_lets_nobody_through(environment, tmp_path):
    environment.setenv("ASYMTALKER_TURN_SECRET", "another")

    async def offer(url):
        servers = [RTCIceServer(**each) for each in Relays.chosen((url,)).ice_servers()]
        caller = RTCPeerConnection(RTCConfiguration(servers, RTCIceTransportPolicy.RELAY))
        caller.createDataChannel("figures")
        await caller.setLocalDescription(await caller.createOffer())
        await caller.close()
        return caller.localDescription.sdp

    with turn_server(tmp_path) as url:
        assert "typ relay" not in asyncio.run(offer(url))


def test_the_servers_side_asks_nobody_who_is_not_named(stage, asked, address, monkeypatch):
    asked_for = []

    async def call():
        from aioice import ice

        monkeypatch.setattr(ice.Connection, "gather_candidates", noted(ice.Connection.gather_candidates))
        caller, _, _ = await dial(address, asked, np.zeros(0, np.float32), [])
        await caller.close()
        await until(lambda: not stage.sessions)

    def noted(gather):
        async def and_note(connection):
            asked_for.append((connection.stun_server, connection.turn_server))
            await gather(connection)

        return and_note

    asyncio.run(call())
    assert asked_for
    assert set(asked_for) == {(None, None)}
