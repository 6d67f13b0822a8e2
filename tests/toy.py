"""The parts of the system at toy width: recipes, a drawn talking face, a transformer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file

from asymtalker import flow, timeline
from asymtalker.codec import Codec, to_pixels
from asymtalker.config import (
    AudioEncoderConfig,
    ChunkConfig,
    CodecConfig,
    DistillConfig,
    LoopConfig,
    OptimizerConfig,
    SpeechEncoderConfig,
    TeacherConfig,
    TransformerConfig,
)
from asymtalker.dataset.batches import Batch, ChunkSource
from asymtalker.dataset.corpus import NewClip
from asymtalker.distill.loop import Generated, generate
from asymtalker.models.transformer import MASK_CHANNELS, AsymTalkerTransformer3DModel

TOY_SIZE = 32
TOY_CHUNK = ChunkConfig(frames=9, continuity_frames=5)
TOY_CODEC = CodecConfig(
    base_dim=8,
    decoder_base_dim=8,
    z_dim=6,
    dim_mult=(1, 1, 1),
    num_res_blocks=1,
    temperal_downsample=(True, True),
    is_residual=True,
    patch_size=2,
)
TOY_AUDIO = AudioEncoderConfig(
    conv_dim=(8, 8, 8, 8, 8, 8, 8), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)
TOY_SPEECH = SpeechEncoderConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
TOY_TRANSFORMER = TransformerConfig(
    num_attention_heads=2, attention_head_dim=12, ffn_dim=48, num_layers=2, freq_dim=32, prediction_type="change"
)
TOY_OPTIMIZER = OptimizerConfig(lr=1e-3, warmup_steps=2, ema_decay=0.9)


def toy_loop(**changes) -> LoopConfig:
    """Six quick steps in float32 on the CPU."""
    values = {"steps": 6, "batch": 2, "log_every": 1, "checkpoint_every": 3, "autocast": "float32"}
    return LoopConfig(**(values | changes))


def toy_teacher(**changes) -> TeacherConfig:
    """A teacher recipe at toy width."""
    values = {"model": TOY_TRANSFORMER, "chunk": TOY_CHUNK, "loop": toy_loop(), "optimizer": TOY_OPTIMIZER}
    return TeacherConfig(**(values | changes))


def toy_distill(**changes) -> DistillConfig:
    """A distillation recipe at toy width."""
    values = {
        "chunk": TOY_CHUNK,
        "steps_per_sample": 2,
        "min_sigma": 0.05,
        "critic_updates": 2,
        "loop": toy_loop(batch=1),
        "student": TOY_OPTIMIZER,
        "critic": TOY_OPTIMIZER,
    }
    return DistillConfig(**(values | changes))


@dataclass(frozen=True)
class ToyFace:
    """A face that sways and opens its mouth with a tone that comes and goes."""

    seed: int

    def clip(self, split: str, num_frames: int = 21, size: int = TOY_SIZE) -> NewClip:
        """A clip of ``num_frames`` frames with face masks and sound."""
        rng = np.random.default_rng(self.seed)
        skin, back = rng.integers(120, 255, 3), rng.integers(0, 110, 3)
        seconds = np.arange(num_frames) / timeline.FPS
        opening = 0.5 - 0.5 * np.cos(2 * np.pi * (2 + self.seed % 3) * seconds)
        sway = 0.08 * np.sin(2 * np.pi * 0.7 * seconds + self.seed)
        axis = np.linspace(-1, 1, size)
        y, x = np.meshgrid(axis, axis, indexing="ij")
        frames = np.empty((num_frames, size, size, 3), np.uint8)
        mask = np.zeros((num_frames, size, size), np.uint8)
        for index in range(num_frames):
            face = ((x - sway[index]) / 0.6) ** 2 + (y / 0.8) ** 2 < 1
            mouth = ((x - sway[index]) / 0.3) ** 2 + ((y - 0.4) / (0.03 + 0.2 * opening[index])) ** 2 < 1
            eyes = ((np.abs(x - sway[index]) - 0.25) / 0.1) ** 2 + ((y + 0.2) / 0.08) ** 2 < 1
            frames[index] = np.where(face[..., None], skin, back)
            frames[index][mouth | eyes] = (40, 10, 20)
            mask[index][face] = 255
        time = np.arange(num_frames * timeline.SAMPLES_PER_FRAME) / timeline.SAMPLE_RATE
        loudness = np.interp(time, seconds, opening)
        tone = 0.5 * loudness * np.sin(2 * np.pi * (150 + 20 * self.seed) * time)
        name = f"toy{self.seed}"
        return NewClip(
            key=f"{split}-{name}",
            split=split,  # pyright: ignore[reportArgumentType]
            source_id=name,
            identity_id=name,
            voice_id=name,
            kind="rendered",
            frames=frames,
            mask=mask,
            audio=tone.astype(np.float32),
            ground_truth={
                "lip_aperture": opening.tolist(),
                "head_pose": [[60 * turn, 0, 0, turn, 0, 0] for turn in sway.tolist()],
                "blendshapes": {"names": ["jawOpen", "eyeBlinkLeft"], "weights": [[w, 0] for w in opening.tolist()]},
            },
        )


def toy_transformer(**changes) -> AsymTalkerTransformer3DModel:
    """A transformer with random weights, none of which are zero as a fresh one's are."""
    arguments = {
        "num_attention_heads": TOY_TRANSFORMER.num_attention_heads,
        "attention_head_dim": TOY_TRANSFORMER.attention_head_dim,
        "latent_channels": TOY_CODEC.z_dim,
        "identity_channels": TOY_CODEC.z_dim,
        "audio_dim": TOY_AUDIO.hidden_size,
        "freq_dim": TOY_TRANSFORMER.freq_dim,
        "ffn_dim": TOY_TRANSFORMER.ffn_dim,
        "num_layers": TOY_TRANSFORMER.num_layers,
        "prediction_type": TOY_TRANSFORMER.prediction_type,
    }
    torch.manual_seed(0)
    transformer = AsymTalkerTransformer3DModel(**(arguments | changes))
    transformer.initialize()
    for module in (transformer.proj_out, *(block.attn2.to_out[0] for block in transformer.blocks)):
        torch.nn.init.normal_(module.weight, std=0.05)
    torch.nn.init.normal_(transformer.patch_embedding.weight, std=0.05)
    return transformer.eval()


