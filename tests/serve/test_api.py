"""Jobs over HTTP: what a client sends, follows, gets and deletes."""

import os
import re
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import av
import httpx
import pytest

from asymtalker.media.video import probe_video
from asymtalker.serve.settings import Limits
from asymtalker.serve.worker import LostError
from small_server import PORTRAIT, SmallMaker, ask, served, speech, wait_for


def frames_in(data: bytes, path) -> tuple[int, int]:
    """Frames of picture and samples of sound in a video."""
    path.write_bytes(data)
    with av.open(str(path)) as video:
        pictures = sum(1 for _ in video.decode(video=0))
    with av.open(str(path)) as video:
        return pictures, sum(frame.samples for frame in video.decode(audio=0))


def test_a_job_from_its_creation_to_its_deletion(server, tmp_path):
    client, service = server
    before = time.time()
    answer = ask(client, seed=5, motion=0.5, gaze="camera", blinks="false", size=128)
    assert answer.status_code == 202
    job = answer.json()
    assert re.fullmatch("[0-9a-f]{32}", job["id"])
    assert job["options"] == {"seed": 5, "motion": 0.5, "gaze": "camera", "blinks": False, "size": 128}
    assert job["frames_total"] == 15
    assert service.jobs.get(job["id"]).consent >= before
    done = wait_for(client, job["id"])
    assert (done["state"], done["frames_done"], done["eta_seconds"]) == ("done", 15, None)
    video = client.get(done["links"]["video"])
    assert video.headers["content-type"] == "video/mp4"
    assert frames_in(video.content, tmp_path / "video.mp4")[0] == 15
    assert "AI-generated" in probe_video(tmp_path / "video.mp4").metadata["title"]
    part = client.get(done["links"]["video"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    folder = service.jobs.files(job["id"])
    assert sorted(path.name for path in folder.iterdir()) == ["live.mp4", "video.mp4"], "portrait and voice are gone"
    assert not list(service.uploads.folder.iterdir())
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert not folder.exists()


def test_a_video_is_streamed_while_it_is_made(tmp_path):
    make = SmallMaker(pace=0.06)
    with served(tmp_path / "data", make) as (client, _):
        begin, first, parts = time.monotonic(), None, []
        files = {"portrait": PORTRAIT, "sound": speech(2.0)}
        with client.stream("POST", "/v1/stream", data={"consent": "true"}, files=files) as answer:
            assert answer.status_code == 200
            here = answer.headers["location"]
            for block in answer.iter_bytes():
                parts.append(block)
                if first is None and sum(map(len, parts)) > 3000:
                    first = client.get(here).json()
        assert first is not None
        assert first["state"] == "running", "the first frames come while later ones are made"
        assert time.monotonic() - begin > 50 * 0.06
        data = b"".join(parts)
        assert data[4:8] == b"ftyp"
        assert b"moof" in data
        assert frames_in(data, tmp_path / "stream.mp4")[0] == 50
        whole = frames_in(client.get(f"{here}/video").content, tmp_path / "video.mp4")
        again = frames_in(client.get(f"{here}/stream").content, tmp_path / "again.mp4")
        assert (again[0], whole[0]) == (50, 50), "whoever comes late gets it from the beginning"


def test_each_job_has_its_own_video(server, tmp_path):
    client, _ = server
    ids = {frames: ask(client, files={"sound": speech(frames / 25)}).json()["id"] for frames in (10, 15, 20)}
    for frames, id in ids.items():
        wait_for(client, id)
        for what in ("video", "stream"):
            data = client.get(f"/v1/jobs/{id}/{what}").content
            assert frames_in(data, tmp_path / "video.mp4")[0] == frames
    for deleted in (15, 10):
        client.delete(f"/v1/jobs/{ids[deleted]}")
        assert client.get(f"/v1/jobs/{ids[deleted]}/video").status_code == 404
    assert frames_in(client.get(f"/v1/jobs/{ids[20]}/video").content, tmp_path / "video.mp4")[0] == 20


def test_a_stream_breaks_where_its_video_is_made_anew(tmp_path):
    """Or it would have frames of two attempts."""

    class Losing(SmallMaker):
        def __call__(self, order, live, progress, say):
            if not self.made:
                self.made.append(order.output.parent.name)
                live.write(bytes(5_000))
                time.sleep(1)
                raise LostError
            super().__call__(order, live, progress, say)

    with served(tmp_path / "data", Losing(pace=0.02)) as (client, _):
        id = ask(client).json()["id"]
        with client.stream("GET", f"/v1/jobs/{id}/stream") as answer, pytest.raises(httpx.RemoteProtocolError):
            deque(answer.iter_bytes(), maxlen=0)
        assert wait_for(client, id)["state"] == "done"
        assert frames_in(client.get(f"/v1/jobs/{id}/stream").content, tmp_path / "video.mp4")[0] == 15


def test_clients_of_one_address_take_turns(tmp_path):
    make = SmallMaker()
    make.go.clear()
    with served(tmp_path / "data", make) as (client, _):
        ids = [ask(client, client=name).json()["id"] for name in ("one", "one", "one", "other")]
        make.go.set()
        for id in ids:
            wait_for(client, id)
    assert make.made == [ids[0], ids[3], ids[1], ids[2]]


def test_uploads_that_led_to_no_job_are_deleted_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("asymtalker.serve.service.SWEPT_EVERY", 0.1)
    with served(tmp_path / "data", upload_minutes=1) as (_, service):
        old, new = service.uploads.folder / "old.png", service.uploads.folder / "new.png"
        for path, age in ((old, 70), (new, 10)):
            path.write_bytes(PORTRAIT)
            os.utime(path, (time.time() - age,) * 2)
        end = time.monotonic() + 20
        while old.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert new.exists()


def test_two_follow_one_video(tmp_path):
    with served(tmp_path / "data", SmallMaker(pace=0.02)) as (client, _):
        id = ask(client, files={"sound": speech(1.0)}).json()["id"]
        with ThreadPoolExecutor(2) as both:
            one, other = both.map(lambda _: client.get(f"/v1/jobs/{id}/stream").content, range(2))
        assert one == other
        assert len(one) > 3000


def test_a_job_can_be_cancelled_and_its_stream_breaks(tmp_path):
    make = SmallMaker(pace=0.05)
    with served(tmp_path / "data", make) as (client, service):
        id = ask(client, files={"sound": speech(8.0)}).json()["id"]
        wait_for(client, id, "running")
        with client.stream("GET", f"/v1/jobs/{id}/stream") as answer:
            blocks = answer.iter_bytes()
            next(blocks)
            assert client.post(f"/v1/jobs/{id}/cancel").json()["state"] == "cancelled"
            with pytest.raises(httpx.RemoteProtocolError):
                deque(blocks, maxlen=0)
        assert client.post(f"/v1/jobs/{id}/cancel").status_code == 409
        assert client.get(f"/v1/jobs/{id}/video").status_code == 409
        assert client.get(f"/v1/jobs/{id}/stream").status_code == 409
        assert ask(client).status_code == 202, "the worker is free again"
        time.sleep(0.3)
        assert not [path for path in service.jobs.files(id).iterdir() if path.suffix == ".mp4"]


def test_a_text_is_spoken(server):
    client, _ = server
    voices = client.get("/v1/terms").json()["voices"]
    assert "en-us+f2" in voices
    answer = ask(client, files={"sound": None}, text="Good morning, all of you.", voice="en-us+f2")
    assert answer.status_code == 202
    assert 20 < answer.json()["frames_total"] < 100
    assert wait_for(client, answer.json()["id"])["state"] == "done"


REFUSED = [
    ({"consent": "false"}, {}, 422, "Consent is needed"),
    ({"wibble": "3"}, {}, 422, "There is no field 'wibble'"),
    ({"seed": -1}, {}, 422, "seed"),
    ({"motion": 3}, {}, 422, "motion"),
    ({"motion": "nan"}, {}, 422, "motion"),
    ({"gaze": "up"}, {}, 422, "gaze"),
    ({"size": 4000}, {}, 422, "size is at most 1280"),
    ({"face": 7}, {}, 422, "Face 7 does not exist"),
    ({"framing": "box"}, {}, 422, "go together"),
    ({"framing": "box", "box": "0,0,1"}, {}, 422, "left,top,right,bottom"),
    ({"framing": "box", "box": "0,0,inf,1"}, {}, 422, "shares"),
    ({"framing": "box", "box": "0.9,0.9,1,1"}, {}, 422, "smaller than 64|leaves out the face"),
    ({"text": "Both."}, {}, 422, "one of them"),
    ({}, {"sound": None}, 422, "one of them"),
    ({"text": " ", "voice": "en-us+f2"}, {"sound": None}, 422, "nothing to say"),
    ({"text": "Hello", "voice": "../../etc/passwd"}, {"sound": None}, 422, "no voice"),
    ({"text": "la " * 1000, "voice": "en-us+f2"}, {"sound": None}, 413, "too long"),
]


@pytest.mark.parametrize(("fields", "files", "status", "said"), REFUSED)
def test_what_is_wrong_is_said_in_a_sentence(server, fields, files, status, said):
    client, service = server
    before = sum(service.jobs.count().values())
    answer = ask(client, files=files, **fields)
    assert answer.status_code == status
    assert re.search(said, answer.json()["detail"])
    assert sum(service.jobs.count().values()) == before
    assert not list(service.uploads.folder.iterdir()), "nothing is left of it"


def test_the_part_that_is_asked_for_is_what_is_made(tmp_path):
    make = SmallMaker()
    make.go.clear()
    from PIL import Image

    with served(tmp_path / "data", make) as (client, service):
        sizes = {}
        for framing, more in (("whole", {}), ("face", {}), ("box", {"box": "0.1,0.05,0.9,0.95"})):
            answer = ask(client, framing=framing, **more)
            assert answer.status_code == 202, answer.text
            with Image.open(service.jobs.files(answer.json()["id"]) / "portrait.png") as cut:
                sizes[framing] = cut.size
        make.go.set()
    assert sizes["whole"] == (512, 512)
    assert sizes["box"] == (410, 460)
    assert 200 < sizes["face"][0] == sizes["face"][1] < 512


def test_health_metrics_and_the_document(server):
    client, _ = server
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").status_code == 200
    ask(client)
    text = client.get("/metrics").text
    assert 'asymtalker_requests_total{method="POST",route="/v1/jobs",status="202"}' in text
    assert 'asymtalker_jobs{state="done"}' in text
    document = client.get("/openapi.json").json()
    assert {"/v1/jobs", "/v1/stream", "/v1/jobs/{id}", "/v1/jobs/{id}/video"} <= set(document["paths"])
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404


def test_an_error_of_the_maker_fails_its_job_alone_and_tells_no_paths(tmp_path):
    from asymtalker.errors import UserError

    class Failing(SmallMaker):
        def __call__(self, order, *more):
            if order.options["seed"] == 1:
                raise UserError(f"It shows {order.portrait} badly.")
            if order.options["seed"] == 2:
                raise RuntimeError("of another kind")
            super().__call__(order, *more)

    with served(tmp_path / "data", Failing()) as (client, _):
        said = [wait_for(client, ask(client, seed=seed).json()["id"]) for seed in (1, 2, 0)]
    assert [job["state"] for job in said] == ["failed", "failed", "done"]
    assert said[0]["error"] == "It shows the picture badly."
    assert "of another kind" not in said[1]["error"]


def test_too_many_jobs_of_one_address_and_of_all(tmp_path):
    make = SmallMaker()
    make.go.clear()
    limits = Limits(waiting_each=2)
    with served(tmp_path / "one", make, limits=limits) as (client, _):
        assert [ask(client).status_code for _ in range(3)] == [202, 202, 429]
        make.go.set()
    make.go.clear()
    with served(tmp_path / "all", make, limits=Limits(waiting=1)) as (client, _):
        assert [ask(client).status_code for _ in range(2)] == [202, 503]
        make.go.set()
