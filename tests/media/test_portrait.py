from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.generate.inputs import Request, read_inputs
from asymtalker.media.face_mesh import LEFT_EYE_OUTER, LEFT_LIDS, LOWER_LIP, RIGHT_EYE_OUTER, RIGHT_LIDS, find_face
from asymtalker.media.face_readings import lid_openings
from asymtalker.media.picture import read_picture
from asymtalker.media.portrait import (
    FaceBox,
    Placement,
    check_face,
    choose_face,
    crop_frame,
    crop_within,
    find_faces,
    find_upright,
    parse_size,
    paste_back,
    resize_for_video,
)
from drawn_face import background, draw_face
from drawn_things import lawn, socket, wheel
from real_data import DATA, INPUTS, needs_inputs


@pytest.mark.parametrize(
    ("size", "width"),
    [((300, 300), 60), ((600, 700), 300), ((3000, 4000), 240), ((4000, 2500), 1500)],
    ids=["small", "plain", "far away in a large picture", "close in a large picture"],
)
def test_a_face_is_found_where_it_is(size, width):
    centre = size[1] // 2 + 10, size[0] // 2 - 5
    (face,) = find_faces(draw_face(background(*size), centre, width))
    assert face.left + face.width / 2 == pytest.approx(centre[0], abs=0.12 * width)
    assert face.top + face.height / 2 == pytest.approx(centre[1], abs=0.25 * width)
    assert 0.7 * width < face.width < 1.4 * width


def test_faces_come_largest_first_and_the_choice_is_said():
    picture = draw_face(draw_face(background(400, 700), (150, 200), 90), (480, 200), 160)
    faces = find_faces(picture)
    assert len(faces) == 2
    said: list[str] = []
    assert choose_face(faces, None, "x.png", said.append) == faces[0]
    assert faces[0].left > faces[1].left
    assert len(said) == 1
    assert "2 faces in x.png" in said[0]
    assert choose_face(faces, 2, "x.png", said.append) == faces[1]
    assert len(said) == 1
    for number in (0, 3, -1):
        with pytest.raises(UserError, match="2 faces"):
            choose_face(faces, number, "x.png")


def test_no_face_is_an_error():
    picture = background(300, 400)
    assert find_upright(picture)[1:] == ([], 0)
    with pytest.raises(UserError, match=r"No human face was found in empty\.png"):
        choose_face([], None, "empty.png")


@pytest.mark.parametrize(
    ("thing", "seeds"),
    [(wheel, (0, 3, 9, 23)), (socket, (3, 6, 14)), (lawn, (0,))],
    ids=["wheels", "sockets", "lawn"],
)
def test_things_that_have_something_of_a_face_are_none(thing, seeds):
    """In no turn: a motorcycle's wheel was animated."""
    for seed in seeds:
        assert find_upright(thing(seed))[1:] == ([], 0), seed


def test_coins_are_no_faces():
    """Of Pompeii, in the Brooklyn Museum (no known copyright restrictions); scikit-image's picture, as a JPEG."""
    assert find_upright(read_picture(Path(__file__).parent / "coins.jpg"))[1:] == ([], 0)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_turned_picture_is_turned_back(quarters):
    upright = draw_face(background(300, 400), (200, 150), 120)
    picture, (face,), turn = find_upright(np.ascontiguousarray(np.rot90(upright, quarters)))
    assert turn == 90 * quarters
    assert np.array_equal(picture, upright)
    assert face == find_faces(upright)[0]


def test_a_tilted_picture_stays_as_it_is():
    upright = draw_face(background(400, 400), (200, 200), 120)
    for angle in (-40, -20, 20, 40):
        tilted = np.asarray(Image.fromarray(upright).rotate(angle, Image.Resampling.BICUBIC))
        _, (face,), turn = find_upright(tilted)
        assert turn == 0
        assert face.width == pytest.approx(find_faces(upright)[0].width, rel=0.1)


