"""FitNet: regress a hint, a feature of the teacher's."""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._adapters import Regressor
from preceptor.losses.features._maps import MapLoss, Pair, of_one_size
from preceptor.losses.features.base import Features, Published, Setting


def fitnet(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch channels h w"]
) -> Float[Tensor, " batch"]:
    """The mean squared difference of two maps of one shape, one value a sample; less is better.

    >>> import torch
    >>> fitnet(torch.zeros(2, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]], [[[0.0, 0.0]]]]))
    tensor([5., 0.])
    """
    return F.mse_loss(student, teacher.detach(), reduction="none").flatten(1).mean(1)


class FitNet(MapLoss):
    """FitNet: the mean squared difference between a teacher's feature and a regression of the student's to it.

    Romero et al., "FitNets: Hints for Thin Deep Nets" (ICLR 2015, arXiv 1412.6550). As in RepDistiller the loss stands
    beside the labels' throughout, where the paper trains up to the hint first; the regressor is a convolution, batch
    norm and ReLU. By default the hint is the end of the second stage (its hint in VGG is the third, ``block2``);
    of features that are named, all are compared and added up.

    Args:
        student: where to look in the student.
        teacher: where to look in the teacher; by default as in the student.
    """

    published: ClassVar[Published] = Published(distill_weight=100.0, source="RepDistiller, CIFAR-100")
    regressors: nn.ModuleList

    def __init__(
        self, *, student: str | Sequence[str] | None = None, teacher: str | Sequence[str] | None = None
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        self.second: bool = student is None

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        self.regressors = nn.ModuleList(Regressor(one.shape, other.shape, relu=True) for one, other in pairs)

    def pairs(self, student: Features, teacher: Features) -> list[Pair]:
        found = super().pairs(student, teacher)
        return found[1:2] if self.second and len(found) > 1 else found

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        found = self.regressors[level](student)
        return fitnet(*of_one_size(found.to(student.dtype), teacher))
