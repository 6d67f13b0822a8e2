"""Videos, however raw, as a corpus to train on: stages 1 to 8 over all of them, and what became of each."""

import contextlib
import fcntl
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.curate.collect import Video, copy_of, is_address, licence_problem, list_videos, with_licence
from asymtalker.curate.cuts import find_spans
from asymtalker.curate.decide import Decided, failed_limit, plain, span_key, speaking_margins
from asymtalker.curate.duplicates import find_duplicates
from asymtalker.curate.engine import Engine, NetworkStage, Problem
from asymtalker.curate.framed import ClipStage
from asymtalker.curate.lips import SURE_SYNC, video_offset
from asymtalker.curate.networks import check_networks
from asymtalker.curate.pack import write_corpus
from asymtalker.curate.people import has_recognition, held_out_people, tell_apart
from asymtalker.curate.recipe import Recipe, check_recipe, read_recipe
from asymtalker.curate.report import write_report
from asymtalker.curate.watch import (
    FACES,
    FETCHED,
    MEASURED,
    PROBE,
    PUBLISHED,
    SEPARATED,
    Span,
    clips_of,
    frame_span,
    framed_by,
    last_stage,
    run_clip_stage,
    video_changes,
    video_prints,
    watch_video,
    watched_by,
)
from asymtalker.curate.work import Work, done, read_record, settings_of, write_record
from asymtalker.dataset.corpus import ShardWriter
from asymtalker.errors import UserError
from asymtalker.media.atomic import clear_unfinished
from asymtalker.timeline import FPS
from asymtalker.training.run_folder import tracked

SAID = 20
"""Videos whose fate is said one by one; of more the report tells."""
VIDEO_SCORES = ("source_pixels", "sound_heard", "drift")


@dataclass(frozen=True, kw_only=True)
class Curate:
    """Make a corpus of real videos: found, cut, framed around the face of who speaks, 25 FPS, with face masks; what is
    of no use is left out, and report.html says why.

    A table index.tsv in the folder may say of each file, in columns, who speaks (speaker), its licence, source and
    source_id, and seconds where its clips start and end; else people are told apart by their faces. A tenth of the
    people, three at least, is held out, those of the fewest clips. The same command goes on where it was stopped, and
    decides anew by what was measured where the recipe has changed.
    """

    input: str
    """Folder of videos, or a list of them: .txt, .csv, .tsv or .parquet. Either may be an address, such as
    s3://bucket/videos."""
    output: Path
    """Folder of the corpus; one that holds a synthetic corpus gets the real clips added."""
    recipe: str = "tiny"
    """What clips have to be like: tiny (for the bundled model) or paper (appendix F), or a TOML file that changes some
    of it; see docs/curation.md."""
    size: int | None = None
    """Width and height in pixels at most; smaller faces are not enlarged. By default the recipe's."""
    licence: str | None = None
    """Licence of the videos of which no table says one: cc-by-4.0, or own of your own recordings. It goes into the
    corpus, and the recipe says which ones pass; without any licence none does."""
    sound_late: float = 0.0
    """Seconds by which the sound of these videos comes after the picture, which is put right; negative if before."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes of this machine; the corpus does not depend on it. 0 does all in this process, for a debugger: what
    kills it ends the run."""
    ray_address: str | None = None
    """Of a Ray cluster, whose machines all see the folders: ray://host:10001, auto, or local to start Ray here."""
    retry: bool = False
    """Try once more what was put aside because a process died or failed of it."""


def curate(config: Curate) -> None:
    """Write the corpus; what is left out is said, and why.

    Raises:
        UserError: if there is no folder or no usable video, or the corpus can't be written.
    """
    recipe = read_recipe(config.recipe)
    if config.size is not None:
        recipe = replace(recipe, size=config.size)
        check_recipe(recipe, "--size")
    if config.workers < 0:
        raise UserError(f"--workers is {config.workers}: give how many processes, or 0 for none but this one.")
    _check_apart(config)
    videos = with_licence(list_videos(str(config.input)), config.licence, recipe)
    writer, work = ShardWriter(config.output), Work(config.output)
    without = check_networks(recipe)
    if not has_recognition():
        print("dlib is not installed: people are told apart by their videos.", file=sys.stderr, flush=True)
    with _alone(work):
        _curate(config, recipe, videos, writer, work, without)


