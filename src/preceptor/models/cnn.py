"""A small convolutional network that is quick on a CPU."""

from collections.abc import Sequence

from torch import nn

from preceptor.models.images import image_channels, kaiming_


def cnn(
    *,
    num_classes: int,
    input_shape: Sequence[int],
    widths: Sequence[int] = (16, 32, 64),
    dropout: float = 0.0,
) -> nn.Module:
    """PLACEHOLDER until measured: 3x3 convolution - max pool - batch norm - ReLU for each width, then linear."""
    layers: list[nn.Module] = []
    channels, height, width = image_channels(input_shape), input_shape[1], input_shape[2]
    for out in widths:
        layers += [
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]
        channels, height, width = out, height // 2, width // 2
    layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(channels * height * width, num_classes)]
    model = nn.Sequential(*layers)
    kaiming_(model)
    return model
