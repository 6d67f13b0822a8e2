"""Lists of clips to cut from videos: a table of our own, and the published lists of HDTF and VFHQ.

A list is a TSV file with a header and these columns; all but the first two may be missing:

- ``name``: of the clip and its files.
- ``video``: path below the folder of videos; the file may have another suffix, as ``.webm`` for ``.mp4``.
- ``start``, ``end``: seconds of the video; empty for its beginning and its end.
- ``crop``: ``left,top,width,height`` in pixels of the video, or ``left,top,width,height@lines`` in pixels of a picture
  that is ``lines`` pixels high, for videos that exist in several sizes; empty to find the face.
- ``url``: where the video can be had.

The published lists of HDTF and VFHQ are read as they are (:func:`read_hdtf`, :func:`read_vfhq`).
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asymtalker.errors import UserError
from asymtalker.media.video import VIDEO_SUFFIXES

COLUMNS = ("name", "video", "start", "end", "crop", "url")


@dataclass(frozen=True, kw_only=True)
class ListedClip:
    """One row of a list."""

    name: str
    video: str
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; ``None`` for the end of the video."""
    crop: tuple[int, int, int, int] | None = None
    """Left, top, width and height in pixels; ``None`` to find the face."""
    lines: int | None = None
    """Height of the picture that ``crop`` was measured in; ``None`` for the video's own."""
    url: str = ""

    def row(self) -> tuple[str, ...]:
        """The values of :data:`COLUMNS`."""
        crop = "" if self.crop is None else ",".join(map(str, self.crop)) + (f"@{self.lines}" if self.lines else "")
        end = "" if self.end is None else str(self.end)
        return self.name, self.video, str(self.start), end, crop, self.url


def read_list(source: str) -> list[ListedClip]:
    """The clips of a list: a TSV file, ``hdtf:FOLDER`` or ``vfhq:FOLDER``.

    Raises:
        UserError: if there is no such list, it holds no clip, or a row makes no sense; the sentence names the row.
    """
    kind, _, folder = source.partition(":")
    readers = {"hdtf": read_hdtf, "vfhq": read_vfhq}
    clips = readers[kind](Path(folder)) if kind in readers and folder else read_table(Path(source))
    if not clips:
        raise UserError(f"The list {source} has no clips: give another.")
    names: set[str] = set()
    for clip in clips:
        if clip.name in names:
            raise UserError(f"The list {source} has two clips with the name {clip.name}: rename one.")
        if not re.fullmatch(r"[^./\\\s][^/\\\t\r\n]*", clip.name):
            raise UserError(f"The list {source} has the clip name {clip.name!r}, which is no file name: rename it.")
        if not clip.video or Path(clip.video).is_absolute() or ".." in Path(clip.video).parts:
            raise UserError(
                f"The video {clip.video!r} of the clip {clip.name} in {source} is no path below a folder: change it."
            )
        names.add(clip.name)
    return clips


def read_table(path: Path) -> list[ListedClip]:
    """The clips of a TSV file; see the module for its columns. Raises what :func:`read_list` raises."""
    lines = _lines(path)
    header = lines[0].split("\t") if lines else []
    if not {"name", "video"} <= set(header) <= set(COLUMNS):
        raise UserError(f"{path} is no list of clips: its first line must name the columns {', '.join(COLUMNS)}.")
    clips = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        row = dict.fromkeys(COLUMNS, "") | dict(zip(header, (cell.strip() for cell in line.split("\t")), strict=False))
        crop, _, height = row["crop"].partition("@")
        try:
            start, end = float(row["start"] or 0), float(row["end"]) if row["end"] else None
            left, top, width, tall = (int(value) for value in (crop or "0,0,2,2").split(","))
            lines_of_crop = max(2, int(height)) if height else None
        except ValueError:
            raise UserError(
                f"Line {number} of {path} is not understood: start and end are seconds, crop is "
                "left,top,width,height in pixels."
            ) from None
        if min(width, tall) < 2 or not 0 <= start < (math.inf if end is None else end) or math.inf in (start, end):
            raise UserError(f"Line {number} of {path} is an empty clip: end must lie after start, crop have an area.")
        clips.append(
            ListedClip(
                name=row["name"],
                video=row["video"],
                start=start,
                end=end,
                crop=(left, top, width, tall) if crop else None,
                lines=lines_of_crop,
                url=row["url"],
            )
        )
    return clips


