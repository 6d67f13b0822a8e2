"""The command, with a model, killed in the middle of a job and started again: nothing is lost."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import httpx
import pytest

from asymtalker.commands.cli import main
from asymtalker.generate.folder import checkpoint_folder
from asymtalker.media.video import probe_video
from asymtalker.serve.service import Service
from asymtalker.serve.settings import Serve
from small_server import ask, speech, wait_for
from torchrun import FORKS

FRAMES = (60, 12, 12)  # of the jobs; the first is killed in the middle


def serve(out: Connection, *arguments: str) -> None:
    """The command, with what it says in a pipe."""
    sys.stdout = open(out.fileno(), "w")  # noqa: SIM115
    main(["serve", *arguments])


class Server:
    """``asymtalker serve`` in a process of its own."""

    def __init__(self, data: Path, model: Path):
        arguments = ["--port", "0", "--no-page", "--data", str(data), "--model", str(model), "--device", "cpu"]
        said, out = FORKS.Pipe(duplex=False)
        self.process = FORKS.Process(target=serve, args=(out, *arguments), daemon=True)
        self.process.start()
        out.close()
        self.said = open(os.dup(said.fileno()))  # noqa: SIM115
        address = re.fullmatch(r"(http://127\.0\.0\.1:\d+)\n", self.said.readline())
        assert address, self.process.exitcode
        # A server that is held up for the seconds that it keeps connections would close one as it is asked.
        anew = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(base_url=address[1], timeout=60, trust_env=False, limits=anew)

    def ready(self) -> "Server":
        end = time.monotonic() + 300
        while self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)
        return self

    def stop(self, number: int) -> int | None:
        self.client.close()
        os.kill(self.process.pid or 0, number)
        self.process.join(60)
        self.said.close()
        return self.process.exitcode


@pytest.mark.slow
def test_a_killed_server_makes_its_jobs_after_a_restart(checkpoint, tmp_path):
    data = tmp_path / "data"
    server = Server(data, checkpoint).ready()
    ids = [
        ask(server.client, files={"sound": speech(frames / 25)}, size=32, seed=seed).json()["id"]
        for seed, frames in enumerate(FRAMES)
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
    for id, frames in zip(ids, FRAMES, strict=True):
        assert wait_for(server.client, id, seconds=200)["state"] == "done"
        (tmp_path / "video.mp4").write_bytes(server.client.get(f"/v1/jobs/{id}/video").content)
        about = probe_video(tmp_path / "video.mp4")
        assert about.seconds == pytest.approx(frames / 25)
        assert "AI-generated" in about.metadata["title"]
        names = {path.name for path in (data / "jobs" / id).iterdir()}
        assert names == {"live.mp4", "video.mp4"}, "nothing of the killed attempt is left"
    assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_server_that_is_stopped_while_it_loads_ends_cleanly(tmp_path):
    """Libraries whose thread meets the interpreter's end abort the process."""
    code = "from asymtalker.commands.cli import main; main()"
    arguments = ["--port", "0", "--no-page", "--data", str(tmp_path), "--model", str(checkpoint_folder(None))]
    command = [sys.executable, "-c", code, "serve", *arguments, "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert httpx.get(f"{address}/healthz", timeout=60, trust_env=False).status_code == 200
        time.sleep(1)
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=300)[1]
    assert server.returncode == 128 + signal.SIGTERM
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


def test_an_open_door_needs_a_token(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ASYMTALKER_TOKEN", "")
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--host", "0.0.0.0", "--data", str(tmp_path)])
    assert stop.value.code == 2
    assert "set a token" in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
