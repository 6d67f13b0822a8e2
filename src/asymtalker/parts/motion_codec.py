"""Train the codec of motion: its basis in closed form, then the painter of the mouth's inside by gradient.

What the painter learns from is drawn once from each clip and kept in the run folder: the mouth's square of a frame
that was moved from another frame of the clip, and the same square of the true frame.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asymtalker.codec import to_pixels
from asymtalker.config import MotionCodecTrainConfig
from asymtalker.dataset.chunks import clip_weights
from asymtalker.dataset.corpus import Clip, read_clips
from asymtalker.errors import UserError
from asymtalker.flow import hashed_seed, numbered_generator
from asymtalker.media.atomic import atomic_path, save_atomic
from asymtalker.models.loading import load_part
from asymtalker.models.motion.basis import fit_basis
from asymtalker.models.motion.codec import MotionCodecModel, mouth_square, read_points
from asymtalker.models.motion.painter import SIDE, reach
from asymtalker.models.motion.sheet import Texture
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
    tracked,
)

PICTURES = ("moved", "rest", "true")
SHARES = ("inside", "opened")


def train_motion_codec(config: MotionCodecTrainConfig, run_path: Path, corpus_path: Path) -> None:
    """Train and write ``run_path/vae``. The same command resumes.

    Args:
        config: sizes, what is drawn of each clip, losses and schedule.
        run_path: run folder.
        corpus_path: corpus of talking heads, of any kinds together.

    Raises:
        UserError: if the corpus has no training clip with a face.
    """
    config = in_its_precision(on_its_device(config), run_path)
    loop = config.loop
    run = RunFolder(run_path, config, {"corpus": str(corpus_path)})
    clips = [clip for clip in read_clips(corpus_path) if not clip.row.rejected_by]
    points = _read_faces(run_path / "points", clips)
    of_split = {name: [c for c in clips if c.row.split == name and c.key in points] for name in ("train", "test")}
    if not of_split["train"]:
        raise UserError(f"{corpus_path}: no training clip with a face in this corpus")
    torch.manual_seed(hashed_seed(loop.seed, "weights"))
    codec = _codec_with_basis(config, run_path, of_split["train"], points)
    squares = {name: Squares(config, codec, found, points, run_path / "squares") for name, found in of_split.items()}
    painter = codec.painter.to(loop.device).train()
    torch.manual_seed(hashed_seed(loop.seed, "critic"))  # the same whether what comes before was made or loaded
    critic = Critic().to(loop.device).train()
    optimizers = [build_optimizer(network, config.optimizer) for network in (painter, critic)]
    ema = EMA(painter, config.optimizer.ema_decay)
    parts = {
        "painter": Weights(painter),
        "critic": Weights(critic),
        "ema": ema,
        "painter_optimizer": OptimizerState(painter, optimizers[0]),
        "critic_optimizer": OptimizerState(critic, optimizers[1]),
    }
    with run_steps(run, loop, parts) as steps:
        for step in steps:
            lr = learning_rate(config.optimizer, step.index, loop.steps)
            batch = squares["train"].batch(loop.batch, numbered_generator(loop.seed, step.index)).to(loop.device)
            sharpen = step.index >= config.critic_from * loop.steps
            with autocast(loop):
                losses = painter_losses(painter, batch, critic if sharpen else None)
            total = losses["l1"] + config.edge_weight * losses["edges"] + config.temporal_weight * losses["temporal"]
            (total + config.critic_weight * losses.get("sharp", 0.0)).backward()
            norm = optimizer_step(optimizers[0], config.optimizer, lr)
            ema.update(painter)
            if sharpen:
                critic.zero_grad()
                with autocast(loop):
                    losses["critic"] = critic_loss(critic, batch, losses["painted"])
                losses["critic"].backward()
                optimizer_step(optimizers[1], config.optimizer, lr)
            step.log({name: value.detach() for name, value in losses.items() if value.ndim == 0} | {"grad_norm": norm})
            if step.saves:
                if of_split["test"]:
                    run.log(step.number, held_out(ema.module, squares["test"], loop.batch))
                _save(codec, ema.module, run_path)


def _codec_with_basis(
    config: MotionCodecTrainConfig, run_path: Path, clips: Sequence[Clip], points: dict[str, np.ndarray]
) -> MotionCodecModel:
    """The codec, its basis fitted once and its painter not trained; written at once, as latents can be made from here
    on."""
    codec = MotionCodecModel(config.components, config.channels, config.widths)
    if (run_path / "vae").is_dir():
        codec.motion.load_state_dict(load_part(MotionCodecModel, run_path / "vae").motion.state_dict())
        return codec
    kept = fit_basis(
        codec.motion,
        [torch.from_numpy(points[clip.key]) for clip in clips],
        [(clip.row.height, clip.row.width) for clip in clips],
        weights(clips),
    )
    print(f"kept {kept['expression']:.2%} of expressions, {kept['motion']:.2%} of motion", file=sys.stderr)
    _save(codec, codec.painter, run_path)
    return codec


def _save(codec: MotionCodecModel, painter: nn.Module, run_path: Path) -> None:
    saved = MotionCodecModel(**{name: codec.config[name] for name in ("components", "channels", "widths")})
    saved.motion.load_state_dict(codec.motion.state_dict())
    saved.painter.load_state_dict(painter.state_dict())
    save_atomic(run_path / "vae", saved.save_pretrained)


def weights(clips: Sequence[Clip]) -> list[float]:
    """How much a clip counts: see :func:`asymtalker.dataset.chunks.clip_weights`; and real people as much together as
    all others."""
    single = clip_weights(clips)
    real = [clip.row.kind == "real" for clip in clips]
    sums = {kind: sum(w for w, r in zip(single, real, strict=True) if r == kind) for kind in (True, False)}
    return [w / sums[kind] for w, kind in zip(single, real, strict=True)]


def _read_faces(folder: Path, clips: Sequence[Clip]) -> dict[str, np.ndarray]:
    """Face-mesh points ``(F, 478, 3)`` of the clips that show a face, by key; read once and kept in a folder."""
    for clip in tracked([clip for clip in clips if not (folder / f"{clip.key}.npy").is_file()], "reading faces"):
        try:
            found = read_points(clip.frames())
        except UserError:
            found = np.zeros((0, 478, 3), np.float32)
        with atomic_path(folder / f"{clip.key}.npy") as partial, partial.open("wb") as file:
            np.save(file, found)
    points = {clip.key: np.load(folder / f"{clip.key}.npy") for clip in clips}
    return {key: found for key, found in points.items() if len(found)}


@dataclass(frozen=True)
class SquareBatch:
    """Squares of pairs of frames that follow each other: pictures ``(2 B, 3, S, S)`` in [-1, 1], shares
    ``(2 B, 1, S, S)`` in [0, 1]; the second half follows the first.

    Attributes:
        moved, inside: of a frame moved from another.
        rest, opened: of that other frame.
        true: of the true frame.
    """

    moved: Tensor
    inside: Tensor
    rest: Tensor
    opened: Tensor
    true: Tensor

    def to(self, device: str) -> "SquareBatch":
        """The same on a device."""
        return SquareBatch(*(value.to(device) for value in vars(self).values()))


class Squares:
    """What the painter learns from, clip by clip.

    Args:
        config: how many pairs of frames are drawn of a clip, and from how many portraits.
        codec: with its basis.
        clips: to draw from.
        points: of their face meshes.
        folder: where they are kept.
    """

    def __init__(
        self,
        config: MotionCodecTrainConfig,
        codec: MotionCodecModel,
        clips: Sequence[Clip],
        points: dict[str, np.ndarray],
        folder: Path,
    ):
        self.config, self.codec, self.points, self.folder = config, codec, points, folder
        self.keys = [clip.key for clip in clips]
        self.weights = torch.tensor(weights(clips))
        for clip in tracked([c for c in clips if not self._path(c.key).is_file()], "drawing mouths"):
            with atomic_path(self._path(clip.key)) as partial, partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **self._draw(clip))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"

    @torch.no_grad()
    def _draw(self, clip: Clip) -> dict[str, np.ndarray]:
        codec, frames = self.codec, clip.frames()
        generator = numbered_generator(self.config.loop.seed, 0, f"mouths of {clip.key}")
        starts = torch.randperm(len(frames), generator=generator)[: self.config.portraits].tolist()
        firsts = torch.randperm(len(frames) - 1, generator=generator)[: self.config.pairs].tolist()
        wanted = sorted({*starts, *firsts, *(first + 1 for first in firsts)})
        points = self.points[clip.key]
        motion = dict(zip(wanted, codec.read_frames(frames, points, wanted), strict=True))
        portraits = {at: replace(codec.portrait(frames[at], points[at]), motion=motion[at]) for at in starts}
        drawn: dict[str, list[np.ndarray]] = {name: [] for name in (*PICTURES, *SHARES)}
        for number, first in enumerate(firsts):
            portrait = portraits[starts[number % len(starts)]]
            change, pose = codec.change(portrait, torch.stack([motion[first], motion[first + 1]]))
            moved, inside = codec.move_mouth(portrait, change.of(portrait.sheet), pose)
            square = mouth_square(pose)
            true = torch.cat(
                [Texture(to_pixels(frames[first + i][None])[:, :, 0]).at(square[i : i + 1]) for i in (0, 1)]
            )
            rest, opened = (part.expand(2, -1, -1, -1) for part in portrait.mouth)
            values = {"moved": moved, "rest": rest, "true": true, "inside": inside, "opened": opened}
            for name, value in values.items():
                scaled = value.clamp(-1, 1) * 127.5 + 127.5 if name in PICTURES else value.clamp(0, 1) * 255
                drawn[name].append(scaled.round().byte().numpy())
        return {name: np.stack(values) for name, values in drawn.items()}  # (N, 2, C, S, S)

    def batch(self, size: int, generator: torch.Generator) -> SquareBatch:
        """``size`` pairs."""
        chosen = torch.multinomial(self.weights, size, replacement=True, generator=generator).tolist()
        taken: dict[str, list[np.ndarray]] = {name: [] for name in ("moved", "inside", "rest", "opened", "true")}
        for index in chosen:
            with np.load(self._path(self.keys[index])) as table:
                which = int(torch.randint(len(table["moved"]), (), generator=generator))
                mirrored = bool(torch.rand((), generator=generator) < 0.5)
                for name, values in taken.items():
                    value = table[name][which]
                    values.append(value[..., ::-1] if mirrored else value)
        scaled = {}
        for name, values in taken.items():
            value = torch.from_numpy(np.stack(values, 1).reshape(2 * size, -1, SIDE, SIDE)).float()
            scaled[name] = value / 127.5 - 1 if name in PICTURES else value / 255
        return SquareBatch(**scaled)


class Critic(nn.Module):
    """Tells true squares from painted ones, patch by patch (a small PatchGAN); sees where the painter paints."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((4, width, 2), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
            layers += [nn.utils.spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.utils.spectral_norm(nn.Conv2d(2 * width, 1, 3, 1, 1)))

    def forward(self, pictures: Tensor, inside: Tensor) -> Tensor:
        """Logits ``(B, 1, h, w)``, weighted by how much of each patch is inside."""
        return self.layers(torch.cat([pictures, 2 * inside - 1], 1))


