"""MobileNetV2 for small images: inverted residuals and linear bottlenecks, Sandler et al. (2018)."""

from collections.abc import Sequence

from torch import Tensor, nn

from preceptor.models.images import image_channels, kaiming_

# Channels at full width, blocks, and stride of the first block of each stage. The second stage does not halve, as it
# does on large images.
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
STEM, LAST = 32, 1280


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by 3x3, narrow by 1x1 without activation; the input is added where it fits."""

    def __init__(self, channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.conv: nn.Sequential = nn.Sequential(
            *_conv_bn_relu(channels, inner),
            *_conv_bn_relu(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.residual: bool = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Stem at stride 2, seven stages, a 1x1 convolution to 1280 channels, global average pool, linear classifier.

    Args:
        width: multiplies the channels of stem and stages.
        expansion: the factor by which a block widens its input (the first stage does not).
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image.
    """

    def __init__(self, width: float, expansion: int, *, num_classes: int, input_shape: Sequence[int]) -> None:
        super().__init__()
        channels, last = int(STEM * width), max(LAST, int(LAST * width))
        self.conv1: nn.Sequential = nn.Sequential(*_conv_bn_relu(image_channels(input_shape), channels, 3, 2))
        self.blocks: nn.Sequential = nn.Sequential()
        for position, (full, count, stride) in enumerate(STAGES):
            stage, factor = nn.Sequential(), expansion if position else 1
            for block in range(count):
                out = int(full * width)
                stage.append(InvertedResidual(channels, out, 1 if block else stride, factor))
                channels = out
            self.blocks.append(stage)
        self.conv2: nn.Sequential = nn.Sequential(*_conv_bn_relu(channels, last))
        self.classifier: nn.Linear = nn.Linear(last, num_classes)
        kaiming_(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last maps (B, C, H, W), which are averaged over space for the classifier."""
        return self.conv2(self.blocks(self.conv1(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.forward_features(x).mean((-2, -1)))


def _conv_bn_relu(channels: int, width: int, size: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, size, stride, padding=size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU()]


def mobilenet_v2(
    *, num_classes: int, input_shape: Sequence[int] = (3, 32, 32), width: float = 0.5, expansion: int = 6
) -> MobileNetV2:
    """MobileNetV2 for small images (channels, height, width); 812,836 parameters with 100 classes.

    The "MobileNetV2" of CIFAR-100's distillation tables has half the width, which is the default.

    Args:
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image.
        width: multiplies the channels, but for those of the last convolution, 1280 at least.
        expansion: the factor by which a block widens its input.

    >>> import torch
    >>> model = mobilenet_v2(num_classes=100)
    >>> sum(parameter.numel() for parameter in model.parameters())
    812836
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    return MobileNetV2(width, expansion, num_classes=num_classes, input_shape=input_shape)
