"""ResNet-50 for small images: bottleneck blocks in four stages, He et al. (2016), with a 3x3 stem at full size."""

from collections.abc import Sequence

from torch import Tensor, nn

from preceptor.models.images import image_channels, kaiming_

EXPANSION = 4


class Bottleneck(nn.Module):
    """relu(shortcut(x) + narrow by 1x1, convolve by 3x3, widen by 1x1), each with batch norm."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * width
        self.conv1: nn.Conv2d = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.act1: nn.ReLU = nn.ReLU()
        self.conv2: nn.Conv2d = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(width)
        self.act2: nn.ReLU = nn.ReLU()
        self.conv3: nn.Conv2d = nn.Conv2d(width, out, 1, bias=False)
        self.bn3: nn.BatchNorm2d = nn.BatchNorm2d(out)
        self.act3: nn.ReLU = nn.ReLU()
        self.downsample: nn.Sequential = nn.Sequential()
        if stride != 1 or channels != out:
            self.downsample.append(nn.Conv2d(channels, out, 1, stride, bias=False))
            self.downsample.append(nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.act1(self.bn1(self.conv1(x)))
        out = self.act2(self.bn2(self.conv2(out)))
        return self.act3(self.downsample(x) + self.bn3(self.conv3(out)))


class BottleneckResNet(nn.Module):
    """Stem of 64 channels, four stages of 256 to 2048 channels at strides 1, 2, 2, 2, global average pool, classifier.

    Args:
        blocks: of each stage.
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: (channels, height, width) of one image.
    """

    def __init__(self, blocks: Sequence[int], *, num_classes: int, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(image_channels(input_shape), 64, 3, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(64)
        self.act1: nn.ReLU = nn.ReLU()
        self.layer1: nn.Sequential = _stage(64, 64, blocks[0], stride=1)
        self.layer2: nn.Sequential = _stage(256, 128, blocks[1], stride=2)
        self.layer3: nn.Sequential = _stage(512, 256, blocks[2], stride=2)
        self.layer4: nn.Sequential = _stage(1024, 512, blocks[3], stride=2)
        self.fc: nn.Linear = nn.Linear(2048, num_classes)
        kaiming_(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """The last maps (B, C, H, W), which are averaged over space for the classifier."""
        x = self.act1(self.bn1(self.conv1(x)))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x).mean((-2, -1)))


def _stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)))


def resnet50(*, num_classes: int, input_shape: Sequence[int] = (3, 32, 32)) -> BottleneckResNet:
    """ResNet-50 for small images (channels, height, width); 23,705,252 parameters with 100 classes.

    The one of ImageNet, for images of 224 pixels, is `torchvision.models:resnet50`.
    """
    return BottleneckResNet((3, 4, 6, 3), num_classes=num_classes, input_shape=input_shape)
