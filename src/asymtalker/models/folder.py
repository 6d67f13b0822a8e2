"""The folder of a saved network or checkpoint, without what it takes to load one: where it is and what it holds."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asymtalker.errors import UserError

MOTION_CODEC = "MotionCodecModel"


def read_settings(path: Path, kind: str) -> dict[str, Any]:
    """What a JSON file of diffusers (``config.json``, ``model_index.json``) tells of a class.

    Args:
        path: the file.
        kind: name of the class it has to be of.

    Raises:
        UserError: if it is missing, damaged, or of another class.
    """
    below = sorted(file.parent for file in path.parent.glob(f"*/{path.name}"))
    hint = f": did you mean {below[0]}?" if below else f": give the folder of a saved {kind}."
    if not path.is_file():
        raise UserError(f"{path.parent} has no {path.name}{hint}")
    try:
        settings = json.loads(path.read_text())
        found = settings.get("_class_name")
    except (ValueError, AttributeError, OSError) as error:
        raise UserError(f"{path} is damaged: make or fetch it anew.") from error
    if found != kind:
        raise UserError(f"{path} tells of {f'a {found}' if found else 'no network'}, not of {kind}{hint}")
    return settings


def moves_pictures(codec: Path) -> bool:
    """Whether a saved codec is one of motion, :class:`asymtalker.models.motion.codec.MotionCodecModel`."""
    try:
        read_settings(codec / "config.json", MOTION_CODEC)
    except UserError:  # which whoever loads it will say
        return False
    return True


def find_folder(name: str | Path, patterns: Sequence[str] = ("*.json", "*.safetensors")) -> Path:
    """The local folder of a published or saved model, fetched from the Hugging Face hub if need be.

    Args:
        name: a folder, or ``owner/name`` on the hub.
        patterns: what to fetch of it.

    Raises:
        UserError: if it is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"The checkpoint {name} is a file: give the folder that it is in.")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)):
        raise UserError(f"The checkpoint folder {name} does not exist: check the path.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(patterns)))
    except (HTTPError, ValueError, OSError) as error:  # of the connection, of the name, of the disk
        raise UserError(
            f"The checkpoint {name} is no folder here, and could not be fetched from the hub ({type(error).__name__}):"
            " check the name and the connection."
        ) from error
