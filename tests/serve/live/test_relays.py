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
from functools import partial

import httpx
import numpy as np
import pytest
from aioice import ice
from aiortc import RTCConfiguration, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnection

from asymtalker.errors import UserError
from asymtalker.serve.app import create_app
from asymtalker.serve.relays import Relays
from asymtalker.serve.run import add_live, serve
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Serve
from live_calls import TOKEN, dial, served_live, until
from small_server import SmallMaker, running

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
        (("stun:here:0",), "", "stun:here:0 is none of"),
        (("turn:here:99999",), "", "turn:here:99999 is none of"),
        (("turn:here?transport=sctp",), "", "is none of"),
        (("stun:here?transport=udp",), "", "is none of"),
        (("turn:me@here",), "", "is none of"),
        (("turn:here:3478",), "", "ASYMTALKER_TURN_SECRET"),
        (("turns:here",), "", "ASYMTALKER_TURN_SECRET"),
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


@pytest.mark.skipif(not TURN, reason="needs coturn (apt: coturn)")
def test_a_turn_server_that_does_not_let_the_server_in_is_logged(stage, asked, environment, tmp_path, caplog):
    environment.setenv("ASYMTALKER_TURN_SECRET", "another")

    async def call(address):
        caller, _, _ = await dial(address, asked, np.zeros(0, np.float32), [])
        await until(lambda: caller.connectionState == "connected")
        await caller.close()
        await until(lambda: not stage.sessions)

    with turn_server(tmp_path) as url, served_live(stage, relays=Relays.chosen((url,))) as address:
        asyncio.run(call(address))
    assert "the TURN server gives no address" in caplog.text
    assert not stage.sessions


NAMED = Relays(("stun:one:1", "turn:two:2", "stun:three:3"), login=("me", "pass"))


@pytest.mark.parametrize(
    ("relays", "told"), [(Relays(), (None, None, None, None)), (NAMED, (("one", 1), ("two", 2), "me", "pass"))]
)
def test_the_servers_side_asks_whom_it_is_told_of_and_nobody_else(stage, asked, relays, told, monkeypatch):
    asks, gather = set(), ice.Connection.gather_candidates

    async def note(connection):
        asks.add((connection.stun_server, connection.turn_server, connection.turn_username, connection.turn_password))
        connection.stun_server = connection.turn_server = None  # nobody is there
        await gather(connection)

    async def call(address):
        caller, _, _ = await dial(address, asked, np.zeros(0, np.float32), [])
        await until(lambda: caller.connectionState == "connected")
        await caller.close()
        await until(lambda: not stage.sessions)

    monkeypatch.setattr(ice.Connection, "gather_candidates", note)
    with served_live(stage, relays=relays) as address:
        asyncio.run(call(address))
    assert not stage.sessions
    assert asks == {told, (None, None, None, None)}, "the caller of the test asks nobody"


def test_each_call_gets_a_name_of_its_own_time(monkeypatch):
    relays, names = Relays(("turn:here",), secret=SECRET), []
    for now in (1_000.9, 5_000.0):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        names.append((relays.ice_servers()[0]["username"], relays.ice_servers()[0]["credential"]))
    assert [name for name, _ in names] == ["4600", "8600"]
    assert names[0][1] != names[1][1]


def test_a_secret_goes_before_a_login_and_neither_is_printed(environment):
    environment.setenv("ASYMTALKER_TURN_SECRET", SECRET)
    environment.setenv("ASYMTALKER_TURN_LOGIN", "me:pass")
    relays = Relays.chosen(("turn:here",))
    assert relays.ice_servers()[0]["username"] != "me"
    assert SECRET not in repr(relays)
    assert "pass" not in repr(relays)


def test_serve_tells_those_who_know_the_token_of_its_servers(tmp_path):
    service, token = Service(Serve(data=tmp_path), SmallMaker()), "a-token-that-nobody-guesses"
    with running(create_app(service, token, partial(add_live, relays=NAMED))) as address:
        assert httpx.get(f"{address}/v1/live/ice").status_code == 401
        told = httpx.get(f"{address}/v1/live/ice", headers={"Authorization": f"Bearer {token}"}).json()
    assert told == {"iceServers": NAMED.ice_servers()}


def test_without_live_sessions_they_are_refused(tmp_path):
    with pytest.raises(UserError, match="--ray"):
        serve(Serve(data=tmp_path, ray="local", ice_servers=("stun:one",)))
