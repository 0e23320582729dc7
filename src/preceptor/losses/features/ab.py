"""AB: match which neurons are active."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._adapters import Regressor
from preceptor.losses.features._alone import OnlyFirst
from preceptor.losses.features._maps import Pair, of_one_size
from preceptor.losses.features.base import PREACTIVATIONS, Published, Setting, expect

SCALE = 3 / 1000


def ab(
    student: Float[Tensor, "batch channels h w"], teacher: Float[Tensor, "batch channels h w"], *, margin: float = 1.0
) -> Float[Tensor, " batch"]:
    """Squared distances to the right side of the boundary, summed over all elements, one value a sample.

    Less is better: 0 where the student is above the margin wherever the teacher's neuron is active (positive), and
    below minus the margin elsewhere.

    >>> import torch
    >>> ab(torch.tensor([[[[0.5, 0.5, 2.0, -2.0]]]]), torch.tensor([[[[1.0, -1.0, 0.1, 0.0]]]]))
    tensor([2.5000])
    """
    side = torch.where(teacher.detach() > 0, 1.0, -1.0)
    return (margin - side * student).clamp(min=0).square().flatten(1).sum(1)


class AB(OnlyFirst):
    """Activation boundaries: a squared hinge on the sign of the teacher's pre-activations, the stages weighed as OFD's.

    Heo et al., "Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons" (AAAI 2019,
    arXiv 1811.03233). As in RepDistiller: a sum over all elements times 3/1000; where shapes differ, the student's
    features pass a convolution and batch norm; the layers up to the last feature learn from this loss alone for 30
    epochs, then all from the labels alone. There these epochs are a stage of its own at a constant rate; here they are
    the first of the run, with its schedule.

    Args:
        student: where to look in the student.
        teacher: where to look in the teacher, whose signs count; by default as in the student.
        init_epochs: how many epochs it has for itself, of those of the run; 0: it stands beside the labels' loss
            throughout.
        margin: how far from 0 is far enough.

    Raises:
        InputError: margin is negative; init_epochs are negative, or (once the run begins) all its epochs.
    """

    published: ClassVar[Published] = Published(source="RepDistiller, CIFAR-100")
    default_taps: ClassVar[tuple[str, ...]] = (PREACTIVATIONS,)
    connectors: nn.ModuleList

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        init_epochs: int = 30,
        margin: float = 1.0,
    ) -> None:
        super().__init__(student=student, teacher=teacher, init_epochs=init_epochs)
        expect("margin", margin, 0 <= margin < float("inf"), "a number from 0 on")
        self.margin: float = margin

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        self.connectors = nn.ModuleList(
            nn.Identity() if one.shape[1:] == other.shape[1:] else Regressor(one.shape, other.shape, relu=False)
            for one, other in pairs
        )

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        pair = of_one_size(self.connectors[level](student).to(student.dtype), teacher)
        return SCALE * ab(*pair, margin=self.margin) / 2 ** (len(self.connectors) - 1 - level)
