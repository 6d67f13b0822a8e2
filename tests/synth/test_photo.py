"""Photo heads: a synthetic portrait made of the mean face mesh, and real portraits where they are at hand."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.media.face_mesh import find_face
from asymtalker.synth import facemesh
from asymtalker.synth.photo import fit_photo
from asymtalker.synth.portraits import find_portraits
from asymtalker.synth.pose import Pose
from asymtalker.synth.render import Renderer
from face_weights import weights
from real_data import DATA

pytest.importorskip("vtk")
SIZE = 128


def drawn_portrait() -> tuple[np.ndarray, np.ndarray]:
    """A smooth coloured picture with landmarks of the mean shape on it, and plain irises."""
    mean = facemesh.face_mesh().points
    points = np.concatenate([mean, np.zeros((10, 3))])
    for first, corners in ((468, (33, 133)), (473, (263, 362))):
        centre = mean[list(corners)].mean(0)
        points[first : first + 5] = centre + np.array(
            [[0, 0, 0], [0.09, 0, 0], [0, -0.09, 0], [-0.09, 0, 0], [0, 0.09, 0]]
        )
    pixels = points * 110 + [256, 270, 0]
    rows, columns = np.mgrid[:512, :512]
    picture = np.stack([columns / 2, rows / 2, 128 + 60 * np.sin(columns / 40) * np.cos(rows / 50)], 2).astype(
        np.uint8
    )
    for first in (468, 473):
        cv2.circle(picture, [round(x) for x in pixels[first, :2]], 10, (30, 20, 10), -1, cv2.LINE_AA)
    return picture, pixels


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(SIZE)


@pytest.fixture(scope="module")
def loaded(renderer) -> Renderer:
    renderer.load(fit_photo(*drawn_portrait(), key="drawn"))
    return renderer


def crop_of(head) -> np.ndarray:
    """The photograph's crop as the texture holds it, at the rendered size."""
    edge = round(len(head.texture) / 1.4 * 0.2)
    inner = head.texture[edge : len(head.texture) - edge, edge : len(head.texture) - edge]
    return cv2.resize(inner, (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(int)


def test_rest_reproduces_the_photograph(loaded):
    head = fit_photo(*drawn_portrait(), key="drawn")
    picture = loaded.frame(weights(), Pose()).picture.astype(int)
    assert np.abs(picture - crop_of(head)).mean() < 2.0


def test_aperture_follows_jaw_and_closure(loaded):
    apertures = [loaded.frame(weights(jawOpen=amount), Pose()).lip_aperture for amount in np.linspace(0, 1, 6)]
    assert apertures[0] < 0.005
    assert (np.diff(apertures) > 0).all()
    assert apertures[-1] > 0.2
    assert loaded.frame(weights(jawOpen=0.6, mouthClose=0.6), Pose()).lip_aperture < 0.02


def test_same_key_gives_the_same_picture_bit_for_bit(renderer):
    pictures = []
    for _ in range(2):
        renderer.load(fit_photo(*drawn_portrait(), key="drawn"))
        pictures.append(renderer.frame(weights(jawOpen=0.4), Pose(yaw=6, roll=3)).picture)
    np.testing.assert_array_equal(*pictures)


def test_a_blink_changes_only_the_eyes(loaded):
    rest = loaded.frame(weights(), Pose()).picture.astype(int)
    blink = loaded.frame(weights(eyeBlinkLeft=1, eyeBlinkRight=1), Pose()).picture.astype(int)
    rows = np.nonzero(np.abs(rest - blink).max(2) > 12)[0]
    assert len(rows) > 20
    assert rows.min() > 0.2 * SIZE
    assert rows.max() < 0.6 * SIZE


def test_mask_covers_the_face(loaded):
    mask = loaded.frame(weights(), Pose()).mask
    assert mask[SIZE // 2, SIZE // 2] == 255
    assert 0.15 < (mask > 0).mean() < 0.45


def test_wrong_landmarks_are_refused():
    with pytest.raises(UserError, match="478"):
        fit_photo(np.zeros((64, 64, 3), np.uint8), np.zeros((468, 3)), "short")


@pytest.mark.skipif(not (DATA / "portraits").is_dir(), reason="the portraits are not here")
def test_portraits_at_rest_and_speaking(renderer):
    for name in ("portraits/sfhq_pt1_00001777.jpg", "portraits/sfhq_pt2_00000446.jpg"):
        read = cv2.imread(str(DATA / name))
        assert read is not None
        picture = np.ascontiguousarray(read[..., ::-1])
        face = find_face(picture)
        assert face
        head = fit_photo(picture, face.points, name)
        renderer.load(head)
        rest = renderer.frame(weights(), Pose())
        difference = np.abs(rest.picture.astype(int) - crop_of(head)).mean(2)
        above_mouth = difference[: SIZE // 2]
        assert above_mouth.mean() < 3.0
        assert rest.lip_aperture < 0.01
        assert renderer.frame(weights(jawOpen=0.5), Pose()).lip_aperture > 0.1


@pytest.mark.skipif(not (DATA / "portraits").is_dir(), reason="the portraits are not here")
def test_any_folder_of_pictures_serves(tmp_path):
    for path in sorted((DATA / "portraits").glob("*.jpg"))[:2]:
        shutil.copy(path, tmp_path)
    found = find_portraits(tmp_path)
    assert len(found) == 2
    for portrait in found:
        width, height = Image.open(portrait.path).size
        assert (portrait.landmarks[:, :2] > 0).all()
        assert (portrait.landmarks[:, :2] < (width, height)).all()
