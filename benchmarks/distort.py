"""Known distortions of real clips, to see that each metric moves for what it measures and stays put for the rest.

    python benchmarks/distort.py CORPUS OUT [CLIPS]
    asymtalker evaluate --corpus CORPUS --clips CLIPS --out REPORT --compare same=OUT/same blur=OUT/blur ...

Writes a folder of videos per distortion, of the first CLIPS (20) held-out clips of a corpus.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from asymtalker.evaluate.clips import CorpusClip, open_reference
from asymtalker.media.video import VideoWriter
from asymtalker.timeline import SAMPLE_RATE

BLUR_SIGMA = 0.012
"""Of the picture's side: 3 pixels of 256."""
COLOUR = np.array([18, 0, -18], np.int16)
LATE_SECONDS = 0.2


def same(clip: CorpusClip, _: CorpusClip) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """The clip as it is, through one more compression."""
    return clip.frames(), clip.sound()


def blur(clip: CorpusClip, _: CorpusClip) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Out of focus."""
    sigma = BLUR_SIGMA * clip.size[0]
    return (cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip.frames()), clip.sound()


def colour(clip: CorpusClip, _: CorpusClip) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Towards red, more and more to the end."""
    last = clip.clip.num_frames - 1
    frames = (
        (frame + COLOUR * (number / last)).round().clip(0, 255).astype(np.uint8)
        for number, frame in enumerate(clip.frames())
    )
    return frames, clip.sound()


def late_sound(clip: CorpusClip, _: CorpusClip) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """The sound 200 ms late."""
    silence = np.zeros(round(LATE_SECONDS * SAMPLE_RATE), np.float32)
    sound = clip.sound()
    return clip.frames(), np.concatenate([silence, sound])[: len(sound)]


def swapped(clip: CorpusClip, other: CorpusClip) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Another person from half time on."""

    def frames() -> Iterator[np.ndarray]:
        half = clip.clip.num_frames // 2
        for number, (own, another) in enumerate(zip(clip.frames(), other.frames(), strict=False)):
            yield own if number < half else another

    return frames(), clip.sound()


def shuffled_sound(clip: CorpusClip, other: CorpusClip) -> tuple[Iterator[np.ndarray], np.ndarray]:
    """Another clip's sound."""
    return clip.frames(), other.sound()[: len(clip.sound())]


Distortion = Callable[[CorpusClip, CorpusClip], tuple[Iterator[np.ndarray], np.ndarray]]
DISTORTIONS: tuple[Distortion, ...] = (same, blur, colour, late_sound, swapped, shuffled_sound)


def main(corpus: Path, out: Path, count: int) -> None:
    """Write all folders; videos that are there are kept."""
    held_out = sorted(open_reference(corpus).clips.items())[:count]
    clips = [clip for _, clip in held_out if isinstance(clip, CorpusClip)]
    if not clips:
        print(f"{corpus} is no corpus: give one that asymtalker synth made.", file=sys.stderr)
        sys.exit(2)
    for index, clip in enumerate(track(clips, "distorting")):
        for distort in DISTORTIONS:
            target = out / distort.__name__ / f"{clip.name}.mp4"
            if target.exists():
                continue
            frames, sound = distort(clip, clips[index - 1])
            partial = target.with_name(f".{target.name}")
            with VideoWriter(partial, clip.size, audio_rate=SAMPLE_RATE) as writer:
                for frame in frames:
                    writer.write(frame[None])
                writer.write_audio(sound)
            partial.replace(target)
    names = [distort.__name__ for distort in DISTORTIONS]
    print("--compare", *(f"{name}={out / name}" for name in names))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 20)
