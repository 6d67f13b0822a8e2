"""Frames, latent frames, chunks and audio samples: pure integers, no torch.

A chunk holds ``chunk_frames`` frames. The first ``continuity_frames`` of every chunk but the first repeat the tail of
the chunk before it (section 3.2), so the first chunk adds ``chunk_frames`` new frames and each later one
``chunk_frames - continuity_frames``.
"""

from dataclasses import dataclass

FPS = 25
SAMPLE_RATE = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640, exact
TEMPORAL_COMPRESSION = 4  # of the Wan VAE: 1 + 4m frames <-> 1 + m latent frames


def frames_of_samples(num_samples: int) -> int:
    """Frames that cover ``num_samples`` samples of 16 kHz audio (the last one may be partly covered)."""
    return -(-num_samples // SAMPLES_PER_FRAME)


def latents_of_frames(num_frames: int) -> int:
    """Latent frames of ``num_frames`` frames.

    Raises:
        ValueError: if ``num_frames`` is not ``1 + 4m``, the only lengths the causal VAE round-trips.
    """
    if num_frames < 1 or (num_frames - 1) % TEMPORAL_COMPRESSION:
        raise ValueError(f"a causal chunk has 1 + {TEMPORAL_COMPRESSION}m frames, got {num_frames}")
    return 1 + (num_frames - 1) // TEMPORAL_COMPRESSION


def frames_of_latents(num_latents: int) -> int:
    """Frames that ``num_latents`` latent frames decode to: ``1 + 4 (num_latents - 1)``."""
    return 1 + TEMPORAL_COMPRESSION * (num_latents - 1)


def audio_window(latent: int, context: int) -> range:
    """Frames (relative to the chunk's first) whose audio the tokens of latent frame ``latent`` attend to.

    Latent frame 0 decodes to frame 0, latent frame ``t > 0`` to frames ``4t-3 .. 4t``; ``context`` frames are added on
    both sides. Indices may lie outside the chunk: the caller supplies the audio there.
    """
    first = 0 if latent == 0 else TEMPORAL_COMPRESSION * (latent - 1) + 1
    last = TEMPORAL_COMPRESSION * latent
    return range(first - context, last + context + 1)


@dataclass(frozen=True, kw_only=True)
class Span:
    """One chunk on the video's time axis, in frames."""

    index: int
    start: int
    """First frame of the chunk; for a later chunk its first ``continuity`` frames are already written."""
    stop: int
    """One past the last frame of the chunk; may lie past the end of the video (padded with silence, then trimmed)."""
    continuity: int
    """Frames at the head that repeat the previous chunk: 0 for the first chunk."""
    new: range
    """Frames of the video this chunk adds, trimmed to the video's length."""

    @classmethod
    def alone(cls, num_frames: int) -> "Span":
        """A chunk of so many frames on a time axis of its own, as a chunk of a corpus is."""
        return cls(index=0, start=0, stop=num_frames, continuity=0, new=range(num_frames))

    def heard(self, context: int) -> tuple[int, int]:
        """First and one past the last of the frames whose sound the chunk's tokens attend to: its own and ``context``
        more on both sides (:func:`audio_window`)."""
        return self.start - context, self.stop + context


def chunk_spans(num_frames: int, chunk_frames: int, continuity_frames: int):
    """Yield the :class:`Span` of every chunk that a video of ``num_frames`` frames needs, in order.

    Raises:
        ValueError: if a length is not ``1 + 4m`` or a chunk would add no new frame.
    """
    latents_of_frames(chunk_frames)
    latents_of_frames(continuity_frames)
    if continuity_frames >= chunk_frames:
        raise ValueError(f"continuity ({continuity_frames}) must be shorter than the chunk ({chunk_frames})")
    index, start = 0, 0
    while True:
        continuity = continuity_frames if index else 0
        stop = start + chunk_frames
        if start + continuity >= num_frames:
            return
        yield Span(
            index=index,
            start=start,
            stop=stop,
            continuity=continuity,
            new=range(start + continuity, min(stop, num_frames)),
        )
        index, start = index + 1, stop - continuity_frames


def live_span(index: int, first: int, new_frames: int, chunk_frames: int, continuity_frames: int) -> Span:
    """The chunk that adds the ``new_frames`` frames from ``first`` on, of sound that still grows.

    It reaches further than the frames it adds, over sound that may not be known yet, and the next one begins before
    its end: what it says of those frames is not used.

    Raises:
        ValueError: if a length is not ``1 + 4m`` or it is too short for what it adds.
    """
    latents_of_frames(chunk_frames)
    latents_of_frames(continuity_frames)
    if new_frames < 1 or (continuity_frames if index else 0) + new_frames > chunk_frames:
        raise ValueError(f"a chunk of {chunk_frames} has no room for {new_frames} after {continuity_frames}")
    continuity = continuity_frames if index else 0
    start = first - continuity
    new = range(first, first + new_frames)
    return Span(index=index, start=start, stop=start + chunk_frames, continuity=continuity, new=new)
