"""PKD: match channels by correlation."""

from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._adapters import widened
from preceptor.losses.features._maps import MapLoss, Pair, size
from preceptor.losses.features.base import Published, Setting

EPSILON = 1e-6


def pkd(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch channels h w"]
) -> Float[Tensor, ""]:
    """Half the mean squared difference of standardised channels, one value for the batch; less is better, 0 least.

    Each channel has its mean over the batch and the positions taken off and is divided by its deviation. But for that
    deviation's denominator (n - 1) and 1e-6 beside it, this is the mean over channels of 1 - Pearson(student, teacher).
    A channel that is constant, as in a batch of one without positions, has no correlation: it adds at most 1/2.

    >>> import torch
    >>> pkd(torch.tensor([[[[0.0, 1.0]]]]), torch.tensor([[[[5.0, 3.0]]]]))
    tensor(1.0000)
    """
    return F.mse_loss(_standardised(student), _standardised(teacher.detach())) / 2


def _standardised(feature: Tensor) -> Tensor:
    values = feature.transpose(0, 1).flatten(1)
    values = values - values.mean(1, keepdim=True)
    if values.shape[1] < 2:
        return values
    return values / (values.std(1, keepdim=True) + EPSILON)


class PKD(MapLoss):
    """PKD: half the mean squared difference of channels standardised over batch and positions, summed over the taps.

    Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient" (NeurIPS
    2022, arXiv 2207.02039), as in mmrazor: the student's maps are interpolated to the teacher's size. Where the student
    has another number of channels, it passes a 1x1 convolution first.
    """

    published: ClassVar[Published] = Published(distill_weight=6.0, source="mmrazor, detectors")
    batch_level: ClassVar[bool] = True
    widen: nn.ModuleList

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        self.widen = nn.ModuleList(widened(*pair, bias=False) for pair in pairs)

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        found = self.widen[level](student).to(student.dtype)
        if size(found) != size(teacher):
            found = F.interpolate(found, size(teacher), mode="bilinear")
        return pkd(found, teacher)
