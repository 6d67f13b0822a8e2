"""How well a codec of motion makes real frames anew, of their first frame and the motion that it reads:

    python benchmarks/reconstruction.py --model MODEL [--corpus CORPUS] [--clips FOLDER] --out FILE.json

of the held-out clips of a corpus (split ``test``) and of the videos of a folder, framed. PSNR in dB over the whole
picture and over the mouth's square, as means over frames; sharpness of the face over that of the true frames.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from asymtalker.bench.machine import describe_machine
from asymtalker.codec import to_frames
from asymtalker.dataset.corpus import read_clips
from asymtalker.evaluate.measure.readings import sharpness
from asymtalker.media.atomic import write_atomic
from asymtalker.media.portrait import crop_frame, find_faces
from asymtalker.media.video import decode_frames
from asymtalker.models.codecs import load_codec_network
from asymtalker.models.motion.codec import MotionCodecModel, mouth_square, read_points

SIZE = 256
AT_ONCE = 8


def held_out(corpus: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and frames of a corpus' clips of people that were never trained on."""
    for clip in read_clips(corpus):
        if clip.row.split == "test":
            yield f"{clip.row.kind}/{clip.key}", clip.frames()


def framed(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and frames of a folder's videos, as the pipeline frames a portrait."""
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".mpg", ".mp4")):
        frames = np.stack(list(decode_frames(path, resample=True)))
        box = find_faces(frames[0])[0]
        yield f"{folder.name}/{path.stem}", np.stack([crop_frame(f, box, (SIZE, SIZE)).picture for f in frames])


def compare(vae: MotionCodecModel, frames: np.ndarray) -> dict[str, float]:
    """What is measured of one clip ``(F, H, W, 3)`` uint8."""
    points = read_points(frames)
    motion = torch.stack(vae.read_frames(frames, points, range(len(frames))))
    portrait = vae.portrait(frames[0], points[0])
    parts = [to_frames(vae.frames(portrait, part).transpose(0, 1)[None]) for part in motion.split(AT_ONCE)]
    made = np.concatenate(parts)
    _, poses = vae.change(portrait, motion)
    rows: dict[str, list[float]] = {"psnr": [], "mouth_psnr": [], "sharpness": []}
    squares = mouth_square(poses).numpy()
    for index in range(1, len(frames)):  # the first is the portrait itself
        error = (made[index].astype(np.float32) - frames[index]) ** 2
        (left, top), (right, bottom) = squares[index].min((1, 2)), squares[index].max((1, 2))
        mouth = error[max(0, int(top)) : int(bottom), max(0, int(left)) : int(right)]
        for name, part in (("psnr", error), ("mouth_psnr", mouth)):
            rows[name].append(float(10 * np.log10(255**2 / max(float(part.mean()), 1e-3))))
        rows["sharpness"].append(sharpness(made[index], points[index]) / sharpness(frames[index], points[index]))
    return {name: float(np.mean(values)) for name, values in rows.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    vae = load_codec_network(arguments.model / "vae")
    if not isinstance(vae, MotionCodecModel):
        parser.error(f"{arguments.model} has no codec of motion")
    found: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        for videos in ([held_out(arguments.corpus)] if arguments.corpus else []) + (
            [framed(arguments.clips)] if arguments.clips else []
        ):
            for name, frames in videos:
                found[name] = compare(vae, frames)
                print(name, {key: round(value, 2) for key, value in found[name].items()}, flush=True)
    kinds: dict[str, dict[str, float]] = {}
    for kind in sorted({name.split("/")[0] for name in found}):
        rows = [values for name, values in found.items() if name.split("/")[0] == kind]
        kinds[kind] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} | {"clips": len(rows)}
        print(kind, {key: round(value, 3) for key, value in kinds[kind].items()})
    report = {"machine": describe_machine("cpu"), "means": kinds, "clips": found}
    write_atomic(arguments.out, json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
