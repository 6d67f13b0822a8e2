"""A codec of motion: latents say how a head moves, every texture comes of the portrait.

Encoding reads the face mesh of each frame, corrects it by the pictures (:mod:`asymtalker.models.motion.register`) and
takes it to a linear basis (:mod:`asymtalker.models.motion.basis`). Decoding moves the portrait's sheet by the change
since the portrait (:mod:`asymtalker.models.motion.sheet`) and paints the mouth's inside
(:mod:`asymtalker.models.motion.painter`). It is differentiable in the latents.
"""

import copy
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from asymtalker.codec import Codec, to_frames, to_pixels
from asymtalker.errors import UserError
from asymtalker.media.face_mesh import track
from asymtalker.models.motion.basis import STACK, MotionBasis, Pose, fit_pose
from asymtalker.models.motion.control import (
    AS_MADE,
    PARTED_AT,
    PARTED_FROM,
    MotionControl,
    lids_closing,
    lips_parting,
    rest_lips,
    shut_lips,
)
from asymtalker.models.motion.painter import SIDE, Painter
from asymtalker.models.motion.portrait_sheet import build_sheet, shows_teeth
from asymtalker.models.motion.register import Register
from asymtalker.models.motion.sheet import UNSEEN, Motion, Moved, Sheet, Texture, lay_texture, render, render_mouth
from asymtalker.models.motion.teeth import Teeth, light_inside, show_teeth, tooth_colour
from asymtalker.models.threads import unshared
from asymtalker.timeline import latents_of_frames

PORTRAITS = 16  # kept ready
LIPS_ERROR = 0.005  # of the mesh in how far lips are parted, in head units [ours]
MOUTH_SIDE = 1.1  # head units of the painter's square
MOUTH_PLACE = (0.0, 0.62)  # of its middle below the head's origin, in head units
BESIDE_TEETH = 0.4
"""Share that is shown of what is painted beside teeth that a portrait shows: the band there would be a second row."""


@dataclass(frozen=True)
class Portrait:
    """A picture that is to be moved.

    Attributes:
        picture: ``(1, 3, H, W)`` in [-1, 1].
        sheet: how it moves.
        texture: what the sheet shows.
        motion: ``(components + 6,)`` of its own face, which motions are changes of.
        mouth: the painter's square of it at rest ``(1, 3, S, S)``, and how far it is open there ``(1, 1, S, S)``.
        lids: by what share of their opening each expression closes them ``(components, 2)``.
        lips: by how much each expression parts them, and by how much they are, see :func:`lips_parting`.
        control: how it is to move.
        teeth: those that are drawn; ``None`` where it shows its own.
    """

    picture: Tensor
    sheet: Sheet
    texture: Texture
    motion: Tensor
    mouth: tuple[Tensor, Tensor]
    lids: Tensor
    lips: tuple[Tensor, Tensor]
    control: MotionControl
    teeth: Teeth | None


@dataclass(frozen=True)
class Painted:
    """What was painted: ``added`` to the moved portrait ``(B, 3, S, S)``, the ``light`` there ``(B, 1, S, S)`` and the
    ``colour`` of teeth in it ``(B, 3, 1, 1)``; or that of one frame, without ``B``."""

    added: Tensor
    light: Tensor
    colour: Tensor

    def of(self, index: int) -> "Painted":
        """That of one frame."""
        return Painted(self.added[index], self.light[index], self.colour[index])

    def at(self, where: Tensor) -> tuple[Tensor, Tensor]:
        """What is added ``(3, h, w)`` and the light ``(1, h, w)`` at places ``(h, w, 2)`` in the square of one frame,
        in [-1, 1]."""
        both = torch.cat([self.added, self.light])[None]
        found = torch.nn.functional.grid_sample(both, where[None], mode="bicubic", align_corners=False)[0]
        return found[:3], found[3:].clamp(0, 1)


