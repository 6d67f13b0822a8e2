import errno
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import asymtalker
from asymtalker.bench.settings import BenchGenerate
from asymtalker.commands import cli, exits
from asymtalker.commands.cli import VERBS, main, parse
from asymtalker.commands.generation import Generate
from asymtalker.errors import LostProcessError, UserError

IMAGE = __file__  # any file that is there
REQUIRED = ["--image", "a.png", "--audio", "a.wav", "--output", "a.mp4"]


def refusal(capsys, *arguments: str) -> str:
    """The one line on stderr of a command that is refused with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("asymtalker: ")
    assert said.err.count("\n") == 1
    return said.err


def test_help_names_every_verb(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        main(arguments)
        shown = capsys.readouterr().out
        assert all(f"  {name} " in shown for name in VERBS)
    main(["--version"])
    assert capsys.readouterr().out == f"asymtalker {asymtalker.__version__}\n"


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_exists_and_helps(name, capsys):
    verb = VERBS[name]
    assert callable(cli._named(verb.work))
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert not stop.value.code
    assert f"usage: asymtalker {name}" in capsys.readouterr().out


def test_flags_become_settings():
    settings = parse("generate", Generate, [*REQUIRED, "--seed", "4", "--face", "2", "--crop"])
    assert settings == Generate(
        image=Path("a.png"), audio=Path("a.wav"), output=Path("a.mp4"), seed=4, face=2, crop=True
    )
    assert parse("bench generate", BenchGenerate, ["--out", "a.json"]).seconds == "10,60,600"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["genrate"], "did you mean generate?"),
        (["fly"], "no verb fly: the verbs are"),
        (["generate", *REQUIRED, "--sed", "4"], "no option --sed: did you mean --seed?"),
        (["generate", "--imgae", "a.png"], "no option --imgae: did you mean --image?"),
        (["generate", *REQUIRED, "--zzz=4"], "no option --zzz."),
        (["generate", "--image", "a.png"], "Missing: --audio, --output."),
        (["inspect"], "Missing: a file. See asymtalker inspect --help."),
        (["generate", *REQUIRED, "--seed", "many"], "--seed takes a whole number, not many."),
        (["generate", *REQUIRED, "--steps", "1.5"], "--steps takes a whole number, not 1.5."),
        (["generate", *REQUIRED, "--motion", "far"], "--motion takes a number, not far."),
        (["generate", *REQUIRED, "--seed"], "--seed is without a value."),
        (["generate", "-i", "a.png", *REQUIRED[2:]], "no option -i: did you mean --image?"),
        (["generate", "--image", "-p.png", *REQUIRED[2:]], "give the file as --image ./-p.png"),
        (["generate", "--image", "https://a.b/c.jpg", *REQUIRED[2:]], "is an address: download it"),
        (["generate", "--image", "-", *REQUIRED[2:]], "The picture - does not exist: standard input is /dev/stdin."),
        (["generate", "--image", IMAGE, "--audio", "-", *REQUIRED[4:]], "The audio file - does not exist: standard"),
        (["generate", "--image", IMAGE, "--audio", IMAGE, "--output", "-"], "can't go to standard output, as - asks"),
        (["generate", "--jobs", "-"], "The list of jobs - does not exist: standard input is /dev/stdin."),
        (["generate", *REQUIRED, "--size", "100000x100000"], "from 16 to 4096 pixels, not 100000x100000"),
        (["generate", *REQUIRED, "stray"], "stray"),
        (["bench", "--out", "a.json"], "no verb bench: did you mean bench generate, bench train or bench distill?"),
        (["evaluate", "--out", "report"], "Give what to compare with: --reference"),
        (["evaluate", "--corpora", "10"], "did you mean --corpus?"),
        (["bench", "generate", "--out", "a.json", "--corpus", "c"], "no option --corpus"),
        (["bench", "generate", "--out", "a.json", "--seconds", "10;60"], "--seconds must be numbers"),
        (["bench", "generate", "--out", "a.json", "--seconds", "0"], "above 0"),
    ],
)
def test_mistakes_are_one_sentence(arguments, says, capsys):
    assert says in refusal(capsys, *arguments)


def test_missing_files_are_told_before_anything_is_loaded(tmp_path, capsys):
    said = refusal(capsys, "generate", "--image", str(tmp_path / "no.png"), *REQUIRED[2:])
    assert f"{tmp_path / 'no.png'} does not exist" in said


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a verb for tests."""

    how: str


