"""Run another talking-head system on pairs of picture and recording, so that its videos can be measured beside ours.

The other system keeps its own checkout, Python and weights; :mod:`asymtalker.evaluate.baselines.systems` has its
command. Each command runs in a work folder of its own beside the videos, removed afterwards, in which everything in
the checkout appears as a link: paths relative to the checkout hold, what the command writes does not pile up in it,
and two runs on one checkout do not meet.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asymtalker.bench.machine import describe_machine
from asymtalker.dataset import corpus
from asymtalker.errors import UserError
from asymtalker.evaluate.baselines.systems import BASELINES, INPUT, OUTPUT, Baseline
from asymtalker.evaluate.clips import held_out
from asymtalker.evaluate.pairs import Pair, read_pairs
from asymtalker.evaluate.record import RECORD, read_record, write_record
from asymtalker.media.atomic import atomic_path, check_writable, clear_unfinished, disk_is_full
from asymtalker.media.read import open_media
from asymtalker.media.sound import AudioFile
from asymtalker.timeline import frames_of_samples

INPUTS = "inputs"
WORK = ".work-"
"""What the names of work folders begin with."""
MACHINE = ("cpu", "cores", "device", "system")
"""What the speed of a system depends on of what is said of the machine; the rest is of our own Python."""
GRACE = 30.0
"""Seconds that a stopped command has to end its own processes: torchrun's lie outside its process group."""


@dataclass(frozen=True, kw_only=True)
class BaselineSettings:
    """Run another talking-head system from its own checkout on pairs of picture and recording."""

    method: str
    """sadtalker, aniportrait, omniavatar, hallo3, stableavatar or infinitetalk."""
    repo: Path
    """Checkout of its repository, with the weights where its README puts them."""
    python: Path
    """Python of its own environment, such as ENV/bin/python."""
    out: Path
    """Folder of the videos. Those that are there are kept, so the same command goes on."""
    manifest: Path | None = None
    """Tab-separated, with a header: name, image, audio (paths absolute or relative to the manifest's folder)."""
    corpus: Path | None = None
    """Instead of a manifest, a corpus: the first frame and the sound of each of its held-out clips."""


def corpus_pairs(folder: Path, out: Path) -> tuple[list[Pair], dict[str, str]]:
    """Write the first frame and the sound of a corpus's held-out clips; files that hold the same already are kept.

    Returns:
        The pairs, and of each clip that can't be read its name and the reason.

    Raises:
        UserError: if it is no corpus, or has no held-out clip that can be read.
    """
    rows = held_out(folder)
    pairs, unread, out = [], {}, out.absolute()  # commands run elsewhere
    for row in rows:
        pair = Pair(row.key, out / f"{row.key}.png", out / f"{row.key}.wav")
        try:
            clip = corpus.open_clip(folder, row.key)
            picture, sound = clip.frames(0, 1)[0], corpus.encode_wav(clip.audio())
        except UserError as error:
            unread[row.key] = str(error)
            continue
        if not _shows(pair.image, picture):
            with atomic_path(pair.image) as partial:
                Image.fromarray(picture).save(partial, format="PNG")
        if not (pair.audio.is_file() and pair.audio.read_bytes() == sound):
            with atomic_path(pair.audio) as partial:
                partial.write_bytes(sound)
        pairs.append(pair)
    if not pairs:
        raise UserError(
            f"No held-out clip of the corpus {folder} can be read, the last one so: {unread[rows[-1].key]}"
        )
    return pairs, unread


def _shows(path: Path, picture: np.ndarray) -> bool:
    """Whether a file is this picture, however it was compressed."""
    try:
        with Image.open(path) as image:
            return np.array_equal(np.asarray(image), picture)
    except (OSError, SyntaxError):  # not there, or damaged
        return False


