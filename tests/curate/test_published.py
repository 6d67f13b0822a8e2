"""Published networks: what goes into them and comes out has the form that they were published with."""

import numpy as np
import pytest
import torch

from asymtalker.curate import published
from asymtalker.curate.framed import FramedClip
from asymtalker.curate.published import (
    FACE_PARTS,
    MDX_GAIN,
    parse_face,
    pose_scores,
    separate_voice,
    syncnet_scores,
    whole_body,
)
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
