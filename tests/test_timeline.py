from itertools import pairwise

import pytest

from asymtalker import timeline


def test_frames_cover_all_samples():
    assert [timeline.frames_of_samples(n) for n in (0, 1, 640, 641, 1280)] == [0, 1, 1, 2, 2]


def test_latents_and_frames_are_inverse():
    for latents in range(1, 30):
        assert timeline.latents_of_frames(timeline.frames_of_latents(latents)) == latents


@pytest.mark.parametrize("frames", [0, -3, 2, 4, 80])
def test_other_lengths_are_refused(frames):
    with pytest.raises(ValueError, match="1 \\+ 4m"):
        timeline.latents_of_frames(frames)


def test_audio_windows_tile_the_chunk():
    frames = [frame for latent in range(21) for frame in timeline.audio_window(latent, 0)]
    assert frames == list(range(81))


def test_audio_context_widens_both_sides():
    assert timeline.audio_window(0, 2) == range(-2, 3)
    assert timeline.audio_window(3, 2) == range(7, 15)


@pytest.mark.parametrize("num_frames", [1, 5, 80, 81, 82, 157, 158, 1000])
def test_chunks_add_every_frame_once(num_frames):
    spans = list(timeline.chunk_spans(num_frames, 81, 5))
    assert [frame for span in spans for frame in span.new] == list(range(num_frames))
    assert spans[0].continuity == 0
    for before, span in pairwise(spans):
        assert span.continuity == 5
        assert span.start == before.stop - 5
        assert span.stop - span.start == 81


@pytest.mark.parametrize(("chunk", "continuity"), [(80, 5), (81, 4), (9, 9), (5, 9)])
def test_chunks_that_cannot_be_are_refused(chunk, continuity):
    with pytest.raises(ValueError, match=r"1 \+ 4m|shorter"):
        list(timeline.chunk_spans(10, chunk, continuity))


@pytest.mark.parametrize("context", [0, 2, 8])
def test_a_chunk_hears_what_the_windows_of_its_latent_frames_ask_for(context):
    spans = [timeline.Span.alone(81), *timeline.chunk_spans(300, 81, 5)]
    for span in spans:
        windows = [timeline.audio_window(latent, context) for latent in range(21)]
        asked = (span.start + windows[0].start, span.start + windows[-1].stop)
        assert span.heard(context) == asked
