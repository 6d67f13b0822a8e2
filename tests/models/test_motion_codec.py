"""The codec of motion: what it reads of faces, how it moves a portrait, and that both agree."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import asymtalker
from asymtalker.codec import to_frames, to_pixels
from asymtalker.errors import UserError
from asymtalker.media.face_mesh import LOWER_LIP, UPPER_LIP
from asymtalker.models.codecs import codec_of, load_codec_network
from asymtalker.models.identity import Identity
from asymtalker.models.motion.basis import (
    INNER_LIPS,
    JOIN,
    RIGID,
    MotionBasis,
    Pose,
    fit_basis,
    fit_pose,
    rotation_matrix,
    rotation_vector,
)
from asymtalker.models.motion.codec import LIPS_ERROR, MotionCodec, MotionCodecModel, read_points
from asymtalker.models.motion.control import PARTED_AT, PARTED_FROM, lips_parting
from asymtalker.models.motion.portrait_sheet import Grid, _Line, _share_off_border
from asymtalker.models.motion.register import Register
from asymtalker.models.motion.sheet import Layer, _targets, render, sources
from asymtalker.rollout import Chunk
from asymtalker.timeline import live_span
from drawn_face import background
from moving_face import SIDE, mesh_points, motion_network, moving, opened, textured_face


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return textured_face()


@pytest.fixture(scope="module")
def points(picture) -> np.ndarray:
    return mesh_points(picture)


@pytest.fixture(scope="module")
def network(points) -> MotionCodecModel:
    """Fitted to that face, its painter not trained."""
    return motion_network(points)


@pytest.fixture
def codec(network) -> MotionCodec:
    return MotionCodec(network)


@pytest.fixture(scope="module")
def portrait(network, picture, points):
    return network.portrait(picture, points)


def at(network, points: torch.Tensor) -> torch.Tensor:
    return network.motion.motion(points, (SIDE, SIDE))


def test_a_pose_is_found_again(points):
    face = torch.from_numpy(points - points.mean(0)) / 100
    wanted = Pose(torch.tensor(90.0), rotation_matrix(torch.tensor([0.2, -0.3, 0.1])), torch.tensor([70.0, 80.0, 5.0]))
    found = fit_pose(wanted.apply(face), face, torch.ones(478))
    torch.testing.assert_close(found.scale, wanted.scale)
    torch.testing.assert_close(found.rotation, wanted.rotation, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.place, wanted.place, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.inverse(wanted.apply(face)), face, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotation_vector(found.rotation), torch.tensor([0.2, -0.3, 0.1]), atol=1e-5, rtol=0)


def test_latents_hold_the_motion(network, points):
    motion = at(network, moving(points, 7)[None])
    latents = network.motion.of_motion(motion)
    assert latents.shape == (1, 10, 11, 1, 1)
    again = network.motion.to_motion(latents)
    spread = (motion - motion.mean(1)).std()
    assert (again - motion).abs().mean() < 0.15 * spread
    same = network.motion.to_motion(network.motion.of_motion(again))[:, 1:]  # the first frame's latent holds it alone
    torch.testing.assert_close(same, again[:, 1:], atol=1e-4, rtol=0, msg="frames are other ones")
    assert latents.std(2).mean() == pytest.approx(1, abs=0.6), "latents are of the order of 1 within a clip"


def test_latents_are_causal_and_begin_with_one_frame(network, points):
    motion = at(network, moving(points, 7)[None])
    latents = network.motion.of_motion(motion)
    torch.testing.assert_close(network.motion.of_motion(motion[:, :9]), latents[:, :, :3])
    still = network.motion.of_motion(motion[:, :1].expand(-1, 9, -1))
    torch.testing.assert_close(still, still[:, :, :1].expand_as(still))


def test_a_basis_tells_how_people_move_not_who_they_are(points):
    """Two faces of other shape, each of which only opens its mouth: one number tells all of it."""
    wide = points * np.array([1.2, 1, 1], np.float32)
    clips = [torch.from_numpy(np.stack([opened(p, 3 * (k % 5)) for k in range(20)])) for p in (points, wide)]
    basis = MotionBasis(1, 4)
    assert fit_basis(basis, clips, [(SIDE, SIDE)] * 2, [1.0] * 2)["expression"] > 0.9
    moved = basis.modes[..., 0].norm(dim=-1)
    assert set(moved.topk(7).indices.tolist()) <= set(INNER_LIPS)


def test_an_unmoved_portrait_is_the_picture(network, portrait, picture):
    frame = to_frames(network.frames(portrait, portrait.motion[None])[:, :, None])[0]
    assert np.abs(frame.astype(int) - picture).mean() < 1


def test_the_head_goes_where_its_pose_goes_and_what_is_far_from_it_stays(network, portrait, points, picture):
    moved = at(network, torch.from_numpy(points + np.float32([6, -3, 0]))[None])
    frame = to_frames(network.frames(portrait, moved)[:, :, None])[0].astype(int)
    x, y = points[4, :2].round().astype(int)
    nose = (slice(y - 12, y + 12), slice(x - 12, x + 12))
    there = (slice(y - 15, y + 9), slice(x - 6, x + 18))
    assert np.abs(frame[there] - picture[nose]).mean() < 0.3 * np.abs(frame[nose].astype(int) - picture[nose]).mean()
    for edge in (np.s_[-2:], np.s_[:8, :8], np.s_[:8, -8:]):
        assert np.abs(frame[edge] - picture[edge]).mean() < 2


def test_what_the_border_cuts_is_drawn_out_not_repeated(network, picture, points):
    """A head that comes down in a picture that ends at its forehead: rows of hair, none of them twice."""
    top = int(points[10, 1]) - 12
    cut, lower = np.ascontiguousarray(picture[top // 2 * 2 :]), points - np.array([0, top // 2 * 2, 0], points.dtype)
    cut = np.random.default_rng(0).integers(0, 255, cut.shape, np.uint8) // 4 + cut // 2  # rows that can be told apart
    portrait = network.portrait(cut, lower)
    motion = portrait.motion.clone()[None]
    components = network.motion.components
    motion[0, components + 2] += 0.1 * network.motion.gains[2]  # a tenth of the eyes' distance down
    columns = slice(int(lower[:468, 0].min()), int(lower[:468, 0].max()))
    before, after = (
        to_frames(frame[:, :, None])[0, :8, columns].astype(float)
        for frame in (portrait.picture, network.frames(portrait, motion))
    )
    steps = [np.abs(np.diff(rows, axis=0)).mean((1, 2)) for rows in (before, after)]
    assert (steps[1] > 0.25 * steps[0]).all()


def test_what_is_near_a_border_goes_less_with_the_head_but_for_the_face():
    """Places in a picture of 100 x 200 pixels, beside each of its borders and in its middle."""
    places = np.float32([[100, 1], [199, 50], [1, 50], [100, 99], [100, 50], [-1, 50]])
    far = np.float32([[100, 1000], [101, 1000], [100, 1001]])
    eased = 3 * (1 / 30) ** 2 - 2 * (1 / 30) ** 3
    np.testing.assert_allclose(_share_off_border(places, far, 30, (100, 200)), [*[eased] * 4, 1, 0], atol=1e-5)
    for place in places[:4]:
        ring = place + np.float32([[0, 1], [0, 1.1], [0.1, 1.1]]) * np.sign(np.float32([100, 50]) - place + 1e-3)
        beside = _share_off_border(place[None], ring, 30, (100, 200))
        np.testing.assert_allclose(beside, [0.5], atol=0.06, err_msg="halfway to the face")
    line = np.float32([[50, 20], [150, 20], [150, 90], [50, 90]])
    along = np.stack([np.linspace(60, 140, 60), np.full(60, 8)], 1).astype(np.float32)
    assert np.ptp(_share_off_border(along, line, 30, (100, 200))) < 0.06, "scalloped between the outline's corners"


@pytest.mark.parametrize("shut", [0.3, 1.0])
def test_the_way_back_is_found_where_lids_that_shut_draw_skin_out(network, portrait, points, shut):
    motion = at(network, torch.from_numpy(points))[None]
    motion[:, -2] += 0.15 * network.motion.gains[-2]  # the head turns
    change, _ = network.change(portrait, motion, torch.tensor([shut]))
    sheet, moved = portrait.sheet, change.of(portrait.sheet).above
    target = _targets(sheet, slice(0, sheet.rows), slice(0, sheet.columns), sheet.cell)
    assert 1 + moved[:, 1].diff(dim=1).amax() / sheet.cell > 1 + 2 * shut, "nothing is drawn out"
    source = sources(sheet, sheet.above, moved, target)
    corner, size = target.new_tensor([sheet.left, sheet.top]), target.new_tensor([sheet.columns, sheet.rows])
    where = (source.permute(0, 2, 3, 1) - corner) / (size * sheet.cell) * 2 - 1
    goes = F.grid_sample(moved, where, padding_mode="border", align_corners=False)
    assert (source + goes - target).norm(dim=1).max() < 0.1 + 0.5 * shut, "pixels"


def test_beside_a_corner_of_the_mouth_the_face_is_one_piece():
    """However fast it changes there, as it does where a head is turned away: else it tears open."""
    places = np.stack(np.meshgrid(np.arange(40) + 0.5, np.arange(40) + 0.5), -1).astype(np.float32)
    own = np.stack([places[..., 0] ** 2, places[..., 1]], -1)  # of the cells
    line = _Line(np.array([10.0, 30.0]), np.array([20.0, 20.0]), np.array([[100.0, 20.0], [900.0, 20.0]]))
    level = Grid(1, 0, 0, 40, 40).at(own, line.level(places))
    above, below = (line.continued(places, own, level, 20, side) for side in (1, -1))
    cheek = np.r_[0:9, 31:40]
    assert np.abs(above - below)[19:21, cheek].max() < 0.6  # of half a pixel to both sides of the line
    assert np.abs(above - own)[19:21, cheek].max() < 0.6
    assert np.abs(above - below)[19:21, 15:25, 0].max() > 20, "the mouth does not part"
    of_one = Grid(4, 8, 8, 1, 1).at(own[9:10, 9:10], places)  # as of an eye at the frame's edge
    np.testing.assert_allclose(of_one, np.broadcast_to(own[9, 9], of_one.shape))


@pytest.mark.parametrize("stretch", [0.5, 0.8, 1.5, 2.2, 3.8])
def test_the_way_back_is_found_through_all_that_a_sheet_is_pressed_together_or_drawn_out(stretch):
    """Of the way that pixels go at most 1/101 of the stretch is left, as Chebyshev's polynomial is no larger there."""
    cells, middle = 60, 120.0
    goes = (stretch - 1) * (4 * (torch.arange(cells) + 0.5) - middle)[:, None].expand(cells, cells)  # up and down
    layer = Layer((0, 0), torch.zeros(3, cells, cells), torch.ones(1, cells, cells), torch.zeros(1))
    sheet = SimpleNamespace(cell=4, left=0, top=0)
    target = torch.stack([torch.full((9, 1), middle), torch.arange(middle - 4, middle + 5)[:, None]])[None]
    moved = torch.stack([torch.zeros(cells, cells), goes])[None]
    found = sources(sheet, layer, moved, target)  # pyright: ignore[reportArgumentType]
    wanted = middle + (target[:, 1] - middle) / stretch
    most = (target[:, 1] - wanted).abs().max() * abs(1 - stretch) / 100
    assert (found[:, 1] - wanted).abs().max() <= most + 1e-3
    torch.testing.assert_close(found[:, 0], target[:, 0], rtol=0, atol=1e-3)


