"""A corpus of real videos: framed faces, people kept apart, what can't be used said and left out, decided anew."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asymtalker.curate import watch
from asymtalker.curate.collect import Video, licence_problem, with_licence
from asymtalker.curate.recipe import RECIPES, Recipe
from asymtalker.curate.report import FUNNEL
from asymtalker.curate.run import Curate, curate
from asymtalker.dataset.corpus import ShardWriter, open_clip, read_clips, read_manifest
from asymtalker.errors import UserError
from asymtalker.media.video import read_video, write_video
from drawn_face import background


@pytest.fixture
def videos(drawn_videos, tmp_path):
    """Two videos of one person and one of another."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for seed in range(3):
        shutil.copy(drawn_videos / f"drawn{seed}.mp4", folder)
    (folder / "index.tsv").write_text("file\tspeaker\ndrawn0.mp4\tanna\ndrawn1.mp4\tanna\ndrawn2.mp4\tbert\n")
    return folder


@pytest.fixture(scope="module")
def curated(drawn_videos, tmp_path_factory):
    """A folder with ``videos`` of two people and the ``corpus`` of them, not to be written to."""
    folder = tmp_path_factory.mktemp("curated")
    (folder / "videos").mkdir()
    for seed in range(3):
        shutil.copy(drawn_videos / f"drawn{seed}.mp4", folder / "videos")
    (folder / "videos" / "index.tsv").write_text(
        "file\tspeaker\ndrawn0.mp4\tanna\ndrawn1.mp4\tanna\ndrawn2.mp4\tbert\n"
    )
    run(folder / "videos", folder / "corpus")
    return folder


DRAWN = 'most_clipped = "none"\njump_ratio = 100\nmost_jump = "none"\nmost_offset = "none"\n'
"""A tone is at its peak more often than speech, and a drawn mouth opens at once and says nothing."""


def run(videos: Path, corpus: Path, limits: str = "", **settings) -> None:
    recipe = corpus.parent / "drawn.toml"
    recipe.write_text(DRAWN + limits)
    curate(
        Curate(
            input=str(videos),
            output=corpus,
            recipe=str(recipe),
            **({"size": 128, "workers": 0, "licence": "own"} | settings),
        )
    )


def table(corpus: Path) -> dict[str, dict]:
    """The table of all videos, spans and clips by their kind and key."""
    rows = pq.read_table(corpus / "curation" / "clips.parquet").to_pylist()
    return {f"{row['kind']} {row['key']}": row for row in rows}


def state(corpus: Path) -> dict[str, bytes]:
    """What training reads."""
    return {path.name: path.read_bytes() for path in sorted(corpus.glob("*")) if path.suffix in (".tar", ".parquet")}


def test_videos_become_clips_of_people(curated):
    rows = read_manifest(curated / "corpus")
    assert [(row.key, row.identity_id, row.split, row.kind, row.rejected_by) for row in rows] == [
        ("drawn0", "real-anna", "train", "real", None),
        ("drawn1", "real-anna", "train", "real", None),
        ("drawn2", "real-bert", "test", "real", None),
    ]
    clip = open_clip(curated / "corpus", "drawn1")
    frames, masks = clip.frames(), clip.mask()
    assert len(frames) == 60
    assert frames.shape[1] == frames.shape[2] <= 128
    covered = (masks > 127).mean((1, 2))
    assert (covered > 0.1).all(), "the face fills its part of every frame"
    assert (covered < 0.6).all()
    assert len(clip.audio()) == 60 * 640


def test_all_scores_are_in_manifest_and_report(curated):
    scores = json.loads(read_manifest(curated / "corpus")[0].scores)
    wanted = {"face_visible", "sharpness", "frozen", "hidden", "hands", "clipped", "snr", "sync", "offset", "loudness"}
    assert wanted <= scores.keys()
    report = (curated / "corpus" / "report.html").read_text()
    assert "drawn2" in report
    assert {clip.row.licence for clip in read_clips(curated / "corpus")} == {"own"}
    assert {name for name, _, _ in RECIPES["paper"].limits()} <= {
        name for _, names in FUNNEL for name in names.split()
    }
    assert "sharpness" in report
    assert report.count("<svg") >= len(wanted)
    assert report.count("data:image/jpeg") == 3


def test_what_cannot_be_used_is_said_and_left_out(videos, tmp_path, capsys):
    write_video(videos / "empty.mp4", np.stack([background(160, 160)] * 30), np.zeros(19_200, np.float32) + 0.1)
    (videos / "broken.mp4").write_bytes(b"no video")
    shutil.copy(videos / "drawn0.mp4", videos / "twice.mp4")
    run(videos, tmp_path / "corpus")
    assert len(read_manifest(tmp_path / "corpus")) == 3
    said = capsys.readouterr().err
    assert "empty.mp4 is left out: no face was found in it." in said
    assert "broken.mp4 is left out" in said
    assert "twice.mp4 is left out: it is drawn0.mp4 once more." in said
    rows = table(tmp_path / "corpus")
    assert rows["video broken"]["rejected_by"] == "unreadable"
    assert rows["span empty"]["rejected_by"] == "face_visible"
    assert rows["video twice"]["rejected_by"] == "duplicate"


