"""How far the features of a sound that still grows are from those of all of it, by how much is heard ahead.

python benchmarks/look_ahead.py ENCODER SOUND...

Of each sound every tenth frame is heard with so many milliseconds after it and two seconds before it. Errors are root
mean squares over frames, in spreads of the features.
"""

import sys
from pathlib import Path

import torch

from asymtalker.media.sound import read_audio
from asymtalker.models.audio import ArraySource, AudioFeatures, load_audio_encoder
from asymtalker.parts.audio import feature_extractor

AHEAD = (0, 1, 2, 4, 8, 16)  # frames of 40 ms
EVERY = 10


def errors(encoder, sounds) -> dict[int, float]:
    """By frames ahead."""
    squares, count = dict.fromkeys(AHEAD, 0.0), 0
    wholes = []
    for samples in sounds:
        features = AudioFeatures(encoder, feature_extractor(), ArraySource(samples))
        frames = len(samples) // 640
        whole = features.frames(0, frames)[0]
        wholes.append(whole)
        for frame in range(EVERY, frames - max(AHEAD), EVERY):
            count += 1
            for ahead in AHEAD:
                squares[ahead] += (
                    features.latest(frame, frame + 1, ahead)[0, 0].sub(whole[frame]).square().sum().item()
                )
    spread = torch.cat(wholes).var(0).sum().item()
    return {ahead: (total / count / spread) ** 0.5 for ahead, total in squares.items()}


def main() -> None:
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    encoder = load_audio_encoder(Path(sys.argv[1])).eval().requires_grad_(False)
    found = errors(encoder, [read_audio(path) for path in sys.argv[2:]])
    print(", ".join(f"{40 * ahead} ms ahead: {error:.3f}" for ahead, error in found.items()))


if __name__ == "__main__":
    main()
