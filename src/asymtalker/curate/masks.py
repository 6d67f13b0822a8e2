"""Stage 7: where the face is in every frame: the hull of its mesh, or BiSeNet's parsing where its weights are."""

from collections.abc import Callable
from typing import Any

import numpy as np

from asymtalker.curate.framed import FramedClip
from asymtalker.dataset.corpus import video_writer
from asymtalker.media.atomic import atomic_path
from asymtalker.media.face_readings import face_mask

MASK_QUALITY = 18
"""x264's rate factor: a mask of 75 frames takes some kilobytes."""


def write_masks(clip: FramedClip, parse: Callable[[np.ndarray], np.ndarray] | None = None) -> dict[str, Any]:
    """Write ``mask.mp4``, grey, face = 255: the hull of the mesh; or, as ``parsed.mp4``, what ``parse`` says of a
    frame. Returns the part of the picture that is face, as ``face_share`` or ``parsed_share``.
    """
    covered = 0.0
    with (
        atomic_path(clip.folder / ("parsed.mp4" if parse else "mask.mp4")) as partial,
        partial.open("wb") as file,
        video_writer(file, crf=MASK_QUALITY) as write,
    ):
        for frame, points in zip(clip.frames(), clip.filled, strict=True):
            mask = parse(frame) if parse else face_mask(points, *frame.shape[:2])
            covered += float((mask > 0).mean())
            write(mask)
    return {"parsed_share" if parse else "face_share": covered / len(clip.filled)}
