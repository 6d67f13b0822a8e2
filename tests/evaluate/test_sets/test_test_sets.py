import resource
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.evaluate.test_sets.lists import (
    COLUMNS,
    ListedClip,
    choose_clips,
    find_video,
    read_hdtf,
    read_list,
    read_vfhq,
)
from asymtalker.evaluate.test_sets.prepare import Benchmark, given_box, prepare_benchmark
from asymtalker.media.portrait import Placement, crop_frame
from asymtalker.media.sound import read_audio
from asymtalker.media.video import VideoWriter, probe_video, read_video
from drawn_face import background, draw_face

RATE = 32_000
BEEP = 1.52
"""Seconds."""


def write_source(path: Path, seconds: float, fps: int = 25, face: bool = True, sound: bool = True, delay: float = 0.0):
    """A video of 240 x 320 whose square at the top left tells the time (250 grey levels a second), with a beep."""
    still = background(240, 320)
    still = draw_face(still, (170, 120), 110) if face else still
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "30"})
        video.width, video.height, video.pix_fmt = 320, 240, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="stereo") if sound else None
        for index in range(round(seconds * fps)):
            picture = still.copy()
            picture[:32, :32] = 20 + round(250 * index / fps) % 200
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            samples = np.zeros((2, round((seconds - delay) * RATE)), np.float32)
            at = round((BEEP - delay) * RATE)
            samples[:, at : at + RATE // 20] = 0.6 * np.sin(np.arange(RATE // 20) * 0.3)
            block = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
            block.sample_rate, block.pts, block.time_base = RATE, round(delay * RATE), Fraction(1, RATE)
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))


def write_list(path: Path, *rows: str) -> str:
    path.write_text("\n".join(["name\tvideo\tstart\tend\tcrop", *rows]) + "\n")
    return str(path)


def table(path: Path) -> dict[str, list[str]]:
    rows = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return {row[0]: row[1:] for row in rows}


