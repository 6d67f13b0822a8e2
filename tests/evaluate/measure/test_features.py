"""One pass over a clip gives what each measure gives alone, in any blocks."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.evaluate.clips import FileClip
from asymtalker.evaluate.measure import features
from asymtalker.evaluate.measure.faces import DetectedFace, mesh_faces
from asymtalker.evaluate.measure.features import STRIDE, PictureFeatures, dlib_embedding, embed_faces, measure_clip
from asymtalker.evaluate.measure.networks import LOADERS, Networks
from asymtalker.evaluate.measure.readings import READINGS
from asymtalker.evaluate.measure.signals import SAME_BY_DLIB
from asymtalker.media.registry import fetch_file
from asymtalker.media.video import write_video
from drawn_face import background
from real_data import DATA

SIZE = (160, 160)


class PictureNetwork(torch.nn.Module):
    """Stands in for Inception: the mean of each channel."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, pictures):
        assert pictures.dtype == torch.uint8
        return pictures.float().mean((2, 3))


class VideoNetwork(torch.nn.Module):
    """Stands in for I3D, with its calling convention: of a window its brightness and how much that moves."""

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        assert x.shape[1:3] == (3, 16)
        assert x.dtype == torch.uint8
        assert rescale
        assert resize
        assert return_features
        brightness = x.float().mean((1, 3, 4))
        return torch.cat([brightness, torch.zeros(len(x), 384)], 1)


class Session:
    """Stands in for ArcFace: a picture's colour, so that another face is another person."""

    def get_inputs(self):
        return [SimpleNamespace(name="data")]

    def run(self, _, given):
        pixels = given["data"]
        assert pixels.shape == (1, 3, 112, 112)
        assert np.abs(pixels).max() <= 1
        return [pixels.mean((2, 3))]


def whole_picture(picture):
    """Stands in for YuNet: a face at a fixed place."""
    height, width = picture.shape[:2]
    box = np.array([0.25 * width, 0.2 * height, 0.75 * width, 0.8 * height], np.float32)
    points = np.array([[0.4, 0.45], [0.6, 0.45], [0.5, 0.55], [0.42, 0.67], [0.58, 0.67]], np.float32)
    return [DetectedFace(box, points * np.array([width, height], np.float32), 0.9)]


def test_blocks_do_not_matter_and_networks_see_every_fifth_frame(drawn, monkeypatch):
    networks = Networks(inception=PictureNetwork(), i3d=VideoNetwork(), arcface=Session(), yunet=whole_picture)
    whole = measure_clip(drawn, None, SIZE, networks).arrays
    monkeypatch.setattr(features, "BLOCK", 7)
    parts = measure_clip(drawn, None, SIZE, networks).arrays
    assert whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-4, err_msg=name)
    frames = np.stack(list(drawn.frames()))
    np.testing.assert_allclose(whole["inception"], frames[::STRIDE].mean((1, 2)), rtol=1e-5)
    assert whole["i3d"].shape == (3, 400)  # 60 frames: three windows and a rest
    np.testing.assert_allclose(whole["i3d"][1, :16], frames[16:32].mean((1, 2, 3)), rtol=1e-5)
    assert whole["identity_frames"].tolist() == list(range(0, 60, STRIDE))
    assert (whole["identity"] @ whole["portrait"])[0] == pytest.approx(1, abs=1e-5)
    assert whole["readings"].shape == (60, len(READINGS))
    assert whole["expressions"].shape == (12, 52)
    assert whole["sharpness"].shape == (12,)


def test_colour_is_cielab_and_change_the_mean_absolute_difference(drawn):
    frames = np.stack(list(drawn.frames()))
    measured = PictureFeatures()
    measured.add(frames[:13])
    measured.add(frames[13:])
    arrays = measured.finish()
    assert arrays["change"][0] == 0
    for index in (1, 13, 39):
        difference = np.abs(frames[index].astype(int) - frames[index - 1].astype(int)).mean()
        assert arrays["change"][index] == pytest.approx(difference, rel=1e-5)
    grey = np.full((1, 8, 8, 3), 119, np.uint8)  # sRGB 119 is L* 50 to within a tenth
    colour = PictureFeatures()
    colour.add(grey)
    np.testing.assert_allclose(colour.finish()["lab"][0], [50, 0, 0, 0, 0, 0], atol=0.15)


