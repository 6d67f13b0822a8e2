"""The verb ``generate``: one video, or all of a list (``jobs.py``)."""

from pathlib import Path

from asymtalker.commands.generation import Generate, beside, check_paths, load, progress_bars, speaks
from asymtalker.commands.jobs import generate_jobs
from asymtalker.errors import UserError
from asymtalker.media.portrait import parse_size


def generate(settings: Generate) -> None:
    """The ``generate`` verb: progress and remarks on stderr, the paths of the videos on stdout."""
    given = {f"--{name}": getattr(settings, name) for name in ("image", "audio", "output")}
    if settings.jobs is not None:
        if any(given.values()):
            raise UserError("Give either --jobs, or --image, --audio and --output: a list names its own files.")
        return generate_jobs(settings)
    if missing := [flag for flag, path in given.items() if path is None]:
        raise UserError(f"Missing: {', '.join(missing)}. See asymtalker generate --help.")
    _generate_one(settings, *given.values())


def _generate_one(settings: Generate, image: Path, audio: Path, output: Path) -> None:
    if settings.size:
        parse_size(settings.size)
    check_paths(image, audio, output)
    with progress_bars() as bars:
        say, bar = beside(bars), bars.add_task("reading picture and sound", total=None)
        from asymtalker.generate.inputs import FileRequest, read_ahead  # takes seconds

        read = read_ahead(FileRequest(image, audio, output, **settings.request(), say=say), settings.model)
        bars.update(bar, description="loading")
        pipeline = load(settings, bars)
        pipeline.generate_to_file(
            image,
            audio,
            output,
            **settings.request(),
            progress=lambda done, total: bars.update(bar, description="generating", completed=done, total=total),
            say=say,
            read=read,
        )
    if speaks():
        print(output)
