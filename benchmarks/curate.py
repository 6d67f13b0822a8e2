"""Measure curation on films with known faults: what each stage catches and wrongly catches, and how fast it is.

python benchmarks/curate.py OUT --real FOLDER --synthetic CORPUS [--faulty 8] [--clean 16]

OUT gets the films, the corpora and ``curate.json``. FOLDER holds clips of people who speak, with ``index.tsv`` (file,
speaker), whose sound is 0.04 s late as GRID's is; people in ``--fitted``, on whom the sync score was fitted, are in
films with faults of single clips alone. CORPUS is one of
``asymtalker synth --recorded-fraction 0``. The same command goes on where it was stopped, and with another recipe
(``--recipe``) decides anew.

A fault is caught if less than a quarter of the frames that have it is in clips that are kept; a clean part is kept if
three quarters of it are. Sound that is late is also caught if it was put right to within a frame, and a cut or jump if
no kept clip spans it. A stage's precision counts the parts that its filters took: those that had its fault over all.
"""

import argparse
import contextlib
import csv
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pyarrow.parquet as pq

from asymtalker.bench.machine import describe_machine, load_average
from asymtalker.curate.recipe import read_recipe
from asymtalker.dataset.corpus import read_clips
from asymtalker.media.video import VideoWriter, read_video
from asymtalker.synth.phonemes import SILENCE
from asymtalker.timeline import FPS
from films import FAULTS, Clip, Film, Part, beside, compose

LATE_FILES = {"late 60 ms": 0.06, "late 200 ms": 0.2, "late 1000 ms": 1.0}
FILTERS = {
    "frozen": {"frozen"},
    "jump cut": {"jump", "shake"},
    "clipped": {"clipped"},
    "noisy": {"snr"},
    "dropouts": {"dropout"},
    "silent": {"silence"},
    "blurred": {"sharpness", "face_visible"},  # a face that is out of focus enough is none
    "tiny face": {"face_pixels", "face_visible"},
    "hidden face": {"hidden", "face_visible", "face_score", "hands"},
    "hand over face": {"hidden", "hands", "face_visible", "face_score"},
    "caption": {"text"},
    "late 60 ms": {"offset", "sync", "video_sync"},
    "late 200 ms": {"offset", "sync", "video_sync"},
    "late 1000 ms": {"offset", "sync", "video_sync"},
    "two people": {"speaking"},
    "duplicate": {"duplicate"},
    "broken": {"unreadable", "quarantined"},
    "no sound": {"sound", "sound_heard"},
}
CLIPS_A_FILM = 4
ROOM = 1e-3
"""Level of the noise, 60 dB below full scale, without which an espeak-ng voice is cut out at each p and t."""
LOOKED_EVERY = 0.2  # seconds