def test_lips_part_without_being_stretched_over_the_mouth(network, portrait, points):
    shut, wide = at(network, torch.from_numpy(np.stack([points, opened(points, 12)])))
    change, pose = network.change(portrait, torch.stack([shut, wide]))
    _, inside = network.move_mouth(portrait, change.of(portrait.sheet), pose)
    assert inside[0].mean() < 0.02 < inside[1].mean()
    rows, columns = (inside[1, 0] > 0.5).nonzero().T
    assert rows.float().mean() == pytest.approx(48, abs=14), "the mouth lies in the middle of the painter's square"
    assert columns.float().mean() == pytest.approx(48, abs=8)


def test_a_portrait_shuts_lips_that_its_motion_leaves_ajar(network, portrait):
    parting, _ = portrait.lips
    of_shut_lips = replace(portrait, lips=(parting, torch.tensor(0.0)))
    for gap, wanted in ((0.02, 0.0), (0.2, 0.2)):
        motion = portrait.motion[None].clone()
        motion[:, : len(parting)] += gap * parting / parting.square().sum()
        change, _ = network.change(of_shut_lips, motion)
        assert float(change.expression[0, : len(parting)] @ parting) == pytest.approx(wanted, abs=0.003)


@pytest.mark.parametrize(("by", "closing"), [(12, 0.0), (12, 0.6), (0, 1.0)], ids=["speaks", "blinks", "shut"])
def test_openings_looked_up_where_they_are_seen_are_those_looked_up_everywhere(
    network, portrait, points, monkeypatch, by, closing
):
    motion = at(network, torch.from_numpy(opened(points, by) + np.float32([5, 3, 0]))[None])
    change, pose = network.change(portrait, motion, torch.tensor([closing]))
    moved = change.of(portrait.sheet)

    def made() -> list[torch.Tensor]:
        return [*render(portrait.sheet, portrait.texture, moved), *network.move_mouth(portrait, moved, pose)]

    seen = made()
    everywhere = ..., slice(None), slice(None)
    monkeypatch.setattr("asymtalker.models.motion.sheet._seen", lambda *_: (everywhere, everywhere))
    for part, whole in zip(seen, made(), strict=True):
        torch.testing.assert_close(part, whole, atol=2 / 255, rtol=0)


