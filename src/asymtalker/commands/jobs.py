"""Many videos of a list, ``asymtalker generate --jobs list.csv``: a bad row is told and does not end the run, and what
is done is not done again."""

import csv
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from asymtalker.commands.generation import Generate, Say, beside, check_paths, load, progress_bars, speaks
from asymtalker.errors import LostProcessError, UserError
from asymtalker.media.atomic import disk_is_full
from asymtalker.media.read import check_file

if TYPE_CHECKING:  # takes seconds to import
    from asymtalker.generate.pipeline import AsymTalkerPipeline

PATHS = ("image", "audio", "output")
WORDS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
NUMBERS: dict[str, Callable[[str], Any]] = {
    "seed": int,
    "steps": int,
    "guidance": float,
    "face": int,
    "track": int,
    "motion": float,
}
SWITCHES = ("crop", "blinks")
TEXTS = ("size", "gaze")
DISCLOSED = ("label", "consent")
OPTIONS = (*NUMBERS, *SWITCHES, *TEXTS, *DISCLOSED)


@dataclass(frozen=True)
class Job:
    """One row of a list.

    Attributes:
        line: where it stands in the file.
        settings: those of the command with what the row says otherwise.
        problem: what is wrong with the row, a sentence; or "".
    """

    line: int
    settings: Generate
    problem: str = ""

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """Picture, sound and video."""
        return self.settings.image, self.settings.audio, self.settings.output  # pyright: ignore[reportReturnType]


def read_jobs(path: Path, settings: Generate) -> list[Job]:
    """The rows of a list; columns between commas, semicolons or tabs, as its first line has them.

    Args:
        path: a CSV file in UTF-8.
        settings: what a row does not say.

    Raises:
        UserError: if it is no such file, lacks a column, or has one that is not known.
    """
    path = check_file(path, "list of jobs")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
        head = lines[0] if lines else ""
        table = csv.DictReader(lines, delimiter=max(",;\t", key=head.count), strict=True, skipinitialspace=True)
        columns = [(name or "").strip() for name in table.fieldnames or ()]
        table.fieldnames = columns
        if missing := [name for name in PATHS if name not in columns]:
            raise UserError(
                f"The list {path} has no column {' and no column '.join(missing)}: its first line must name image,"
                " audio and output."
            )
        if unknown := [name for name in columns if name not in (*PATHS, *OPTIONS)]:
            raise UserError(
                f"The list {path} has a column '{unknown[0]}' that is not known: besides {', '.join(PATHS)} there may"
                f" be {', '.join(OPTIONS)}."
            )
        if len(set(columns)) < len(columns):
            raise UserError(f"The list {path} has a column twice: name each once.")
        folder = path.parent if path.is_file() else Path()  # a pipe is nowhere
        jobs = [_job(table.line_num, row, folder, settings) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"The list {path} is not a CSV file in UTF-8 ({error}): save it as one.") from error
    if not jobs:
        raise UserError(f"The list {path} has no rows: give one for each video.")
    return _without_clashes(jobs)


def _job(line: int, row: dict[Any, Any], folder: Path, settings: Generate) -> Job:
    if None in row or None in row.values():
        return Job(line, settings, "The row has more or fewer cells than the first line: put one between each comma.")
    cells = {name: value.strip() for name, value in row.items()}
    if empty := [name for name in PATHS if not cells[name]]:
        return Job(line, settings, f"The row has no {empty[0]}: give its path.")
    changes: dict[str, Any] = {name: folder / cells.pop(name) for name in PATHS}
    given = {name: value for name, value in cells.items() if value}
    try:
        changes |= {name: _value(name, value) for name, value in given.items() if name not in DISCLOSED}
    except UserError as error:
        return Job(line, replace(settings, jobs=None, **changes), str(error))
    disclosure = replace(settings.disclosure, **{name: given[name] for name in DISCLOSED if name in given})
    return Job(line, replace(settings, jobs=None, disclosure=disclosure, **changes))


def _value(column: str, cell: str) -> Any:
    if column in NUMBERS:
        try:
            return NUMBERS[column](cell)
        except ValueError as error:
            kind = "a whole number" if NUMBERS[column] is int else "a number"
            raise UserError(f"The column {column} takes {kind}, not {cell}.") from error
    if column in SWITCHES:
        if cell.lower() not in WORDS:
            raise UserError(f"The column {column} takes yes or no, not {cell}.")
        return WORDS[cell.lower()]
    if column == "gaze" and cell not in ("free", "camera"):
        raise UserError(f"The column gaze takes free or camera, not {cell}.")
    return cell