def real_clips(folder: Path, speakers: set[str], those: bool) -> Iterator[Clip]:
    """Clips of those speakers, or of all others, taking turns."""
    with (folder / "index.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if (row["speaker"] in speakers) == those]
    turns: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        turns[row["speaker"]].append(row)
    order = [row for turn in range(len(rows)) for those in turns.values() for row in those[turn : turn + 1]]
    for row in order:
        frames, sound = read_video(folder / row["file"])
        sound = np.pad(sound[640:], (0, 640 * len(frames)))[: 640 * len(frames)]
        yield Clip(fitted_to(frames), sound, row["speaker"])


def synthetic_clips(corpus: Path) -> Iterator[Clip]:
    """Clips of a corpus of ``asymtalker synth --recorded-fraction 0`` that speak for half of the time at least, in a
    room that is never quite silent."""
    rng = np.random.default_rng(0)
    for clip in read_clips(corpus):
        spoken = sum(end - start for name, start, end in clip.info["ground_truth"]["phonemes"] if name != SILENCE)
        if 2 * spoken * FPS < clip.num_frames:
            continue
        sound = np.pad(clip.audio(), (0, 640))[: 640 * clip.num_frames]
        sound = sound + ROOM * rng.standard_normal(len(sound), dtype=np.float32)
        yield Clip(fitted_to(clip.frames()), sound, clip.row.identity_id)


def fitted_to(frames: np.ndarray, height: int = 288, width: int = 360) -> np.ndarray:
    """Frames of one size for all films, cut at the sides or with their edge continued."""
    import cv2

    wide = round(frames.shape[2] * height / frames.shape[1])
    scaled = [cv2.resize(one, (wide, height), interpolation=cv2.INTER_AREA) for one in frames]
    left = max(0, width - wide) // 2
    right = max(0, width - wide - left)
    cut = max(0, wide - width) // 2
    kept = [one[:, cut : cut + min(wide, width)] for one in scaled]
    return np.stack([cv2.copyMakeBorder(one, 0, 0, left, right, cv2.BORDER_REPLICATE) for one in kept])


def make_films(
    folder: Path, clips: Iterator[Clip], spoilt: Iterator[Clip], faulty: int, clean: int, seed: int
) -> list[Film]:
    """Films of one kind of clips: with faults in some of their parts, which are made of ``spoilt``, late, of two
    people, doubled, broken."""
    rng, films = np.random.default_rng(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(max(2, faulty // 2)):  # first, as later on all may be of one speaker
        left = next(clips)
        right = next(one for one in clips if one.speaker != left.speaker)
        films.append(compose(folder, f"pair-{number}.mp4", [(beside(left, right), "two people")]))
    parts = [(next(clips), None) for _ in range(clean)]
    wanted = [name for name in FAULTS for _ in range(faulty)]
    for fault in wanted:
        clip = next(spoilt)
        parts.append((FAULTS[fault](clip, rng), fault))  # type: ignore[arg-type]
    order = rng.permutation(len(parts))
    for number in range(0, len(order), CLIPS_A_FILM):
        those = [parts[index] for index in order[number : number + CLIPS_A_FILM]]
        films.append(compose(folder, f"film{number:04d}.mp4", those))
    for name, late in LATE_FILES.items():
        for number in range(max(1, faulty // CLIPS_A_FILM)):
            films.append(
                compose(
                    folder, f"{name.replace(' ', '-')}-{number}.mp4", [(next(clips), name) for _ in range(4)], late
                )
            )
    whole_films = [film for film in films if film.name.startswith("film")]
    for number, film in enumerate(whole_films[: max(3, faulty // 2)]):
        films.append(copy_of(folder, film, number % 3))
    whole = (folder / whole_films[0].name).read_bytes()
    for number, data in enumerate((whole[: len(whole) // 2], whole[:500], b"", rng.bytes(4000))):
        (folder / f"broken-{number}.mp4").write_bytes(data)
        films.append(Film(f"broken-{number}.mp4", fault="broken"))
    mute(folder / whole_films[1].name, folder / "mute.mp4")
    films.append(Film("mute.mp4", fault="no sound"))
    return films


def copy_of(folder: Path, film: Film, how: int) -> Film:
    """The film again: at a tenth of its bitrate, smaller with black borders, or without its first two seconds and
    edges."""
    frames, sound = read_video(folder / film.name)
    if how == 1:
        import cv2

        small = [cv2.resize(one, (240, 192), interpolation=cv2.INTER_AREA) for one in frames]
        frames = np.stack([cv2.copyMakeBorder(one, 24, 24, 40, 40, cv2.BORDER_CONSTANT) for one in small])
    if how == 2:
        frames, sound = np.ascontiguousarray(frames[50:, 14:-14, 18:-18]), sound[50 * 640 :]
    name = f"z-copy-of-{film.name}"
    with VideoWriter(folder / f"raw-{name}", frames.shape[1:3], audio_rate=16_000) as writer:
        writer.write(frames)
        writer.write_audio(sound)
    recode(folder / f"raw-{name}", folder / name, 60_000 if how == 0 else 200_000)
    (folder / f"raw-{name}").unlink()
    return Film(name, fault="duplicate")


def recode(source: Path, target: Path, bitrate: int) -> None:
    """A video again at another bitrate, its sound at 32 kbit/s."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        video, audio = new.add_stream("libx264", rate=25), new.add_stream("aac", rate=16_000, layout="mono")
        video.width, video.height, video.pix_fmt = old.streams.video[0].width, old.streams.video[0].height, "yuv420p"
        video.bit_rate, audio.bit_rate = bitrate, 32_000
        for frame in old.decode(*old.streams):
            stream = video if isinstance(frame, av.VideoFrame) else audio
            if isinstance(frame, av.VideoFrame):
                frame.pict_type = av.video.frame.PictureType.NONE
            new.mux(stream.encode(frame))
        for stream in (video, audio):
            new.mux(stream.encode(None))


def mute(source: Path, target: Path) -> None:
    """A video without its sound."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


def run(films: Path, corpus: Path, recipe: str, workers: int) -> dict[str, float]:
    """Curate; seconds, and the most memory that all its processes held together."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "asymtalker", "curate", "--input", str(films), "--output", str(corpus)]
    process = psutil.Popen([*command, "--licence", "own", "--recipe", recipe, "--workers", str(workers)])
    most = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            most = max(most, sum(one.memory_info().rss for one in (process, *process.children(recursive=True))))
        time.sleep(LOOKED_EVERY)
    if process.returncode:
        sys.exit(f"curate ended with {process.returncode}")
    return {"seconds": round(time.perf_counter() - began, 1), "peak_mebibytes": round(most / 2**20)}


def speed(out: Path, films: Path, recipe: str) -> dict[str, Any]:
    """Seconds and memory of the films that are sound with one worker and with two, and of one film that is itself four
    times and sixteen times over."""
    result: dict[str, Any] = {}
    few = out / "speed"
    shutil.rmtree(few, ignore_errors=True)
    (few / "films").mkdir(parents=True)
    whole = sorted(films.glob("film*.mp4"))[:16]
    for film in whole:
        shutil.copy(film, few / "films")
    for workers in (1, 2):
        result[f"{workers} workers"] = run(few / "films", few / f"corpus{workers}", recipe, workers)
    frames, sound = read_video(whole[0])
    for times in (1, 4, 16):
        folder = few / f"times{times}"
        folder.mkdir()
        with VideoWriter(folder / "film.mp4", frames.shape[1:3], audio_rate=16_000) as writer:
            for _ in range(times):
                writer.write(frames)
                writer.write_audio(np.pad(sound, (0, 640 * len(frames)))[: 640 * len(frames)])
        minutes = round(times * len(frames) / 25 / 60, 2)
        result[f"{minutes} minutes"] = run(folder, few / f"long{times}", recipe, 1)
    return result


def score(films: list[Film], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Recall and precision of every fault, and the clean parts kept."""
    of_film: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_film[row["source_id"]].append(row)
    caught: dict[str, list[bool]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    clean: list[bool] = []
    lost: dict[str, int] = defaultdict(int)
    for film in films:
        found = of_film[film.name]
        if film.fault:
            kept = [row for row in found if row["kind"] == "clip" and not row["rejected_by"]]
            caught[film.fault].append(not kept and any(row["rejected_by"] in FILTERS[film.fault] for row in found))
            for row in found:
                _count(right, row["rejected_by"], film.fault)
            continue
        for part in film.parts:
            _part(part, found, caught, right, clean, lost)
    return {
        "faults": {
            name: {
                "parts": len(caught[name]),
                "recall": round(float(np.mean(caught[name])), 3) if caught[name] else None,
                "taken": len(right[name]),
                "precision": round(float(np.mean(right[name])), 3) if right[name] else None,
            }
            for name in FILTERS
        },
        "clean": {
            "parts": len(clean),
            "kept": round(float(np.mean(clean)), 3) if clean else None,
            "lost by": dict(lost),
        },
    }


def _part(
    part: Part,
    found: list[dict[str, Any]],
    caught: dict[str, list[bool]],
    right: dict[str, list[bool]],
    clean: list[bool],
    lost: dict[str, int],
) -> None:
    """Count one part of a film."""
    clips = [
        row for row in found if row["kind"] != "video" and _shared(row, part) > 0.25 * (row["stop"] - row["start"])
    ]
    kept = [row for row in clips if row["kind"] == "clip" and not row["rejected_by"]]
    covered = sum(_shared(row, part) for row in kept) / (part.stop - part.start)
    spoilt = Part(*(part.spoilt or (part.start, part.stop)))
    if part.fault is None:
        clean.append(covered >= 0.75)
        if not clean[-1]:
            lost[next((row["rejected_by"] for row in clips if row["rejected_by"]), "cut")] += 1
    elif part.fault == "jump cut":
        middle = (part.start + part.stop) // 2
        caught[part.fault].append(not any(row["start"] < middle - 2 and row["stop"] > middle + 2 for row in kept))
    elif part.fault == "two people":
        caught[part.fault].append(all(row["face"] == _left(clips) for row in kept) and bool(kept))
    elif part.fault in LATE_FILES:
        moved = LATE_FILES[part.fault] * 25
        fine = [abs(json.loads(row["scores"])["moved"] - moved) <= 1 for row in kept]
        caught[part.fault].append(all(fine))
    else:
        caught[part.fault].append(sum(_shared(row, spoilt) for row in kept) < 0.25 * (spoilt.stop - spoilt.start))
    for row in clips:
        for name, filters in FILTERS.items():
            if row["rejected_by"] in filters:
                same = part.fault is not None and row["rejected_by"] in FILTERS[part.fault]
                if name == part.fault or not same:
                    right[name].append(name == part.fault)


def _left(clips: list[dict[str, Any]]) -> int:
    """The face that lies farther to the left."""
    of_clip = [row for row in clips if row["kind"] == "clip"]
    return min(of_clip, key=lambda row: json.loads(row["crop"])[0])["face"] if of_clip else -1


def _shared(row: dict[str, Any], part: Part) -> int:
    return max(0, min(row["stop"], part.stop) - max(row["start"], part.start))


def _count(right: dict[str, list[bool]], rejected_by: str | None, fault: str) -> None:
    for name, filters in FILTERS.items():
        if rejected_by in filters:
            right[name].append(name == fault)


def rates(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Hours of video that an hour of one core gets through, by stage."""
    video, spent = defaultdict(float), defaultdict(float)
    for row in rows:
        for stage, seconds in json.loads(row["seconds"]).items():
            if seconds:
                video[stage] += (row["stop"] - row["start"]) / 25
                spent[stage] += seconds
    return {stage: round(video[stage] / spent[stage], 3) for stage in spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--synthetic", type=Path)
    parser.add_argument("--fitted", default="s1,s26,s31")
    parser.add_argument("--faulty", type=int, default=8)
    parser.add_argument("--clean", type=int, default=16)
    parser.add_argument("--recipe", default=str(Path(__file__).parent / "films.toml"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", action="store_true", help="one worker against two, memory against length, too")
    given = parser.parse_args()
    result: dict[str, Any] = {
        "machine": describe_machine("cpu"),
        "load": load_average(),
        "recipe": Path(given.recipe).name,
        "workers": given.workers,
    }
    fitted = set(given.fitted.split(","))
    synthetic = synthetic_clips(given.synthetic) if given.synthetic else None
    sources = {
        "real": given.real and (real_clips(given.real, fitted, False), real_clips(given.real, fitted, True)),
        "synthetic": synthetic and (synthetic, synthetic),
    }
    for kind, clips in sources.items():
        if clips is None:
            continue
        folder, truth = given.out / kind, given.out / f"{kind}.json"
        if not truth.exists():
            shutil.rmtree(folder, ignore_errors=True)
            films = make_films(folder, *clips, given.faulty, given.clean, given.seed)
            truth.write_text(json.dumps([asdict(film) for film in films]))
        films = [
            Film(one["name"], [Part(**part) for part in one["parts"]], one["fault"])
            for one in json.loads(truth.read_text())
        ]
        took = run(folder, given.out / f"{kind}-corpus", given.recipe, given.workers)
        rows = pq.read_table(given.out / f"{kind}-corpus" / "curation" / "clips.parquet").to_pylist()
        result[kind] = {"films": len(films), **score(films, rows), "rates": rates(rows), **took}
        if given.speed and "speed" not in result:
            result["speed"] = speed(given.out, folder, given.recipe)
    result["limits"] = {name: [side, limit] for name, side, limit in read_recipe(given.recipe).limits()}
    (given.out / "curate.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
