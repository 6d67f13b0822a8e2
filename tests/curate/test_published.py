"""Published networks: what goes into them and comes out has the form that they were published with."""

from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import torch

from asymtalker.curate import published
from asymtalker.curate.decide import failed_limit
from asymtalker.curate.framed import FramedClip
from asymtalker.curate.published import (
    FACE_PARTS,
    MDX_GAIN,
    letters_share,
    parse_face,
    pose_scores,
    separate_voice,
    syncnet_scores,
    text_scores,
    whole_body,
)
from asymtalker.curate.recipe import Recipe
from asymtalker.curate.watch import PUBLISHED
from asymtalker.dataset.corpus import video_writer
from asymtalker.media.wav import encode_wav
from asymtalker.models.syncnet import SyncNet
from real_data import DATA


def pose_network(x: np.ndarray, y: np.ndarray, sure: float):
    """A network that sees 133 points where they are said to be, in pixels of its input."""

    def run(values: np.ndarray) -> list[np.ndarray]:
        assert values.shape == (1, 3, 384, 288)
        assert values.dtype == np.float32
        across, down = np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)
        across[0, np.arange(133), np.round(2 * x).astype(int)] = sure
        down[0, np.arange(133), np.round(2 * y).astype(int)] = 0.9
        return [across, down]

    return run


def test_points_of_a_body_come_back_to_the_picture():
    rng = np.random.default_rng(0)
    points = rng.uniform(10, 246, (133, 2))
    scale = 288 / 256
    shift = np.array([0, (384 - 288) / 2])
    seen = points * scale + shift
    found, sure = whole_body(pose_network(seen[:, 0], seen[:, 1], 0.7), np.zeros((256, 256, 3), np.uint8))
    assert np.abs(found - points).max() < 0.5
    assert sure == pytest.approx(np.full(133, 0.7))


def test_a_square_picture_is_seen_upright_and_in_its_own_colours():
    seen = {}

    def look(values):
        seen["picture"] = values[0]
        return [np.zeros((1, 133, 576), np.float32), np.zeros((1, 133, 768), np.float32)]

    frame = np.zeros((288, 288, 3), np.uint8)
    frame[:50] = (255, 0, 0)
    whole_body(look, frame)
    red, green, _ = seen["picture"]
    assert red[60:90].min() > 2 > red[110:].max()
    assert green[60:90].max() < 0


def test_the_face_is_what_its_parts_are():
    def network(values):
        assert values.shape == (1, 3, 512, 512)
        parts = np.zeros((1, 19, 512, 512), np.float32)
        parts[0, 17, :256] = 1  # hair
        parts[0, 1, 256:, :256] = 1  # skin
        parts[0, 11, 256:, 256:] = 1  # mouth
        return [parts]

    mask = parse_face(network, np.zeros((128, 128, 3), np.uint8))
    assert mask.shape == (128, 128)
    assert not mask[:64].any()
    assert (mask[64:] == 255).all()
    assert not {0, 14, 16, 17, 18} & set(FACE_PARTS)


def test_letters_are_lines_that_are_sure(clip):
    seen = {}

    def network(values):
        assert values.shape == (1, 3, 512, 512)
        seen["picture"] = values[0]
        likely = np.zeros((1, 1, 512, 512), np.float32)
        likely[..., 20:36, 64:320] = 0.9
        likely[..., 440:460, 60:122] = 0.9  # a short word beside the face
        likely[..., 470:478, 10:500] = 0.35  # is seen and unsure
        likely[..., 480:505, 10:500] = 0.28
        likely[..., 380:420, 60:130] = 0.95  # no line
        likely[..., 230:260, 210:300] = 0.95  # on the face, such as a nose
        likely[..., 300:310, 200:300] = 0.95  # a caption on the face
        return [likely]

    frame = np.full((128, 128, 3), (255, 0, 0), np.uint8)
    lines = 16 * 256 + 20 * 62 + 10 * 100
    assert letters_share(network, frame, clip.filled[0]) == pytest.approx(lines / 512**2)
    assert np.allclose(seen["picture"].mean((1, 2)), (-1, -1, 1)), "blue comes first"
    assert letters_share(lambda _: [np.zeros((1, 1, 512, 512), np.float32)], frame, clip.filled[0]) == 0


