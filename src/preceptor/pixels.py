"""Images of 8 bits a pixel: what inputs were made of, and what torchvision's RandAugment does to them.

torchvision is optional (`pip install 'preceptor[torchvision]'`) and draws from torch's global generator, which is
seeded here for each image, and afterwards as it was.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError

LARGEST = 255.0
HALF_SEEDS = 2**24
"""Of what each half of a seed is below: a float32 holds it exactly."""
_CHANNELS = (1, 3)
_SLACK = 64.0  # beyond 0 and 255, for noise that somebody has added; more is the wrong mean or std


@dataclass(frozen=True)
class Pixels:
    """Inputs as `(pixels / 255 - mean) / std`, and back.

    Args:
        mean, std: one number for all channels, or one each, in units of `pixels / 255`.
        whose: what an error calls him who wants pixels.

    >>> pixels = Pixels((0.5,), (0.25,), "rand_augment")
    >>> pixels.of(torch.full((1, 1, 1, 2), -2.0)).tolist(), pixels.inputs(torch.zeros(1, 1, 1, 1).byte()).item()
    ([[[[0, 0]]]], -2.0)
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    whose: str

    def of(self, inputs: Tensor) -> Tensor:
        """The pixels of inputs (B, C, H, W), uint8 on the CPU: exactly those of an image of 8 bits that was normalised
        so, else the nearest.

        Raises:
            InputError: no images of 1 or 3 channels; numbers that no pixels became.
        """
        require_images(tuple(inputs.shape[1:]), self.whose)
        mean, std = self._constants(inputs)
        found = (inputs.detach().float() * std + mean) * LARGEST
        least, most = found.aminmax() if found.numel() else (found.new_zeros(()), found.new_zeros(()))
        pixels = found.clamp_(0, LARGEST).round_().to(torch.uint8).cpu()
        if not (least >= -_SLACK and most <= LARGEST + _SLACK):  # NaN too
            raise InputError(
                f"{self.whose} changes pixels from 0 to 255, and of the inputs with mean {list(self.mean)} and std "
                f"{list(self.std)} they are {least.item():.0f} to {most.item():.0f}; give it the mean and std that the "
                "inputs were made with, as options mean and std"
            )
        return pixels

    def inputs(self, pixels: Tensor) -> Tensor:
        """Inputs of pixels (B, C, H, W), float32, computed as the data set's own normalisation computes them."""
        mean, std = self._constants(pixels)
        return (pixels.float() / LARGEST).sub_(mean).div_(std)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, like.shape[1]):
                raise InputError(
                    f"{self.whose} has a {name} of {len(values)} numbers, and the images have {like.shape[1]} "
                    "channels; give one number, or one for each channel"
                )
        mean, std = (torch.tensor(v, dtype=torch.float32, device=like.device) for v in (self.mean, self.std))
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)


def require_images(shape: Sequence[int], whose: str) -> None:
    """Refuse inputs, of this shape each, that are no images of 1 or 3 channels."""
    if len(shape) != 3 or shape[0] not in _CHANNELS:
        raise InputError(
            f"{whose} changes images (samples, channels, height, width) of 1 or 3 channels, but the inputs have shape "
            f"{tuple(shape)} each; leave it out"
        )


def pixels_of(
    preprocessing: Mapping[str, Any],
    whose: str,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Pixels | None:
    """How inputs were made of pixels: as is given, else as the data set says; None where neither says it.

    Args:
        preprocessing: `Data.preprocessing`.

    Raises:
        InputError: one of mean and std without the other, or a std that is not positive.
    """
    if (mean is None) != (std is None):
        raise InputError(f"{whose} has mean {mean} and std {std}; give both, or none for those of the data set")
    if mean is None or std is None:
        if preprocessing.get("divide_by") != LARGEST:
            return None
        mean, std = preprocessing["mean"], preprocessing["std"]
    means, stds = numbers(mean, f"{whose} has mean"), numbers(std, f"{whose} has std")
    if not all(value > 0 for value in stds):  # NaN too
        raise InputError(f"{whose} has std {list(stds)}; give positive numbers")
    return Pixels(means, stds, whose)


def numbers(value: Any, what: str) -> tuple[float, ...]:
    """One number, or several, as several.

    Args:
        what: the beginning of a sentence that refuses it.

    Raises:
        InputError: it is anything else.
    """
    found = [value] if isinstance(value, int | float) else value
    listed = isinstance(found, Sequence) and not isinstance(found, str) and len(found) > 0
    if not listed or not all(isinstance(each, int | float) for each in found):
        raise InputError(f"{what} {value!r}; give a number, or a list of one for each channel")
    return tuple(map(float, found))


def rand_augment(
    num_ops: int, magnitude: int, num_magnitude_bins: int, interpolation: str, fill: float | Sequence[float] | None
) -> Callable[[Tensor], Tensor]:
    """torchvision's RandAugment of an image (C, H, W), uint8.

    Raises:
        InputError: torchvision is missing, or an option that it cannot use.
    """
    for name, value, least, most in (
        ("num_ops", num_ops, 1, 100),
        ("num_magnitude_bins", num_magnitude_bins, 2, 1000),
        ("magnitude", magnitude, 0, num_magnitude_bins - 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InputError(f"rand_augment has {name} {value!r}; give a whole number from {least} to {most}")
    if interpolation not in ("nearest", "bilinear"):
        raise InputError(f"rand_augment has interpolation '{interpolation}'; give nearest or bilinear")
    try:
        transforms: Any = importlib.import_module("torchvision.transforms.v2")
    except ImportError:
        raise InputError("rand_augment needs torchvision; run pip install 'preceptor[torchvision]'") from None
    # A list of one number fills all channels, as a number does; torchvision would take it for one of three.
    filled: Any = None if fill is None else list(numbers(fill, "rand_augment has fill"))
    if filled is not None and len(filled) == 1:
        filled = filled[0]
    modes = transforms.InterpolationMode
    made = transforms.RandAugment(
        num_ops, magnitude, num_magnitude_bins, interpolation=modes(interpolation), fill=filled
    )
    return made.forward  # not the module, which would be a part of whoever holds it


def seeds(count: int, generator: torch.Generator) -> Tensor:
    """Seeds for `seeded`, int64 (count, 2), each half below 2^24."""
    return torch.randint(HALF_SEEDS, (count, 2), generator=generator)


def seeded(transform: Callable[[Tensor], Tensor], images: Tensor, rows: Tensor) -> Tensor:
    """Each image changed under a seed of its own; the global generator stays as it was.

    Args:
        transform: of one image, which draws from torch's global generator.
        images: (B, C, H, W) on the CPU.
        rows: of `seeds`, (B, 2): a seed is 2^24 times the first number plus the second.
    """
    found = torch.empty_like(images)
    # Not torch.manual_seed, which would also seed the GPU; and autocast would round where a pixel comes from.
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", enabled=False):
        for place, (high, low) in enumerate(rows.tolist()):
            torch.default_generator.manual_seed(int(high) * HALF_SEEDS + int(low))
            found[place] = transform(images[place])
    return found