def _check_apart(config: Curate) -> None:
    if is_address(config.input):
        return
    source, output = Path(config.input).resolve(), config.output.resolve()
    if source == output or source in output.parents:
        raise UserError(f"{config.output} lies in {config.input}: write the corpus outside the folder of videos.")


@contextlib.contextmanager
def _alone(work: Work) -> Iterator[None]:
    """Nobody else writes the corpus meanwhile."""
    work.folder.mkdir(parents=True, exist_ok=True)
    with (work.folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"Another command is writing {work.corpus}: wait for it, or choose another output."
            ) from None
        yield


def _curate(
    config: Curate,
    recipe: Recipe,
    videos: Sequence[Video],
    writer: ShardWriter,
    work: Work,
    without: Mapping[str, str],
) -> None:
    _clear(work, writer)
    write_record(work.folder / "recipe.json", {"recipe": settings_of(recipe, tuple(vars(recipe))), "without": without})
    engine = Engine.begun(work.folder / "tried", config.workers, config.ray_address)
    networks = [name for name in recipe.networks if name not in without]
    stages = (*MEASURED, *(PUBLISHED[name] for name in networks if name in PUBLISHED), last_stage(networks))
    decided = list(_decide(config, recipe, work, engine, videos, stages))
    _say_left_out(decided)
    about = {"input": config.input, "recipe": config.recipe}
    write_report(config.output, work, decided, recipe, without, about)
    kept = [one for one in decided if one.kind == "clip" and one.rejected_by is None]
    if not kept:
        raise UserError(
            f"None of the {len(videos)} videos in {config.input} can be used, see above why; no clip was written to"
            f" {config.output} and none was removed."
        )
    write_corpus(writer, work, decided, recipe, without)
    clips, people = sum(one.kind == "clip" for one in decided), len({clip.identity for clip in kept})
    print(
        f"{len(kept)} of {clips} clips of {people} people are kept; {config.output / 'report.html'} shows them and why"
        " others are not.",
        file=sys.stderr,
        flush=True,
    )


def _clear(work: Work, writer: ShardWriter) -> None:
    """Remove what killed processes have left."""
    writer.clear()
    for kind in ("videos", "spans"):
        for folder in (work.folder / kind).glob("*"):
            clear_unfinished(folder)
    shutil.rmtree(work.folder / FETCHED, ignore_errors=True)
    clear_unfinished(work.folder)


def _decide(
    config: Curate,
    recipe: Recipe,
    work: Work,
    engine: Engine,
    videos: Sequence[Video],
    stages: Sequence[ClipStage],
) -> Iterator[Decided]:
    """What becomes of every video, span and clip; what is not known yet of them is found out."""
    allowed = []
    for video in videos:
        problem = licence_problem(video, recipe)
        if problem:
            yield _of_video(video, "licence", f"{problem}.")
        else:
            allowed.append(video)
    usable = yield from _watched(config, recipe, work, engine, allowed)
    spans = yield from _spans(recipe, work, usable)
    spans = _frame(config, recipe, work, engine, spans, stages)
    clips = list(_clips(recipe, work, spans, stages))
    yield from _named(recipe, clips)


def _of_video(video: Video, rejected_by: str, why: str, record: dict[str, Any] | None = None) -> Decided:
    record = record or {"scores": {}, "seconds": 0.0}
    return Decided(
        key=video.key,
        video=video.key,
        source_id=video.name,
        kind="video",
        stop=record.get("frames", 0),
        scores=record["scores"],
        rejected_by=rejected_by or None,
        why=why,
        seconds={"watch": record["seconds"]},
        licence=video.licence,
        source=video.source,
    )