def test_embeddings_have_unit_length_and_published_preprocessing():
    faces = np.stack([np.full((112, 112, 3), (255, 127.5, 0)), np.full((112, 112, 3), (10, 20, 30))]).astype(np.uint8)
    vectors = embed_faces(Session(), faces)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(vectors[0] / vectors[0, 0], [1, 0, -1], atol=0.01)


def test_a_portrait_is_the_yardstick_of_identity(drawn):
    networks = Networks(arcface=Session(), yunet=whole_picture)
    own = measure_clip(drawn, next(drawn.frames()), SIZE, networks)
    other = measure_clip(drawn, 255 - next(drawn.frames()), SIZE, networks)
    assert (own.arrays["identity"] @ own.arrays["portrait"]).min() > 0.95
    assert (other.arrays["identity"] @ other.arrays["portrait"]).max() < 0
    assert own.notes == []
    alone = measure_clip(drawn, None, SIZE, networks)
    assert "its own first frame" in alone.notes[0]


PORTRAITS = sorted(DATA.glob("portraits/sfhq_*.jpg"))[:6]


@pytest.fixture(scope="module")
def portraits():
    """Pictures of different people who do not exist, by name."""
    if not PORTRAITS:
        pytest.skip(f"no portraits in {DATA}")
    return {path.stem: np.array(Image.open(path).convert("RGB")) for path in PORTRAITS}


@pytest.fixture(scope="module")
def dlib_networks():
    """dlib's own two files, which the extra ``evaluate`` installs."""
    names = ("dlib_points", "dlib_face")
    return Networks(**{name: LOADERS[name](fetch_file(name, offline=True)) for name in names})


def test_dlib_knows_a_person_again_and_tells_two_apart(dlib_networks, portraits):
    vectors = {}
    for name, picture in portraits.items():
        box = mesh_faces(picture)[0].box
        vectors[name] = dlib_embedding(dlib_networks, picture, box)
        small = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
        for changed in (
            small,
            cv2.GaussianBlur(small, (0, 0), 1.5),
            small[:, ::-1],
            cv2.convertScaleAbs(small, beta=25),
        ):
            again = dlib_embedding(dlib_networks, changed, mesh_faces(changed)[0].box)
            assert np.linalg.norm(again - vectors[name]) < SAME_BY_DLIB
    for one, other in itertools.combinations(vectors, 2):
        assert np.linalg.norm(vectors[one] - vectors[other]) > SAME_BY_DLIB, (one, other)


def test_dlib_looks_once_a_second_with_any_detector(dlib_networks, portraits, tmp_path):
    one, other = (cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA) for picture in list(portraits.values())[:2])
    write_video(tmp_path / "swapped.mp4", np.stack([one] * 50 + [other] * 50), None)
    clip = FileClip(tmp_path / "swapped.mp4")

    def by_mesh(picture):
        return mesh_faces(picture)

    for networks in (dlib_networks, replace(dlib_networks, arcface=Session(), yunet=by_mesh)):
        arrays = measure_clip(clip, one, SIZE, networks).arrays
        distances = np.linalg.norm(arrays["face"] - arrays["portrait_face"], axis=1)
        assert arrays["face_frames"].tolist() == [0, 25, 50, 75]
        assert distances[:2].max() < SAME_BY_DLIB < distances[2:].min()


def test_other_sizes_are_brought_to_the_references_and_said(drawn, tmp_path):
    frames = np.stack([cv2.resize(frame, (480, 320)) for frame in drawn.frames()])
    write_video(tmp_path / "wide.mp4", frames, drawn.sound())
    measured = measure_clip(FileClip(tmp_path / "wide.mp4"), None, SIZE, Networks())
    assert "480x320, pictures compared at 160x160" in measured.notes
    assert measured.arrays["frames"] == 60
    assert "readings" in measured.arrays


def test_clips_without_a_face_or_sound_keep_what_needs_none(drawn, tmp_path):
    empty = np.stack([background(160, 160)] * 30)
    write_video(tmp_path / "empty.mp4", empty)
    measured = measure_clip(FileClip(tmp_path / "empty.mp4"), None, SIZE, Networks())
    assert measured.notes == ["no sound", "no face found: nothing that needs one is measured"]
    assert set(measured.arrays) == {"frames", "found", "change", "lab"}
    write_video(tmp_path / "mute.mp4", np.stack(list(drawn.frames())))
    networks = Networks(syncnet=SimpleNamespace(parameters=lambda: iter([torch.zeros(1)])), yunet=whole_picture)
    measured = measure_clip(FileClip(tmp_path / "mute.mp4"), None, SIZE, networks)
    assert "lip sync is not measured" in measured.notes[1]
    assert "lips" not in measured.arrays


