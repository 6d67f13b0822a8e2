"""Each stage alone, on one clip: it finds its fault, and nothing in what is sound."""

from types import SimpleNamespace

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asymtalker.curate.collect import Given, list_videos, local_copy
from asymtalker.curate.corruption import sound_faults
from asymtalker.curate.cuts import Changes, ChangeScores, cut_frames, find_spans, frozen_seconds
from asymtalker.curate.decide import failed_limit, speaking_margins
from asymtalker.curate.duplicates import Print, find_duplicates, picture_hash, sound_prints, without_borders
from asymtalker.curate.faces import crop_path
from asymtalker.curate.hands import is_over
from asymtalker.curate.lips import SHORTEST, LipSync, find_offset, project, sync_scores, video_offset
from asymtalker.curate.people import held_out_people, tell_apart
from asymtalker.curate.picture import covered, longest, sharpness
from asymtalker.curate.recipe import RECIPES, Recipe, read_recipe
from asymtalker.curate.run import that_tell_sync
from asymtalker.curate.voice import denoised, gain_to, loudness
from asymtalker.errors import UserError
from asymtalker.media.video import read_video, write_video

RATE = 16_000


def speech(seed: int, seconds: float = 6.0) -> np.ndarray:
    """Syllables of a voice with a pitch of its own, with pauses."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = np.cumsum(rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))) / RATE
    voice = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 20))
    knots = rng.uniform(0, 1, round(seconds * 5)) ** 2 * (rng.uniform(size=round(seconds * 5)) > 0.25)
    loud = np.interp(time * 5, np.arange(len(knots)), knots)
    colour = rng.uniform(0.2, 1, (8, len(knots)))
    tilt = sum(np.interp(time * 5, np.arange(len(knots)), colour[k]) * np.sin(2 * np.pi * 300 * (k + 1) * time)
               for k in range(8))  # fmt: skip
    sound = loud * (voice + 0.5 * tilt) + 1e-4 * rng.standard_normal(len(time))
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


def fails(samples: np.ndarray) -> str:
    """The sound filter that rejects it."""
    return failed_limit(sound_faults(samples), RECIPES["tiny"], ("clipped", "dropout", "silence", "snr"))[0]


@pytest.mark.parametrize("seed", range(5))
def test_faults_of_sound(seed):
    sound, rng = speech(seed), np.random.default_rng(seed)
    assert fails(sound) == ""
    assert fails(np.clip(20 * sound, -1, 1)) == "clipped"
    assert fails(sound + float(np.std(sound)) * rng.standard_normal(len(sound)).astype(np.float32)) == "snr"
    assert sound_faults(np.where(np.arange(len(sound)) < 10_000, sound, 0))["silence"] > 0.65
    cut = sound.copy()
    for place in np.argsort(-np.abs(sound))[:3]:
        cut[max(0, place - 800) : place + 800] = 0
    assert fails(cut) == "dropout"


def encoded(folder, frames: np.ndarray, sound: np.ndarray, rate: int = 60_000) -> tuple[np.ndarray, np.ndarray]:
    """Frames and sound as a small video file has them."""
    write_video(folder / "whole.mp4", frames, sound)
    with av.open(str(folder / "whole.mp4")) as old, av.open(str(folder / "small.mp4"), "w") as new:
        video, audio = new.add_stream("libx264", rate=25), new.add_stream("aac", rate=RATE, layout="mono")
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        video.bit_rate, audio.bit_rate = rate, 32_000
        for frame in old.decode(*old.streams):
            if isinstance(frame, av.VideoFrame):
                frame.pict_type = av.video.frame.PictureType.NONE
            new.mux((video if isinstance(frame, av.VideoFrame) else audio).encode(frame))
        for stream in (video, audio):
            new.mux(stream.encode(None))
    return read_video(folder / "small.mp4")


@pytest.mark.parametrize("seed", range(3))
def test_what_is_cut_out_of_speech_is_found_behind_an_encoder_too(tmp_path, seed):
    """An encoder fills the edges of gaps, so that nothing begins or ends at once any more."""
    sound = speech(seed)
    cut = sound.copy()
    for place in np.argsort(-np.abs(sound))[:3]:
        cut[max(0, place - 800) : place + 800] = 0
    frames = np.repeat(moving_picture(0, 1), 150, 0)
    assert sound_faults(encoded(tmp_path, frames, cut)[1])["dropout"] > 0.05
    assert sound_faults(encoded(tmp_path, frames, sound)[1])["dropout"] == 0


def test_stops_of_a_synthetic_voice_are_no_dropouts():
    """Its silence is empty, at every p and t as in its pauses; a voice falls and rises in some 25 ms there."""
    time = np.arange(6 * RATE) / RATE
    loud = np.clip(8 * (0.45 + 0.5 * np.sin(2 * np.pi * 1.5 * time)), 0, 1)
    loud *= np.interp(time, (1.8, 2.0, 4.5, 4.7), (1, 0, 0, 1))  # a pause
    voice = (0.2 * np.sin(2 * np.pi * 150 * time) * np.where(loud < 0.05, 0, loud)).astype(np.float32)
    assert sound_faults(voice)["dropout"] == 0
    quick = voice.copy()
    quick[loud < 1] = 0
    assert sound_faults(quick)["dropout"] > 0.3


def test_prints_find_copies_and_parts_and_no_strangers():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 2**63, 4, dtype=np.int64).astype(np.uint64)
    same_wall = np.full(6, pictures[0])
    sounds = [speech(seed) for seed in range(4)]
    noisy = sounds[0] + 0.004 * rng.standard_normal(len(sounds[0])).astype(np.float32)
    prints = [Print(sound_prints(one), same_wall) for one in sounds]
    prints += [Print(sound_prints(noisy), same_wall), Print(sound_prints(sounds[1][2 * RATE :]), same_wall[2:])]
    prints += [Print(sound_prints(sounds[2]), np.full(6, ~pictures[0]))]
    found = find_duplicates(prints, list("abcdefg"), 0.3, 0.3, 0.5)
    assert {later: first for later, (first, _) in found.items()} == {4: 0, 5: 1}, (
        "only copies, and not another picture"
    )
    assert found[4][1]["duplicate_sound"] < 0.3


def test_copies_are_found_however_many_there_are():
    rng = np.random.default_rng(0)
    wall, sound = np.zeros(6, np.uint64), sound_prints(speech(0))
    prints = [Print(np.r_[sound[shift:], sound[:shift]], wall) for shift in rng.integers(0, 30, 90)]
    found = find_duplicates(
        [*prints, Print(sound_prints(speech(1)), wall)], [str(k) for k in range(91)], 0.3, 0.3, 0.5
    )
    assert set(found) == set(range(1, 90))
    assert {first for first, _ in found.values()} == {0}


def test_what_two_videos_have_little_of_in_common_is_no_copy():
    one, other = sound_prints(speech(0)), sound_prints(speech(1))
    wall, part = np.zeros(6, np.uint64), len(one) // 4
    prints = [Print(one, wall), Print(np.r_[one[-part:], other[part:]], wall)]
    assert find_duplicates(prints, ["a", "b"], 0.3, 0.3, 0.5) == {}
    assert find_duplicates(prints, ["a", "b"], 0.3, 0.3, 0.1).keys() == {1}


def test_the_same_source_is_the_same_video():
    prints = [Print(sound_prints(speech(seed)), np.zeros(6, np.uint64)) for seed in range(3)]
    assert {later: first for later, (first, _) in find_duplicates(prints, ["x", "y", "x"], 0.3, 0.3, 0.5).items()} == {
        2: 0
    }


def test_borders_are_no_part_of_a_picture():
    rng = np.random.default_rng(0)
    picture = np.repeat(np.repeat(rng.integers(0, 255, (12, 16, 3)), 10, 0), 10, 1).astype(np.uint8)
    framed = np.pad(picture, ((30, 30), (40, 40), (0, 0)))
    assert without_borders(framed).shape == picture.shape
    assert picture_hash(framed) == picture_hash(picture)


def moving_picture(seed: int, count: int) -> np.ndarray:
    """Frames of something that moves softly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :160]
    phases = rng.uniform(0, 6, 3)
    base = rng.integers(40, 200, 3)
    frames = [
        base + 30 * np.sin(x / 9 + 0.05 * k + phases[0])[..., None] + 20 * np.sin(y / 7 + phases[1])[..., None]
        for k in range(count)
    ]
    noise = rng.normal(0, 1.5, (count, 90, 160, 3))
    return np.clip(np.stack(frames) + noise, 0, 255).astype(np.uint8)


