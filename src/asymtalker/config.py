"""Every setting of every stage, as frozen dataclasses. Values live in ``recipes.py``; unknown keys are errors."""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

IdentityStrategy = Literal["tre", "etr", "clip", "vtp"]
Continuity = Literal["ground_truth", "generated"]
Precision = Literal["auto", "bfloat16", "float32"]


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """The synthetic corpus."""

    out: Path
    """Folder of the corpus."""
    clips: int
    """Number of clips."""
    seconds: float
    """Length of each clip."""
    size: int = 256
    """Width and height in pixels."""
    seed: int = 0
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes; the corpus does not depend on it."""
    shard_clips: int = 16
    """Clips per shard."""
    photo_fraction: float = 0.7
    """Share of clips that animate a photograph (only with ``portraits``)."""
    procedural_fraction: float = 0.3
    """Share of rendered heads with a random, unnatural texture."""
    head_motion: float = 1.0
    """Gain of head motion within a clip; 0 keeps heads still."""
    portraits: Path | None = None
    """Folder of portraits for photo heads; ``cc0`` fetches the registered CC0 set."""
    pico_share: float = 0.0
    """Share of clips spoken by SVOX Pico instead of espeak-ng (needs ``asymtalker[voices]``)."""
    recorded_fraction: float = 0.75
    """Share of clips whose voice sounds recorded: a room, a microphone, noise, others who talk."""
    split: Literal["train", "test"] | None = None
    """Clips of this split only: ``test`` has the heads, portraits and voices that are never trained on."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure talking-head videos against real ones: pictures, motion, lips, identity, drift, speed. Writes a report.

    Give --generated or --compare videos that are there, or neither, and the clips of the reference are generated from
    their first frame and sound.
    """

    out: Path
    """Folder of the report: index.html, report.json, report.csv."""
    reference: Path | None = None
    """What to compare with: a folder of real videos, one made by asymtalker benchmark, or a corpus (its held-out
    clips)."""
    corpus: Path | None = None
    """The same, of a corpus."""
    generated: Path | None = None
    """Folder of the videos of one method."""
    compare: tuple[str, ...] = ()
    """Several methods, as NAME=FOLDER."""
    model: str | None = None
    """Checkpoint to generate with; the bundled one by default."""
    clips: int | None = None
    """Only the first clips of the reference, in order of name."""
    seconds: str = "5,10,30,60,120,300,600"
    """Moments at which the Fréchet distances are followed, separated by commas."""
    offline: bool = False
    """Take only the published networks that are there already and download none."""
    seed: int = 0
    """Of what is generated."""
    device: str = "auto"
    """"auto" takes a GPU if there is one, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with linear warm-up, an optional cosine fall to ``final_scale`` and clipping by global norm."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    warmup_steps: int = 100
    final_scale: float = 1.0
    """Learning rate at the last step as a share of ``lr`` (cosine); 1 keeps it constant."""
    grad_clip: float = 1.0
    ema_decay: float = 0.0
    """Decay of the averaged weights that are saved for use; 0 keeps no average."""


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long a run lasts and how often it says and saves something."""

    steps: int
    seed: int = 0
    batch: int
    """Samples of a micro-batch: what goes through the network together."""
    micro_batches: int = 1
    """Micro-batches whose gradients make a step, over all processes: a number they divide. A step sees ``batch *
    micro_batches`` samples, the same ones however many processes share them."""
    log_every: int = 10
    checkpoint_every: int = 200
    sample_every: int = 0
    """Steps between sample videos; 0 writes none."""
    device: str = "cpu"
    autocast: Precision = "auto"
    """Precision that networks are computed in. "auto" is bfloat16 on a GPU and on a processor that has instructions
    for it, float32 on others; a run that goes on keeps what it began with."""
    cache: bool = True
    """Encode the whole corpus first and keep that beside it, for a corpus that is drawn from again and again; false
    encodes a chunk when it is drawn, unless it is kept already, and writes nothing to the corpus."""
    gradient_checkpointing: bool = False
    """Compute activations of the transformer and of the codec's decoder anew in the backward pass instead of keeping
    them: far less memory, a third more time."""
    cpu_offload: bool = False
    """Keep weights, gradients and optimizer states of the sharded networks in the host's memory (needs ``torchrun``).
    """


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Size of ``AutoencoderKLWan`` (diffusers argument names)."""

    base_dim: int
    decoder_base_dim: int
    z_dim: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temperal_downsample: tuple[bool, ...]
    is_residual: bool
    patch_size: int | None


@dataclass(frozen=True, kw_only=True)
class CodecTrainConfig:
    """Training of a codec on clips of a corpus and on photographs in motion."""

    model: CodecConfig
    frames: int
    """Frames per training clip, ``1 + 4m``."""
    crop: int
    """Side of the square crop in pixels."""
    picture_fraction: float
    """Share of samples made from photographs rather than corpus clips (1 without a corpus)."""
    kl_weight: float
    """Weight of the KL term, averaged over latent values."""
    edge_weight: float
    """Weight of the L1 distance between spatial gradients."""
    loop: LoopConfig
    optimizer: OptimizerConfig
    init: Path | None = None
    """Diffusers folder of a codec to start from."""


