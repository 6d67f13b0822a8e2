"""SyncNet: embeddings of lips and of sound that lie close together where the two belong together.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016). Layers and names are those of the network
that was published with it (``syncnet_v2.model`` of github.com/joonson/syncnet_python), so that its file can be loaded.
"""

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from asymtalker.errors import UserError
from asymtalker.media.read import check_file

WIDTH = 1024
"""Of the embeddings."""
LIPS_SIZE = 224
"""Side of the pictures."""
WINDOW_FRAMES = 5
"""Frames of 25 FPS that one embedding of lips sees."""
SOUND_SHAPE = (13, 20)
"""What one embedding of sound sees: 13 cepstral coefficients at 20 steps of 10 ms, the time of the five frames."""


class SyncNet(nn.Module):
    """Two networks with one space of embeddings. In evaluation mode each embedding depends on its own window only."""

    def __init__(self):
        super().__init__()
        self.netcnnaud = nn.Sequential(  # (N, 1, 13, 20)
            nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.Identity(),
            nn.Conv2d(64, 192, 3, padding=1), nn.BatchNorm2d(192), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=(1, 2)),  # (N, 192, 11, 9)
            nn.Conv2d(192, 384, 3, padding=1), nn.BatchNorm2d(384), nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),  # (N, 256, 5, 4)
            nn.Conv2d(256, 512, (5, 4)), nn.BatchNorm2d(512), nn.ReLU(inplace=True),  # (N, 512, 1, 1)
        )  # fmt: skip
        self.netfcaud = _head()
        self.netfclip = _head()
        # Only the first convolution looks along time. So many frames are embedded as windows that overlap, at no more
        # than the cost of the windows.
        self.netcnnlip = nn.Sequential(  # (N, 3, F, 224, 224)
            nn.Conv3d(3, 96, (WINDOW_FRAMES, 7, 7), stride=(1, 2, 2)), nn.BatchNorm3d(96), nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),  # (N, 96, F - 4, 54, 54)
            nn.Conv3d(96, 256, (1, 5, 5), stride=(1, 2, 2), padding=(0, 1, 1)), nn.BatchNorm3d(256),
            nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),  # (N, 256, F - 4, 13, 13)
            nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(256), nn.ReLU(inplace=True),
            nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(256), nn.ReLU(inplace=True),
            nn.Conv3d(256, 256, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(256), nn.ReLU(inplace=True),
            nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2)),  # (N, 256, F - 4, 6, 6)
            nn.Conv3d(256, 512, (1, 6, 6)), nn.BatchNorm3d(512), nn.ReLU(inplace=True),  # (N, 512, F - 4, 1, 1)
        )  # fmt: skip

    def embed_lips(self, frames: Tensor) -> Tensor:
        """Frames ``(F, 3, 224, 224)`` that follow each other, BGR from 0 to 255, to ``(F - 4, 1024)``: row ``i`` is
        the embedding of frames ``i`` to ``i + 4``."""
        features = self.netcnnlip(frames.transpose(0, 1)[None])  # (1, 512, F - 4, 1, 1)
        return self.netfclip(features[0, :, :, 0, 0].T)

    def embed_sound(self, cepstra: Tensor) -> Tensor:
        """Cepstral coefficients of windows ``(N, 13, 20)``, time last, to ``(N, 1024)``."""
        return self.netfcaud(self.netcnnaud(cepstra[:, None]).flatten(1))


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(inplace=True), nn.Linear(512, WIDTH))


def load_syncnet(path: Path) -> SyncNet:
    """SyncNet from the published file, in evaluation mode, on the CPU. The file can't run code.

    Raises:
        UserError: if the file is missing, is no file of weights, or holds those of another network.
    """
    check_file(path, "SyncNet file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(f"{path} is not a file of network weights or is damaged: fetch it anew.") from error
    network = SyncNet()
    wanted = network.state_dict()
    if not isinstance(loaded, dict):
        raise UserError(f"{path} does not hold SyncNet's weights but a {type(loaded).__name__}: fetch it anew.")
    # Counts of training steps, which evaluation does not read; PyTorch 0.3, which SyncNet was trained with, had none.
    loaded = {name: value for name, value in loaded.items() if not str(name).endswith("num_batches_tracked")}
    for name, value in wanted.items():
        if name.endswith("num_batches_tracked"):
            loaded[name] = value
        elif name not in loaded:
            raise UserError(f"{path} does not hold SyncNet's weights ({name} is missing): give syncnet_v2.model.")
        elif (shape := tuple(getattr(loaded[name], "shape", ()))) != tuple(value.shape):
            raise UserError(
                f"{path} does not hold SyncNet's weights ({name} has the shape {shape}, not {tuple(value.shape)}): "
                "give syncnet_v2.model."
            )
    if unknown := next((name for name in loaded if name not in wanted), None):
        raise UserError(f"{path} does not hold SyncNet's weights ({unknown} is unknown): give syncnet_v2.model.")
    network.load_state_dict(loaded)
    return network.eval().requires_grad_(False)
