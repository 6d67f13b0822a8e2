"""Uploads that mean harm, made here: each is refused with a sentence, and neither memory nor disk grows by them."""

import bz2
import gzip
import io
import os
import resource
import struct
import subprocess
import sys
import wave
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from asymtalker.serve.decoding import RefusedError
from asymtalker.serve.settings import Limits
from asymtalker.serve.uploads import Uploads
from small_server import DEMO, PORTRAIT, ask, served, speech


def png(width: int, height: int, rows: int | None = None) -> bytes:
    """A PNG of one colour, whose header may say more than there is."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer, packed = zlib.compressobj(9), []
    for _ in range(height if rows is None else rows):
        packed.append(packer.compress(bytes(1 + 3 * width)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"".join(packed) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(PORTRAIT)).save(file, "JPEG", comment=comment)
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("../../evil.sh", "#!/bin/sh\ntouch /tmp/evil\n")
    return file.getvalue()


def text_bomb() -> bytes:
    """A PNG whose text chunk unpacks to 64 MB."""
    packed = zlib.compress(bytes(64 << 20), 9)
    data = b"Comment\0\0" + packed
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    return PORTRAIT[:33] + chunk + PORTRAIT[33:]


def long_sound(seconds: float, codec: str = "flac", container: str = "flac") -> bytes:
    """Hours of silence, in little room."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as made:
        stream = made.add_stream(codec, rate=8_000, layout="mono")
        block = np.zeros((1, 8_000 * 30), np.int16)
        for number in range(int(seconds / 30)):
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8_000, number * block.size, Fraction(1, 8_000)
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    return file.getvalue()


def endless_wav() -> bytes:
    """A WAV whose header promises two gigabytes and more."""
    data = bytearray(speech(0.5))
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    return bytes(data) + bytes(1 << 20) * 12


def silent_video() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as made:
        stream = made.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        for _ in range(10):
            made.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        made.mux(stream.encode(None))
    return file.getvalue()


def gif_bomb() -> bytes:
    file = io.BytesIO()
    more = [Image.new("P", (2000, 2000), colour) for colour in range(1, 4)]
    Image.new("P", (2000, 2000)).save(file, "GIF", save_all=True, append_images=more)
    return file.getvalue()


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(document.cookie)</script></svg>'
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
CONCAT = b"ffconcat version 1.0\nfile /etc/passwd\n"
SDP = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 0.0.0.0\nm=audio 9999 RTP/AVP 0\n"
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(/etc/passwd) run\n%%EOF\n"