def changes_of(frames: np.ndarray) -> Changes:
    scores = ChangeScores()
    for frame in frames:
        scores.add(frame)
    return scores.finish()


def test_cuts_and_jumps_divide_and_motion_does_not():
    one, other = moving_picture(0, 60), moving_picture(1, 60)
    jump = np.concatenate([one[:30], np.roll(one[30:], 25, 2)])
    changes = changes_of(np.concatenate([one, other]))
    assert cut_frames(changes, Recipe()).tolist() == [60]
    assert cut_frames(changes_of(one), Recipe()).tolist() == []
    assert cut_frames(changes_of(jump), Recipe()).tolist() == [30]
    assert find_spans(changes, Recipe()) == [(0, 59, True), (61, 120, True)]
    assert find_spans(changes, Recipe(min_frames=60)) == [(0, 59, False), (61, 120, False)]
    assert find_spans(changes, Recipe(max_frames=40)) == [
        (0, 29, True), (29, 59, True), (61, 90, True), (90, 120, True)
    ]  # fmt: skip
    assert find_spans(changes, Recipe(), (0.4, 2.0)) == [(10, 50, True)]
    assert find_spans(changes, Recipe(), (3.0, np.inf)) == [(75, 120, True)]
    assert find_spans(changes, Recipe(), (4.9, 9.0)) == [(120, 120, False)], "it is not lost"


