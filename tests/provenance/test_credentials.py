import json
import os
import resource
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import c2pa
import numpy as np
import pytest
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.media.atomic import disk_is_full
from asymtalker.media.video import VideoWriter, read_video, write_video
from asymtalker.provenance.certificate import signing_identity
from asymtalker.provenance.credentials import BY_AI, Made, Signer, _context, _signer, read_credentials
from asymtalker.provenance.disclosure import Disclosure
from signing import ORIGIN, issue, textured, write_signed

FRAMES = textured((96, 128), 12)


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A signed video of half a second."""
    return write_signed(tmp_path_factory.mktemp("signed") / "a.mp4", FRAMES)


def test_what_is_signed_is_read_back(signed):
    found = read_credentials(signed)
    assert (found.state, found.problems) == ("intact", [])
    assert found.origin == ORIGIN
    assert (found.complete, found.seconds) == (True, 12 / 25)
    assert found.self_made
    assert not found.trusted
    assert found.by_ai
    assert found.generator == "AsymTalker 0.1.0"
    assert found.actions == ["c2pa.created", "c2pa.watermarked.bound"]
    assert found.ingredients == ["portrait", "audio"]
    assert len(read_video(signed)[0]) == 12
    assert [path.name for path in signed.parent.iterdir()] == ["a.mp4"]


def test_the_manifest_says_what_others_read(signed):
    manifest = c2pa.Reader(signed, context=_context()).get_active_manifest()
    assertions = {each["label"]: each["data"] for each in manifest["assertions"]}
    created = assertions["c2pa.actions.v2"]["actions"][0]
    assert created["digitalSourceType"] == BY_AI
    assert created["softwareAgent"] == {"name": "AsymTalker", "version": "0.1.0"}
    assert assertions["asymtalker.consent"] == {"statement": "signed form 12"}
    assert assertions["c2pa.soft-binding"]["alg"] == "asymtalker.spread.1"
    hashes = [each["instance_id"] for each in manifest["ingredients"]]
    assert hashes == [f"sha256:{ORIGIN.portrait_sha256}", f"sha256:{ORIGIN.audio_sha256}"]
    assert not any("thumbnail" in json.dumps(each) for each in manifest["ingredients"])


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize(
    "tamper",
    [
        lambda data: flipped(data, data.index(b"mdat") + 200),
        lambda data: flipped(data, len(data) - 1),
        lambda data: flipped(data, data.index(b"moov") + 60),
        lambda data: data.replace(b"AI-generated talking head video made", b"A recording of a person that is true"),
        lambda data: data.replace(b"signed form 12", b"signed form 13"),
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + bytes(16),
        lambda data: data[: data.index(b"jumb") + 900],
    ],
    ids=["picture", "last byte", "index", "tags", "consent", "cut in half", "cut by one", "longer", "head alone"],
)  # fmt: skip
def test_every_change_is_noticed(signed, tmp_path, tamper):
    data = signed.read_bytes()
    changed = tamper(data)
    assert changed != data
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(changed)
    found = read_credentials(copy)
    assert found.state == "altered"
    assert found.problems


SIGN = """
import re, sys
from pathlib import Path
from asymtalker.provenance.credentials import Made, Signer
from asymtalker.provenance.disclosure import Disclosure
from signing import ORIGIN

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

signer = Signer(Disclosure(consent="signed form 12"), print)
before = peak()
signer.sign(Path(sys.argv[1]), Path(sys.argv[2]), ORIGIN, Made(complete=True, seconds=1.0))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tells memory in other units")
def test_signing_holds_no_video_in_memory(tmp_path):
    write_video(tmp_path / "short.mp4", FRAMES)
    data, more = (tmp_path / "short.mp4").read_bytes(), 48 << 20
    at = data.rindex(b"mdat") - 4
    size = int.from_bytes(data[at : at + 4], "big")
    assert at + size == len(data), "pictures and sound are not the last box"
    (tmp_path / "long.mp4").write_bytes(
        data[:at] + (size + more).to_bytes(4, "big") + data[at + 4 :] + os.urandom(more)
    )
    command = [sys.executable, "-c", SIGN, tmp_path / "long.mp4", tmp_path / "long_signed.mp4"]
    taken = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]).stdout
    assert int(taken.split()[-1]) < 24, "MiB"
    assert read_credentials(tmp_path / "long_signed.mp4").state == "intact"


def test_a_copy_is_as_good_under_any_name(signed, tmp_path):
    for name in ("b.mp4", "c.mov", "d.m4v", "e.bin"):
        shutil.copy(signed, tmp_path / name)
    assert read_credentials(tmp_path / "b.mp4").state == "intact"
    assert read_credentials(tmp_path / "c.mov").state == "intact"


