"""The process that looks into an upload: it decodes one and is gone, and may be killed by time and memory before.

``python -m asymtalker.serve.decoding`` reads one JSON line, :class:`Task`, and writes one. What it leaves is a PNG or
WAV of its own making, so that nothing else ever parses what a stranger sent. Both paths are the server's.
"""

import json
import os
import re
import resource
import sys
import wave
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import av
import av.error
import numpy as np
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.media.picture import read_picture
from asymtalker.media.portrait import check_face, choose_face, find_upright, resize_for_video
from asymtalker.media.sound import AudioFile
from asymtalker.timeline import SAMPLE_RATE

PICTURES = ("JPEG", "MPO", "PNG", "WEBP", "HEIF", "AVIF")
"""Pillow's names; MPO is what many phones make of a JPEG."""
SOUNDS = "wav,mp3,mov,ogg,flac,matroska,aac"
"""FFmpeg's names of what it may take a file for: no playlists, which name other files, and no raw data."""
SCRIPTS = re.compile(rb"<\?php|<script|<svg|<html|<!doctype|javascript:", re.IGNORECASE)
SHORTEST_SOUND = 0.2  # seconds
LARGEST_FILE = 512 << 20  # bytes of what is written

TOO_LARGE, UNKNOWN_KIND, UNUSABLE = 413, 415, 422


