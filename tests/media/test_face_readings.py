from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from asymtalker.media import face_mesh
from asymtalker.media.face_mesh import find_face, track
from asymtalker.media.face_readings import eyes_place, face_mask, gaze, head_pose, lid_openings, lip_aperture
from asymtalker.media.picture import read_picture
from asymtalker.media.video import decode_frames
from asymtalker.synth.pose import rotation
from real_data import DATA

ASSETS = Path(str(resources.files("asymtalker"))) / "assets"
DEMO = ASSETS / "demo" / "portrait.png"


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    face = find_face(read_picture(DEMO))
    assert face
    return face.points


def turned(yaw: float, pitch: float, roll: float, scale: float = 20.0) -> np.ndarray:
    """MediaPipe's average face, turned, as points of a picture."""
    face = np.load(ASSETS / "face_mesh" / "canonical.npy")[:, :3] @ rotation(yaw, pitch, roll).T.astype(float)
    face = np.concatenate([face, np.zeros((10, 3))])
    return scale * face * (1, -1, -1) + (200, 150, 0)


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, 0, 0), (0, -15, 0), (0, 0, 30), (-40, 20, -10)])
def test_the_pose_of_a_turned_face(angles):
    pose = head_pose(turned(*angles))
    assert pose.angles() == pytest.approx(angles, abs=1e-3)
    assert pose.scale == pytest.approx(20)
    assert pose.place((0, 0, 0)) == pytest.approx((200, 150))
    chin = np.load(ASSETS / "face_mesh" / "canonical.npy")[face_mesh.CHIN, :3]
    assert pose.place(chin) == pytest.approx(turned(*angles)[face_mesh.CHIN, :2])


def test_many_faces_are_read_at_once(points):
    many = np.stack([points, turned(10, 5, 3), points * 2])
    for reading, shape in ((lip_aperture, ()), (lid_openings, (2,)), (gaze, (2,))):
        together = reading(many)
        assert together.shape == (3, *shape)
        assert np.allclose(together[0], reading(points), atol=1e-5)
        assert np.allclose(together[0], together[2], atol=1e-5)  # of any size
    corners = points[[face_mesh.RIGHT_EYE_OUTER, face_mesh.LEFT_EYE_OUTER], :2]
    assert np.allclose(eyes_place(points), [*corners.mean(0), np.linalg.norm(corners[0] - corners[1])])
    assert np.allclose(eyes_place(many), [eyes_place(points), eyes_place(many[1]), 2 * eyes_place(points)])
    assert np.allclose(head_pose(many).angles()[1], (10, 5, 3), atol=1e-3)


def test_readings_of_the_demo_portrait(points):
    assert np.abs(head_pose(points).angles()).max() < 12
    assert 0 <= lip_aperture(points) < 0.03
    assert (lid_openings(points) > 0.2).all()
    assert np.abs(gaze(points)[0]) < 0.15
    mouth = points.copy()
    mouth[face_mesh.LOWER_LIP, 1] += 30
    eyes = np.linalg.norm(points[face_mesh.LEFT_EYE_OUTER, :2] - points[face_mesh.RIGHT_EYE_OUTER, :2])
    assert lip_aperture(mouth) - lip_aperture(points) == pytest.approx(30 / eyes, rel=0.1)
    looking = points.copy()
    looking[[face_mesh.RIGHT_IRIS, face_mesh.LEFT_IRIS], :2] += (5, -3)
    assert (gaze(looking) > gaze(points)).all()


def test_the_mask_is_the_face(points):
    mask = face_mask(points, 512, 512)
    assert set(np.unique(mask)) == {0, 255}
    low, high = points[list(face_mesh.OVAL), :2].min(0), points[list(face_mesh.OVAL), :2].max(0)
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min()) == pytest.approx(low, abs=1.5)
    assert (columns.max(), rows.max()) == pytest.approx(high, abs=1.5)
    assert mask[tuple(points[1, 1::-1].astype(int))] == 255
    assert 0.65 < mask.mean() / 255 * 512 * 512 / np.prod(high - low) < 0.85
    assert face_mask(points - (400, 0, 0), 512, 512).shape == (512, 512)


@pytest.mark.skipif(not (DATA / "clips").is_dir(), reason="needs the clips")
def test_a_speaker_moves_the_lips_more_than_the_head():
    faces = [face for face in track(decode_frames(sorted((DATA / "clips").glob("*.mpg"))[0])) if face]
    seen = np.stack([face.points for face in faces])
    assert lip_aperture(seen).max() - lip_aperture(seen).min() > 0.06
    assert head_pose(seen).angles().std(0).max() < 8
    blink = np.array([[face.weight("eyeBlinkRight"), face.weight("eyeBlinkLeft")] for face in faces])
    assert np.corrcoef(blink[:, 0], lid_openings(seen)[:, 0])[0, 1] < -0.5
