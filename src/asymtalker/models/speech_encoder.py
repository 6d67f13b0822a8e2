"""What the bundled model hears with: the encoder of Whisper in pieces of a few seconds, from a waveform on.

A drop-in for wav2vec2 (samples in, ``last_hidden_state`` out), which at this size it beats in quality and speed.
"""

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank
from transformers.modeling_outputs import BaseModelOutput

from asymtalker import timeline
from asymtalker.config import SpeechEncoderConfig

WINDOW, HOP, MELS = 400, 160, 80  # samples, samples, bands: Whisper's
FLOOR = -7.0
"""Powers (log10) below it are silence. Whisper's own floor lies 8 under the loudest moment, which sound that still
grows does not know."""


class SpeechEncoder(ModelMixin, ConfigMixin):
    """Mel spectrum, two convolutions, transformer layers: one output every 320 samples, number ``j`` centred on sample
    ``320 j``.

    Args:
        hidden_size: width of the outputs.
        num_hidden_layers: transformer layers.
        num_attention_heads: heads of each.
        intermediate_size: width of their feed-forward part.
    """

    @register_to_config
    def __init__(self, hidden_size: int, num_hidden_layers: int, num_attention_heads: int, intermediate_size: int):
        super().__init__()
        self.register_buffer("mel", torch.from_numpy(_mel_filters()))
        self.conv1 = nn.Conv1d(MELS, hidden_size, 3, padding=1)
        self.conv2 = nn.Conv1d(hidden_size, hidden_size, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            _Layer(hidden_size, num_attention_heads, intermediate_size) for _ in range(num_hidden_layers)
        )
        self.layer_norm = nn.LayerNorm(hidden_size)

    def forward(self, samples: Tensor) -> BaseModelOutput:
        """Outputs ``(B, N, A)`` of waveforms ``(B, 320 N)``."""
        hidden = self.spectrum(samples).to(self.dtype)  # (B, 80, 2N)
        hidden = F.gelu(self.conv1(hidden))
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)  # (B, N, A)
        hidden = hidden + positions(hidden.shape[1], hidden.shape[2], hidden.device).type_as(hidden)
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutput(last_hidden_state=self.layer_norm(hidden))

    def spectrum(self, samples: Tensor) -> Tensor:
        """Logarithms of the powers in mel bands, ``(B, 80, 2N)`` float32, scaled as Whisper has them."""
        with nullcontext() if samples.is_meta else torch.autocast(samples.device.type, enabled=False):
            samples = samples.float()
            window = torch.hann_window(WINDOW, device=samples.device)
            waves = torch.stft(samples, WINDOW, HOP, window=window, return_complex=True)[..., :-1]
            power = self.mel.float() @ waves.abs().square()
            return (power.clamp_min(10**FLOOR).log10() + 4) / 4


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, intermediate_size: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, intermediate_size)
        self.linear2 = nn.Linear(intermediate_size, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(B, N, A)`` to the same."""
        parts = self.attention(self.norm1(hidden)).unflatten(-1, (3, self.heads, -1))  # (B, N, 3, heads, A / heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (B, heads, N, A / heads)
        heard = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # (B, N, A)
        hidden = hidden + self.out(heard)
        return hidden + self.linear2(F.gelu(self.linear1(self.norm2(hidden))))


def positions(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Sines and cosines ``(count, width)``, as Whisper's encoder adds them."""
    half = width // 2
    rates = torch.exp(-math.log(10_000) / (half - 1) * torch.arange(half, device=device))
    angles = torch.arange(count, device=device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def build_speech_encoder(config: SpeechEncoderConfig) -> SpeechEncoder:
    """An encoder with random weights."""
    return SpeechEncoder(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
    )


def whisper_weights(path: Path) -> dict[str, Tensor]:
    """Weights for :class:`SpeechEncoder` out of a Whisper model in CTranslate2's form.

    Args:
        path: its ``model.bin``.

    Raises:
        ValueError: if the file is none.
    """
    found = {name.removeprefix("encoder/"): value for name, value in _ctranslate2(path) if name.startswith("encoder/")}
    renamed = {
        "conv1/": "conv1.", "conv2/": "conv2.", "layer_norm/": "layer_norm.",
        "self_attention/layer_norm/": "norm1.", "self_attention/linear_0/": "attention.",
        "self_attention/linear_1/": "out.",
        "ffn/layer_norm/": "norm2.", "ffn/linear_0/": "linear1.", "ffn/linear_1/": "linear2.",
    }  # fmt: skip
    weights = {"mel": torch.from_numpy(_mel_filters())}
    for name, value in found.items():
        part, _, kind = name.rpartition("/")
        layer, rest = "", part + "/"
        if part.startswith("layer_") and not part.startswith("layer_norm"):
            layer, _, rest = rest.partition("/")
        if rest in renamed:
            kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
            weights[layer.replace("layer_", "layers.") + ("." if layer else "") + renamed[rest] + kind] = value
    return weights


def _ctranslate2(path: Path):
    """Names and float32 tensors of a CTranslate2 file: its header, then for each name, shape, type and bytes."""
    types = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
    data, place = path.read_bytes(), 0

    def take(kind: str, count: int = 1):
        nonlocal place
        values = np.frombuffer(data, kind, count, place)
        place += values.nbytes
        return values

    def name() -> str:
        return take("u1", int(take("<u2")[0])).tobytes().rstrip(b"\0").decode()

    version = int(take("<u4")[0])
    if not 4 <= version <= 9 or not name().startswith("Whisper"):
        raise ValueError(f"{path} is no Whisper model of CTranslate2")
    _, variables = take("<u4", 2)
    for _ in range(int(variables)):
        called = name()
        shape = take("<u4", int(take("u1")[0])).tolist()
        kind, size = types[int(take("u1")[0])], int(take("<u4")[0])
        values = take(np.dtype(kind).str, size // np.dtype(kind).itemsize)
        if called.startswith("encoder/") and values.dtype.kind == "f":
            yield called, torch.from_numpy(values.astype(np.float32).reshape(shape))


def _mel_filters() -> np.ndarray:
    """``(80, 201)`` float32."""
    filters = mel_filter_bank(
        num_frequency_bins=WINDOW // 2 + 1,
        num_mel_filters=MELS,
        min_frequency=0.0,
        max_frequency=timeline.SAMPLE_RATE / 2,
        sampling_rate=timeline.SAMPLE_RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    return np.ascontiguousarray(filters.T, np.float32)
