"""PKT: of each sample, the others are as probable neighbours as for the teacher."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.losses.features._relations import full_precision, nothing, rows
from preceptor.losses.features.base import FeatureLoss, Features, Published, Setting, as_vector, only

_EPS = 1e-7


@full_precision
def pkt(student: Float[Tensor, "batch *s"], teacher: Float[Tensor, "batch *t"]) -> Float[Tensor, ""]:
    """Probabilistic knowledge transfer: the divergence of neighbourhoods, less is better.

    Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer" (ECCV 2018, arXiv
    1803.10837), with the cosine kernel. S is the matrix (B, B) of (cosine + 1) / 2 of all pairs, its rows of sum 1; the
    loss is the mean over all B² entries, as in the authors' code, of S_teacher log(S_teacher / S_student): 1 / B of the
    divergence of a row. The length of a sample's features does not matter.

    Args:
        student: features of any shape and width, floating point.
        teacher: features of the same samples. No gradient flows.

    Returns:
        The loss of the batch, a scalar, in at least float32; 0 for one sample.

    Raises:
        InputError: they are of different numbers of samples.

    Example:
        >>> import torch
        >>> pkt(torch.eye(2), torch.ones(2, 2))
        tensor(0.0294)
    """
    student, teacher = rows(student, teacher)
    if len(student) < 2:
        return nothing(student)
    of_student, of_teacher = _neighbourhoods(student), _neighbourhoods(teacher)
    return (of_teacher * ((of_teacher + _EPS) / (of_student + _EPS)).log()).mean()


def _neighbourhoods(features: Float[Tensor, "batch d"]) -> Float[Tensor, "batch batch"]:
    unit = features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _EPS)
    similarity = (unit @ unit.T + 1) / 2
    return similarity / similarity.sum(1, keepdim=True)


class PKT(FeatureLoss):
    """Probabilistic knowledge transfer of the pooled features: `pkt`, a scalar.

    Args:
        student, teacher: where to look; by default at what the classifiers are given.
    """

    published: ClassVar[Published] = Published(distill_weight=30000.0, source="the code of CRD, arXiv 1910.10699")
    batch_level: ClassVar[bool] = True

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Refuse several features of a model."""
        for features in (student, teacher):
            only(features)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, ""]:
        """The loss of the batch; logits are not looked at."""
        return pkt(as_vector(only(student_features)), as_vector(only(teacher_features)))
