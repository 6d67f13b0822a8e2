"""Train the lip readout on frames of a corpus whose lip aperture is known."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asymtalker import corpus
from asymtalker.checkpoint import EMA
from asymtalker.codec import to_pixels
from asymtalker.config import ReadoutTrainConfig
from asymtalker.errors import UserError
from asymtalker.flow import numbered_generator
from asymtalker.models.readout import LipReadout
from asymtalker.run_folder import RunFolder, build_optimizer, learning_rate, optimizer_step, run_steps
from asymtalker.whole import save_whole

FRAMES_PER_CLIP = 8
STRIDE = 4  # neighbouring frames teach the same; a quarter of them fits in memory


def train_readout(config: ReadoutTrainConfig, run_path: Path, corpus_path: Path) -> None:
    """Train and write ``run_path/readout``.

    Raises:
        UserError: if the corpus has no training clip with ground truth, or the batch is no multiple of
            ``FRAMES_PER_CLIP``.
    """
    if config.loop.batch < 1 or config.loop.batch % FRAMES_PER_CLIP:
        raise UserError(f"--config.loop.batch must be a multiple of {FRAMES_PER_CLIP}, not {config.loop.batch}.")
    rows = corpus.read_manifest(corpus_path)
    keys = [row.key for row in rows if row.split == "train" and row.kind != "real" and not row.rejected_by]
    if not keys:
        raise UserError(f"{corpus_path}: no training clip with ground truth; the readout needs a synthetic corpus")
    loop = config.loop
    run = RunFolder(run_path, config, {"corpus": str(corpus_path)})
    torch.manual_seed(loop.seed)
    model = LipReadout(config.width)
    torch.nn.Module.to(model.train(), loop.device)
    optimizer = build_optimizer(model, config.optimizer)
    ema = EMA(model, config.optimizer.ema_decay)

    def step(index: int) -> dict[str, Tensor]:
        pixels, aperture = readout_batch(corpus_path, keys, loop.batch, numbered_generator(loop.seed, index))
        predicted = model(pixels.to(loop.device))
        loss = F.smooth_l1_loss(predicted, aperture.to(loop.device), beta=0.02)
        loss.backward()
        norm = optimizer_step(optimizer, config.optimizer, learning_rate(config.optimizer, index, loop.steps))
        ema.update(model)
        return {"loss": loss.detach(), "error": (predicted.detach().cpu() - aperture).abs().mean(), "grad_norm": norm}

    def save(_: int) -> None:
        save_whole(run_path / "readout", ema.module.save_pretrained)

    run_steps(run, loop, {"model": model, "optimizer": optimizer, "ema": ema}, step, on_checkpoint=save)


def readout_batch(folder: Path, keys: list[str], size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``size`` random frames ``(size, 3, H, W)``, shifted, blurred and recoloured a little, and their apertures.

    The small changes make the readout indifferent to what a codec does to a picture.
    """
    pixels, apertures = [], []
    for _ in range(size // FRAMES_PER_CLIP):
        frames, aperture = _clip(folder, keys[int(torch.randint(len(keys), (), generator=generator))])
        chosen = torch.randint(len(frames), (FRAMES_PER_CLIP,), generator=generator)
        clip = to_pixels(frames[chosen.numpy()])[0].transpose(0, 1)  # (N, 3, H, W)
        shift = torch.randint(-6, 7, (2,), generator=generator).tolist()
        clip = clip.roll(shift, dims=(-2, -1))
        blur = 1 + 2 * int(torch.randint(4, (), generator=generator))
        clip = F.avg_pool2d(clip, blur, stride=1, padding=blur // 2, count_include_pad=False)
        gain = 1 + 0.2 * torch.randn(3, 1, 1, generator=generator)
        pixels.append((clip * gain + 0.1 * torch.randn(3, 1, 1, generator=generator)).clamp(-1, 1))
        apertures.append(torch.from_numpy(aperture)[chosen])
    return torch.cat(pixels), torch.cat(apertures)


@lru_cache(maxsize=256)
def _clip(folder: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    clip = corpus.open_clip(folder, key)
    aperture = np.asarray(clip.info["ground_truth"]["lip_aperture"], np.float32)
    return clip.frames(0, len(aperture))[::STRIDE].copy(), aperture[::STRIDE]
