"""Train an encoder to name the phoneme of every 20 ms of speech and, through noise, rooms and bad lines and up to the
latest moment of a sound that goes on, to hear what Whisper hears in all of it undisturbed; then freeze it.

Synthetic voices speak as they are needed; recordings of real people come from a folder that ``runs/speech.py`` makes.
At the paper's size the audio encoder is a published wav2vec2 and this file is not used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor

from asymtalker import timeline
from asymtalker.config import AudioTrainConfig
from asymtalker.errors import UserError
from asymtalker.flow import hashed_seed, numbered_generator
from asymtalker.media.atomic import save_atomic
from asymtalker.models.loading import hide_bars
from asymtalker.models.speech_encoder import SpeechEncoder, build_speech_encoder, whisper_weights
from asymtalker.synth.acoustics import augment
from asymtalker.synth.phonemes import PHONEMES, frame_phonemes
from asymtalker.synth.pico import check_share
from asymtalker.synth.recordings import Recording, read_index
from asymtalker.synth.speech import Split, speak
from asymtalker.training.checkpoint import EMA, OptimizerState, Weights
from asymtalker.training.distributed import on_its_device
from asymtalker.training.run_folder import (
    RunFolder,
    autocast,
    build_optimizer,
    in_its_precision,
    learning_rate,
    optimizer_step,
    run_steps,
)

LABEL_RATE = 50.0  # outputs of the encoder per second; number j is centred on j / 50 s
STEP = 320  # samples between them
SPREAD_RECORDINGS = 100  # from which the mean and spread of Whisper's outputs are taken
HEAD = "head.safetensors"
SHARES = (1 / 3, 2 / 3, 1.0)  # of the longest utterance, how long those of a step may be


class HearingNetwork(nn.Module):
    """The encoder with two linear layers that are dropped after training."""

    mean: Tensor
    spread: Tensor

    def __init__(self, encoder: SpeechEncoder, mean: np.ndarray, spread: np.ndarray):
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("spread", torch.from_numpy(spread))
        self.phonemes = nn.Linear(width, len(PHONEMES))
        self.teacher = nn.Linear(width, len(mean))
        if width == len(mean):  # Whisper's own outputs are where it begins
            self.teacher.weight.data.copy_(torch.diag(torch.from_numpy(1 / spread)))
            self.teacher.bias.data.copy_(torch.from_numpy(-mean / spread))

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The encoder's outputs ``(B, N, A)`` for waveforms ``(B, 320 N)`` and, guessed from them, log-odds ``(B, N,
        len(PHONEMES))`` and Whisper's outputs in spreads ``(B, N, D)``."""
        hidden = self.encoder(samples).last_hidden_state
        return hidden, self.phonemes(hidden), self.teacher(hidden)


def feature_extractor() -> Wav2Vec2FeatureExtractor:
    """The extractor that goes with our encoder: no level normalisation, so that silence stays silence."""
    return Wav2Vec2FeatureExtractor(sampling_rate=timeline.SAMPLE_RATE, do_normalize=False)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """``B`` pieces of sound and what is to be found in them. The second half of them are of the same sounds as the
    first, ``shift`` outputs later."""

    samples: Tensor  # (B, seconds * 16000)
    labels: Tensor  # (B, seconds * 50), phoneme classes
    targets: Tensor  # (B, seconds * 50, D), NaN where Whisper has not listened
    shift: int