class MotionCodecModel(ModelMixin, ConfigMixin):
    """The weights of the codec.

    Args:
        components: principal components of expression of a frame.
        channels: of a latent.
        widths: of the painter.
    """

    @register_to_config
    def __init__(self, components: int = 40, channels: int = 64, widths: tuple[int, int, int] = (32, 64, 96)):
        super().__init__()
        self.motion = MotionBasis(components, channels)
        self.painter = Painter((widths[0], widths[1], widths[2]))
        self.threads = torch.get_num_threads()  # that make frames: who decodes may have been told of one

    def read(self, frames: np.ndarray) -> Tensor:
        """The motion ``(F, components + 6)`` of the face in frames ``(F, H, W, 3)`` uint8 of one video; where it is
        lost for a while it goes evenly on.

        Raises:
            UserError: if no face is found in the first frame.
        """
        return torch.stack(self.read_frames(frames, read_points(frames), range(len(frames))))

    def read_frames(self, frames: np.ndarray, points: np.ndarray, wanted: Iterable[int]) -> list[Tensor]:
        """The motion ``(components + 6,)`` of some frames of a video whose face-mesh points are known."""
        size = frames.shape[1], frames.shape[2]
        readings = self.motion.motion(torch.from_numpy(points), size)
        register, motion = None, dict[int, Tensor]()
        for index in wanted:
            before = motion.get(index - 1)
            if index == 0 or (before is not None and (frames[index] == frames[index - 1]).all()):
                motion[index] = readings[0] if before is None else before
                continue
            if register is None:
                first = self.portrait(frames[0], points[0])
                register = Register(self.motion, first.sheet, first.picture, first.motion)
            motion[index] = register(_pixels(frames[index]), readings[index])
        return list(motion.values())

    def portrait(self, picture: np.ndarray, points: np.ndarray, control: MotionControl = AS_MADE) -> Portrait:
        """Make a picture ready to be moved.

        Args:
            picture: ``(H, W, 3)`` uint8.
            points: ``(478, 3)`` of its face mesh, in pixels.
            control: how it is to move.
        """
        basis, size = self.motion, picture.shape[:2]
        mesh = torch.from_numpy(points).float()
        motion = basis.motion(mesh, (size[0], size[1]))
        _, pose = basis.split(motion, (size[0], size[1]))
        # the depth, which a motion leaves out, is that of the origin: heads turn about it
        depth = fit_pose(mesh, basis.face, basis.rigid).place[2]
        points = points - np.array([0, 0, depth], points.dtype)
        head = pose.inverse(torch.from_numpy(points).float())
        modes = control.modes(basis, head)
        sheet = build_sheet(points, pose, modes.numpy(), (size[0], size[1]), picture)
        pixels = _pixels(picture)
        still = Motion(torch.eye(3)[None], torch.zeros(1, 3), torch.zeros(1, modes.shape[-1]))
        lids, lips = lids_closing(basis, head), lips_parting(basis, head)
        texture = lay_texture(sheet, picture)
        rest, inside = render_mouth(sheet, texture, still.of(sheet), mouth_square(pose, SIDE // 2)[None])
        unit = float(pose.scale)
        own = None if shows_teeth(points, unit) else Teeth.of(head, unit)
        return Portrait(pixels, sheet, texture, motion, (rest, inside), lids, lips, control, own)

    def change(self, portrait: Portrait, motion: Tensor, closing: Tensor | None = None) -> tuple[Motion, Pose]:
        """What moves a portrait's sheet to ``motion`` ``(B, components + 6)``, its lids shut at least as far as
        ``closing`` ``(B,)``, 0 to 1, says; and the pose of the head then."""
        size = portrait.picture.shape[2:]
        expression, made = self.motion.split(motion, (size[0], size[1]))
        rest, start = self.motion.split(portrait.motion, (size[0], size[1]))
        pose = portrait.control.pose(start, made)
        turn = (pose.scale / start.scale)[:, None, None] * pose.rotation @ start.rotation.T
        shift = pose.place - (turn @ start.place)
        change = shut_lips(expression - rest, portrait.lips)
        change = portrait.control.expression(change, portrait.lids, start, pose, closing)
        return Motion(turn, shift, change), pose

    def closed(self, portrait: Portrait, motion: Tensor) -> Tensor:
        """By what share ``(B,)`` of their opening the lids close at ``motion`` ``(B, components + 6)``."""
        return (motion - portrait.motion)[:, : self.motion.components] @ portrait.lids[:, 0]

    @staticmethod
    def move_mouth(portrait: Portrait, moved: Moved, pose: Pose) -> tuple[Tensor, Tensor]:
        """The painter's square ``(B, 3, S, S)`` of a moved portrait, and its inside ``(B, 1, S, S)``."""
        return render_mouth(portrait.sheet, portrait.texture, moved, mouth_square(pose, SIDE // 2))

    def frames(
        self,
        portrait: Portrait,
        motion: Tensor,
        autocast: torch.dtype | None = None,
        closing: Tensor | None = None,
    ) -> Tensor:
        """Pixels ``(B, 3, H, W)`` of a portrait at ``motion`` ``(B, components + 6)``; see :meth:`change`."""
        change, pose = self.change(portrait, motion, closing)
        sheet, picture = portrait.sheet, portrait.picture
        moved = change.of(sheet)
        part, unseen = render(sheet, portrait.texture, moved)
        self._paint(part, unseen, portrait, moved, pose, autocast)
        height, width = (
            min(part.shape[2], picture.shape[2] - sheet.top),
            min(part.shape[3], picture.shape[3] - sheet.left),
        )
        if (height, width) == picture.shape[2:]:
            return part[:, :, :height, :width]
        frame = picture.repeat(len(part), 1, 1, 1)
        frame[:, :, sheet.top : sheet.top + height, sheet.left : sheet.left + width] = part[:, :, :height, :width]
        return frame

    def _paint(
        self,
        part: Tensor,
        unseen: Tensor,
        portrait: Portrait,
        moved: Moved,
        pose: Pose,
        autocast: torch.dtype | None,
    ) -> None:
        mouth, inside = self.move_mouth(portrait, moved, pose)
        open_ones = (inside.detach().amax((1, 2, 3)) > UNSEEN).nonzero()[:, 0]
        if not len(open_ones):
            return
        mouth, inside = mouth[open_ones], inside[open_ones]
        rest, opened = (still.expand(len(mouth), -1, -1, -1) for still in portrait.mouth)
        with torch.autocast(part.device.type, autocast, enabled=autocast is not None):  # places need float32
            added = self.painter(mouth, inside, rest, opened).float()
        if portrait.teeth is None:
            added = BESIDE_TEETH * added
        painted = Painted(added, light_inside(inside), tooth_colour(mouth + added, inside))
        for number, index in enumerate(open_ones.tolist()):  # each lies elsewhere
            where = Pose(pose.scale[index], pose.rotation[index], pose.place[index])
            self._add(part[index], unseen[index], painted.of(number), portrait, where)

    @staticmethod
    def _add(part: Tensor, unseen: Tensor, painted: Painted, portrait: Portrait, pose: Pose) -> None:
        """Show what was painted on a frame's part ``(3, h, w)`` as far as a pixel is ``unseen`` ``(1, h, w)``."""
        rows, columns = ((unseen[0].detach().amax(axis) > UNSEEN).nonzero()[:, 0].tolist() for axis in (1, 0))
        if not rows:
            return
        box = ..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        xs = torch.arange(columns[0], columns[-1] + 1) + 0.5 + portrait.sheet.left
        ys = torch.arange(rows[0], rows[-1] + 1) + 0.5 + portrait.sheet.top
        pixels = torch.stack([xs.expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], -1)
        centre, axes = _square_axes(pose)
        where = 2 * (pixels - centre) @ torch.linalg.inv(axes.double()).float()  # in the square, [-1, 1]
        added, light = painted.at(where)
        fill = portrait.sheet.openings[0].fill
        assert fill is not None, "a mouth's is dark"
        inner = fill.view(3, 1, 1) + added
        if portrait.teeth is not None:
            inner = show_teeth(inner, portrait.teeth.at(pixels, pose), light, painted.colour)
        part[box] += unseen[box] * (inner - fill.view(3, 1, 1))


class MotionCodec(Codec):
    """See the module's docstring; latents ``(B, C, T, 1, 1)`` of frames of any size. It works on the CPU, wherever its
    network, the latents and the pixels are.

    Args:
        vae: its network.
        autocast: precision of the painter; the rest is float32.
        control: how portraits are to move.
    """

    memoryless = True
    spatial = 0  # a motion has no rows and columns
    pictures = ("lips at rest", PARTED_FROM, PARTED_AT)

    def __init__(self, vae: MotionCodecModel, autocast: torch.dtype | None = None, control: MotionControl = AS_MADE):
        here = vae.device.type == "cpu"
        self.vae: MotionCodecModel = vae if here else copy.deepcopy(vae).cpu()
        self.autocast, self.control = autocast if here else None, control
        self.channels = vae.motion.channels
        self._portraits: OrderedDict[bytes, Portrait] = OrderedDict()
        self._faces: dict[bytes, np.ndarray] = {}

    @property
    def encoder(self) -> nn.Module:
        """The basis; what is painted changes no latent."""
        return self.vae.motion

    def cells(self, size: tuple[int, int], patch_size: Sequence[int]) -> tuple[int, int]:
        """One.

        Raises:
            UserError: if a side is odd, which no video file could hold, or patches are of more than one cell.
        """
        if size[0] % 2 or size[1] % 2:
            raise UserError(f"Height and width of a video must be even, not {size[0]}x{size[1]}.")
        if tuple(patch_size[1:]) != (1, 1):
            raise UserError("A motion has no rows and columns: --config.model.patch-size must be 1 1 1 here.")
        return 1, 1

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """See :meth:`asymtalker.codec.Codec.encode`.

        Raises:
            UserError: if no face is found in the first frame.
        """
        latents_of_frames(pixels.shape[2])
        with torch.autocast("cpu", enabled=False):
            if pixels.shape[2] == 1 or pixels.stride(2) == 0:  # one picture, repeated
                pictures = [to_frames(clip[None])[0] for clip in pixels[:, :, :1]]
                points = torch.from_numpy(np.stack([self._points(picture) for picture in pictures])).float()
                motion = self.vae.motion.motion(points, (pixels.shape[3], pixels.shape[4]))[:, None]
                motion = rest_lips(self.vae.motion, motion)  # of a smile with teeth: they would never close
            else:
                motion = torch.stack([self.vae.read(to_frames(clip[None])) for clip in pixels])
            return self.vae.motion.of_motion(motion.expand(-1, pixels.shape[2], -1)).to(pixels.device)

    def decode(self, latents: Tensor, portrait: Tensor | None = None, identity: Tensor | None = None) -> Tensor:
        """See :meth:`asymtalker.codec.Codec.decode`.

        Raises:
            UserError: if no face is found in a portrait.
        """
        frames = 1 + STACK * (latents.shape[2] - 1)
        return torch.cat(list(self.decode_frames(latents, 0, frames, portrait, identity)), 2)

    def decode_frames(
        self,
        latents: Tensor,
        begin: int,
        stop: int,
        portrait: Tensor | None,
        identity: Tensor | None,
        closing: Callable[[Tensor], Tensor] | None = None,
    ) -> Iterator[Tensor]:
        """See :meth:`asymtalker.codec.Codec.decode_frames`."""
        assert portrait is not None, "motion moves a picture"
        device, latents = latents.device, latents.cpu()
        with torch.autocast("cpu", enabled=False):
            motions = self.vae.motion.without_steps(self.vae.motion.to_motion(latents.float()), begin)
            pictures = [self._prepared(portrait[index : index + 1, :, 0]) for index in range(len(latents))]
            rests, lips = (torch.stack(each) for each in zip(*((p.motion, p.lips[1]) for p in pictures), strict=True))
            rests = rest_lips(self.vae.motion, rests, lips)
            if identity is not None:
                start = self.vae.motion.to_motion(identity[:, :, :1].cpu().float())[:, 0]
                motions = self.vae.motion.seen_from(motions, start, rests)
        shuts = [
            None if closing is None else closing(self.vae.closed(picture, motion))
            for picture, motion in zip(pictures, motions, strict=True)
        ]
        records, infers = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

        def block(first: int, last: int) -> Tensor:
            part = motions[:, first:last]
            now = [None if shut is None else shut[first - begin :][: part.shape[1]] for shut in shuts]
            with unshared(), torch.inference_mode(infers), torch.set_grad_enabled(records):  # each thread has its own
                each = zip(pictures, part, now, strict=True)
                moved = [self.vae.frames(picture, motion, self.autocast, shut) for picture, motion, shut in each]
                return (moved[0][None] if len(moved) == 1 else torch.stack(moved)).transpose(1, 2)

        made = deque[Future[Tensor]]()
        for first, last in _blocks(begin, stop):
            made.append(self._threads.submit(block, first, last))
            if len(made) > self.vae.threads:
                yield made.popleft().result().to(device)
        while made:
            yield made.popleft().result().to(device)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        """Threads that make frames: of the many small operations that each takes PyTorch's own would share each one,
        which is slower (39 against 24 ms a frame, and 14 against 13 where both do)."""
        return ThreadPoolExecutor(self.vae.threads)

    def compared(self, latents: Tensor) -> Tensor:
        """See :meth:`asymtalker.codec.Codec.compared`: the motion of the frames and how far lips are parted
        ``(B, components + 7, F, 1, 1)``, in units of what a face mesh misreads."""
        basis = self.vae.motion
        motion = basis.to_motion(latents.cpu().float())
        parting, _ = lips_parting(basis, basis.face)
        lips = motion[..., : basis.components] @ parting / LIPS_ERROR
        values = torch.cat([motion / basis.noise, lips[..., None]], -1)
        return values.transpose(1, 2)[..., None, None].to(latents.device)

    def with_motion_of(
        self, latents: Tensor, others: Tensor, backward: Tensor, portraits: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """See :meth:`asymtalker.codec.Codec.with_motion_of`."""
        basis = self.vae.motion
        motion, other = (basis.to_motion(each.cpu().float()) for each in (latents, others))
        other = torch.where(backward[:, None, None], other.flip(1), other)
        rest, start = (basis.to_motion(each.cpu().float()) for each in portraits) if portraits else (motion, other)
        return basis.of_motion(basis.with_motion_of(motion, other, rest[:, 0], start[:, 0])).to(latents)

    def going_on_from(self, latents: Tensor, given: Tensor) -> Tensor:
        """See :meth:`asymtalker.codec.Codec.going_on_from`: the head's pose goes on from there, the face is as it
        was."""
        basis = self.vae.motion
        with torch.autocast("cpu", enabled=False):
            motion, made = (basis.to_motion(each.cpu().float()) for each in (latents, given))
            join = made.shape[1] - 1
            moved = basis.seen_from(motion, motion[:, join], made[:, join])
            motion = torch.cat([motion[..., : basis.components], moved[..., basis.components :]], -1)
            return basis.of_motion(motion).to(latents)

    def encode_again(self, latents: Tensor, frames: range, begin: int, decoded: Callable[[], Tensor]) -> Tensor:
        """See :meth:`asymtalker.codec.Codec.encode_again`: frames are a function of their motion, which is what the
        face mesh would read of them but for its error; so it is taken as it is."""
        with torch.autocast("cpu", enabled=False):
            motion = self.vae.motion.without_steps(self.vae.motion.to_motion(latents.cpu().float()), begin)
            return self.vae.motion.of_motion(motion[:, frames.start : frames.stop]).to(latents.device)

    def note_face(self, picture: np.ndarray, points: np.ndarray) -> None:
        """Say which face of a picture ``(H, W, 3)`` uint8 is meant, by its points ``(478, 3)`` in pixels, rather than
        have it looked for."""
        self._faces[_digest(picture)] = points

    def _points(self, picture: np.ndarray) -> np.ndarray:
        known = self._faces.get(_digest(picture))
        return read_points(picture[None])[0] if known is None else known

    def _prepared(self, picture: Tensor) -> Portrait:
        """A picture ``(1, 3, H, W)`` made ready to be moved, kept for the next chunk."""
        frame = to_frames(picture[:, :, None])[0]
        name = _digest(frame)
        if name not in self._portraits:
            with torch.no_grad():
                self._portraits[name] = self.vae.portrait(frame, self._points(frame), self.control)
            if len(self._portraits) > PORTRAITS:
                self._portraits.popitem(last=False)
        return self._portraits[name]


def _blocks(begin: int, stop: int) -> Iterator[tuple[int, int]]:
    """Frames that are made together: few at first, so that who waits sees them soon."""
    size = 1
    while begin < stop:
        yield begin, min(begin + size, stop)
        begin, size = begin + size, min(2 * size, STACK)


def _digest(picture: np.ndarray) -> bytes:
    return hashlib.sha256(picture.tobytes()).digest()


def read_points(frames: np.ndarray) -> np.ndarray:
    """Face-mesh points ``(F, 478, 3)`` float32 of frames ``(F, H, W, 3)`` uint8; those of frames whose face is lost
    lie between those before and after, or are the nearest at the beginning and the end.

    Raises:
        UserError: if a face is found in less than half of the frames.
    """
    points: list[np.ndarray] = []
    known: list[int] = []
    for index, face in enumerate(track(_changed(frames))):
        if face is not None:
            known.append(index)
            points.append(face.points)
    steps = np.cumsum([0, *((frames[i] != frames[i - 1]).any() for i in range(1, len(frames)))])
    if 2 * len(known) <= steps[-1]:
        frames_seen = f"only {len(known)} of {steps[-1] + 1} frames"
        raise UserError(f"A face was found in {frames_seen}." if known else "No face was found.")
    at = np.interp(np.arange(steps[-1] + 1), known, np.arange(len(known)))
    low = np.floor(at).astype(int)
    share = (at - low)[:, None, None].astype(np.float32)
    stacked = np.stack([*points, points[-1]])
    return ((1 - share) * stacked[low] + share * stacked[low + 1])[steps]


def _changed(frames: np.ndarray) -> Iterator[np.ndarray]:
    """The first of frames that repeat themselves, as those of a still picture do."""
    for index, frame in enumerate(frames):
        if index == 0 or (frame != frames[index - 1]).any():
            yield frame


def _pixels(frame: np.ndarray) -> Tensor:
    return to_pixels(frame[None])[:, :, 0]


def _square_axes(pose: Pose) -> tuple[Tensor, Tensor]:
    """Middle ``(..., 2)`` of the painter's square in pixels and its sides ``(..., 2, 2)``, across and down."""
    across = pose.rotation[..., :2, 0]
    across = across / across.norm(dim=-1, keepdim=True)
    down = torch.stack([-across[..., 1], across[..., 0]], -1)
    lips = pose.rotation.new_tensor([MOUTH_PLACE[0], MOUTH_PLACE[1], 0.0])
    middle = pose.place[..., :2] + pose.scale[..., None] * (pose.rotation @ lips)[..., :2]
    return middle, MOUTH_SIDE * pose.scale[..., None, None] * torch.stack([across, down], -2)


def mouth_square(pose: Pose, side: int = SIDE) -> Tensor:
    """Places ``(..., 2, S, S)`` in the painter's square of a head in its pose, ``side`` along each side, in pixels."""
    middle, axes = _square_axes(pose)
    steps = (torch.arange(side) + 0.5) / side - 0.5
    place = torch.stack([steps.expand(side, -1), steps[:, None].expand(-1, side)], -1)  # (S, S, 2)
    return (place @ axes[..., None, :, :] + middle[..., None, None, :]).movedim(-1, -3)
