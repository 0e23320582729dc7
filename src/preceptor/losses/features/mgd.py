"""MGD: give the teacher's whole feature from a part of the student's."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._adapters import widened
from preceptor.losses.features._maps import MapLoss, Pair, of_one_size
from preceptor.losses.features.base import LAST, Published, Setting, expect

Part = Literal["channels", "positions"]


def kept(feature: Float[Tensor, "batch channels h w"], rate: float, masked: Part) -> Float[Tensor, "batch _ _ _"]:
    """A mask of 0 and 1 that leaves out whole channels, or positions, of each sample, each with a probability."""
    batch, channels, height, width = feature.shape
    shape = (batch, channels, 1, 1) if masked == "channels" else (batch, 1, height, width)
    return (torch.rand(shape, device=feature.device) >= rate).to(feature.dtype)


def mgd(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch channels h w"]
) -> Float[Tensor, " batch"]:
    """The squared difference of two maps of one shape, summed over all elements, one value a sample; less is better.

    >>> import torch
    >>> mgd(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]]))
    tensor([10.])
    """
    return (student - teacher.detach()).square().flatten(1).sum(1)


class MGD(MapLoss):
    """Masked generative distillation: squared error of a teacher's feature made from a student's with parts left out.

    Yang et al., "Masked Generative Distillation" (ECCV 2022, arXiv 2205.01529). As in the authors' code for
    classification whole channels are left out, 15 % of them; for detection and segmentation it is positions (0.65,
    0.75 at weights of 2e-5), as in the paper. Two 3x3 convolutions with a ReLU between make the feature; where the
    student has another number of channels, it passes a 1x1 convolution first, and the larger map is averaged to the
    size of the smaller. A sum over all elements, hence the small weight.

    Args:
        student: where to look in the student.
        teacher: where to look in the teacher; by default as in the student.
        rate: how many are left out, from 0 to less than 1.
        masked: ``channels`` or ``positions``.

    Raises:
        InputError: an option is none of these.
    """

    published: ClassVar[Published] = Published(distill_weight=7e-5, source="MGD, ImageNet")
    default_taps: ClassVar[tuple[str, ...]] = (LAST,)
    widen: nn.ModuleList
    generators: nn.ModuleList

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        rate: float = 0.15,
        masked: Part = "channels",
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        expect("rate", rate, 0 <= rate < 1, "a number from 0 to less than 1")
        expect("masked", masked, masked in ("channels", "positions"), "'channels' or 'positions'")
        self.rate: float = rate
        self.masked: Part = masked

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        self.widen = nn.ModuleList(widened(*pair) for pair in pairs)
        self.generators = nn.ModuleList(_generator(other.shape[1]) for _, other in pairs)

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        found, teacher = of_one_size(self.widen[level](student).to(student.dtype), teacher)
        made = self.generators[level](found * kept(found, self.rate, self.masked))
        return mgd(made.to(student.dtype), teacher)


def _generator(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
    )