def test_pixels_have_gradients_to_the_latents(network, codec, points, picture):
    latents = network.motion.of_motion(at(network, moving(points, 3, 5)[None])).requires_grad_()
    pixels = codec.decode(latents, to_pixels(picture[None]))
    assert pixels.shape == (1, 3, 5, SIDE, SIDE)
    (gradient,) = torch.autograd.grad(pixels[:, :, 4].square().mean(), latents)
    step = 1e-2 * gradient / gradient.norm()

    def value(latents: torch.Tensor) -> float:
        return float(codec.decode(latents, to_pixels(picture[None]))[:, :, 4].double().square().mean())

    with torch.no_grad():
        slope = (value(latents + step) - value(latents - step)) / 0.02
    assert slope == pytest.approx(float(gradient.norm()), rel=0.3)


def test_pictures_correct_what_the_mesh_misreads(network, portrait, points):
    truth = at(network, moving(points, 5, 9))
    first = network.frames(portrait, truth[:1])
    found = network.portrait(to_frames(first[:, :, None])[0], moving(points, 5, 9)[0].numpy())
    register = Register(network.motion, found.sheet, first, truth[0])
    misread = truth[8] + 0.15 * torch.randn(len(truth[8]), generator=torch.Generator().manual_seed(0))
    corrected = register(network.frames(portrait, truth[8:]), misread)
    pose = slice(network.motion.components, None)
    assert (corrected - truth[8])[pose].norm() < 0.5 * (misread - truth[8])[pose].norm()


