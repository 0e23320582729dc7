"""MLKD whole: `mlkd` of the images as they are, and KD and cross-entropy of a strongly changed view of each."""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from preceptor import pixels
from preceptor.errors import InputError
from preceptor.losses._common import check_temperature
from preceptor.losses.features._relations import full_precision
from preceptor.losses.features.base import FeatureLoss, Features, Published, Setting, expect, working
from preceptor.losses.kd import kd
from preceptor.losses.mlkd import mlkd

_NAME = "the loss 'MLKD'"


class MLKD(FeatureLoss):
    """Multi-level KD of two views, of which one is strongly changed: a scalar, less is better.

    Jin, Wang and Lin, "Multi-Level Logit Distillation" (CVPR 2023), as their code computes it: kd_weight times the sum
    of `mlkd` of the inputs as they are and of KL, from teacher to student times T², of the strong view at
    ``strong_temperatures``; and strong_ce_weight times the strong view's cross-entropy. That of the inputs as they are
    is the recipe's loss to the labels, of published weight 0.1. (Terms of the strong view along batch and classes are
    computed there, too, and not added.)

    A strong view is torchvision's RandAugment of the pixels that an input was made of, and then a square of the mean
    pixel, whose side is drawn evenly from nothing to a share of the image's. In their code both views have a crop of
    their own, here the strong one is made of the input as the recipe has augmented it; there the strength of an
    operation is drawn, here it is `magnitude`; there the models see one view after the other, here batch normalisation
    sees both as one batch. Draws come from torch's global generator, as those of dropout: in a run they follow from
    seed and step.

    Samples without a label are left out. Images are changed on the CPU, about half a millisecond each at 32 x 32.

    Args:
        kd_weight, strong_ce_weight: of what is learned from the teacher, and of the strong view's cross-entropy.
        temperatures, twice: of `mlkd`, of the inputs as they are.
        strong_temperatures: every T > 0, of KD of the strong view.
        num_ops, magnitude: of RandAugment, of 31 magnitudes.
        cutout: the largest side of the square, as a share of the image's.
        mean, std: of inputs that are (pixels / 255 - mean) / std, one number or one a channel; by default as the data
            set says.

    Raises:
        InputError: an option out of range; torchvision is missing; inputs that are no images of 1 or 3 channels, or of
            which is not known how they were made of pixels.
    """

    published: ClassVar[Published] = Published(ce_weight=0.1, source="the authors' code, CIFAR-100")
    default_taps: ClassVar[tuple[str, ...]] = ()
    batch_level: ClassVar[bool] = True

    def __init__(
        self,
        *,
        kd_weight: float = 0.9,
        strong_ce_weight: float = 0.1,
        temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
        twice: Sequence[float] = (2.0, 6.0),
        strong_temperatures: Sequence[float] = (4.0, 3.0, 5.0),
        num_ops: int = 2,
        magnitude: int = 10,
        cutout: float = 0.5,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        for name, weight in {"kd_weight": kd_weight, "strong_ce_weight": strong_ce_weight}.items():
            expect(f"{name} of MLKD", weight, weight >= 0, "a weight of at least 0")
        for temperature in (*temperatures, *twice, *strong_temperatures):
            check_temperature(temperature)
        expect("cutout of MLKD", cutout, 0 <= cutout <= 1, "a share from 0 to 1")
        self.kd_weight: float = kd_weight
        self.strong_ce_weight: float = strong_ce_weight
        self.temperatures: tuple[float, ...] = tuple(temperatures)
        self.twice: tuple[float, ...] = tuple(twice)
        self.strong_temperatures: tuple[float, ...] = tuple(strong_temperatures)
        self.num_ops: int = num_ops
        self.magnitude: int = magnitude
        self.cutout: float = cutout
        self.mean: float | Sequence[float] | None = mean
        self.std: float | Sequence[float] | None = std
        self._change: Callable[[Tensor], Tensor] = pixels.rand_augment(num_ops, magnitude, 31, "nearest", None)
        self._made: pixels.Pixels | None = pixels.pixels_of({}, _NAME, mean, std)

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Find out how inputs are made of pixels."""
        self._made = pixels.pixels_of(setting.preprocessing, _NAME, self.mean, self.std)
        if self._made is None:
            raise _unknown()

    def views(self, input: Tensor) -> Tensor:
        """The strong view of each image, (B, C, H, W)."""
        if self._made is None:
            raise _unknown()
        before = self._made.of(input)
        changed = pixels.seeded(self._change, before, pixels.seeds(len(before), torch.default_generator))
        strong = self._made.inputs(changed.to(input.device))
        strong = strong.masked_fill(_squares(strong, self.cutout), 0)
        return torch.empty_like(input).copy_(strong)  # in the layout of the inputs

    @full_precision
    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        *,
        labels: Int64[Tensor, " batch"],
        student_views: Float[Tensor, "1 batch classes"],
        teacher_views: Float[Tensor, "1 batch classes"],
    ) -> Float[Tensor, ""]:
        """The loss of the batch, in float32 at least."""
        strong, taught = student_views[0], teacher_views[0]
        loss = mlkd(student_logits, teacher_logits, temperatures=self.temperatures, twice=self.twice)
        for temperature in self.strong_temperatures:
            loss = loss + kd(strong, taught, temperature=temperature).mean()
        return self.kd_weight * loss + self.strong_ce_weight * cross_entropy(working(strong), labels)


def _squares(images: Tensor, most: float) -> Tensor:
    """Which pixels lie in a square of each image, bool (B, 1, H, W); its middle is anywhere, its side drawn.

    Args:
        most: the largest side, as a share of the image's width.
    """
    drawn = torch.rand(len(images), 3, generator=torch.default_generator).to(images.device)
    height, width = images.shape[-2:]
    half = drawn[:, :1] * most * width / 2
    inside = [
        (torch.arange(length, device=images.device) + 0.5 - middle * length).abs() < half
        for length, middle in ((height, drawn[:, 1:2]), (width, drawn[:, 2:]))
    ]
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def _unknown() -> InputError:
    return InputError(
        f"{_NAME} changes pixels of 8 bits, and how the inputs were made of them is not known; give it the options "
        "mean and std of inputs that are (pixels / 255 - mean) / std"
    )
