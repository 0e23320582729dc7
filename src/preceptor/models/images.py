"""What the image models share: the shape they read and the initialisation of their convolutions."""

from collections.abc import Sequence

from torch import nn

from preceptor.errors import InputError


def image_channels(input_shape: Sequence[int]) -> int:
    """The channels of one image.

    >>> image_channels((3, 32, 32))
    3

    Raises:
        InputError: the inputs are no images, or images (height, width, channels).
    """
    shape = tuple(input_shape)
    if len(shape) != 3:
        raise InputError(
            f"this model reads images (channels, height, width), but inputs have shape {shape}; "
            "reshape the data, or use the model 'mlp'"
        )
    if shape[2] in (1, 3) and min(shape[:2]) > 4:
        raise InputError(
            f"this model reads images (channels, height, width), but inputs have shape {shape}, which looks like "
            "(height, width, channels); put the channels first, image.permute(2, 0, 1)"
        )
    return shape[0]


def require_size(input_shape: Sequence[int], least: int, model: str) -> None:
    """Refuse images that are too small to be halved as often as the model does.

    Raises:
        InputError: a side has fewer than `least` pixels.
    """
    height, width = input_shape[1:]
    if min(height, width) < least:
        raise InputError(
            f"images of {height}x{width} pixels are too small for the model '{model}', which halves them until they "
            f"are gone; enlarge them to {least}x{least} or more, or use the model 'resnet8'"
        )


def kaiming_(model: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / fan_out), in place (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