class RefusedError(UserError):
    """An upload that is not taken, with the HTTP status that says so."""

    def __init__(self, sentence: str, status: int = UNUSABLE):
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be decoded and what may be spent on it.

    Attributes:
        kind: a picture, a sound, or a text to be spoken.
        source: the upload, or the text.
        target: the PNG or WAV to write.
        voice: of a text, see :func:`speak_text`.
        face: which face of a picture, counted from 1, the largest (default).
    """

    kind: Literal["picture", "sound", "text"]
    source: str
    target: str
    voice: str = ""
    face: int | None = None
    megapixels: float
    picture_side: int
    video_side: int
    sound_seconds: float
    decode_seconds: float
    decode_mb: float


def decode_picture(task: Task) -> dict[str, Any]:
    """A picture, upright, at most ``video_side`` pixels on a side and both sides even, as PNG.

    Returns:
        ``width``, ``height``, ``face`` (left, top, width, height in its pixels) and ``remarks``.

    Raises:
        RefusedError: if it is none, hides something else, is too large, or shows no face that can be animated.
    """
    data = Path(task.source).read_bytes()
    _refuse_disguises(data, "picture")
    try:
        read_header = Image.open(BytesIO(data))
    except Image.DecompressionBombError as error:
        raise RefusedError(_too_many_pixels(task), TOO_LARGE) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise RefusedError("This is no picture: give a JPEG, PNG, WebP or HEIC file.", UNKNOWN_KIND) from error
    with read_header as image:
        if image.format not in PICTURES:
            raise RefusedError(f"Pictures of the kind {image.format} are not taken: give a JPEG or PNG.", UNKNOWN_KIND)
        if image.width * image.height > 1e6 * task.megapixels or max(image.size) > task.picture_side:
            raise RefusedError(_too_many_pixels(task), TOO_LARGE)
    picture = read_picture(BytesIO(data))
    picture = resize_for_video(picture, min(1.0, task.video_side / max(picture.shape[:2])))
    picture, faces, turn = find_upright(picture)
    remarks = [f"The picture was turned by {turn} degrees clockwise, to where the face is upright."] if turn else []
    if len(faces) > 1 and task.face is None:
        remarks.append(f"There are {len(faces)} faces in the picture: the largest is taken.")
    box = choose_face(faces, task.face, "the picture", lambda _: None)
    check_face(box, picture.shape, "the picture", remarks.append)
    Image.fromarray(picture).save(task.target, format="PNG", compress_level=1)
    face = [round(value, 1) for value in (box.left, box.top, box.width, box.height)]
    return {"width": picture.shape[1], "height": picture.shape[0], "face": face, "remarks": remarks}


def _too_many_pixels(task: Task) -> str:
    return (
        f"The picture is too large: at most {task.megapixels:g} megapixels and {task.picture_side} pixels on a side"
        " are taken."
    )


def _refuse_disguises(data: bytes, what: str) -> None:
    """Refuse a file that another program would take for something else: an archive, a document, a script.

    What phones append to photographs (a short video, a second picture) is none of these.
    """
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - 65_600))
    archive = end >= 0 and len(data) - end - 22 == int.from_bytes(data[end + 20 : end + 22], "little")
    if archive or b"%PDF-" in data[:1024] or SCRIPTS.search(data):
        raise RefusedError(f"This {what} is something else besides: save it anew and give that file.", UNKNOWN_KIND)


def decode_sound(task: Task) -> dict[str, Any]:
    """A sound track, mono or stereo at 16 to 48 kHz, as WAV of 16 bits.

    Returns:
        ``samples`` at 16 kHz, and ``remarks``.

    Raises:
        RefusedError: if it is none, hides something else, is too short or too long.
    """
    path = Path(task.source)
    _refuse_disguises(path.read_bytes(), "sound")
    _check_length(path, task)
    audio = AudioFile(path)
    remarks = [remark.replace(str(path), "the sound") for remark in audio.remarks if "--track" not in remark]
    if audio.num_samples > task.sound_seconds * SAMPLE_RATE:
        raise RefusedError(_too_long(task), TOO_LARGE)
    _check_shortness(audio.num_samples)
    track = audio.track()
    with wave.open(task.target, "wb") as file:
        file.setparams((track.channels, 2, track.rate, 0, "NONE", ""))
        for second in range(1, int(task.sound_seconds) + 2):
            file.writeframes(_pcm(track.take_until(float(second))))
    return {"samples": audio.num_samples, "remarks": remarks}


def _check_length(path: Path, task: Task) -> None:
    """Before anything is decoded: packets say how long they last, and those that lie are stopped by the limits."""
    options = {"protocol_whitelist": "file", "format_whitelist": SOUNDS}
    try:
        with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise RefusedError("This file has no sound: give a recording of speech.")
            seconds = 0.0
            for packet in container.demux(audio=0):
                seconds += float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
                if seconds > task.sound_seconds + 1:
                    raise RefusedError(_too_long(task), TOO_LARGE)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise RefusedError("This is no sound: give a wav, mp3, m4a, flac, ogg or webm file.", UNKNOWN_KIND) from error


def _too_long(task: Task) -> str:
    return f"The sound is too long: at most {task.sound_seconds:g} seconds are taken."


def _check_shortness(samples: int) -> None:
    if samples < SHORTEST_SOUND * SAMPLE_RATE:
        raise RefusedError(f"The sound is shorter than {SHORTEST_SOUND:g} seconds: give a longer one.")


def _pcm(samples: np.ndarray) -> bytes:
    return (samples.clip(-1, 1) * 32767).round().astype("<i2").tobytes()


def speak_text(task: Task) -> dict[str, Any]:
    """A text, spoken, as WAV: ``samples`` and ``remarks`` as of :func:`decode_sound`.

    ``voice`` is ``LANGUAGE+VARIANT`` of espeak-ng, or ``pico:LANGUAGE`` of SVOX Pico.

    Raises:
        RefusedError: if nothing is to be spoken, or too much.
        UserError: if there is no such voice here.
    """
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in task.source).split())
    kind, _, name = task.voice.rpartition(":")
    language, _, variant = name.partition("+")
    if kind == "pico":
        from asymtalker.synth.pico import read_aloud  # without the phonemes' times, which take seconds

        samples = read_aloud(text, language)
    else:
        from asymtalker.synth.speech import Voice, synthesize

        samples = synthesize(text, Voice(language=language, variant=variant)).samples
    if len(samples) > task.sound_seconds * SAMPLE_RATE:
        raise RefusedError(_too_long(task), TOO_LARGE)
    _check_shortness(len(samples))
    with wave.open(task.target, "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(_pcm(samples))
    return {"samples": len(samples), "remarks": []}


WORK: dict[str, Callable[[Task], dict[str, Any]]] = {
    "picture": decode_picture,
    "sound": decode_sound,
    "text": speak_text,
}


def limit_process(seconds: float, megabytes: float) -> None:
    """What this process may spend from now on: processor seconds, memory, sizes of files; no core is left of it."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    cpu = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime + seconds) + 1
    most = held + int(megabytes * (1 << 20))
    for kind, limit in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


def answer(task: Task) -> dict[str, Any]:
    """What a task gives, or the sentence and the status by which it is refused."""
    try:
        return WORK[task.kind](task)
    except RefusedError as error:
        return {"error": str(error), "status": error.status}
    except UserError as error:
        return {"error": str(error).replace(task.source, "what was given"), "status": UNUSABLE}
    except MemoryError:
        return {"error": "This takes too much memory to decode: give a smaller file.", "status": TOO_LARGE}


def main() -> None:
    """Wait for a task, do it within its limits, and say what came of it."""
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    line = sys.stdin.readline()
    if line:
        task = Task(**json.loads(line))
        limit_process(task.decode_seconds, task.decode_mb)
        said.write(json.dumps(answer(task)) + "\n")
        said.flush()
    os._exit(0)  # libraries' threads would be waited for


def line_of(task: Task) -> str:
    """A task as the process reads it."""
    return json.dumps(asdict(task)) + "\n"


if __name__ == "__main__":
    main()