@pytest.mark.parametrize("width", [48, 64, 90])
def test_small_faces_are_found_and_said_to_be_soft(width):
    picture = draw_face(background(853, 1280), (900, 250), width)
    (face,) = find_faces(picture)
    assert face.width == pytest.approx(width, rel=0.15)
    assert face.left + face.width / 2 == pytest.approx(900, abs=0.1 * width)
    said: list[str] = []
    check_face(face, picture.shape, "x.png", said.append)
    assert [f"{round(face.width)} pixels wide" in sentence for sentence in said] == [True] * (face.width < 64)


def test_a_face_of_few_pixels_is_refused():
    face = find_faces(draw_face(background(300, 300), (150, 150), 60))[0]
    with pytest.raises(UserError, match="20 pixels wide: give a picture in which it has 64 or more"):
        check_face(replace(face, width=20), (300, 300), "x.png", print)
    said: list[str] = []
    with pytest.raises(UserError, match="20 pixels wide: crop"):
        check_face(replace(face, width=20), (300, 300), "x.png", said.append, shrunk=True)
    check_face(replace(face, width=50), (300, 300), "x.png", said.append, shrunk=True)
    assert ["crop the picture around it" in sentence for sentence in said] == [True]


def test_a_face_that_is_cut_off_is_said_or_refused():
    upright = draw_face(background(400, 400), (200, 200), 160)
    for left, refused in ((0, False), (145, False), (165, True)):
        picture = upright[:, left:]
        (face,) = find_faces(picture)
        said: list[str] = []
        if refused:
            with pytest.raises(UserError, match="cut off"):
                check_face(face, picture.shape, "x.png", said.append)
        else:
            check_face(face, picture.shape, "x.png", said.append)
            assert ["cut off" in sentence for sentence in said] == [True] * (left > 0)


def test_what_makes_a_portrait_worse_is_said():
    face = find_faces(draw_face(background(400, 400), (200, 200), 160))[0]
    assert face.mesh is not None

    def said_of(points: np.ndarray) -> list[str]:
        said: list[str] = []
        check_face(replace(face, mesh=replace(face.mesh, points=points)), (400, 400), "x.png", said.append)
        return said

    assert said_of(face.mesh.points) == []
    wide = face.mesh.points.copy()
    wide[LOWER_LIP, 1] += 0.25 * (wide[LEFT_EYE_OUTER, 0] - wide[RIGHT_EYE_OUTER, 0])
    assert ["mouth wide open" in sentence for sentence in said_of(wide)] == [True]
    for opening, told in ((0.02, True), (0.12, True), (0.16, False)):
        lids = face.mesh.points.copy()
        for side, eye in enumerate((RIGHT_LIDS, LEFT_LIDS)):
            share = opening / lid_openings(face.mesh.points)[side]
            for upper, lower in eye:
                lids[upper] = lids[lower] + share * (lids[upper] - lids[lower])
        assert ["eyes shut: they will stay shut" in sentence for sentence in said_of(lids)] == [True] * told
    middle = face.mesh.points.mean(0)
    for yaw, refused in ((45, False), (70, True)):
        turned = (face.mesh.points - middle) @ rotation_about_y(yaw) + middle
        if refused:
            with pytest.raises(UserError, match="degrees to the side"):
                said_of(turned)
        else:
            assert any("degrees to the side" in sentence for sentence in said_of(turned))


def rotation_about_y(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]])


@pytest.mark.parametrize("size", [64, 128, 500])
def test_crop_has_the_face_in_its_place(size):
    picture = np.zeros((500, 600, 3), np.uint8)
    picture[180:300, 240:360] = 255  # the face box
    portrait = crop_frame(picture, FaceBox(240, 180, 120, 120, 1.0), (size, size))
    assert portrait.picture.shape == (size, size, 3)
    assert portrait.placement == Placement(180, 108, 240, 240)
    rows, columns = np.nonzero(portrait.picture[..., 0] > 127)
    assert np.ptp(columns) + 1 == pytest.approx(size / 2, abs=2)
    assert columns.mean() / size == pytest.approx(0.5, abs=0.02)
    assert rows.mean() / size == pytest.approx(0.55, abs=0.02)


def mesh_box(picture: np.ndarray) -> FaceBox:
    (box,) = find_faces(picture)
    return box


