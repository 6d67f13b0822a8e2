"""What is done once, what is done again, and what no failure loses."""

import json
import shutil
import tarfile
import wave
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from test_curate import run, table

from asymtalker.curate import faces, hands, watch
from asymtalker.curate import run as running
from asymtalker.curate.collect import Video
from asymtalker.curate.decide import Decided, failed_limit
from asymtalker.curate.faces import crop_path, face_scores
from asymtalker.curate.framed import FramedClip
from asymtalker.curate.masks import write_masks
from asymtalker.curate.pack import write_corpus
from asymtalker.curate.recipe import Recipe
from asymtalker.curate.report import _histogram
from asymtalker.curate.run import Curate
from asymtalker.curate.voice import loudness
from asymtalker.curate.watch import SEPARATED, VOICE, Span, framed_by
from asymtalker.curate.work import Work, once, write_record
from asymtalker.dataset.corpus import ShardWriter, decode_video, read_clips, read_manifest
from asymtalker.errors import UserError
from asymtalker.media.atomic import FULL_DISK
from asymtalker.media.face_mesh import Face, Region
from asymtalker.media.wav import decode_wav, encode_wav, read_wav
from asymtalker.timeline import SAMPLE_RATE


def tone(seed: int, seconds: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.2 * rng.standard_normal(round(seconds * SAMPLE_RATE))).astype(np.float32)


def test_another_video_of_the_same_name_is_another(drawn_videos, tmp_path):
    for folder, seed in (("one", 0), ("two", 2)):
        (tmp_path / folder).mkdir()
        shutil.copy(drawn_videos / f"drawn{seed}.mp4", tmp_path / folder / "film.mp4")
        run(tmp_path / folder, tmp_path / "corpus")
        run(tmp_path / folder, tmp_path / f"only {folder}")
        (clip,) = read_clips(tmp_path / "corpus")
        (expected,) = read_clips(tmp_path / f"only {folder}")
        assert np.array_equal(clip.frames(), expected.frames())
        assert np.array_equal(clip.audio(), expected.audio())


def test_clips_of_another_length_are_other_clips(drawn_videos, tmp_path):
    (tmp_path / "videos").mkdir()
    shutil.copy(drawn_videos / "drawn0.mp4", tmp_path / "videos")
    for most in (40, 27):
        run(tmp_path / "videos", tmp_path / "corpus", f"min_frames = 15\nmax_frames = {most}\n")
        clips = read_clips(tmp_path / "corpus")
        assert len(clips) > 1
        for clip in clips:
            assert len(clip.frames()) == clip.num_frames <= most
            assert len(clip.audio()) == 640 * clip.num_frames
    settings = framed_by(Recipe(), 0.0, Span(key="a", video=_video("a"), start=0, stop=9))
    for other in (Recipe(size=64), Recipe(follow=0.1)):
        assert framed_by(other, 0.0, Span(key="a", video=_video("a"), start=0, stop=9)) != settings


def _video(key: str) -> Video:
    return Video(key=key, path=f"{key}.mp4", name=key, source_id=key)