class RealSpeech:
    """The recordings of a folder, all of them in memory but for the teacher's outputs."""

    def __init__(self, folder: Path):
        rows = read_index(folder)
        self.folder = folder
        self.names: dict[str, list[str]] = {}
        self.weights: dict[str, np.ndarray] = {}
        for split in ("train", "test"):
            chosen = [row for row in rows if row["split"] == split]
            if not chosen:
                raise UserError(f"{folder}: has no recording of the split {split}; add some by runs/speech.py")
            seconds = np.array([float(row["seconds"]) for row in chosen])
            speakers = np.array([row["speaker"] for row in chosen])
            of_speaker = np.array([seconds[speakers == speaker].sum() for speaker in speakers])
            weights = seconds / of_speaker**0.25  # who speaks most is heard most, but not all the time
            self.names[split], self.weights[split] = [row["file"] for row in chosen], weights / weights.sum()
        first = [self._load(name).targets for name in self.names["train"][:SPREAD_RECORDINGS]]
        self.mean = np.concatenate(first).mean(0)
        self.spread = np.concatenate(first).std(0)

    def _load(self, name: str) -> Recording:
        return Recording.load(self.folder / name)

    def draw(
        self, rng: np.random.Generator, seconds: float, split: Split
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Samples, labels and Whisper's outputs of a random piece, in half of the cases spoken faster (and higher, as
        of a smaller person) or slower."""
        recording = self._load(str(rng.choice(self.names[split], p=self.weights[split])))
        speed = float(np.exp(rng.normal(0, 0.09)).clip(0.8, 1.25)) if split == "train" and rng.random() < 0.5 else 1.0
        samples = recording.samples
        if speed != 1:
            samples = soxr.resample(samples, timeline.SAMPLE_RATE * speed, timeline.SAMPLE_RATE).astype(np.float32)
        outputs = round(seconds * LABEL_RATE)
        count, rest = outputs * STEP, len(samples) - outputs * STEP
        # a little before its beginning and beyond its end, where there is silence
        start = STEP * int(rng.integers((min(0, rest) - 1600) // STEP, (max(0, rest) + 1600) // STEP + 1))
        piece = np.zeros(count, np.float32)
        low, high = max(0, start), min(len(samples), start + count)
        piece[low - start : high - start] = samples[low:high]
        begin = start / timeline.SAMPLE_RATE
        moved = [(name, a / speed - begin, b / speed - begin) for name, a, b in recording.phonemes]
        places = (np.arange(outputs) + begin * LABEL_RATE) * speed
        return piece, output_phonemes(moved, outputs), _between(recording.targets, places)


def output_phonemes(phonemes: Sequence[tuple[str, float, float]], outputs: int) -> np.ndarray:
    """Classes ``(outputs,)`` of what sounds at the middle of each of the encoder's outputs."""
    half = 0.5 / LABEL_RATE
    moved = [(name, max(0.0, start + half), end + half) for name, start, end in phonemes]
    return frame_phonemes([part for part in moved if part[2] > 0], outputs, LABEL_RATE)