def test_what_is_remuxed_or_encoded_again_has_lost_them(signed, tmp_path):
    with av.open(str(signed)) as source, av.open(str(tmp_path / "a.mp4"), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    write_video(tmp_path / "b.mp4", read_video(signed)[0])
    for name in "ab":
        assert read_credentials(tmp_path / f"{name}.mp4").state == "none"


def test_files_of_other_kinds_have_none(tmp_path):
    for name in ("a.txt", "a.mkv", "a.mp4", "a"):
        (tmp_path / name).write_bytes(b"words " * 50)
        assert read_credentials(tmp_path / name).state == "none"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert read_credentials(tmp_path / "a.png").state == "none"


def test_ones_own_certificate_is_trusted_by_who_trusts_its_issuer(tmp_path):
    chain, key = issue(tmp_path)
    path = write_signed(tmp_path / "a.mp4", FRAMES, Disclosure(certificate=chain, key=key))
    found = read_credentials(path)
    assert (found.state, found.trusted, found.self_made, found.signer) == ("intact", False, False, "Studio X")
    assert read_credentials(path, tmp_path / "root.pem").trusted
    other = tmp_path / "other"
    other.mkdir()
    issue(other)
    found = read_credentials(path, other / "root.pem")
    assert (found.state, found.trusted) == ("intact", False)
    (tmp_path / "rubbish.pem").write_text("rubbish")
    with pytest.raises(UserError, match="not PEM"):
        read_credentials(path, tmp_path / "rubbish.pem")


def test_a_certificate_that_expires_later_makes_what_it_signed_invalid(tmp_path):
    """Of a certificate that is good for one second more."""
    chain, key = issue(tmp_path, days=1 / 86400)
    path = write_signed(tmp_path / "a.mp4", FRAMES[:2], Disclosure(certificate=chain, key=key))
    for _ in range(40):
        if (found := read_credentials(path)).state != "intact":
            break
        time.sleep(0.25)
    assert found.state == "invalid"
    assert "signingCredential.expired" in found.problems[0]


def test_credentials_of_the_portrait_go_along_even_if_it_was_altered(tmp_path):
    picture = tmp_path / "face.png"
    Image.fromarray(FRAMES[0]).save(tmp_path / "plain.png")
    manifest = {"title": "a painter's", "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [
        {"action": "c2pa.created", "digitalSourceType": BY_AI}]}}]}  # fmt: skip
    with (tmp_path / "plain.png").open("rb") as read, picture.open("w+b") as write:
        c2pa.Builder(json.dumps(manifest), _context()).sign(_signer(signing_identity()), "image/png", read, write)
    for change in (False, True):
        if change:
            data = picture.read_bytes()
            picture.write_bytes(flipped(data, data.rindex(b"IDAT") + 20))
        path = write_signed(tmp_path / "a.mp4", FRAMES, portrait=picture)
        assert read_credentials(path).state == "intact"
        manifests = json.loads(c2pa.Reader(path, context=_context()).json())["manifests"]
        assert sorted(each["title"] for each in manifests.values()) == [
            "AI-generated talking head video",
            "a painter's",
        ]


def test_broken_or_missing_ingredients_do_not_stop_signing(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    for portrait in (tmp_path / "a.jpg", tmp_path / "gone.png"):
        path = write_signed(tmp_path / "a.mp4", FRAMES, portrait=portrait)
        found = read_credentials(path)
        assert (found.state, found.ingredients) == ("intact", ["portrait", "audio"])


def test_a_video_that_is_stopped_early_is_signed_too(tmp_path):
    signer, path = Signer(Disclosure()), tmp_path / "a.mp4"

    def sign(source, signed):
        signer.sign(source, signed, ORIGIN, Made(seconds=writer.seconds, complete=False))

    writer = VideoWriter(path, (96, 128), finish=sign)
    writer.write(FRAMES[:5])
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    found = read_credentials(path)
    assert (found.state, found.complete, found.seconds) == ("intact", False, 0.2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_what_can_not_be_signed_is_kept_aside(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"an older one")

    def fail(source, signed):
        signed.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    writer = VideoWriter(path, (96, 128), finish=fail)
    writer.write(FRAMES)
    with pytest.raises(UserError, match="what was written lies in") as told:
        writer.close()
    kept = str(told.value).split("lies in ")[1].rstrip(".")
    assert len(read_video(kept)[0]) == 12
    assert path.read_bytes() == b"an older one"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_is_full_when_signing_is_said(tmp_path):
    signer, limits = Signer(Disclosure()), resource.getrlimit(resource.RLIMIT_FSIZE)

    def sign(source, signed):
        resource.setrlimit(resource.RLIMIT_FSIZE, (source.stat().st_size, limits[1]))  # the signed one is larger
        try:
            signer.sign(source, signed, ORIGIN, Made(seconds=writer.seconds, complete=True))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    writer = VideoWriter(tmp_path / "a.mp4", (96, 128), finish=sign)
    writer.write(FRAMES)
    with pytest.raises(UserError, match="the disk is full") as told:
        writer.close()
    assert disk_is_full(told.value), "a list of jobs would go on"
    (kept,) = tmp_path.iterdir()
    assert str(kept) in str(told.value)
    assert len(read_video(kept)[0]) == 12


KILLED = """
import os, sys, time
sys.path.insert(0, {tests!r})
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from asymtalker.media.video import VideoWriter
from asymtalker.provenance.credentials import Made, Signer
from asymtalker.provenance.disclosure import Disclosure
from asymtalker.provenance.origin import TITLE
from signing import ORIGIN, textured
signer = Signer(Disclosure())
def sign(source, signed):
    signer.sign(source, signed, ORIGIN, Made(seconds=1, complete=True))
    os.kill(os.getpid(), 9)
with VideoWriter(Path({path!r}), (96, 128), finish=sign) as writer:
    writer.write(textured((96, 128), 5))
"""


def test_a_run_that_is_killed_while_it_signs_leaves_no_half_file(tmp_path):
    path = tmp_path / "a.mp4"
    code = KILLED.format(tests=str(Path(__file__).parents[1]), path=str(path))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert not path.exists()
    for left in tmp_path.glob(".*"):
        os.utime(left, (0, 0))  # long ago
    write_signed(path, FRAMES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mp4"]


def test_pictures_are_not_changed_by_signing(signed, tmp_path):
    write_video(tmp_path / "plain.mp4", FRAMES, metadata=ORIGIN.tags())
    assert np.array_equal(read_video(signed)[0], read_video(tmp_path / "plain.mp4")[0])


def test_threads_sign_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda k: write_signed(tmp_path / f"{k}.mp4", FRAMES[:3]), range(8)))
    assert {read_credentials(path).state for path in paths} == {"intact"}