def painter_losses(painter: nn.Module, batch: SquareBatch, critic: Critic | None) -> dict[str, Tensor]:
    """What a batch costs: ``l1`` where the painter paints, ``edges``, ``temporal`` and, with a critic, ``sharp``; and
    the squares as ``painted``."""
    added = painter(batch.moved, batch.inside, batch.rest, batch.opened).float()
    painted = batch.moved + added
    where = reach(batch.inside)
    size = where.sum().clamp_min(1)
    error = where * (painted - batch.true)
    edges = error.diff(dim=-1).abs().sum() + error.diff(dim=-2).abs().sum()
    half = len(error) // 2
    losses = {
        "l1": error.abs().sum() / size,
        "edges": edges / size,
        "temporal": (error[half:] - error[:half]).abs().sum() / size,
        "psnr": 10 * torch.log10(4 * 3 * size / error.square().sum().clamp_min(1e-9)).detach(),
        "painted": painted.detach(),
    }
    if critic is not None:
        judged = _composed(batch, painted, where)
        losses["sharp"] = -(_shares(where) * critic(judged, batch.inside)).sum() / _shares(where).sum().clamp_min(1)
    return losses


def critic_loss(critic: Critic, batch: SquareBatch, painted: Tensor) -> Tensor:
    """Hinge loss of the critic."""
    where = reach(batch.inside)
    share = _shares(where)
    true = F.relu(1 - critic(_composed(batch, batch.true, where), batch.inside))
    made = F.relu(1 + critic(_composed(batch, painted, where), batch.inside))
    return (share * (true + made)).sum() / share.sum().clamp_min(1)


def _composed(batch: SquareBatch, painted: Tensor, where: Tensor) -> Tensor:
    """Only what is painted differs, or the critic would tell by what lies around it."""
    return batch.moved + where * (painted - batch.moved)


def _shares(where: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(where, 23)


@torch.no_grad()
def held_out(painter: nn.Module, squares: Squares, size: int) -> dict[str, float]:
    """PSNR in dB of held-out people where the painter paints, and of what it is given."""
    values: dict[str, list[float]] = {"held_out_psnr": [], "held_out_unpainted": []}
    for index in range(8):
        batch = squares.batch(size, numbered_generator(0, index, "held-out mouths"))
        values["held_out_psnr"].append(float(painter_losses(painter, batch, None)["psnr"]))
        where = reach(batch.inside)
        error = (where * (batch.moved - batch.true)).square().sum()
        values["held_out_unpainted"].append(float(10 * torch.log10(12 * where.sum() / error)))
    return {name: sum(each) / len(each) for name, each in values.items()}
