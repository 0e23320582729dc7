"""VGG with batch norm for small images, without its large hidden layers: Simonyan and Zisserman (2015).

As in the tables of knowledge distillation: five blocks of 3x3 convolutions, a max pool after each of the first three,
a global average pool and one linear layer.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.models.images import image_channels, kaiming_, require_size

WIDTHS = (64, 128, 256, 512, 512)
LARGE = 64  # pixels: from here on the fourth block's output is halved, too


class VGG(nn.Module):
    """Five blocks, of 64, 128, 256, 512, 512 channels, global average pool, linear classifier.

    Args:
        depths: convolutions of each block, each with batch norm and ReLU.
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image, of 8 pixels or more a side.
    """

    def __init__(self, depths: Sequence[int], *, num_classes: int, input_shape: Sequence[int]) -> None:
        super().__init__()
        channels = [image_channels(input_shape), *WIDTHS]
        require_size(input_shape, 8, f"vgg{sum(depths) + 3}")
        self.block0: nn.Sequential = _block(channels[0], channels[1], depths[0])
        self.block1: nn.Sequential = _block(channels[1], channels[2], depths[1])
        self.block2: nn.Sequential = _block(channels[2], channels[3], depths[2])
        self.block3: nn.Sequential = _block(channels[3], channels[4], depths[3])
        self.block4: nn.Sequential = _block(channels[4], channels[5], depths[4])
        self.classifier: nn.Linear = nn.Linear(channels[5], num_classes)
        self.halvings: int = 4 if min(input_shape[1:]) >= LARGE else 3
        kaiming_(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last maps (B, C, H, W), which are averaged over space for the classifier."""
        for position, block in enumerate((self.block0, self.block1, self.block2, self.block3)):
            x = block(x)
            if position < self.halvings:
                x = F.max_pool2d(x, 2)
        return self.block4(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.forward_features(x).mean((-2, -1)))


def _block(channels: int, width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers)


def vgg8(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32)) -> VGG:
    """VGG-8 with batch norm for small images (channels, height, width); 3,965,028 parameters with 100 classes.

    >>> import torch
    >>> model = vgg8(num_classes=100)
    >>> sum(parameter.numel() for parameter in model.parameters())
    3965028
    >>> model(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 100])
    """
    return VGG((1, 1, 1, 1, 1), num_classes=num_classes, input_shape=input_shape)


def vgg11(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32)) -> VGG:
    """VGG-11 with batch norm for small images (channels, height, width)."""
    return VGG((1, 1, 2, 2, 2), num_classes=num_classes, input_shape=input_shape)


def vgg13(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32)) -> VGG:
    """VGG-13 with batch norm for small images (channels, height, width); 9,462,180 parameters with 100 classes."""
    return VGG((2, 2, 2, 2, 2), num_classes=num_classes, input_shape=input_shape)


def vgg16(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32)) -> VGG:
    """VGG-16 with batch norm for small images (channels, height, width)."""
    return VGG((2, 2, 3, 3, 3), num_classes=num_classes, input_shape=input_shape)


def vgg19(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32)) -> VGG:
    """VGG-19 with batch norm for small images (channels, height, width)."""
    return VGG((2, 2, 4, 4, 4), num_classes=num_classes, input_shape=input_shape)