def test_what_fails_is_put_aside_with_its_reason_and_tried_again_when_asked(drawn_videos, tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    for seed in (0, 1):
        shutil.copy(drawn_videos / f"drawn{seed}.mp4", tmp_path / "videos")
    real = watch.decode_frames

    def failing(path, **given):
        if "drawn1" in str(path):
            raise RuntimeError("the codec gave up")
        return real(path, **given)

    monkeypatch.setattr(watch, "decode_frames", failing)
    run(tmp_path / "videos", tmp_path / "corpus")
    row = table(tmp_path / "corpus")["video drawn1"]
    assert row["rejected_by"] == "quarantined"
    assert "the codec gave up" in row["why"]
    monkeypatch.setattr(watch, "decode_frames", real)
    run(tmp_path / "videos", tmp_path / "corpus")
    assert len(read_clips(tmp_path / "corpus")) == 1
    run(tmp_path / "videos", tmp_path / "corpus", retry=True)
    assert len(read_clips(tmp_path / "corpus")) == 2
    write = watch.write_clips
    monkeypatch.setattr(watch, "write_clips", lambda *_: 1 / 0)
    with pytest.raises(UserError, match="None of the 2 videos"):
        run(tmp_path / "videos", tmp_path / "corpus", "follow = 0.5\n")
    assert len(read_clips(tmp_path / "corpus")) == 2, "the corpus is what it was"
    monkeypatch.setattr(watch, "write_clips", write)
    run(tmp_path / "videos", tmp_path / "corpus", "follow = 0.5\n", retry=True)
    assert len(read_clips(tmp_path / "corpus")) == 2


def test_a_file_that_was_not_there_is_looked_at_when_it_is(drawn_videos, tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\n")
    shutil.copy(drawn_videos / "drawn0.mp4", tmp_path / "a.mp4")
    run(tmp_path / "list.txt", tmp_path / "corpus")
    shutil.copy(drawn_videos / "drawn2.mp4", tmp_path / "b.mp4")
    run(tmp_path / "list.txt", tmp_path / "corpus")
    assert [row.key for row in read_manifest(tmp_path / "corpus")] == ["a", "b"]


def test_a_full_disk_is_no_word_on_a_video(tmp_path):
    def make():
        raise UserError("Cannot write it") from OSError(FULL_DISK[0], "full")

    with pytest.raises(UserError, match="Cannot write it"):
        once(tmp_path / "video.json", {}, make)
    assert not (tmp_path / "video.json").exists()
    (tmp_path / "video.json").write_text('{"scores": {')
    assert once(tmp_path / "video.json", {}, lambda: {"scores": {"a": 1.0}})["scores"] == {"a": 1.0}


def test_nothing_is_written_into_the_folder_of_videos_or_twice_at_once(drawn_videos, tmp_path):
    for output in (drawn_videos, drawn_videos / "corpus"):
        with pytest.raises(UserError, match="lies in"):
            running.curate(Curate(input=str(drawn_videos), output=output, licence="own"))
    with running._alone(Work(tmp_path)), pytest.raises(UserError, match="Another command is writing"):
        run(drawn_videos, tmp_path)
    with pytest.raises(UserError, match="--workers is -1"):
        run(drawn_videos, tmp_path, workers=-1)


def test_videos_from_addresses_leave_no_copies(drawn_videos, tmp_path):
    import fsspec

    for seed in (0, 2):
        with fsspec.open(f"memory://store/drawn{seed}.mp4", "wb") as file:
            file.write((drawn_videos / f"drawn{seed}.mp4").read_bytes())
    run("memory://store", tmp_path / "corpus")
    assert len(read_clips(tmp_path / "corpus")) == 2
    assert not list((tmp_path / "corpus" / "curation").rglob("*drawn?.mp4"))


def test_a_videos_offset_is_put_right_in_all_its_spans(monkeypatch, tmp_path):
    monkeypatch.setattr(running, "_video_offsets", lambda *_: {"a": (3.0, 0.6), "b": (0.4, 0.6)})
    given = []
    monkeypatch.setattr(running, "_run_on_spans", lambda *those: given.append(those[4]))
    spans = [
        Span(key=f"{key}-{n}", video=_video(key), start=n, stop=n + 1) for key, n in (("a", 0), ("a", 9), ("b", 0))
    ]
    config = Curate(input="", output=tmp_path)
    late = running._frame(config, Recipe(correct_sync=0.8), Work(tmp_path), None, spans, (VOICE,))
    assert [span.late for span in late] == [3.0, 3.0, 0.0]
    assert given[1] == late


@pytest.mark.parametrize("late", [2.0, -1.5])
def test_the_voice_is_the_videos_sound_put_right_and_as_loud_as_asked(tmp_path, late):
    film = tone(3, 6.0)
    (tmp_path / "sound.wav").write_bytes(encode_wav(film))
    (tmp_path / "clip.wav").write_bytes(encode_wav(film[16_000:80_000]))
    clip, recipe, shift = (
        FramedClip(tmp_path, (tmp_path / "sound.wav", 16_000)),
        Recipe(loudness=-30.0),
        round(640 * late),
    )
    VOICE(clip, recipe, late)
    made = decode_wav((tmp_path / "voice.wav").read_bytes())
    assert loudness(made) == pytest.approx(-30, abs=0.3)
    assert np.corrcoef(made, film[16_000 + shift : 80_000 + shift])[0, 1] > 0.999, "the video has it to the end"
    for other, moved in ((Recipe(loudness=-20.0), late), (Recipe(loudness=-30.0, denoise=True), late), (recipe, 1.0)):
        assert VOICE.record(tmp_path, other, moved) is None
    alone = FramedClip(tmp_path).moved_sound(late)
    heard = slice(None, -shift) if late > 0 else slice(-shift, None)
    assert np.array_equal(alone[heard], film_part(film, shift)[heard])
    assert not alone[heard.stop :].any() if late > 0 else not alone[: heard.start].any()


def film_part(film: np.ndarray, shift: int) -> np.ndarray:
    return decode_wav(encode_wav(film))[16_000 + shift : 80_000 + shift]


def test_a_piece_of_sound_is_silent_beyond_its_ends(tmp_path):
    (tmp_path / "sound.wav").write_bytes(encode_wav(np.full(100, 0.5, np.float32)))
    piece = read_wav(tmp_path / "sound.wav", -20, 130)
    assert not piece[:20].any()
    assert (piece[20:120] > 0.4).all()
    assert not piece[120:].any()
    assert not read_wav(tmp_path / "sound.wav", 200, 230).any()


def test_voices_with_and_without_music_lie_beside_each_other(tmp_path, monkeypatch):
    (tmp_path / "clip.wav").write_bytes(encode_wav(tone(0, 2.0)))
    monkeypatch.setitem(SEPARATED.work.keywords, "separate", lambda samples: 0 * samples)
    for stage in (SEPARATED, VOICE, SEPARATED):
        stage(FramedClip(tmp_path), Recipe(), 0.0)
    assert not decode_wav((tmp_path / "separated.wav").read_bytes()).any()
    assert decode_wav((tmp_path / "voice.wav").read_bytes()).any()


def test_more_clips_than_a_shard_holds_are_all_written(tmp_path):
    work, clips = Work(tmp_path), []
    for number in range(70):
        folder = work.span(f"c{number:02d}") / "face0"
        folder.mkdir(parents=True)
        for name in ("clip.mp4", "mask.mp4", "parsed.mp4", "voice.wav", "separated.wav"):
            (folder / name).write_bytes(name.encode())
        scores = {"sharpness": 0.5, "speaking": float("nan")}
        clips.append(
            Decided(
                key=f"c{number:02d}", video="v", source_id="v", start=50, stop=59, size=64, identity="real-a",
                split="train", scores=scores, licence="CC0", source="here",
            )
        )  # fmt: skip
    with tarfile.open(tmp_path / "shard-200000.tar", "w"):
        pass
    rows = write_corpus(ShardWriter(tmp_path), work, clips, Recipe(), {})
    assert [row.key for row in rows] == [clip.key for clip in clips]
    assert sorted({row.shard for row in rows}) == [f"shard-{100000 + number}.tar" for number in range(3)]
    assert (rows[0].licence, rows[0].source, rows[0].start) == ("CC0", "here", 2.0)
    assert json.loads(rows[0].scores, parse_constant=pytest.fail) == {"sharpness": 0.5, "speaking": None}
    (first, *_) = read_clips(tmp_path)
    assert {"voice", "faces"} <= first.info["curation"]["made_by"].keys()
    networks = Recipe(networks=("bisenet", "separation"))
    gone = dict.fromkeys(networks.networks, "gone")
    for without, names in (({}, ("parsed.mp4", "separated.wav")), (gone, ("mask.mp4", "voice.wav"))):
        write_corpus(ShardWriter(tmp_path), work, clips[:1], networks, without)
        with tarfile.open(tmp_path / "shard-100000.tar") as tar:
            written = tuple(tar.extractfile(f"c00.{suffix}").read().decode() for suffix in ("mask.mp4", "wav"))
        assert written == names
    assert not (tmp_path / "shard-100001.tar").exists(), "shards of an earlier decision go"
    assert (tmp_path / "shard-200000.tar").exists(), "those that others wrote stay"


def test_what_is_at_a_limit_holds():
    recipe = Recipe(least_sharpness=0.5, most_clipped=0.1)
    assert failed_limit({"sharpness": 0.5, "clipped": 0.1}, recipe) == ("", "")
    assert failed_limit({"offset": 6.67}, recipe)[1].startswith(
        "offset is 6.67, and at most 3 is allowed (frames by which"
    )


def test_what_a_faces_way_says():
    rng = np.random.default_rng(0)
    mesh = rng.uniform(0, 1, (478, 3)).astype(np.float32) * (40, 50, 10) + (100, 100, 0)
    points = np.stack([mesh] * 20)
    points[3] = np.nan
    points[10:, :, 0] += 30
    scores = face_scores(points, np.ones(20), (200, 125))
    assert scores["face_visible"] == 0.95
    assert 0.3 < scores["face_cut"] <= 1
    assert scores["shake"] > 0.3


def test_a_crop_follows_across_and_not_down_where_only_that_changes():
    boxes = np.tile([100.0, 80.0, 60.0], (200, 1))
    boxes[:, 0] += np.linspace(0, 200, 200)
    path = crop_path(boxes, 0.35)
    assert np.ptp(path[:, 1]) == pytest.approx(0, abs=1e-9)
    assert np.ptp(path[:, 0]) > 100


def test_a_histogram_shows_what_a_limit_rejects_in_red():
    least, most = (_histogram(np.array([0.0, 1.0]), (side, 0.5)) for side in ("least", "most"))
    assert "#c44" in least.split("<rect")[1]
    assert "#c44" not in least.split("<rect")[-1]
    assert "#c44" in most.split("<rect")[-1]


@pytest.mark.parametrize(("fps", "picture", "sound"), [(25, 0.0, 0.4), (30, 0.0, 0.4), (50, 0.4, 0.0)])
def test_a_video_is_watched_at_25_fps_by_the_files_clock(tmp_path, fps, picture, sound):
    """A sound that clicks a second after it begins, in files where sound or picture begins later."""
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as file:
        video = file.add_stream("libx264", rate=fps, options={"bf": "0"})
        audio = file.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        video.width = video.height = 64
        for index in range(2 * fps):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index + round(picture * fps), Fraction(1, fps)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        samples = np.zeros((1, 3 * SAMPLE_RATE), np.int16)
        samples[0, SAMPLE_RATE] = 30_000
        block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = (
            SAMPLE_RATE,
            round(sound * SAMPLE_RATE),
            Fraction(1, SAMPLE_RATE),
        )
        file.mux(audio.encode(block))
        file.mux(audio.encode(None))
    found = watch._watched(film, tmp_path, 0.0)
    assert found["frames"] == round((2 + picture) * 25)
    assert found["scores"]["drift"] == pytest.approx(abs(3 + sound - 2 - picture), abs=0.05)
    with wave.open(str(tmp_path / "sound.wav")) as file:
        heard = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(int)
    assert abs(np.abs(heard).argmax() - (1 + sound) * SAMPLE_RATE) < 40


def test_a_mute_video_and_a_silent_one_are_told_apart(drawn_videos, tmp_path):
    from asymtalker.media.video import read_video, write_video

    frames, samples = read_video(drawn_videos / "drawn0.mp4")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "mute.mp4", frames[:30])
    write_video(tmp_path / "videos" / "silent.mp4", frames[:30], 0 * samples[: 30 * 640])
    write_video(tmp_path / "videos" / "heard.mp4", frames, samples)
    run(tmp_path / "videos", tmp_path / "corpus")
    rows = table(tmp_path / "corpus")
    assert [rows[f"video {name}"]["rejected_by"] for name in ("mute", "silent", "heard")] == [
        "sound",
        "sound_heard",
        None,
    ]


def test_where_a_crop_leaves_the_picture_is_measured(drawn_videos, tmp_path):
    from asymtalker.media.video import read_video, write_video

    frames, samples = read_video(drawn_videos / "drawn0.mp4")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "near.mp4", frames[:, 24:-24, 24:-24], samples)
    write_video(
        tmp_path / "videos" / "wide.mp4", np.pad(frames, ((0, 0), (64, 64), (64, 64), (0, 0)), mode="edge"), samples
    )
    limits = 'most_face_cut = "none"\nduplicate_sound = 0.0\n'
    run(tmp_path / "videos", tmp_path / "corpus", limits)
    scores = {row.key: json.loads(row.scores)["outside"] for row in read_manifest(tmp_path / "corpus")}
    assert scores["near"] > 0.1
    assert scores["wide"] == 0
    run(tmp_path / "videos", tmp_path / "corpus", limits + "most_outside = 0.05\n")
    assert [row.key for row in read_manifest(tmp_path / "corpus") if row.rejected_by == "outside"] == ["near"]


