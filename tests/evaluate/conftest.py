"""A clip of a drawn face that talks, and a readout with random weights."""

import pytest
import torch

from asymtalker.dataset.corpus import open_clip
from asymtalker.evaluate.clips import CorpusClip
from asymtalker.models.readout import FaceReadout, readings_of


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