def work(settings: Settings) -> None:
    match settings.how:
        case "refuse":
            raise UserError("The sky is too low: raise it.")
        case "interrupt":
            raise KeyboardInterrupt
        case "terminate" | "hang up":
            signal.raise_signal(signal.SIGTERM if settings.how == "terminate" else signal.SIGHUP)
        case "foreign package":
            raise ModuleNotFoundError("No module named 'vtk.core'", name="vtk.core")
        case "lose a process":
            raise LostProcessError("Another process was lost.")
        case "full disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        case "lost file":
            raise FileNotFoundError(errno.ENOENT, "No such file")
        case "own module":
            raise ModuleNotFoundError("No module named 'asymtalker.nothing'", name="asymtalker.nothing")
        case "bug":
            raise ZeroDivisionError


@pytest.fixture
def _test_verb(monkeypatch):
    monkeypatch.setitem(VERBS, "work", cli.Verb("test", f"{__name__}:Settings", f"{__name__}:work"))
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("_test_verb")
def test_what_a_verb_raises_decides_the_exit_code(capsys):
    assert refusal(capsys, "work", "--how", "refuse") == "asymtalker: The sky is too low: raise it.\n"
    for how, code, name in [("interrupt", 130, "Ctrl-C"), ("terminate", 143, "SIGTERM"), ("hang up", 129, "SIGHUP")]:
        with pytest.raises(SystemExit) as stop:
            main(["work", "--how", how])
        assert stop.value.code == code
        assert capsys.readouterr().err == f"asymtalker: stopped by {name}.\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert "disk is full" in refusal(capsys, "work", "--how", "full disk")
    for how, error in [("bug", ZeroDivisionError), ("own module", ModuleNotFoundError), ("lost file", OSError)]:
        with pytest.raises(error):  # our own mistakes keep their traceback
            main(["work", "--how", how])


@pytest.mark.usefixtures("_test_verb")
def test_of_several_processes_the_first_speaks(capsys, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(exits.time, "sleep", waited.append)
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert "sky is too low" in refusal(capsys, "work", "--how", "refuse")
        assert bool(waited) == (rank == "1")
        for how, heard in (("interrupt", rank == "0"), ("terminate", False)):
            with pytest.raises(SystemExit):
                main(["work", "--how", how])
            assert bool(capsys.readouterr().err) == heard
    waited.clear()
    refusal(capsys, "work", "--how", "lose a process")  # it may be stopped while it waits
    assert not waited


@pytest.mark.usefixtures("_test_verb")
def test_a_missing_extra_says_what_to_install(capsys):
    said = refusal(capsys, "work", "--how", "foreign package")
    assert "(vtk is missing)" in said
    assert "pip install -c constraints.txt '.[synth,train,evaluate,serve]'" in said


@pytest.mark.usefixtures("_test_verb")
def test_a_hang_up_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        main(["work", "--how", "hang up"])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_help_loads_no_heavy_package():
    code = (
        "import sys; from asymtalker.commands.cli import main; main(['--help']);"
        "print([name for name in ('torch', 'diffusers', 'av', 'dlib', 'vtk') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("[]\n")


WORK = """
import os, sys
from asymtalker.commands.exits import exit_by, steady_streams
def work():
    for _ in range(3000):
        print("progress", "x" * 100, file=sys.stderr)
    name = os.fsdecode("\\u6f22.mp4".encode())
    open(os.path.join(sys.argv[1], name), "w").write("made")
    print(name)
with steady_streams():
    exit_by(work)
"""


@pytest.mark.parametrize(
    "streams",
    [
        ">&-",
        "2>&-",
        "<&- >&- 2>&-",
        ">/dev/full 2>/dev/null",
        "2>/dev/full",
        "2>&1 | head -1",
        "2>&1 >/dev/null | true",
        "2>/dev/null | true",
    ],
)
@pytest.mark.parametrize("locale", ["LC_ALL=C.UTF-8", "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0"])
def test_whatever_becomes_of_the_streams_work_ends_as_it_does(tmp_path, streams, locale):
    run = shlex.join([sys.executable, "-c", WORK, str(tmp_path)])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {locale} {run} {streams}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ["made"]


def test_a_result_that_could_not_be_said_is_told(tmp_path):
    run = shlex.join([sys.executable, "-c", WORK, str(tmp_path)])
    done = subprocess.run(["bash", "-c", f"{run} >/dev/full"], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "asymtalker: standard output could not be written (No space left on device)."
    )


def test_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m asymtalker --help; echo $? >&2"
    done = subprocess.run(["bash", "-c", f"({command}) | true"], capture_output=True, text=True, check=False)
    assert done.stderr == "0\n"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_removed_working_folder_is_one_sentence(when, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")

    def work():
        (tmp_path / "gone").rmdir()
        Path("a.txt").read_text()

    if when == "before":
        (tmp_path / "gone").rmdir()
    with pytest.raises(SystemExit) as stop:
        exits.exit_by(work)
    assert stop.value.code == 2
    assert "in which this was started was removed" in capsys.readouterr().err
