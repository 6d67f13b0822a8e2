"""The held-out loss: the same chunks and noise at every noise level and every time."""

import pytest

from asymtalker.dataset.batches import ChunkSource
from asymtalker.train.teacher import HELD_OUT_SIGMAS, held_out_losses
from asymtalker.training.frozen import load_frozen
from toy import TOY_CHUNK, toy_loop, toy_teacher, toy_transformer


@pytest.fixture
def frozen(tiny_pipeline_folder):
    return load_frozen(tiny_pipeline_folder, "tre", toy_loop())


def test_held_out_chunks_are_drawn_once_for_all_noise_levels(toy_corpus, frozen, monkeypatch):
    source = ChunkSource(toy_corpus, "test", frozen, TOY_CHUNK)
    real, drawn = source.batch, []

    def noted(*arguments, **options):
        drawn.append(options)
        return real(*arguments, **options)

    monkeypatch.setattr(source, "batch", noted)
    config, transformer = toy_teacher(), toy_transformer()
    losses = held_out_losses(config, transformer, frozen, source)
    assert len(drawn) == 1, "the same batch is encoded for each noise level"
    assert not drawn[0]["masks"]
    assert len(losses) == len(HELD_OUT_SIGMAS) + 3
    assert losses == held_out_losses(config, transformer, frozen, source)
    other = toy_teacher(loop=toy_loop(seed=2**32))  # which was 0 to a generator of 32 bits
    assert losses != held_out_losses(other, transformer, frozen, source)
