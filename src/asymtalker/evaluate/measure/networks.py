"""The published networks that metrics need: fetched on first use, and where one can't be had, why."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asymtalker.errors import UserError
from asymtalker.evaluate.measure.faces import Detector, yunet_detector
from asymtalker.media.registry import REGISTRY, fetch_file
from asymtalker.models.inception import InceptionV3
from asymtalker.models.recognition import load_dlib
from asymtalker.models.syncnet import SyncNet, load_syncnet


@dataclass(frozen=True)
class Networks:
    """What is at hand; ``missing`` says of each other one why it is not."""

    inception: InceptionV3 | None = None
    i3d: Any | None = None
    """TorchScript; called with clips ``(B, 3, 16, H, W)`` uint8."""
    syncnet: SyncNet | None = None
    arcface: Any | None = None
    """An ONNX Runtime session."""
    yunet: Detector | None = None
    dlib_points: Any | None = None
    """Finds the five points that ``dlib_face`` lays faces by."""
    dlib_face: Any | None = None
    missing: dict[str, str] | None = None

    @property
    def has_dlib(self) -> bool:
        """Whether faces can be compared by dlib's network, which takes both of its files."""
        return self.dlib_points is not None and self.dlib_face is not None

    def present(self) -> list[str]:
        """Names of those at hand."""
        return [name for name in LOADERS if getattr(self, name) is not None]


def load_inception(path: Path) -> InceptionV3:
    """FID's network from the file torch-fidelity publishes."""
    network = InceptionV3()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def load_arcface(path: Path) -> Any:
    """An ONNX Runtime session of a recognition network: ``(N, 3, 112, 112)`` to embeddings ``(N, 512)``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


LOADERS: dict[str, Callable[[Path], Any]] = {
    "inception": load_inception,
    "i3d": lambda path: torch.jit.load(path, map_location="cpu").eval(),
    "syncnet": load_syncnet,
    "arcface": load_arcface,
    "yunet": yunet_detector,
    "dlib_points": lambda path: load_dlib("shape_predictor", path),
    "dlib_face": lambda path: load_dlib("face_recognition_model_v1", path),
}


def load_networks(offline: bool = False, device: str = "cpu") -> Networks:
    """All networks that can be had.

    Args:
        offline: take only those that are there already.
        device: of those that are PyTorch's.
    """
    loaded, missing = {}, {}
    for name, load in LOADERS.items():
        try:
            network = load(fetch_file(name, offline))
        except UserError as error:
            missing[name] = str(error)
            continue
        loaded[name] = network.to(device) if isinstance(network, torch.nn.Module) else network
    return Networks(**loaded, missing=missing)


def describe(networks: Networks) -> dict[str, dict[str, Any]]:
    """For the report: of each network its file, origin and licence, and whether it was at hand or why not."""
    return {
        name: {
            "file": REGISTRY[name].files()[0].path,
            "sha256": REGISTRY[name].files()[0].sha256,
            "origin": REGISTRY[name].origin,
            "licence": REGISTRY[name].licence,
            "missing": (networks.missing or {}).get(name),
        }
        for name in LOADERS
    }
