"""The whole command ``asymtalker generate``."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asymtalker.commands.cli import main
from asymtalker.generate import inputs
from asymtalker.generate.inputs import Request, read_ahead, read_image
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.video import read_video, write_video
from asymtalker.media.wav import encode_wav
from asymtalker.models.motion.control import MotionControl
from asymtalker.timeline import SAMPLE_RATE
from drawn_face import background


def command(checkpoint: Path, portrait: Path, voice: Path, output: Path) -> list[str]:
    inputs = ["--image", str(portrait), "--audio", str(voice), "--output", str(output)]
    return ["generate", *inputs, "--model", str(checkpoint), "--device", "cpu"]


def test_command_writes_the_video_and_says_where(checkpoint, portrait, voice, sound, tmp_path, capsys):
    main(command(checkpoint, portrait, voice, tmp_path / "a.mp4"))
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'a.mp4'}\n"
    assert "generating" in said.err
    frames, heard = read_video(tmp_path / "a.mp4")
    assert (len(frames), len(heard)) == (31, len(sound))


def test_every_option_reaches_the_pipeline(checkpoint, portrait, voice, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(AsymTalkerPipeline, "generate_to_file", lambda _, *paths, **options: given.update(options))
    named = {"seed": 3, "face": 1, "track": 1}
    renamed = {"steps": 5, "guidance": 1.5, "size": "32x48", "motion": 0.5, "gaze": "camera"}
    flags = [word for name, value in (named | renamed).items() for word in (f"--{name}", str(value))]
    main([*command(checkpoint, portrait, voice, tmp_path / "a.mp4"), *flags, "--crop", "--no-blinks"])
    wanted = named | {"num_inference_steps": 5, "guidance_scale": 1.5, "size": (32, 48), "crop": True}
    assert {name: given[name] for name in wanted} == wanted
    assert given["control"] == MotionControl(0.5, "camera", False)


def test_command_makes_the_size_that_is_asked_for(checkpoint, portrait, voice, tmp_path, capsys):
    main([*command(checkpoint, portrait, voice, tmp_path / "a.mp4"), "--crop", "--size", "32x48"])
    assert read_video(tmp_path / "a.mp4")[0].shape[1:3] == (32, 48)
    with pytest.raises(SystemExit) as stop:
        main([*command(checkpoint, portrait, voice, tmp_path / "a.mp4"), "--size", "tall"])
    assert stop.value.code == 2
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


def test_command_refuses_in_one_sentence(checkpoint, portrait, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(command(checkpoint, portrait, portrait, tmp_path / "a.mp4"))
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("asymtalker: ")
    assert list(tmp_path.iterdir()) == []


def test_bad_inputs_are_told_before_anything_is_loaded(checkpoint, portrait, voice, tmp_path, capsys, monkeypatch):
    """In one sentence, with no bar above it that stands still."""
    monkeypatch.setattr("asymtalker.generate.pipeline.load_pipeline", lambda *_: pytest.fail("it was told too late"))
    faceless = tmp_path / "faceless.png"
    Image.fromarray(background(200, 300)).save(faceless)
    for model in (["--model", str(checkpoint)], []):
        for image, audio, told in ((faceless, voice, "No human face was found"), (portrait, portrait, "sound track")):
            given = ["--image", str(image), "--audio", str(audio), "--output", str(tmp_path / "a.mp4")]
            with pytest.raises(SystemExit) as stop:
                main(["generate", *given, *model])
            assert stop.value.code == 2
            said = capsys.readouterr().err
            assert said.startswith("asymtalker: ")
            assert said.count("\n") == 1
            assert told in said


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--guidance", "nan"], "Guidance must be"),
        (["--steps", "0"], "The number of steps"),
        (["--label", "x", "--label-font", "none.ttf"], "font none.ttf"),
        (
            ["--label", "a label that is far too long for a picture as small as this one, and much more of it"],
            "shorten",
        ),
    ],
)
def test_options_that_can_not_be_are_told_before_anything_is_loaded(
    checkpoint, portrait, voice, tmp_path, capsys, monkeypatch, given, told
):
    monkeypatch.setattr("asymtalker.generate.pipeline.load_pipeline", lambda *_: pytest.fail("it was told too late"))
    with pytest.raises(SystemExit) as stop:
        main([*command(checkpoint, portrait, voice, tmp_path / "a.mp4"), *given])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_outputs_that_can_not_be_are_told_before_anything_is_loaded(
    checkpoint, portrait, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("asymtalker.generate.pipeline.load_pipeline", lambda *_: pytest.fail("it was told too late"))
    video = tmp_path / "video.mp4"
    write_video(video, np.zeros((5, 64, 64, 3), np.uint8), np.ones(3200, np.float32) / 9)
    before = video.read_bytes()
    for output, told in ((video, "would overwrite an input"), (Path("/proc/a.mp4"), "may not be written to")):
        with pytest.raises(SystemExit) as stop:
            main(command(checkpoint, portrait, video, output))
        assert stop.value.code == 2
        assert told in capsys.readouterr().err
    assert video.read_bytes() == before


def test_what_was_read_ahead_is_not_read_again(checkpoint, portrait, tmp_path, monkeypatch):
    voice = tmp_path / "pipe.wav"
    os.mkfifo(voice)
    writing = threading.Thread(target=lambda: voice.write_bytes(encode_wav(np.zeros(3200))))
    writing.start()
    read = []
    monkeypatch.setattr(inputs, "read_image", lambda image: (read.append(image), read_image(image))[1])
    again = "asymtalker.generate.pipeline.read_inputs"  # which would wait for the pipe for ever
    monkeypatch.setattr(again, lambda *_: pytest.fail("it is read again"))
    main(command(checkpoint, portrait, voice, tmp_path / "a.mp4"))
    writing.join()
    assert len(read) == 1
    assert len(read_video(tmp_path / "a.mp4")[0]) == 5


@pytest.mark.parametrize("options", [{}, {"crop": True}, {"size": (128, 160)}, {"crop": True, "size": (128, 160)}])
def test_what_is_read_ahead_is_what_the_pipeline_reads(checkpoint, pipeline, portrait, voice, options):
    bundled = AsymTalkerPipeline.from_pretrained()
    for model, loaded in ((checkpoint, pipeline), (None, bundled)):
        request = Request(portrait, voice, **options)
        ahead, then = read_ahead(request, model), loaded.inputs(request)
        assert np.array_equal(ahead.seen, then.seen)
        assert np.array_equal(ahead.portrait.picture, then.portrait.picture)


def test_a_stopped_command_keeps_a_playable_video_and_says_so(checkpoint, portrait, tmp_path):
    """As a process; what Ctrl-C does is tested within one, in test_pipeline.py and test_cli.py."""
    voice = tmp_path / "voice.wav"
    voice.write_bytes(encode_wav(np.zeros(600 * SAMPLE_RATE)))
    output = tmp_path / "out" / "a.mp4"
    process = subprocess.Popen(
        [sys.executable, "-m", "asymtalker", *command(checkpoint, portrait, voice, output)],
        stderr=subprocess.PIPE,
        text=True,
    )
    while sum(part.stat().st_size for part in output.parent.glob(".*.part")) <= 20_000:
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    said = process.communicate()[1]
    assert process.returncode == 143
    assert "Stopped early: the first" in said
    assert "Traceback" not in said
    frames, heard = read_video(output)
    assert 0 < len(frames) < 600 * 25
    assert len(heard) == len(frames) * 640
    assert [path.name for path in output.parent.iterdir()] == ["a.mp4"]