def test_faces_are_looked_at_as_they_are_whatever_size_pictures_are_compared_at(drawn):
    """The middle part of a square, at a wide picture's size, would show half a face."""
    square, wide = (measure_clip(drawn, None, size, Networks()).arrays for size in (SIZE, (90, 160)))
    np.testing.assert_array_equal(square["readings"], wide["readings"])
    assert not np.array_equal(square["lab"], wide["lab"])


def test_a_face_that_moves_far_in_a_second_is_found_where_none_follows_it(drawn, tmp_path):
    frames = np.stack(list(drawn.frames()))
    pads = [(0, 120) if index // 25 % 2 else (120, 0) for index in range(len(frames))]
    swaying = np.stack([np.pad(f, ((0, 0), pad, (0, 0)), mode="edge") for f, pad in zip(frames, pads, strict=True)])
    write_video(tmp_path / "swaying.mp4", swaying)
    assert measure_clip(FileClip(tmp_path / "swaying.mp4"), None, SIZE, Networks()).arrays["found"].all()


def test_a_clip_that_never_shows_its_person_has_nothing_of_it(drawn, tmp_path, dlib_networks):
    write_video(tmp_path / "empty.mp4", np.stack([background(160, 160)] * 30))
    arrays = measure_clip(FileClip(tmp_path / "empty.mp4"), next(drawn.frames()), SIZE, dlib_networks).arrays
    assert arrays["portrait_face"].shape == (128,)
    assert arrays["face"].shape == (0, 128)


def test_a_portrait_that_cannot_be_read_costs_what_is_held_against_it_alone(drawn, dlib_networks):
    measured = measure_clip(drawn, UserError("a.png is damaged"), SIZE, dlib_networks)
    assert measured.notes == ["identity and sharpness are not measured: a.png is damaged"]
    assert not measured.arrays.keys() & {"portrait_face", "portrait_sharpness"}
    assert "readings" in measured.arrays


def test_a_clip_of_one_frame_is_refused(drawn, tmp_path):
    write_video(tmp_path / "still.mp4", np.stack(list(drawn.frames()))[:1])
    with pytest.raises(UserError, match="too few frames"):
        measure_clip(FileClip(tmp_path / "still.mp4"), None, SIZE, Networks())


def test_a_real_clip_that_cannot_be_heard_costs_what_is_held_against_it_alone(drawn):
    measured = measure_clip(drawn, None, SIZE, Networks(), UserError("a.wav is damaged"))
    assert "not held against the real clip: a.wav is damaged" in measured.notes
    assert "readings" in measured.arrays
    assert "delay" not in measured.arrays
    silent = measure_clip(drawn, None, SIZE, Networks(), np.zeros(16_000, np.float32))
    assert "the real clip is silent: not held against it" in silent.notes


def relative(clip, portrait) -> float:
    """How sharp a clip is over a portrait."""
    arrays = measure_clip(clip, portrait, SIZE, Networks()).arrays
    return float(np.median(arrays["sharpness"]) / arrays["portrait_sharpness"])


def test_sharpness_is_of_the_face_at_the_size_it_is_shown_at(drawn, tmp_path):
    portrait = next(drawn.frames())
    assert relative(drawn, portrait) == pytest.approx(1, abs=0.1)
    frames = np.stack(list(drawn.frames()))
    write_video(tmp_path / "soft.mp4", np.stack([cv2.GaussianBlur(frame, (0, 0), 1.5) for frame in frames]))
    assert relative(FileClip(tmp_path / "soft.mp4"), portrait) < 0.6
    large = np.stack([cv2.resize(frame, (320, 320), interpolation=cv2.INTER_CUBIC) for frame in frames])
    write_video(tmp_path / "large.mp4", large)  # no softer than the portrait at that size
    assert relative(FileClip(tmp_path / "large.mp4"), portrait) == pytest.approx(1, abs=0.15)
    blurred_around = frames.copy()
    blurred_around[:, :20] = blurred_around[:, -20:] = 128
    write_video(tmp_path / "around.mp4", blurred_around)
    assert relative(FileClip(tmp_path / "around.mp4"), portrait) == pytest.approx(1, abs=0.1)
