"""What hearing less at once costs lips: sessions of several settings on real clips, against the true lips.

python benchmarks/live_lips.py CLIPS [--seeds 2] [--size 256] [--out benchmarks/results/NAME.json]
    [--live frames,new,ahead,steps ...]

A session is told two seconds of silence and then a clip's sound, and its frames over the clip are read by the face
mesh, as `asymtalker evaluate` does; `file` is the video that generation of a file makes of the same. `latency` is what
sound has to wait for, new frames and those heard ahead; what it takes to make them comes on top.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.bench.machine import describe_machine, load_average
from asymtalker.bench.run import report_header
from asymtalker.config import LiveConfig
from asymtalker.evaluate.measure.truth import lip_score
from asymtalker.generate.pipeline import AsymTalkerPipeline, load_pipeline
from asymtalker.media.atomic import write_atomic
from asymtalker.media.face_mesh import track
from asymtalker.media.face_readings import lip_aperture
from asymtalker.media.sound import read_audio
from asymtalker.media.video import VIDEO_SUFFIXES, decode_frames
from asymtalker.serve.session import Portrait, Session
from asymtalker.timeline import FPS, SAMPLES_PER_FRAME

LEAD = 2 * FPS
DEFAULT = ("13,6,4,", "13,6,4,2", "13,4,4,", "17,6,6,", "13,8,2,")


def apertures(frames: np.ndarray) -> np.ndarray:
    """Of the lips in each frame; where the face is lost, the one before."""
    values = [np.nan if face is None else float(lip_aperture(face.points)) for face in track(frames)]
    for index, value in enumerate(values):
        if np.isnan(value):
            values[index] = values[index - 1] if index else 0.0
    return np.array(values)


def spoken(
    pipeline: AsymTalkerPipeline, portrait: Portrait, sound: np.ndarray, live: LiveConfig | None
) -> list[np.ndarray]:
    """Frames of a session that is told ``sound``."""
    with Session(pipeline, portrait, live, paced=False) as session:
        session.push(np.concatenate([np.zeros(LEAD * SAMPLES_PER_FRAME, np.float32), sound]))
        session.end()
        return [moment.picture for moment in session.moments() if moment.number >= LEAD]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--live", nargs="*", default=DEFAULT)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    load, pipeline = load_average(), load_pipeline(given.model, "cpu")
    clips = []
    for path in sorted(path for path in given.clips.iterdir() if path.suffix in VIDEO_SUFFIXES):
        frames = np.stack(list(decode_frames(path, resample=True)))
        clips.append((frames[0], read_audio(path), apertures(frames)))
    rows: list[dict[str, Any]] = []
    for text in ("file", *given.live):
        live = None
        if text != "file":
            frames, new, ahead, steps = text.split(",")
            live = LiveConfig(frames=int(frames), new=int(new), ahead=int(ahead), steps=int(steps) if steps else None)
        scores = []
        for picture, sound, truth in clips:
            for seed in range(given.seeds):
                portrait = Portrait(image=picture, seed=seed, size=(given.size, given.size))
                made = apertures(np.stack(spoken(pipeline, portrait, sound, live)))
                common = min(len(made), len(truth))
                scores.append(lip_score(truth[:common], made[:common]))
        rows.append(
            {
                "live": text,
                "latency_ms": None if live is None else round(1000 * (live.new + live.ahead) / FPS),
                "correlation": round(float(np.mean([score.correlation for score in scores])), 3),
                "lag_frames": round(float(np.mean([score.lag for score in scores])), 2),
                "amplitude": round(float(np.mean([score.amplitude or 0 for score in scores])), 2),
                "videos": len(scores),
            }
        )
        print(rows[-1], flush=True)
    settings = {"clips": len(clips), "seeds": given.seeds, "size": given.size, "model": pipeline.settings.name}
    if given.out:
        report = report_header("live lips", describe_machine("cpu") | load, settings) | {"rows": rows}
        write_atomic(given.out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
