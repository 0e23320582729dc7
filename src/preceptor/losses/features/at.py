"""AT: match where the maps are large."""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from preceptor.losses.features._maps import MapLoss, of_one_size
from preceptor.losses.features.base import Published, expect


def attention(feature: Float[Tensor, "batch channels h w"], power: float = 2.0) -> Float[Tensor, "batch positions"]:
    """Where maps are large: the mean over channels of their p-th power, flattened and of length 1; zeros stay zeros.

    >>> import torch
    >>> attention(torch.tensor([[[[3.0, 4.0]], [[3.0, 4.0]]]]), power=1)
    tensor([[0.6000, 0.8000]])
    """
    values = feature if power % 2 == 0 else feature.abs()
    return F.normalize(values.pow(power).mean(1).flatten(1))


def at(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch others i j"], *, power: float = 2.0
) -> Float[Tensor, " batch"]:
    """The mean over positions of the squared difference of two attention maps, one value a sample; less is better.

    The larger map is averaged to the size of the smaller. The channels may be of another number.

    >>> import torch
    >>> at(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 9.0]]]]))
    tensor([1.])
    """
    student, teacher = of_one_size(student, teacher.detach())
    return (attention(student, power) - attention(teacher, power)).square().mean(1)


class AT(MapLoss):
    """Attention transfer: the mean squared difference of normalised attention maps, summed over the features.

    Zagoruyko and Komodakis, "Paying More Attention to Attention" (ICLR 2017, arXiv 1612.03928), activation-based. As in
    RepDistiller the mean over positions, where the paper has the length of the difference: hence the weight of 1000.

    Args:
        student: where to look in the student.
        teacher: where to look in the teacher; by default as in the student.
        power: p of |F|^p.

    Raises:
        InputError: power is not positive.
    """

    published: ClassVar[Published] = Published(distill_weight=1000.0, source="RepDistiller, CIFAR-100")
    over_space: ClassVar[bool] = True

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        power: float = 2.0,
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        expect("power", power, 0 < power < float("inf"), "a positive number")
        self.power: float = power

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        return at(student, teacher, power=self.power)
