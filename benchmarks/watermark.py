"""What the watermark costs, what it survives, and how often it is found where it is not:
python benchmarks/watermark.py MARKABLE [--plain FOLDER] [--frames 25] [--out benchmarks/results/NAME.json]

MARKABLE is a folder of videos without a watermark (generate --no-watermark); their first frames are marked,
changed as people change videos, and searched. --plain is a folder of any videos without one, which are searched too.
Needs the extra evaluate.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, rotate

from asymtalker.bench.machine import describe_machine, load_average
from asymtalker.bench.run import report_header
from asymtalker.media.atomic import write_atomic
from asymtalker.media.video import VIDEO_SUFFIXES, decode_frames
from asymtalker.provenance.label import Label
from asymtalker.provenance.watermark import (
    CERTAIN,
    LIKELY,
    NUMBER_BITS,
    Watermark,
    find_watermark,
    luma,
    sync_strengths,
)

Change = Callable[[np.ndarray], np.ndarray]


def encode(frames: np.ndarray, codec: str, options: dict[str, str], container: str = "mp4") -> np.ndarray:
    """Frames through a codec and back."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as writer:
        stream = writer.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2
        stream.pix_fmt = "yuv420p"
        for frame in frames[:, : stream.height, : stream.width]:
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        writer.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as reader:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in reader.decode(video=0)])


def resize(frames: np.ndarray, scale: float) -> np.ndarray:
    """Frames made larger or smaller."""
    size = (round(frames.shape[2] * scale), round(frames.shape[1] * scale))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


def crop(frames: np.ndarray, share: float) -> np.ndarray:
    """Frames without a share of their height and width, cut off unevenly."""
    top, left = (round(side * share * 0.37) for side in frames.shape[1:3])
    height, width = (round(side * (1 - share)) for side in frames.shape[1:3])
    return frames[:, top : top + height, left : left + width]


def levels(frames: np.ndarray, gain: float, lift: float) -> np.ndarray:
    """Frames with another contrast and brightness."""
    return np.clip((frames.astype(np.float32) - 128) * gain + 128 + lift, 0, 255).astype(np.uint8)


