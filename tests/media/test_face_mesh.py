import hashlib
import re
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asymtalker.media import face_mesh
from asymtalker.media.face_mesh import Face, Region, cut, detect, find_face, read_face, settle_face, track
from asymtalker.media.picture import read_picture
from asymtalker.media.portrait import find_faces
from asymtalker.media.video import decode_frames
from real_data import DATA

ASSETS = Path(str(resources.files("asymtalker"))) / "assets"
DEMO = ASSETS / "demo" / "portrait.png"
EXPECTED = Path(__file__).with_name("face_mesh_expected.npz")
"""What MediaPipe 1.2.3 gives for the demo portrait: ``points`` (478, 3) pixels and ``blendshapes`` (52,)."""
PORTRAITS = sorted((DATA / "portraits").glob("*.jpg"))


def first_reading(picture: np.ndarray) -> Face:
    """As MediaPipe reads a still picture: once, where the detector sees the face."""
    return read_face(picture, detect(picture)[0].region)


def distances(one: Face, other: np.ndarray) -> np.ndarray:
    return np.linalg.norm(one.points[:, :2] - other[:, :2], axis=1)


def shown(picture: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS))


def moving(picture: np.ndarray, frames: int) -> list[np.ndarray]:
    """A picture that turns and grows a little about its middle."""
    image = Image.fromarray(picture)
    angles = np.linspace(0, 12, frames)
    return [np.asarray(image.rotate(angle, Image.Resampling.BICUBIC, translate=(angle / 2, 0))) for angle in angles]


def check_by_mediapipe(picture: np.ndarray, points: np.ndarray, blendshapes: np.ndarray) -> Face:
    """Hold the first reading of a picture against MediaPipe's points ``(478, 3)`` and weights: within a pixel of the
    picture, or of the 256x256 that the network sees of a large face."""
    region = detect(picture)[0].region
    pixel = max(1, region.side / 256)
    face = read_face(picture, region)
    # MediaPipe counts from pixels' middles, in the picture and in those 256x256
    apart = distances(face, points[:, :2] + (1 - region.side / 256) / 2)
    assert apart.mean() < 0.75 * pixel
    assert np.percentile(apart, 95) < 1.5 * pixel
    assert np.abs(face.points[:, 2] - points[:, 2]).mean() < pixel
    assert np.abs(face.blendshapes - blendshapes).mean() < 0.02
    return face


def test_points_and_blendshapes_are_mediapipes():
    with np.load(EXPECTED) as expected:
        face = check_by_mediapipe(read_picture(DEMO), expected["points"], expected["blendshapes"])
    assert face.points.shape == (478, 3)
    assert face.blendshapes.shape == (52,) == (len(face_mesh.BLENDSHAPES),)
    assert 0.99 < face.score <= 1


@pytest.mark.skipif(not PORTRAITS, reason="needs the portraits")
def test_points_of_real_portraits_are_those_of_mediapipe_itself(tmp_path):
    mediapipe = pytest.importorskip("mediapipe")
    bundle = tmp_path / "face_landmarker.task"
    with zipfile.ZipFile(bundle, "w") as file:
        for network in sorted((ASSETS / "face_mesh").glob("*.tflite")):
            file.write(network, network.name)
    vision = mediapipe.tasks.vision
    base = mediapipe.tasks.BaseOptions(model_asset_path=str(bundle))
    options = vision.FaceLandmarkerOptions(base_options=base, output_face_blendshapes=True)
    with vision.FaceLandmarker.create_from_options(options) as landmarker:
        for path in PORTRAITS:
            picture = read_picture(path)
            result = landmarker.detect(mediapipe.Image(mediapipe.ImageFormat.SRGB, picture))
            height, width = picture.shape[:2]
            points = np.array([[p.x * width, p.y * height, p.z * width] for p in result.face_landmarks[0]])
            names, weights = zip(*((c.category_name, c.score) for c in result.face_blendshapes[0]), strict=True)
            assert names == face_mesh.BLENDSHAPES
            check_by_mediapipe(picture, points, np.array(weights))


def test_a_mirrored_picture_has_mirrored_points():
    picture = shown(read_picture(DEMO), 512)
    face, mirrored = find_face(picture), find_face(np.ascontiguousarray(picture[:, ::-1]))
    assert face
    assert mirrored
    pairs = (("RIGHT_EYE_OUTER", "LEFT_EYE_OUTER"), ("RIGHT_EYE_INNER", "LEFT_EYE_INNER"))
    pairs += (("MOUTH_RIGHT", "MOUTH_LEFT"), ("RIGHT_IRIS", "LEFT_IRIS"), ("CHIN", "CHIN"))
    for right, left in pairs:
        one = face.points[getattr(face_mesh, right)]
        other = mirrored.points[getattr(face_mesh, left)]
        assert one[:2] == pytest.approx((512 - other[0], other[1]), abs=1.5)
    # the outline goes around the face by the picture's right, so mirrored it is read backwards
    oval = list(face_mesh.OVAL)
    back = [oval[0], *oval[:0:-1]]
    seen = mirrored.points[back, :2] * (-1, 1) + (512, 0)
    assert np.abs(face.points[oval, :2] - seen).mean() < 2
    assert face.weight("mouthSmileLeft") == pytest.approx(mirrored.weight("mouthSmileRight"), abs=0.15)


