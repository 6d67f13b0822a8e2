import hashlib

import numpy as np
import pytest

import asymtalker
from asymtalker.errors import UserError
from asymtalker.provenance.origin import provenance, read_provenance
from asymtalker.media.video import write_video

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