def saved_state(run: Path) -> dict:
    """The checkpoint of a run of one process: the step, and the tensors of each part by name."""
    (file,) = (run / "checkpoint").iterdir()
    state: dict = {}
    for name, value in load_file(file).items():
        part, _, inside = name.partition(".")
        if inside:
            state.setdefault(part, {})[inside] = value
        else:
            state[part] = int(value)
    return state


def assert_same(first, second):
    """Equal bit for bit, however nested."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def real_pixels(source: ChunkSource, batch: Batch, start: int, stop: int) -> torch.Tensor:
    """Real frames ``[start, stop)`` counted from each chunk's first, ``(B, 3, stop - start, H, W)`` in [-1, 1]."""
    clips = {clip.key: clip for clip in source.clips}
    chunks = [(clips[key], first) for key, first in zip(batch.keys, batch.starts, strict=True)]
    return torch.cat([to_pixels(source.frames(clip, first + start, first + stop)) for clip, first in chunks])


def roll_out(config: DistillConfig, nets, frozen, source, extent, generator: torch.Generator) -> Generated:
    """What the student makes of the batch that ``generator`` draws."""
    batch = source.batch(config.loop.batch, generator)
    return generate(config, nets, frozen, extent, batch, generator)


class FoldingCodec(Codec):
    """A codec without weights, of one pixel a cell: the channels of a latent frame are its four frames, the first
    latent frame holds its one frame four times.

    Args:
        kept: what decoding leaves of a value; 1 loses nothing.
    """

    channels = 3 * timeline.TEMPORAL_COMPRESSION
    spatial = 1

    def __init__(self, kept: float = 1.0):
        self.kept = kept

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """``(B, 3, F, H, W)`` to ``(B, 12, T, H, W)``."""
        num_latents = timeline.latents_of_frames(pixels.shape[2])
        first = pixels[:, :, :1].expand(-1, -1, timeline.TEMPORAL_COMPRESSION - 1, -1, -1)
        folded = torch.cat([first, pixels], dim=2).unflatten(2, (num_latents, -1))  # (B, 3, T, 4, H, W)
        return folded.movedim(3, 2).flatten(1, 2)

    def cells(self, size: tuple[int, int], patch_size: Sequence[int]) -> tuple[int, int]:
        """Each pixel is one."""
        return size

    def decode(
        self, latents: torch.Tensor, portrait: torch.Tensor | None = None, identity: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``(B, 12, T, H, W)`` to ``(B, 3, 1 + 4 (T - 1), H, W)``."""
        frames = latents.unflatten(1, (3, -1)).movedim(2, 3).flatten(2, 3)
        return self.kept * frames[:, :, timeline.TEMPORAL_COMPRESSION - 1 :]


@dataclass(frozen=True)
class Pass:
    """What a network was given in one pass.

    Attributes:
        noisy: noisy latents ``(B, C, T, h, w)``, the given head among them.
        mask: ``(B, 4, T, h, w)``.
        identity: identity latents ``(B, C, T, h, w)``.
        timestep: ``(B,)`` or ``(B, T)``.
        audio: ``(B, F + 2 context, A)``.
        records: whether gradients were enabled.
    """

    noisy: torch.Tensor
    mask: torch.Tensor
    identity: torch.Tensor
    timestep: torch.Tensor
    audio: torch.Tensor
    records: bool

    @property
    def sigma(self) -> torch.Tensor:
        """Its noise levels, to be multiplied with latents."""
        return flow.expand(self.timestep / 1000, self.noisy)


class RecordingNetwork:
    """Stands for a transformer that predicts a change: notes every pass and answers as it is told.

    Args:
        answer: clean latents, of a pass: what the portrait is changed to.
        channels: of the codec.
    """

    dtype = torch.float32

    def __init__(self, answer: Callable[[Pass], torch.Tensor], channels: int = TOY_CODEC.z_dim):
        self.answer, self.channels = answer, channels
        self.config = SimpleNamespace(audio_context=2, prediction_type="change", patch_size=(1, 1, 1))
        self.passes: list[Pass] = []

    def __call__(self, hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image=None):
        sizes = (self.channels, MASK_CHANNELS, self.channels)
        changed, mask, identity = hidden_states.split(sizes, 1)
        sigma = flow.expand(timestep / 1000, changed)
        scale, skip = flow.preconditioning(sigma)
        change = changed / scale
        noisy = change + (1 - sigma) * identity
        given = Pass(noisy, mask, identity, timestep, encoder_hidden_states, torch.is_grad_enabled())
        self.passes.append(given)
        velocity = (noisy - self.answer(given)) / sigma.clamp_min(1e-3)  # that of a given head is not asked for
        return SimpleNamespace(sample=(velocity + identity - skip * change) / scale)
