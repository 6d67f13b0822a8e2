"""Test sets cut from videos that the user has, by a list of clips: square videos, portraits and sound.

:mod:`asymtalker.evaluate.test_sets.lists` reads the lists.
"""

import json
import os
import shutil
import sys
import wave
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from asymtalker.errors import UserError
from asymtalker.evaluate.pairs import PAIRS, Pair, write_pairs
from asymtalker.evaluate.test_sets.lists import COLUMNS, ListedClip, choose_clips, find_video, read_list
from asymtalker.media.atomic import disk_is_full, write_atomic
from asymtalker.media.portrait import FACE_CENTRE, FACE_SHARE, FaceBox, crop_frame, find_faces
from asymtalker.media.sound import AudioFile
from asymtalker.media.video import VideoWriter, picture_of, probe_video, resample_frames, timed_frames
from asymtalker.timeline import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

LEAST_SECONDS = 1.0
FACE_SEARCH_SECONDS = 30
"""How far into a clip its first face is looked for, a frame a second."""
FACE_STRIDE = 5
"""Frames between the looks at the second that has the first face."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Cut a test set from videos by a list of clips: square 25 FPS videos, portraits and sound, and their pairs."""

    list: str
    """A TSV file of clips (name, video, start, end, crop), or a published list: ``hdtf:FOLDER`` of HDTF's annotations,
    ``vfhq:FOLDER`` of VFHQ's meta info."""
    videos: Path
    """Folder of the videos that the list names, such as RD_Radio1.mp4 for HDTF and the id at YouTube for VFHQ."""
    out: Path
    """Folder of the test set; the same command goes on where it was stopped."""
    choose: int | None = None
    """Clips to choose at random from the list; all by default."""
    seed: int = 0
    """Of the choice."""
    size: int = 512
    """Width and height in pixels."""


def prepare_benchmark(settings: Benchmark) -> None:
    """The ``benchmark`` verb: cut the chosen clips; finished ones of an earlier run are kept.

    ``out`` gets videos/NAME.mp4, portraits/NAME.png (the first frame), audio/NAME.wav (16 kHz mono), ``pairs.tsv``
    (name, image, audio), ``skipped.tsv`` (name, reason), ``missing.tsv`` (name, video, url) and ``list.tsv``, the
    chosen clips.

    Raises:
        UserError: if settings make no sense, the list can't be read, ``out`` holds another set or can't be written,
            or there is no clip that could be cut.
    """
    out = settings.out
    if settings.size < 64 or settings.size % 2:
        raise UserError(f"--size is {settings.size}, but H.264 needs an even number, and a face 64 pixels or more.")
    if settings.seed < 0 or (settings.choose is not None and settings.choose < 1):
        raise UserError("--choose must be 1 or more and --seed 0 or more.")
    if not settings.videos.is_dir():
        raise UserError(f"There is no folder of videos {settings.videos}: give one that exists.")
    listed = read_list(settings.list)
    clips = choose_clips(listed, settings.choose, settings.seed)
    if settings.choose is not None and settings.choose > len(listed):
        _say(f"the list has {len(listed)} clips only; all are taken")
    _claim(out, clips, settings.size)
    for left in out.glob(".*.cut"):  # by a run that was killed
        shutil.rmtree(left)
    todo = [clip for clip in clips if not _is_finished(out, clip)]
    found = {clip: path for clip in todo if (path := find_video(settings.videos, clip.video))}
    missing = [clip for clip in todo if clip not in found]
    _write_table(out / "missing.tsv", ("name", "video", "url"), ((c.name, c.video, c.url) for c in missing))
    if missing:
        _say(f"no video in {settings.videos} for {len(missing)} of {len(clips)} clips; missing.tsv says which")
    skipped: dict[str, str] = {}
    try:
        converted = _cut_all(found, out, settings.size, skipped)
    finally:
        done = [clip.name for clip in clips if _is_finished(out, clip)]
        _write_pairs(out, done)
        _write_table(out / "skipped.tsv", ("name", "reason"), skipped.items())
    if converted:
        _say(f"clips brought to {FPS} frames a second, by the frame nearest in time: {converted}")
    if skipped:
        _say(f"clips skipped: {len(skipped)}; skipped.tsv says why")
    if not done:
        raise UserError(f"No clip could be cut: {out / 'missing.tsv'} and {out / 'skipped.tsv'} say why.")
    print(out / PAIRS)


def _write_pairs(out: Path, names: list[str]) -> None:
    if names:
        write_pairs(out / PAIRS, [Pair(name, *_files(out, name)[:2]) for name in names])


def _say(sentence: str) -> None:
    print(f"benchmark: {sentence}", file=sys.stderr, flush=True)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = ["\t".join(" ".join(cell.split()) for cell in row) for row in (header, *rows)]
    write_atomic(path, "\n".join(lines) + "\n")


def _claim(out: Path, clips: Sequence[ListedClip], size: int) -> None:
    """Write what set the folder holds, or compare it with what is there."""
    about = json.dumps({"size": size, "clips": [clip.row()[:5] for clip in clips]}, ensure_ascii=False)
    path = out / "benchmark.json"
    if path.is_file() and path.read_text(encoding="utf-8") != about and any(out.glob("videos/*.mp4")):
        raise UserError(f"{out} holds another test set, of other clips or another size: give another folder.")
    write_atomic(path, about)
    _write_table(out / "list.tsv", COLUMNS, (clip.row() for clip in clips))


def _files(out: Path, name: str) -> tuple[Path, Path, Path]:
    """Portrait, sound and video; the video comes last and says that the clip is finished."""
    return out / "portraits" / f"{name}.png", out / "audio" / f"{name}.wav", out / "videos" / f"{name}.mp4"


def _is_finished(out: Path, clip: ListedClip) -> bool:
    return all(path.is_file() for path in _files(out, clip.name))


def _cut_all(found: dict[ListedClip, Path], out: Path, size: int, skipped: dict[str, str]) -> int:
    """Cut clips, noting the reasons of those that can't be; returns how many had another frame rate."""
    converted = 0
    bars = (TextColumn("clips"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*bars, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(found))
        for index, (clip, video) in enumerate(found.items()):

            def show(share: float, index: int = index) -> None:
                progress.update(bar, completed=index + min(share, 1.0))

            try:
                converted += _cut(clip, video, out, size, show)
            except Exception as error:  # what decoders raise on damaged files has no end of names
                if disk_is_full(error):
                    raise
                skipped[clip.name] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            show(1.0)
    return converted


def _cut(clip: ListedClip, video: Path, out: Path, size: int, show: Callable[[float], None]) -> bool:
    """:func:`cut_clip`, with its three files in their places at the end."""
    scratch = out / f".{clip.name}.cut"
    scratch.mkdir()
    try:
        converted = cut_clip(clip, video, scratch, size, show)
        for name, place in zip(("clip.png", "clip.wav", "clip.mp4"), _files(out, clip.name), strict=True):
            place.parent.mkdir(exist_ok=True)
            os.replace(scratch / name, place)
        return converted
    finally:
        shutil.rmtree(scratch)


def cut_clip(clip: ListedClip, video: Path, folder: Path, size: int, show: Callable[[float], None]) -> bool:
    """Write ``clip.png``, ``clip.wav`` and ``clip.mp4``, a second at a time.

    Args:
        clip: what to cut.
        video: file to cut from.
        folder: where the files go.
        size: width and height of the square in pixels.
        show: called with the share that is done.

    Returns:
        Whether the video has another frame rate than 25 FPS.

    Raises:
        UserError: if the video is damaged, has no sound, no face in the clip, or is shorter than the clip or a second.
    """
    info = probe_video(video)
    if info.audio_rate is None:
        raise UserError(f"{video} has no sound.")
    audio = AudioFile(video)
    count = None if clip.end is None else round((clip.end - clip.start) * FPS)
    likely = count or max(1.0, (info.seconds - clip.start) * FPS)
    box = find_box(clip, video) if clip.crop is None else given_box(clip, info.height)
    start = clip.start - info.audio_delay
    track = audio.track()
    for second in range(int(start) + 1):  # a second at a time, not minutes at once
        track.take_until(min(second + 1, start))
    done = 0
    with VideoWriter(
        folder / "clip.mp4", (size, size), audio_rate=track.rate, audio_channels=track.channels
    ) as writer:
        writer.write_audio(np.zeros((round(max(0.0, -start) * track.rate), track.channels), np.float32))
        for frame in resample_frames(timed_frames(video, clip.start), clip.start, count):
            picture = crop_frame(picture_of(frame), box, (size, size)).picture
            if not done:
                Image.fromarray(picture).save(folder / "clip.png")
            writer.write(picture[None])
            done += 1
            if done % FPS == 0:
                writer.write_audio(track.take_until(start + done / FPS))
                show(done / likely)
        if done < LEAST_SECONDS * FPS:
            raise UserError(f"The clip is {done / FPS:.2f} s long, and {LEAST_SECONDS:g} s is the least.")
        wanted = (info.seconds - clip.start) * FPS if count is None else count
        if done < wanted - FPS:
            raise UserError(f"{video} ends {(wanted - done) / FPS:.1f} s before it should.")
        writer.write_audio(track.take_until(start + done / FPS))
    _write_sound(folder / "clip.wav", audio, round(start * SAMPLE_RATE), done * SAMPLES_PER_FRAME)
    return abs(info.fps - FPS) > 0.01


def given_box(clip: ListedClip, height: int) -> FaceBox:
    """The face box whose square (:func:`asymtalker.media.portrait.crop_frame`) is the clip's crop, made square around
    its middle, in a video of ``height`` pixels."""
    assert clip.crop is not None
    scale = height / (clip.lines or height)
    left, top, width, tall = (value * scale for value in clip.crop)
    side = max(width, tall)
    face = FACE_SHARE * side
    x = left + width / 2 + (FACE_CENTRE[0] - 0.5) * side
    y = top + tall / 2 + (FACE_CENTRE[1] - 0.5) * side
    return FaceBox(x - face / 2, y - face / 2, face, face, 0.0)


def find_box(clip: ListedClip, video: Path) -> FaceBox:
    """The largest face, as the median of its boxes in the first second of the clip that has one."""
    limit = FACE_SEARCH_SECONDS * FPS
    count = limit if clip.end is None else min(limit, round((clip.end - clip.start) * FPS))
    boxes, stop, index = [], count, 0
    for index, frame in enumerate(resample_frames(timed_frames(video, clip.start), clip.start, count)):
        if index >= stop:
            break
        if index % (FACE_STRIDE if boxes else FPS) == 0 and (faces := find_faces(picture_of(frame))):
            stop = stop if boxes else index + FPS
            boxes.append(faces[0])
    if not boxes:
        raise UserError(f"No face was found in the first {(index + 1) / FPS:g} s of the clip.")
    left, top, width, height, score = np.median(
        [[box.left, box.top, box.width, box.height, box.score] for box in boxes], axis=0
    ).tolist()
    return FaceBox(left, top, width, height, score)


def _write_sound(path: Path, audio: AudioFile, start: int, samples: int) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for at in range(start, start + samples, SAMPLE_RATE):
            block = audio.read(at, min(at + SAMPLE_RATE, start + samples))
            file.writeframes(np.round(np.clip(block, -1, 1) * 32767).astype("<i2").tobytes())