PICTURES: list[tuple[str, Callable[[], bytes], int]] = [
    ("nothing", lambda: b"", 422),
    ("a drawing with a script (SVG)", lambda: SVG, 415),
    ("the same, called a PNG", lambda: b"\x89PNG\r\n\x1a\n" + SVG, 415),
    ("30,000 pixels wide", lambda: png(30_000, 64), 413),
    ("30,000 pixels square in the header alone", lambda: png(30_000, 30_000, rows=1), 413),
    ("65,535 pixels square, 12 gigabytes unpacked", lambda: png(65_535, 65_535, rows=4), 413),
    ("a bomb within the pixels that are taken", lambda: png(7_000, 7_000), 422),
    ("cut in the middle", lambda: PORTRAIT[: len(PORTRAIT) // 2], 422),
    ("text that unpacks to 64 MB", text_bomb, 415),
    ("JPEG and ZIP in one", lambda: jpeg() + archive(), 415),
    ("JPEG with PHP in its comment", lambda: jpeg(b"<?php system($_GET['c']); ?>"), 415),
    ("JPEG with a page in its comment", lambda: jpeg(b"<html><script>alert(1)</script></html>"), 415),
    ("PNG and HTML in one", lambda: PORTRAIT + b"<script src=//evil.example></script>", 415),
    ("PDF and JPEG in one", lambda: b"%PDF-1.7\n" + jpeg(), 415),
    ("an animation of large pictures", gif_bomb, 415),
    ("PostScript that reads files", lambda: EPS, 415),
    ("a sound", speech, 415),
    ("an archive", archive, 415),
    ("gzip", lambda: gzip.compress(bytes(1 << 20)), 415),
    ("a program", lambda: Path(sys.executable).read_bytes()[: 1 << 20], 415),
    ("noise", lambda: os.urandom(100_000), 415),
    ("a wall", lambda: png(256, 256), 422),
    ("an icon", lambda: png(16, 16), 422),
    ("a path", lambda: b"/etc/passwd", 415),
]
SOUNDS: list[tuple[str, Callable[[], bytes], int]] = [
    ("nothing", lambda: b"", 422),
    ("an hour of silence (FLAC)", lambda: long_sound(3_600), 413),
    ("two hours of silence (Matroska)", lambda: long_sound(7_200, "flac", "matroska"), 413),
    ("a WAV without end", endless_wav, 413),
    ("a playlist of our files (HLS)", lambda: PLAYLIST, 415),
    ("a list of our files (ffconcat)", lambda: CONCAT, 415),
    (
        "an SDP that listens",
        lambda: SDP,
        415,
    ),
    ("a picture", lambda: PORTRAIT, 415),
    ("a video without sound", silent_video, 422),
    ("a header alone", lambda: speech()[:44], 422),
    ("a hundredth of a second", lambda: speech(0.01), 422),
    ("WAV and ZIP in one", lambda: speech() + archive(), 415),
    ("text", lambda: b"Call me on Monday. " * 1000, 415),
    ("bzip2", lambda: bz2.compress(bytes(1 << 20)), 415),
    ("noise", lambda: os.urandom(100_000), 415),
    ("noise, called a WAV", lambda: speech()[:40] + os.urandom(8), 422),
]


def held_mb() -> float:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


@pytest.mark.parametrize(("name", "make", "status"), PICTURES, ids=[name for name, *_ in PICTURES])
def test_a_hostile_picture_is_refused(server, name, make, status):
    refused(server, {"portrait": make()}, status)


@pytest.mark.parametrize(("name", "make", "status"), SOUNDS, ids=[name for name, *_ in SOUNDS])
def test_a_hostile_sound_is_refused(server, name, make, status):
    refused(server, {"sound": make()}, status)


def refused(server, files: dict[str, bytes], status: int) -> None:
    client, service = server
    before, jobs = held_mb(), sum(service.jobs.count().values())
    answer = ask(client, files=files)
    slow = "too long to decode" in answer.text  # on a busy machine
    assert answer.status_code == (413 if slow else status), answer.text
    said = answer.json()["detail"]
    assert said.endswith(".")
    assert "/" not in said.replace("ascii/", ""), "no path is told"
    assert held_mb() - before < 150, "what is sent is not unpacked in the server"
    assert sum(service.jobs.count().values()) == jobs
    assert not list(service.uploads.folder.iterdir()), "nothing is left on the disk"


def test_what_phones_append_to_photographs_is_no_disguise(server):
    client, _ = server
    assert ask(client, files={"portrait": jpeg() + jpeg()}).status_code == 202, "a gain map"
    assert ask(client, files={"portrait": jpeg(b"taken on holiday")}).status_code == 202


def test_what_is_made_of_an_upload_has_nothing_more_of_it(tmp_path):
    uploads = Uploads(tmp_path / "uploads", Limits())
    marked = tmp_path / "marked"
    exif = Image.Exif()
    exif[0x010E] = "Anna Muster, 12 Main Street"
    Image.open(io.BytesIO(PORTRAIT)).save(marked, "JPEG", exif=exif, comment=b"secret words")
    made = uploads.picture(marked).path.read_bytes()
    assert b"Anna" not in made
    assert b"secret" not in made
    with Image.open(io.BytesIO(made)) as image:
        assert (image.format, image.info) == ("PNG", {})
    with wave.open(str(uploads.sound(DEMO / "speech.wav").path)) as sound:
        assert sound.getparams()[:3] == (1, 2, 16_000)
    uploads.close()


def test_a_decoder_is_stopped_by_its_clock_and_its_memory(tmp_path, monkeypatch):
    picture = tmp_path / "picture"
    picture.write_bytes(png(4_000, 4_000))
    little = Uploads(tmp_path / "little", replace(Limits(), decode_mb=40))
    with pytest.raises(RefusedError, match=r"memory|damaged|decoded") as error:
        little.picture(picture)
    assert 400 <= error.value.status < 500
    little.close()

    hanging = Uploads(tmp_path / "hanging", replace(Limits(), decode_seconds=0.5))
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(
        hanging, "_start", lambda: subprocess.Popen(sleep, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    with pytest.raises(RefusedError, match="too long") as error:
        hanging.picture(picture)
    assert error.value.status == 413
    hanging.close()

    monkeypatch.undo()
    spinning = Uploads(tmp_path / "spinning", replace(Limits(), decode_seconds=1))
    script = "from asymtalker.serve.decoding import limit_process\nlimit_process(0, 500)\nwhile True: pass"
    spin = [sys.executable, "-c", script]
    monkeypatch.setattr(
        spinning, "_start", lambda: subprocess.Popen(spin, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    with pytest.raises(RefusedError):
        spinning.picture(picture)
    spinning.close()


def test_a_full_disk_takes_nothing_new(tmp_path):
    with served(tmp_path, limits=Limits(free_mb=1e9)) as (client, _):
        answer = ask(client)
        assert (answer.status_code, "disk is full" in answer.json()["detail"]) == (503, True)