def read_hdtf(folder: Path) -> list[ListedClip]:
    """The clips of HDTF (Zhang et al., CVPR 2021) from the files of ``HDTF_dataset`` in github.com/MRzzm/HDTF.

    For each part (RD, WDA, WRA) the columns, separated by blanks, are: in ``*_annotion_time.txt`` the video and the
    times of its clips (``Radio11.mp4 00:30-01:00 01:30-02:30``); in ``*_crop_wh.txt`` clip, left, width, top, height
    (``Radio11_0.mp4 412 599 0 599``) in pixels of a video of the height in ``*_resolution.txt``
    (``Radio11.mp4 720``); in ``*_video_url.txt`` the name of the video without suffix and its address.

    As in ``download.py`` there, a clip without a crop is left out (hands or a moving background), videos are called
    ``RD_Radio11.mp4`` and clips ``RD_Radio11_000``.

    Raises:
        UserError: if the files are missing or have another form.
    """
    tables = sorted(folder.glob("*_annotion_time.txt"))
    if not tables:
        raise UserError(f"{folder} has no annotations of HDTF (*_annotion_time.txt): give its folder HDTF_dataset.")
    clips = []
    for table in tables:
        part = table.name.removesuffix("_annotion_time.txt")
        crops, heights = (_columns(folder / f"{part}_{what}.txt") for what in ("crop_wh", "resolution"))
        urls = _columns(folder / f"{part}_video_url.txt") if (folder / f"{part}_video_url.txt").is_file() else {}
        for video, times in _columns(table).items():
            for index, span in enumerate(times):
                crop, height = crops.get(f"{video}_{index}"), heights.get(video)
                if crop is None or height is None:
                    continue
                try:
                    start, end = (_seconds(moment) for moment in span.split("-"))
                    left, width, top, tall = map(int, crop)
                    lines = int(height[0])
                except (ValueError, IndexError):
                    raise UserError(
                        f"The clip {video}_{index} in the {part} files of {folder} is not understood."
                    ) from None
                clips.append(
                    ListedClip(
                        name=f"{part}_{video}_{index:03d}",
                        video=f"{part}_{video}.mp4",
                        start=start,
                        end=end,
                        crop=(left, top, width, tall),
                        lines=lines,
                        url=" ".join(urls.get(video, ())),
                    )
                )
    return clips


def read_vfhq(folder: Path) -> list[ListedClip]:
    """The clips of VFHQ (Xie et al., CVPR Workshops 2022) from the files of its ``meta_info.zip``.

    A clip is a file ``Clip+<id at YouTube>+P<person>+C<clip>+F<first>-<last>.txt`` with lines that begin with ``H``
    and ``W`` (size of the video), ``FPS``, and ``CROP`` and end with the value; a crop's are left, top, right and
    bottom. As in VFHQ's own script (repeated in github.com/jinwonkim93/vfhq_processing) the clip lies between the two
    frames, which are counted from 0, and does not hold them; the size serves videos that exist in several, as in
    github.com/yunyu/vfhq-downloader. Videos are called by their id.

    Raises:
        UserError: if there are no such files or one has another form.
    """
    clips = []
    for path in sorted(folder.glob("Clip+*.txt")):
        rows = _lines(path)
        values = {key: line.split() for key in ("H", "FPS", "CROP") for line in rows if line.startswith(key)}
        name = re.fullmatch(r"Clip\+(.+)\+P\d+\+C\d+\+F(\d+)-(\d+)", path.stem)
        refusal = UserError(f"{path} is not understood: VFHQ's meta info has lines H, W, FPS and CROP.")
        if name is None:
            raise refusal
        video, first, last = name[1], int(name[2]), int(name[3])
        try:
            fps = float(values["FPS"][-1])
            left, top, right, bottom = (int(value) for value in values["CROP"][-4:])
            lines = int(values["H"][-1])
        except (KeyError, ValueError, IndexError):
            raise refusal from None
        if last - first < 2 or right <= left or bottom <= top or not 0 < fps < math.inf:
            raise UserError(f"{path} is an empty clip: delete it.")
        clips.append(
            ListedClip(
                name=path.stem,
                video=f"{video}.mp4",
                start=round((first + 1) / fps, 3),
                end=round(last / fps, 3),
                crop=(left, top, right - left, bottom - top),
                lines=lines,
                url=f"https://www.youtube.com/watch?v={video}",
            )
        )
    if not clips:
        raise UserError(
            f"{folder} has no meta info of VFHQ (Clip+*.txt): unpack its meta_info.zip and give the folder."
        )
    return clips


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"There is no {path}: check the path.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}).") from None


def _columns(path: Path) -> dict[str, list[str]]:
    """Cells separated by blanks, by the first of a row without its .mp4."""
    rows = (line.split() for line in _lines(path))
    return {row[0].removesuffix(".mp4"): row[1:] for row in rows if row}


def _seconds(clock: str) -> float:
    """``01:35`` or ``1:02:03`` in seconds."""
    total = 0.0
    for part in clock.split(":"):
        total = 60 * total + float(part)
    return total


def choose_clips(clips: Sequence[ListedClip], count: int | None, seed: int) -> list[ListedClip]:
    """``count`` of the clips, each as likely as the others, in order of the list; all if there are no more."""
    if count is None or count >= len(clips):
        return list(clips)
    chosen = np.random.default_rng(seed).choice(len(clips), count, replace=False)
    return [clips[index] for index in sorted(chosen)]


def find_video(folder: Path, video: str) -> Path | None:
    """The file of a video below ``folder``, perhaps with another suffix."""
    path = folder / video
    others = (path.with_suffix(suffix) for suffix in VIDEO_SUFFIXES if path.suffix.lower() in VIDEO_SUFFIXES)
    return next((candidate for candidate in (path, *others) if candidate.is_file()), None)