@dataclass(frozen=True, kw_only=True)
class MotionCodecTrainConfig:
    """Training of a motion codec: its basis in closed form, its painter by gradient."""

    components: int
    """Principal components of expression kept of a frame."""
    channels: int
    """Of a latent, which stands for four frames."""
    widths: tuple[int, int, int]
    """Channels of the painter at 48, 24 and 12 pixels."""
    portraits: int = 1
    """Frames of a clip that others are moved from."""
    pairs: int = 10
    """Pairs of frames, one after the other, that are moved."""
    edge_weight: float = 1.0
    """Weight of the L1 distance between spatial gradients."""
    temporal_weight: float = 0.5
    """Weight of the L1 distance between changes from frame to frame."""
    critic_weight: float = 0.02
    """Weight of the adversarial loss."""
    critic_from: float = 0.5
    """Share of the steps after which it begins; 1 for none."""
    loop: LoopConfig
    optimizer: OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class AudioEncoderConfig:
    """Size of ``Wav2Vec2Model`` (transformers argument names)."""

    conv_dim: tuple[int, ...]
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


@dataclass(frozen=True, kw_only=True)
class SpeechEncoderConfig:
    """Size of ``models/speech_encoder.py``; Whisper tiny's is 384, 4, 6, 1536."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


@dataclass(frozen=True, kw_only=True)
class AudioTrainConfig:
    """Training of the speech encoder on frame-wise phonemes and on what Whisper hears."""

    model: SpeechEncoderConfig
    seconds: float
    """Length of the longest training utterances. In each step all are as long, or two thirds or a third of it, and
    then so many more. Half of them are of the sounds of the other half, a little later."""
    real_share: float = 0.5
    """Share of utterances that are recordings of real people, where a folder of them is given."""
    teacher_weight: float = 1.0
    """Weight of the squared error of Whisper's outputs for the undisturbed sound, in their spreads."""
    agreement_weight: float = 1.0
    """Weight of the difference between what is heard of a moment in pieces of sound that begin and end elsewhere, so
    that little is lost where a sound still grows."""
    pico_share: float = 0.0
    """Share of utterances spoken by SVOX Pico instead of espeak-ng (needs ``asymtalker[voices]``). None of its six
    voices is held out: the test accuracy is espeak-ng's alone."""
    loop: LoopConfig
    optimizer: OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """The chunk loop (section 3.2)."""

    frames: int = 81
    continuity_frames: int = 5
    """K of the paper (its number is lost in the text)."""


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """How a live session hears: sound in to picture out takes the frames it adds at once, those it hears ahead, and
    what they take to make (docs/serving.md has what that costs lips)."""

    frames: int = 13
    """Length of a chunk, ``1 + 4m``, with the continuity at its head."""
    new: int = 6
    """Frames that a chunk adds."""
    ahead: int = 4
    """Frames of sound heard after them."""
    steps: int | None = None
    """Steps of a chunk; ``None`` for the checkpoint's."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Size of ``AsymTalkerTransformer3DModel``."""

    num_attention_heads: int
    attention_head_dim: int
    ffn_dim: int
    num_layers: int
    patch_size: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    audio_context: int = 2
    """Frames of audio on both sides of a latent frame's own that its tokens attend to."""
    identity: IdentityStrategy = "tre"
    prediction_type: Literal["velocity", "change"] = "velocity"
    audio_modulation: bool = False
    """Audio modulates the tokens of its latent frame besides being attended to [ours]."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Teacher training (eq. 5)."""

    model: TransformerConfig
    chunk: ChunkConfig
    buckets: tuple[tuple[int, int], ...] = ()
    """Sizes (height, width in pixels) that clips are scaled to and cut to, each to the one nearest to its own shape;
    a batch holds clips of one. Empty for the clips' own size, which is then one. As flags: 512 512 640 416."""
    tgc_weight: float = 0.1
    """Weight of the temporal gradient consistency loss; the paper's value is lost in the text."""
    ff_weight: float = 0.1
    """Weight of the face focus loss; the paper's value is lost in the text."""
    pixel_frames: int = 5
    """Frames decoded with gradient for the two pixel losses, ``1 + 4m``."""
    pixel_max_sigma: float = 0.5
    """Pixel losses apply only below this noise level, where the predicted clean chunk means something."""
    pixel_every: int = 1
    """Steps between steps with pixel losses; more than ``loop.steps`` for none at all."""
    continuity_dropout: float = 0.2
    """Share of steps without continuity reference, as the first chunk of a video is generated: from a portrait that is
    its first frame."""
    elsewhere: float = 1.0
    """Share of steps on later chunks whose portraits are of another time (eq. 24); those of the others are how the
    clips were a chunk before, or began, which keeps a head near where the portrait has it [ours]."""
    audio_dropout: float = 0.1
    """Share of chunks trained on null audio, for guidance."""
    audio_noise: float = 0.0
    """Standard deviation of noise added to the audio features, which have about unit variance."""
    exchange: float = 0.0
    """Share of chunks whose head, eyes and brows move about their portrait as in another chunk of the batch, forward
    or backward, so that nobody can remember which sound goes with which motion; a codec of motion only [ours]."""
    num_timesteps: int = 1000
    shift: float = 3.0
    """Noise-level shift."""
    loop: LoopConfig
    optimizer: OptimizerConfig
    init: Path | None = None
    """Pipeline folder whose transformer to start from."""
    lora_rank: int = 0
    """Train low-rank changes of this rank to the linear layers of the blocks instead of all weights (LoRA), for one
    card; 0 trains all. Needs ``init``."""

    @property
    def pixel_losses(self) -> bool:
        """Whether there are any."""
        return self.pixel_every <= self.loop.steps


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Asymmetric knowledge distillation (eq. 6-15)."""

    chunk: ChunkConfig
    buckets: tuple[tuple[int, int], ...] = ()
    """As in the teacher's training."""
    teacher_continuity: Continuity = "ground_truth"
    student_continuity: Continuity = "generated"
    chunks: int = 3
    """Chunks the student rolls out per update at most; the last one is trained [ours]. From three on it also meets
    continuity that itself came of generated continuity, as 196 of the 197 chunks of a 600 s video do."""
    first_share: float = 0.2
    """Share of updates on the first chunk of a video, which has no continuity [ours]; the others roll out 2 to
    ``chunks`` chunks, each number equally often."""
    steps_per_sample: int = 4
    shift: float = 3.0
    critic_updates: int = 5
    """Critic updates per student update [ours]."""
    guidance_scale: float = 4.0
    """Audio guidance of the real score, ``v_null + scale (v - v_null)``: Self-Forcing's 3.0, which counts from the
    conditional velocity."""
    min_sigma: float = 0.02
    max_sigma: float = 0.98
    anchor_weight: float = 0.1
    """Weight of the Huber anchor; the paper's value is lost in the text."""
    anchor_scale: float = 0.1
    """``c`` of the pseudo-Huber anchor."""
    lora_rank: int = 0
    """Let student and critic be low-rank changes of this rank to the teacher's weights (LoRA), which all three then
    share; 0 trains all weights of both."""
    loop: LoopConfig
    student: OptimizerConfig
    critic: OptimizerConfig

    @property
    def rollout_shares(self) -> tuple[float, ...]:
        """Probabilities of a rollout of 1, 2, ... ``chunks`` chunks."""
        if self.chunks == 1:
            return (1.0,)
        return self.first_share, *[(1 - self.first_share) / (self.chunks - 1)] * (self.chunks - 1)


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a chunk is sampled."""

    num_steps: int = 4
    shift: float = 3.0
    guidance_scale: float = 1.0
    """Audio guidance, standard form: 1 is none and costs no second pass."""
    renew_noise: bool = False
    """Draw fresh noise after every step, as a distilled student is trained to expect; otherwise Euler."""


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """How a model of any size is fitted to the machine that generates with it."""

    precision: Precision = "auto"
    """"auto" computes in bfloat16 on a GPU and on a processor that has instructions for it, in float32 on others."""
    offload: Literal["none", "model", "group"] = "none"
    """Keep weights in the host's memory: "model" brings each network to the GPU when it runs and takes it off when
    the next one does (the codec, which is small, stays), "group" each block of the transformer, which needs the
    least and takes the longest."""
    vae_tiling: bool = False
    """Encode and decode frames above 256 pixels in overlapping tiles: less memory; seams are blended, and the result
    is not exactly the same."""
    compile: bool = False
    """Compile the transformer's blocks and, without tiles, the codec, for each size of frames: minutes at the start,
    faster from then on."""
    attention: str | None = None
    """Attention kernel by diffusers' name, such as flash, sage or _native_cudnn; PyTorch's choice by default."""
    fp8: bool = False
    """Hold the weights of the transformer's blocks in 8 bits (needs torchao): half the memory, slightly inexact, and
    slower without ``compile``."""
    preview: Path | None = None
    """Weights of a tiny decoder for Wan2.1 latents (TAEHV's taew2_1, .safetensors or .pth) to show the video with:
    quicker and coarser than the codec."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything one model needs, from codec to student."""

    codec: CodecTrainConfig | MotionCodecTrainConfig | None
    """``None`` where a published codec is used."""
    audio: AudioTrainConfig | None
    """``None`` where a published wav2vec2 is used."""
    teacher: TeacherConfig
    distill: DistillConfig
    sampler: SamplerConfig


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines ``key: old -> new`` for every value that differs between two configs as dicts."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines
