"""The verb ``generate``: one video, or all of a list (``jobs.py``)."""

from pathlib import Path

from asymtalker.commands.generation import Generate, check_paths, load, progress_bars, speaks
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
    check_paths(image, audio, output)  # before the seconds that loading takes
    with progress_bars() as bars:
        bar = bars.add_task("loading", total=None)
        pipeline, say = load(settings, bars)
        bars.update(bar, description="reading the sound")
        pipeline.generate_to_file(
            image,
            audio,
            output,
            **settings.request(),
            progress=lambda done, total: bars.update(bar, description="generating", completed=done, total=total),
            say=say,
        )
    if speaks():
        print(output)
