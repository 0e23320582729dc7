"""Wide residual networks, wrn_<depth>_<width factor>: Zagoruyko and Komodakis (2016)."""

from collections.abc import Sequence

from torch import Tensor, nn

from preceptor.models.images import image_channels, kaiming_


class WideBlock(nn.Module):
    """shortcut + conv(dropout(relu(bn(conv(relu(bn(x))))))).

    Where the block changes the number of channels, the shortcut is a 1x1 convolution of the activated input;
    elsewhere it is the input itself.
    """

    def __init__(self, channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(channels)
        self.act1: nn.ReLU = nn.ReLU()
        self.conv1: nn.Conv2d = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.act2: nn.ReLU = nn.ReLU()
        self.dropout: nn.Dropout = nn.Dropout(dropout)
        self.conv2: nn.Conv2d = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = (
            None if channels == width else nn.Conv2d(channels, width, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.act1(self.bn1(x))
        out = self.act2(self.bn2(self.conv1(active)))
        return (x if self.shortcut is None else self.shortcut(active)) + self.conv2(self.dropout(out))


class WideResNet(nn.Module):
    """Stem of 16 channels, three stages of 16k, 32k, 64k at strides 1, 2, 2, global average pool, classifier.

    Args:
        depth: 6n + 4, for n blocks a stage.
        factor: the k of the paper.
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image.
        dropout: probability of dropping an activation between a block's two convolutions while training.
    """

    def __init__(
        self, depth: int, factor: int, *, num_classes: int, input_shape: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = 16 * factor, 32 * factor, 64 * factor
        self.conv1: nn.Conv2d = nn.Conv2d(image_channels(input_shape), 16, 3, padding=1, bias=False)
        self.layer1: nn.Sequential = _stage(16, widths[0], blocks, 1, dropout)
        self.layer2: nn.Sequential = _stage(widths[0], widths[1], blocks, 2, dropout)
        self.layer3: nn.Sequential = _stage(widths[1], widths[2], blocks, 2, dropout)
        self.bn: nn.BatchNorm2d = nn.BatchNorm2d(widths[2])
        self.act: nn.ReLU = nn.ReLU()
        self.fc: nn.Linear = nn.Linear(widths[2], num_classes)
        kaiming_(self)
        nn.init.zeros_(self.fc.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last maps (B, C, H, W), which are averaged over space for the classifier."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.act(self.bn(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x).mean((-2, -1)))


def _stage(channels: int, width: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = WideBlock(channels, width, stride, dropout)
    return nn.Sequential(first, *(WideBlock(width, width, 1, dropout) for _ in range(blocks - 1)))


def wrn_16_1(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> WideResNet:
    """WRN-16-1 for small images (channels, height, width)."""
    return WideResNet(16, 1, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def wrn_16_2(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> WideResNet:
    """WRN-16-2 for small images (channels, height, width); 703,284 parameters with 100 classes.

    >>> import torch
    >>> model = wrn_16_2(num_classes=100)
    >>> sum(parameter.numel() for parameter in model.parameters())
    703284
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    return WideResNet(16, 2, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def wrn_40_1(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> WideResNet:
    """WRN-40-1 for small images (channels, height, width)."""
    return WideResNet(40, 1, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def wrn_40_2(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> WideResNet:
    """WRN-40-2 for small images (channels, height, width); 2,255,156 parameters with 100 classes."""
    return WideResNet(40, 2, num_classes=num_classes, input_shape=input_shape, dropout=dropout)