def test_the_table_has_all_that_was_asked(drawn_videos, tmp_path):
    (tmp_path / "list.csv").write_text(
        f"path,start,end,speaker\n{drawn_videos}/drawn0.mp4,0,1.2,anna\n{drawn_videos}/drawn0.mp4,1.3,,bert\n"
        f"{drawn_videos}/drawn0.mp4,90,99,bert\n"
    )
    run(tmp_path / "list.csv", tmp_path / "corpus")
    rows = pq.read_table(tmp_path / "corpus" / "curation" / "clips.parquet").to_pylist()
    clips = {row["identity"]: row for row in rows if row["kind"] == "clip"}
    assert set(clips) == {"real-anna", "real-bert"}
    (lost,) = [row for row in rows if row["kind"] == "span"]
    assert "the video ends at" in lost["why"]


def decided(key: str, face: int = 0, **more) -> Decided:
    return Decided(key=key, video=key.removesuffix(f"-face{face}"), source_id=key, face=face, stop=50, size=64, **more)


def test_two_faces_that_nobody_can_tell_apart_are_two_people():
    named = list(running._named(Recipe(), [decided("pair"), decided("pair-face1", 1)]))
    assert [clip.identity for clip in named] == ["real-pair", "real-pair-face1"]


def test_who_is_in_no_clip_that_is_kept_takes_no_place_among_those_held_out():
    clips = [
        decided(f"{who}{number}", identity=who, scores={"sharpness": 0.1 if who == "eve" else 0.9})
        for who, count in (("anna", 5), ("bert", 4), ("carl", 3), ("dora", 2), ("eve", 1))
        for number in range(count)
    ]
    named = list(running._named(Recipe(), clips))
    assert {clip.identity for clip in named if clip.split == "test"} == {"real-bert", "real-carl", "real-dora"}


