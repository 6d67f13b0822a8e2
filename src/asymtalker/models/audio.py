"""Features of sound at 25 FPS: frame ``k`` always sees second ``k/25``, whatever the chunk (section 3.1)."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker import timeline
from asymtalker.config import AudioEncoderConfig
from asymtalker.media.sound import window
from asymtalker.models.loading import load_part, send
from asymtalker.models.speech_encoder import SpeechEncoder

BLOCK_FRAMES = 100
"""Features are computed for 4 s at a time, on a grid fixed to the start of the sound."""
CONTEXT_FRAMES = 25
"""Sound heard before and after a block, so that its edges do not show."""
PAST_FRAMES = 50
"""Sound heard before what is asked for, where sound still grows."""
STRIDE, RECEPTIVE_FIELD = 320, 400  # samples, of every wav2vec2
SCAN_SAMPLES = 6 * timeline.SAMPLE_RATE  # looked at together when a level is measured
VARIANCE_EPS = 1e-7  # of transformers' extractor
FLOOR_VARIANCE = 1e-4  # -40 dBFS: sound that still grows is not taken for quieter, or a pause would become speech


AudioEncoder = Wav2Vec2Model | SpeechEncoder
"""Published at the paper's size, ours at the bundled one. Either makes of samples one output every 320."""


class SampleSource(Protocol):
    """Sound of any length, read piece by piece."""

    @property
    def num_samples(self) -> int | None:
        """Length at 16 kHz; ``None`` for sound that still grows, which is asked for in order."""
        ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """Samples ``[start, stop)`` at 16 kHz, float32 in [-1, 1]; zeros outside the sound."""
        ...


class ArraySource:
    """Sound that is in memory already: ``(N,)`` float32 at 16 kHz."""

    def __init__(self, samples: np.ndarray):
        self.samples = samples
        self.num_samples = len(samples)

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


def load_audio_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> AudioEncoder:
    """The encoder in a folder, whichever it is. Raises what :func:`~asymtalker.models.loading.load_part` raises."""
    try:
        name = json.loads((folder / "config.json").read_text()).get("_class_name")
    except (OSError, ValueError, AttributeError):
        name = None  # loading says what is wrong
    return load_part(SpeechEncoder if name == SpeechEncoder.__name__ else Wav2Vec2Model, folder, dtype)


def audio_encoder_like(config: Wav2Vec2Config | Mapping[str, Any]) -> AudioEncoder:
    """An encoder with the settings of another, or with those settings as plain values."""
    if isinstance(config, Wav2Vec2Config):
        return Wav2Vec2Model(config)
    if "conv_dim" in config:
        return Wav2Vec2Model(Wav2Vec2Config(**config))
    return cast(SpeechEncoder, SpeechEncoder.from_config(dict(config)))


def first_centre(encoder: nn.Module) -> int:
    """Sample on which the first output is centred."""
    return 0 if isinstance(encoder, SpeechEncoder) else RECEPTIVE_FIELD // 2


