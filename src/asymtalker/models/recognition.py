"""dlib's recognition of faces: 128 numbers that lie close together for pictures of one person.

Its two files come through :mod:`asymtalker.media.registry`; its package ``dlib-bin`` is imported when it is needed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from asymtalker.media.portrait import FaceBox


def load_dlib(kind: str, path: Path) -> Any:
    """dlib's ``shape_predictor`` or ``face_recognition_model_v1``.

    Raises:
        ImportError: if dlib is not installed.
    """
    import dlib  # loads in a tenth of a second that commands without it need not wait

    return getattr(dlib, kind)(str(path))


def embed_face(points: Any, network: Any, picture: np.ndarray, face: FaceBox) -> np.ndarray:
    """The embedding ``(128,)`` of a face in a picture ``(H, W, 3)`` uint8.

    Args:
        points: the five-point ``shape_predictor``.
        network: the ``face_recognition_model_v1``.
        picture: any.
        face: a square from brows to chin.
    """
    import dlib

    corners = (face.left, face.top, face.left + face.width, face.top + face.height)
    picture = np.ascontiguousarray(picture)
    shape = points(picture, dlib.rectangle(*map(round, corners)))  # pyright: ignore
    return np.array(network.compute_face_descriptor(picture, shape))
