"""FT: match factors, that is what a small autoencoder makes of the teacher's feature."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._adapters import Norm
from preceptor.losses.features._alone import AloneFirst
from preceptor.losses.features._maps import Pair, of_one_size
from preceptor.losses.features.at import attention
from preceptor.losses.features.base import LAST, Published, Setting, count, expect
from preceptor.losses.features.fitnet import fitnet

SLOPE = 0.1
WEIGHT = 200.0


def ft(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch others i j"]
) -> Float[Tensor, " batch"]:
    """The mean over positions of the absolute difference of two factors' attention maps, one value a sample.

    Less is better. The larger factor is averaged to the size of the smaller.

    >>> import torch
    >>> ft(torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 9.0]]]]))
    tensor([1.])
    """
    student, teacher = of_one_size(student, teacher.detach())
    return (attention(student) - attention(teacher)).abs().mean(1)


class FT(AloneFirst):
    """Factor transfer: the mean absolute difference of the attention maps of a student's and a teacher's factors.

    Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer" (NeurIPS 2018, arXiv
    1802.04977), as in RepDistiller. A paraphraser, an autoencoder of three convolutions and three transposed ones,
    learns to give the teacher's feature again, by mean squares, for 30 epochs; then its factors, which stay as they
    are, are what a translator of three convolutions with batch norm makes of the student's. There the paraphraser is
    trained in a stage of its own, for some students at a rate of 0.01; here in the first epochs of the run, with its
    schedule, in which the student does not learn (its batch norms see the samples all the same). Its error there is
    divided by 200, so that it counts 1 where the loss has its published weight, as in the released code.

    Args:
        student: where to look in the student.
        teacher: where to look in the teacher; by default as in the student.
        init_epochs: how many epochs the paraphraser learns, of those of the run: 1 or more.
        rate: channels of a factor, as a part of the teacher's.

    Raises:
        InputError: rate is not positive; init_epochs are less than 1, or (once the run begins) all its epochs.
    """

    published: ClassVar[Published] = Published(distill_weight=WEIGHT, source="RepDistiller, CIFAR-100")
    default_taps: ClassVar[tuple[str, ...]] = (LAST,)
    over_space: ClassVar[bool] = True
    paraphrasers: nn.ModuleList
    decoders: nn.ModuleList
    translators: nn.ModuleList

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        init_epochs: int = 30,
        rate: float = 0.5,
    ) -> None:
        count("init_epochs", init_epochs, 1, ", as no factor means anything before")
        expect("rate", rate, 0 < rate < float("inf"), "a positive number")
        super().__init__(student=student, teacher=teacher, init_epochs=init_epochs)
        self.rate: float = rate

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        self.paraphrasers, self.decoders, self.translators = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for one, other in pairs:
            channels, wide = one.shape[1], other.shape[1]
            factors = max(1, int(self.rate * wide))
            self.paraphrasers.append(_convolutions(nn.Conv2d, (wide, wide, factors, factors), norm=False))
            self.decoders.append(_convolutions(nn.ConvTranspose2d, (factors, factors, wide, wide), norm=False))
            self.translators.append(_convolutions(nn.Conv2d, (channels, channels, factors, factors), norm=True))

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        if self.alone:
            again = self.decoders[level](self.paraphrasers[level](teacher))
            return fitnet(again.to(teacher.dtype), teacher) / WEIGHT
        with torch.no_grad():
            factor = self.paraphrasers[level](teacher).to(teacher.dtype)
        return ft(self.translators[level](student).to(student.dtype), factor)


def _convolutions(kind: type[nn.Module], channels: Sequence[int], *, norm: bool) -> nn.Sequential:
    """3x3 convolutions of stride 1, each with leaky ReLU."""
    layers: list[nn.Module] = []
    for given, made in pairwise(channels):
        layers += [kind(given, made, 3, padding=1), *([Norm(made)] if norm else []), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)
