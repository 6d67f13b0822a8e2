"""The folder of a checkpoint: where it is, and what its ``model_index.json`` says."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from asymtalker.config import ChunkConfig, IdentityStrategy, SamplerConfig
from asymtalker.errors import UserError
from asymtalker.models.folder import find_folder, moves_pictures, read_settings
from asymtalker.timeline import chunk_spans

PIPELINE = "AsymTalkerPipeline"
SAMPLE_SIZE = 256
"""Of a checkpoint that does not say."""


@dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """What ``model_index.json`` says beside the parts."""

    sample_size: int | tuple[int, int]
    chunk: ChunkConfig
    sampler: SamplerConfig
    identity: IdentityStrategy
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        return _sides(self.sample_size)


def _sides(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _is_number(value: Any, least: int = 1, kind: type = int) -> bool:
    return isinstance(value, (int, kind)) and not isinstance(value, bool) and value >= least


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) else [value, value]
    return len(sides) == 2 and all(map(_is_number, sides))


KNOWN: dict[str, Callable[[Any], bool]] = {
    "sample_size": _is_size,
    "chunk_frames": _is_number,
    "continuity_frames": _is_number,
    "num_inference_steps": _is_number,
    "guidance_scale": lambda value: _is_number(value, 0, float),
    "renew_noise": lambda value: isinstance(value, bool),
    "identity": lambda value: value in get_args(IdentityStrategy),
    "name": lambda value: isinstance(value, str),
}
"""What each setting of ``model_index.json`` may be."""


def _read_index(folder: Path, pipeline: str) -> dict[str, Any]:
    path = folder / "model_index.json"
    settings = read_settings(path, pipeline)
    for name, value in settings.items():
        if name in KNOWN and not KNOWN[name](value):
            raise UserError(f"{path} has a {name} that can't be: {value!r}. Make or fetch it anew.")
    usual = ChunkConfig()
    frames = settings.get("chunk_frames", usual.frames)
    try:
        next(chunk_spans(1, frames, settings.get("continuity_frames", usual.continuity_frames)))
    except ValueError as error:
        raise UserError(f"{path} has chunks that can't be: {error}. Make or fetch it anew.") from error
    return settings


def checkpoint_folder(name: str | Path | None) -> Path:
    """The local folder of a checkpoint, fetched from the hub if need be; ``None`` is the bundled one.

    Raises:
        UserError: if there is none.
    """
    if name is None:
        bundled = Path(str(resources.files("asymtalker"))) / "assets" / "tiny"
        if not bundled.is_dir():
            raise UserError("This installation has no bundled checkpoint: give one with --model.")
        return bundled
    return find_folder(name)


def frames_of(folder: Path) -> tuple[tuple[int, int], bool]:
    """Height and width of what a checkpoint makes, in pixels, and whether it moves pictures, which are then seen
    whole; without loading it.

    Raises:
        UserError: if it is none.
    """
    settings = _read_index(folder, PIPELINE)
    return _sides(settings.get("sample_size", SAMPLE_SIZE)), moves_pictures(folder / "vae")


def read_index(folder: Path, pipeline: str, parts: Collection[str]) -> dict[str, Any]:
    """The pipeline's settings in ``model_index.json``, after checking that the folder is whole.

    Args:
        folder: the checkpoint.
        pipeline: name of the class that is to load it.
        parts: what it cannot do without.

    Raises:
        UserError: if something is missing, damaged, or for another class.
    """
    content = _read_index(folder, pipeline)
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise UserError(f"The checkpoint {folder} is not whole: it lacks {', '.join(missing)}.")
    return {
        key: value
        for key, value in content.items()
        if not key.startswith("_") and key not in {*parts, "image_encoder"}
    }
