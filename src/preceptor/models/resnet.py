"""The CIFAR residual networks of the distillation literature.

He et al., Deep Residual Learning for Image Recognition (2016), section 4.2: a 3x3 stem without pooling and
three stages of basic blocks. The names are those of Tian et al., Contrastive Representation Distillation
(2020): `resnet8` to `resnet110` have widths 16, 32, 64 behind a stem of 16, `resnet8x4` and `resnet32x4` have
64, 128, 256 behind a stem of 32. A block that changes shape has a 1x1 convolution and batch norm as shortcut.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from preceptor.models.images import image_channels, kaiming_


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.act1: nn.ReLU = nn.ReLU()
        self.conv2: nn.Conv2d = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.act2: nn.ReLU = nn.ReLU()
        self.downsample: nn.Sequential = nn.Sequential()
        if stride != 1 or channels != width:
            self.downsample.append(nn.Conv2d(channels, width, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.downsample(x) + self.bn2(self.conv2(out)))


class ResNet(nn.Module):
    """Stem, three stages at strides 1, 2, 2, global average pool (, dropout), linear classifier.

    Args:
        depth: 6n + 2, for n blocks a stage.
        widths: channels of the stem and of the three stages.
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image.
        dropout: probability of dropping an average that the classifier reads while training.
    """

    def __init__(
        self, depth: int, widths: Sequence[int], *, num_classes: int, input_shape: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1: nn.Conv2d = nn.Conv2d(image_channels(input_shape), widths[0], 3, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(widths[0])
        self.act1: nn.ReLU = nn.ReLU()
        self.layer1: nn.Sequential = _stage(widths[0], widths[1], blocks, stride=1)
        self.layer2: nn.Sequential = _stage(widths[1], widths[2], blocks, stride=2)
        self.layer3: nn.Sequential = _stage(widths[2], widths[3], blocks, stride=2)
        self.dropout: nn.Dropout = nn.Dropout(dropout)
        self.fc: nn.Linear = nn.Linear(widths[3], num_classes)
        kaiming_(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last maps (B, C, H, W), which are averaged over space for the classifier."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.forward_features(x).mean((-2, -1))))


def _stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1)))


NARROW = (16, 16, 32, 64)
WIDE = (32, 64, 128, 256)


def resnet8(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-8 for small images (channels, height, width); 83,892 parameters with 100 classes."""
    return ResNet(8, NARROW, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def resnet14(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-14 for small images (channels, height, width); 181,108 parameters with 100 classes."""
    return ResNet(14, NARROW, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def resnet20(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-20 for small images (channels, height, width); 278,324 parameters with 100 classes.

    >>> import torch
    >>> model = resnet20(num_classes=100)
    >>> sum(parameter.numel() for parameter in model.parameters())
    278324
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    return ResNet(20, NARROW, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def resnet32(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-32 for small images (channels, height, width); 472,756 parameters with 100 classes."""
    return ResNet(32, NARROW, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def resnet44(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-44 for small images (channels, height, width); 667,188 parameters with 100 classes."""
    return ResNet(44, NARROW, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def resnet56(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-56 for small images (channels, height, width); 861,620 parameters with 100 classes."""
    return ResNet(56, NARROW, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def resnet110(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-110 for small images (channels, height, width); 1,736,564 parameters with 100 classes."""
    return ResNet(110, NARROW, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def resnet8x4(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-8, four times as wide, for small images; 1,233,540 parameters with 100 classes."""
    return ResNet(8, WIDE, num_classes=num_classes, input_shape=input_shape, dropout=dropout)


def resnet32x4(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), dropout: float = 0.0) -> ResNet:
    """ResNet-32, four times as wide, for small images; 7,433,860 parameters with 100 classes."""
    return ResNet(32, WIDE, num_classes=num_classes, input_shape=input_shape, dropout=dropout)
