"""Videos of drawn faces that talk, in a corpus and as files, and a readout with random weights."""

from pathlib import Path

import pytest
import torch

from asymtalker.dataset.corpus import ShardWriter, open_clip
from asymtalker.evaluate.clips import CorpusClip
from asymtalker.media.video import write_video
from asymtalker.models.readout import FaceReadout, readings_of
from drawn_face import drawn_clip


@pytest.fixture(scope="session")
def drawn_corpus(tmp_path_factory) -> Path:
    """Three held-out clips of 60 frames, 160 x 160."""
    writer = ShardWriter(tmp_path_factory.mktemp("drawn"))
    writer.write(0, [drawn_clip(seed) for seed in range(3)])
    writer.write_manifest()
    return writer.folder


@pytest.fixture(scope="session")
def drawn_videos(drawn_corpus, tmp_path_factory) -> Path:
    """The same clips as files, framed as they are."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "method.json").write_text('{"framed": true}')
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
    return CorpusClip(drawn_corpus, open_clip(drawn_corpus, "drawn1").row)
