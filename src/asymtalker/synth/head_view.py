"""A rendered head in the window: background in the first layer, the lit head in the second."""

import numpy as np
import vtk

from asymtalker.synth import backdrop, facemesh, hair, head, mesh, skin
from asymtalker.synth.identity import Identity
from asymtalker.synth.pose import Pose
from asymtalker.synth.window import OffscreenWindow, Surface, flat_camera


class HeadView:
    """One identity, set up to be drawn frame after frame."""

    def __init__(self, window: OffscreenWindow, identity: Identity, photograph: np.ndarray | None = None):
        self.window, self.identity = window, identity
        self.topology = head.skin_topology()
        self.factors = head.fit_blink(identity)
        self.units = mesh.base_mesh().face_units[:, self.topology.vertices] * self.factors[:, None, None]
        shape = head.tuck_ears(identity.shape) if identity.hair_style in ("bob", "long") else identity.shape
        self.rest = shape[self.topology.vertices]
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
        self.hair = []
        for shell in hair.grow(identity):
            surface = Surface(
                shell.vertices, shell.triangles, uvs=shell.uvs, texture=shell.texture, lit=True, shine=0.10, power=18
            )
            self.hair.append(
                (surface, shell, head.head_share(shell.vertices), mesh.gatherer(len(shell.vertices), shell.triangles))
            )
            window.scenes[1].AddActor(surface.actor)
        self._add_lights()

    def _add_backdrop(self, photograph: np.ndarray | None) -> None:
        scene = self.window.scenes[0]
        flat_camera(scene)
        square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
        picture = backdrop.paint(self.identity.background, self.identity.seed, 256, photograph)
        quad = Surface(square, np.array([[0, 1, 2], [0, 2, 3]]), uvs=square[:, :2], texture=picture)
        scene.AddActor(quad.actor)

    def _add_skin(self) -> None:
        texture = skin.paint_skin(self.identity)
        topology = self.topology
        facing = mesh.normals(self.rest, topology.triangles, topology.gather)
        shade = topology.shade * head.occlusion(self.rest, facing, topology.triangles)
        # Clothes are painted on the skin and stand off it a little.
        dressed = skin.is_clothed(self.identity, topology.uvs)[:, None]
        self.rest = self.rest + 0.05 * dressed * facing
        self.skin = Surface(
            self.rest,
            topology.triangles,
            uvs=topology.uvs,
            texture=texture,
            colours=255 * shade,
            lit=True,
            shine=0.16,
            power=14,
        )
        self.window.scenes[1].AddActor(self.skin.actor)

    def _add_eyes_and_mouth(self) -> None:
        scene = self.window.scenes[1]
        self.eyes = []
        picture = skin.paint_eye(self.identity)
        for side in ("right", "left"):
            eye = head.Eye(self.identity.shape, side)
            surface = Surface(eye.way, eye.triangles, uvs=eye.uvs, texture=picture, lit=True, shine=0.9, power=70)
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
            self.lashes.append((indices, base.face_units[:, indices], surface))
            scene.AddActor(surface.actor)

    def _add_lights(self) -> None:
        scene = self.window.scenes[1]
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
        lamp = vtk.vtkLight()  # light from all around, here from the camera: bounce off walls and sky
        lamp.SetLightTypeToSceneLight()
        lamp.SetPositional(False)
        lamp.SetFocalPoint(0, 0, 0)
        lamp.SetPosition(0, 0.35, 1)
        lamp.SetDiffuseColor(*([1.2 * self.identity.ambient] * 3))
        lamp.SetSpecularColor(0, 0, 0)
        scene.AddLight(lamp)

    def draw(self, weights: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray, float]:
        """The picture, the face's outline (k, 2) in it and the lip aperture."""
        topology, motion = self.topology, self.motion
        points = motion(self.rest + mesh.displacement(weights, self.units), self.share, pose)
        self.skin.move(points, mesh.normals(points, topology.triangles, topology.gather))
        for eye, surface in self.eyes:
            vertices, facing = eye.points(weights)
            turned = motion(vertices, 1.0, pose)
            surface.move(turned, motion(vertices + facing, 1.0, pose) - turned)
        for part, surface in self.inside:
            surface.move(motion(part.vertices + mesh.displacement(weights, part.units), 1.0, pose))
        for indices, units, surface in self.lashes:
            moved = self.identity.shape[indices] + mesh.displacement(weights * self.factors, units)
            surface.move(motion(moved, 1.0, pose))
        for surface, shell, share, gather in self.hair:
            moved = motion(shell.vertices, share, pose)
            surface.move(moved, mesh.normals(moved, shell.triangles, gather))
        face = facemesh.face_mesh()
        shown = motion(self.face_rest + mesh.displacement(weights * self.factors, face.units), 1.0, pose)
        outline = self.camera.project(shown[face.chains["oval"]])
        lips = shown[[facemesh.UPPER_LIP_MIDDLE, facemesh.LOWER_LIP_MIDDLE]]
        seen = self.camera.project(lips)
        gap = float((seen[0] - seen[1]) @ [np.sin(-np.radians(pose.roll)), np.cos(np.radians(pose.roll))])
        return self.window.picture(), outline, max(gap - self.rest_gap, 0.0) / self.eye_distance
