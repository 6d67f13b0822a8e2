"""Who may ask, how often and how much."""

import contextlib
import http.client
import json
import logging
import socket
import time

import pytest
from fastapi.testclient import TestClient

from asymtalker.errors import UserError
from asymtalker.serve.app import create_app
from asymtalker.serve.client import Client
from asymtalker.serve.guard import Rate
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Limits, Serve, chosen_token, replica_range
from small_server import PORTRAIT, SmallMaker, ask, served, speech, wait_for

TOKEN = "a-token-that-nobody-guesses"


def test_others_are_let_in_with_a_token_alone(monkeypatch):
    monkeypatch.delenv("ASYMTALKER_TOKEN", raising=False)
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        assert chosen_token(Serve(host=host)) is None
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        with pytest.raises(UserError, match="set a token"):
            chosen_token(Serve(host=host))
    assert chosen_token(Serve(host="0.0.0.0", token=TOKEN)) == TOKEN
    with pytest.raises(UserError, match="guessed"):
        chosen_token(Serve(host="0.0.0.0", token="short"))
    monkeypatch.setenv("ASYMTALKER_TOKEN", TOKEN)
    assert chosen_token(Serve(host="0.0.0.0")) == TOKEN


def test_ranges_of_replicas():
    assert [replica_range(text) for text in ("2", "1-4")] == [(2, 2), (1, 4)]
    for text in ("0", "4-1", "a", "1-2-3", ""):
        with pytest.raises(UserError):
            replica_range(text)


def test_nothing_is_told_or_taken_without_the_token(tmp_path):
    with served(tmp_path, token=TOKEN) as (client, service):
        paths = ("/", "/metrics", "/openapi.json", "/v1/terms", f"/v1/jobs/{'0' * 32}")
        for path in paths:
            assert client.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert ask(client).status_code == 401
        assert not sum(service.jobs.count().values())
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert client.get("/", headers={"Accept": "text/html"}).headers["location"] == "/login"
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        assert ask(client).status_code == 202


def test_by_https_the_cookie_is_sent_by_https_alone(tmp_path):
    service = Service(Serve(data=tmp_path), SmallMaker())
    with TestClient(create_app(service, TOKEN)) as client:
        for base in ("http", "https"):
            client.base_url = f"{base}://talker.example"
            answer = client.post("/login", data={"token": TOKEN}, follow_redirects=False)
            assert ("secure" in answer.headers["set-cookie"].lower()) == (base == "https")


def test_a_browser_keeps_a_cookie_that_is_not_the_token(tmp_path):
    with served(tmp_path, token=TOKEN) as (client, _):
        assert "token" in client.get("/login").text
        assert client.post("/login", data={"token": "guess"}).status_code == 401
        answer = client.post("/login", data={"token": TOKEN})
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        assert client.get("/v1/terms").status_code == 200
        client.cookies.clear()
        assert client.get("/v1/terms", headers={"Cookie": "asymtalker=0000"}).status_code == 401


def test_pages_of_other_sites_are_refused(server):
    client, service = server
    before = sum(service.jobs.count().values())
    own = str(client.base_url).rstrip("/")
    for origin in ("https://elsewhere.example", "null", own.replace("//", "//elsewhere.")):
        assert client.post("/v1/jobs", headers={"Origin": origin}).status_code == 403
    assert client.post("/v1/jobs", headers={"Origin": own}).status_code == 422
    assert client.get("/v1/terms", headers={"Host": "elsewhere.example"}).status_code == 421, "as by DNS rebinding"
    assert sum(service.jobs.count().values()) == before


def test_requests_and_uploads_are_so_many_a_minute(tmp_path):
    with served(tmp_path, limits=Limits(uploads_a_minute=3, requests_a_minute=1000)) as (client, _):
        answers = [client.post("/v1/jobs") for _ in range(5)]
        assert [answer.status_code for answer in answers] == [422, 422, 422, 429, 429]
        assert 0 < int(answers[-1].headers["retry-after"]) <= 21
        assert client.get("/healthz").status_code == 200
    with served(tmp_path / "all", limits=Limits(requests_a_minute=20)) as (client, _):
        codes = [client.get("/healthz").status_code for _ in range(30)]
        assert 200 in codes
        assert codes[-1] == 429


def test_a_rate_refills_and_holds_no_more_than_it_may():
    now = [0.0]
    rate = Rate(60, clock=lambda: now[0])
    assert sum(rate.wait("a") == 0 for _ in range(100)) == 60
    assert rate.wait("b") == 0, "another address has its own"
    now[0] = 2.0
    assert sum(rate.wait("a") == 0 for _ in range(10)) == 2
    now[0] = 1e6
    assert sum(rate.wait("a") == 0 for _ in range(100)) == 60