def _watch(config: Curate, work: Work, engine: Engine, videos: Sequence[Video]) -> None:
    """Look at all videos that nobody has looked at."""
    settings = partial(watched_by, config.sound_late)
    if config.retry:
        for video in videos:
            _forget_failed(work.video(video.key) / PROBE)
    todo = {video.key: video for video in videos if done(work.video(video.key) / PROBE, settings(video)) is None}
    stages = [partial(watch_video, work, config.sound_late)]
    results = engine.run_stages(stages, list(todo.values()), lambda video: video.key)
    for key, result in _progress(results, len(todo), "watching videos"):
        if isinstance(result, Problem):
            _put_aside(work.video(key) / PROBE, result, settings(todo[key]))


def _watched(
    config: Curate, recipe: Recipe, work: Work, engine: Engine, videos: Sequence[Video]
) -> Generator[Decided, None, list[tuple[Video, dict[str, Any]]]]:
    """Stages 1 and 2: looks at all videos; yields what becomes of each, and returns those that are of use."""
    _watch(config, work, engine, videos)
    good = []
    for video in videos:
        record = read_record(work.video(video.key) / PROBE)
        assert record is not None
        name, why = record.get("rejected", ""), record.get("why", "")
        if not name:
            name, why = failed_limit(record["scores"], recipe, VIDEO_SCORES)
        if name:
            yield _of_video(video, name, why, record)
        else:
            good.append((video, record))
    twice = find_duplicates(
        [video_prints(work, video.key) for video, _ in good],
        [video.source_id for video, _ in good],
        recipe.duplicate_sound,
        recipe.duplicate_picture,
        recipe.duplicate_overlap,
    )
    for index, (video, record) in enumerate(good):
        first, scores = twice.get(index, (index, {}))
        why = f"it is {good[first][0].name} once more." if index in twice else ""
        record = record | {"scores": record["scores"] | scores}
        yield _of_video(video, "duplicate" if index in twice else "", why, record)
    return [one for index, one in enumerate(good) if index not in twice]


def _spans(
    recipe: Recipe, work: Work, videos: Sequence[tuple[Video, dict[str, Any]]]
) -> Generator[Decided, None, list[Span]]:
    """Stage 3: yields spans that are too short, and returns the others."""
    spans = []
    for video, record in videos:
        changes = video_changes(work, video.key)
        for given in video.given or (None,):
            seconds = None if given is None else (given.start, given.end)
            speaker = video.speaker if given is None else given.speaker
            for start, stop, enough in find_spans(changes, recipe, seconds):
                key = span_key(video.key, start, stop, record["frames"])
                span = Span(key=key, video=video, start=start, stop=stop, speaker=speaker)
                if enough:
                    spans.append(span)
                    continue
                why = f"it has {stop - start} frames, and {recipe.min_frames} are the least."
                if given is not None and start == stop:
                    why = (
                        f"the video ends at {record['frames'] / FPS:g} s, before the clip at {given.start:g} s begins."
                    )
                yield _of_span(span, "short", why)
    return spans


def _of_span(span: Span, rejected_by: str, why: str, record: dict[str, Any] | None = None) -> Decided:
    return Decided(
        key=span.key,
        video=span.video.key,
        source_id=span.video.name,
        kind="span",
        start=span.start,
        stop=span.stop,
        rejected_by=rejected_by,
        why=why,
        seconds={"faces": (record or {"seconds": 0.0})["seconds"]},
        licence=span.video.licence,
        source=span.video.source,
    )


def _frame(
    config: Curate, recipe: Recipe, work: Work, engine: Engine, spans: Sequence[Span], stages: Sequence[ClipStage]
) -> list[Span]:
    """Stages 4 to 8 of all spans for which they are not done; returns the spans, with how late their sound is."""
    if config.retry:
        for span in spans:
            _forget_failed(work.span(span.key) / FACES)
    _run_on_spans(config, recipe, work, engine, spans, stages[:-1], "making clips")
    offsets = _video_offsets(recipe, work, spans)
    late = [replace(span, late=_corrected(recipe, offsets.get(span.video.key, (0.0, 0.0))[0])) for span in spans]
    _run_on_spans(config, recipe, work, engine, late, stages[-1:], "cleaning voices")
    return late


