"""The ``synth`` stage: a corpus of synthetic talking heads with ground truth, the same for any number of processes."""

import functools
import hashlib
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import astuple, dataclass, replace
from itertools import islice, tee
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asymtalker import config as configs
from asymtalker.config import SynthConfig
from asymtalker.dataset.corpus import ManifestRow, NewClip, ShardWriter
from asymtalker.errors import UserError
from asymtalker.media.atomic import write_atomic
from asymtalker.media.picture import read_picture
from asymtalker.media.registry import named_portraits
from asymtalker.synth.acoustics import augment
from asymtalker.synth.mesh import BLENDSHAPES
from asymtalker.synth.motion import animate, random_style
from asymtalker.synth.pico import check_share
from asymtalker.synth.portraits import Portrait, find_portraits, photo_identity
from asymtalker.synth.pose import Pose
from asymtalker.synth.speech import Speech, Split, speak, split_of
from asymtalker.timeline import FPS

SETTINGS = "synth.json"
POINTS = "portraits.npz"
"""Where, in the corpus' folder, the face-mesh points of its portraits are kept."""
MANIFEST_SECONDS = 60.0
BACKDROP_SHARE = 0.4
"""Share of rendered heads that stand before a blurred photograph, when there are portraits."""


class Rendered(Protocol):
    """What a studio gives for one frame."""

    @property
    def picture(self) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB."""
        ...

    @property
    def mask(self) -> np.ndarray:
        """``(H, W)`` uint8, face = 255."""
        ...

    @property
    def lip_aperture(self) -> float:
        """Inner-lip gap over the distance between the outer eye corners."""
        ...

    @property
    def pose(self) -> Pose:
        """The pose shown; a photograph turns less far than it is asked to."""
        ...


class Studio(Protocol):
    """Where heads are filmed; one a process."""

    def cast_rendered(self, seed: int, procedural: bool, backdrop: np.ndarray | None) -> None:
        """Put the rendered head of ``seed`` before the camera, in front of a photograph out of focus if given one."""
        ...

    def cast_photo(self, picture: np.ndarray, landmarks: np.ndarray, key: str) -> None:
        """Put the head of a photograph before the camera; a :class:`UserError` if it can't be fitted."""
        ...

    def frame(self, weights: np.ndarray, pose: Pose) -> Rendered: ...


class VtkStudio:
    """The studio of this package: MakeHuman heads and photo heads, rendered offscreen."""

    def __init__(self, size: int):
        from asymtalker.synth.render import Renderer

        self._renderer = Renderer(size)

    def cast_rendered(self, seed: int, procedural: bool, backdrop: np.ndarray | None) -> None:
        from asymtalker.synth.identity import random_identity

        self._renderer.load(random_identity(seed, texture="procedural" if procedural else "natural"), backdrop)

    def cast_photo(self, picture: np.ndarray, landmarks: np.ndarray, key: str) -> None:
        from asymtalker.synth.photo import fit_photo

        self._renderer.load(fit_photo(picture, landmarks, key))

    def frame(self, weights: np.ndarray, pose: Pose) -> Rendered:
        return self._renderer.frame(weights, pose)


@dataclass(frozen=True)
class Job:
    """What a worker needs to know."""

    config: SynthConfig
    portraits: tuple[Portrait, ...]
    studio: Callable[[int], Studio]


