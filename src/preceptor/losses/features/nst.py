"""NST: match how the channels are spread over space, by maximum mean discrepancy."""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from preceptor.losses.features._maps import MapLoss, of_one_size
from preceptor.losses.features._relations import full_precision
from preceptor.losses.features.base import Published


@full_precision
def nst(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch others i j"]
) -> Float[Tensor, " batch"]:
    """The squared maximum mean discrepancy of two sets of channels, one value a sample; less is better, 0 least.

    A channel is its map of length 1, two are compared by the squared cosine, k(a, b) = (a b)^2. The larger map is
    averaged to the size of the smaller; the channels may be of another number. Memory: their products, (B, C, C').

    >>> import torch
    >>> nst(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]]))
    tensor([2.])
    """
    student, teacher = of_one_size(student, teacher.detach())
    s, t = F.normalize(student.flatten(2), dim=2), F.normalize(teacher.flatten(2), dim=2)
    return _kernel(t, t) + _kernel(s, s) - 2 * _kernel(s, t)


def _kernel(
    one: Float[Tensor, "batch channels positions"], other: Float[Tensor, "batch others positions"]
) -> Float[Tensor, " batch"]:
    return (one @ other.mT).square().mean((1, 2))


class NST(MapLoss):
    """Neuron selectivity transfer: the squared MMD of the channels' maps, kernel (a b)^2, summed over the features.

    Huang and Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer" (arXiv 1707.01219), with the
    polynomial kernel (d = 2, c = 0) as in RepDistiller.
    """

    published: ClassVar[Published] = Published(distill_weight=50.0, source="RepDistiller, CIFAR-100")
    over_space: ClassVar[bool] = True

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        return nst(student, teacher)
