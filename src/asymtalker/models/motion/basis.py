"""Face-mesh points <-> motion latents: pose and expression of a head, four frames a latent, in a linear basis.

A frame is a similarity (where the head is, how large and how turned) and a displacement of every point in the head's
own frame, of which a few principal components are kept. Both are brought to one unit, the root of summed squared
displacements over all points in head units, so that one basis over four frames weighs them by what they move.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asymtalker import timeline
from asymtalker.media.face_mesh import BROWS

POSE = 6  # logarithm of the scale, place (2) in head units, rotation vector (3)
STACK = timeline.TEMPORAL_COMPRESSION
JOIN = 25  # frames over which a head that a chunk begins elsewhere comes there: within few it is seen to slide
POINTS = 478
SPEECH = 8  # ways in which lips and chin move
RIGID = (33, 133, 263, 362, 168, 6, 197, 195, 5, 4, 98, 327, 2, 50, 280, 117, 346, 101, 330, 36, 266, 55, 285, 46, 276)
"""Points that tell the pose: corners of the eyes, bridge and wings of the nose, cheeks, inner brows."""
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 146, 91, 181, 84, 17, 314, 405, 321, 375)
INNER_LIPS = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 95, 88, 178, 87, 14, 317, 402, 318, 324)
RIGHT_LIDS = (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_LIDS = (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
CHIN = (152, 148, 377, 176, 400, 199, 200, 175, 18, 83, 313)
RIM = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 127, 162, 21, 54, 103, 67, 109),
    *(151, 108, 337, 69, 299, 104, 333, 68, 298),
)
IMPORTANCE = (
    (LIPS, 1.5),
    (INNER_LIPS, 2.5),
    (RIGHT_LIDS + LEFT_LIDS, 2.0),
    (range(468, 478), 2.0),
    (BROWS, 0.7),
    (CHIN, 0.5),
    (RIM, 0.05),
)
"""Weights of points in the basis; all others 0.3."""


@dataclass(frozen=True)
class Pose:
    """Similarities of heads: points of a frame are ``scale * rotation @ head point + place``.

    Attributes:
        scale: ``(...)`` pixels of a head unit (the distance of the outer corners of the eyes of the mean face).
        rotation: ``(..., 3, 3)``; axes x right, y down, z away.
        place: ``(..., 3)`` in pixels.
    """

    scale: Tensor
    rotation: Tensor
    place: Tensor

    def apply(self, points: Tensor) -> Tensor:
        """Points of the head ``(..., N, 3)`` in the frame, in pixels."""
        turned = points @ self.rotation.transpose(-1, -2)
        return self.scale[..., None, None] * turned + self.place[..., None, :]

    def inverse(self, points: Tensor) -> Tensor:
        """Points of the frame ``(..., N, 3)`` in head units."""
        return (points - self.place[..., None, :]) @ self.rotation / self.scale[..., None, None]


def fit_pose(points: Tensor, face: Tensor, weights: Tensor) -> Pose:
    """The similarity that takes ``face`` ``(N, 3)`` nearest to ``points`` ``(..., N, 3)``, weighted by ``weights``
    ``(N,)`` (Umeyama 1991)."""
    share = (weights / weights.sum())[:, None]
    centre, middle = (share * face).sum(0), (share * points).sum(-2)
    a, b = face - centre, points - middle[..., None, :]
    u, singular, vt = torch.linalg.svd((share * b).transpose(-1, -2) @ a)
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.det(u @ vt).sign()
    rotation = u @ (sign[..., None] * vt)
    scale = (singular * sign).sum(-1) / (share * a.square()).sum()
    place = middle - scale[..., None] * (rotation @ centre)
    return Pose(scale, rotation, place)


def rotation_vector(rotation: Tensor) -> Tensor:
    """``(..., 3)`` axis times angle of rotations ``(..., 3, 3)`` of less than half a turn."""
    skew = rotation - rotation.transpose(-1, -2)
    axis = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1) / 2  # times the angle's sine
    sine = axis.norm(dim=-1, keepdim=True)
    cosine = (rotation.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) - 1) / 2
    return axis * torch.where(sine > 1e-6, torch.atan2(sine, cosine) / sine.clamp_min(1e-6), 1.0)


def rotation_matrix(vector: Tensor) -> Tensor:
    """Rotations ``(..., 3, 3)`` by ``(..., 3)`` axis times angle."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(skew)