def test_a_frozen_picture_is_found():
    frames = moving_picture(0, 60)
    assert frozen_seconds(changes_of(frames).moved) == 0
    frames[20:40] = frames[20]
    assert frozen_seconds(changes_of(frames).moved) == pytest.approx(19 / 25)


@pytest.mark.parametrize("rate", [60_000, 200_000])
def test_a_frozen_picture_is_found_behind_an_encoder_that_refreshes_it(tmp_path, rate):
    frames = moving_picture(0, 75)
    noise = np.random.default_rng(0).integers(-6, 7, frames.shape)
    frames = np.clip(frames.astype(int) + noise, 0, 255).astype(np.uint8)
    silence = np.zeros(640 * len(frames), np.float32)
    assert frozen_seconds(changes_of(encoded(tmp_path, frames, silence, rate)[0]).moved) < 0.2
    frames[30:55] = frames[30]
    assert frozen_seconds(changes_of(encoded(tmp_path, frames, silence, rate)[0]).moved) > 0.5


def test_a_face_that_hardly_moves_is_not_frozen():
    moved = np.r_[0, np.full(50, 0.5), np.full(25, 2.0)]
    assert frozen_seconds(moved) == pytest.approx(2.0)
    assert frozen_seconds(np.r_[0, np.full(75, 0.5)]) == 0
    lively = np.full(76, 5.0)
    lively[20:40] = 1.0  # an encoder goes on to mend what it knows
    assert frozen_seconds(lively) == pytest.approx(20 / 25)
    refreshed = np.full(60, 2.0)
    refreshed[20:40], refreshed[30] = 0.1, 1.5
    assert frozen_seconds(refreshed) == pytest.approx(20 / 25)


