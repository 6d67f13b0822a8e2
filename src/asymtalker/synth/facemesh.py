"""MediaPipe's 468-point face mesh laid on the MakeHuman head: one dense face topology for photographs and renders.

`assets/face_mesh/dense.npz` holds, for a once-subdivided triangulation of the 468 points with the eyes and the mouth
left open as holes, each vertex's parents among the points (so that any set of landmarks gives all vertices) and its
place on the MakeHuman surface (a triangle and barycentric weights, so that every face unit gives its displacement).
The points' mean shape is that of 820 portraits' landmarks (nearly frontal, lips closed); the places come from a
thin-plate warp of it on to the front view of the average head, pinned at the lip line, the vermilion border, the lid
margins, nose, brows, jaw and chin.
"""

import functools
from dataclasses import dataclass

import numpy as np

from asymtalker.models.motion.portrait_sheet import read_table
from asymtalker.synth import mesh

# MediaPipe's numbering: outer corner, inner corner, lid and lip points used alone.
RIGHT_EYE_OUTER, LEFT_EYE_OUTER = 33, 263
RIGHT_IRIS, LEFT_IRIS = 468, 473  # the centre; the four that follow lie on the iris' rim
UPPER_LIP_MIDDLE, LOWER_LIP_MIDDLE = 13, 14
MOUTH_RIGHT, MOUTH_LEFT = 78, 308
CHIN = 152
BROWS = (46, 53, 52, 65, 55, 70, 63, 105, 66, 107, 276, 283, 282, 295, 285, 300, 293, 334, 296, 336)


@dataclass(frozen=True)
class FaceMesh:
    """The dense face topology: n = 1790 vertices, the first 468 of which are MediaPipe's points.

    `points` (468, 3) mean shape, unit = distance of the eye centres, x to the picture's right, y down, z away;
    `parents`, `parent_weights` (n, k); `triangles` (t, 3); `head_vertices`, `head_weights` (n, 3) on the MakeHuman
    mesh; `chains` name vertex chains from the picture's left to its right ("left" eye chains: outer to inner corner),
    `oval` closed; `units` (52, n, 3) face-unit displacements in MakeHuman units at the average head.
    """

    points: np.ndarray
    parents: np.ndarray
    parent_weights: np.ndarray
    triangles: np.ndarray
    head_vertices: np.ndarray
    head_weights: np.ndarray
    chains: dict[str, np.ndarray]
    units: np.ndarray

    def dense(self, points: np.ndarray) -> np.ndarray:
        """All vertices (n, d) from the 468 (or 478) points (p, d)."""
        return np.einsum("nk,nkd->nd", self.parent_weights, points[self.parents])

    def on_head(self, vertices: np.ndarray) -> np.ndarray:
        """Where the mesh's vertices lie (n, 3) on a MakeHuman shape (19158, 3)."""
        return np.einsum("nk,nkd->nd", self.head_weights, vertices[self.head_vertices])


@functools.lru_cache(maxsize=1)
def face_mesh() -> FaceMesh:
    """The table, read once per process."""
    arrays = read_table()
    head_vertices = arrays["head_vertices"].astype(np.int64)
    head_weights = arrays["head_weights"].astype(np.float32)
    head_weights /= head_weights.sum(1, keepdims=True)
    known = ("points", "parents", "parent_weights", "triangles", "head_vertices", "head_weights", "pairs")
    units = np.einsum("nk,unkd->und", head_weights, mesh.base_mesh().face_units[:, head_vertices])
    chains = {name: value.astype(np.int64) for name, value in arrays.items() if name not in known}
    _soften_corners(units, chains["upper_inner"], chains["lower_inner"])
    return FaceMesh(
        points=arrays["points"],
        parents=arrays["parents"].astype(np.int64),
        parent_weights=arrays["parent_weights"].astype(np.float32),
        triangles=arrays["triangles"].astype(np.int64),
        head_vertices=head_vertices,
        head_weights=head_weights,
        chains=chains,
        units=units.astype(np.float32),
    )


def _soften_corners(units: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> None:
    """Let the lips part gradually from the corner on; the head model's own corner belongs to the lower lip."""
    for end in (slice(0, 4), slice(-1, -5, -1)):
        (corner, *ups), (_, *downs) = upper[end], lower[end]
        units[:, corner] = (units[:, ups[-1]] + units[:, downs[-1]]) / 2
        for chain in (ups, downs):
            for k, share in ((0, 0.33), (1, 0.67)):
                units[:, chain[k]] = (1 - share) * units[:, corner] + share * units[:, chain[2]]