def test_what_is_read_of_a_video_moves_its_first_frame_to_the_others(codec, network, points, picture):
    motion = at(network, moving(points, 9, 9)[None])
    frames = codec.decode(network.motion.of_motion(motion), to_pixels(picture[None]))
    again = codec.decode(codec.encode(frames), frames[:, :, :1])

    def error(made: torch.Tensor) -> float:
        face = slice(70, 200)
        return float((made - frames)[:, :, 4:, face, face].square().mean())

    assert error(again) < 0.25 * error(frames[:, :, :1].expand_as(frames))


def test_parts_are_the_whole(codec, network, points, picture):
    latents = network.motion.of_motion(at(network, moving(points, 2, 13)[None]))
    pixels = to_pixels(picture[None])
    whole = codec.decode(latents, pixels)
    parts = list(codec.decode_frames(latents, 0, 13, pixels, None))
    assert [part.shape[2] for part in parts] == [1, 2, 4, 4, 2], "the first is there soon"
    torch.testing.assert_close(torch.cat(parts, 2), whole, atol=2e-3, rtol=0)


def test_frames_go_on_from_those_that_have_been_seen(network, codec, points, picture, monkeypatch):
    """A head that jumps where a chunk's own frames begin jumps in the frames after it alone."""
    motion = at(network, moving(points, 0, 13)[None])
    motion[:, 5:, -4] += 20 * network.motion.noise[-4]
    latents, made = network.motion.of_motion(motion), []
    monkeypatch.setattr(
        network, "frames", lambda _, motion, *__: made.append(motion) or torch.zeros(len(motion), 3, 2, 2)
    )
    list(codec.decode_frames(latents, 5, 13, to_pixels(picture[None]), None))
    given = network.motion.to_motion(latents)[0, 4, -4]
    assert abs(made[0][0, -4] - given) < 0.2 * 20 * network.motion.noise[-4], (
        "the first frame is not where the last was"
    )


