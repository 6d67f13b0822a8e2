"""A clip of a drawn face that talks."""

import pytest

from asymtalker.dataset.corpus import open_clip
from asymtalker.evaluate.clips import CorpusClip


@pytest.fixture
def drawn(drawn_corpus) -> CorpusClip:
    return CorpusClip(drawn_corpus, open_clip(drawn_corpus, "drawn1").row)