def beep_of(sound: np.ndarray) -> float:
    return int(np.flatnonzero(np.abs(sound) > 0.2)[0]) / 16_000


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_source(folder / "plain.mp4", 3)
    write_source(folder / "thirty.mkv", 3, fps=30)
    write_source(folder / "late.mkv", 2.4, delay=0.4)
    write_source(folder / "silent.mp4", 2, sound=False)
    write_source(folder / "empty.mp4", 2, face=False)
    plain = VideoWriter(folder / "truncated.mp4", (240, 320), audio_rate=16_000)  # its index comes first
    frames, sound = read_video(folder / "plain.mp4")
    for at in [*range(0, len(frames), 5)] * 3:
        plain.write(frames[at : at + 5])
        plain.write_audio(sound[640 * at :][:3200])
    plain.close()
    with (folder / "truncated.mp4").open("r+b") as file:
        file.truncate(round(0.6 * (folder / "truncated.mp4").stat().st_size))
    whole = (folder / "plain.mp4").read_bytes()
    (folder / "damaged.mp4").write_bytes(whole[: len(whole) // 2])
    return folder


def test_clips_are_cut_and_those_that_cannot_be_are_named(videos, tmp_path, capsys):
    rows = [
        "all\tplain.mp4\t\t\t",
        "cut\tplain.mp4\t0.8\t2.6\t0,0,200,200",
        "thirty\tthirty.mp4\t0.5\t2.5\t0,0,240,240",
    ]
    rows += ["late\tlate.mp4\t0.2\t2.2\t0,0,100,100@120"]
    bad = ["silent", "empty", "damaged", "truncated"]
    rows += [f"{name}\t{name}.mp4\t\t\t" for name in bad]
    rows += ["brief\tplain.mp4\t1\t1.5\t0,0,99,99", "over\tplain.mp4\t1\t6\t0,0,99,99", "gone\tgone.mp4\t\t\t"]
    out = tmp_path / "out"
    settings = Benchmark(list=write_list(tmp_path / "list.tsv", *rows), videos=videos, out=out, size=96)
    prepare_benchmark(settings)
    said = capsys.readouterr()
    assert said.out == f"{out / 'pairs.tsv'}\n"
    assert "for 1 of 11 clips" in said.err
    assert "nearest in time: 1" in said.err
    assert table(out / "missing.tsv") == {"gone": ["gone.mp4", ""]}
    reasons = {name: reason for name, [reason] in table(out / "skipped.tsv").items()}
    assert reasons.keys() == {*bad, "brief", "over"}
    truncated = ("before it should", "damaged")  # as it is cut, the end is missing or the index can't be read
    said_of = zip(
        ("sound", "face", "damaged", truncated, "0.48 s", "ends 3.0 s"), (*bad, "brief", "over"), strict=True
    )
    for parts, name in said_of:
        assert any(part in reasons[name] for part in ((parts,) if isinstance(parts, str) else parts))
    pairs = table(out / "pairs.tsv")
    assert list(pairs) == ["all", "cut", "thirty", "late"]
    for (name, (image, audio)), frames, start in zip(pairs.items(), (75, 45, 50, 50), (0, 0.8, 0.5, 0.2), strict=True):
        pictures, heard = read_video(out / "videos" / f"{name}.mp4")
        sound = read_audio(out / audio)
        assert pictures.shape == (frames, 96, 96, 3)
        assert probe_video(out / "videos" / f"{name}.mp4").audio_rate == RATE
        assert len(sound) == 640 * frames
        assert beep_of(sound) == pytest.approx(BEEP - start, abs=0.002)
        assert beep_of(heard) == pytest.approx(BEEP - start, abs=0.002)
        portrait = np.asarray(Image.open(out / image))
        assert np.abs(portrait.astype(int) - pictures[0]).mean() < 3
        if name != "all":
            times = (pictures[:, 3:7, 3:7].mean(axis=(1, 2, 3)) - 20) / 250
            error = (times - start - np.arange(frames) / 25 + 0.4) % 0.8 - 0.4
            assert np.abs(error).max() < (0.03 if name == "thirty" else 0.012)
    assert not list(out.glob(".*"))


def test_the_face_is_framed_as_a_portrait_is(videos, tmp_path):
    settings = Benchmark(
        list=write_list(tmp_path / "list.tsv", "a\tplain\t0\t1\t"), videos=videos, out=tmp_path / "out", size=64
    )
    (tmp_path / "list.tsv").write_text((tmp_path / "list.tsv").read_text().replace("plain", "plain.mp4"))
    prepare_benchmark(settings)
    portrait = np.asarray(Image.open(tmp_path / "out" / "portraits" / "a.png")).astype(int)
    skin = np.abs(portrait - (215, 165, 135)).sum(axis=2) < 60
    columns = np.nonzero(skin)[1]
    assert abs(columns.mean() - 32) < 4
    assert 22 < np.ptp(columns) < 42


def test_a_run_goes_on_where_it_was(videos, tmp_path, capsys):
    rows = ["one\tplain.mp4\t0\t1\t0,0,99,99", "two\tlate.mp4\t0\t1\t0,0,99,99"]
    settings = Benchmark(list=write_list(tmp_path / "a.tsv", *rows), videos=tmp_path, out=tmp_path / "out", size=64)
    with pytest.raises(UserError, match=r"missing\.tsv"):
        prepare_benchmark(settings)
    (tmp_path / "plain.mp4").symlink_to(videos / "plain.mp4")
    prepare_benchmark(settings)
    assert list(table(tmp_path / "out" / "pairs.tsv")) == ["one"]
    first = tmp_path / "out" / "videos" / "one.mp4"
    before = first.stat().st_mtime_ns
    (tmp_path / "late.mkv").symlink_to(videos / "late.mkv")
    (tmp_path / "plain.mp4").unlink()
    (tmp_path / "out" / ".two.cut").mkdir()
    prepare_benchmark(settings)
    assert first.stat().st_mtime_ns == before
    assert list(table(tmp_path / "out" / "pairs.tsv")) == ["one", "two"]
    assert not table(tmp_path / "out" / "missing.tsv")
    kept = read_list(str(tmp_path / "out" / "list.tsv"))
    assert kept == read_list(settings.list)
    other = Benchmark(list=settings.list, videos=tmp_path, out=settings.out, size=128)
    with pytest.raises(UserError, match="another test set"):
        prepare_benchmark(other)


def test_memory_does_not_grow_with_length(tmp_path):
    write_source(tmp_path / "long.mp4", 16)
    rows = write_list(tmp_path / "list.tsv", "long\tlong.mp4\t\t\t0,0,200,200")
    tracemalloc.start()
    prepare_benchmark(Benchmark(list=rows, videos=tmp_path, out=tmp_path / "out", size=256))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # the pictures are 79 MB


def test_a_full_disk_ends_the_run(videos, tmp_path):
    rows = write_list(tmp_path / "list.tsv", "one\tplain.mp4\t0\t1\t0,0,99,99")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(UserError, match="disk is full"):
            prepare_benchmark(Benchmark(list=rows, videos=videos, out=tmp_path / "out", size=64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "out").glob(".*"))


# Lines of github.com/MRzzm/HDTF (CC BY 4.0)
HDTF = {
    "RD_annotion_time.txt": "Radio11.mp4 00:30-01:00 01:30-02:30\nRadio15.mp4 00:35-00:45\nRadio29.mp4 00:05-01:35 \n",
    "RD_crop_wh.txt": "Radio11_0.mp4 412 599 0 599\nRadio11_1.mp4 557 478 0 478\nRadio29_0.mp4 775 507 54 507\n",
    "RD_resolution.txt": "Radio11.mp4 720\nRadio15.mp4 720\nRadio29.mp4 1080\n",
    "RD_video_url.txt": "Radio11 https://www.youtube.com/watch?v=XtySvTwIOfw\nRadio2 https://www.youtube.com/watch?v=u&t=6s\n",
    "WRA_annotion_time.txt": "JeffFlake.mp4 00:12-05:00 05:00-10:00 1:10:00-1:14:55",
    "WRA_crop_wh.txt": "JeffFlake_2.mp4 400 500 10 500",
    "WRA_resolution.txt": "JeffFlake.mp4 720",
}


def test_hdtf_annotations_are_read(tmp_path):
    for name, text in HDTF.items():
        (tmp_path / name).write_text(text)
    clips = {clip.name: clip for clip in read_list(f"hdtf:{tmp_path}")}
    assert list(clips) == ["RD_Radio11_000", "RD_Radio11_001", "RD_Radio29_000", "WRA_JeffFlake_002"]
    assert clips["RD_Radio11_001"] == ListedClip(
        name="RD_Radio11_001",
        video="RD_Radio11.mp4",
        start=90,
        end=150,
        crop=(557, 0, 478, 478),
        lines=720,
        url="https://www.youtube.com/watch?v=XtySvTwIOfw",
    )
    assert clips["RD_Radio29_000"].crop == (775, 54, 507, 507)
    assert (clips["WRA_JeffFlake_002"].start, clips["WRA_JeffFlake_002"].end) == (4200, 4495)
    (tmp_path / "RD_crop_wh.txt").write_text("Radio11_0.mp4 412 599 0\n")
    with pytest.raises(UserError, match="Radio11_0 in the RD files"):
        read_hdtf(tmp_path)
    with pytest.raises(UserError, match="no annotations of HDTF"):
        read_hdtf(tmp_path / "nowhere")


def test_vfhq_meta_info_is_read(tmp_path):
    path = tmp_path / "Clip+_-91nXXjrVo+P0+C0+F1537-1825.txt"
    path.write_text("H 720\nW 1280\nFPS 25.0\n\nCROP 410 0 890 480\n")
    [clip] = read_list(f"vfhq:{tmp_path}")
    assert clip == ListedClip(
        name="Clip+_-91nXXjrVo+P0+C0+F1537-1825",
        video="_-91nXXjrVo.mp4",
        start=61.52,
        end=73.0,
        crop=(410, 0, 480, 480),
        lines=720,
        url="https://www.youtube.com/watch?v=_-91nXXjrVo",
    )
    path.write_text("FPS 25.0\n")
    with pytest.raises(UserError, match="lines H, W, FPS and CROP"):
        read_vfhq(tmp_path)
    with pytest.raises(UserError, match="no meta info of VFHQ"):
        read_vfhq(tmp_path / "nowhere")


def test_the_choice_is_uniform_and_repeatable():
    clips = [ListedClip(name=str(index), video="a.mp4") for index in range(20)]
    assert choose_clips(clips, 5, 3) == choose_clips(clips, 5, 3) != choose_clips(clips, 5, 4)
    assert choose_clips(clips, None, 0) == choose_clips(clips, 99, 0) == clips
    counts = np.zeros(20)
    for seed in range(2000):
        chosen = [int(clip.name) for clip in choose_clips(clips, 5, seed)]
        assert chosen == sorted(set(chosen))
        counts[chosen] += 1
    assert np.abs(counts - 500).max() < 100


def test_a_list_of_another_size_of_the_video_is_scaled():
    clip = ListedClip(name="a", video="a.mp4", crop=(100, 20, 60, 80), lines=120)
    picture = np.zeros((240, 640, 3), np.uint8)
    assert crop_frame(picture, given_box(clip, 240), (64, 64)).placement == Placement(180, 40, 160, 160)
    assert crop_frame(picture, given_box(clip, 120), (64, 64)).placement == Placement(90, 20, 80, 80)


def test_videos_are_found_with_another_suffix(tmp_path):
    for name in ("a.webm", "b.c.mp4"):
        (tmp_path / name).touch()
    assert find_video(tmp_path, "a.mp4") == tmp_path / "a.webm"
    assert find_video(tmp_path, "b.c.mp4") == tmp_path / "b.c.mp4"
    assert find_video(tmp_path, "b.c") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no list of clips"),
        ("name\tfilm\n", "name, video, start"),
        ("name\tvideo\tstrat\na\ta.mp4\t1\n", "no list of clips"),
        ("name\tvideo\n", "no clips"),
        ("name\tvideo\nx\ta.mp4\nx\tb.mp4\n", "two clips with the name x"),
        ("name\tvideo\n../x\ta.mp4\n", "no file name"),
        ("name\tvideo\nx\t../a.mp4\n", "no path below"),
        ("name\tvideo\tstart\nx\ta.mp4\tsoon\n", "Line 2 .* not understood"),
        ("name\tvideo\tstart\tend\n\nx\ta.mp4\t3\t2\n", "Line 3 .* empty clip"),
        ("name\tvideo\tend\nx\ta.mp4\tinf\n", "empty clip"),
        ("name\tvideo\tcrop\nx\ta.mp4\t1,2,3\n", "left,top,width,height"),
        ("name\tvideo\tcrop\nx\ta.mp4\t1,2,0,9\n", "empty clip"),
    ],
)
def test_bad_lists_are_named(tmp_path, text, says):
    path = tmp_path / "list.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        read_list(str(path))


def test_bad_settings_are_named(videos, tmp_path):
    good = {"list": write_list(tmp_path / "a.tsv", "a\tb.mp4\t\t\t"), "videos": videos, "out": tmp_path / "out"}
    changes = ({"size": 33}, {"choose": 0}, {"seed": -1}, {"videos": tmp_path / "no"}, {"list": "no.tsv"})
    for change, says in zip(changes, ("--size", "--choose", "--seed", "no folder of videos", "no.tsv"), strict=True):
        with pytest.raises(UserError, match=says):
            prepare_benchmark(Benchmark(**(good | change)))
    assert not (tmp_path / "out").exists()
    assert COLUMNS[:2] == ("name", "video")
