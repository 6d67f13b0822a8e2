"""Videos of drawn faces that talk, in a corpus and as files, and a readout with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from asymtalker.corpus import NewClip, ShardWriter, open_clip
from asymtalker.evaluate.clips import CorpusClip
from asymtalker.models.readout import FaceReadout, readings_of
from asymtalker.video import write_video
from drawn_face import background, draw_face

SIDE = 160
FRAMES = 40


def drawn_clip(seed: int, frames: int = FRAMES) -> NewClip:
    """A face that nods and opens its mouth with a tone."""
    rng = np.random.default_rng(seed)
    tint = rng.integers(-25, 25, 3)
    seconds = np.arange(frames) / 25
    opening = 0.5 - 0.5 * np.cos(2 * np.pi * (2 + 0.3 * seed) * seconds)
    nod = 3 * np.sin(2 * np.pi * 0.8 * seconds + seed)
    pictures = []
    for index in range(frames):
        picture = draw_face(background(SIDE, SIDE), (80, 82 + round(nod[index])), 80).astype(int) + tint
        lips = round(104 + nod[index])
        picture[lips : lips + 2 + round(8 * opening[index]), 70:90] = (40, 10, 20)
        pictures.append(picture.clip(0, 255).astype(np.uint8))
    time = np.arange(frames * 640) / 16_000
    tone = 0.5 * np.interp(time, seconds, opening) * np.sin(2 * np.pi * (150 + 20 * seed) * time)
    return NewClip(
        key=f"drawn{seed}",
        split="test",
        source_id=f"drawn{seed}",
        identity_id=f"drawn{seed}",
        voice_id=f"tone{seed}",
        kind="rendered",
        frames=np.stack(pictures),
        mask=np.zeros((frames, SIDE, SIDE), np.uint8),
        audio=tone.astype(np.float32),
        ground_truth={
            "lip_aperture": opening.tolist(),
            "head_pose": [[0, pitch, 0, 0, 0, 0] for pitch in nod.tolist()],
            "blendshapes": {
                "names": ["jawOpen", "eyeBlinkLeft", "eyeBlinkRight"],
                "weights": [[weight, 0, 0] for weight in opening.tolist()],
            },
        },
    )


@pytest.fixture(scope="session")
def drawn_corpus(tmp_path_factory) -> Path:
    """Three held-out clips of 40 frames, 160 x 160."""
    writer = ShardWriter(tmp_path_factory.mktemp("drawn"))
    writer.write(0, [drawn_clip(seed) for seed in range(3)])
    writer.write_manifest()
    return writer.folder


@pytest.fixture(scope="session")
def drawn_videos(drawn_corpus, tmp_path_factory) -> Path:
    """The same clips as files."""
    folder = tmp_path_factory.mktemp("videos")
    for seed in range(3):
        clip = open_clip(drawn_corpus, f"drawn{seed}")
        write_video(folder / f"drawn{seed}.mp4", clip.frames(), clip.audio())
    return folder


@pytest.fixture(scope="session")
def readout(drawn_corpus) -> FaceReadout:
    """A readout with random weights, of what drawn clips say."""
    torch.manual_seed(0)
    truth = open_clip(drawn_corpus, "drawn0").info["ground_truth"]
    names, values = readings_of(truth)
    return FaceReadout(names, values.mean(0).tolist(), values.std(0).tolist(), width=8).eval()


@pytest.fixture
def drawn(drawn_corpus) -> CorpusClip:
    return CorpusClip(open_clip(drawn_corpus, "drawn1"))
