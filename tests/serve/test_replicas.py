"""Jobs on Ray Serve: two replicas on this machine, with a model each, behind one address."""

import contextlib
import time

import psutil
import pytest

from small_server import ask, running, speech, wait_for

pytest.importorskip("grpc_reflection", reason="needs the extra ray")

import httpx

from asymtalker.media.video import probe_video
from asymtalker.serve.app import create_app
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Serve


def replicas() -> list[psutil.Process]:
    """Processes of the replicas that this one has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "ServeReplica" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
def test_two_replicas_make_videos_at_once_and_one_that_is_lost_is_replaced(checkpoint, tmp_path):
    settings = Serve(data=tmp_path, model=str(checkpoint), device="cpu", ray="local", replicas="2", replica_cpus=0.5)
    service = Service(settings)
    with (
        running(create_app(service)) as address,
        httpx.Client(base_url=address, timeout=120, trust_env=False) as client,
    ):
        while not service.ready.wait(1):
            assert service.problem is None
        assert len(replicas()) == 2
        sound = {"sound": speech(1.2)}
        ids = [ask(client, files=sound, size=32, seed=seed, client=f"c{seed}").json()["id"] for seed in range(3)]
        states = set()
        while not (both := states >= {"running running"}):
            jobs = [client.get(f"/v1/jobs/{id}").json() for id in ids]
            states.add(" ".join(job["state"] for job in jobs if job["state"] == "running"))
            if all(job["state"] == "done" for job in jobs):
                break
            time.sleep(0.02)
        assert both, "two are made at once"
        followed = client.get(f"/v1/jobs/{ids[2]}/stream").content
        assert b"moof" in followed, "what a replica makes is streamed"
        for id in ids:
            assert wait_for(client, id, seconds=300)["state"] == "done"
            (tmp_path / "video.mp4").write_bytes(client.get(f"/v1/jobs/{id}/video").content)
            assert probe_video(tmp_path / "video.mp4").seconds == pytest.approx(1.2)

        id = ask(client, files={"sound": speech(8.0)}, size=32).json()["id"]
        while not client.get(f"/v1/jobs/{id}").json()["frames_done"]:
            time.sleep(0.02)
        for process in replicas():
            process.kill()
        job = wait_for(client, id, seconds=600)
        assert job["state"] == "done", job["error"]
        assert service.jobs.get(id).attempts >= 2
    assert not replicas()