def test_the_same_command_does_nothing_twice(curated, tmp_path, monkeypatch):
    shutil.copytree(curated, tmp_path / "copy")
    before = state(tmp_path / "copy" / "corpus")
    monkeypatch.setattr(watch, "write_clips", None)
    monkeypatch.setattr(watch, "decode_frames", None)
    changed = {path: path.stat().st_mtime_ns for path in (tmp_path / "copy" / "corpus").glob("*.tar")}
    run(curated / "videos", tmp_path / "copy" / "corpus")
    assert state(tmp_path / "copy" / "corpus") == before
    assert {path: path.stat().st_mtime_ns for path in changed} == changed


def test_a_shard_that_is_gone_or_another_is_made_again(curated, tmp_path):
    shutil.copytree(curated, tmp_path / "copy")
    corpus = tmp_path / "copy" / "corpus"
    before = state(corpus)
    (corpus / "shard-100000.tar").unlink()
    run(curated / "videos", corpus)
    assert state(corpus) == before


def test_another_threshold_decides_anew_without_a_look_at_any_video(curated, tmp_path, monkeypatch):
    shutil.copytree(curated, tmp_path / "copy")
    corpus = tmp_path / "copy" / "corpus"
    values = {key: json.loads(row["scores"]).get("sharpness") for key, row in table(corpus).items()}
    limit = sorted(values[f"clip drawn{seed}"] for seed in range(3))[1]
    monkeypatch.setattr(watch, "write_clips", None)
    monkeypatch.setattr(watch, "decode_frames", None)
    run(curated / "videos", corpus, f"least_sharpness = {limit}\n")
    rejected = [row for row in read_manifest(corpus) if row.rejected_by]
    assert [row.rejected_by for row in rejected] == ["sharpness"]
    assert json.loads(rejected[0].scores)["sharpness"] < limit
    assert len(read_clips(corpus)) == 2
    run(curated / "videos", corpus)
    assert len(read_clips(corpus)) == 3


def test_a_corpus_that_others_wrote_keeps_their_clips(curated, toy_corpus, tmp_path):
    corpus = tmp_path / "corpus"
    shutil.copytree(toy_corpus, corpus)
    shutil.copytree(curated / "corpus" / "curation", corpus / "curation")
    run(curated / "videos", corpus)
    assert len(read_clips(corpus)) == 9
    sharp = sorted(json.loads(row.scores)["sharpness"] for row in read_manifest(corpus) if row.kind == "real")
    run(curated / "videos", corpus, f"least_sharpness = {(sharp[1] + sharp[2]) / 2}\n")
    assert len(read_clips(corpus)) == 7
    with pytest.raises(UserError, match=r"no clip was written to .* and none was removed"):
        run(curated / "videos", corpus, "least_sharpness = 1.1\n")
    assert len(read_clips(corpus)) == 7
    ShardWriter(corpus).write_manifest()
    assert sum(row.rejected_by is not None for row in read_manifest(corpus)) == 2


def test_a_folder_without_usable_videos_is_an_error(tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        run(tmp_path / "nowhere", tmp_path / "corpus")
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match="There is no video in"):
        run(tmp_path / "videos", tmp_path / "corpus")


@pytest.mark.parametrize("frames", [2, -2])
def test_sound_that_comes_late_or_early_is_put_right(curated, tmp_path, frames):
    (tmp_path / "list.txt").write_text(str(curated / "videos" / "drawn0.mp4"))
    run(tmp_path / "list.txt", tmp_path / "corpus", sound_late=frames / 25)
    (clip,) = read_clips(tmp_path / "corpus")
    moved, sound, shift = clip.audio(), open_clip(curated / "corpus", "drawn0").audio(), 640 * frames
    assert len(moved) == len(sound)
    first, second = (moved[:-shift], sound[shift:]) if frames > 0 else (moved[-shift:], sound[:shift])
    assert np.array_equal(first, second)


