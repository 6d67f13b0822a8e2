"""A rendered head in the stage: background in the first layer, the lit head in the second."""

import numpy as np
import vtk

from asymtalker.synth import backdrop, facemesh, hair, head, mesh, skin
from asymtalker.synth.identity import Identity
from asymtalker.synth.pose import Pose
from asymtalker.synth.stage import Stage, Surface, flat_camera


class HeadView:
    """One identity, set up to be drawn frame after frame."""

    def __init__(self, stage: Stage, identity: Identity, photograph: np.ndarray | None = None):
        self.stage, self.identity = stage, identity
        self.topology = head.skin_topology()
        self.factors = head.fit_blink(identity)
        self.units = mesh.base_mesh().face_units[:, self.topology.coarse] * self.factors[:, None, None]
        self.rest = identity.shape[self.topology.coarse]
        self.share = head.head_share(self.rest)
        self.motion = head.HeadMotion(identity.shape)
        face = facemesh.face_mesh()
        self.face_rest = face.on_head(identity.shape)
        self.camera = head.aim(identity, self.face_rest)
        corners = self.camera.project(self.face_rest[[facemesh.RIGHT_EYE_OUTER, facemesh.LEFT_EYE_OUTER]])
        self.eye_distance = float(np.linalg.norm(corners[0] - corners[1]))
        lips = self.camera.project(self.face_rest[[facemesh.UPPER_LIP_MIDDLE, facemesh.LOWER_LIP_MIDDLE]])
        self.rest_gap = max(float(lips[0, 1] - lips[1, 1]), 0.0)  # closed lips touch a little inside of these points
        self._add_backdrop(photograph)
        self._add_skin()
        self._add_eyes_and_mouth()
        self._add_clothes()
        self.hair = []
        for shell in hair.grow(identity):
            surface = Surface(
                shell.vertices, shell.triangles, uvs=shell.uvs, texture=shell.texture, lit=True, shine=0.10, power=18
            )
            self.hair.append((surface, shell, head.head_share(shell.vertices), _gather(shell.vertices, shell.triangles)))
            stage.scenes[1].AddActor(surface.actor)
        self._add_lights()

    def _add_backdrop(self, photograph: np.ndarray | None) -> None:
        scene = self.stage.scenes[0]
        flat_camera(scene)
        square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
        picture = backdrop.paint(self.identity.background, self.identity.seed, 256, photograph)
        quad = Surface(square, np.array([[0, 1, 2], [0, 2, 3]]), uvs=square[:, :2], texture=picture)
        scene.AddActor(quad.actor)

    def _add_skin(self) -> None:
        texture = skin.paint_skin(self.identity)
        points = self.topology.matrix @ self.rest
        self.skin = Surface(
            points,
            self.topology.triangles,
            uvs=self.topology.uvs,
            texture=texture,
            colours=self.topology.shade,
            lit=True,
            shine=0.16,
            power=14,
        )
        self.stage.scenes[1].AddActor(self.skin.actor)

    def _add_eyes_and_mouth(self) -> None:
        scene = self.stage.scenes[1]
        self.eyes = []
        picture = skin.paint_eye(self.identity)
        for side in ("right", "left"):
            eye = head.Eye(self.identity.shape, side)
            surface = Surface(
                eye.way, eye.triangles, uvs=eye.uvs, texture=picture, lit=True, shine=0.9, power=70
            )
            self.eyes.append((eye, surface))
            scene.AddActor(surface.actor)
        self.inside = []
        light = 0.55 + self.identity.ambient
        for part in head.mouth_parts(self.identity.shape):
            colours = None if part.colours is None else (part.colours * light).clip(0, 255)
            texture = None if part.texture is None else (part.texture * light).clip(0, 255).astype(np.uint8)
            surface = Surface(part.vertices, part.triangles, uvs=part.uvs, texture=texture, colours=colours)
            self.inside.append((part, surface))
            scene.AddActor(surface.actor)
        base = mesh.base_mesh()
        self.lashes = []
        for name in head.LASHES:
            indices, inverse = np.unique(base.quads[name], return_inverse=True)
            faces = mesh.triangles(inverse.reshape(-1, 4))
            surface = Surface(self.identity.shape[indices], faces, colour=(0.06, 0.04, 0.04), opacity=0.75)
            self.lashes.append((indices, surface))
            scene.AddActor(surface.actor)

    def _add_clothes(self) -> None:
        """The body's outer hull below the neckline, in one colour with a soft weave."""
        identity = self.identity
        base = mesh.base_mesh()
        quads = base.quads["tights"]
        middle = identity.shape[quads].mean(1)
        top = identity.neckline + 0.12 * np.abs(middle[:, 0]) - 0.10 * middle[:, 2]
        worn = quads[(middle[:, 1] > 4.0) & (middle[:, 1] < top)]
        indices, inverse = np.unique(worn, return_inverse=True)
        faces = mesh.triangles(inverse.reshape(-1, 4))
        points = identity.shape[indices]
        gather = _gather(points, faces)
        outward = head.normals(points, faces, gather)
        points = points + 0.03 * outward
        colour = tuple(float(c) for c in identity.clothes / 255)
        surface = Surface(points, faces, colour=(colour[0], colour[1], colour[2]), lit=True, shine=0.02)
        surface.move(points, outward)
        self.stage.scenes[1].AddActor(surface.actor)

    def _add_lights(self) -> None:
        scene = self.stage.scenes[1]
        camera = scene.GetActiveCamera()
        place = self.camera
        camera.ParallelProjectionOff()
        camera.SetPosition(*place.position)
        camera.SetFocalPoint(*(place.position - place.axes[2]))
        camera.SetViewUp(*place.axes[1])
        camera.SetViewAngle(2 * float(np.degrees(np.arctan(place.half))))
        camera.SetClippingRange(2.0, 30.0)
        for light in self.identity.lights:
            lamp = vtk.vtkLight()
            lamp.SetLightTypeToSceneLight()
            lamp.SetPositional(False)
            lamp.SetFocalPoint(0, 0, 0)
            lamp.SetPosition(*light.direction)
            lamp.SetDiffuseColor(*light.colour)
            lamp.SetSpecularColor(*light.colour)
            scene.AddLight(lamp)
        for direction, strength in (((0, 1, 0.6), 0.6), ((-1, 0, 1), 0.5), ((1, 0, 1), 0.5), ((0, -1, 0.5), 0.25)):
            lamp = vtk.vtkLight()  # light from all around: bounce off walls and sky
            lamp.SetLightTypeToSceneLight()
            lamp.SetPositional(False)
            lamp.SetFocalPoint(0, 0, 0)
            lamp.SetPosition(*direction)
            level = strength * self.identity.ambient
            lamp.SetDiffuseColor(level, level, level)
            lamp.SetSpecularColor(0, 0, 0)
            scene.AddLight(lamp)

    def draw(self, weights: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray, float]:
        """The picture, the face's outline (k, 2) in it and the lip aperture."""
        topology, motion = self.topology, self.motion
        coarse = self.rest + np.tensordot(weights, self.units, 1)
        points = topology.matrix @ motion(coarse, self.share, pose)
        self.skin.move(points, head.normals(points, topology.triangles, topology.gather))
        for eye, surface in self.eyes:
            vertices, facing = eye.points(weights)
            turned = motion(vertices, 1.0, pose)
            surface.move(turned, motion(vertices + facing, 1.0, pose) - turned)
        for part, surface in self.inside:
            surface.move(motion(part.vertices + np.tensordot(weights, part.units, 1), 1.0, pose))
        units = mesh.base_mesh().face_units
        for indices, surface in self.lashes:
            moved = self.identity.shape[indices] + np.tensordot(weights * self.factors, units[:, indices], 1)
            surface.move(motion(moved, 1.0, pose))
        for surface, shell, share, gather in self.hair:
            moved = motion(shell.vertices, share, pose)
            surface.move(moved, head.normals(moved, shell.triangles, gather))
        face = facemesh.face_mesh()
        shown = motion(self.face_rest + np.tensordot(weights * self.factors, face.units, 1), 1.0, pose)
        outline = self.camera.project(shown[face.chains["oval"]])
        lips = shown[[facemesh.UPPER_LIP_MIDDLE, facemesh.LOWER_LIP_MIDDLE]]
        seen = self.camera.project(lips)
        gap = float((seen[0] - seen[1]) @ [np.sin(-np.radians(pose.roll)), np.cos(np.radians(pose.roll))])
        return self.stage.picture(), outline, max(gap - self.rest_gap, 0.0) / self.eye_distance


def _gather(points: np.ndarray, triangles: np.ndarray):
    from scipy import sparse

    corners = (triangles.T.ravel(), np.tile(np.arange(len(triangles)), 3))
    return sparse.csr_matrix((np.ones(3 * len(triangles), np.float32), corners), (len(points), len(triangles)))
