"""ReviewKD: the student's stages, each fused with those above it, against the teacher's."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._adapters import Norm
from preceptor.losses.features._maps import MapLoss, Pair, shrunk, size
from preceptor.losses.features.base import (
    PENULTIMATE,
    PREACTIVATIONS,
    STAGES,
    Features,
    Published,
    Setting,
    count,
)

WIDEST = 512
GRIDS = (4, 2, 1)


def hcl(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch channels h w"]
) -> Float[Tensor, " batch"]:
    """Hierarchical context loss of two maps of one shape, one value a sample; less is better.

    The mean squared difference of the maps, and of their averages over grids of 4x4, 2x2 and 1x1 cells (those smaller
    than the maps), weighed 1, 1/2, 1/4, 1/8 in this order, divided by the sum of the weights.

    >>> import torch
    >>> hcl(torch.tensor([[[[2.0, 0.0], [0.0, 2.0]]]]), torch.zeros(1, 1, 2, 2))
    tensor([1.6667])
    """
    teacher, weight, total = teacher.detach(), 1.0, 1.0
    value = _squares(student, teacher)
    for cells in GRIDS:
        if cells < student.shape[-2]:
            weight /= 2
            total += weight
            value = value + weight * _squares(shrunk(student, (cells, cells)), shrunk(teacher, (cells, cells)))
    return value / total


def _squares(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().flatten(1).mean(1)


class Fusion(nn.Module):
    """A stage's maps and what comes from above, mixed at each position by two gates; then brought to the teacher's.

    Args:
        channels, inner, wanted: of the student's stage, of what goes down, of the teacher's stage.
        top: whether there is nothing above.
    """

    def __init__(self, channels: int, inner: int, wanted: int, *, top: bool) -> None:
        super().__init__()
        self.enter: nn.Sequential = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), Norm(inner))
        self.leave: nn.Sequential = nn.Sequential(nn.Conv2d(inner, wanted, 3, padding=1, bias=False), Norm(wanted))
        self.gates: nn.Conv2d | None = None if top else nn.Conv2d(2 * inner, 2, 1)
        for conv in (self.enter[0], self.leave[0]):
            nn.init.kaiming_uniform_(conv.get_parameter("weight"), a=1)

    def forward(self, own: Tensor, above: Tensor | None, wanted: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher's, of the size wanted, and what goes down."""
        fused = self.enter(own)
        if self.gates is not None and above is not None:
            above = F.interpolate(above, size(own))
            gates = self.gates(torch.cat([fused, above], 1)).sigmoid()
            fused = fused * gates[:, :1] + above * gates[:, 1:]
        if size(fused) != wanted:
            fused = F.interpolate(fused, wanted)
        return self.leave(fused), fused


class ReviewKD(MapLoss):
    """ReviewKD: each stage of the teacher's against the student's of that level and above, fused from the top down.

    Chen et al., "Distilling Knowledge via Knowledge Review" (CVPR 2021, arXiv 2104.09044): attention-based fusion and
    the hierarchical context loss, summed over the levels. By default the student's stages and its pooled feature, and
    the teacher's before their activations, as in the authors' code; of unlike numbers of stages the uppermost. There
    the loss grows from 0 in the first epoch to its weight over 20 epochs, and so does it here.

    Args:
        student: where to look in the student, from the input up; the uppermost sets how wide what goes down is.
        teacher: where to look in the teacher, as many; by default as in the student, where that is named.
        warmup_epochs: epochs until the loss counts in full; 0 is at once.

    Raises:
        InputError: warmup_epochs is negative.
    """

    published: ClassVar[Published] = Published(
        distill_weight=5.0,
        of_student={"shufflenet_v2": 8.0, "resnet20": 0.6, "resnet32": 1.0},
        source="ReviewKD, CIFAR-100",
    )
    default_taps: ClassVar[tuple[str, ...]] = (STAGES, PENULTIMATE)
    fusions: nn.ModuleList

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        warmup_epochs: int = 20,
    ) -> None:
        count("warmup_epochs", warmup_epochs, 0)
        self_found = student is None and teacher is None
        super().__init__(student=student, teacher=(PREACTIVATIONS, PENULTIMATE) if self_found else teacher)
        self.uppermost: bool = self_found
        self.warmup_epochs: int = warmup_epochs
        self.share: float = 1.0

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """How much the loss counts in this epoch, the first of which is 0."""
        self.share = min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0

    def check_pairs(self, student: Features, teacher: Features) -> None:
        """Refuse another number of the student's features than of the teacher's, where they were named."""
        if not self.uppermost:
            super().check_pairs(student, teacher)

    def pairs(self, student: Features, teacher: Features) -> list[Pair]:
        count = min(len(student), len(teacher))
        return super().pairs(*(dict(list(side.items())[-count:]) for side in (student, teacher)))

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        inner = min(WIDEST, pairs[-1][0].shape[1])
        self.fusions = nn.ModuleList(
            Fusion(one.shape[1], inner, other.shape[1], top=level == len(pairs) - 1)
            for level, (one, other) in enumerate(pairs)
        )

    def compare_all(self, pairs: Sequence[Pair]) -> Tensor:
        values: list[Tensor] = []
        above: Tensor | None = None
        for fusion, (own, teacher) in reversed(list(zip(self.fusions, pairs, strict=True))):
            found, above = fusion(own, above, size(teacher))
            values.append(hcl(found.to(own.dtype), teacher))
        return self.share * torch.stack(values).sum(0)
