"""Stage 7: where the face is in every frame: the hull of its mesh, or BiSeNet's parsing where its weights are."""

from typing import Any

from asymtalker.curate.framed import FramedClip
from asymtalker.dataset.corpus import video_writer
from asymtalker.media.atomic import atomic_path
from asymtalker.media.face_readings import face_mask

MASK_QUALITY = 18
"""x264's rate factor: a mask of 75 frames takes some kilobytes."""


def write_masks(clip: FramedClip) -> dict[str, Any]:
    """Write ``mask.mp4``, grey, face = 255; returns ``face_share``, the part of the picture that is face."""
    side = next(clip.frames()).shape[0]
    covered = 0.0
    with (
        atomic_path(clip.folder / "mask.mp4") as partial,
        partial.open("wb") as file,
        video_writer(file, crf=MASK_QUALITY) as write,
    ):
        for points in clip.filled:
            mask = face_mask(points, side, side)
            covered += float((mask > 0).mean())
            write(mask)
    return {"face_share": covered / len(clip.filled)}
