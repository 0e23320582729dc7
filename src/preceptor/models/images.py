"""What the image models share: the shape they read and the initialisation of their convolutions."""

from collections.abc import Sequence

from torch import nn

from preceptor.errors import InputError


def image_channels(input_shape: Sequence[int]) -> int:
    """The channels of one image.

    >>> image_channels((3, 32, 32))
    3
    """
    if len(input_shape) != 3:
        raise InputError(
            f"this model reads images (channels, height, width), but inputs have shape {tuple(input_shape)}; "
            "reshape the data, or use the model 'mlp'"
        )
    return input_shape[0]


def kaiming_(model: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out), in place (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
