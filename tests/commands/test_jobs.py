"""``asymtalker generate --jobs``."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from asymtalker.commands import jobs as jobs_module
from asymtalker.commands.cli import main
from asymtalker.commands.generation import Generate
from asymtalker.commands.jobs import read_jobs
from asymtalker.errors import UserError
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.video import read_video
from asymtalker.media.wav import encode_wav
from asymtalker.provenance.credentials import read_credentials
from asymtalker.timeline import SAMPLE_RATE
from torchrun import FORKS


def listed(folder: Path, *rows: str, head: str = "image,audio,output") -> Path:
    path = folder / "list.csv"
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def run(checkpoint: Path, path: Path, *more: str) -> int:
    """The exit code of the command."""
    try:
        main(["generate", "--jobs", str(path), "--model", str(checkpoint), "--device", "cpu", *more])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def folder(tmp_path, portrait, voice, sound) -> Path:
    """A folder with a picture, a short sound and another."""
    (tmp_path / "face.png").write_bytes(portrait.read_bytes())
    (tmp_path / "short.wav").write_bytes(encode_wav(sound[:4000]))
    (tmp_path / "other.wav").write_bytes(encode_wav(sound[4000:8000]))
    return tmp_path


def test_rows_become_settings(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text(
        "\ufeffimage;audio;output;seed;crop;blinks;size;motion;label;consent\n"
        "a.png;/b.wav;out/c.mp4;4;yes;no;640x416;0.5;AI-generated;form 7\n"
        'd.png;"e;f.wav";g.mp4;;;;;;;\n'
    )
    first, second = read_jobs(path, Generate(jobs=path, seed=9, steps=3))
    assert first.paths == (tmp_path / "a.png", Path("/b.wav"), tmp_path / "out" / "c.mp4")
    assert (first.line, first.problem) == (2, "")
    said = first.settings
    assert (said.seed, said.crop, said.blinks, said.size, said.motion, said.steps) == (
        4,
        True,
        False,
        "640x416",
        0.5,
        3,
    )
    assert (said.disclosure.label, said.disclosure.consent) == ("AI-generated", "form 7")
    assert second.paths[1] == tmp_path / "e;f.wav"
    assert (second.settings.seed, second.settings.blinks, second.settings.disclosure.label) == (9, True, None)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a.png,b.wav,c.mp4,x,,,", "seed takes a whole number, not x"),
        ("a.png,b.wav,c.mp4,,fast,,", "motion takes a number, not fast"),
        ("a.png,b.wav,c.mp4,,,maybe,", "crop takes yes or no, not maybe"),
        ("a.png,b.wav,c.mp4,,,,up", "gaze takes free or camera, not up"),
        ("a.png,,c.mp4,,,,", "no audio"),
        ("a.png,b.wav", "more or fewer cells"),
        ("a.png,b.wav,c.mp4,,,,,,", "more or fewer cells"),
    ],
)
def test_bad_rows_are_known_before_anything_is_made(tmp_path, row, says):
    path = listed(tmp_path, row, "a.png,b.wav,good.mp4,,,,", head="image,audio,output,seed,motion,crop,gaze")
    bad, good = read_jobs(path, Generate())
    assert says in bad.problem
    assert not good.problem


def test_a_list_from_a_pipe_names_files_from_where_one_is(tmp_path):
    pipe = tmp_path / "list"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipe.write_text, "image,audio,output\na.png,b.wav,c.mp4\n")
        (job,) = read_jobs(pipe, Generate(jobs=pipe))
    assert job.paths == (Path("a.png"), Path("b.wav"), Path("c.mp4"))


def test_rows_that_would_overwrite_each_other_are_refused(tmp_path):
    path = listed(tmp_path, "a.png,b.wav,c.mp4", "a.png,b.wav,./c.mp4", "a.png,d.mp4,e.mp4", "a.png,b.wav,d.mp4")
    problems = [job.problem for job in read_jobs(path, Generate())]
    assert problems[0] == problems[2] == ""
    assert "Line 2 writes" in problems[1]
    assert "Line 4 reads" in problems[3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"image,audio\na,b\n", "no column output"),
        (b"picture,sound,video\na,b,c\n", "no column image and no column audio and no column output"),
        (b"image,audio,output,sed\na,b,c,1\n", "column 'sed' that is not known"),
        (b"image,audio,output,seed,seed\na,b,c,1,1\n", "a column twice"),
        (b"image,audio,output\n", "has no rows"),
        (b"\xff\xfe\x00", "not a CSV file in UTF-8"),
        (b'image,audio,output\n"a,b\n', "not a CSV file"),
        (b"", "is empty"),
    ],
)
def test_lists_that_can_not_be_read_are_refused(tmp_path, text, says):
    (tmp_path / "list.csv").write_bytes(text)
    with pytest.raises(UserError, match=says):
        read_jobs(tmp_path / "list.csv", Generate())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--jobs", "a.csv", "--image", "a.png"], "either --jobs, or --image, --audio and --output"),
        (["--jobs", "no.csv"], "list of jobs no.csv does not exist"),
        (["--image", "a.png"], "Missing: --audio, --output."),
    ],
)
def test_a_list_and_files_exclude_each_other(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", *arguments])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_list_is_worked_off_told_and_resumed(checkpoint, folder, capsys, monkeypatch):
    made, loaded = [], []
    generate, load = AsymTalkerPipeline.generate_to_file, jobs_module.load

    def note(self, *paths, **options):
        made.append(Path(paths[2]).name)
        return generate(self, *paths, **options)

    monkeypatch.setattr(AsymTalkerPipeline, "generate_to_file", note)
    monkeypatch.setattr(jobs_module, "load", lambda *arguments: loaded.append(1) or load(*arguments))
    rows = [
        "face.png,short.wav,out/a.mp4,1",
        "gone.png,short.wav,out/b.mp4,1",
        "short.wav,short.wav,out/c.mp4,1",
        "face.png,short.wav,out/d.mp4,soon",
        "face.png,other.wav,out/e.mp4,2",
    ]
    path = listed(folder, *rows, head="image,audio,output,seed")
    assert run(checkpoint, path) == 2
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{folder}/out/a.mp4", f"{folder}/out/e.mp4"]
    assert "Line 3 failed: The picture" in said.err
    assert "Line 4 failed: The picture" in said.err
    assert "Line 5 failed: The column seed takes a whole number, not soon." in said.err
    assert "5 rows: 2 made, 0 made before, 3 failed (lines 3, 4, 5 of" in said.err
    assert "Traceback" not in said.err
    assert (made, loaded) == (["a.mp4", "c.mp4", "e.mp4"], [1])
    assert sorted(entry.name for entry in (folder / "out").iterdir()) == ["a.mp4", "e.mp4"]
    before = (folder / "out" / "a.mp4").read_bytes()

    rows[1:4] = []
    made.clear()
    assert run(checkpoint, listed(folder, *rows, head="image,audio,output,seed")) == 0
    assert "2 rows: 0 made, 2 made before, 0 failed." in capsys.readouterr().err
    assert made == []
    assert (folder / "out" / "a.mp4").read_bytes() == before

    rows[0] = rows[0].replace(",1", ",8")  # another seed, other samples under the same name
    (folder / "other.wav").write_bytes((folder / "other.wav").read_bytes()[:-200])
    assert run(checkpoint, listed(folder, *rows, head="image,audio,output,seed")) == 0
    assert made == ["a.mp4", "e.mp4"]
    made.clear()
    assert run(checkpoint, folder / "list.csv", "--label", "AI") == 0  # an option of the command for all rows
    assert made == ["a.mp4", "e.mp4"]


def test_what_is_there_but_not_whole_or_not_as_it_was_is_made_again(checkpoint, folder, monkeypatch, pipeline):
    path = listed(folder, "face.png,short.wav,a.mp4")
    assert run(checkpoint, path) == 0
    job = read_jobs(path, Generate())[0]
    video = folder / "a.mp4"
    assert jobs_module.is_made(pipeline, job)
    data = video.read_bytes()
    for other in (data[:-1], data[: len(data) // 2], b"words", data[:4000] + bytes([data[4000] ^ 1]) + data[4001:]):
        video.write_bytes(other)
        assert not jobs_module.is_made(pipeline, job)
    video.write_bytes(data)
    monkeypatch.setattr(pipeline, "version", "another")
    assert not jobs_module.is_made(pipeline, job)
    monkeypatch.undo()
    video.unlink()
    assert not jobs_module.is_made(pipeline, job)


def test_our_own_mistakes_keep_their_traceback_and_the_run_goes_on(checkpoint, folder, monkeypatch, capsys):
    generate = AsymTalkerPipeline.generate_to_file

    def fail(self, *paths, **options):
        if Path(paths[2]).name == "a.mp4":
            raise ZeroDivisionError("a bug")
        return generate(self, *paths, **options)

    monkeypatch.setattr(AsymTalkerPipeline, "generate_to_file", fail)
    path = listed(folder, "face.png,short.wav,a.mp4", "face.png,short.wav,b.mp4")
    assert run(checkpoint, path) == 2
    said = capsys.readouterr()
    assert said.out == f"{folder}/b.mp4\n"
    assert "ZeroDivisionError: a bug" in said.err
    assert "1 made, 0 made before, 1 failed (lines 2 of" in said.err


def test_a_full_disk_ends_the_run(checkpoint, folder, monkeypatch, capsys):
    tried = []

    def fail(self, *paths, **options):
        tried.append(paths)
        raise UserError("Cannot write a.mp4 (the disk is full): make room.") from OSError(
            28, "No space left on device"
        )

    monkeypatch.setattr(AsymTalkerPipeline, "generate_to_file", fail)
    assert run(checkpoint, listed(folder, "face.png,short.wav,a.mp4", "face.png,short.wav,b.mp4")) == 2
    assert len(tried) == 1
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(checkpoint, folder):
    (folder / "long.wav").write_bytes(encode_wav(np.zeros(600 * SAMPLE_RATE, np.float32)))
    path = listed(folder, "face.png,short.wav,a.mp4", "face.png,long.wav,b.mp4")
    process = FORKS.Process(target=run, args=(checkpoint, path), daemon=True)
    process.start()
    while not list(folder.glob(".b.mp4*.part")):
        assert process.is_alive()
        time.sleep(0.05)
    process.kill()
    process.join()
    kept = (folder / "a.mp4").read_bytes()
    assert not (folder / "b.mp4").exists()
    for left in folder.glob(".b.mp4*"):
        os.utime(left, (0, 0))
    (folder / "long.wav").write_bytes((folder / "short.wav").read_bytes())
    assert run(checkpoint, path) == 0
    assert (folder / "a.mp4").read_bytes() == kept
    assert len(read_video(folder / "b.mp4")[0]) == 7
    assert read_credentials(folder / "b.mp4").complete
    assert not list(folder.glob(".*"))
