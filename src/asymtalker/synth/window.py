"""The offscreen window both kinds of head are drawn in, and the surfaces put into it (VTK, no display needed)."""

import os

import cv2
import numpy as np
import vtk
from vtkmodules.util.numpy_support import numpy_to_vtk, vtk_to_numpy

OVERSAMPLING = 2  # pixels drawn for one of the picture, along each side


class Surface:
    """A triangle mesh in a scene. Its points, normals and texture can be replaced frame by frame.

    Textured by `uvs` (n, 2) and `texture` (h, w, 3) uint8, coloured by `colours` (n, 3) uint8, or by one `colour`.
    Unlit unless `lit`; then `shine` is the strength of its highlight.
    """

    def __init__(
        self,
        vertices: np.ndarray,
        triangles: np.ndarray,
        *,
        uvs: np.ndarray | None = None,
        texture: np.ndarray | None = None,
        colours: np.ndarray | None = None,
        colour: tuple[float, float, float] = (1, 1, 1),
        lit: bool = False,
        shine: float = 0.0,
        power: float = 20.0,
        opacity: float = 1.0,
    ):
        self.data = vtk.vtkPolyData()
        self.points = vtk.vtkPoints()
        self.points.SetDataTypeToFloat()
        self.data.SetPoints(self.points)
        self.move(vertices)
        cells = vtk.vtkCellArray()
        offsets = np.arange(0, 3 * len(triangles) + 1, 3, dtype=np.int64)
        cells.SetData(
            numpy_to_vtk(offsets, deep=True, array_type=vtk.VTK_ID_TYPE),
            numpy_to_vtk(np.ascontiguousarray(triangles, np.int64).ravel(), deep=True, array_type=vtk.VTK_ID_TYPE),
        )
        self.data.SetPolys(cells)
        self.mapper = vtk.vtkPolyDataMapper()
        self.mapper.SetInputData(self.data)
        self.mapper.SetScalarVisibility(colours is not None)
        self.actor = vtk.vtkActor()
        self.actor.SetMapper(self.mapper)
        look = self.actor.GetProperty()
        look.SetColor(*colour)
        look.SetLighting(lit)
        look.SetInterpolationToPhong()
        look.SetAmbient(0.0 if lit else 1.0)
        look.SetDiffuse(1.0 if lit else 0.0)
        look.SetSpecular(shine)
        look.SetSpecularPower(power)
        look.SetOpacity(opacity)
        if colours is not None:
            self.data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(colours, np.uint8), deep=True))
        self.texture = None
        if uvs is not None and texture is not None:
            self.data.GetPointData().SetTCoords(numpy_to_vtk(np.ascontiguousarray(uvs, np.float32), deep=True))
            self.texture = vtk.vtkTexture()
            self.texture.SetInterpolate(True)
            self.texture.SetEdgeClamp(True)
            self.texture.SetMipmap(False)
            self.paint(texture)
            self.actor.SetTexture(self.texture)

    def move(self, vertices: np.ndarray, normals: np.ndarray | None = None) -> None:
        """Put the points at `vertices` (n, 3)."""
        self.points.SetData(numpy_to_vtk(np.ascontiguousarray(vertices, np.float32), deep=True))
        if normals is not None:
            self.data.GetPointData().SetNormals(numpy_to_vtk(np.ascontiguousarray(normals, np.float32), deep=True))
        self.data.Modified()

    def paint(self, texture: np.ndarray) -> None:
        """Replace the texture (h, w, 3 or 4) uint8, first row at the top."""
        assert self.texture is not None, "this surface was made without texture coordinates"
        image = vtk.vtkImageData()
        height, width, channels = texture.shape
        image.SetDimensions(width, height, 1)
        flat = np.ascontiguousarray(texture[::-1]).reshape(-1, channels)
        image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True))
        self.texture.SetInputData(image)
        self.texture.Modified()


class OffscreenWindow:
    """An offscreen window of two scenes, the second drawn over the first, read back as pictures of `size` pixels."""

    def __init__(self, size: int):
        if not os.environ.get("DISPLAY"):
            # VTK tries X first and says so on stderr; without a display go straight to EGL.
            os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
        self.size = size
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetMultiSamples(0)
        self.window.SetSize(size * OVERSAMPLING, size * OVERSAMPLING)
        self.window.SetNumberOfLayers(2)
        self.scenes: list[vtk.vtkRenderer] = []
        for layer in range(2):
            scene = vtk.vtkRenderer()
            scene.SetLayer(layer)
            scene.SetAutomaticLightCreation(False)
            scene.InteractiveOff()
            self.window.AddRenderer(scene)
            self.scenes.append(scene)
        self.pixels = vtk.vtkUnsignedCharArray()

    def clear(self) -> None:
        """Remove every surface and light."""
        for scene in self.scenes:
            scene.RemoveAllViewProps()
            scene.RemoveAllLights()

    def picture(self) -> np.ndarray:
        """Draw and return the picture (size, size, 3) uint8."""
        full = self.size * OVERSAMPLING
        self.window.Render()
        self.window.GetPixelData(0, 0, full - 1, full - 1, 0, self.pixels, 0)
        image = vtk_to_numpy(self.pixels).reshape(full, full, 3)[::-1]
        return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)


def flat_camera(scene: vtk.vtkRenderer) -> None:
    """Look straight at the unit square, without perspective; x right, y up, z in [-5, 5] towards the viewer."""
    camera = scene.GetActiveCamera()
    camera.ParallelProjectionOn()
    camera.SetPosition(0.5, 0.5, 10)
    camera.SetFocalPoint(0.5, 0.5, 0)
    camera.SetViewUp(0, 1, 0)
    camera.SetParallelScale(0.5)
    camera.SetClippingRange(5, 15)
