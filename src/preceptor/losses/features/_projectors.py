"""From a stage of a student to logits: what OFA-KD trains beside it."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from preceptor.losses.features._adapters import Norm
from preceptor.losses.features.base import patch_grid

FINAL_GRID = 7  # of patches, when all are merged


def separable(channels: int, wide: int) -> nn.Sequential:
    """Two depthwise and pointwise 3x3 convolutions with batch norm and ReLU, the first of which halves the maps."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        Norm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, wide, 1, bias=False),
        Norm(wide),
        nn.ReLU(),
    )


class MapProjector(nn.Module):
    """Maps (B, C, H, W) to logits: halved once for each stage that follows, averaged over space, a linear layer.

    Args:
        channels: C.
        wide: channels before the linear layer; in between they double.
        following: how many stages follow; behind none of them is a 1x1 convolution.
        num_classes: width of the logits.
    """

    def __init__(self, channels: int, wide: int, following: int, num_classes: int) -> None:
        super().__init__()
        widths = [*(channels * 2**n for n in range(following)), wide]
        halved = [separable(*pair) for pair in itertools.pairwise(widths)]
        self.body: nn.Module = nn.Sequential(*halved) if following else nn.Conv2d(channels, wide, 1)
        self.fc: nn.Linear = nn.Linear(wide, num_classes)
        self.apply(_drawn)

    def forward(self, maps: Tensor) -> Tensor:
        return self.fc(self.body(maps).mean((-2, -1)))


class Merge(nn.Module):
    """Four neighbouring patches to one: tokens (B, G H, D) of a grid (G, H) to (B, G H / 4, width)."""

    def __init__(self, grid: tuple[int, int], width: int, out: int, *, active: bool) -> None:
        super().__init__()
        self.grid: tuple[int, int] = grid
        self.norm: nn.LayerNorm = nn.LayerNorm(4 * width)
        self.reduction: nn.Linear = nn.Linear(4 * width, out, bias=False)
        self.act: nn.Module = nn.GELU() if active else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        grid = tokens.reshape(batch, self.grid[0] // 2, 2, self.grid[1] // 2, 2, width)
        four = grid.permute(0, 1, 3, 4, 2, 5).reshape(batch, count // 4, 4 * width)
        return self.act(self.reduction(self.norm(four)))


class TokenProjector(nn.Module):
    """Tokens (B, T, D) to logits: patches merged, transformer blocks, the first token or the mean, a linear layer.

    Tokens before the patches (class, registers) are kept beside the merged ones; the first of them is read
    in the end, the mean of the patches where there is none.

    Args:
        shape: of the tokens, (B, T, D).
        width: of the student's last stage, which all blocks have.
        following: how many stages follow; there are as many blocks, and at least one.
        num_classes: width of the logits.
        image: height and width of the images that the tokens are of; None are squares.
    """

    def __init__(
        self,
        shape: Sequence[int],
        width: int,
        following: int,
        num_classes: int,
        image: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        _, count, given = shape
        down, across = patch_grid(count, image)
        self.extra: int = count - down * across
        grids: list[tuple[int, int]] = []
        while down % 2 == across % 2 == 0 and min(down, across) >= 2 * FINAL_GRID:
            grids.append((down, across))
            down, across = down // 2, across // 2
        merges = [
            Merge(grid, width if n else given, width, active=n == 0 or n < len(grids) - 1)
            for n, grid in enumerate(grids)
        ]
        self.merge: nn.Module = nn.Sequential(*merges) if merges else _widened(given, width)
        self.beside: nn.Module = _widened(given, width)
        self.blocks: nn.Sequential = nn.Sequential(*(_block(width) for _ in range(max(following, 1))))
        self.fc: nn.Linear = nn.Linear(width, num_classes)
        self.apply(_drawn)

    def forward(self, tokens: Tensor) -> Tensor:
        patches = self.merge(tokens[:, self.extra :])
        beside = self.beside(tokens[:, : self.extra])
        found = self.blocks(torch.cat([beside.to(patches.dtype), patches], 1))
        return self.fc(found[:, 0] if self.extra else found.mean(1))


def _widened(given: int, width: int) -> nn.Module:
    return nn.Identity() if given == width else nn.Linear(given, width)


def _block(width: int) -> nn.Module:
    heads = 4 if width % 4 == 0 else 1
    return nn.TransformerEncoderLayer(width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)


def _drawn(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.trunc_normal_(module.in_proj_weight, std=0.02)
