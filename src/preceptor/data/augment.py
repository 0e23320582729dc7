"""Random changes of the inputs, drawn sample by sample for a whole epoch.

An augmentation has two methods: `draw(num_samples, generator)` makes a row of parameters for every sample of
the data set, and `apply(inputs, parameters)` is a pure function of a batch and its rows. What happens to a
sample depends on the epoch's generator and the sample's index alone: not on batch size, order, or processes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from preceptor.errors import InputError

__all__ = ["crop_flip"]


@dataclass(frozen=True)
class CropFlip:
    """Shift an image by up to `padding` pixels each way, then mirror it left to right half of the time."""

    padding: int
    flip: bool

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Per sample: vertical, horizontal offset (0 to 2 padding), mirrored (0 or 1); int64 (N, 3)."""
        offsets = torch.randint(2 * self.padding + 1, (num_samples, 2), generator=generator)
        mirrored = torch.randint(2, (num_samples, 1), generator=generator) * self.flip
        return torch.cat([offsets, mirrored], dim=1)

    def apply(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """The changed images (B, C, H, W), for images (B, C, H, W) and their rows of `draw` (B, 3)."""
        if inputs.ndim != 4:
            raise InputError(
                "crop_flip changes images (samples, channels, height, width), but the inputs have shape "
                f"{tuple(inputs.shape)}; leave the augmentation out"
            )
        down, right, mirrored = parameters.to(inputs.device).unbind(1)
        height, width = inputs.shape[-2:]
        # A view of all windows (B, C, 2 padding + 1, 2 padding + 1, H, W): only the chosen ones are copied.
        windows = F.pad(inputs, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
        shifted = windows[torch.arange(len(inputs), device=inputs.device), :, down, right]
        return torch.where(mirrored.bool()[:, None, None, None], shifted.flip(-1), shifted)


def crop_flip(*, padding: int = 4, flip: bool = True) -> CropFlip:
    """The augmentation usual on CIFAR: a random crop of the padded image, and a random mirror image.

    It acts on inputs as the model sees them: the border is filled with 0 after normalisation, so with the mean
    pixel, not with black.

    Args:
        padding: pixels added on each side before a window of the original size is cut out.
        flip: also mirror left to right with probability 1/2.

    >>> augmentation = crop_flip(padding=1)
    >>> image = torch.arange(1.0, 5.0).reshape(1, 1, 2, 2)
    >>> augmentation.apply(image, torch.tensor([[0, 1, 1]])).tolist()  # moved down by one, then mirrored
    [[[[0.0, 0.0], [2.0, 1.0]]]]
    """
    if padding < 0:
        raise InputError(f"crop_flip has padding {padding}; it must be 0 or more pixels")
    return CropFlip(padding, flip)
