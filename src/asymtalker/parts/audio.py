"""Train a small wav2vec2 to name the phoneme of every 20 ms of synthetic speech, then freeze it.

At the paper's size the audio encoder is a published wav2vec2 and this file is not used.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

from asymtalker import timeline
from asymtalker.config import AudioTrainConfig
from asymtalker.flow import hashed_seed, numbered_generator
from asymtalker.media.atomic import save_atomic
from asymtalker.models.audio import build_audio_encoder
from asymtalker.models.loading import hide_bars
from asymtalker.synth.acoustics import augment
from asymtalker.synth.phonemes import PHONEMES, frame_phonemes
from asymtalker.synth.pico import check_share
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

LABEL_RATE = 50.0  # outputs per second of every wav2vec2


class PhonemeClassifier(nn.Module):
    """A wav2vec2 with a linear layer that is dropped after training."""

    def __init__(self, encoder: Wav2Vec2Model):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, len(PHONEMES))

    def forward(self, samples: Tensor) -> Tensor:
        """Log-odds ``(B, N, len(PHONEMES))`` of waveforms ``(B, samples)``; ``N`` outputs, one every 320 samples."""
        return self.head(self.encoder(samples).last_hidden_state)


def feature_extractor() -> Wav2Vec2FeatureExtractor:
    """The extractor that goes with our encoder: no level normalisation, so that silence stays silence."""
    return Wav2Vec2FeatureExtractor(sampling_rate=timeline.SAMPLE_RATE, do_normalize=False)


def train_audio(config: AudioTrainConfig, run_path: Path) -> None:
    """Train and write ``run_path/audio_encoder`` and ``run_path/feature_extractor``.

    Speech is synthesised as it is needed, a pure function of seed and step, so the same command resumes exactly.
    """
    check_share(config.pico_share)
    config = in_its_precision(on_its_device(config), run_path)
    loop = config.loop
    hide_bars()
    run = RunFolder(run_path, config)
    torch.manual_seed(hashed_seed(loop.seed, "weights"))
    model = PhonemeClassifier(build_audio_encoder(config.model)).to(loop.device).train()
    optimizer = build_optimizer(model, config.optimizer)
    ema = EMA(model, config.optimizer.ema_decay)

    def loss_and_accuracy(model: PhonemeClassifier, samples: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(loop):
            logits = model(samples.to(loop.device)).float()
        labels = labels[:, : logits.shape[1]].to(loop.device)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten()), (logits.argmax(-1) == labels).float().mean()

    parts = {"model": Weights(model), "optimizer": OptimizerState(model, optimizer), "ema": ema}
    with run_steps(run, loop, parts) as steps:
        for step in steps:
            loss, accuracy = loss_and_accuracy(model, *speech_batch(config, step.index, "train"))
            loss.backward()
            lr = learning_rate(config.optimizer, step.index, loop.steps)
            norm = optimizer_step(optimizer, config.optimizer, lr)
            ema.update(model)
            step.log({"loss": loss.detach(), "accuracy": accuracy, "grad_norm": norm})
            if step.saves:
                with torch.no_grad():
                    loss, accuracy = loss_and_accuracy(ema.module, *speech_batch(config, 0, "test"))
                run.log(step.number, {"test_loss": float(loss), "test_accuracy": float(accuracy)})
                save_atomic(run_path / "audio_encoder", ema.module.encoder.save_pretrained)
                save_atomic(run_path / "feature_extractor", feature_extractor().save_pretrained)


def speech_batch(config: AudioTrainConfig, index: int, split: Split) -> tuple[Tensor, Tensor]:
    """Waveforms ``(B, seconds * 16000)`` and phoneme classes ``(B, seconds * 50)`` of one step."""
    seed = int(torch.randint(2**62, (), generator=numbered_generator(config.loop.seed, index, split)))
    rng = np.random.default_rng(seed)
    waves, labels = [], []
    for _ in range(config.loop.batch):
        speech = speak(rng, config.seconds, split, config.pico_share)
        waves.append(augment(speech.samples, rng, babble=waves[-1] if waves else None))
        labels.append(frame_phonemes(speech.phonemes, round(config.seconds * LABEL_RATE), LABEL_RATE))
    return torch.from_numpy(np.stack(waves)), torch.from_numpy(np.stack(labels))