def _without_clashes(jobs: list[Job]) -> list[Job]:
    """The jobs, those refused that would overwrite what another one reads or writes."""
    read = {path.absolute(): job.line for job in jobs if not job.problem for path in job.paths[:2]}
    written: dict[Path, int] = {}
    checked = []
    for job in jobs:
        if not job.problem:
            output = job.paths[2].absolute()
            if output in written:
                job = replace(job, problem=f"Line {written[output]} writes {output} too: give another output.")
            elif output in read:
                job = replace(job, problem=f"Line {read[output]} reads {output}: give another output.")
            else:
                written[output] = job.line
        checked.append(job)
    return checked


def generate_jobs(settings: Generate) -> None:
    """Make the videos of a list with one loaded model.

    Raises:
        UserError: if the list can't be read; at the end, if rows failed, of which each was told; and at once where no
            other row could go better, as on a full disk.
    """
    assert settings.jobs is not None
    jobs = read_jobs(settings.jobs, settings)
    failed: list[int] = []
    with progress_bars() as bars:
        whole = bars.add_task(f"{len(jobs)} videos", total=len(jobs))
        made = skipped = 0
        pipeline: AsymTalkerPipeline | None = None
        say = beside(bars)
        for done, job in enumerate(jobs):
            problem = job.problem or _problem_of_paths(job)
            if pipeline is None and not problem:
                bars.update(whole, description="loading")
                pipeline = load(settings, bars)
                bars.update(whole, description=f"{len(jobs)} videos")
            try:
                if problem or pipeline is None:
                    raise UserError(problem)
                if is_made(pipeline, job):
                    say(f"Line {job.line}: {job.paths[2]} is made already.")
                    skipped += 1
                else:
                    _make(pipeline, job, done, bars, whole, say)
                    made += 1
                if speaks():
                    print(job.paths[2], flush=True)
            except LostProcessError:
                raise
            except Exception as error:
                bad_row = isinstance(error, UserError)
                if disk_is_full(error) or (pipeline and pipeline.processes > 1 and not bad_row):
                    raise  # the next row would fail too; and other processes may be elsewhere
                told = str(error) if bad_row else traceback.format_exc()
                say(f"Line {job.line} failed: {told}")
                failed.append(job.line)
            bars.update(whole, completed=done + 1)
    summary = f"{len(jobs)} rows: {made} made, {skipped} made before, {len(failed)} failed"
    if failed:
        lines = ", ".join(map(str, failed))
        raise UserError(
            f"{summary} (lines {lines} of {settings.jobs}; each is told above). Put them right and give the same"
            " command again: what is done stays."
        )
    say(f"{summary}.")


def _problem_of_paths(job: Job) -> str:
    try:
        check_paths(*job.paths)
    except UserError as error:
        return str(error)
    return ""


def _make(pipeline: "AsymTalkerPipeline", job: Job, done: int, bars: Progress, whole: Any, say: Say) -> None:
    image, audio, output = job.paths
    bar = bars.add_task(f"line {job.line}: {output.name}", total=None)

    def progress(frames: int, total: int) -> None:
        bars.update(bar, completed=frames, total=total)
        bars.update(whole, completed=done + frames / total)

    try:
        pipeline.generate_to_file(
            image,
            audio,
            output,
            **job.settings.request(),
            progress=progress,
            say=lambda sentence: say(f"Line {job.line}: {sentence}"),
        )
    finally:
        bars.remove_task(bar)


def is_made(pipeline: "AsymTalkerPipeline", job: Job) -> bool:
    """Whether a job's video is there, whole and as it was signed, made of the same files, options and model."""
    from asymtalker.generate.inputs import FileRequest, Sources, origin_of
    from asymtalker.provenance.credentials import read_credentials

    image, audio, output = job.paths
    if not (output.is_file() and image.is_file() and audio.is_file()):  # a pipe can be read but once
        return False
    found = read_credentials(output)
    if found.state != "intact" or not found.complete or found.origin is None:
        return False
    request = FileRequest(image, audio, output, **job.settings.request())
    wanted = origin_of(request, Sources(image, audio), pipeline.settings.name, pipeline.version)
    return found.origin.number == wanted.number