def at_frames(hidden: Tensor, first: int, num_frames: int, centre: int = RECEPTIVE_FIELD // 2) -> Tensor:
    """Resample an encoder's outputs to video frames by linear interpolation.

    Output ``j`` is centred on sample ``320 j + centre`` of its input.

    Args:
        hidden: ``(B, N, A)`` outputs.
        first: sample of the input at which the first wanted frame stands; the others follow every 640 samples.
        num_frames: frames wanted.
        centre: see :func:`first_centre`.

    Returns:
        ``(B, num_frames, A)``.
    """
    samples = first + timeline.SAMPLES_PER_FRAME * torch.arange(num_frames, device=hidden.device)
    position = ((samples - centre) / STRIDE).clamp(0, hidden.shape[1] - 1)
    low = position.floor().long()
    high = (low + 1).clamp_max(hidden.shape[1] - 1)
    weight = (position - low).to(hidden.dtype)[None, :, None]
    return torch.lerp(hidden[:, low], hidden[:, high], weight)


class Level:
    """How loud a sound is, for encoders that were trained on waveforms of mean 0 and variance 1 (``do_normalize``).

    Such an encoder hears a whole recording at once, and its base size normalises the outputs of its first convolution
    over time once more (a group norm with a group for each channel). Done block by block, a pause between sentences
    would be raised to the level of speech, in steps every 4 s. So both are measured of the whole sound, in one scan
    before its first block. Sound that still grows is measured as far as it was asked for, and as no quieter than
    ``FLOOR_VARIANCE``.

    Args:
        encoder: the wav2vec2.
        source: the sound.
    """

    def __init__(self, encoder: Wav2Vec2Model, source: SampleSource):
        self.encoder, self.source = encoder, source
        first = cast(Any, encoder.feature_extractor.conv_layers[0])
        self.first = first if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm) else None
        self._read = self._outputs = 0
        self._sums = torch.zeros(2, 1, dtype=torch.float64)  # of samples, and of their squares
        self._conv_sums = torch.zeros(2, 1, dtype=torch.float64)  # of the first convolution's outputs, by channel

    def measure(self, stop: int) -> None:
        """Take in the sound up to sample ``stop``, or all of it where its length is known."""
        stop = stop if self.source.num_samples is None else self.source.num_samples
        while self._read < stop:
            last = min(self._read + SCAN_SAMPLES, stop)
            self._take(self._read, last, stop)
            self._read = last

    def _take(self, start: int, last: int, stop: int) -> None:
        overlap = self.first.conv.kernel_size[0] - self.first.conv.stride[0] if self.first else 0
        samples = torch.from_numpy(self.source.read(start, min(last + overlap, stop)))
        self._sums += _sums(samples[None, : last - start])
        if self.first and len(samples) >= self.first.conv.kernel_size[0]:
            conv, device = self.first.conv, self.encoder.device
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                # without its bias, which :meth:`_of_channels` adds
                outputs = F.conv1d(send(samples[None, None], device), conv.weight.float(), None, conv.stride)[0]
            self._conv_sums = self._conv_sums + _sums(outputs)
            self._outputs += outputs.shape[1]

    def _statistics(self) -> tuple[float, float, float]:
        """Mean of the samples, their variance, and what is added to that to count as the level."""
        mean, square = (self._sums[:, 0] / max(1, self._read)).tolist()
        variance = max(0.0, square - mean**2)
        floor = FLOOR_VARIANCE if self.source.num_samples is None else 0.0
        return mean, variance, max(0.0, floor - variance)

    def normalize(self, samples: Tensor) -> Tensor:
        """Samples ``(B, N)`` at this level: what transformers' extractor makes of the whole sound."""
        mean, variance, raised = self._statistics()
        return (samples - mean) / (variance + raised + VARIANCE_EPS) ** 0.5

    def encode(self, samples: Tensor) -> Tensor:
        """Outputs ``(B, N, A)`` of the encoder for samples ``(B, N)`` of the sound, at the level of all of it."""
        inputs = self.normalize(samples).to(self.encoder.dtype)
        if self.first is None or not self._outputs:
            return self.encoder(inputs).last_hidden_state
        # The network runs whole, as what offloads it sees no call of its parts.
        with self.first.layer_norm.register_forward_hook(self._by_the_whole_sound):
            return self.encoder(inputs).last_hidden_state

    def _by_the_whole_sound(self, norm: nn.GroupNorm, given: tuple[Tensor], output: Tensor) -> Tensor:
        """What the first convolution's norm is to give ``(B, C, N)``, in place of what it makes of a block."""
        mean, variance = (send(value, output.device) for value in self._of_channels())
        normed = F.batch_norm(given[0].float(), mean, variance, norm.weight.float(), norm.bias.float(), eps=norm.eps)
        return normed.type_as(output)

    def _of_channels(self) -> tuple[Tensor, Tensor]:
        """Mean and variance ``(C,)`` of the first convolution's outputs over the whole sound, normalised."""
        assert self.first is not None
        mean, variance, raised = self._statistics()
        weight, bias = self.first.conv.weight, self.first.conv.bias
        average, square = self._conv_sums / self._outputs
        spread = (square - average.square()).clamp_min(0)
        level = variance + raised + VARIANCE_EPS
        spread = spread * (1 + raised / max(variance, VARIANCE_EPS))  # the same sound, as loud as the floor
        shifted = (average - mean * weight.double().sum((1, 2)).cpu()) / level**0.5
        shifted = shifted if bias is None else shifted + bias.double().cpu()
        return shifted.float(), (spread / level).float()


