"""The report's three files, from invented numbers and small clips."""

import csv
import io
import json
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from asymtalker.errors import UserError
from asymtalker.evaluate.report import pictures, plots
from asymtalker.evaluate.report.report import COLUMNS, write_report
from asymtalker.media.video import probe_video
from asymtalker.timeline import FPS, SAMPLES_PER_FRAME

VOID = {"meta", "br", "img", "link", "input", "hr"}
METRICS = {
    "fid": {"title": "FID", "unit": "", "better": "low", "about": "What it is."},
    "identity": {"title": "Identity", "unit": "cosine", "better": "high", "about": "What it is."},
    "sync_c": {"title": "Sync-C", "unit": "", "better": "high", "about": "What it is."},
    "sync_offset": {"title": "Offset", "unit": "frames", "better": "near", "about": "What it is."},
    "fvd": {"title": "FVD", "unit": "", "better": "low", "about": "What it is."},
}


@dataclass
class Moving:
    """A clip whose first frame is black and whose last is white; counts how many frames were taken."""

    name: str
    count: int = 30
    damage: str | None = None
    shape: tuple[int, int] = (40, 60)
    taken: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.shape

    def frames(self) -> Iterator[np.ndarray]:
        for grey in np.linspace(0, 255, self.count):
            if self.damage and self.taken == 3:
                raise UserError(self.damage)
            self.taken += 1
            yield np.full((*self.shape, 3), int(grey), np.uint8)

    def sound(self) -> np.ndarray:
        return np.zeros(self.count * SAMPLES_PER_FRAME, np.float32)

    def stamp(self) -> list[Any]:
        return []

    def notes(self) -> list[str]:
        return []


def value(number: float | None, width: float | None = None, samples: int = 2, of: str = "clips") -> dict[str, Any]:
    ends = (None, None) if number is None or width is None else (number - width, number + width)
    return {"value": number, "low": ends[0], "high": ends[1], "samples": samples, "of": of}


def method(names: list[str], shift: float, reference: bool = False) -> dict[str, Any]:
    seconds = [0.0, 1.0, 2.0]
    values = {
        "identity": value(0.75 - shift, 0.03125),
        "sync_c": value(5.5 + shift, 0.5),
        "sync_offset": value(1 + shift),
    }
    curves = {"identity": {"x": seconds, "y": [0.9, None, 0.7], "clips": [2.0, 2.0, 1.0]}}
    if not reference:
        values["fid"] = value(32.5 + shift, 1.5, 1250, "frames")
        curves["fid"] = {"x": [5.0], "y": [30.0], "clips": [2.0]}
    clips = {
        name: {
            "identity": 0.5,
            "sync_c": 5.0,
            "sync_c_shuffled": 1.0,
            "sync_offset": 1.0,
            "identity_first_lost": None,
        }
        | {"seconds": 1.2, "notes": ["no face <found>"]}
        for name in names
    }
    return {"values": values, "clips": clips, "curves": curves, "warnings": [], "failed": {}, "about": {}}


def make(names: list[str], clips: tuple[str, ...] = ("a", "b")) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """A report of methods of these names, and their clips."""
    methods = {name: method(list(clips), 0.125 * i, not i) for i, name in enumerate(["reference", *names])}
    report = {
        "asymtalker": "0.1.0",
        "date": "2026-01-02",
        "machine": {"processor": "abacus"},
        "command": "asymtalker evaluate x",
        "cost": {"measured_seconds": 12.0, "video_minutes": 1.5},
        "reference": {"path": "real", "clips": 2, "seconds": 2.4, "size": [40, 60]},
        "networks": {
            "i3d": {"file": "i3d.pt", "sha256": "ab" * 32, "origin": "https://example.org/i3d", "licence": "MIT"}
            | {"missing": "not downloaded"}
        },
        "timestamps": [5, 10],
        "metrics": METRICS,
        "methods": methods,
        "not_measured": {"fvd": "i3d: not downloaded"},
    }
    return report, {name: {clip: Moving(clip) for clip in clips} for name in methods}


