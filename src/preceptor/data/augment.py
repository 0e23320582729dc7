"""Random changes of the inputs, drawn sample by sample for a whole epoch.

An augmentation has two methods: `draw(num_samples, generator)` makes a row of parameters for every sample of
the data set, and `apply(inputs, parameters)` is a pure function of a batch and its rows. What happens to a
sample depends on the epoch's generator and the sample's index alone: not on batch size, order, or processes. One that
must know the data set may have a third, `made_for(data)`, which gives the augmentation for its inputs.

Images may be of any dtype, on any device, contiguous or channels_last, which they stay.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from preceptor.data.dataset import Data
from preceptor.data.rand_augment import rand_augment
from preceptor.errors import InputError, did_you_mean

__all__ = ["compose", "crop_flip", "cutout", "rand_augment", "random_erasing"]


class Augmentation(Protocol):
    """What every augmentation can do."""

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """A row of parameters for each sample, (N, ...)."""
        ...

    def apply(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """The changed inputs (B, ...), for inputs (B, ...) and their rows of `draw`."""
        ...


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
        _require_images(inputs, "crop_flip")
        batch, channels, height, width = inputs.shape
        down, right, mirrored = parameters.to(inputs.device)[:, :, None].unbind(1)
        across = torch.arange(width, device=inputs.device)
        rows = torch.arange(height, device=inputs.device) + down
        columns = torch.where(mirrored.bool(), width - 1 - across, across) + right
        # The place of each pixel in the padded image, as one number: one gather instead of a copy and a mirror image.
        places = (rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]).flatten(1)
        padded = F.pad(inputs, [self.padding] * 4).flatten(2)
        changed = padded.gather(2, places[:, None].expand(-1, channels, -1)).view(batch, channels, height, width)
        return _laid_out_as(inputs, changed)


@dataclass(frozen=True)
class Erase:
    """Set a rectangle of an image to zero."""

    probability: float
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Per sample: erased (0 or 1), share of the area, height over width, place down and across; float32 (N, 5)."""
        drawn = torch.rand(num_samples, 5, generator=generator)
        erased, area, aspect, down, across = drawn.unbind(1)
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * area
        low, high = map(math.log, self.ratio)
        aspect = (low + (high - low) * aspect).exp()
        return torch.stack([(erased < self.probability).float(), area, aspect, down, across], dim=1)

    def apply(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """The changed images (B, C, H, W), for images (B, C, H, W) and their rows of `draw` (B, 5)."""
        _require_images(inputs, "random_erasing")
        height, width = inputs.shape[-2:]
        erased, area, aspect, down, across = parameters.to(inputs.device).unbind(1)
        pixels = area * height * width
        high = (pixels * aspect).sqrt().round().clamp(1, height)
        wide = (pixels / aspect).sqrt().round().clamp(1, width)
        top, left = (down * (height - high + 1)).floor(), (across * (width - wide + 1)).floor()
        return _erased(inputs, (top, left, high * erased, wide))


@dataclass(frozen=True)
class Cutout:
    """Set a square of an image to zero, wherever in the image its middle is."""

    size: int

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Per sample: where the square's middle is, down and across, in [0, 1); float32 (N, 2)."""
        return torch.rand(num_samples, 2, generator=generator)

    def apply(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """The changed images (B, C, H, W), for images (B, C, H, W) and their rows of `draw` (B, 2)."""
        _require_images(inputs, "cutout")
        height, width = inputs.shape[-2:]
        down, across = parameters.to(inputs.device).unbind(1)
        top, left = ((down * height).floor() - self.size // 2, (across * width).floor() - self.size // 2)
        side = torch.full_like(top, self.size)
        return _erased(inputs, (top, left, side, side))


class Composed:
    """Augmentations one after the other; their rows stand side by side, as float32 (N, sum of their widths).

    Whole numbers in a row are therefore exact up to 2^24 only.
    """

    def __init__(self, steps: Sequence[Augmentation]) -> None:
        self.steps: list[Augmentation] = list(steps)
        rows = [step.draw(1, torch.Generator()) for step in self.steps]
        self._kinds: list[tuple[tuple[int, ...], torch.dtype]] = [(tuple(row.shape[1:]), row.dtype) for row in rows]
        self._widths: list[int] = [row.numel() for row in rows]

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """The rows of all steps."""
        drawn = [step.draw(num_samples, generator).reshape(num_samples, -1).float() for step in self.steps]
        return torch.cat(drawn, dim=1)

    def apply(self, inputs: Tensor, parameters: Tensor) -> Tensor:
        """The changed inputs (B, ...), for inputs (B, ...) and their rows of `draw`."""
        rows = parameters.split(self._widths, dim=1)
        for step, row, (shape, dtype) in zip(self.steps, rows, self._kinds, strict=True):
            inputs = step.apply(inputs, row.reshape(-1, *shape).to(dtype))
        return inputs

    def made_for(self, data: Data) -> "Composed":
        """The same for inputs of this data set, whose steps may ask how they were made."""
        return Composed([made_for(step, data) for step in self.steps])


def made_for(augmentation: Augmentation, data: Data) -> Augmentation:
    """An augmentation for the inputs of a data set: itself, unless it asks to know that.

    Raises:
        InputError: it is not for such inputs.
    """
    found = getattr(augmentation, "made_for", None)
    return augmentation if found is None else found(data)


def _require_images(inputs: Tensor, name: str) -> None:
    if inputs.ndim != 4:
        raise InputError(
            f"{name} changes images (samples, channels, height, width), but the inputs have shape "
            f"{tuple(inputs.shape)}; leave the augmentation out"
        )


def _laid_out_as(inputs: Tensor, changed: Tensor) -> Tensor:
    """`changed` in channels_last if the inputs are, and no other way at the same time."""
    last = inputs.is_contiguous(memory_format=torch.channels_last) and not inputs.is_contiguous()
    return changed.contiguous(memory_format=torch.channels_last) if last else changed


def _erased(inputs: Tensor, box: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """Images (B, C, H, W) that are zero in a box each: its top, left, height and width (B,), in pixels."""
    top, left, high, wide = (each[:, None] for each in box)
    down, across = (torch.arange(side, device=inputs.device) for side in inputs.shape[-2:])
    rows, columns = (down >= top) & (down < top + high), (across >= left) & (across < left + wide)
    # Filled in a copy, as masked_fill alone would not keep channels_last.
    return inputs.clone().masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)


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


def random_erasing(
    *, probability: float = 0.25, scale: Sequence[float] = (0.02, 1 / 3), ratio: Sequence[float] = (0.3, 3.3)
) -> Erase:
    """A rectangle of the image set to 0: after normalisation the mean pixel.

    Its share of the image's area and the logarithm of its height over its width are uniform; a side longer than the
    image's is cut. It lies within the image.

    Args:
        probability: of an image to lose a rectangle.
        scale: the least and the largest share of the image's area.
        ratio: the least and the largest height over width.

    Source: Zhong et al. (2020), with timm's probability.

    >>> augmentation = random_erasing(probability=1.0)
    >>> half = augmentation.apply(torch.ones(1, 1, 2, 2), torch.tensor([[1.0, 0.5, 0.5, 0.6, 0.9]]))
    >>> half.tolist()  # two of four pixels, one high and two wide, below
    [[[[1.0, 1.0], [0.0, 0.0]]]]
    """
    if not 0 <= probability <= 1:
        raise InputError(f"random_erasing has probability {probability}; it lies between 0 and 1")
    for name, pair, most in (("scale", scale, 1.0), ("ratio", ratio, math.inf)):
        if len(pair) != 2 or not 0 < pair[0] <= pair[1] <= most:
            raise InputError(
                f"random_erasing has {name} {list(pair)}; give the least and the largest, such as [0.1, 0.3]"
            )
    return Erase(probability, (scale[0], scale[1]), (ratio[0], ratio[1]))


def cutout(*, size: int = 8) -> Cutout:
    """A square of the image set to 0: after normalisation the mean pixel. At the border part of it lies outside.

    Args:
        size: pixels of its side; published for CIFAR-100 is 8, for CIFAR-10 16.

    Source: DeVries and Taylor (2017).

    >>> cutout(size=2).apply(torch.ones(1, 1, 2, 3), torch.tensor([[0.5, 0.9]])).tolist()  # around row 1, column 2
    [[[[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]]
    """
    if size < 1:
        raise InputError(f"cutout has size {size}; it must be 1 or more pixels")
    return Cutout(size)


def compose(*, steps: Sequence[str | Mapping[str, Any] | Augmentation]) -> Composed:
    """Augmentations one after the other. In a recipe a list is short for it: `augmentation: [crop_flip, cutout]`.

    Args:
        steps: public names of this module, mappings of `name` and options, or augmentations of your own as objects.

    Raises:
        InputError: no step, or one that is none of these.

    >>> both = compose(steps=[crop_flip(padding=1), {"name": "cutout", "size": 2}])
    >>> both.draw(10, torch.Generator()).shape
    torch.Size([10, 5])
    """
    if not isinstance(steps, Sequence) or isinstance(steps, str) or len(steps) == 0:
        raise InputError(f"compose has steps {steps!r}; give a list of augmentations, such as [crop_flip, cutout]")
    return Composed([_made(step) for step in steps])


def _made(step: str | Mapping[str, Any] | Augmentation) -> Augmentation:
    if isinstance(step, str | Mapping):
        options = {"name": step} if isinstance(step, str) else dict(step)
        name = options.pop("name", None)
        if name not in __all__:
            raise InputError(
                f"compose has no step '{name}'; {did_you_mean(str(name), __all__)} Your own is composed in Python, as "
                "an object."
            )
        try:
            return globals()[name](**options)
        except TypeError as error:
            raise InputError(f"the augmentation '{name}' refuses {options}: {error}") from None
    if not (hasattr(step, "draw") and hasattr(step, "apply")):
        raise InputError(f"compose has a {type(step).__name__} as a step; give an object with methods draw and apply")
    return step