def _sums(values: Tensor) -> Tensor:
    """Sums over time of ``(C, N)``, and of the squares: ``(2, C)`` in double precision on the CPU."""
    return torch.stack([values.float().sum(1), values.float().square().sum(1)]).cpu().double()


class AudioFeatures:
    """Features of one sound, computed block by block as they are asked for; memory does not grow with length.

    Args:
        encoder: a frozen encoder.
        extractor: its feature extractor, which tells whether sound is normalised (:class:`Level`).
        source: the sound.
        autocast: precision to run in, ``None`` for the weights' own.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        extractor: Wav2Vec2FeatureExtractor,
        source: SampleSource,
        autocast: torch.dtype | None = None,
    ):
        self.encoder = encoder
        self.level = Level(cast(Wav2Vec2Model, encoder), source) if extractor.do_normalize else None
        self.source = source
        self.autocast = autocast
        self._blocks: OrderedDict[int, Tensor] = OrderedDict()

    def frames(self, start: int, stop: int) -> Tensor:
        """Features ``(1, stop - start, A)`` of frames ``[start, stop)``; outside the sound there is silence."""
        blocks = range(start // BLOCK_FRAMES, (stop - 1) // BLOCK_FRAMES + 1)
        features = torch.cat([self._block(index) for index in blocks], dim=1)
        offset = blocks.start * BLOCK_FRAMES
        return features[:, start - offset : stop - offset]

    def latest(self, start: int, stop: int, ahead: int, past: int = PAST_FRAMES) -> Tensor:
        """Features ``(1, stop - start, A)`` of frames ``[start, stop)`` while the sound still grows: of the sound up
        to frame ``stop + ahead`` alone, and of ``past`` frames before ``start``.

        They are near those of :meth:`frames`, the nearer the more is heard ahead (docs/log.md has the figures). Where
        ``ahead`` is negative the last frames are given the features of the last that is heard.
        """
        first = start - past
        return self._heard(first, stop + ahead - first, start - first, stop - start)

    def _block(self, index: int) -> Tensor:
        if index not in self._blocks:
            first, length = index * BLOCK_FRAMES - CONTEXT_FRAMES, BLOCK_FRAMES + 2 * CONTEXT_FRAMES
            self._blocks[index] = self._heard(first, length, CONTEXT_FRAMES, BLOCK_FRAMES)
            if len(self._blocks) > 4:  # a chunk with its context spans three blocks at most
                self._blocks.popitem(last=False)
        return self._blocks[index]

    @torch.no_grad()
    def _heard(self, first: int, length: int, lead: int, count: int) -> Tensor:
        """``count`` frames, of which ``lead`` come before, of ``length`` frames of sound from frame ``first`` on."""
        start, stop = (frame * timeline.SAMPLES_PER_FRAME for frame in (first, first + length))
        device = self.encoder.device
        if self.level is not None:
            self.level.measure(stop)
        samples = send(torch.from_numpy(self.source.read(start, stop))[None], device)  # (1, N)
        with torch.autocast(device.type, self.autocast, enabled=self.autocast is not None):
            if self.level is None:
                hidden = self.encoder(samples.to(self.encoder.dtype)).last_hidden_state.float()
            else:
                hidden = self.level.encode(samples).float()
        return at_frames(hidden, lead * timeline.SAMPLES_PER_FRAME, count, first_centre(self.encoder))
