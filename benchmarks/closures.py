"""How often lips shut at p, b and m of clean synthetic voices that no training heard, by the motion a model makes:

    python benchmarks/closures.py --corpus CORPUS [--voices 24] [--out FILE.json] NAME=MODEL ...

Each MODEL is a checkpoint with a codec of motion; CORPUS has photo heads that are held out, which speak in turn, from
the frame in which their lips are most nearly shut. Of each closure counts the least aperture within a frame of its
time, as in ``asymtalker evaluate --corpus``, but read off the motion, not off frames; by how long it lasts, besides.
And vowels at which lips stay shut, which they should at none.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablations import Clip, Model
from asymtalker.bench.machine import describe_machine
from asymtalker.dataset.chunks import usable_clips
from asymtalker.errors import UserError
from asymtalker.evaluate.measure.truth import CLOSED, closing_apertures
from asymtalker.generate.pipeline import AsymTalkerPipeline
from asymtalker.media.atomic import write_atomic
from asymtalker.media.face_readings import lip_aperture
from asymtalker.media.sound import AudioSamples
from asymtalker.models.motion.codec import read_points
from asymtalker.synth.phonemes import DIPHTHONGS, VOWELS, phoneme_class
from asymtalker.synth.speech import speak
from asymtalker.timeline import FPS, SAMPLE_RATE

SECONDS = 9.6
HEADS = 8
LONG = (0.0, 0.06, 0.09, 1.0)  # seconds
Phonemes = Sequence[tuple[str, float, float]]


def held_out_heads(corpus: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures and their meshes ``(1, 478, 3)``."""
    heads = []
    for clip in usable_clips(corpus, 1, "test"):
        if clip.row.kind == "photo" and len(heads) < HEADS:
            try:
                frames = clip.frames(0, min(clip.num_frames, 4 * FPS))
                points = read_points(frames)
            except UserError:  # of a head that is drawn turned away
                continue
            rest = int(np.argmin(lip_aperture(points)))
            heads.append((frames[rest], points[rest : rest + 1]))
    return heads


def widest_at_vowels(aperture: np.ndarray, phonemes: Phonemes) -> Iterator[float]:
    """The aperture of each vowel, where it is widest, of those that last longer than the first of :data:`LONG`."""
    for symbol, start, end in phonemes:
        frames = aperture[math.ceil(start * FPS) : math.floor(end * FPS) + 1]
        if phoneme_class(symbol) in (*VOWELS, *DIPHTHONGS) and end - start > LONG[1] and len(frames):
            yield float(frames.max())


def lips_of(
    model: Model, heads: list[tuple[np.ndarray, np.ndarray]], voices: int
) -> Iterator[tuple[np.ndarray, Phonemes]]:
    """The aperture of the lips in each frame, and what is said."""
    for number in range(voices):
        speech = speak(np.random.default_rng([77, number, True]), SECONDS, "test", 0.2)
        picture, points = heads[number % len(heads)]
        clip = Clip(str(number), picture, points, AudioSamples(speech.samples, SAMPLE_RATE))
        motion, portrait = model.motion(clip, clip.sound, 0)
        aperture = lip_aperture(model.mesh(portrait, motion, points[0]))
        yield aperture, speech.phonemes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--voices", type=int, default=24)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    heads = held_out_heads(given.corpus)
    report: dict[str, Any] = {"machine": describe_machine("cpu"), "voices": given.voices, "models": {}}
    for one in given.models:
        name, _, folder = one.partition("=")
        pipeline = AsymTalkerPipeline.from_pretrained(folder or None)
        spoken = list(lips_of(Model(pipeline, False), heads, given.voices))
        lasting, least = np.array([closing for one in spoken for closing in closing_apertures(*one)]).T
        vowels = np.array([widest for one in spoken for widest in widest_at_vowels(*one)])
        of_length = np.digitize(lasting, LONG[1:-1])
        report["models"][name] = {
            "closures": len(least),
            "steps": pipeline.settings.sampler.num_steps,
            "guidance": pipeline.settings.sampler.guidance_scale,
            "shut": round(float((least <= CLOSED).mean()), 3),
            "within twice that": round(float((least <= 2 * CLOSED).mean()), 3),
            "shut by length": {
                f"{LONG[index]:g} to {LONG[index + 1]:g} s": round(
                    float((least[of_length == index] <= CLOSED).mean()), 3
                )
                for index in range(len(LONG) - 1)
            },
            "vowels": len(vowels),
            "vowels shut": round(float((vowels <= CLOSED).mean()), 3),
        }
    text = json.dumps(report, indent=1) + "\n"
    print(text)
    if given.out:
        write_atomic(given.out, text)


if __name__ == "__main__":
    main()