def _between(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of ``values`` at fractional places; NaN outside."""
    places = places.round(6)  # those on a row stay there
    low = np.floor(places).astype(int).clip(0, len(values) - 2)
    weight = (places - low)[:, None].astype(np.float32)
    between = values[low] * (1 - weight) + values[low + 1] * weight
    between[(places < 0) | (places > len(values) - 1)] = np.nan
    return between.astype(np.float32)


def train_audio(
    config: AudioTrainConfig, run_path: Path, speech: Path | None = None, whisper: Path | None = None
) -> None:
    """Train and write ``run_path/audio_encoder`` and ``run_path/feature_extractor``.

    What is drawn is a pure function of seed and step, so the same command resumes exactly.

    Args:
        config: the settings.
        run_path: folder of the run.
        speech: folder of recordings (:mod:`asymtalker.synth.recordings`), without which all voices are synthetic.
        whisper: folder of a Whisper model in CTranslate2's form, whose encoder is where training begins.
    """
    check_share(config.pico_share)
    config = in_its_precision(on_its_device(config), run_path)
    loop = config.loop
    hide_bars()
    real = RealSpeech(speech) if speech else None
    inputs = {"speech": speech, "whisper": whisper}
    run = RunFolder(run_path, config, {name: str(path) for name, path in inputs.items() if path})
    torch.manual_seed(hashed_seed(loop.seed, "weights"))
    encoder = build_speech_encoder(config.model)
    if whisper:
        encoder.load_state_dict(whisper_weights(whisper / "model.bin"))
    mean, spread = (real.mean, real.spread) if real else (np.zeros(1, np.float32), np.ones(1, np.float32))
    model = HearingNetwork(encoder, mean, spread).to(loop.device).train()
    optimizer = build_optimizer(model, config.optimizer)
    ema = EMA(model, config.optimizer.ema_decay)

    parts = {"model": Weights(model), "optimizer": OptimizerState(model, optimizer), "ema": ema}
    with run_steps(run, loop, parts) as steps:
        for step in steps:
            losses = hearing_losses(model, speech_batch(config, step.index, "train", real), config)
            losses["loss"].backward()
            lr = learning_rate(config.optimizer, step.index, loop.steps)
            norm = optimizer_step(optimizer, config.optimizer, lr)
            ema.update(model)
            step.log({name: value.detach() for name, value in losses.items()} | {"grad_norm": norm})
            if step.saves:
                with torch.no_grad():
                    held_out = hearing_losses(ema.module, speech_batch(config, 0, "test", real), config)
                run.log(step.number, {f"test_{name}": float(value) for name, value in held_out.items()})
                save_atomic(run_path / "audio_encoder", ema.module.encoder.save_pretrained)
                save_atomic(run_path / "phonemes", partial(save_head, ema.module))
                save_atomic(run_path / "feature_extractor", feature_extractor().save_pretrained)


def save_head(model: HearingNetwork, folder: Path) -> None:
    """Write the layer that names phonemes, with which the encoder is measured."""
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.phonemes.state_dict().items()}, folder / HEAD)


def hearing_losses(model: HearingNetwork, batch: Batch, config: AudioTrainConfig) -> dict[str, Tensor]:
    """Cross-entropy of phonemes; squared error of Whisper's outputs in spreads; squared difference, in spreads too, of
    what is heard at the same moment in two pieces, of which one begins and ends later; the share of right phonemes."""
    device = config.loop.device
    with autocast(config.loop):
        hidden, logits, guessed = (output.float() for output in model(batch.samples.to(device)))
    sooner, later = hidden.chunk(2)
    apart = F.mse_loss(sooner[:, batch.shift :], later[:, : -batch.shift]) / hidden.var((0, 1)).mean()
    labels, targets = batch.labels[:, : logits.shape[1]].to(device), batch.targets[:, : logits.shape[1]].to(device)
    known = ~targets.isnan().any(-1)
    phonemes = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    right = (logits.argmax(-1) == labels).float()
    loss = phonemes + config.agreement_weight * apart
    losses = {"loss": loss, "phonemes": phonemes, "apart": apart, "accuracy": right.mean()}
    if known.any():
        teacher = F.mse_loss(guessed[known], (targets[known] - model.mean) / model.spread)
        losses |= {"loss": loss + config.teacher_weight * teacher, "teacher": teacher}
        losses["accuracy_real"] = right[known].mean()
    return losses


def speech_batch(config: AudioTrainConfig, index: int, split: Split, real: RealSpeech | None = None) -> Batch:
    """The sound of one step; of recordings and synthetic voices alike some is heard through noise and bad lines."""
    seed = int(torch.randint(2**62, (), generator=numbered_generator(config.loop.seed, index, split)))
    rng = np.random.default_rng(seed)
    share = float(rng.choice(SHARES)) if split == "train" else 1.0
    outputs, count = round(config.seconds * share * LABEL_RATE), max(1, round(config.loop.batch / share / 2))
    shift = int(rng.integers(1, outputs // 2 + 1))
    seconds = (outputs + shift) / LABEL_RATE
    waves, labels, targets = [], [], []
    for _ in range(count):
        if real and rng.random() < config.real_share:
            samples, classes, heard = real.draw(rng, seconds, split)
        else:
            speech = speak(rng, seconds, split, config.pico_share)
            samples, classes = speech.samples, output_phonemes(speech.phonemes, outputs + shift)
            heard = np.full((outputs + shift, len(real.mean) if real else 1), np.nan, np.float32)
        waves.append(augment(samples, rng, babble=waves[-1] if waves else None))
        labels.append(classes)
        targets.append(heard)

    def pieces(values: list[np.ndarray], rate: int) -> Tensor:
        whole = torch.from_numpy(np.stack(values))
        return torch.cat([whole[:, : rate * outputs], whole[:, rate * shift :]])

    return Batch(samples=pieces(waves, STEP), labels=pieces(labels, 1), targets=pieces(targets, 1), shift=shift)