def test_a_head_that_grows_stays_where_it_is_in_a_picture_of_any_frame(network, points):
    """Moved in its crop, and seen in a picture whose middle is elsewhere and which is larger."""
    basis, size = network.motion, (SIDE, SIDE)
    grown = points[4] + 1.1 * (points - points[4]) + np.float32([3, -2, 0])
    large = 2 * points + np.float32([300, 100, 0])
    start, made = (basis.motion(torch.from_numpy(p), size) for p in (points, grown.astype(np.float32)))
    rest = basis.motion(torch.from_numpy(large), (900, 1200))
    seen = basis.seen_from(made[None, None], start[None], rest[None])[0, 0]
    wanted = basis.motion(torch.from_numpy(2 * grown.astype(np.float32) + np.float32([300, 100, 0])), (900, 1200))
    poses = [basis.split(motion, (900, 1200))[1] for motion in (seen, wanted)]
    torch.testing.assert_close(poses[0].place, poses[1].place, atol=0.05, rtol=0)
    torch.testing.assert_close(poses[0].scale, poses[1].scale, rtol=1e-4, atol=0)


def test_a_turned_head_turns_about_its_own_origin(network, portrait, points):
    """Where the sheet takes its cells is where a rigid turn takes the mesh's points beside them."""
    turn = rotation_matrix(torch.tensor([0.0, 0.35, 0.0])).numpy()
    middle = points.mean(0)
    turned = ((points - middle) @ turn.T + middle).astype(np.float32)
    change, _ = network.change(portrait, at(network, torch.from_numpy(turned))[None])
    sheet, rigid = portrait.sheet, list(RIGID)
    cells = ((torch.from_numpy(points[rigid, :2]) - torch.tensor([sheet.left, sheet.top])) / sheet.cell).long()
    places = sheet.above.place[:, cells[:, 1], cells[:, 0]].T
    apart = places @ change.turn[0].T + change.shift[0] - places - torch.from_numpy(turned - points)[rigid]
    assert apart[:, :2].mean(0).abs().max() < 0.5


def test_a_clip_counts_by_its_weight(points):
    clips = [
        torch.from_numpy(np.stack([opened(points, s * (k % 5)) + np.float32([w * k, 0, 0]) for k in range(20)]))
        for s, w in ((3, 0.1), (1, 0.4))
    ]
    fitted = []
    for given, weights in ((clips, [2.0, 1.0]), ([clips[0], *clips], [1.0, 1.0, 1.0])):
        basis = MotionBasis(2, 4)
        fit_basis(basis, given, [(SIDE, SIDE)] * len(given), weights)
        fitted.append(basis)
    for name in ("gains", "spread"):
        torch.testing.assert_close(getattr(fitted[0], name), getattr(fitted[1], name), rtol=1e-3, atol=1e-5)


def test_a_whole_picture_moves_as_its_crop_does(codec, network, points, picture):
    """Latents of the crop, shown in the picture that it was cut out of."""
    whole = background(400, 360)
    whole[90 : 90 + SIDE, 60 : 60 + SIDE] = picture
    start = at(network, torch.from_numpy(points)[None, None]).expand(1, 5, -1)
    identity = network.motion.of_motion(start)
    moved = at(network, torch.from_numpy(points + np.float32([5, 0, 0]))[None, None]).expand(1, 5, -1)
    latents = network.motion.of_motion(moved)
    shown = to_frames(codec.decode(latents, to_pixels(whole[None]), identity))[4].astype(int)
    alone = to_frames(codec.decode(latents, to_pixels(picture[None]), identity))[4].astype(int)
    face = (slice(80, 190), slice(80, 180))
    assert shown.shape == (400, 360, 3)
    assert np.abs(shown[90 : 90 + SIDE, 60 : 60 + SIDE][face] - alone[face]).mean() < 6
    assert np.array_equal(shown[:20], whole[:20]), "far from the face nothing moves"


def test_a_portrait_of_parted_lips_is_one_of_lips_at_rest(codec, network, points, picture, monkeypatch):
    """The network is told of lips that are shut, and where it leaves them so they are seen shut."""
    basis, pixels, read = network.motion, to_pixels(picture[None]), opened(points, 12)
    repeated = pixels.expand(-1, -1, 5, -1, -1)
    parting, usual = lips_parting(basis, basis.face)
    read[UPPER_LIP, 1] -= 4  # as no expression of this basis parts them
    codec.note_face(picture, read)
    own = at(network, torch.from_numpy(read))
    assert usual + own[:-6] @ parting > PARTED_AT
    latents = codec.encode(repeated)
    resting = basis.to_motion(latents)
    assert (usual + resting[..., :-6] @ parting).abs().max() < PARTED_FROM
    torch.testing.assert_close(codec.encode(pixels), latents[:, :, :1])

    shown = []
    monkeypatch.setattr(network, "frames", lambda *given: shown.append(given) or torch.zeros(1, 3, SIDE, SIDE))
    codec.decode(latents, pixels, latents)
    portrait, motion, *_ = shown[0]
    gap = portrait.lips[1] + (motion - portrait.motion)[:, :-6] @ portrait.lips[0]
    assert gap.abs().max() < 0.01

    codec.note_face(picture, opened(points, -3))
    shut = at(network, torch.from_numpy(opened(points, -3))).expand(1, 5, -1)
    torch.testing.assert_close(codec.encode(repeated), basis.of_motion(shut))


def test_continuity_is_the_last_frames_as_a_chunk_begins(codec, network, points):
    motion = at(network, moving(points, 4, 21)[None])
    latents = network.motion.of_motion(motion)
    head = codec.encode_again(latents, range(16, 21), 0, lambda: pytest.fail("frames need not be looked at"))
    expected = network.motion.of_motion(network.motion.without_steps(network.motion.to_motion(latents), 0)[:, -5:])
    torch.testing.assert_close(head, expected)
    assert head.shape[2] == 2
    earlier = codec.encode_again(latents, range(6, 11), 5, lambda: pytest.fail("frames need not be looked at"))
    motions = network.motion.without_steps(network.motion.to_motion(latents), 5)
    torch.testing.assert_close(earlier, network.motion.of_motion(motions[:, 6:11]))


def test_a_short_chunk_goes_on_from_the_head_as_it_was_seen(codec, network, points, picture, monkeypatch):
    """Six frames past a join, as in a live session, a head that began elsewhere is not there yet: the next chunk is
    told of where it is."""
    motion = at(network, moving(points, 0, 13)[None])
    motion[:, 5:, -4] += 20 * network.motion.noise[-4]
    latents, shown = network.motion.of_motion(motion), []
    monkeypatch.setattr(network, "frames", lambda _, made, *__: shown.append(made) or torch.zeros(len(made), 3, 2, 2))
    chunk = Chunk(live_span(3, 45, 6, 13, 5), latents, codec, Identity(), to_pixels(picture[None]))
    list(chunk.shown())
    head = chunk.continuity(live_span(4, 51, 6, 13, 5))
    seen = torch.cat(shown)[1:6][None]  # frames 46 to 50
    torch.testing.assert_close(head, network.motion.of_motion(seen))
    there = network.motion.to_motion(latents)[0, 10, -4]
    assert (there - seen[0, -1, -4]).abs() > 0.5 * 20 * network.motion.noise[-4]


def test_a_real_chunk_goes_on_from_where_another_head_is(codec, network, points):
    """The pose of the continuity's last frame there, the way from there on, and the face as it was; as far as the few
    channels of this basis hold it."""
    basis, components = network.motion, network.motion.components
    clips = torch.stack([at(network, moving(points, seed)[:21]) for seed in range(4)])
    real, other = basis.of_motion(clips).split(2)
    given = other[:, :, :2]
    there, made, before = (basis.to_motion(each) for each in (codec.going_on_from(real, given), given, real))
    (faces, poses), (_, wanted), (face, pose) = (each.split([components, 6], -1) for each in (there, made, before))
    far = (wanted[:, 4] - pose[:, 4]).norm(dim=-1)
    assert far.min() > 0.5
    assert ((poses[:, 4] - wanted[:, 4]).norm(dim=-1) < 0.2 * far).all()
    ways = (poses - poses[:, 4:5]) - (pose - pose[:, 4:5])
    assert (ways.norm(dim=-1).mean(1) < 0.2 * far).all()
    assert ((faces - face).norm(dim=-1).mean(1) < 0.2 * far).all()
    same = codec.going_on_from(real, real[:, :, :2])[:, :, 1:]
    torch.testing.assert_close(same, real[:, :, 1:], atol=1e-4, rtol=0)


def test_the_teachers_losses_compare_motion_and_how_far_lips_are_parted(codec, network, points):
    basis = network.motion
    latents = basis.of_motion(at(network, moving(points, 4, 21)[None])).requires_grad_()
    motion = basis.to_motion(latents)[0].detach()
    compared = codec.compared(latents)
    assert compared.shape == (1, basis.components + 7, 21, 1, 1)
    torch.testing.assert_close(compared[0, :-1, :, 0, 0].T * basis.noise, motion)
    way = basis.face[LOWER_LIP] - basis.face[UPPER_LIP]
    moved = torch.einsum("nck,fk->fnc", basis.modes, motion[:, : basis.components])
    parted = (moved[:, LOWER_LIP] - moved[:, UPPER_LIP]) @ (way / way.norm())
    assert parted.std() > 0.02
    torch.testing.assert_close(compared[0, -1, :, 0, 0] * LIPS_ERROR, parted)
    compared[0, -1, 7].sum().backward()
    assert [t for t in range(6) if latents.grad[:, :, t].any()] == [2]


def test_lost_frames_lie_between_their_neighbours(picture):
    frames = np.stack([picture, picture + 0, picture * 0, np.roll(picture, 4, 1)])
    points = read_points(frames)
    assert np.array_equal(points[0], points[1])
    np.testing.assert_allclose(points[2], (points[1] + points[3]) / 2, atol=1e-3)
    begun = read_points(frames[2:])
    assert np.array_equal(begun[0], begun[1]), "the nearest is held"
    with pytest.raises(UserError, match="No face was found"):
        read_points(frames[2:3])
    lost = np.stack([picture, picture * 0, picture * 0 + 9])
    with pytest.raises(UserError, match="only 1 of 3 frames"):
        read_points(lost)


def test_saved_and_loaded_is_the_same(tmp_path, network, portrait, points):
    network.save_pretrained(tmp_path / "vae")
    loaded = load_codec_network(tmp_path / "vae")
    assert isinstance(codec_of(loaded), MotionCodec)
    motion = at(network, torch.from_numpy(opened(points, 8))[None])
    assert torch.equal(loaded.frames(portrait, motion), network.frames(portrait, motion))


def test_only_the_mouth_is_painted(network, portrait, points):
    """What a painter adds lies inside the mouth, wherever the head is."""
    motion = at(network, torch.from_numpy(opened(points, 12) + np.float32([8, 4, 0]))[None])
    change, _ = network.change(portrait, motion)
    bare, _ = render(portrait.sheet, portrait.texture, change.of(portrait.sheet))
    network.painter.out.bias.fill_(0.5)
    try:
        painted = network.frames(portrait, motion)
    finally:
        network.painter.out.bias.zero_()
    sheet = portrait.sheet
    left, top = sheet.left, sheet.top
    part = painted[:, :, top : top + bare.shape[2], left : left + bare.shape[3]]
    bare = bare[:, :, : part.shape[2], : part.shape[3]]
    rows, columns = ((part - bare).abs().amax(1)[0] > 0.1).nonzero().T
    middle = points[[13, 14], :2].mean(0) + np.array([8, 4 + 6])
    assert len(rows) > 20
    assert float(columns.float().mean()) + left == pytest.approx(middle[0], abs=4)
    assert float(rows.float().mean()) + top == pytest.approx(middle[1], abs=5)
    assert (rows + top - middle[1]).abs().max() < 20, "the skin around the mouth is painted"
    assert (columns + left - middle[0]).abs().max() < 28, "the skin around the mouth is painted"