@pytest.mark.parametrize("size", [(64, 64), (80, 52), (52, 80)], ids=["square", "portrait", "landscape"])
@pytest.mark.parametrize(("centre", "width"), [((300, 260), 120), ((300, 260), 200), ((90, 120), 130)])
def test_a_crop_within_the_picture_is_as_large_as_it_can_be(size, centre, width):
    """Not larger than the usual one, in its shape, with all of the face in it, as near to its place as can be."""
    picture = draw_face(background(520, 600), centre, width)
    box = mesh_box(picture)
    usual, within = (crop(picture, box, size) for crop in (crop_frame, crop_within))
    place = within.placement
    assert within.picture.shape == (*size, 3)
    assert place.beyond(picture.shape) == 0
    assert place.width / place.height == pytest.approx(size[1] / size[0], rel=0.02)
    if usual.placement.beyond(picture.shape) == 0:
        assert place == usual.placement
        return
    assert place.height == min(usual.placement.height, 520, round(600 * size[0] / size[1]))
    assert within.points[:, :2].min() >= 0
    assert (within.points[:, :2] <= (size[1], size[0])).all()
    for start, length, usual_start, reach in (
        (place.left, place.width, usual.placement.left + usual.placement.width / 2, 600),
        (place.top, place.height, usual.placement.top + 0.55 * usual.placement.height, 520),
    ):
        share = 0.5 if reach == 600 else 0.55
        wanted = usual_start - share * length
        assert start == pytest.approx(min(max(wanted, 0), reach - length), abs=2)


def test_a_crop_reaches_beyond_a_picture_that_does_not_hold_the_face_in_its_shape():
    picture = draw_face(background(300, 240), (120, 160), 170)
    box = mesh_box(picture)
    usual, within = (crop(picture, box, (90, 160)) for crop in (crop_frame, crop_within))
    assert 0 < within.placement.beyond(picture.shape) < usual.placement.beyond(picture.shape)
    assert (within.placement.left, within.placement.left + within.placement.width) < (0, 1000)
    assert within.placement.top >= 0
    assert within.placement.top + within.placement.height <= 300
    assert (within.points[:, 1] > 0).all()
    assert (within.points[:, 1] < 90).all()


def test_crop_over_the_edge_continues_the_picture():
    picture = background(300, 300)
    portrait = crop_frame(picture, FaceBox(180, 0, 120, 120, 1.0), (256, 256))
    assert portrait.placement.left + portrait.placement.width > 300
    assert portrait.placement.top < 0
    padded = np.pad(picture, ((300, 300), (300, 300), (0, 0)), mode="edge")
    inside = crop_frame(padded, FaceBox(480, 300, 120, 120, 1), (256, 256))
    assert np.abs(portrait.picture.astype(int) - inside.picture).max() < 12


def test_shrinking_does_not_alias():
    stripes = np.zeros((2000, 2000, 3), np.uint8)
    stripes[:, ::2] = 255
    portrait = crop_frame(stripes, FaceBox(750, 750, 500, 500, 1.0), (64, 64))
    assert np.abs(portrait.picture.astype(int) - 127).max() < 6


@pytest.mark.parametrize(
    "box", [FaceBox(240, 180, 120, 120, 1), FaceBox(10, 20, 200, 200, 1), FaceBox(450, 350, 90, 90, 1)]
)
@pytest.mark.parametrize("size", [(256, 256), (320, 208), (208, 320)], ids=["square", "portrait", "landscape"])
def test_pasting_the_crop_back_changes_nothing_much(box, size):
    picture = draw_face(background(500, 600), (300, 240), 150)
    portrait = crop_frame(picture, box, size)
    assert portrait.picture.shape == (*size, 3)
    pasted = paste_back(picture, portrait.picture, portrait.placement)
    assert pasted.shape == picture.shape
    assert np.abs(pasted.astype(int) - picture).mean() < 1
    assert np.abs(pasted.astype(int) - picture).max() < 90  # sharp drawn edges, scaled twice