def run_baseline(settings: BaselineSettings) -> None:
    """The ``baseline`` verb: ``OUT/NAME.mp4`` and ``OUT/NAME.log`` per pair, and ``OUT/method.json``.

    The JSON file says how the videos were made: ``method``, ``title``, ``origin``, ``licence``, ``settings`` (words of
    the command, with ``{image}``, ``{audio}``, ``{prompt}`` and so on where those go), ``prompt``, ``fps``, ``chunk``
    (frames of the ``first`` piece and the ``step`` of later ones, or null), ``crop`` (``left``, ``top``, ``width`` and
    ``height`` in pixels of the talking head, if frames show more, or null), ``loaded_seconds_per_video`` (wall clock,
    loading of weights included), the ``machine`` they are of, ``inputs`` (name: hash of picture and sound) and
    ``failed`` (name: reason; there is no video of it). A pair that fails, or a clip that can't be read, does not end
    the run; a pair whose picture or sound changed is made again.

    Raises:
        UserError: before anything runs, if an input is missing or wrong, or the folder holds other videos; at the end,
            if no pair has a video; if the disk is full.
    """
    if settings.method not in BASELINES:
        raise UserError(f"There is no method {settings.method}: choose one of {', '.join(BASELINES)}.")
    baseline = BASELINES[settings.method]
    if (settings.manifest is None) == (settings.corpus is None):
        raise UserError("Give --manifest or --corpus, one of the two.")
    pairs, unread = read_pairs(settings.manifest) if settings.manifest else [], {}
    if baseline.wav_only and (other := [pair for pair in pairs if pair.audio.suffix.lower() != ".wav"]):
        raise UserError(f"{baseline.title} reads WAV only: convert {other[0].audio}.")
    repo, python = _checkout(baseline, settings.repo), _python(settings.python)
    if settings.corpus:
        pairs, unread = corpus_pairs(settings.corpus, settings.out / INPUTS)
    check_writable(settings.out / RECORD)
    record = _Record(settings.out / RECORD, settings.method, baseline, pairs)
    _clear(settings.out)
    for name, reason in unread.items():
        record.fail(name, reason)
    waiting = [pair for pair in pairs if not record.has(pair)]
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bars:
        bar = bars.add_task(baseline.title, total=len(waiting))
        for pair in waiting:
            bars.update(bar, description=pair.name)
            # or it would pass for the new one if that is never finished
            record.video(pair.name).unlink(missing_ok=True)
            started = time.perf_counter()
            if reason := _make_video(baseline, repo, python, pair, record.video(pair.name)):
                record.fail(pair.name, reason)
                bars.console.print(f"{pair.name} failed: {reason}", markup=False)
            else:
                record.add(pair, time.perf_counter() - started)
            bars.advance(bar)
    record.write()
    failed = [pair.name for pair in pairs if pair.name in record.failed]
    if len(failed) == len(pairs):
        raise UserError(
            f"All {len(pairs)} videos failed, the last one so: {record.failed[failed[-1]]} "
            f"(see {record.video(failed[-1]).with_suffix('.log')})."
        )
    for name in [*unread, *failed]:
        console.print(f"no video of {name}: {record.failed[name]}", markup=False)
    print(settings.out / RECORD)


def _clear(out: Path) -> None:
    """Remove what a killed run left unfinished."""
    for folder in (out, out / INPUTS):
        clear_unfinished(folder)
    for work in list(out.glob(f"{WORK}*")):
        shutil.rmtree(work, ignore_errors=True)


def _machine() -> dict[str, Any]:
    return describe_machine("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class _Record:
    """``method.json`` of a folder, written after every pair so that a killed run forgets nothing."""

    path: Path
    method: str
    baseline: Baseline
    pairs: list[Pair]
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=_machine)

    def __post_init__(self):
        old = read_record(self.path.parent)
        if not old:
            return
        try:
            same = old["method"] == self.method and old["settings"] == self.baseline.arguments
            self.seconds, self.failed, self.inputs = old["loaded_seconds_per_video"], old["failed"], old["inputs"]
            self.machine = old["machine"]
        except KeyError as error:
            raise UserError(f"{self.path} is not of a baseline's run: use another folder.") from error
        if not same:
            raise UserError(
                f"{self.path.parent} holds videos of {old['method']} or other settings: use another folder."
            )

    def video(self, name: str) -> Path:
        """Where the video of a pair is, or will be."""
        return self.path.parent / f"{name}.mp4"

    def has(self, pair: Pair) -> bool:
        """Whether there is a video of this picture and this sound."""
        made = self.video(pair.name).exists() and pair.name not in self.failed
        return made and self.inputs.get(pair.name) == inputs_hash(pair)

    def add(self, pair: Pair, seconds: float) -> None:
        """Note a video that was made."""
        machine = _machine()
        if any(machine[key] != self.machine.get(key) for key in MACHINE):  # the speeds of two have no mean
            self.machine, self.seconds = machine, {}
        self.failed.pop(pair.name, None)
        self.seconds[pair.name] = round(seconds, 3)
        self.inputs[pair.name] = inputs_hash(pair)
        self.write()

    def fail(self, name: str, reason: str) -> None:
        """Note why there is no video; one of another picture or sound is removed."""
        self.video(name).unlink(missing_ok=True)
        for made in (self.seconds, self.inputs):
            made.pop(name, None)
        self.failed[name] = reason
        self.write()

    def write(self) -> None:
        """Write the file; the pieces may depend on the picture, and are null if they differ among the videos."""
        chunks = {self.baseline.chunk(pair.image) for pair in self.pairs if self.video(pair.name).exists()}
        chunk = chunks.pop() if len(chunks) == 1 else None
        values: dict[str, Any] = {
            "method": self.method,
            "title": self.baseline.title,
            "origin": self.baseline.origin,
            "licence": self.baseline.licence,
            "settings": self.baseline.arguments,
            "prompt": self.baseline.prompt,
            "fps": self.baseline.fps,
            "chunk": chunk and asdict(chunk),
            "crop": self.baseline.crop and asdict(self.baseline.crop),
            "machine": self.machine,
            "loaded_seconds_per_video": self.seconds,
            "inputs": self.inputs,
            "failed": self.failed,
        }
        write_record(self.path.parent, values)