def test_letters_count_from_when_they_stay(clip, monkeypatch):
    likely = np.zeros((1, 1, 512, 512), np.float32)
    shown = []
    monkeypatch.setattr(published, "_session", lambda name: {"text": lambda _: [likely * shown.pop(0)]}[name])
    monkeypatch.setitem(vars(clip), "filled", np.repeat(clip.filled[:1], 100, 0))
    monkeypatch.setattr(FramedClip, "frames", lambda _: iter(np.zeros((100, 64, 64, 3), np.uint8)))
    for pattern, seconds in (("000100000", 0.48), ("011000110", 0.96), ("111111111", 9 * 0.48)):
        likely[..., 20:36, 64:320] = 0.9
        shown[:] = map(int, pattern)
        found = PUBLISHED["text"].work(clip, Recipe(), 0.0)
        assert found == {"text": pytest.approx(seconds)}
        assert (failed_limit(found, Recipe())[0] == "text") == (seconds > 0.5)
        shown[:] = map(int, pattern)
        likely[..., 24:36, :], likely[..., 120:] = 0, 0  # too little of the picture
        assert text_scores(clip) == {"text": 0.0}


@pytest.mark.skipif(not find_spec("rapidocr_onnxruntime"), reason="pip install --no-deps rapidocr-onnxruntime has it")
@pytest.mark.parametrize(("said", "place"), [("BREAKING NEWS", (6, 120)), ("CNN", (88, 16))])
def test_a_caption_is_seen_and_a_plain_face_is_none(clip, monkeypatch, said, place):
    assert text_scores(clip) == {"text": 0.0}
    caption = np.ascontiguousarray(next(iter(clip.frames())))
    cv2.putText(caption, said, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    monkeypatch.setattr(FramedClip, "frames", lambda _: iter([caption] * 20))
    assert failed_limit(text_scores(clip), Recipe())[0] == "text"


def test_separated_sound_is_the_networks_and_not_late():
    rng = np.random.default_rng(0)
    sound = np.convolve(rng.standard_normal(16_000 * 8), np.ones(4) / 4, "same").astype(np.float32) * 0.1

    def same(spectra):
        assert spectra.shape == (1, 4, 3072, 256)
        return [spectra]

    made = separate_voice(same, sound)
    assert len(made) == len(sound)
    middle = slice(4_000, -4_000)
    assert made[middle] == pytest.approx(MDX_GAIN * sound[middle], abs=0.01)
    silence = separate_voice(lambda spectra: [np.zeros_like(spectra)], sound)
    assert not silence.any()


@pytest.fixture
def clip(tmp_path) -> FramedClip:
    """A clip of 20 frames with a mesh that is a circle."""
    with (tmp_path / "clip.mp4").open("wb") as file, video_writer(file) as write:
        for _ in range(20):
            write(np.full((128, 128, 3), 90, np.uint8))
    angle = np.linspace(0, 2 * np.pi, 478, endpoint=False)
    from asymtalker.media.face_readings import _average_face

    face, _ = _average_face()
    points = np.zeros((478, 3), np.float32)
    points[:468] = face * (4, -4, -4) + (64, 64, 0)
    points[468:, 0], points[468:, 1] = 64 + np.cos(angle[:10]), 64 + np.sin(angle[:10])
    np.save(tmp_path / "points.npy", np.tile(points, (20, 1, 1)))
    (tmp_path / "clip.wav").write_bytes(encode_wav(0.1 * np.random.default_rng(0).standard_normal(20 * 640)))
    return FramedClip(tmp_path)


def test_pose_scores(clip, monkeypatch):
    places = np.full(133, 144.0), np.full(133, 192.0)
    monkeypatch.setattr(published, "_session", lambda name: pose_network(*places, 0.9))
    found = pose_scores(clip)
    assert found["points_missing"] == 0
    assert found["pose_hands"] > 0.6, "all of its points, the hands' too, are in the middle of the face"
    monkeypatch.setattr(published, "_session", lambda name: pose_network(*places, 0.1))
    assert pose_scores(clip) == {"points_missing": 1.0, "pose_hands": 0.0}


def test_syncnet_scores_a_clip(clip, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(published, "_syncnet", lambda: SyncNet().eval().requires_grad_(False))
    found = syncnet_scores(clip)
    assert found.keys() == {"sync_confidence", "sync_distance", "sync_offset"}
    assert found["sync_distance"] > 0


@pytest.mark.skipif(not (DATA / "weights").is_dir(), reason="no ONNX network is at hand")
def test_a_registered_network_is_a_function_of_its_input(monkeypatch):
    monkeypatch.setattr(published, "fetch_file", lambda name, offline: DATA / "weights" / "yunet_n_640_640.onnx")
    published._session.cache_clear()
    outputs = published._session("bisenet")(np.zeros((1, 3, 640, 640), np.float32))
    published._session.cache_clear()
    assert len(outputs) > 3
    assert all(np.isfinite(one).all() for one in outputs)