class MotionBasis(nn.Module):
    """The linear basis between face-mesh points and latents; all of it is fitted in closed form (:func:`fit_basis`).

    Args:
        components: principal components of expression kept of a frame.
        channels: of a latent.

    Buffers: ``face`` ``(478, 3)`` the mean face in head units; ``rigid`` ``(478,)`` weights of the points that tell
    the pose; ``read`` ``(components, 478 * 3)`` takes displacements in the head's frame to components, ``modes``
    ``(478, 3, components)`` components to displacements; ``gains`` ``(6,)`` bring a pose to the components' unit;
    ``noise`` ``(components + 6,)`` is the mesh's error in a motion; ``mean`` ``(STACK * size,)``, ``basis``
    ``(channels, STACK * size)``, ``spread`` ``(channels,)``: of latents.
    """

    face: Tensor
    rigid: Tensor
    read: Tensor
    modes: Tensor
    gains: Tensor
    mean: Tensor
    basis: Tensor
    spread: Tensor
    noise: Tensor

    def __init__(self, components: int, channels: int):
        super().__init__()
        self.components, self.channels = components, channels
        size = STACK * (components + POSE)
        for name, shape in {
            "face": (POINTS, 3),
            "rigid": (POINTS,),
            "read": (components, POINTS * 3),
            "modes": (POINTS, 3, components),
            "gains": (POSE,),
            "mean": (size,),
            "basis": (channels, size),
            "spread": (channels,),
            "noise": (components + POSE,),
        }.items():
            self.register_buffer(name, torch.zeros(shape))

    def motion(self, points: Tensor, size: tuple[int, int]) -> Tensor:
        """Motion ``(..., components + 6)`` of face-mesh points ``(..., 478, 3)`` in pixels of frames of ``size``
        (height, width)."""
        pose = fit_pose(points, self.face, self.rigid)
        displaced = (pose.inverse(points) - self.face).flatten(-2)
        return torch.cat([displaced @ self.read.T, _pose_vector(pose, size) * self.gains], -1)

    def of_motion(self, motion: Tensor) -> Tensor:
        """Latents ``(B, C, T, 1, 1)`` of motion ``(B, F, components + 6)`` of ``F = 1 + 4m`` frames; the first latent
        is of the first frame alone, as if it had stood still for four."""
        frames = torch.cat([motion[:, :1].expand(-1, STACK - 1, -1), motion], 1)
        stacks = frames.unflatten(1, (-1, STACK)).flatten(2)  # (B, T, STACK * size)
        latents = (stacks - self.mean) @ self.basis.T / self.spread
        return latents.transpose(1, 2)[..., None, None]

    def to_motion(self, latents: Tensor) -> Tensor:
        """Motion ``(B, F, components + 6)`` of latents ``(B, C, T, 1, 1)``."""
        stacks = (latents[..., 0, 0].transpose(1, 2) * self.spread) @ self.basis + self.mean
        return stacks.unflatten(2, (STACK, -1)).flatten(1, 2)[:, STACK - 1 :]

    def without_steps(self, motion: Tensor, begin: int) -> Tensor:
        """Motion ``(B, F, components + 6)`` of a chunk without steps where the frames of one latent end and those of
        the next begin [ours]: latents that were made err each by itself.

        What a step differs by from the motion on both sides of it is spread over the frames before and after; frames
        before ``begin`` have been seen and stay as they are. A head's pose never steps, and goes on from where it has
        been seen: what it begins elsewhere by it comes there within :data:`JOIN` frames. Nor does it tremble: it is a
        mean of three frames. A large step of the face is meant, as of lids that close, but where it is none of speech
        it takes three frames: lids are no shutter.
        """
        silent = torch.eye(self.components).to(motion) - self.speech().T.to(motion)
        joins = JOIN if begin else STACK  # a video begins with no other's head
        fading, joining = (torch.linspace(1, 0, count).to(motion)[:, None] for count in (STACK, joins))
        padded = F.pad(fading, (0, 0, 0, joins - STACK))
        join = torch.cat([padded.expand(-1, self.components), joining.expand(-1, POSE)], -1)
        spread = torch.zeros_like(motion)
        begin = max(begin, 1)  # a video's first frame stays its portrait
        for first in range(1, motion.shape[1] - 1, STACK):
            if first < begin:
                continue
            after = motion[:, first + 1] - motion[:, first]
            before = motion[:, first - 1] - motion[:, first - 2] if first > 1 else after
            step = (motion[:, first] - motion[:, first - 1] - (before + after) / 2)[:, None]
            face = step[..., :-POSE]
            small = face / (1 + (face / self.noise[:-POSE]).square())
            large = F.pad((face - small) @ silent, (0, POSE))[:, 0] / 3
            step = torch.cat([small, step[..., -POSE:]], -1)
            ways = (join if first == begin else fading / 2)[: motion.shape[1] - first]
            spread[:, first : first + len(ways)] -= ways * step
            spread[:, first] -= large
            if first > begin:
                spread[:, first - STACK : first] += 0.5 * fading.flip(0) * step
                spread[:, first - 1] += large
        motion = motion + spread
        pose = motion[..., -POSE:]
        calm = pose[:, begin - 1 : -2] / 4 + pose[:, begin:-1] / 2 + pose[:, begin + 1 :] / 4
        motion[:, begin:-1, -POSE:] = calm
        return motion

    def seen_from(self, motion: Tensor, start: Tensor, rest: Tensor) -> Tensor:
        """Motion ``(B, F, components + 6)`` of a head that rests at ``rest`` and changes as another does that goes
        from ``start`` (both ``(B, components + 6)``) to ``motion``. Places are counted from the middle of each one's
        frame, and a head grows about itself, wherever it is."""
        start, rest = start[:, None], rest[:, None]
        scale, place = slice(self.components, self.components + 1), slice(self.components + 1, self.components + 3)
        growth = ((motion[..., scale] - start[..., scale]) / self.gains[0]).exp()
        shift = (rest[..., place] + growth * motion[..., place] - start[..., place]) / growth
        moved = rest + motion - start
        return torch.cat([moved[..., : self.components + 1], shift, moved[..., self.components + 3 :]], -1)

    def covariance(self) -> Tensor:
        """How expressions vary together in the clips that the basis was fitted to ``(components, components)``."""
        stacks = (self.basis * self.spread[:, None]).unflatten(1, (STACK, -1))[..., : self.components]
        return torch.einsum("csi,csj->ij", stacks, stacks) / STACK

    def speech(self) -> Tensor:
        """The part of an expression that goes with lips and chin, as a projection ``(components, components)``: what
        of it the :data:`SPEECH` ways tell in which these move most, with all that moves by them on average [ours].
        Those of the bundled basis hold 99% of the motion of lips and chin, and a fifth of that of the lids."""
        size, ways = torch.linalg.eigh(self.covariance().double())
        root = ways * size.clamp_min(1e-6 * size[-1]).sqrt()  # of expressions that are alike in all ways
        points = self.modes[[*LIPS, *INNER_LIPS, *CHIN]].flatten(0, 1).double()
        most = torch.linalg.svd(points @ root, full_matrices=False)[2][:SPEECH]
        return (root @ most.T @ most @ torch.linalg.inv(root)).to(self.modes)

    def with_motion_of(self, motion: Tensor, others: Tensor, rest: Tensor, start: Tensor) -> Tensor:
        """Motion ``(B, F, components + 6)`` with the lips and the chin of ``motion`` and head, eyes and brows that
        differ from ``rest`` as those of ``others`` do from ``start``, both ``(B, components + 6)``."""
        moved = self.seen_from(others, start, rest)
        lips = (motion - moved)[..., : self.components] @ self.speech().T
        return torch.cat([moved[..., : self.components] + lips, moved[..., self.components :]], -1)

    def split(self, motion: Tensor, size: tuple[int, int]) -> tuple[Tensor, Pose]:
        """Expression ``(..., components)`` and pose in pixels of a frame of ``size`` that a motion stands for. The
        depth of the pose's place is not part of it and zero."""
        expression, vector = motion[..., : self.components], motion[..., self.components :] / self.gains
        scale = vector[..., 0].exp() * _unit(size)
        place = vector[..., 1:3] * scale[..., None] + vector.new_tensor(size[::-1]) / 2
        place = torch.cat([place, torch.zeros_like(place[..., :1])], -1)
        return expression, Pose(scale, rotation_matrix(vector[..., 3:]), place)


