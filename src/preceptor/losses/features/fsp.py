"""FSP: match how each stage turns its channels into the next one's."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.features._alone import OnlyFirst
from preceptor.losses.features._maps import Pair, of_one_size
from preceptor.losses.features._relations import full_precision
from preceptor.losses.features.base import STAGES, Published, Setting


@full_precision
def flow(
    bottom: Float[Tensor, "batch channels h w"], top: Float[Tensor, "batch others i j"]
) -> Float[Tensor, "batch others channels"]:
    """The mean over space of the products of each channel of one layer with each of another (the FSP matrix).

    The larger map is averaged to the size of the smaller.

    >>> import torch
    >>> flow(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0, 2.0]], [[1.0, 0.0]]]]))
    tensor([[[4.0000],
             [0.5000]]])
    """
    bottom, top = of_one_size(bottom, top)
    return top.flatten(2) @ bottom.flatten(2).mT / (top.shape[-2] * top.shape[-1])


def fsp(
    student: Sequence[Float[Tensor, "batch _ _ _"]], teacher: Sequence[Float[Tensor, "batch _ _ _"]]
) -> Float[Tensor, " batch"]:
    """The mean squared difference of the FSP matrices of neighbouring layers, summed over them; one value a sample.

    Less is better. Each layer of the student's has as many channels as the teacher's.
    """
    steps = zip(pairwise(student), pairwise(teacher), strict=True)
    gaps = [flow(*of_student) - flow(*of_teacher).detach() for of_student, of_teacher in steps]
    return torch.stack([gap.square().mean((1, 2)) for gap in gaps]).sum(0)


class FSP(OnlyFirst):
    """Flow of solution procedure: the mean squared difference of Gram matrices between layers, summed over the steps.

    Yim et al., "A Gift from Knowledge Distillation" (CVPR 2017). As in RepDistiller the layers up to the last feature
    learn from this loss alone for 30 epochs, then all from the labels alone; its weight of 50 there multiplies a loss
    that is 0 by then, so that 1 is what it used. There these epochs are a stage of its own at a constant rate, and the
    stem's output is a layer too; here they are the first of the run, with its schedule, and the layers are the stages
    (name ``layer1:input`` before them for the stem).

    Args:
        student: where to look in the student, from the input up: two features or more.
        teacher: where to look in the teacher, as many of the same widths; by default as in the student.
        init_epochs: how many epochs it has for itself, of those of the run; 0: it stands beside the labels' loss
            throughout.

    Raises:
        InputError: init_epochs are negative, or (once the run begins) all its epochs.
    """

    published: ClassVar[Published] = Published(source="RepDistiller, CIFAR-100")
    default_taps: ClassVar[tuple[str, ...]] = (STAGES,)

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        if len(pairs) < 2:
            raise InputError("the loss 'FSP' compares steps from one feature to the next; name two or more")
        student, teacher = ([feature.shape[1] for feature in side] for side in zip(*pairs, strict=True))
        if student != teacher:
            raise InputError(
                f"the loss 'FSP' compares products of channels, and the student's features have {student} of them, "
                f"the teacher's {teacher}; name features as wide, or choose a loss that widens them, such as FitNet"
            )

    def compare_all(self, pairs: Sequence[Pair]) -> Tensor:
        return fsp([one for one, _ in pairs], [other for _, other in pairs])