def inputs_hash(pair: Pair) -> str:
    """SHA-256 of a pair's picture and sound."""
    digest = hashlib.sha256()
    for path in (pair.image, pair.audio):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _checkout(baseline: Baseline, repo: Path) -> Path:
    if not repo.is_dir():
        raise UserError(f"The checkout {repo} is not a folder: clone https://github.com/{baseline.origin} there.")
    if not (repo / baseline.script).is_file():
        raise UserError(f"{repo} has no {baseline.script}: give a checkout of https://github.com/{baseline.origin}.")
    for name in baseline.needs:
        if not (repo / name).exists():
            raise UserError(f"{repo} has no {name}, which {baseline.title} reads: put it there as its README says.")
    return repo.resolve()


def _python(python: Path) -> Path:
    found = shutil.which(python)
    if found is None:
        raise UserError(f"{python} is no Python that can be run: give the one of the system's own environment.")
    return Path(found).absolute()  # not resolved: in an environment it is a link, and runs as what it is called


def _make_video(baseline: Baseline, repo: Path, python: Path, pair: Pair, video: Path) -> str | None:
    """Make one video; the reason if it failed."""
    log = video.with_suffix(".log")
    with tempfile.TemporaryDirectory(prefix=WORK, dir=video.parent) as folder:
        work = Path(folder).resolve()
        image, audio = f"asymtalker_image{pair.image.suffix}", f"asymtalker_audio{pair.audio.suffix}"
        (work / image).symlink_to(pair.image)
        (work / audio).symlink_to(pair.audio)
        for entry in repo.iterdir():  # hidden ones are git's and caches that commands write
            if not entry.name.startswith(".") and entry.name not in baseline.writes:
                (work / entry.name).symlink_to(entry)
        try:
            if baseline.prepare:
                baseline.prepare(work, image, audio)
            status = _run(_command(baseline, python, image, audio, pair), work, python, log)
            results = sorted(work.glob(baseline.result))
            if status or not results:
                return _last_line(log) or f"no video and no word, exit code {status}"
            with atomic_path(video) as partial:
                if baseline.silent:
                    _add_sound(results[-1], pair.audio, partial)
                else:
                    shutil.move(results[-1], partial)
        except UserError as error:
            if disk_is_full(error):
                raise
            return str(error)
    return None


def _command(baseline: Baseline, python: Path, image: str, audio: str, pair: Pair) -> list[str]:
    values = {"python": python, "image": image, "audio": audio, "prompt": baseline.prompt}
    values |= {"input": INPUT, "output": OUTPUT}
    if "{frames}" in baseline.command:
        values["frames"] = frames_of_samples(AudioFile(pair.audio).num_samples)
    return [argument.format_map(values) for argument in baseline.arguments]


def _run(command: list[str], work: Path, python: Path, log: Path) -> int:
    """The exit code of a command whose whole process group is stopped if we are."""
    # tools of an environment that is not activated, such as conda's ffmpeg, lie beside its Python
    environment = os.environ | {"PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait()
        except BaseException:
            _stop(process)
            raise


def _stop(process: subprocess.Popen) -> None:
    """End a process group: politely, then, after the grace or a second Ctrl-C, at once."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):  # the first process may have left others behind
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _add_sound(video: Path, audio: Path, target: Path) -> None:
    """The pictures of a silent video as they are, with the recording as AAC, as long as the pictures."""
    sound = AudioFile(audio).track()
    layout = "stereo" if sound.channels == 2 else "mono"
    try:
        with open_media(video, "video") as source, av.open(f"file:{target}", "w", format="mp4") as out:
            pictures = source.streams.video[0]
            copy = out.add_stream_from_template(pictures)
            track: Any = out.add_stream("aac", rate=sound.rate, layout=layout)
            track.bit_rate = 96_000 * sound.channels
            samples, end = 0, 0.0
            for packet in source.demux(pictures):
                if packet.dts is None:  # the empty one that ends the stream
                    continue
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                packet.stream = copy
                out.mux(packet)
                for frame in _audio_frames(sound.take_until(end), samples, sound.rate, layout):
                    out.mux(track.encode(frame))
                    samples += frame.samples
            out.mux(track.encode(None))
    except (av.error.FFmpegError, OSError, IndexError) as error:
        raise UserError(f"The sound of {audio} cannot be added to {video.name} ({error}).") from error


def _audio_frames(samples: np.ndarray, start: int, rate: int, layout: str) -> Iterator[av.AudioFrame]:
    if len(samples):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, start
        yield frame