def jpeg(frames: np.ndarray, quality: int) -> np.ndarray:
    """One frame as a JPEG picture."""
    file = io.BytesIO()
    Image.fromarray(frames[len(frames) // 2]).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))[None]


def gif(frames: np.ndarray) -> np.ndarray:
    """A GIF at a third of the frames and at most 320 wide, as chats make them, and its frames."""
    small = resize(frames[::3], min(1.0, 320 / frames.shape[2]))
    file, pictures = io.BytesIO(), [Image.fromarray(frame).quantize(256) for frame in small]
    pictures[0].save(file, "gif", save_all=True, append_images=pictures[1:])
    picture = Image.open(file)
    shown = []
    for index in range(picture.n_frames):
        picture.seek(index)
        shown.append(np.asarray(picture.convert("RGB")))
    return np.stack(shown)


X264, X265 = (partial(encode, codec=codec) for codec in ("libx264", "libx265"))
QUIET = {"x265-params": "log-level=none"}
CHANGES: dict[str, Change] = {
    "nothing": lambda frames: frames,
    **{f"H.264, crf {crf}": partial(X264, options={"crf": str(crf)}) for crf in (18, 23, 28, 33)},
    **{f"H.265, crf {crf}": partial(X265, options=QUIET | {"crf": str(crf)}) for crf in (23, 28, 33)},
    **{
        f"VP9, crf {crf}": partial(
            encode, codec="libvpx-vp9", options={"crf": str(crf), "b": "0", "cpu-used": "5"}, container="webm"
        )
        for crf in (31, 40)
    },
    **{
        f"AV1, crf {crf}": partial(encode, codec="libsvtav1", options={"crf": str(crf), "preset": "9"})
        for crf in (30, 40)
    },
    "scaled by 0.5, H.264 crf 23": lambda frames: X264(resize(frames, 0.5), options={"crf": "23"}),
    "scaled by 0.75, H.264 crf 23": lambda frames: X264(resize(frames, 0.75), options={"crf": "23"}),
    "scaled by 0.87, H.264 crf 23": lambda frames: X264(resize(frames, 0.87), options={"crf": "23"}),
    "scaled by 1.5, H.264 crf 28": lambda frames: X264(resize(frames, 1.5), options={"crf": "28"}),
    "cropped by 10%, H.264 crf 23": lambda frames: X264(crop(frames, 0.1), options={"crf": "23"}),
    "cropped by 30%, H.264 crf 23": lambda frames: X264(crop(frames, 0.3), options={"crf": "23"}),
    "brighter by 30": lambda frames: levels(frames, 1, 30),
    "contrast 0.7, H.264 crf 28": lambda frames: X264(levels(frames, 0.7, 0), options={"crf": "28"}),
    "contrast 1.3": lambda frames: levels(frames, 1.3, 0),
    "one frame of H.264 crf 23 (screenshot)": lambda frames: X264(frames, options={"crf": "23"})[len(frames) // 2][
        None
    ],
    "one frame as JPEG, quality 60": partial(jpeg, quality=60),
    "GIF, at most 320 wide": gif,
    "turned by 2 degrees": lambda frames: np.stack(
        [rotate(frame, 2, reshape=False, order=1, mode="nearest") for frame in frames[:3]]
    ),
    "mirrored": lambda frames: frames[:, :, ::-1],
}


def videos(folder: Path) -> list[Path]:
    """The videos of a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix in VIDEO_SUFFIXES)


def ssim(left: np.ndarray, right: np.ndarray) -> float:
    """Structural similarity of the brightness of two pictures (Gaussian window, sigma 1.5)."""
    x, y = luma(left).astype(np.float64), luma(right).astype(np.float64)
    blur = partial(gaussian_filter, sigma=1.5, truncate=3.5)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, both = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(values.mean())


def survival(folder: Path, count: int, changes: dict[str, Change]) -> Iterator[dict[str, Any]]:
    """Of each video: what the mark costs, and in which changed versions it was found."""
    for index, path in enumerate(videos(folder)):
        frames = np.stack(list(islice(decode_frames(path), count)))
        number = (0x9E3779B97F4A * (index + 1)) % (1 << NUMBER_BITS)
        watermark = Watermark(number, frames[0])
        marked = np.stack([watermark.mark(frame) for frame in frames])
        error = float(np.mean((marked.astype(np.float32) - frames) ** 2))
        row: dict[str, Any] = {
            "video": path.name,
            "size": list(frames.shape[1:3]),
            "psnr": round(10 * np.log10(255**2 / error), 2),
            "ssim": round(ssim(marked[0], frames[0]), 5),
            "found": {},
            "strength": {},
        }
        for name, change in changes.items():
            begin = time.process_time()
            found = find_watermark(change(marked))
            right = found is not None and found.number == number
            row["found"][name] = right
            row["strength"][name] = round(found.strength, 1) if found else None
            assert found is None or right, "a wrong number passed the checksum"
            print(f"{path.name}: {name}: {right} ({time.process_time() - begin:.1f} s)", flush=True)
        yield row


def false_alarms(folder: Path) -> dict[str, Any]:
    """How far the sync chips stand out in videos without a watermark, and in how many one is found."""
    strengths, found = [], 0
    for path in videos(folder):
        frames = list(islice(decode_frames(path), 0, 60, 5))
        strengths.append(sync_strengths(frames))
        if max(strengths[-1]) > LIKELY - 1:  # below, nothing is even tried to be read
            found += find_watermark(frames) is not None
    usual, thorough = np.array(strengths).T
    return {
        "videos": len(strengths),
        "found": found,
        "strongest": {"usual scales": round(float(usual.max()), 2), "any scale": round(float(thorough.max()), 2)},
        "above_threshold": {
            "usual scales": int((usual >= LIKELY).sum()),
            "any scale": int((thorough >= CERTAIN).sum()),
        },
        "checksum_bits": 16,
    }


def speed(runs: int = 50) -> dict[str, Any]:
    """Milliseconds of one thread: to prepare, and for each frame; of the label too."""
    costs = {}
    for side in (256, 512, 720, 1280):
        frame = np.random.default_rng(0).integers(40, 200, (side, side, 3), np.uint8)
        begin = time.process_time()
        watermark = Watermark(1, frame)
        prepared = time.process_time()
        for _ in range(runs):
            watermark.mark(frame)
        marked = time.process_time()
        label = Label("AI-generated", (side, side))
        labelling = time.process_time()
        for _ in range(runs):
            label.draw(frame)
        costs[str(side)] = {
            "prepare_ms": round(1e3 * (prepared - begin), 1),
            "frame_ms": round(1e3 * (marked - prepared) / runs, 3),
            "label_frame_ms": round(1e3 * (time.process_time() - labelling) / runs, 3),
        }
    return costs


def table(report: dict[str, Any]) -> str:
    """The report for a person, in Markdown: in how many videos of each size the watermark was found."""
    sizes = sorted({min(row["size"]) for row in report["videos"]})
    lines = [f"| changed by | {' | '.join(map(str, sizes))} |", f"| --- |{' ---: |' * len(sizes)}"]
    for name in report["videos"][0]["found"]:
        cells = []
        for size in sizes:
            rows = [row for row in report["videos"] if min(row["size"]) == size]
            cells.append(f"{sum(row['found'][name] for row in rows)} of {len(rows)}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("markable", type=Path)
    parser.add_argument("--plain", type=Path)
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    load = load_average()
    report = report_header("watermark", describe_machine("cpu") | load, {"frames": given.frames})
    report |= {"speed": speed(), "videos": list(survival(given.markable, given.frames, CHANGES))}
    if given.plain:
        report["false_alarms"] = false_alarms(given.plain)
    print(table(report))
    print(json.dumps({key: report[key] for key in ("speed", "false_alarms") if key in report}, indent=2))
    if given.out:
        write_atomic(given.out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