def test_pasted_frame_fades_out_at_its_border():
    picture, frame = np.zeros((400, 400, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    pasted = paste_back(picture, frame, Placement(100, 120, 200, 200))[..., 0].astype(int)
    assert pasted[220, 200] == 200
    assert not pasted[:119].any()
    assert not pasted[:, 301:].any()
    assert np.abs(np.diff(pasted, axis=0)).max() < 20
    assert np.abs(np.diff(pasted, axis=1)).max() < 20
    assert not picture.any()


def test_a_square_is_its_part_of_the_picture_scaled():
    picture = draw_face(background(500, 600), (300, 240), 150)
    crop = crop_frame(picture, FaceBox(240, 180, 120, 110, 1.0), (64, 64))
    part = Image.fromarray(picture[103:343, 180:420]).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.array_equal(crop.picture, np.asarray(part))


@pytest.mark.parametrize(("size", "expected"), [((64, 96), (108, 120, 240, 360)), ((96, 64), (42, 180, 360, 240))])
def test_other_shapes_show_more_around_the_face(size, expected):
    picture = np.zeros((500, 600, 3), np.uint8)
    picture[180:300, 240:360] = 255  # the face box, half as wide as the shorter side
    crop = crop_frame(picture, FaceBox(240, 180, 120, 120, 1.0), size)
    top, left, height, width = expected
    assert crop.placement == Placement(left=left, top=top, height=height, width=width)
    rows, columns = np.nonzero(crop.picture[..., 0] > 127)
    for seen, share, side in ((rows, 0.55, size[0]), (columns, 0.5, size[1])):
        assert np.ptp(seen) + 1 == pytest.approx(32, abs=2)
        assert seen.mean() / side == pytest.approx(share, abs=0.02)


def test_a_pasted_landscape_fades_out_equally_far_on_all_sides():
    picture, frame = np.zeros((400, 500, 3), np.uint8), np.full((64, 96, 3), 200, np.uint8)
    pasted = paste_back(picture, frame, Placement(100, 120, 200, 300))[..., 0]
    assert np.array_equal(pasted[120:220, 250], pasted[220, 100:200])
    assert pasted[220, 250] == 200
    assert not pasted[:, :99].any()
    assert not pasted[321:].any()


def test_sizes_are_read_height_first():
    assert parse_size("640x416") == (640, 416)
    assert parse_size("512") == (512, 512)
    for text in ("640x", "0x64", "x", "64x64x64", "-64x64", "big"):
        with pytest.raises(UserError, match="a number of pixels, such as 720, or HEIGHTxWIDTH"):
            parse_size(text)


def test_pictures_for_video_are_even():
    assert resize_for_video(background(301, 403), 1.0).shape == (300, 402, 3)
    assert resize_for_video(background(1500, 3001), 1 / 3).shape == (500, 1000, 3)
    assert resize_for_video(background(150, 201), 2.0).shape == (300, 402, 3)


@pytest.mark.skipif(not DATA.exists(), reason="no real material")
def test_every_real_portrait_is_framed():
    paths = sorted((DATA / "portraits").glob("*.jpg"))
    assert len(paths) == 12
    landmarks = np.load(DATA / "landmarks478.npz", allow_pickle=True)
    points = dict(zip(landmarks["names"].tolist(), landmarks["points"], strict=True))
    for path in paths:
        picture = read_picture(path)
        faces = find_faces(picture)
        assert len(faces) == 1, path
        placement = crop_frame(picture, faces[0], (256, 256)).placement
        corners = (points[f"portraits/{path.name}"][[61, 291], :2] - [placement.left, placement.top]) / placement.width
        mouth = corners.mean(axis=0)
        assert 0.38 < mouth[0] < 0.62, path
        assert 0.58 < mouth[1] < 0.76, path


SILENT = (np.ones(640, np.float32), 16000)


@needs_inputs
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("turned180_sfhq_pt1_00002342.jpg", "turned by 180 degrees"),
        ("upright_old_man.jpg", None),
        ("face_not_found.jpg", None),
        ("p_12bit_in16.png", None),
    ],
)
@pytest.mark.parametrize("crop", [False, True])
def test_odd_pictures_are_taken_as_their_list_says(name, says, crop):
    said: list[str] = []
    read_inputs(Request(INPUTS / name, SILENT, crop=crop, say=said.append), (64, 64), None)
    assert [says in sentence for sentence in said if "degrees" in sentence] == ([] if says is None else [True])


