"""Pictures of heads: the one renderer for rendered heads and photo heads."""

from dataclasses import dataclass

import cv2
import numpy as np

from asymtalker.synth import photo
from asymtalker.synth.head_view import HeadView
from asymtalker.synth.identity import Identity
from asymtalker.synth.photo import PhotoHead
from asymtalker.synth.pose import Pose
from asymtalker.synth.window import OffscreenWindow, Surface, flat_camera


@dataclass(frozen=True)
class RenderedFrame:
    """`picture` (H, W, 3) uint8, `mask` (H, W) uint8 with the face at 255, `lip_aperture`: the gap in the middle of
    the inner lips over the distance of the outer eye corners at rest, both as seen in the picture, and `pose`: the
    pose shown, which for a photo head stays within what a flat picture bears."""

    picture: np.ndarray
    mask: np.ndarray
    lip_aperture: float
    pose: Pose


class Renderer:
    """Draws heads offscreen at `size` x `size` pixels; one per process, many heads one after the other."""

    def __init__(self, size: int = 256):
        self.size = size
        self.window = OffscreenWindow(size)
        self.view: _PhotoView | HeadView | None = None

    def load(self, head: Identity | PhotoHead, backdrop: np.ndarray | None = None) -> None:
        """Make `head` the one that `frame` draws; a rendered head may stand before a photograph, `backdrop`
        (H, W, 3) uint8, thrown out of focus, instead of its painted background."""
        self.window.clear()
        self.view = (
            HeadView(self.window, head, backdrop) if isinstance(head, Identity) else _PhotoView(self.window, head)
        )

    def frame(self, blendshapes: np.ndarray, pose: Pose) -> RenderedFrame:
        """The loaded head with face-unit weights (52,) in [0, 1] in the order of `BLENDSHAPES`, in a pose."""
        if self.view is None:
            raise RuntimeError("Renderer.frame was called before Renderer.load")
        if isinstance(self.view, _PhotoView):
            pose = photo.limit_pose(pose)
        picture, outline, aperture = self.view.draw(np.asarray(blendshapes, np.float32), pose)
        return RenderedFrame(picture, _face_mask(outline, self.size), aperture, pose)


def _face_mask(outline: np.ndarray, size: int) -> np.ndarray:
    """The picture (size, size) uint8 of a polygon (k, 2) in the unit square, y up."""
    mask = np.zeros((size, size), np.uint8)
    corners = np.stack([outline[:, 0], 1 - outline[:, 1]], 1) * size - 0.5
    cv2.fillPoly(mask, [np.round(corners * 16).astype(np.int32)], 255, lineType=cv2.LINE_8, shift=4)
    return mask


class _PhotoView:
    """A photo head in the window: mouth and eyes in the first layer, the photograph's sheet over them."""

    def __init__(self, window: OffscreenWindow, head: photo.PhotoHead):
        self.window, self.head = window, head
        behind, front = window.scenes
        behind.SetBackground(*(head.inside_light * np.array([40, 12, 12]) / 255))
        self.inside = []
        for part in head.inside:
            colours = None if part.colours is None else np.clip(part.colours * head.inside_light, 0, 255)
            texture = (
                None if part.texture is None else np.clip(part.texture * head.inside_light, 0, 255).astype(np.uint8)
            )
            self.inside.append(Surface(part.vertices, part.triangles, uvs=part.uvs, texture=texture, colours=colours))
        square = np.array([[0, 1, 2], [0, 2, 3]])
        square_uvs = np.array([[0, 1], [1, 1], [1, 0], [0, 0]])
        blank = np.zeros(52, np.float32)
        self.eyes = [Surface(eye.corners, square, uvs=square_uvs, texture=eye.looking(blank)) for eye in head.eyes]
        self.sheet = Surface(head.vertices, head.triangles, uvs=head.uvs, texture=head.texture)
        for surface in (*self.inside, *self.eyes):
            behind.AddActor(surface.actor)
        front.AddActor(self.sheet.actor)
        for scene in window.scenes:
            flat_camera(scene)

    def draw(self, weights: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray, float]:
        """The picture, the face's outline (k, 2) in it and the lip aperture."""
        now = photo.animate(self.head, weights, pose)
        self.sheet.move(now.sheet)
        for surface, points in zip(self.inside, now.inside, strict=True):
            surface.move(points)
        for surface, points, texture in zip(self.eyes, now.eyes, now.eye_textures, strict=True):
            surface.move(points)
            surface.paint(texture)
        return self.window.picture(), now.oval, now.lip_aperture
