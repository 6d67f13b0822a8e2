"""Videos made in the server's own process."""

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from asymtalker.errors import UserError
from asymtalker.serve import making
from asymtalker.serve.making import LocalMaker
from asymtalker.serve.worker import Order
from small_server import PORTRAIT


@pytest.mark.skipif(sys.platform != "linux", reason="glibc keeps what was freed")
def test_after_each_video_memory_is_given_back_whatever_became_of_it(moving_pipeline, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=given.append))
    maker = LocalMaker.__new__(LocalMaker)  # of the bundled model it would take seconds to load
    maker.pipeline = moving_pipeline
    options = {"seed": 0, "size": 96, "motion": 1.0, "gaze": "free", "blinks": True}
    sounds = (np.full(8_000, 0.1, np.float32), 16_000), (np.zeros(0, np.float32), 16_000)
    for number, sound in enumerate(sounds):
        order = Order(portrait=PORTRAIT, sound=sound, output=tmp_path / "video.mp4", options=options)  # pyright: ignore
        if number:
            with pytest.raises(UserError):
                maker(order, making.io.BytesIO(), lambda *_: None, lambda _: None)
        else:
            maker(order, making.io.BytesIO(), lambda *_: None, lambda _: None)
        assert given == [0] * (number + 1)