@needs_inputs
@pytest.mark.parametrize("name", ["cat_chelsea.jpg", "anim_black_first.gif"])
def test_odd_pictures_are_refused_as_their_list_says(name):
    with pytest.raises(UserError, match="No human face was found"):
        read_inputs(Request(INPUTS / name, SILENT), (64, 64), None)


@needs_inputs
def test_all_odd_pictures_are_tried():
    suffixes = {".jpg", ".png", ".gif", ".webp"}
    assert sum(path.suffix in suffixes for path in INPUTS.iterdir()) == 6


@needs_inputs
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.1, 1.5, 2.0])
def test_a_wrinkled_face_is_found_at_any_size(scale):
    """How sure the mesh is of it is anything from 0.02 to 0.99 as its pixels fall."""
    _, found, turn = find_upright(resize_for_video(read_picture(INPUTS / "upright_old_man.jpg"), scale))
    assert (len(found), turn) == (1, 0)


@pytest.mark.skipif(not (DATA / "portraits_synthetic").is_dir(), reason="no real material")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sfhq_t2i/*hair-color-top-10_r0c2", True),
        ("sfhq_t2i/*background-top-10_r3c7", True),  # behind glasses
        ("*/male_94", False),  # against the sun
        ("*/male_77", False),
        ("sfhq/*variability-ethnicity_r0c4", False),
        ("../portraits/sfhq_pt1_00002844", False),  # smiles, with glasses
    ],
)
def test_shut_eyes_are_told_and_narrow_ones_are_not(name, told):
    (path,) = (DATA / "portraits_synthetic").glob(f"{name}.jpg")
    picture = read_picture(path)
    said: list[str] = []
    check_face(find_faces(picture)[0], picture.shape, path.name, said.append)
    assert ["eyes shut" in sentence for sentence in said if "eyes" in sentence] == [True] * told


@needs_inputs
def test_a_larger_false_face_does_not_win():
    """A cat with a person a quarter as large beside it."""
    cat = np.asarray(Image.fromarray(read_picture(INPUTS / "cat_chelsea.jpg")).resize((900, 600)))
    person = Image.fromarray(read_picture(INPUTS / "upright_old_man.jpg")).resize((200, 200))
    both = np.concatenate([cat, background(600, 240)], axis=1)
    both[200:400, 920:1120] = np.asarray(person)
    (face,) = find_faces(both)
    assert 920 < face.left + face.width / 2 < 1120


@needs_inputs
def test_of_an_animation_the_first_picture_is_said_to_count():
    with pytest.raises(UserError, match="No human face was found in the first picture of"):
        read_inputs(Request(INPUTS / "anim_black_first.gif", SILENT), (64, 64), None)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
@pytest.mark.parametrize("in_memory", [False, True])
def test_of_an_animation_that_works_it_is_said_too(tmp_path, suffix, in_memory):
    frames = [Image.fromarray(draw_face(background(200, 200), (100 + shift, 100), 80)) for shift in (0, 5)]
    for number, count in enumerate((1, 2)):
        path = tmp_path / f"{number}.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:count])
        said: list[str] = []
        image = path.read_bytes() if in_memory else path
        read_inputs(Request(image, SILENT, say=said.append), (64, 64), None)
        assert sum("only the first counts" in sentence for sentence in said) == count - 1


def test_rows_that_are_padded_change_nothing():
    """Decoded frames of 360 pixels are views into wider rows; a detector that reads past them finds other faces."""
    picture = draw_face(background(288, 360), (180, 140), 120)
    padded = np.zeros((288, 384, 3), np.uint8)
    padded[:, :360] = picture
    expected = find_faces(picture)
    assert expected
    for _ in range(3):
        assert find_faces(padded[:, :360]) == expected


def test_the_points_of_a_crop_are_those_of_its_face():
    picture = draw_face(background(400, 600), (370, 230), 130)
    (box,) = find_faces(picture)
    for size in ((256, 256), (160, 320)):
        crop = crop_frame(picture, box, size)
        found = find_face(crop.picture).points
        width = found[:, 0].max() - found[:, 0].min()
        assert np.abs(crop.points - found)[:, :2].mean() < 0.03 * width