def _unit(size: tuple[int, int]) -> float:
    return (size[0] * size[1]) ** 0.5


def _pose_vector(pose: Pose, size: tuple[int, int]) -> Tensor:
    """``(..., 6)``: how large, where from the frame's middle in head units, how turned."""
    where = (pose.place[..., :2] - pose.place.new_tensor(size[::-1]) / 2) / pose.scale[..., None]
    scale = (pose.scale / _unit(size)).log()[..., None]
    return torch.cat([scale, where, rotation_vector(pose.rotation)], -1)


def fit_basis(
    basis: MotionBasis, clips: Sequence[Tensor], sizes: Sequence[tuple[int, int]], weights: Sequence[float]
) -> dict[str, float]:
    """Fit a basis to a corpus, in place and in closed form.

    What counts is motion within clips, not what tells people apart. Points are weighted by how much they say and by
    how well a face mesh reads them (``IMPORTANCE``); what is read of the face's rim, which hair and hats hide, enters
    the modes only as far as it goes with the rest.

    Args:
        basis: to be filled.
        clips: points ``(F, 478, 3)`` in pixels of each.
        sizes: height and width of the frames of each.
        weights: how much a frame of each clip counts.

    Returns:
        Shares of variance kept: ``expression`` by the components of a frame, ``motion`` by the channels of a latent.
    """
    importance = torch.full((POINTS,), 0.3)
    for points, weight in IMPORTANCE:
        importance[list(points)] = weight
    basis.rigid.zero_()
    basis.rigid[list(RIGID)] = 1
    first = torch.stack([points[0] for points in clips])
    face = first[0] - first[0].mean(0)
    for _ in range(5):
        face = fit_pose(first, face, basis.rigid).inverse(first).mean(0)
        face = face - (face * basis.rigid[:, None]).sum(0) / basis.rigid.sum()
        face = face / (face[33] - face[263]).norm()
    basis.face.copy_(face)
    poses = [fit_pose(points, face, basis.rigid) for points in clips]
    heads = [pose.inverse(points) for pose, points in zip(poses, clips, strict=True)]
    displaced = torch.cat([w**0.5 * (h - h.mean(0)) for h, w in zip(heads, weights, strict=True)]).flatten(1)
    metric = importance.repeat_interleave(3)
    seen = displaced * metric
    values, vectors = torch.linalg.eigh(seen.T.double() @ seen.double())
    vectors = vectors[:, -basis.components :].flip(1).float()
    basis.read.copy_((metric[:, None] * vectors).T)
    components = displaced @ basis.read.T
    modes = torch.linalg.lstsq(components.double(), displaced.double()).solution  # (components, POINTS * 3)
    basis.modes.copy_(modes.float().T.unflatten(0, (POINTS, 3)))
    kept = {"expression": float(values[-basis.components :].sum() / values.sum())}
    square = (importance.square()[:, None] * face.square()).sum()
    basis.gains.copy_(torch.stack([square.sqrt(), *[importance.norm()] * 2, *[(square * 2 / 3).sqrt()] * 3]))
    motions = [basis.motion(points, size) for points, size in zip(clips, sizes, strict=True)]
    # What goes back and forth from frame to frame is the mesh's error; what it errs by for longer is thrice that.
    jitter = torch.cat([w**0.5 * (m[2:] - 2 * m[1:-1] + m[:-2]) for m, w in zip(motions, weights, strict=True)])
    total = sum(w * len(m) for m, w in zip(motions, weights, strict=True))
    basis.noise.copy_(3 * (jitter.square().sum(0) / 6 / total).sqrt())
    # the same for all four frames, so that a head that stands still is the same in every latent
    mean = torch.stack([w * m.sum(0) for m, w in zip(motions, weights, strict=True)]).sum(0) / total
    basis.mean.copy_(mean.repeat(STACK))
    stacks = [m.unfold(0, STACK, 1).transpose(1, 2).flatten(1) for m in motions]
    spread = torch.cat([w**0.5 * (s - s.mean(0)) for s, w in zip(stacks, weights, strict=True)])
    values, vectors = torch.linalg.eigh(spread.T.double() @ spread.double())
    basis.basis.copy_(vectors[:, -basis.channels :].flip(1).float().T)
    total = sum(w * len(s) for s, w in zip(stacks, weights, strict=True))
    basis.spread.copy_((values[-basis.channels :].flip(0) / total).sqrt().float())
    kept["motion"] = float(values[-basis.channels :].sum() / values.sum())
    return kept
