import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

import asymtalker
from asymtalker.errors import UserError
from asymtalker.media.video import write_video
from asymtalker.provenance.origin import PIECES, SAMPLED, name_of, provenance, read_provenance, version_of

FRAMES = np.zeros((5, 32, 32, 3), np.uint8)


def test_written_tags_are_read_back(tmp_path):
    (tmp_path / "face.png").write_bytes(b"picture")
    origin = provenance("tiny", 7, tmp_path / "face.png", (np.zeros(8, np.int16), 16000))
    assert origin.portrait_sha256 == hashlib.sha256(b"picture").hexdigest()
    assert origin.audio_sha256 == hashlib.sha256(bytes(16)).hexdigest()
    assert asymtalker.__version__ in origin.generator
    write_video(tmp_path / "a.mp4", FRAMES, metadata=origin.tags())
    assert read_provenance(tmp_path / "a.mp4") == origin
    assert str(tmp_path) not in str(origin.tags())


@pytest.mark.parametrize("description", [None, "just words", '{"model": "x"}', "[]"])
def test_other_videos_have_none(tmp_path, description):
    tags = None if description is None else {"description": description}
    write_video(tmp_path / "a.mp4", FRAMES, metadata=tags)
    with pytest.raises(UserError, match="no AsymTalker provenance"):
        read_provenance(tmp_path / "a.mp4")


def test_tags_of_other_versions_are_read(tmp_path):
    values = {"generator": "AsymTalker 0.0.1", "model": "m", "seed": 1, "portrait_sha256": "a", "audio_sha256": "b"}
    write_video(tmp_path / "a.mp4", FRAMES, metadata={"description": json.dumps(values | {"of": "later"})})
    found = read_provenance(tmp_path / "a.mp4")
    assert (found.seed, found.model_version, found.options, found.watermarked) == (1, None, {}, False)


def test_number_tells_what_a_video_is_made_of_apart():
    origin = provenance("tiny", 7, b"picture", (np.zeros(8, np.int16), 16000))
    assert 0 < origin.number < 1 << 48
    assert replace(origin, generator="AsymTalker 99.0", watermarked=True, size="2x2").number == origin.number
    others = [
        replace(origin, seed=8),
        replace(origin, model_version="another"),
        replace(origin, options={"crop": True}),
        replace(origin, consent="signed"),
        replace(origin, portrait_sha256="other"),
        replace(origin, audio_sha256="other"),
    ]
    assert len({origin.number, *(other.number for other in others)}) == 7
    assert name_of(0x0123456789AB) == "0123-4567-89ab"


def test_version_of_a_checkpoint_is_of_all_its_weights(tmp_path):
    (tmp_path / "part").mkdir()
    weights, config = tmp_path / "part" / "w.safetensors", tmp_path / "model_index.json"
    config.write_text("{}")
    large = bytearray(PIECES * SAMPLED + 1000)
    weights.write_bytes(large)
    versions = [version_of(tmp_path)]
    for at in (0, len(large) - 1):  # what a training leaves as it was is nothing; the ends show that they are read
        large[at] ^= 1
        weights.write_bytes(large)
        versions.append(version_of(tmp_path))
    config.write_text('{"name": "x"}')
    versions.append(version_of(tmp_path))
    (tmp_path / "README.md").write_text("words")
    assert len(set(versions)) == 4
    assert version_of(tmp_path) == versions[-1]
