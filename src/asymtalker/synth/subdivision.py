"""Catmull-Clark subdivision as a sparse matrix, so that one multiplication smooths a whole animated mesh."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Subdivided:
    """`matrix` (n, vertices) takes the coarse mesh's points to the fine points; `quads` (4f, 4) and `quad_uvs`
    (4f, 4) index fine points and `uvs` (m, 2)."""

    matrix: sparse.csr_matrix
    quads: np.ndarray
    quad_uvs: np.ndarray
    uvs: np.ndarray


def catmull_clark(quads: np.ndarray, quad_uvs: np.ndarray, uvs: np.ndarray, count: int) -> Subdivided:
    """One step for `quads` (f, 4) among `count` points, with texture corners `quad_uvs` (f, 4) in `uvs` (m, 2).

    Borders follow the cubic B-spline rule; texture coordinates are interpolated linearly. Catmull and Clark, 1978.
    """
    used = np.unique(quads)
    order = np.full(count, -1)
    order[used] = np.arange(len(used))
    faces = order[quads]
    v, f = len(used), len(faces)
    pairs = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], -1).reshape(-1, 2), axis=1)
    edges, edge_of, uses = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    edge_of = edge_of.reshape(f, 4)
    e = len(edges)
    one = np.ones
    face_points = sparse.csr_matrix((one(4 * f) / 4, (np.repeat(np.arange(f), 4), faces.ravel())), (f, v))
    ends = sparse.csr_matrix((one(2 * e) / 2, (np.repeat(np.arange(e), 2), edges.ravel())), (e, v))
    edge_faces = sparse.csr_matrix((one(4 * f), (edge_of.ravel(), np.repeat(np.arange(f), 4))), (e, f))
    border = uses == 1
    inner = sparse.diags((~border).astype(float))
    edge_points = inner @ (ends / 2 + edge_faces @ face_points / 4) + sparse.diags(border.astype(float)) @ ends
    degree = np.bincount(edges.ravel(), minlength=v).astype(float)
    vertex_edges = sparse.csr_matrix((one(2 * e), (edges.ravel(), np.repeat(np.arange(e), 2))), (v, e))
    vertex_faces = sparse.csr_matrix((one(4 * f), (faces.ravel(), np.repeat(np.arange(f), 4))), (v, f))
    face_count = np.maximum(np.asarray(vertex_faces.sum(1)).ravel(), 1)
    on_border = np.zeros(v, bool)
    on_border[edges[border].ravel()] = True
    smooth = (
        sparse.diags(1 / (degree * face_count)) @ vertex_faces @ face_points
        + sparse.diags(2 / degree**2) @ vertex_edges @ ends
        + sparse.diags((degree - 3) / degree)
    )
    rim = sparse.diags(np.where(on_border, 0.5, 0.0)) + 0.25 * vertex_edges @ sparse.diags(border.astype(float)) @ ends
    vertex_points = sparse.diags((~on_border).astype(float)) @ smooth + sparse.diags(on_border.astype(float)) @ rim
    gather = sparse.csr_matrix((one(v), (np.arange(v), used)), (v, count))
    matrix = sparse.vstack([vertex_points, edge_points, face_points]).tocsr() @ gather
    fine = _split(faces, v + edge_of, v + e + np.arange(f))
    uv_pairs = np.sort(np.stack([quad_uvs, np.roll(quad_uvs, -1, axis=1)], -1).reshape(-1, 2), axis=1)
    uv_edges, uv_edge_of = np.unique(uv_pairs, axis=0, return_inverse=True)
    fine_uvs = np.concatenate([uvs, uvs[uv_edges].mean(1), uvs[quad_uvs].mean(1)])
    base = len(uvs)
    uv_quads = _split(quad_uvs, base + uv_edge_of.reshape(f, 4), base + len(uv_edges) + np.arange(f))
    return Subdivided(matrix.astype(np.float32).tocsr(), fine, uv_quads, fine_uvs)


def _split(corners: np.ndarray, edge_points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The four quads of each quad: corner, following edge, centre, preceding edge."""
    before = np.roll(edge_points, 1, axis=1)
    parts = [np.stack([corners[:, k], edge_points[:, k], centres, before[:, k]], -1) for k in range(4)]
    return np.concatenate(parts)
