import cv2
import numpy as np
import pytest

from asymtalker.errors import UserError
from asymtalker.evaluate.measure.faces import (
    ARCFACE_POINTS,
    MAX_GAP,
    DetectedFace,
    Detector,
    NoFace,
    align_face,
    mesh_faces,
    similarity,
    track_faces,
    yunet_detector,
)
from asymtalker.media.picture import read_picture
from asymtalker.media.video import decode_frames
from drawn_face import background, draw_face
from real_data import DATA

YUNET = [DATA / "weights" / name for name in ("yunet_n_640_640.onnx", "yunet_n_dynamic.onnx")]
PORTRAITS = sorted(DATA.glob("portraits/sfhq_*.jpg"))
CLIPS = sorted(DATA.glob("clips/*.mpg"))
needs_data = pytest.mark.skipif(not (YUNET[0].exists() and PORTRAITS and CLIPS), reason=f"no files in {DATA}")


def face(x: float, y: float, side: float = 100, score: float = 0.9, points: bool = True) -> DetectedFace:
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)
    spread = np.array([[-1, -1], [1, -1], [0, 0], [-1, 1], [1, 1]], np.float32)
    return DetectedFace(box, spread * side / 4 + np.array([x, y], np.float32) if points else None, score)


def fake(script: list[list[DetectedFace]]) -> tuple[list[np.ndarray], Detector]:
    """Frames, and a detector that finds in frame ``i`` what ``script[i]`` says."""
    frames = [np.full((1, 1, 3), i, np.uint8) for i in range(len(script))]
    return frames, lambda frame: script[frame[0, 0, 0]]


def test_a_track_bridges_gaps_and_holds_its_ends():
    script = [[face(100 + 3 * i, 80 + i)] for i in range(20)]
    for missing in (0, 1, 7, 8, 9, 19):
        script[missing] = []
    track = track_faces(*fake(script))
    expected = [face(100 + 3 * i, 80 + i) for i in (2, 2, *range(2, 19), 18)]
    np.testing.assert_allclose(track.boxes, [f.box for f in expected], atol=1e-4)
    assert track.points is not None
    np.testing.assert_allclose(track.points, np.stack([f.points for f in expected if f.points is not None]), atol=1e-4)
    assert track.found.tolist() == [bool(faces) for faces in script]
    np.testing.assert_array_equal(track.scores, np.where(track.found, np.float32(0.9), 0))
    assert (track.boxes.dtype, track.points.dtype, track.scores.dtype) == (np.float32,) * 3


def test_a_track_stays_with_its_face():
    # The second face is the larger one from frame 5 on, comes first in the list, and is alone in frames 10 to 12.
    script = [[face(400, 100, 60 if i < 5 else 150), face(100 + 4 * i, 100)] for i in range(20)]
    for hidden in (10, 11, 12):
        del script[hidden][1]
    track = track_faces(*fake(script))
    np.testing.assert_allclose(track.boxes, [face(100 + 4 * i, 100).box for i in range(20)], atol=1e-4)
    assert not track.found[10:13].any()
    assert track.found.sum() == 17


def test_a_face_that_is_gone_for_long_is_given_up_for_the_largest():
    script = [[face(100, 100)]] * 3 + [[face(400, 100, 50), face(700, 100, 80)]] * (MAX_GAP + 3)
    track = track_faces(*fake(script))
    assert track.found.tolist() == [True] * 3 + [False] * MAX_GAP + [True] * 3
    np.testing.assert_array_equal(track.boxes[-3:], [face(700, 100, 80).box] * 3)


def test_a_track_has_points_only_if_its_detector_has():
    assert track_faces(*fake([[face(50, 50, points=False)]] * 3)).points is None


@pytest.mark.parametrize("count", [0, 4])
def test_no_face_at_all_is_said(count):
    with pytest.raises(NoFace, match=f"none of the {count} frames"):
        track_faces(*fake([[]] * count))
    assert issubclass(NoFace, ValueError)


