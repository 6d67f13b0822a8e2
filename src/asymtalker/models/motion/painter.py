"""The painter: what a moved portrait does not show, the inside of the mouth, added to it."""

import torch
from torch import Tensor, nn

SIDE = 96  # pixels of the square around the mouth


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first, self.second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, h, w)`` to ``(B, outputs, h, w)``."""
        return self.shortcut(x) + self.second(nn.functional.silu(self.first(nn.functional.silu(x))))


class Painter(nn.Module):
    """A U-Net on the mouth's square.

    Args:
        widths: channels at 48, 24 and 12 pixels.
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 96)):
        super().__init__()
        a, b, c = widths
        self.into = nn.Conv2d(4 * 8, a, 3, padding=1)
        self.down = nn.ModuleList([Block(a, a), Block(a, b), Block(b, c)])
        self.middle = Block(c, c)
        self.up = nn.ModuleList([Block(c + b, b), Block(b + a, a)])
        self.out = nn.Conv2d(a, 4 * 3, 3, padding=1)
        for weight in self.out.parameters():  # at first nothing is added
            nn.init.zeros_(weight)

    def forward(self, moved: Tensor, inside: Tensor, portrait: Tensor, opened: Tensor) -> Tensor:
        """What to add ``(B, 3, S, S)`` to the moved portrait.

        Args:
            moved: ``(B, 3, S, S)`` the mouth's square of the moved portrait, in [-1, 1].
            inside: ``(B, 1, S, S)`` share of the mouth's inside in each pixel.
            portrait: ``(B, 3, S, S)`` the same square of the portrait at rest.
            opened: ``(B, 1, S, S)`` share of the mouth's inside there.
        """
        seen = torch.cat([moved, 2 * inside - 1, portrait, 2 * opened - 1], 1)
        x = nn.functional.pixel_unshuffle(seen, 2).contiguous(memory_format=torch.channels_last)  # a fifth quicker
        x = self.into(x)
        kept = []
        for index, block in enumerate(self.down):
            x = block(nn.functional.avg_pool2d(x, 2) if index else x)
            kept.append(x)
        x = self.middle(kept.pop())
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([x, kept.pop()], 1))
        return nn.functional.pixel_shuffle(self.out(x), 2) * reach(inside)


def reach(inside: Tensor) -> Tensor:
    """Where the painter may paint ``(B, 1, S, S)``: inside the mouth, and over its edge a few pixels, fading."""
    wide = nn.functional.max_pool2d(inside, 5, 1, 2)
    return nn.functional.avg_pool2d(wide, 5, 1, 2, count_include_pad=False)