def test_a_face_that_is_followed_is_where_it_is_found_afresh():
    frames = moving(shown(read_picture(DEMO), 256), 8)
    for frame, followed in zip(frames, track(frames), strict=True):
        afresh = find_face(frame)
        assert followed
        assert afresh
        assert distances(followed, afresh.points).mean() < 1
        assert distances(followed, first_reading(frame).points).mean() < 1.5


def test_a_face_that_is_lost_is_found_again():
    picture = shown(read_picture(DEMO), 256)
    empty = np.full_like(picture, 90)
    away = np.roll(picture, 60, axis=1)
    seen = list(track([empty, picture, empty, away, picture]))
    assert [face is None for face in seen] == [True, False, True, False, False]
    assert seen[3].points[:, 0].mean() - seen[1].points[:, 0].mean() == pytest.approx(60, abs=3)
    assert list(track([])) == []
    assert detect(empty) == []
    assert find_face(empty) is None


def test_turned_and_scaled_faces_are_read_in_place():
    picture = shown(read_picture(DEMO), 512)
    face = find_face(picture)
    assert face
    region = face.region
    assert abs(region.angle) < 0.05
    upside_down = read_face(
        np.ascontiguousarray(picture[::-1, ::-1]), Region(512 - region.x, 512 - region.y, region.side, np.pi)
    )
    assert distances(upside_down, 512 - face.points).mean() < 0.5
    large = find_face(shown(picture, 3072))
    assert large
    assert distances(face, large.points / 6).mean() < 1


def test_what_is_cut_lies_where_it_should():
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[30, 40] = 255
    seen = cut(picture, Region(40.5, 30.5, 9, np.pi / 2), 9)
    assert np.argwhere(seen[..., 0] > 200).tolist() == [[4, 4]]
    seen = cut(picture, Region(42.5, 30.5, 9, 0), 9)
    assert np.argwhere(seen[..., 0] > 200).tolist() == [[4, 2]]
    assert Region(42.5, 30.5, 9, 0).to_picture(np.array([[2.5 / 9, 0.5]])) == pytest.approx(np.array([[40.5, 30.5]]))
    bright = np.full((20, 20, 3), 200, np.uint8)
    assert cut(bright, Region(0, 0, 30, 0.3), 16).min() == 200  # the edge goes on
    assert cut(bright, Region(0, 0, 30, 0.0), 16, continued=False)[0, 0, 0] == 0
    assert cut(bright, Region(-200, 0, 30, 0.3), 16).shape == (16, 16, 3)


def test_threads_do_not_disturb_each_other():
    pictures = moving(shown(read_picture(DEMO), 256), 6) * 2
    alone = [first_reading(picture).points for picture in pictures]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda picture: first_reading(picture).points, pictures))
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("share", [0.5, 0.7, 1.5])
def test_a_face_is_read_until_it_stays_where_it_is(share):
    """However large the region is in which it was found."""
    picture = read_picture(DEMO)
    face = find_face(picture)
    eyes = float(np.linalg.norm(face.points[33] - face.points[263]))
    settled = settle_face(picture, replace(face.region, side=share * face.region.side))
    assert distances(settled, face.points).mean() < 0.005 * eyes


@pytest.mark.skipif(len(PORTRAITS) < 12, reason="needs the portraits")
def test_lips_of_portraits_are_where_more_readings_find_them():
    for path in PORTRAITS:
        picture = read_picture(path)
        (found, *_) = find_faces(picture)
        again = found.mesh
        for _ in range(5):
            again = read_face(picture, again.region)
        eyes = float(np.linalg.norm(again.points[33] - again.points[263]))
        assert distances(found.mesh, again.points)[[0, 13, 14, 17, 61, 291]].mean() < 0.03 * eyes, path


@pytest.mark.skipif(len(PORTRAITS) < 12, reason="needs the portraits")
def test_portraits_and_the_painting_are_found():
    for path in PORTRAITS:
        found = detect(read_picture(path))
        assert len(found) == 1, path
        assert find_face(read_picture(path)).score > 0.9, path


@pytest.mark.skipif(not (DATA / "clips").is_dir(), reason="needs the clips")
def test_an_open_mouth_has_an_open_jaw():
    faces = list(track(decode_frames(sorted((DATA / "clips").glob("*.mpg"))[0])))
    gaps = [np.linalg.norm(face.points[face_mesh.LOWER_LIP] - face.points[face_mesh.UPPER_LIP]) for face in faces]
    jaws = np.array([face.weight("jawOpen") for face in faces])
    order = np.argsort(gaps)
    assert jaws[order[-5:]].mean() > jaws[order[:5]].mean() + 0.02
    assert np.corrcoef(gaps, jaws)[0, 1] > 0.7


def test_nothing_is_said_on_stderr():
    code = (
        "import os, numpy as np; from asymtalker.media.face_mesh import detect; "
        "detect(np.zeros((64, 64, 3), np.uint8)); os.write(2, b'mine')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == "mine"


def test_the_networks_are_those_that_the_readme_names():
    folder = ASSETS / "face_mesh"
    sums = dict(re.findall(r"`(\S+\.tflite)`.*`([0-9a-f]{64})`", (folder / "README.md").read_text()))
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tflite")}
