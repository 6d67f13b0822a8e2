"""wav2vec2 features at 25 FPS: frame ``k`` always sees second ``k/25``, whatever the chunk (section 3.1)."""

from collections import OrderedDict
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker import timeline
from asymtalker.config import AudioEncoderConfig
from asymtalker.media.read import window
from asymtalker.models.loading import send

BLOCK_FRAMES = 100
"""Features are computed for 4 s at a time, on a grid fixed to the start of the sound."""
CONTEXT_FRAMES = 25
"""Sound heard before and after a block, so that its edges do not show."""
STRIDE, RECEPTIVE_FIELD = 320, 400  # samples, of every wav2vec2


class SampleSource(Protocol):
    """Sound of any length, read piece by piece."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``[start, stop)`` at 16 kHz, float32 in [-1, 1]; zeros outside the sound."""
        ...


class ArraySource:
    """Sound that is in memory already: ``(N,)`` float32 at 16 kHz."""

    def __init__(self, samples: np.ndarray):
        self.samples = samples

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``[start, stop)``, zeros outside."""
        return window(self.samples, start, stop)


def build_audio_encoder(config: AudioEncoderConfig) -> Wav2Vec2Model:
    """A wav2vec2 with random weights. Every size is transformers' own class."""
    return Wav2Vec2Model(
        Wav2Vec2Config(
            conv_dim=list(config.conv_dim),
            conv_kernel=list(config.conv_kernel),
            conv_stride=list(config.conv_stride),
            num_feat_extract_layers=len(config.conv_dim),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=8,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
        )
    )


def at_frames(hidden: Tensor, first: int, num_frames: int) -> Tensor:
    """Resample wav2vec2 outputs to video frames by linear interpolation.

    Output ``j`` of wav2vec2 is centred on sample ``320 j + 200`` of its input.

    Args:
        hidden: ``(B, N, A)`` outputs.
        first: sample of the input at which the first wanted frame stands; the others follow every 640 samples.
        num_frames: frames wanted.

    Returns:
        ``(B, num_frames, A)``.
    """
    samples = first + timeline.SAMPLES_PER_FRAME * torch.arange(num_frames, device=hidden.device)
    position = ((samples - RECEPTIVE_FIELD / 2) / STRIDE).clamp(0, hidden.shape[1] - 1)
    low = position.floor().long()
    high = (low + 1).clamp_max(hidden.shape[1] - 1)
    weight = (position - low).to(hidden.dtype)[None, :, None]
    return torch.lerp(hidden[:, low], hidden[:, high], weight)


class AudioFeatures:
    """Features of one sound, computed block by block as they are asked for; memory does not grow with length.

    Args:
        encoder: a frozen wav2vec2.
        extractor: its feature extractor (normalisation of the waveform).
        source: the sound.
        autocast: precision to run in, ``None`` for the weights' own.
    """

    def __init__(
        self,
        encoder: Wav2Vec2Model,
        extractor: Wav2Vec2FeatureExtractor,
        source: SampleSource,
        autocast: torch.dtype | None = None,
    ):
        self.encoder = encoder
        self.extractor = extractor
        self.source = source
        self.autocast = autocast
        self._blocks: OrderedDict[int, Tensor] = OrderedDict()

    def frames(self, start: int, stop: int) -> Tensor:
        """Features ``(1, stop - start, A)`` of frames ``[start, stop)``; outside the sound there is silence."""
        blocks = range(start // BLOCK_FRAMES, (stop - 1) // BLOCK_FRAMES + 1)
        features = torch.cat([self._block(index) for index in blocks], dim=1)
        offset = blocks.start * BLOCK_FRAMES
        return features[:, start - offset : stop - offset]

    @torch.no_grad()
    def _block(self, index: int) -> Tensor:
        if index not in self._blocks:
            first = (index * BLOCK_FRAMES - CONTEXT_FRAMES) * timeline.SAMPLES_PER_FRAME
            length = (BLOCK_FRAMES + 2 * CONTEXT_FRAMES) * timeline.SAMPLES_PER_FRAME
            samples = self.source.read(first, first + length)
            inputs = self.extractor(samples, sampling_rate=timeline.SAMPLE_RATE, return_tensors="pt").input_values
            device = self.encoder.device
            inputs = send(inputs, device).to(self.encoder.dtype)
            with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
                hidden = self.encoder(inputs).last_hidden_state.float()
            self._blocks[index] = at_frames(hidden, CONTEXT_FRAMES * timeline.SAMPLES_PER_FRAME, BLOCK_FRAMES)
            if len(self._blocks) > 4:  # a chunk with its context spans three blocks at most
                self._blocks.popitem(last=False)
        return self._blocks[index]