def _forget_failed(record: Path) -> None:
    """Take away a record that says that something could not be read, or a process died or failed."""
    if (read_record(record) or {}).get("rejected") in ("quarantined", "unreadable"):
        record.unlink()


def _put_aside(record: Path, problem: Problem, settings: Mapping[str, Any]) -> None:
    made = {"scores": {}, "rejected": "quarantined", "why": problem.reason, "seconds": 0.0}
    write_record(record, made | {"settings": settings})


def _corrected(recipe: Recipe, offset: float) -> float:
    """Frames of a video's offset that are put right."""
    return offset if recipe.correct_sync and abs(offset) >= recipe.correct_sync else 0.0


def _video_offsets(recipe: Recipe, work: Work, spans: Sequence[Span]) -> dict[str, tuple[float, float]]:
    """By how many frames the sound of each video is late, and how sure its sync is, where that can be told."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for span in spans:
        faces = [dict(face["scores"]) for face in (read_record(work.span(span.key) / FACES) or {}).get("faces", ())]
        for number, scores in enumerate(faces):
            for stage in MEASURED:
                record = stage.record(work.span(span.key) / f"face{number}", recipe, 0.0)
                scores |= record["scores"] if record else {}
        if told := [scores for scores in faces if "sync" in scores]:
            found.setdefault(span.video.key, []).append(told)
    judged = {key: that_tell_sync(recipe, those) for key, those in found.items()}
    return {key: video_offset(those) for key, those in judged.items() if those}


def that_tell_sync(recipe: Recipe, spans: Sequence[list[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """What is left of spans without the faces that fail a limit other than that of how lips and sound go together, as
    silence or a hidden mouth says nothing; where nothing is, those that are sure all the same."""
    names = [name for name, _, _ in recipe.limits() if name != "sync"]
    return _left(spans, lambda scores: not failed_limit(scores, recipe, names)[0]) or _left(
        spans, lambda scores: scores["sync"] >= SURE_SYNC
    )


def _left(spans: Sequence[list[dict[str, Any]]], kept: Callable[[dict[str, Any]], bool]) -> list[list[dict[str, Any]]]:
    left = [[scores for scores in faces if kept(scores)] for faces in spans]
    return [faces for faces in left if faces]


def _run_on_spans(
    config: Curate,
    recipe: Recipe,
    work: Work,
    engine: Engine,
    spans: Sequence[Span],
    wanted: Sequence[ClipStage],
    what: str,
) -> None:
    """Make clips of those spans that have none yet, and do the stages that are not done."""
    settings = partial(framed_by, recipe, config.sound_late)

    def is_done(span: Span) -> bool:
        faces = done(work.span(span.key) / FACES, settings(span))
        return faces is not None and (
            "rejected" in faces
            or all(stage.record(clip.folder, recipe, span.late) for clip in clips_of(work, span) for stage in wanted)
        )

    todo = {span.key: span for span in spans if not is_done(span)}
    left = Counter(span.video.key for span in todo.values())
    stages: list[Any] = [partial(frame_span, work, recipe, config.sound_late)]
    for stage in wanted:
        kind = NetworkStage if stage in (*PUBLISHED.values(), SEPARATED) else partial
        stages.append(kind(run_clip_stage, work, recipe, stage.name))
    results = engine.run_stages(stages, list(todo.values()), lambda span: span.key)
    for key, result in _progress(results, len(todo), what):
        if isinstance(result, Problem):
            _put_aside(work.span(key) / FACES, result, settings(todo[key]))
        video = todo[key].video
        left[video.key] -= 1
        if not left[video.key] and is_address(video.path):
            copy_of(video, work.folder / FETCHED).unlink(missing_ok=True)


def _progress(results: Iterator[Any], total: int, what: str) -> Iterator[Any]:
    if total:
        for _ in tracked(range(total), what):
            result = next(results, None)
            if result is None:
                return
            yield result
        for _ in results:  # ends the processes
            pass


def _clips(recipe: Recipe, work: Work, spans: Sequence[Span], stages: Sequence[ClipStage]) -> Iterator[Decided]:
    """Every clip with all its scores; spans that gave none."""
    offsets = _video_offsets(recipe, work, spans)
    for span in spans:
        faces = read_record(work.span(span.key) / FACES)
        assert faces is not None
        if "rejected" in faces:
            yield _of_span(span, faces["rejected"], faces["why"], faces)
            continue
        found = []
        for number, face in enumerate(faces["faces"]):
            scores, seconds = dict(face["scores"]), {"faces": faces["seconds"] / len(faces["faces"])}
            broken = None
            for stage in stages:
                record = stage.record(work.span(span.key) / f"face{number}", recipe, span.late)
                assert record is not None
                scores |= record["scores"]
                seconds[stage.name] = record["seconds"]
                broken = broken or (record.get("rejected") and record["why"])
            video = span.video
            if video.key in offsets:
                offset, scores["video_sync"] = offsets[video.key]
                sure = scores.get("sync", 0.0) >= SURE_SYNC
                scores["offset"] = abs((scores["offset_found"] if sure else offset) - span.late)
            clip = Decided(
                key=f"{span.key}-face{number}" if number else span.key,
                video=video.key,
                source_id=video.name,
                start=span.start,
                stop=span.stop,
                face=number,
                size=face["size"],
                crop=str(face["crop"]),
                scores=scores,
                seconds=seconds,
                rejected_by="unreadable" if broken else None,
                why=broken or "",
                identity=plain(span.speaker) if span.speaker else "",
                licence=video.licence,
                source=video.source,
            )
            found.append(clip)
        margins = speaking_margins({clip.key: clip.scores.get("fit", math.nan) for clip in found})
        for clip in found:
            extra = {"speaking": margins[clip.key]} if clip.key in margins else {}
            yield replace(clip, scores={**clip.scores, **extra})


def _named(recipe: Recipe, found: Sequence[Decided]) -> Iterator[Decided]:
    """The same with the recipe's word on each, who it is, and in which split."""
    judged = []
    for one in found:
        if one.kind != "clip":
            yield one
            continue
        name, why = failed_limit(one.scores, recipe) if one.rejected_by is None else (one.rejected_by, one.why)
        judged.append(replace(one, rejected_by=name or None, why=why))
    judged.sort(key=lambda clip: clip.key)
    # several faces of one video are several people, but for its cuts, which only embeddings see through
    names, alike = tell_apart(
        [np.array(clip.scores["embedding"]) if clip.scores.get("embedding") else None for clip in judged],
        [clip.identity or None for clip in judged],
        [clip.video + (f"-face{clip.face}" if clip.face else "") for clip in judged],
    )
    kept = [name for name, clip in zip(names, judged, strict=True) if clip.rejected_by is None]
    held_out = held_out_people(kept, alike) if kept else set()
    for name, clip in zip(names, judged, strict=True):
        scores = {key: value for key, value in clip.scores.items() if key != "embedding"}
        split = "test" if name in held_out else "train"
        yield replace(clip, identity=f"real-{name}", split=split, scores=scores)


def _say_left_out(decided: Sequence[Decided]) -> None:
    """Which videos give no clip at all, and why."""
    out = []
    for _, group in groupby(sorted(decided, key=lambda one: one.video), key=lambda one: one.video):
        those = list(group)
        if not any(one.kind == "clip" and one.rejected_by is None for one in those):
            worst = next((one for one in those if one.rejected_by and one.kind == "video"), None)
            worst = worst or next((one for one in those if one.rejected_by), those[0])
            out.append(f"{worst.source_id} is left out: {worst.why or 'nothing of it is a clip.'}")
    for sentence in out[:SAID]:
        print(sentence, file=sys.stderr, flush=True)
    if len(out) > SAID:
        print(f"{len(out) - SAID} more are left out: report.html says why.", file=sys.stderr, flush=True)