def test_a_crop_stands_still_until_the_face_walks():
    rng = np.random.default_rng(0)
    boxes = np.tile([100.0, 80.0, 60.0], (200, 1)) + rng.normal(0, 1, (200, 3))
    assert np.ptp(crop_path(boxes, 0.35), axis=0).max() == 0
    boxes[:, 0] += np.linspace(0, 200, 200)
    path = crop_path(boxes, 0.35)
    assert np.abs(path[:, 0] - boxes[:, 0])[50:150].max() < 5
    assert np.abs(np.diff(path[:, 0], 2)).max() < 0.2, "smoothly"


def test_sharpness_falls_with_blur():
    import cv2

    rng = np.random.default_rng(0)
    sharp = rng.uniform(0, 255, (96, 96)).astype(np.float32)
    values = [sharpness(sharp), *(sharpness(cv2.GaussianBlur(sharp, (0, 0), sigma)) for sigma in (1, 2, 4))]
    assert values == sorted(values, reverse=True)
    assert 0 <= values[-1] < 0.3 < values[0] <= 1


def test_what_covers_a_part_of_the_face_is_seen():
    rng = np.random.default_rng(0)
    colours = rng.uniform(60, 180, (1, 100, 3)) + rng.normal(0, 2, (50, 100, 3))
    colours[30:] += 25  # the light changes
    colours[10:22, :40] = 20
    assert longest(covered(colours) > 0.16) == 12


def test_a_hand_is_over_a_face_if_some_of_it_lies_inside():
    from asymtalker.media.face_mesh import OVAL

    face = np.zeros((478, 3))
    face[list(OVAL), 0] = 100 + 40 * np.cos(np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False))
    face[list(OVAL), 1] = 100 + 50 * np.sin(np.linspace(0, 2 * np.pi, len(OVAL), endpoint=False))
    hand = np.stack([np.linspace(110, 300, 21), np.full(21, 100.0)], 1)
    assert is_over(hand, face)
    assert not is_over(hand + np.array([60, 0]), face)


@pytest.mark.parametrize("late", [-7, -1, 0, 2, 9])
def test_the_offset_of_lips_and_sound_is_found(late):
    rng = np.random.default_rng(late + 20)
    steps = np.cumsum(rng.standard_normal((140, 3)), 0)
    steps -= np.stack([np.convolve(column, np.ones(9) / 9, "same") for column in steps.T], 1)
    lips, sound = steps[30:110], steps[30 - late : 110 - late] + 0.2 * rng.standard_normal((80, 3))
    found = find_offset(lips, sound)
    assert found.offset == pytest.approx(late, abs=0.5)
    assert found.sync > 0.5
    assert find_offset(lips, rng.permutation(sound)).sync < 0.4


