"""Multilayer perceptron."""

import math
from collections.abc import Sequence

from torch import nn


def mlp(
    *, num_classes: int, input_shape: Sequence[int], hidden: Sequence[int] = (128, 128), dropout: float = 0.0
) -> nn.Module:
    """Fully connected network: flatten, then linear - ReLU (- dropout) for each hidden width, then linear.

    Args:
        num_classes: width of the output, which is logits (B, num_classes).
        input_shape: shape of one input, without the batch axis.
        hidden: widths of the hidden layers; empty for a linear classifier.
        dropout: probability of dropping a hidden unit while training.

    >>> import torch
    >>> mlp(num_classes=10, input_shape=(1, 8, 8), hidden=(32,))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for next_width in hidden:
        layers += [nn.Linear(width, next_width), nn.ReLU()]
        layers += [nn.Dropout(dropout)] if dropout > 0 else []
        width = next_width
    return nn.Sequential(*layers, nn.Linear(width, num_classes))