def test_a_table_says_licences_and_spans(curated, tmp_path):
    rows = [
        {"path": str(curated / "videos" / "drawn0.mp4"), "licence": "CC BY 4.0", "start": 0.2, "end": 1.4},
        {"path": str(curated / "videos" / "drawn1.mp4"), "licence": "all rights reserved", "start": None, "end": None},
        {"path": str(curated / "videos" / "drawn2.mp4"), "licence": " ", "start": None, "end": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "list.parquet")
    run(tmp_path / "list.parquet", tmp_path / "corpus", 'licences = ["cc-by-4.0"]\n', licence=None)
    (clip,) = read_clips(tmp_path / "corpus")
    assert clip.num_frames == 30
    assert (clip.row.licence, clip.row.source, clip.row.start) == ("CC BY 4.0", None, 0.2)
    out = [row for row in table(tmp_path / "corpus").values() if row["rejected_by"] == "licence"]
    unsaid = "nobody says its licence (--licence does, of all such videos)"
    assert sorted(row["why"] for row in out) == [
        "its licence is all rights reserved, and the recipe allows cc-by-4.0.",
        f"{unsaid}.",
    ]
    whole = open_clip(curated / "corpus", "drawn0")
    assert np.array_equal(clip.audio(), whole.audio()[5 * 640 : 35 * 640])


def test_licences():
    def video(licence):
        return Video(key="a", path="a.mp4", name="a.mp4", source_id="a", licence=licence)

    free = Recipe(licences=("CC-BY-4.0",))
    assert licence_problem(video("cc by 4.0"), free) is None
    assert (
        licence_problem(video("cc by-nc 4.0"), free) == "its licence is cc by-nc 4.0, and the recipe allows CC-BY-4.0"
    )
    assert licence_problem(video(None), free).startswith("nobody says its licence")
    assert licence_problem(video(None), Recipe(unknown_licence=True)) is None
    said = with_licence([video(None), video("CC0")], "own", Recipe())
    assert [one.licence for one in said] == ["own", "CC0"]
    assert with_licence([video(None), video("CC0")], None, Recipe())[0].licence is None, "one of them is known"
    assert with_licence([video(None)], None, Recipe(unknown_licence=True))
    with pytest.raises(UserError, match="give --licence"):
        with_licence([video(None)], None, Recipe())
    with pytest.raises(UserError, match="is empty"):
        with_licence([video(None)], " ", Recipe())
    with pytest.raises(UserError, match="is mit, and the recipe allows"):
        with_licence([video(None)], "mit", free)
    assert with_licence([video(None)], " own ", RECIPES["paper"])[0].licence == "own"


def test_a_network_that_is_missing_is_said_or_stops(curated, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ASYMTALKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("asymtalker.media.registry._receive", _no_connection)
    shutil.copytree(curated, tmp_path / "copy")
    corpus = tmp_path / "copy" / "corpus"
    with pytest.raises(UserError, match="The recipe needs syncnet"):
        run(curated / "videos", corpus, 'networks = ["syncnet"]\nmissing = "stop"\n')
    run(curated / "videos", corpus, 'networks = ["syncnet"]\n')
    assert "without syncnet" in capsys.readouterr().err
    assert read_clips(corpus)[0].info["curation"]["without"] == ["syncnet"]
    assert "Without syncnet" in (corpus / "report.html").read_text()


def _no_connection(*given):
    from asymtalker.media.registry import _ConnectionError

    raise _ConnectionError("no network here")


def test_of_two_people_each_gets_a_clip(drawn_videos, tmp_path):
    one, sound = read_video(drawn_videos / "drawn0.mp4")
    other, _ = read_video(drawn_videos / "drawn2.mp4")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "pair.mp4", np.concatenate([one[:50], other[:50, :, ::-1]], 2), sound[:32_000])
    run(tmp_path / "videos", tmp_path / "corpus", 'least_speaking = "none"\n')
    rows = read_manifest(tmp_path / "corpus")
    assert [row.key for row in rows] == ["pair", "pair-face1"]
    lefts = [json.loads(row.crop or "")[0] for row in rows]
    assert abs(lefts[0] - lefts[1]) > 100
    margins = [json.loads(row.scores)["speaking"] for row in rows]
    assert margins[0] == pytest.approx(-margins[1])
    run(tmp_path / "videos", tmp_path / "corpus")
    assert [row.rejected_by for row in read_manifest(tmp_path / "corpus")].count("speaking") == 1


@pytest.mark.slow
def test_kills_change_nothing(curated, tmp_path):
    """Processes that die at 20 moments, just before or just after a file takes its place."""
    corpus, rng = tmp_path / "corpus", np.random.default_rng(0)
    seen: dict[Path, int] = {}
    kills = 0
    while kills < 20:
        child = os.fork()
        if not child:
            _die_at(int(rng.integers(1, 12)), ("before", "after", "half")[rng.integers(3)])
            run(curated / "videos", corpus)
            os._exit(0)
        rng.integers(100, size=3)
        if not os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            shutil.rmtree(corpus)  # it was through: once more from the beginning
            seen = {}
            continue
        kills += 1
        records = {path: path.stat().st_mtime_ns for path in corpus.rglob("*.json") if path.name[0] != "."}
        done = {path: time for path, time in seen.items() if path.name != "recipe.json"}
        assert {path: records[path] for path in done} == done, "nothing that is done is done again"
        seen = records
    run(curated / "videos", corpus)
    assert state(corpus) == state(curated / "corpus")
    assert not list(corpus.rglob(".*")), "nothing is left of what was killed"


def _die_at(count: int, when: str) -> None:
    """Make this process end without a word at its ``count``-th file: before or after it takes its place, or of those
    that are text when half of it is written."""
    replace, write, left = os.replace, Path.write_text, [count]

    def dying(*given):
        left[0] -= 1
        if not left[0] and when == "before":
            os._exit(9)
        replace(*given)
        if not left[0]:
            os._exit(9)

    def writing(path, text, **given):
        left[0] -= 1
        if left[0]:
            return write(path, text, **given)
        write(path, text[: len(text) // 2], **given)
        os._exit(9)

    if when == "half":
        Path.write_text = writing
    else:
        os.replace = dying
