"""The command, with a model, killed in the middle of a job and started again: nothing is lost."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from asymtalker.generate.folder import checkpoint_folder
from asymtalker.media.video import probe_video
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Serve
from small_server import PORTRAIT, speech, wait_for

FRAMES, TINY = 60, checkpoint_folder(None)


class Server:
    """``asymtalker serve`` in a process of its own."""

    def __init__(self, data: Path, model: Path):
        command = ["from asymtalker.commands.cli import main; main()", "serve", "--port", "0", "--no-page"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", *command, "--data", str(data), "--model", str(model), "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        address = re.fullmatch(r"(http://127\.0\.0\.1:\d+)\n", self.process.stdout.readline())
        assert address, self.process.communicate()[1]
        self.client = httpx.Client(base_url=address[1], timeout=60, trust_env=False)

    def ready(self) -> "Server":
        end = time.monotonic() + 300
        while self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        return self

    def stop(self, number: int) -> int:
        return self.stopped(number)[0]

    def stopped(self, number: int) -> tuple[int, str]:
        """Its exit code and what it said on stderr."""
        self.client.close()
        self.process.send_signal(number)
        said = self.process.communicate(timeout=300)[1]
        return self.process.returncode, said


@pytest.mark.slow
def test_a_killed_server_makes_its_jobs_after_a_restart(checkpoint, tmp_path):
    data = tmp_path / "data"
    server = Server(data, checkpoint).ready()
    files = {"portrait": PORTRAIT, "sound": speech(FRAMES / 25)}
    ids = [
        server.client.post("/v1/jobs", data={"consent": "true", "size": "32", "seed": seed}, files=files).json()["id"]
        for seed in range(3)
    ]
    first = wait_for(server.client, ids[0], "running")
    while not first["frames_done"]:
        first = server.client.get(f"/v1/jobs/{ids[0]}").json()
    assert first["state"] == "running"
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert len(list(data.rglob(".*.part"))) == 1, "it was in the middle of a video"

    server = Server(data, checkpoint)
    states = [server.client.get(f"/v1/jobs/{id}").json()["state"] for id in ids]
    assert states == ["queued"] * 3, "the API answers while the model is loaded"
    server.ready()
    for id in ids:
        assert wait_for(server.client, id, seconds=200)["state"] == "done"
        (tmp_path / "video.mp4").write_bytes(server.client.get(f"/v1/jobs/{id}/video").content)
        about = probe_video(tmp_path / "video.mp4")
        assert about.seconds == pytest.approx(FRAMES / 25)
        assert "AI-generated" in about.metadata["title"]
        names = {path.name for path in (data / "jobs" / id).iterdir()}
        assert names == {"live.mp4", "video.mp4"}, "nothing of the killed attempt is left"
    assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_server_that_is_stopped_while_it_loads_ends_cleanly(tmp_path):
    """Libraries whose thread meets the interpreter's end abort the process."""
    server = Server(tmp_path / "data", TINY)
    assert server.client.get("/healthz").status_code == 200
    time.sleep(1)
    code, said = server.stopped(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert [line for line in said.splitlines() if " INFO " not in line] == ["asymtalker: stopped by SIGTERM."]


def test_a_model_that_is_being_loaded_is_waited_for_and_not_begun_with(tmp_path, monkeypatch):
    loading, loaded, begun = threading.Event(), threading.Event(), []

    class Maker:
        def __init__(self, *_):
            loading.set()
            time.sleep(0.5)
            loaded.set()

        def warm_up(self):
            begun.append("warmed up")

        def close(self):
            assert loaded.is_set()
            begun.append("closed")

    monkeypatch.setattr("asymtalker.serve.making.LocalMaker", Maker)
    service = Service(Serve(data=tmp_path))
    service.start()
    assert loading.wait(60)
    service.close()
    assert begun == ["closed"]
    assert not service.ready.is_set()
    assert not [thread for thread in service._threads if thread.is_alive()]


def test_an_open_door_needs_a_token_and_a_taken_port_is_said(tmp_path):
    def said(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-c", "from asymtalker.commands.cli import main; main()", "serve", *arguments]
        ended = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"ASYMTALKER_TOKEN": ""}, timeout=300
        )
        return ended.returncode, ended.stderr.strip().splitlines()[-1]

    code, sentence = said("--host", "0.0.0.0", "--data", str(tmp_path))
    assert code == 2
    assert "set a token" in sentence
    assert not list(tmp_path.iterdir())