@pytest.mark.parametrize(("found", "sync", "expected"), [(3.0, 0.9, 0.0), (9.0, 0.9, 6.0), (9.0, 0.0, 0.5)])
def test_what_is_put_right_is_no_offset_any_more(tmp_path, monkeypatch, found, sync, expected):
    """Of a sure clip by its own offset, else by its video's, 3.5 frames."""
    work, span = Work(tmp_path), Span(key="a", video=_video("a"), start=0, stop=50, late=3.0)
    face = {"scores": {"fit": 0.5}, "size": 64, "crop": [0, 0, 9, 9]}
    write_record(work.span("a") / watch.FACES, {"faces": [face], "seconds": 1.0})
    record = {"scores": {"offset_found": found, "sync": sync}, "seconds": 0.0}
    stage = SimpleNamespace(name="lips", record=lambda *_: record)
    monkeypatch.setattr(running, "_video_offsets", lambda *_: {"a": (3.5, 0.6)})
    (clip,) = running._clips(Recipe(), work, [span], [stage])
    assert clip.scores["offset"] == pytest.approx(expected)


def test_looks_for_hands_stand_for_the_frames_between(monkeypatch):
    monkeypatch.setattr(hands, "find_hands", lambda frame: [np.zeros((21, 2))] if frame.any() else [])
    monkeypatch.setattr(hands, "is_over", lambda hand, face: True)
    frames = np.zeros((10 * hands.EVERY, 8, 8, 3), np.uint8)
    frames[2 * hands.EVERY : 5 * hands.EVERY] = 1
    clip = SimpleNamespace(frames=lambda: iter(frames), filled=np.zeros((len(frames), 478, 3)))
    assert hands.hand_scores(clip)["hands"] == pytest.approx(3 * hands.EVERY / 25)


