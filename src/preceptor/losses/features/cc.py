"""CC: what the student's embeddings lack to the teacher's is not the same from sample to sample."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._relations import embedded, full_precision, nothing
from preceptor.losses.features.base import (
    FeatureLoss,
    Features,
    Published,
    Setting,
    as_vector,
    count,
    gradient_free,
    only,
    working,
)


def cc(student: Float[Tensor, "batch d"], teacher: Float[Tensor, "batch d"]) -> Float[Tensor, ""]:
    """Correlation congruence of embeddings, as the code of CRD has it: a scalar, less is better.

    Peng et al., "Correlation Congruence for Knowledge Distillation" (ICCV 2019, arXiv 1904.01802). With the gaps
    d_i = |student_i - teacher_i|, the mean over i < B of the inner product of d_i and d_(i + 1): the order of the
    samples matters. The paper compares kernel matrices instead; this is what its authors sent to those of CRD.

    Args:
        student, teacher: embeddings of the same samples; gradients flow to both.

    Returns:
        The loss of the batch, in at least float32; 0 for one sample.

    Example:
        >>> import torch
        >>> cc(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2))
        tensor(11.)
    """
    gap = (working(student) - working(teacher)).abs()
    if len(gap) < 2:
        return nothing(gap)
    return (gap[:-1] * gap[1:]).sum(1).mean()


class CC(FeatureLoss):
    """Correlation congruence of linear embeddings of the pooled features, which are both trained: `cc`, a scalar.

    Args:
        dim: of the embeddings.
        student, teacher: where to look; by default at what the classifiers are given.

    Attributes:
        embed_student, embed_teacher: the embeddings.
    """

    published: ClassVar[Published] = Published(distill_weight=0.02, source="the code of CRD, arXiv 1910.10699")
    batch_level: ClassVar[bool] = True

    embed_student: nn.Linear
    embed_teacher: nn.Linear

    def __init__(self, *, dim: int = 128, student: str | None = None, teacher: str | None = None) -> None:
        super().__init__(student=student, teacher=teacher)
        count("dim", dim, 1)
        self.dim: int = dim

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the embeddings."""
        self.embed_student, self.embed_teacher = (
            nn.Linear(as_vector(only(features)).shape[1], self.dim) for features in (student, teacher)
        )

    @full_precision
    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, ""]:
        """The loss of the batch; logits are not looked at."""
        return cc(
            embedded(self.embed_student, only(student_features)),
            embedded(self.embed_teacher, only(gradient_free(teacher_features))),
        )