def synthesize_corpus(config: SynthConfig, studio: Callable[[int], Studio] = VtkStudio) -> list[ManifestRow]:
    """Write the corpus that ``config`` describes; finished shards of an earlier, stopped run are kept.

    Clip ``i`` depends on the seed and ``i`` alone, not on the number of workers nor on interruptions.

    Args:
        config: the corpus; progress with ETA goes to stderr.
        studio: makes the studio of a process from the size in pixels.

    Returns:
        The manifest's rows.

    Raises:
        UserError: on settings out of range, a folder that holds another corpus or can't be written, or portraits that
            can't be used.
    """
    _check(config)
    portraits = tuple(_portraits(config))
    writer = ShardWriter(config.out)
    _claim(config, portraits)
    shards = -(-config.clips // config.shard_clips)
    todo = [index for index in range(shards) if not writer.has(index)]
    job = Job(config, portraits, studio)
    frames = _frames_of(config)
    bars = (TextColumn("synth"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    try:
        with Progress(*bars, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as progress:
            kept = config.clips - sum(len(_clips_of(config, index)) for index in todo)
            bar = progress.add_task("", total=config.clips * frames, completed=kept * frames)
            if config.workers == 1:
                for index in todo:
                    _write_shard(job, index, lambda: progress.advance(bar))
            elif todo:
                _write_parallel(job, todo, writer, lambda: progress.advance(bar))
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from the finished shards")
        raise
    finally:
        writer.clear()
    return writer.write_manifest()


def _check(config: SynthConfig) -> None:
    counts = {"clips": config.clips, "size": config.size, "workers": config.workers, "shard_clips": config.shard_clips}
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"synth: {name} is {value}, but at least 1 is needed")
    if config.seed < 0:
        raise UserError(f"synth: seed is {config.seed}, but a number from 0 up is needed")
    if config.size % 2:
        raise UserError(f"synth: size is {config.size}, but H.264 needs an even number")
    if _frames_of(config) < 1:
        raise UserError(f"synth: seconds is {config.seconds}, but a clip has at least one frame (0.04)")
    for name, share in (
        ("photo_fraction", config.photo_fraction),
        ("procedural_fraction", config.procedural_fraction),
        ("recorded_fraction", config.recorded_fraction),
    ):
        if not 0 <= share <= 1:
            raise UserError(f"synth: {name} is {share}, but a share is from 0 to 1")
    check_share(config.pico_share)
    if not 0 <= config.head_motion < math.inf:
        raise UserError(f"synth: head_motion is {config.head_motion}, but a gain from 0 up is needed")


def _portraits(config: SynthConfig) -> list[Portrait]:
    if config.portraits is None:
        return []
    return find_portraits(named_portraits(config.portraits), config.out / POINTS, config.workers)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _claim(config: SynthConfig, portraits: tuple[Portrait, ...]) -> None:
    """Write the settings into the folder, or compare them with those of the shards that are there."""
    settings = configs.to_dict(config)
    for name in ("out", "workers", "portraits"):
        del settings[name]  # where things lie changes no clip; which portraits there are does
    contents = hashlib.sha256()
    for portrait in portraits:
        contents.update(f"{portrait.name} {photo_identity(portrait.path)}\n".encode())
    settings["portraits"] = f"{len(portraits)} ({contents.hexdigest()[:12]})" if portraits else None
    path = config.out / SETTINGS
    if path.is_file() and any(config.out.glob("shard-*.tar")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{path} is damaged; delete the folder or give another") from None
        found = {name: getattr(SynthConfig, name) for name in ("split", "recorded_fraction")} | found  # came later
        if changed := configs.difference(found, settings):
            raise UserError(
                f"{config.out} holds a corpus with other settings ({'; '.join(changed)}); give another folder"
            )
        return
    write_atomic(path, json.dumps(settings, indent=2, ensure_ascii=False))


def _frames_of(config: SynthConfig) -> int:
    return round(config.seconds * FPS)


def _clips_of(config: SynthConfig, shard: int) -> range:
    return range(shard * config.shard_clips, min((shard + 1) * config.shard_clips, config.clips))


@functools.cache
def _studio(factory: Callable[[int], Studio], size: int) -> Studio:
    return factory(size)


def _write_shard(job: Job, index: int, advance: Callable[[], None]) -> None:
    def clips() -> Iterator[NewClip]:
        for clip in _clips_of(job.config, index):
            yield film(job, clip, advance)

    ShardWriter(job.config.out).write(index, clips())


def film(job: Job, index: int, advance: Callable[[], None] = lambda: None) -> NewClip:
    """Clip ``index`` of the corpus: a head, a voice, its motion, the pictures and the recording.

    A frame is drawn when it is asked for, and ``advance`` called after it; the studio is this clip's until the last.
    """
    config = job.config
    seeds = np.random.SeedSequence([config.seed, index]).spawn(4)
    head_rng, speech_rng, motion_rng, sound_rng = (np.random.default_rng(seed) for seed in seeds)
    studio = _studio(job.studio, config.size)
    kind, source_id, identity_id = _cast(job, studio, head_rng)
    split: Split = split_of(identity_id)

    count = _frames_of(config)
    speech = speak(speech_rng, count / FPS, split, config.pico_share)
    style = random_style(motion_rng)
    style = replace(style, head=style.head * config.head_motion)
    motion = animate(speech, motion_rng, count, style)
    shown: list[tuple[Pose, float]] = []

    def draw() -> Iterator[Rendered]:
        for weights, pose in zip(motion.blendshapes, motion.poses, strict=True):
            shot = studio.frame(weights, Pose(*map(float, pose)))
            shown.append((shot.pose, shot.lip_aperture))
            yield shot
            advance()

    pictures, masks = tee(draw())  # a frame and its mask are taken together, so that tee holds one of them
    return NewClip(
        key=f"clip-{index:07d}",
        split=split,
        source_id=source_id,
        identity_id=identity_id,
        voice_id=speech.voice_id,
        kind=kind,
        frames=(shot.picture for shot in pictures),
        mask=(shot.mask for shot in masks),
        audio=recorded(speech.samples, sound_rng, split, config.recorded_fraction),
        ground_truth=lambda: ground_truth(motion.blendshapes, speech, shown),
    )


def recorded(voice: np.ndarray, rng: np.random.Generator, split: Split, fraction: float) -> np.ndarray:
    """A voice ``(N,)`` as a recording of it sounds: in that share, with a room, noise and others who talk."""
    if rng.random() >= fraction:
        return voice
    return augment(voice, rng, speak(rng, 3.0, split).samples + speak(rng, 3.0, split).samples)


def _cast(job: Job, studio: Studio, rng: np.random.Generator) -> tuple[str, str, str]:
    """Choose a head and put it before the camera: ``(kind, source id, identity id)``."""
    wanted = job.config.split
    if job.portraits and rng.random() < job.config.photo_fraction:
        order = (job.portraits[choice] for choice in rng.permutation(len(job.portraits)))
        named = ((portrait, photo_identity(portrait.path)) for portrait in order)
        refusals = []
        for portrait, identity_id in islice((pair for pair in named if wanted in (None, split_of(pair[1]))), 20):
            try:
                studio.cast_photo(read_picture(portrait.path, any_size=True), portrait.landmarks, identity_id)
            except UserError as error:  # another portrait does as well; the choice is the same in every run
                refusals.append(str(error))
                continue
            return "photo", portrait.name, identity_id
        if not refusals:
            raise UserError(
                f"synth: none of the {len(job.portraits)} portraits is of the split {wanted}; give more portraits, or "
                "photo_fraction 0 for rendered heads alone"
            )
        raise UserError(f"none of {len(refusals)} portraits could be used, the last because: {refusals[-1]}")
    seed = int(rng.integers(2**62))
    while wanted not in (None, split_of(f"head-{seed:016x}")):
        seed = int(rng.integers(2**62))
    procedural = bool(rng.random() < job.config.procedural_fraction)
    identity_id = f"head-{seed:016x}"
    backdrop = None
    if job.portraits and rng.random() < BACKDROP_SHARE:
        order = rng.permutation(len(job.portraits))
        paths = (job.portraits[choice].path for choice in order)
        # a held-out portrait is never seen in training, not even out of focus
        same = (path for path in paths if split_of(photo_identity(path)) == split_of(identity_id))
        backdrop = next(_readable(same), None)
    studio.cast_rendered(seed, procedural, backdrop)
    return "rendered", f"makehuman-{'procedural' if procedural else 'natural'}", identity_id


def _readable(paths: Iterable[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        try:
            picture = read_picture(path, any_size=True)
        except UserError:
            continue
        yield picture


def ground_truth(blendshapes: np.ndarray, speech: Speech, shown: Sequence[tuple[Pose, float]]) -> dict[str, Any]:
    """The ``ground_truth`` of ``docs/architecture.md`` for one clip; ``shown`` are pose and lip aperture by frame."""
    return {
        "blendshapes": {"names": list(BLENDSHAPES), "weights": np.round(blendshapes.astype(float), 4).tolist()},
        "head_pose": [[round(float(value), 4) for value in astuple(pose)] for pose, _ in shown],
        "phonemes": [[symbol, round(start, 4), round(end, 4)] for symbol, start, end in speech.phonemes],
        "lip_aperture": [round(float(aperture), 5) for _, aperture in shown],
        "text": speech.text,
        "language": speech.language,
    }


_worker: tuple[Job, Any] | None = None
"""What this process works on, and the queue it reports drawn frames to; set once when a worker starts."""


def _start_worker(job: Job, ticks) -> None:
    global _worker
    _worker = (job, ticks)
    os.environ.setdefault("LP_NUM_THREADS", "1")  # Mesa's software renderer: the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # the parent was killed: nobody waits for this shard

    threading.Thread(target=follow, daemon=True).start()


def _work(index: int) -> None:
    assert _worker is not None
    job, ticks = _worker
    _write_shard(job, index, lambda: ticks.put(None))


def _write_parallel(job: Job, todo: list[int], writer: ShardWriter, advance: Callable[[], None]) -> None:
    """Shards in parallel processes; the manifest is brought up to date once a minute."""
    context = multiprocessing.get_context("spawn")  # VTK and espeak-ng do not survive a fork
    ticks = context.SimpleQueue()
    workers = min(job.config.workers, len(todo))
    others = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(job, ticks))
    try:
        pending = {executor.submit(_work, index) for index in todo}
        written = time.monotonic()
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            while not ticks.empty():
                ticks.get()
                advance()
            for future in finished:
                future.result()
            if finished and time.monotonic() - written > MANIFEST_SECONDS:
                writer.write_manifest()
                written = time.monotonic()
    except BrokenProcessPool:
        raise UserError(
            "a synth process was ended from outside, most likely for want of memory; the same command goes on from "
            "the finished shards, with --workers set lower if it happens again"
        ) from None
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.terminate()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