def test_similarity_recovers_turn_scale_and_shift():
    angle, scale, shift = 0.4, 2.5, np.array([30.0, -7.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(
        similarity(ARCFACE_POINTS, ARCFACE_POINTS @ turn.T + shift), np.column_stack([turn, shift]), atol=1e-10
    )


def test_similarity_is_the_least_squares_one():
    rng = np.random.default_rng(0)
    for _ in range(10):
        source = rng.uniform(0, 300, (5, 2)).astype(np.float32)
        target = (source * 0.4 + rng.normal(0, 8, (5, 2))).astype(np.float32)
        columns = [[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in source.astype(float)]
        a, b, x, y = np.linalg.lstsq(np.concatenate(columns), target.astype(float).ravel(), rcond=None)[0]
        np.testing.assert_allclose(similarity(source, target), [[a, -b, x], [b, a, y]], atol=1e-9)
        # OpenCV's, with a threshold so wide that no point is left out
        theirs, inliers = cv2.estimateAffinePartial2D(source, target, ransacReprojThreshold=1e4, refineIters=100)
        assert inliers.all()
        np.testing.assert_allclose(similarity(source, target), theirs, atol=1e-2)


def test_a_mirrored_face_is_not_mirrored_back():
    mirrored = ARCFACE_POINTS * [-1, 1] + [112, 0]
    assert np.linalg.det(similarity(mirrored, ARCFACE_POINTS)[:, :2]) > 0


def test_alignment_brings_the_points_to_the_template():
    # Each point is drawn as a spot of another colour; they must come to lie on the template, upright and in order.
    angle, scale, shift = -0.3, 3.0, np.array([120.0, 160.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = ARCFACE_POINTS @ turn.T + shift
    frame = np.zeros((700, 600, 3), np.uint8)
    colours = [(250, 50, 50), (50, 250, 50), (50, 50, 250), (250, 250, 50), (50, 250, 250)]
    for (x, y), colour in zip(points, colours, strict=True):
        cv2.circle(frame, (round(x), round(y)), 12, colour, -1)
    aligned = align_face(frame, points.astype(np.float32))
    assert aligned.shape == (112, 112, 3)
    assert aligned.dtype == np.uint8
    for (x, y), colour in zip(ARCFACE_POINTS, colours, strict=True):
        rows, columns = np.nonzero(np.abs(aligned.astype(int) - colour).max(axis=2) < 30)
        np.testing.assert_allclose([columns.mean(), rows.mean()], [x, y], atol=0.6)


def test_the_mesh_finds_a_drawn_face_and_no_face_in_a_background():
    width = 150
    (found,) = mesh_faces(draw_face(background(400, 500), (250, 200), width))
    assert found.points is None
    left, top, right, bottom = found.box
    assert (left + right) / 2 == pytest.approx(250, abs=0.12 * width)
    assert (bottom - top) / (right - left) == pytest.approx(1.27 / 0.9, rel=0.01)
    assert mesh_faces(background(300, 300)) == []


def test_what_is_not_yunet_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        yunet_detector(tmp_path / "none.onnx")
    (tmp_path / "some.onnx").write_bytes(b"not a network" * 99)
    with pytest.raises(UserError, match=r"some\.onnx is not the YuNet face detector"):
        yunet_detector(tmp_path / "some.onnx")


def real_pictures() -> list[np.ndarray]:
    """Portraits and, of each clip, three frames."""
    frames = [frame for path in CLIPS for i, frame in enumerate(decode_frames(path)) if i in (0, 30, 60)]
    return [read_picture(path) for path in PORTRAITS] + frames


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    shared = max(0, min(one[2], other[2]) - max(one[0], other[0])) * max(
        0, min(one[3], other[3]) - max(one[1], other[1])
    )
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


@needs_data
@pytest.mark.parametrize("path", YUNET, ids=lambda path: path.stem)
def test_yunet_finds_the_face_and_its_points(path, capfd):
    detector = yunet_detector(path)
    for picture in real_pictures():
        (found,) = detector(picture)
        left, top, right, bottom = found.box
        assert found.points is not None
        assert found.score > 0.85
        assert (found.points > [left, top]).all()
        assert (found.points < [right, bottom]).all()
        right_eye, left_eye, nose, right_mouth, left_mouth = found.points
        assert right_eye[0] < nose[0] < left_eye[0]
        assert right_mouth[0] < left_mouth[0]
        assert max(right_eye[1], left_eye[1]) < nose[1] < min(right_mouth[1], left_mouth[1])
    assert capfd.readouterr() == ("", "")


@needs_data
def test_boxes_of_the_mesh_are_brought_to_those_of_yunet():
    detector = yunet_detector(YUNET[0])
    ratios, rises, overlaps = [], [], []
    for picture in real_pictures():
        (yunet,), mesh = detector(picture), mesh_faces(picture)[0]
        overlaps.append(overlap(yunet.box, mesh.box))
        sides = mesh.box[2:] - mesh.box[:2]
        ratios.append((yunet.box[2:] - yunet.box[:2]) / sides)
        rises.append((mesh.box[1::2].mean() - yunet.box[1::2].mean()) / sides[1])
    assert min(overlaps) > 0.65
    assert np.median(overlaps) > 0.85
    np.testing.assert_allclose(np.median(ratios, axis=0), 1, atol=0.04)
    assert np.median(rises) == pytest.approx(0, abs=0.02)


@needs_data
def test_yunet_finds_faces_of_any_size():
    detector, portrait = yunet_detector(YUNET[0]), read_picture(PORTRAITS[0])
    (whole,) = detector(portrait)
    share = whole.box / portrait.shape[0]
    for side in (64, 256, 3000):
        (found,) = detector(cv2.resize(portrait, (side, side), interpolation=cv2.INTER_AREA))
        assert overlap(found.box / side, share) > 0.8
    small = cv2.resize(portrait, (48, 48), interpolation=cv2.INTER_AREA)  # 2% of the picture's width
    wide = np.full((900, 1600, 3), 128, np.uint8)
    wide[700:748, 1200:1248] = small
    (found,) = detector(wide)
    assert overlap(found.box, share * 48 + np.array([1200, 700] * 2)) > 0.6
    assert detector(np.full((200, 300, 3), 128, np.uint8)) == []


@needs_data
def test_a_clip_of_a_real_speaker_is_tracked_throughout():
    track = track_faces(decode_frames(CLIPS[0]), yunet_detector(YUNET[0]))
    assert track.found.all()
    assert track.boxes.shape == (75, 4)
    assert np.abs(np.diff(track.boxes, axis=0)).max() < 20


@needs_data
def test_the_onnx_file_run_directly_gives_the_same_face():
    """Output layers as in libfacedetection.train: class, object, box and points for cells of 8, 16 and 32 pixels."""
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(YUNET[1], providers=["CPUExecutionProvider"])
    detector = yunet_detector(YUNET[1])
    for path in PORTRAITS[:4]:
        picture = cv2.resize(read_picture(path), (256, 288), interpolation=cv2.INTER_AREA)
        values = picture[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32)  # BGR, 0 to 255; sides divide by 32
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, {session.get_inputs()[0].name: values}), strict=True))
        best = (0.0, np.zeros(4), np.zeros((5, 2)))
        for cell in (8, 16, 32):
            kind, thing, box, points = (outputs[f"{part}_{cell}"][0] for part in ("cls", "obj", "bbox", "kps"))
            scores = np.sqrt(np.clip(kind, 0, 1) * np.clip(thing, 0, 1))[:, 0]
            at = int(scores.argmax())
            if scores[at] > best[0]:
                corner = np.array([at % (256 // cell), at // (256 // cell)])
                middle, sides = (corner + box[at, :2]) * cell, np.exp(box[at, 2:]) * cell
                edges = np.concatenate([middle - sides / 2, middle + sides / 2])
                best = (float(scores[at]), edges, (corner + points[at].reshape(5, 2)) * cell)
        (found,) = detector(picture)
        assert found.score == pytest.approx(best[0], abs=1e-3)
        assert found.points is not None
        np.testing.assert_allclose(found.points, best[2], atol=0.1)
        np.testing.assert_allclose(found.box, best[1], atol=0.1)
