"""``asymtalker inspect``."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asymtalker.commands.cli import main
from asymtalker.media.video import read_video, write_video
from asymtalker.provenance.disclosure import Disclosure
from asymtalker.provenance.origin import name_of
from asymtalker.provenance.watermark import Watermark
from signing import ORIGIN, issue, textured, write_signed


@pytest.fixture(scope="module")
def frames():
    """Frames with a watermark."""
    plain = textured((256, 256), 8)
    watermark = Watermark(ORIGIN.number, plain[0])
    return np.stack([watermark.mark(frame) for frame in plain])


@pytest.fixture(scope="module")
def signed(frames, tmp_path_factory):
    """A signed video with a watermark."""
    return write_signed(tmp_path_factory.mktemp("signed") / "a.mp4", frames)


def inspected(path: Path, capsys, *more: str) -> tuple[int, dict]:
    """Exit code and JSON of the command."""
    try:
        main(["inspect", str(path), "--json", *more])
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, json.loads(capsys.readouterr().out)


def test_an_intact_file(signed, capsys):
    code, found = inspected(signed, capsys)
    assert (code, found["verdict"], found["size"]) == (0, "intact", [256, 256])
    assert found["credentials"]["origin"]["portrait_sha256"] == ORIGIN.portrait_sha256
    assert found["credentials"]["origin"]["consent"] == "signed form 12"
    assert found["tags"]["number"] == found["watermark"]["number"] == name_of(ORIGIN.number)
    main(["inspect", str(signed)])
    said = capsys.readouterr().out
    for words in ("INTACT", "tiny, version abc", "anybody can make one", "by AI", ORIGIN.audio_sha256, "crop True",
                  "signed form 12", f"number {ORIGIN.name}, which is that of this file"):  # fmt: skip
        assert words in said
    assert "Tags" not in said  # they say the same


def test_an_altered_file(signed, tmp_path, capsys):
    path = tmp_path / "a.mp4"
    path.write_bytes(signed.read_bytes().replace(b"signed form 12", b"signed form 13"))
    code, found = inspected(path, capsys)
    assert (code, found["verdict"]) == (1, "altered")
    with pytest.raises(SystemExit):
        main(["inspect", str(path)])
    said = capsys.readouterr().out
    assert said.startswith("ALTERED")
    assert "bmffHash.mismatch" in said or "hashedURI.mismatch" in said


def test_a_file_that_was_encoded_again_is_known_by_its_watermark(signed, tmp_path, capsys):
    path = tmp_path / "a.mp4"
    write_video(path, read_video(signed)[0])
    code, found = inspected(path, capsys)
    assert (code, found["verdict"]) == (1, "stripped")
    assert found["tags"] is None
    assert found["credentials"]["state"] == "none"
    assert found["watermark"]["number"] == ORIGIN.name
    with pytest.raises(SystemExit):
        main(["inspect", str(path)])
    assert capsys.readouterr().out.startswith("NO CREDENTIALS, but the file says or shows that AsymTalker made it")
    Image.fromarray(read_video(path)[0][3]).save(tmp_path / "shot.png")
    code, found = inspected(tmp_path / "shot.png", capsys, "--no-thorough")
    assert (code, found["watermark"]["number"]) == (1, ORIGIN.name)


def test_frames_of_one_video_in_the_file_of_another_are_noticed(tmp_path, capsys):
    plain = textured((256, 256), 4)
    watermark = Watermark(ORIGIN.number + 1, plain[0])
    write_signed(tmp_path / "a.mp4", np.stack([watermark.mark(frame) for frame in plain]))
    main(["inspect", str(tmp_path / "a.mp4"), "--no-thorough"])
    assert "which is of ANOTHER video" in capsys.readouterr().out


def test_files_of_others(tmp_path, capsys):
    write_video(tmp_path / "a.mp4", textured((128, 128), 4))
    Image.new("RGB", (90, 90), "green").save(tmp_path / "b.jpg")
    for name in ("a.mp4", "b.jpg"):
        code, found = inspected(tmp_path / name, capsys, "--no-thorough")
        assert (code, found["verdict"], found["watermark"], found["tags"]) == (1, "unknown", None, None)
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "a.mp4"), "--no-thorough"])
    assert "does not mean that it is real" in capsys.readouterr().out


def test_whom_to_trust_is_up_to_the_user(frames, tmp_path, capsys):
    chain, key = issue(tmp_path)
    path = write_signed(tmp_path / "a.mp4", frames, Disclosure(certificate=chain, key=key))
    main(["inspect", str(path), "--no-thorough", "--trust", str(tmp_path / "root.pem")])
    assert "signed by     Studio X (trusted)" in capsys.readouterr().out
    main(["inspect", str(path), "--no-thorough"])
    assert "not on a list of those you trust" in capsys.readouterr().out


def test_what_is_no_media_is_refused_in_one_sentence(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("words " * 40)
    (tmp_path / "b.mp4").write_bytes(b"words " * 40)
    (tmp_path / "c.wav").write_bytes(b"RIFF")
    (tmp_path / "d.mp4").touch()
    os.mkfifo(tmp_path / "e.mp4")
    for name in ("a.txt", "b.mp4", "c.wav", "d.mp4", "e.mp4", "gone.mp4", "."):
        with pytest.raises(SystemExit) as stop:
            main(["inspect", str(tmp_path / name)])
        assert stop.value.code == 2, name
        said = capsys.readouterr()
        assert not said.out
        assert said.err.startswith("asymtalker: The file ")
        assert said.err.count("\n") == 1