def test_a_motion_stands_for_what_it_changes_alone(network, portrait):
    """A sheet that is not moved asks nothing of the basis' mean."""
    change, _ = network.change(portrait, portrait.motion[None])
    torch.testing.assert_close(change.turn[0], torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(change.shift[0, :2], torch.zeros(2), atol=1e-3, rtol=0)
    assert torch.equal(change.expression, torch.zeros_like(change.expression))


def test_where_a_portrait_is_looked_up_is_not_rounded(network, portrait, points):
    """The painter alone runs in the narrower type: places in it would be off by pixels."""
    motion = at(network, torch.from_numpy(opened(points, 12) + np.float32([8, 4, 0]))[None])
    exact, narrow = network.frames(portrait, motion), network.frames(portrait, motion, torch.bfloat16)
    torch.testing.assert_close(narrow, exact, atol=1e-3, rtol=0)  # the painter adds nothing yet


def test_patches_of_a_motion_are_refused(codec):
    assert codec.cells((480, 640), (1, 1, 1)) == (1, 1)
    with pytest.raises(UserError, match="patch-size must be 1 1 1"):
        codec.cells((480, 640), (1, 2, 2))


def test_steps_between_latents_are_spread_and_motion_that_is_meant_stays(network):
    basis, noise = network.motion, network.motion.noise
    time = torch.arange(25)[None, :, None] / 25
    smooth = time * noise
    torch.testing.assert_close(basis.without_steps(smooth, 0), smooth)
    stepped = smooth.clone()
    stepped[:, 9:] += 0.5 * noise  # where the third latent's frames begin
    mended = basis.without_steps(stepped, 0)
    largest = [motion.diff(dim=1).abs().amax((0, 1)) / noise for motion in (mended, stepped)]
    assert (largest[0] < 0.6 * largest[1]).all()
    torch.testing.assert_close(mended[:, :5], stepped[:, :5])
    torch.testing.assert_close(mended[:, 13:], stepped[:, 13:])
    jerk = smooth.clone()
    jerk[:, 1:] += 0.5 * noise
    begun = basis.without_steps(jerk, 0)
    torch.testing.assert_close(begun[:, 0], jerk[:, 0], msg="a video does not begin with its portrait")
    torch.testing.assert_close(begun[:, 6:], jerk[:, 6:])
    assert (begun.diff(dim=1).abs().amax((0, 1)) < 0.6 * jerk.diff(dim=1).abs().amax((0, 1))).all()
    seen = basis.without_steps(stepped, 9)
    torch.testing.assert_close(seen[:, :9], stepped[:, :9], msg="frames that have been seen change")
    torch.testing.assert_close(seen[:, 12:, :-6], stepped[:, 12:, :-6])
    torch.testing.assert_close(basis.without_steps(stepped, 13)[:, :13], stepped[:, :13], msg="seen frames change")
    trembling = smooth + 0.3 * (-1) ** torch.arange(25)[None, :, None] * noise
    calm = basis.without_steps(trembling, 9)
    torch.testing.assert_close(calm[:, :9], trembling[:, :9], msg="frames that have been seen change")
    tremble = [(motion - smooth)[0, 12:-1, -6:].diff(dim=0).abs().mean() for motion in (calm, trembling)]
    assert tremble[0] < 0.4 * tremble[1], "heads tremble"
    longer = torch.arange(45)[None, :, None] / 25 * noise
    longer[:, 9:] += 0.5 * noise
    off = (basis.without_steps(longer, 9) - longer)[0, :, -6:] / noise[-6:]
    assert off[9].abs().min() > 0.4, "a head that is drawn elsewhere does not begin where it was"
    assert off[9:].diff(dim=0).abs().max() < 0.03, "it slides there"
    torch.testing.assert_close(off[9 + JOIN :], torch.zeros_like(off[9 + JOIN :]), atol=1e-5, rtol=0)
    moved = torch.arange(45)[None, :, None] / 25 * noise
    moved[:, 1:] += 0.5 * noise  # after a window of one frame
    off = (basis.without_steps(moved, 1) - moved)[0, :, -6:] / noise[-6:]
    assert (off[12].abs() > 0.2).all(), "a chunk with a single frame given is taken for a video's first"
    assert (seen[:, 8:].diff(dim=1).abs().amax((0, 1)) < 0.6 * stepped.diff(dim=1).abs().amax((0, 1))).all()
    blink = smooth.clone()
    blink[:, 9:13] += 10 * noise  # lids that close and open again, and a head that jumps
    change = basis.without_steps(blink, 0) - blink
    assert (change[..., -6:] / noise[-6:]).abs().max() > 4
    eased = torch.zeros(25, basis.components)
    silent = torch.eye(basis.components) - basis.speech().T  # what is said comes at once, lids take some frames
    eased[[8, 9, 12, 13]] = torch.tensor([1, -1, -1, 1])[:, None] * 10 / 3 * noise[:-6] @ silent
    assert ((change[0, :, :-6] - eased) / noise[:-6]).abs().max() < 0.4


@pytest.mark.parametrize(("begin", "before"), [(0, 1 / 3), (9, 0)])
def test_lids_take_some_frames_where_chunks_meet_too(begin, before):
    """Of the bundled basis, whose expressions are not all of speech."""
    basis = load_codec_network(Path(asymtalker.__file__).parent / "assets" / "tiny" / "vae").motion
    silent = torch.eye(basis.components) - basis.speech().T
    shut = 1000 * basis.noise[:-6] @ silent
    motion = torch.zeros(1, 25, basis.components + 6)
    motion[:, 9:13, :-6] = shut
    seen = basis.without_steps(motion, begin)[0, :, :-6] @ shut / shut.square().sum()
    torch.testing.assert_close(seen[7:11], torch.tensor([0.0, before, 2 / 3, 1.0]), atol=0.02, rtol=0)
