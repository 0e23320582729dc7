"""SP: samples that are alike for the teacher are alike for the student."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from preceptor.losses.features._relations import full_precision, nothing, rows
from preceptor.losses.features.base import LAST, FeatureLoss, Features, Published, Setting


@full_precision
def sp(student: Float[Tensor, "batch *s"], teacher: Float[Tensor, "batch *t"]) -> Float[Tensor, ""]:
    """Similarity preserving: mean squared gap of the batch's similarity matrices, less is better.

    Tung and Mori, "Similarity-Preserving Knowledge Distillation" (ICCV 2019, arXiv 1907.09682). G is the matrix (B, B)
    of inner products of the samples' features, all values of each as one vector, its rows of length 1; the loss is
    ||G_student - G_teacher||² / B². The scale of either side's features does not matter.

    Args:
        student: features of any shape and width, floating point.
        teacher: features of the same samples. No gradient flows.

    Returns:
        The loss of the batch, a scalar from 0 to 4 / B, in at least float32; 0 for one sample.

    Raises:
        InputError: they are of different numbers of samples.

    Example:
        >>> import torch
        >>> sp(torch.eye(2), torch.tensor([[3.0, 4.0], [3.0, 4.0]]))
        tensor(0.2929)
    """
    student, teacher = rows(student, teacher)
    if len(student) < 2:
        return nothing(student)
    gap = normalize(student @ student.T) - normalize(teacher @ teacher.T)
    return gap.square().mean()


class SP(FeatureLoss):
    """Similarity preserving of the maps of a layer, of several layers summed: `sp`, a scalar.

    Args:
        student, teacher: where to look; by default at the last maps, as the code of CRD does.
    """

    published: ClassVar[Published] = Published(distill_weight=3000.0, source="the code of CRD, arXiv 1910.10699")
    default_taps: ClassVar[tuple[str, ...]] = (LAST,)
    batch_level: ClassVar[bool] = True

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Refuse another number of the student's layers than of the teacher's."""
        self.check_pairs(student, teacher)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, ""]:
        """The loss of the batch; logits are not looked at."""
        self.check_pairs(student_features, teacher_features)
        pairs = zip(student_features.values(), teacher_features.values(), strict=True)
        first, *more = (sp(student, teacher) for student, teacher in pairs)
        return sum(more, first)
