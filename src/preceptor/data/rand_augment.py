"""RandAugment by torchvision, on the pixels that inputs were made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor import pixels
from preceptor.data.dataset import ArrayDataset, Data, input_and_label, preserved_generators
from preceptor.errors import InputError
from preceptor.pixels import Pixels

_NAME = "rand_augment"


@dataclass(frozen=True)
class RandAugment:
    """Some operations of torchvision's list one after the other on each image, drawn under a seed of its own.

    Args:
        transform: of an image (C, H, W), uint8.
        made: how inputs were made of pixels; None where they are pixels, or it is not known yet.
    """

    transform: Callable[[Tensor], Tensor] = field(compare=False)
    made: Pixels | None

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Per sample: both halves of a seed; int64 (N, 2), below 2^24."""
        return pixels.seeds(num_samples, generator)

    def apply(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """The changed images (B, C, H, W), for images (B, C, H, W) and their rows of `draw` (B, 2).

        Raises:
            InputError: no images of 1 or 3 channels; floats of which is not known how they were made.
        """
        pixels.require_images(tuple(inputs.shape[1:]), _NAME)
        if inputs.dtype == torch.uint8:
            changed = pixels.seeded(self.transform, inputs.cpu(), parameters).to(inputs.device)
        elif self.made is None:
            raise _unknown(f"of {inputs.dtype}")
        else:
            changed = pixels.seeded(self.transform, self.made.of(inputs), parameters)
            changed = self.made.inputs(changed.to(inputs.device))
        return torch.empty_like(inputs).copy_(changed)  # in the layout of the inputs

    def made_for(self, data: Data) -> "RandAugment":
        """The same for inputs of this data set, which says how they were made of pixels unless an option does.

        Raises:
            InputError: its samples are no images of 1 or 3 channels and 8 bits, as far as one can see.
        """
        with preserved_generators():
            value, _ = input_and_label(data.train[0])
        if not isinstance(value, Tensor | np.ndarray):
            raise InputError(
                f"{_NAME} changes images, and a sample of the data is a {type(value).__name__}; leave it out"
            )
        found = torch.as_tensor(value)
        pixels.require_images(tuple(found.shape), _NAME)
        if found.dtype == torch.uint8:
            return replace(self, made=None)
        if self.made is not None:
            return self
        made = pixels.pixels_of(data.preprocessing, _NAME)
        stored = data.train.inputs.dtype if isinstance(data.train, ArrayDataset) else torch.uint8
        if made is None or stored != torch.uint8:
            said = ", ".join(f"{name} {each}" for name, each in data.preprocessing.items())
            raise _unknown(f"of {found.dtype if made is None else stored}" + (f" with {said}" if said else ""))
        return replace(self, made=made)


def _unknown(what: str) -> InputError:
    return InputError(
        f"{_NAME} changes pixels of 8 bits, and the inputs are {what}; give it the options mean and std of inputs that "
        "are (pixels / 255 - mean) / std, or let the data set change its images before it makes inputs of them"
    )


def rand_augment(
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    num_magnitude_bins: int = 31,
    interpolation: str = "nearest",
    fill: float | Sequence[float] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> RandAugment:
    """RandAugment by torchvision: some operations of a list of 14, such as to turn, shear or sharpen an image.

    They change pixels of 8 bits: what inputs were made of is computed from them, changed, and made inputs again as
    the data set does it. Usual is `[crop_flip, rand_augment, cutout]`; what `crop_flip` has filled in is the mean pixel
    then, rounded. Images of 32 x 32 take about half a millisecond each on a core of a CPU, wherever the inputs are.

    Args:
        num_ops: how many operations, drawn with replacement.
        magnitude: of each that has one, as a place among the bins; its sign is drawn.
        num_magnitude_bins: in how many steps a magnitude goes from nothing to the most.
        interpolation: nearest or bilinear.
        fill: the pixel, from 0 to 255, around what was turned or shifted: one number or one a channel; None is black.
        mean, std: of inputs that are `(pixels / 255 - mean) / std`, one number or one a channel; by default as the
            data set says.

    Raises:
        InputError: torchvision is missing, or an option that it cannot use.

    Source: Cubuk et al. (2020), `torchvision.transforms.v2.RandAugment`, whose names and defaults these are.

    >>> augmentation = rand_augment(num_ops=1)
    >>> image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> augmentation.apply(image, augmentation.draw(1, torch.Generator())).shape
    torch.Size([1, 3, 8, 8])
    """
    transform: Any = pixels.rand_augment(num_ops, magnitude, num_magnitude_bins, interpolation, fill)
    return RandAugment(transform, pixels.pixels_of({}, _NAME, mean, std))
