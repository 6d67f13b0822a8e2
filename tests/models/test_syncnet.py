import pytest
import torch

from asymtalker.errors import UserError
from asymtalker.models.syncnet import SyncNet, load_syncnet

# Layers as SyncNetModel.py of github.com/joonson/syncnet_python lists them: place in its list -> shape of the weights.
SOUND = {0: (64, 1, 3, 3), 4: (192, 64, 3, 3), 8: (384, 192, 3, 3), 11: (256, 384, 3, 3), 14: (256, 256, 3, 3)}
SOUND |= {18: (512, 256, 5, 4)}
LIPS = {0: (96, 3, 5, 7, 7), 4: (256, 96, 1, 5, 5), 8: (256, 256, 1, 3, 3), 11: (256, 256, 1, 3, 3)}
LIPS |= {14: (256, 256, 1, 3, 3), 18: (512, 256, 1, 6, 6)}
HEAD = {0: (512, 512), 3: (1024, 512)}

# A batch is summed in other blocks than a window alone. Sums of n float32 terms in two orders differ by about
# sqrt(2 n) * 6e-8 of their size: 8e-6 at the widest layer, of 9,216 terms, and less than 2e-5 after all eight. Single
# values may be close to 0, where the terms cancel, so it is the length of the difference that is bounded.
ROUNDING = 2e-5


def published_state() -> dict[str, torch.Tensor]:
    """Random weights under the names and shapes of the published file; PyTorch 0.3 kept no counts of steps."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for part, layers in (("netcnnaud", SOUND), ("netfcaud", HEAD), ("netfclip", HEAD), ("netcnnlip", LIPS)):
        for place, shape in layers.items():
            state[f"{part}.{place}.weight"] = torch.randn(shape, generator=generator) * 0.05
            state[f"{part}.{place}.bias"] = torch.randn(shape[0], generator=generator)
            if shape != HEAD[3]:  # every layer but the last is normalised
                for name in ("weight", "bias", "running_mean", "running_var"):
                    state[f"{part}.{place + 1}.{name}"] = torch.rand(shape[0], generator=generator) + 0.5
    return state


@pytest.mark.parametrize("zipped", [True, False], ids=["as PyTorch writes now", "as PyTorch wrote in 2018"])
def test_the_published_layout_is_read(tmp_path, zipped):
    state = published_state()
    torch.save(state, tmp_path / "syncnet.model", _use_new_zipfile_serialization=zipped)
    network = load_syncnet(tmp_path / "syncnet.model")
    assert not network.training
    loaded = network.state_dict()
    assert {name for name in loaded if not name.endswith("num_batches_tracked")} == set(state)
    for name, value in state.items():
        torch.testing.assert_close(loaded[name], value, rtol=0, atol=0)
    assert not any(value.requires_grad for value in network.parameters())


def test_a_file_with_counts_of_steps_is_read_too(tmp_path):
    torch.manual_seed(0)
    torch.save(SyncNet().state_dict(), tmp_path / "syncnet.model")
    load_syncnet(tmp_path / "syncnet.model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("netfclip.3.bias"), r"netfclip\.3\.bias is missing"),
        (
            lambda state: state.update({"netcnnlip.0.weight": torch.zeros(3)}),
            r"netcnnlip\.0\.weight has the shape \(3,\)",
        ),
        (lambda state: state.update({"netfcaud.0.weight": 5}), r"netfcaud\.0\.weight has the shape \(\)"),
        (lambda state: state.update({"head.weight": torch.zeros(3)}), r"head\.weight is unknown"),
    ],
    ids=["missing", "shape", "no tensor", "unknown"],
)
def test_another_networks_weights_are_refused(tmp_path, change, message):
    state = published_state()
    change(state)
    torch.save(state, tmp_path / "syncnet.model")
    with pytest.raises(UserError, match=message):
        load_syncnet(tmp_path / "syncnet.model")


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    path = tmp_path / "syncnet.model"
    with pytest.raises(UserError, match="does not exist"):
        load_syncnet(path)
    path.write_text("<html>not found</html>")
    with pytest.raises(UserError, match="not a file of network weights"):
        load_syncnet(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="but a list"):
        load_syncnet(path)
    torch.save(SyncNet(), path)  # a whole module: loading it would run code
    with pytest.raises(UserError, match="not a file of network weights"):
        load_syncnet(path)


@torch.inference_mode()
def test_many_frames_are_embedded_as_the_windows_they_make():
    network = SyncNet().eval()
    network.load_state_dict(published_state(), strict=False)
    frames = torch.rand(7, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 255
    together = network.embed_lips(frames)
    assert together.shape == (3, 1024)
    for i in range(3):  # as the published code does it: (1, 3, 5, 224, 224) to one embedding
        features = network.netcnnlip(frames[i : i + 5].transpose(0, 1)[None])
        alone = network.netfclip(features.reshape(1, -1))[0]
        assert (together[i] - alone).norm() < ROUNDING * alone.norm()
    assert (together[0] - together[1]).norm() > 0.01 * together[0].norm()


@torch.inference_mode()
def test_sound_is_embedded_window_by_window():
    network = SyncNet().eval()
    network.load_state_dict(published_state(), strict=False)
    cepstra = torch.randn(3, 13, 20, generator=torch.Generator().manual_seed(1)) * 10
    together = network.embed_sound(cepstra)
    assert together.shape == (3, 1024)
    (alone,) = network.embed_sound(cepstra[1:2])
    assert (together[1] - alone).norm() < ROUNDING * alone.norm()
    assert (together[0] - together[1]).norm() > 0.01 * together[0].norm()
