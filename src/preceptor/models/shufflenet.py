"""ShuffleNets for small images: Zhang et al. (2018) and Ma et al. (2018).

Both begin with a 1x1 convolution at full size instead of a 3x3 one at stride 2 and a max pool, and have torch's default
initialisation, as in the tables of knowledge distillation.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.models.images import image_channels

STEM = 24


def shuffle(x: Tensor, groups: int) -> Tensor:
    """The channels of x (B, C, H, W) dealt out anew: one of each group in turn.

    >>> shuffle(torch.arange(6).reshape(1, 6, 1, 1), 2).flatten().tolist()
    [0, 3, 1, 4, 2, 5]
    """
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class ShuffleBlockV1(nn.Module):
    """Grouped 1x1 convolution, shuffle, 3x3 filter of each channel, grouped 1x1 convolution.

    At stride 1 the input is added; at stride 2 its average is put behind, so that `width` counts what is put before it.
    """

    def __init__(self, channels: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = width // 4
        self.groups: int = 1 if channels == STEM else groups
        self.conv1: nn.Conv2d = nn.Conv2d(channels, inner, 1, groups=self.groups, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(inner)
        self.act1: nn.ReLU = nn.ReLU()
        self.conv2: nn.Conv2d = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(inner)
        self.act2: nn.ReLU = nn.ReLU()
        self.conv3: nn.Conv2d = nn.Conv2d(inner, width, 1, groups=groups, bias=False)
        self.bn3: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.act3: nn.ReLU = nn.ReLU()
        self.stride: int = stride

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle(self.act1(self.bn1(self.conv1(x))), self.groups)
        out = self.act2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return self.act3(out + x)
        return self.act3(torch.cat([out, F.avg_pool2d(x, 3, 2, padding=1)], 1))


class ShuffleNetV1(nn.Module):
    """Stem of 24 channels, three stages of 4, 8, 4 blocks, each halving, global average pool, linear classifier.

    Args:
        widths: channels of the three stages.
        groups: of the 1x1 convolutions.
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image.
    """

    def __init__(self, widths: Sequence[int], groups: int, *, num_classes: int, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(image_channels(input_shape), STEM, 1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(STEM)
        self.act1: nn.ReLU = nn.ReLU()
        self.layer1: nn.Sequential = _stage_v1(STEM, widths[0], 4, groups)
        self.layer2: nn.Sequential = _stage_v1(widths[0], widths[1], 8, groups)
        self.layer3: nn.Sequential = _stage_v1(widths[1], widths[2], 4, groups)
        self.linear: nn.Linear = nn.Linear(widths[2], num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last maps (B, C, H, W), which are averaged over space for the classifier."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.forward_features(x).mean((-2, -1)))


def _stage_v1(channels: int, width: int, blocks: int, groups: int) -> nn.Sequential:
    first = ShuffleBlockV1(channels, width - channels, 2, groups)
    return nn.Sequential(first, *(ShuffleBlockV1(width, width, 1, groups) for _ in range(blocks - 1)))


class ShuffleBlockV2(nn.Module):
    """Half of the channels through 1x1, 3x3 of each channel, 1x1; the other half as it is; shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch: nn.Sequential = _branch(width // 2, width // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, 1)
        return shuffle(torch.cat([kept, self.branch(changed)], 1), 2)


class ShuffleDown(nn.Module):
    """All channels through two branches at stride 2; shuffled."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.shortcut: nn.Sequential = nn.Sequential(
            *_filter(channels, 2), nn.Conv2d(channels, width // 2, 1, bias=False), nn.BatchNorm2d(width // 2), nn.ReLU()
        )
        self.branch: nn.Sequential = _branch(channels, width // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(torch.cat([self.shortcut(x), self.branch(x)], 1), 2)


class ShuffleNetV2(nn.Module):
    """Stem of 24 channels, three stages of 4, 8, 4 blocks, each halving, 1x1 convolution, global pool, classifier.

    Args:
        widths: channels of the three stages and of the last convolution.
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image.
    """

    def __init__(self, widths: Sequence[int], *, num_classes: int, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(image_channels(input_shape), STEM, 1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(STEM)
        self.act1: nn.ReLU = nn.ReLU()
        self.layer1: nn.Sequential = _stage_v2(STEM, widths[0], 4)
        self.layer2: nn.Sequential = _stage_v2(widths[0], widths[1], 8)
        self.layer3: nn.Sequential = _stage_v2(widths[1], widths[2], 4)
        self.conv2: nn.Conv2d = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(widths[3])
        self.act2: nn.ReLU = nn.ReLU()
        self.linear: nn.Linear = nn.Linear(widths[3], num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last maps (B, C, H, W), which are averaged over space for the classifier."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.act2(self.bn2(self.conv2(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.forward_features(x).mean((-2, -1)))


def _stage_v2(channels: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(ShuffleDown(channels, width), *(ShuffleBlockV2(width) for _ in range(blocks - 1)))


def _branch(channels: int, width: int, stride: int) -> nn.Sequential:
    first = [nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    last = [nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*first, *_filter(width, stride), *last)


def _filter(channels: int, stride: int) -> list[nn.Module]:
    """A 3x3 convolution of each channel on its own, and batch norm."""
    return [nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False), nn.BatchNorm2d(channels)]


def shufflenet_v1(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32)) -> ShuffleNetV1:
    """ShuffleNetV1 of three groups for small images (channels, height, width); 949,258 parameters with 100 classes.

    >>> model = shufflenet_v1(num_classes=100)
    >>> sum(parameter.numel() for parameter in model.parameters())
    949258
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    return ShuffleNetV1((240, 480, 960), 3, num_classes=num_classes, input_shape=input_shape)


def shufflenet_v2(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32)) -> ShuffleNetV2:
    """ShuffleNetV2 of width 1 for small images (channels, height, width); 1,355,528 parameters with 100 classes.

    >>> model = shufflenet_v2(num_classes=100)
    >>> sum(parameter.numel() for parameter in model.parameters())
    1355528
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    return ShuffleNetV2((116, 232, 464, 1024), num_classes=num_classes, input_shape=input_shape)