def test_directions_are_of_the_sizes_of_their_sides(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr("asymtalker.curate.lips.heard", lambda samples, frames: rng.standard_normal((frames, 4)))
    from asymtalker.curate.lips import LIPS_AROUND, MOUTH, SOUND_AROUND

    wide, high = 2 * len(MOUTH) * (2 * LIPS_AROUND + 1), 4 * (2 * SOUND_AROUND + 1)
    model = LipSync(np.zeros(wide), np.ones((wide, 2)), np.zeros(high), np.ones((high, 2)), np.array([2.0, 0.0]))
    lips, sound = project(model, rng.uniform(0, 100, (40, 478, 3)).astype(np.float32), np.zeros(40 * 640, np.float32))
    assert lips.shape == sound.shape == (40, 2)
    assert not lips[:, 1].any(), "a direction without weight says nothing"


def face(sync: float, offset: float, fit: float = 0.5, **scores: float) -> dict[str, float]:
    return {"sync": sync, "offset_found": offset, "fit": fit, **scores}


def test_a_videos_offset_is_that_of_its_sure_clips_and_of_who_speaks():
    spans = [[face(0.6, 5.0)], [face(0.5, 5.4)], [face(0.7, 4.8)], [face(0.1, -12.0)]]
    assert video_offset(spans) == (5.0, 0.55)
    assert video_offset([[face(0.1, 5.0)]]) == (0.0, 0.1)
    assert video_offset([[face(0.4, -9.0, fit=0.2), face(0.6, 2.0, fit=0.7)]]) == (2.0, 0.6)


def test_of_a_clip_that_is_too_short_nothing_is_said_of_lips_and_sound():
    assert sync_scores(SimpleNamespace(filled=np.zeros((SHORTEST - 1, 478, 3)), sound=np.zeros(28_160))) == {}
    margins = speaking_margins({"left": float("nan"), "right": float("nan")})
    assert failed_limit({"speaking": margins["left"]}, Recipe())[0] == "speaking"


def test_a_face_may_be_covered_for_three_frames():
    assert failed_limit({"hidden": 0.12}, Recipe()) == ("", "")
    assert failed_limit({"hidden": 0.16}, Recipe())[0] == "hidden"


def test_clips_with_something_else_wrong_say_nothing_of_lips_and_sound():
    recipe = Recipe(most_silence=0.65, least_sync=0.3)
    silent, unsure, fine = face(0.5, -11.0, silence=0.8), face(0.1, 3.0, silence=0.2), face(0.5, 2.0, silence=0.2)
    assert that_tell_sync(recipe, [[silent], [unsure], [silent, fine]]) == [[unsure], [fine]]
    assert that_tell_sync(recipe, [[silent], [face(0.1, 7.0, silence=0.8)]]) == [[silent]], "it is sure all the same"
    assert that_tell_sync(recipe, [[face(0.1, 7.0, silence=0.8)]]) == []


def test_sound_is_put_right_denoised_and_as_loud_as_asked():
    sound = speech(3)
    rng = np.random.default_rng(0)
    noisy = sound + 0.01 * rng.standard_normal(len(sound)).astype(np.float32)
    clean = denoised(noisy)
    assert len(clean) == len(noisy)
    quiet = np.convolve(np.abs(sound), np.ones(1600) / 1600, "same") < 2e-4
    assert quiet.mean() > 0.02
    assert np.std(clean[quiet]) < 0.7 * np.std(noisy[quiet])
    lags = [float(np.dot(clean[20:-20], sound[20 + lag : len(sound) - 20 + lag])) for lag in range(-20, 21)]
    assert abs(int(np.argmax(lags)) - 20) <= 3, "not late"
    gain = gain_to(clean, loudness(clean), -23.0)
    assert loudness(clean * 10 ** (gain / 20)) == pytest.approx(-23, abs=0.2)
    assert gain_to(np.full(16_000, 0.5, np.float32), -40.0, -10.0) == pytest.approx(20 * np.log10(0.98 / 0.5))
    assert gain_to(np.zeros(16_000, np.float32), loudness(np.zeros(16_000, np.float32)), -23.0) == 0


def test_people_are_told_apart_and_known_names_hold():
    rng = np.random.default_rng(0)
    faces = rng.standard_normal((3, 128)) / 8
    who = [0, 1, 0, 2, 1]
    embeddings = [faces[one] + rng.standard_normal(128) / 100 for one in who]
    videos = [f"v{index}" for index in range(5)]
    assert tell_apart(embeddings, [None] * 5, videos)[0] == ["v0", "v1", "v0", "v3", "v1"]
    assert tell_apart(embeddings, [None, None, "anna", None, None], videos)[0] == ["anna", "v1", "anna", "v3", "v1"]
    assert tell_apart([None] * 3, [None] * 3, ["a", "b", "a"]) == (["a", "b", "a"], [])
    film = tell_apart(embeddings, [None] * 5, ["film"] * 5)[0]
    assert film == ["film", "film-person2", "film", "film-person3", "film-person2"], "three people of one video"


def test_who_may_be_one_person_is_on_one_side():
    rng = np.random.default_rng(0)
    face, way = rng.standard_normal((2, 128)) / 8
    way = 0.48 * way / np.linalg.norm(way)
    names, alike = tell_apart([face, face + way, face + 2 * way, -face], [None] * 4, ["a", "b", "c", "d"])
    assert names == ["a", "b", "c", "d"]
    assert alike == [{"a", "b", "c"}, {"d"}]
    people = ["a", "b", "c", *["d"] * 9, *["e"] * 8]
    assert held_out_people(people, alike) == {"a", "b", "c"}
    assert held_out_people(["a", "b", "b", "c"], alike) == {"a", "c"}, "all alike: some are held out all the same"


def test_those_of_fewest_videos_are_held_out():
    assert held_out_people(["a"] * 5 + ["b"] * 2 + ["c"]) == {"b", "c"}
    people = [str(k) for k in range(40) for _ in range(k + 1)]
    assert held_out_people(people) == {"0", "1", "2", "3"}


def test_limits_hold_in_their_order_and_what_was_not_measured_passes():
    recipe = Recipe(least_sharpness=0.5, most_clipped=0.1)
    assert failed_limit({"sharpness": 0.6, "clipped": 0.05}, recipe) == ("", "")
    assert failed_limit({"sharpness": 0.4, "clipped": 0.2}, recipe)[0] == "sharpness"
    assert failed_limit({"clipped": 0.2}, recipe)[0] == "clipped"
    assert failed_limit({"sharpness": float("nan")}, recipe)[0] == "sharpness"
    assert failed_limit({"sharpness": 0.1}, recipe, ("clipped",)) == ("", "")
    assert speaking_margins({"a": 0.5, "b": 0.2, "c": 0.1}) == pytest.approx({"a": 0.3, "b": -0.3, "c": -0.4})
    assert speaking_margins({"a": 0.5}) == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("least_sharp = 1", "no recipe has least_sharp"),
        ('min_frames = "many"', "min_frames can't be 'many'"),
        ('base = "huge"', "base is tiny or paper, not huge"),
        ('base = ["paper"]', "base is tiny or paper, not"),
        ("least_sharpnes = 1", "did you mean least_sharpness"),
        ("min_frames = 2.5", "min_frames can't be 2.5: give a whole number"),
        ("least_sharpness = nan", 'can\'t be nan: give a number, or "none"'),
        ("size = 0", "size is 0 pixels"),
        ("max_frames = 20", "no clip has at least 25 and at most 20 frames"),
        ('networks = ["syncnett"]', "there is no network syncnett"),
        ("min_frames = ", "is not TOML"),
    ],
)
def test_a_wrong_recipe_is_said(tmp_path, text, sentence):
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_recipe(str(tmp_path / "own.toml"))


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "own.toml").write_text(
        'base = "paper"\nmost_hands = "none"\nleast_snr = 3\nlicences = ["mit"]\nunknown_licence = true\n'
        'max_frames = 200\nmissing = "stop"\nleast_sync = 0.2\nloudness = "none"\n'
    )
    recipe = read_recipe(str(tmp_path / "own.toml"))
    assert (recipe.most_hands, recipe.least_snr, recipe.licences, recipe.min_frames) == (None, 3.0, ("mit",), 81)
    assert (recipe.unknown_licence, recipe.max_frames, recipe.missing) == (True, 200, "stop")
    assert (recipe.least_sync, recipe.loudness) == (0.2, None)
    with pytest.raises(UserError, match="There is no recipe"):
        read_recipe("nothing.toml")


