"""Inception-v3 against torch-fidelity's: live where that package can be imported, and by features it once gave."""

import importlib
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from asymtalker.models.inception import InceptionV3, resize_as_tensorflow

THEIRS = (0.07856, 0.07526, 3.01543, 0.15505, 0.0, 0.1694, 0.15354, 0.00989)
"""Features 0, 256, 512 ... of torch-fidelity 0.4.0 for the weights and the second picture below."""


def made_up_weights() -> dict[str, torch.Tensor]:
    """Weights that keep the size of activations, from NumPy's generator, whose numbers do not change."""
    rng = np.random.default_rng(7)
    weights = {}
    for name, value in InceptionV3().state_dict().items():
        shape = tuple(value.shape)
        if name.endswith("num_batches_tracked"):
            weights[name] = value
        elif name.endswith("running_var"):
            weights[name] = torch.from_numpy(rng.uniform(0.5, 1.5, shape)).float()
        elif value.ndim == 4:
            weights[name] = torch.from_numpy(rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).float()
        else:
            weights[name] = torch.from_numpy(float(name.endswith("bn.weight")) + 0.1 * rng.normal(size=shape)).float()
    return weights


def pictures() -> torch.Tensor:
    """Two smooth pictures ``(2, 3, 120, 100)`` uint8, larger in neither direction than the network's 299."""
    y, x = np.mgrid[0:120, 0:100]
    waves = [128 + 100 * np.sin(x / a + c) * np.cos(y / b) for a, b, c in [(9, 13, 0), (7, 5, 1), (21, 8, 2)]]
    first = np.stack(waves).astype(np.uint8)
    return torch.from_numpy(np.stack([first, first[::-1, ::-1].copy()]))


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    made = InceptionV3()
    made.load_state_dict(made_up_weights())
    return made


def test_features_are_those_torch_fidelity_gave(network):
    features = network(pictures())
    assert features.shape == (2, 2048)
    np.testing.assert_allclose(features[1, ::256].numpy(), THEIRS, atol=2e-5)


def test_features_are_torch_fidelitys_where_it_is_installed(network, tmp_path, monkeypatch):
    found = importlib.util.find_spec("torch_fidelity")
    if found is None or not found.submodule_search_locations:
        pytest.skip("torch-fidelity is not installed")
    package = types.ModuleType("torch_fidelity")  # its own __init__ wants torchvision, the extractor does not
    package.__path__ = list(found.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    theirs = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    extractor = theirs.FeatureExtractorInceptionV3(
        "fid", ["2048"], feature_extractor_weights_path=str(tmp_path / "weights.pth")
    )
    (expected,) = extractor(pictures())
    np.testing.assert_allclose(network(pictures()).numpy(), expected.numpy(), atol=1e-5)


def test_resizing_reads_where_tensorflow_did():
    """Pixel i of the result is read at i * in / out, and past the last pixel at the last one."""
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    wider = resize_as_tensorflow(ramp, 8)[0, 0, 0]
    assert wider.tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    narrower = resize_as_tensorflow(torch.arange(6.0).expand(1, 1, 6, 6), 3)[0, 0, 0]
    assert narrower.tolist() == [0, 2, 4]