class Page(HTMLParser):
    """Checks that tags balance, and keeps attributes, text and the cells of the first table."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.source = text
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, content or "") for key, content in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, key, content or "") for key, content in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
            if "td" in self.open or "th" in self.open:
                self.rows[-1][-1] += data

    def row(self, title: str) -> list[str]:
        return next(row[1:] for row in self.rows if row[0].startswith(title))


def write(report: dict[str, Any], methods: Any, out: Path) -> Page:
    write_report(report, methods, out)
    return Page((out / "index.html").read_text(encoding="utf-8"))


def test_the_three_files_agree(tmp_path: Path) -> None:
    report, methods = make(["one", "two", "three"])
    page = write(report, methods, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["index.html", "report.csv", "report.json"]
    text = (tmp_path / "out/report.json").read_text(encoding="utf-8")
    assert json.loads(text) == report
    assert text.startswith('{\n  "asymtalker"')
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out/report.csv").read_text(encoding="utf-8"))))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == sum(len(method["values"]) for method in report["methods"].values())
    for row in rows:
        given = report["methods"][row["method"]]["values"][row["metric"]]
        assert all(row[key] == METRICS[row["metric"]][key] for key in ("title", "unit", "better"))
        for key in given:
            assert row[key] == ("" if given[key] is None else str(given[key]))
    assert "32.6" in page.row("FID")[1]  # 32.625
    assert "31.1 to 34.1" in page.row("FID")[1]
    assert "1,250 frames" in page.row("FID")[1]
    assert "0.625" in page.row("Identity")[1]
    assert "0.594 to 0.656" in page.row("Identity")[1]


def test_numbers_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    report, methods = make(["one"])
    report["methods"]["one"]["values"]["fid"]["value"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(report, methods, tmp_path)
    assert not list(tmp_path.iterdir())


def test_best_is_marked_where_there_is_a_best(tmp_path: Path) -> None:
    report, methods = make(["one", "two", "three"])
    page = write(report, methods, tmp_path)
    assert [("★" in cell) for cell in page.row("FID")] == [False, True, False, False]
    # The reference has the highest identity and the lowest Sync-C, and is not compared
    assert [("★" in cell) for cell in page.row("Identity")] == [False, True, False, False]
    assert [("★" in cell) for cell in page.row("Sync-C")] == [False, False, False, True]
    assert not any("★" in cell for cell in page.row("Offset"))
    assert "<b>5.88</b>" in page.source


def test_nothing_is_best_among_values_of_other_clips_or_of_too_few_samples(tmp_path: Path) -> None:
    report, methods = make(["one", "two"])
    assert "★" in write(report, methods, tmp_path / "same").row("Identity")[1]
    report["methods"]["two"]["warnings"] = [{"text": "FID rests on 3 frames.", "metric": "fid", "curve": None}]
    page = write(report, methods, tmp_path / "few")
    assert not any("★" in cell for cell in page.row("FID"))
    assert "★" in page.row("Identity")[1]
    report["methods"]["two"]["clips"].popitem()
    assert not any("★" in cell for cell in write(report, methods, tmp_path / "other").row("Identity"))


def test_a_single_method_wins_nothing(tmp_path: Path) -> None:
    report, methods = make(["alone"])
    page = write(report, methods, tmp_path)
    assert "★" not in page.text
    assert "1 method against 2 reference clips" in page.text
    assert page.row("FID")[0] == "–"  # the reference, which has no distance from itself


def test_ties_and_missing_values(tmp_path: Path) -> None:
    report, methods = make(["one", "two", "three"])
    for name in ("one", "two"):
        report["methods"][name]["values"]["fid"] = value(20.0)
    report["methods"]["three"]["values"]["fid"] = value(None)
    page = write(report, methods, tmp_path)
    cells = page.row("FID")
    assert cells[3] == "–"
    assert [("★" in cell) for cell in cells] == [False, True, True, False]
    assert " to " not in cells[1]  # there is no interval
    assert "None" not in page.text
    assert "nan" not in page.text.lower()


def test_what_was_not_measured_and_what_failed_is_in_sight(tmp_path: Path) -> None:
    report, methods = make(["one", "two"])
    report["methods"]["one"]["warnings"] = [
        {"text": "FID rests on 1250 frames: it comes out too large.", "metric": "fid", "curve": None},
        {"text": "FID over time rests on 40 frames or more a point.", "metric": None, "curve": "fid"},
        {"text": "Other.", "metric": None, "curve": None},
    ]
    report["methods"]["two"]["failed"] = {"c": "The video c.mp4 is damaged."}
    page = write(report, methods, tmp_path)
    assert "FVD: i3d: not downloaded" in page.text
    assert page.text.index("FVD: i3d: not downloaded") < page.text.index("Sync-C")
    assert not [row for row in page.rows if row and row[0].startswith("FVD")]
    assert page.row("FID")[1].startswith("32.6131.1 to 34.1")  # 32.6 and the number of one footnote, so no star
    assert ("li", "id", "note-1") in page.attributes
    results, over_time = page.source.split("Over time</h2>")
    assert "one: FID rests on 1250 frames: it comes out too large." in results
    assert "one: Other." in results
    assert "one: FID over time rests on 40 frames or more a point." not in results
    assert "one: FID over time rests on 40 frames or more a point.</figcaption>" in over_time
    assert "two, c: The video c.mp4 is damaged." in re.sub(r"<details.*?</details>|<[^>]*>", "", page.source)
    assert "missing: not downloaded" in page.text


def test_nothing_from_outside_gets_into_the_markup(tmp_path: Path) -> None:
    evil = '<script>alert("1")</script>&amp;$x$'
    report, methods = make([evil, "_two"], clips=("a", evil))
    report["reference"]["path"] = report["command"] = report["machine"][evil] = evil
    report["methods"][evil]["failed"] = {evil: evil}
    report["methods"][evil]["warnings"] = [{"text": evil, "metric": None, "curve": curve} for curve in (None, "fid")]
    report["methods"][evil]["about"] = {evil: evil}
    report["metrics"] = METRICS | {"sync_c": {"title": evil, "unit": evil, "better": "high", "about": evil}}
    report["not_measured"]["fvd"] = evil
    report["networks"]["i3d"]["missing"] = evil
    page = write(report, methods, tmp_path)
    assert "<script" not in page.source
    assert page.text.count(evil) > 10
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report


def test_names_that_are_no_text_can_be_written(tmp_path: Path) -> None:
    report, methods = make(["m\udcff"])
    page = write(report, methods, tmp_path)
    assert "m?" in page.text


def test_the_page_asks_for_no_other_file(tmp_path: Path) -> None:
    report, methods = make(["one"])
    page = write(report, methods, tmp_path)
    asked = {key: [] for key in ("src", "href", "xlink:href", "poster", "srcset", "data", "action")}
    for _, key, content in page.attributes:
        if key in asked:
            asked[key].append(content)
    assert all(content.startswith("data:") for content in asked["src"])
    assert all(content.startswith("#") for content in asked["href"])
    assert not any(asked[key] for key in ("xlink:href", "poster", "srcset", "data", "action"))
    assert not re.search(r"url\((?!#)|@import|<link|<iframe|<script", page.source)
    assert ("meta", "http-equiv", "Content-Security-Policy") in page.attributes
    names = [content for _, key, content in page.attributes if key == "id"]
    assert len(names) == len(set(names))
    targets = set(asked["href"]) | {f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", page.source)}
    assert targets <= {f"#{name}" for name in names}


def test_a_clip_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    report, methods = make(["one"])
    methods["one"]["a"] = Moving("a", damage="The video a.mp4 is damaged: give another file.")
    page = write(report, methods, tmp_path)
    assert "one, a: The video a.mp4 is damaged: give another file." in page.text
    assert len([1 for tag, key, _ in page.attributes if (tag, key) == ("img", "src")]) == 3 * pictures.FRAMES


def test_no_clip_at_all(tmp_path: Path) -> None:
    report, methods = make(["one"], clips=())
    for about in report["methods"].values():
        about.update(values={}, curves={})
    report["networks"] = {}
    page = write(report, methods, tmp_path)
    assert "There is no clip to show." in page.text
    assert "No curve could be measured." in page.text


def test_clips_that_all_methods_have_are_chosen() -> None:
    clips = [f"c{i}" for i in range(9)]
    chosen = pictures.choose_clips({"x": clips, "y": clips[2:], "z": clips[:-1]})
    assert chosen == {name: ["c2", "c4", "c7"] for name in "xyz"}
    assert pictures.choose_clips({"x": ["b", "a"], "y": ["c"]}) == {"x": ["a", "b"], "y": ["c"]}


def test_frames_run_from_the_first_to_the_last_and_the_sample_is_cut(tmp_path: Path) -> None:
    clip = Moving("long", count=300, shape=(300, 150))
    shown = pictures.show_clip(clip, 300 / FPS, 10**6)
    assert [at for at, _ in shown.frames][:: pictures.FRAMES - 1] == [0, 299 / FPS]
    greys = [np.asarray(Image.open(io.BytesIO(b64decode(uri.split(",")[1])))).mean() for _, uri in shown.frames]
    assert greys == sorted(greys)
    assert greys[0] < 2
    assert greys[-1] > 253
    assert shown.size == (160, 80)
    assert shown.sample is not None
    file = tmp_path / "sample.mp4"
    file.write_bytes(b64decode(shown.sample.split(",")[1]))
    info = probe_video(file)
    assert (info.height, info.width) == (256, 128)
    assert info.seconds == pytest.approx(shown.sample_seconds)
    assert shown.sample_seconds == pictures.SAMPLE_SECONDS
    assert info.audio_rate is not None


def test_samples_keep_to_their_room_and_clips_longer_than_said_are_not_read_on() -> None:
    class Noisy(Moving):
        def frames(self) -> Iterator[np.ndarray]:
            rng = np.random.default_rng(0)
            for _ in super().frames():
                yield rng.integers(0, 255, (*self.shape, 3), np.uint8)

    clip = Noisy("noise", count=200)
    shown = pictures.show_clip(clip, 4.0, 100_000)
    assert clip.taken == 100
    assert shown.sample is not None
    assert len(b64decode(shown.sample.split(",")[1])) <= 100_000
    assert 1 <= shown.sample_seconds < 4


def test_time_is_log_spaced_where_curves_span_a_decade() -> None:
    curve = {"x": [0.0, 599.0], "y": [1.0, 0.5], "clips": [1.0, 1.0]}
    assert plots.spans_decade([curve], [5, 60, 600])
    assert not plots.spans_decade([curve], [60, 600])
    assert not plots.spans_decade([{**curve, "x": [0.0, 7.0]}], [5, 60, 600])  # reaches the first of them alone
    looks = plots.styles(["reference", "one"])
    text = plots.curve_figure("k", "similarity", {"one": curve}, looks, True, (0.4, "same person from 0.4"))
    assert "same person from 0.4" in text
    assert "log-spaced" in text
    assert ">clips<" not in text  # one clip everywhere
    varying = {**curve, "clips": [2.0, 1.0]}
    assert ">clips<" in plots.curve_figure("k", "similarity", {"one": varying}, looks, True)


def test_methods_look_different() -> None:
    looks = plots.styles(["reference", *map(str, range(10))])
    assert len({(look.colour, look.marker) for look in looks.values()}) == 11