def test_lists_of_videos(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b.mp4", "a.mkv", "in/b.mp4", "notes.txt", "in_b.mov"):
        (tmp_path / name).touch()
    found = list_videos(str(tmp_path))
    assert [video.name for video in found] == ["a.mkv", "b.mp4", "in/b.mp4", "in_b.mov"]
    assert [video.key for video in found[:2]] == ["a", "b"]
    assert len({video.key for video in found}) == 4
    (tmp_path / "list.csv").write_text("file,start,end,id\nb.mp4,0,1,x\na.mkv,,,\nb.mp4,2.5,4,x\n")
    listed = list_videos(str(tmp_path / "list.csv"))
    assert [(video.name, video.given, video.source_id) for video in listed] == [
        ("b.mp4", (Given(0.0, 1.0), Given(2.5, 4.0)), "x"),
        ("a.mkv", (), "a.mkv"),
    ]
    assert listed[0].path == f"{tmp_path}/b.mp4"
    for wrong in ("file,start,end\nb.mp4,3,1\n", "name\nb.mp4\n", "file,start,end\nb.mp4,soon,1\n"):
        (tmp_path / "wrong.csv").write_text(wrong)
        with pytest.raises(UserError, match=r"row 1"):
            list_videos(str(tmp_path / "wrong.csv"))


def test_rows_of_one_video_are_its_clips(tmp_path, capsys):
    table = tmp_path / "list.csv"
    table.write_text("path,url,start,end,speaker,name\nb.mp4,http://x,1,2,anna,A\nb.mp4,http://y,3,,bert,A\n")
    (found,) = list_videos(str(table))
    assert found.given == (Given(1.0, 2.0, "anna"), Given(3.0, np.inf, "bert"))
    assert (found.name, found.path) == ("b.mp4", f"{tmp_path}/b.mp4"), "the first of a column's names counts"
    assert "not looked at: name, url" in capsys.readouterr().err
    for other in (
        "path,start,end,licence\nb.mp4,0,1,CC0\nb.mp4,1,2,all rights reserved\n",
        "path,start,end\nb.mp4,0,1\nb.mp4,,\n",
        "path,source_id\nb.mp4,x\nb.mp4,y\n",
    ):
        table.write_text(other)
        with pytest.raises(UserError, match=r"row 2 says something else of b\.mp4"):
            list_videos(str(table))
    (tmp_path / "list.txt").write_text("b.mp4\nb.mp4\n")
    assert len(list_videos(str(tmp_path / "list.txt"))) == 1, "the same once more says nothing new"
    pq.write_table(pa.table({"path": ["b.mp4"], "start": [None], "end": [float("nan")]}), tmp_path / "list.parquet")
    assert list_videos(str(tmp_path / "list.parquet"))[0].given == ()


def test_what_a_folder_has_besides_is_said(tmp_path, capsys):
    for name in ("a.mp4", "b.mp4", "notes.txt", "c.mts"):
        (tmp_path / name).touch()
    (tmp_path / "index.csv").write_text("file,start,end\na.mp4,0,1\na.mp4,2,3\ngone.mp4,0,1\n")
    found = list_videos(str(tmp_path))
    assert [video.given for video in found] == [(Given(0.0, 1.0), Given(2.0, 3.0)), ()]
    said = capsys.readouterr().err
    assert "2 files are no videos by their names" in said
    assert "gone.mp4, which is not there" in said
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="There is no video in"):
        list_videos(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="is a file: give the folder"):
        list_videos(str(tmp_path / "a.mp4"))


def test_long_names_are_cut_and_stay_apart(tmp_path):
    for name in ("é" * 100, "é" * 99 + "e"):
        (tmp_path / f"{name}.mp4").touch()
    keys = [video.key for video in list_videos(str(tmp_path))]
    assert len(set(keys)) == 2
    assert max(len(key.encode()) for key in keys) <= 60


def test_an_address_is_fetched_once(tmp_path):
    import fsspec

    with fsspec.open("memory://bucket/film.mp4", "wb") as file:
        file.write(b"a film")
    (found,) = list_videos("memory://bucket")
    assert found.key == "film"
    copy = local_copy(found, tmp_path / "fetched")
    assert copy.read_bytes() == b"a film"
    fsspec.filesystem("memory").rm("/bucket/film.mp4")
    assert local_copy(found, tmp_path / "fetched") == copy
    with pytest.raises(UserError, match="can't be fetched"):
        local_copy(found, tmp_path / "elsewhere")