def test_masks_go_with_the_face(tmp_path):
    rng = np.random.default_rng(0)
    mesh = rng.uniform(0, 20, (478, 3)).astype(np.float32)
    points = np.stack([mesh + np.array([4 + 3 * frame, 20, 0]) for frame in range(12)])
    clip = SimpleNamespace(folder=tmp_path, frames=lambda: iter(np.zeros((12, 64, 64, 3), np.uint8)), filled=points)
    write_masks(clip)
    masks = decode_video(str(tmp_path / "mask.mp4"), 0, 12, grey=True) > 127
    middles = [np.flatnonzero(mask.any(0)).mean() for mask in masks]
    assert np.diff(middles) == pytest.approx(3, abs=0.7)


def test_a_face_that_leaps_is_someone_else(monkeypatch):
    def at(x: float) -> Face:
        points = np.random.default_rng(0).uniform(0, 40, (478, 3)).astype(np.float32) + np.array([x, 20, 0])
        return Face(points, 1.0, Region(x + 20, 40, 60, 0.0))

    places = iter([102, 104, 180])
    monkeypatch.setattr(faces, "read_face", lambda frame, region: at(next(places)))
    track = faces.FaceTrack()
    picture = np.zeros((99, 300, 3), np.uint8)
    track.follow(picture, faces._boxed(at(100)))
    for _ in range(3):
        track.follow(picture)
    assert [mesh is not None for mesh in track.meshes] == [True, True, True, False]