def test_a_long_request_is_refused_before_it_is_read(tmp_path):
    with served(tmp_path, limits=Limits(request_mb=1)) as (client, service):
        answer = client.post("/v1/jobs", content=bytes(3 << 20), headers={"Content-Type": "multipart/form-data"})
        assert answer.status_code == 413

        def parts(kilobytes):  # of no length that is known
            yield b'--x\r\nContent-Disposition: form-data; name="portrait"; filename="a"\r\n\r\n'
            for _ in range(kilobytes // 64):
                yield bytes(1 << 16)
            yield b"\r\n--x--\r\n"

        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        said = [client.post("/v1/jobs", content=parts(size), headers=kind).status_code for size in (900, 1100, 25_600)]
        assert said == [422, 413, 413], "the first is without a sound"
        assert client.get("/healthz").status_code == 200
        assert not list(service.uploads.folder.iterdir())


def test_a_slow_request_is_given_up(tmp_path):
    with served(tmp_path, limits=Limits(request_seconds=0.5)) as (client, _):
        place = (client.base_url.host, client.base_url.port)
        with contextlib.closing(socket.create_connection(place)) as slow:
            head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            slow.sendall((head + "Content-Length: 1000\r\n\r\n--x").encode())
            begin = time.monotonic()
            slow.settimeout(20)
            assert b"408" in slow.recv(200)
            assert time.monotonic() - begin < 15


def test_paths_lead_nowhere(server):
    client, _ = server
    for path in (
        "/v1/jobs/../../etc/passwd",
        "/v1/jobs/..%2f..%2fetc%2fpasswd/video",
        "/v1/jobs/%2e%2e%2f%2e%2e%2fetc/video",
        f"/v1/jobs/{'a' * 31}%00/video",
        f"/v1/jobs/{'A' * 32}",
        "/v1/jobs/jobs.sqlite",
        "//etc/passwd",
    ):
        connection = http.client.HTTPConnection(client.base_url.host, client.base_url.port)  # which changes no path
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status in (404, 422), path
        assert b"root:" not in answer.read()
        connection.close()


def test_names_of_files_are_never_used(server):
    client, service = server
    portrait = ("../../../tmp/evil.png", PORTRAIT)
    sound = ("..\\..\\evil\x00.wav", speech())
    answer = ask(client, files={"portrait": portrait, "sound": sound})
    assert answer.status_code == 202
    assert wait_for(client, answer.json()["id"])["state"] == "done"
    names = {path.name for path in service.settings.data.rglob("*")}
    assert not [name for name in names if "evil" in name]


def test_logs_and_records_name_nobody(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with served(tmp_path) as (client, _):
        answer = ask(
            client, files={"portrait": ("Anna Muster.png", PORTRAIT), "sound": None}, text="Call me on Monday"
        )
        id = answer.json()["id"]
        wait_for(client, id)
        client.get(f"/v1/jobs/{id}/video")
        kept = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.sqlite*"))
    assert id.encode() in kept
    for secret in (b"127.0.0.1", b"Anna", b"Monday"):
        assert secret not in kept
    said = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("asymtalker", "uvicorn"))
    )
    assert "/v1/jobs/{id}/video" in said, "what is asked for is noted by its route"
    for secret in (id, "Anna", "Monday", "127.0.0.1", "portrait.png"):
        assert secret not in said


def test_the_client_in_a_few_lines(tmp_path):
    (tmp_path / "me.png").write_bytes(PORTRAIT)
    (tmp_path / "speech.wav").write_bytes(speech())
    with served(tmp_path / "data", token=TOKEN) as (http, _):
        with Client(str(http.base_url), TOKEN, name="me") as client:
            job = client.create(tmp_path / "me.png", tmp_path / "speech.wav", consent=True, seed=3, blinks=False)
            video = client.save(job, tmp_path / "me.mp4")
            assert client.status(job)["options"]["blinks"] is False
            streamed = b"".join(client.stream(tmp_path / "me.png", text="Good morning.", consent=True))
            assert b"ftyp" in streamed[:16]
            client.delete(job)
            with pytest.raises(UserError, match="no such job"):
                client.status(job)
            with pytest.raises(UserError, match="Consent is needed"):
                client.create(tmp_path / "me.png", tmp_path / "speech.wav", consent=False)
        assert video.read_bytes()[4:8] == b"ftyp"
        with Client(str(http.base_url), "wrong") as client, pytest.raises(UserError, match="token"):
            client.terms()


def test_the_terms_say_what_is_kept(server):
    client, service = server
    terms = json.loads(client.get("/v1/terms").content)
    assert terms["video_hours"] == service.settings.video_hours
    assert "synthetic" in terms["consent"]
