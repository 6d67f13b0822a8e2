"""Train the readout on frames of a synthetic corpus: lip aperture, head pose and blendshapes are known of each."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asymtalker.codec import to_pixels
from asymtalker.config import ReadoutTrainConfig
from asymtalker.dataset import corpus
from asymtalker.errors import UserError
from asymtalker.flow import hashed_seed, numbered_generator
from asymtalker.media.atomic import save_atomic
from asymtalker.models.readout import APERTURE, SIDE, FaceReadout, readings_of
from asymtalker.training.checkpoint import EMA, OptimizerState, Weights
from asymtalker.training.distributed import on_its_device
from asymtalker.training.run_folder import RunFolder, build_optimizer, learning_rate, optimizer_step, run_steps

FRAMES_PER_CLIP = 8
STRIDE = 4  # neighbouring frames teach the same
MOST_FRAMES, CACHED_CLIPS = 24, 1024  # of each clip, and clips, kept in memory: 5 GB at most
STATISTICS_CLIPS = 200
WEIGHTS = {APERTURE: 8.0, "eyeBlinkLeft": 4.0, "eyeBlinkRight": 4.0}
"""Of 56 readings, those that lips and lids are judged by; of the others 1."""
HUBER = 3.0
"""Standard deviations up to which errors are squared; a blink is rare and large, and a median would never blink."""
MAX_ZOOM, MAX_SHIFT = 0.08, 0.06
"""How far framing varies in training, in shares of the picture; faces are found to within about that."""


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
    config = on_its_device(config)
    loop = config.loop
    run = RunFolder(run_path, config, {"corpus": str(corpus_path)})
    torch.manual_seed(hashed_seed(loop.seed, "weights"))
    model = new_readout(config.width, corpus_path, keys)
    torch.nn.Module.to(model.train(), loop.device)
    optimizer = build_optimizer(model, config.optimizer)
    ema = EMA(model, config.optimizer.ema_decay)
    weight = torch.ones(len(model.config.outputs), device=loop.device)
    for name in set(WEIGHTS) & set(model.config.outputs):
        weight[model.column(name)] = WEIGHTS[name]
    scale = model.scale.clamp_min(1e-6)

    parts = {"model": Weights(model), "optimizer": OptimizerState(model, optimizer), "ema": ema}
    with run_steps(run, loop, parts) as steps:
        for step in steps:
            pixels, truth = readout_batch(corpus_path, keys, loop.batch, numbered_generator(loop.seed, step.index))
            predicted, truth = model(pixels.to(loop.device)), truth.to(loop.device)
            loss = motion_loss(predicted / scale, truth / scale, (model.scale > 0) * weight)
            loss.backward()
            lr = learning_rate(config.optimizer, step.index, loop.steps)
            norm = optimizer_step(optimizer, config.optimizer, lr)
            ema.update(model)
            step.log({"loss": loss.detach(), "grad_norm": norm})
            if step.saves:
                save_atomic(run_path / "readout", ema.module.save_pretrained)


def motion_loss(predicted: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Error of readings ``(clips FRAMES_PER_CLIP, n)``, each counted from its mean over the frames of its clip.

    How open a mouth is at rest and where a portrait looks can't be told from one picture, and ground truth counts from
    there: what is learned is how readings change. Learned with the constants, lips were hardly learned at all.
    """
    read, true = (values.unflatten(0, (-1, FRAMES_PER_CLIP)) for values in (predicted, truth))
    moved, truly = read - read.mean(1, keepdim=True), true - true.mean(1, keepdim=True)
    errors = F.smooth_l1_loss(moved, truly, beta=HUBER, reduction="none")
    return (errors * weight).sum(-1).mean() / weight.sum()


def new_readout(width: int, folder: Path, keys: list[str]) -> FaceReadout:
    """A readout with random weights for all that is known of the clips, scaled by what it does in them."""
    truths = [readings_of(corpus.open_clip(folder, key).info["ground_truth"]) for key in keys[:STATISTICS_CLIPS]]
    values = np.concatenate([values for _, values in truths])
    return FaceReadout(truths[0][0], values.mean(0).tolist(), values.std(0).tolist(), width)


def readout_batch(folder: Path, keys: list[str], size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``size`` random frames ``(size, 3, SIDE, SIDE)``, framed, blurred and coloured a little otherwise, and what is
    known of them ``(size, n)``.

    The small changes make the readout indifferent to what framing and a codec do to a picture.
    """
    pixels, truths = [], []
    for _ in range(size // FRAMES_PER_CLIP):
        frames, truth = _clip(folder, keys[int(torch.randint(len(keys), (), generator=generator))])
        chosen = torch.randint(len(frames), (FRAMES_PER_CLIP,), generator=generator)
        clip = _reframe(to_pixels(frames[chosen.numpy()])[0].transpose(0, 1), generator)  # (N, 3, SIDE, SIDE)
        blur = 1 + 2 * int(torch.randint(4, (), generator=generator))
        clip = F.avg_pool2d(clip, blur, stride=1, padding=blur // 2, count_include_pad=False)
        gain = 1 + 0.2 * torch.randn(3, 1, 1, generator=generator)
        pixels.append((clip * gain + 0.1 * torch.randn(3, 1, 1, generator=generator)).clamp(-1, 1))
        truths.append(torch.from_numpy(truth)[chosen])
    return torch.cat(pixels), torch.cat(truths)


def _reframe(clip: Tensor, generator: torch.Generator) -> Tensor:
    """The frames of a clip zoomed and shifted alike; what lies outside continues the edge."""
    zoom = 1 + MAX_ZOOM * (2 * torch.rand((), generator=generator) - 1)
    shift = 2 * MAX_SHIFT * (2 * torch.rand(2, generator=generator) - 1)  # the grid runs from -1 to 1
    placement = torch.cat([zoom * torch.eye(2), shift[:, None]], 1).expand(len(clip), 2, 3)
    grid = F.affine_grid(placement, list(clip.shape), align_corners=False)
    return F.grid_sample(clip, grid, mode="bilinear", padding_mode="border", align_corners=False)


@lru_cache(maxsize=CACHED_CLIPS)
def _clip(folder: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Every ``STRIDE``-th frame, or fewer of a long clip, ``(n, SIDE, SIDE, 3)`` uint8, and what is known of them."""
    clip = corpus.open_clip(folder, key)
    _, truth = readings_of(clip.info["ground_truth"])
    stride = max(STRIDE, -(-len(truth) // MOST_FRAMES))
    frames = torch.from_numpy(clip.frames(0, len(truth))[::stride].copy()).permute(0, 3, 1, 2)
    small = F.interpolate(frames.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy(), truth[::stride].copy()
