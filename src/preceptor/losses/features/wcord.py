"""WCoRD: contrast by the Wasserstein distance, of the data in its dual form, of the batch in its primal."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.parametrizations import spectral_norm

from preceptor.losses.features._contrast import Contrast
from preceptor.losses.features._relations import embedded, full_precision
from preceptor.losses.features.base import (
    Features,
    Gather,
    Published,
    Setting,
    expect,
    gradient_free,
    only,
)


def transport_cost(cost: Float[Tensor, "n m"], *, entropy: float = 0.05, iterations: int = 100) -> Float[Tensor, ""]:
    """What it costs to move one uniform distribution to another, by Sinkhorn's algorithm: a scalar.

    The plan minimises cost less ``entropy`` times its entropy, and is taken for a constant: of the least cost, the
    gradient in ``cost`` is the plan.

    Args:
        cost: of moving from each of n points to each of m.
        entropy: above 0; towards 0 the plan is the cheapest, of large ones it moves from all to all alike.
        iterations: so many times both sums are set right.

    Example:
        >>> import torch
        >>> transport_cost(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
        tensor(1.)
    """
    with torch.no_grad():
        log_kernel = -cost / entropy
        rows, columns = cost.new_zeros(cost.shape[0], 1), cost.new_zeros(cost.shape[1])
        for _ in range(iterations):
            rows = -(log_kernel + columns).logsumexp(1, keepdim=True)
            columns = -(log_kernel + rows).logsumexp(0)
        plan = (log_kernel + rows + columns).exp() / cost.shape[1]
    return (plan * cost).sum()


class WCoRD(Contrast):
    """Wasserstein contrastive representation distillation: a scalar, less is better.

    Chen et al., "Wasserstein Contrastive Representation Distillation" (CVPR 2021, arXiv 2012.08674):
    global_weight * global + local_weight * local. *Global* is the dual form of the distance between the pairs of one
    sample and the pairs of any two: a critic's mean over ``negatives`` samples of other classes less its value for the
    sample itself, the student's against a `Memory` of the teacher's embeddings plus the other way. *Local* is the
    `transport_cost` within the batch, of 1 - cosine between the student's and the teacher's embeddings.

    No code of it is public, so these are ours: the critic, an inner product with the memory of a linear embedding of
    spectral norm 1, cut to length 1, which is 1-Lipschitz in the features; both weights; and the plan's entropy.

    Needs ``index``. The memory is N x dim numbers twice, saved with the run; it moves after each optimizer step.

    Args:
        global_weight, local_weight: of the two terms.
        dim: of the embeddings.
        negatives: for each sample.
        momentum: the share of the old value in the memory's new one.
        entropy: of the plan.
        student, teacher: where to look; by default at what the classifiers are given.

    Attributes:
        embed_student, embed_teacher: the embeddings, both trained.
        memory: the memory.

    Raises:
        InputError: as of `CRD`.
    """

    published: ClassVar[Published] = Published(distill_weight=1.0, source="arXiv 2012.08674, weights of ours")
    batch_level: ClassVar[bool] = True

    def __init__(
        self,
        *,
        global_weight: float = 0.8,
        local_weight: float = 0.05,
        dim: int = 128,
        negatives: int = 16384,
        momentum: float = 0.5,
        entropy: float = 0.05,
        student: str | None = None,
        teacher: str | None = None,
    ) -> None:
        super().__init__(dim=dim, negatives=negatives, momentum=momentum, student=student, teacher=teacher)
        expect("global_weight", global_weight, global_weight >= 0, "a weight of at least 0")
        expect("local_weight", local_weight, local_weight >= 0, "a weight of at least 0")
        expect("entropy", entropy, entropy > 0, "a number above 0")
        self.global_weight: float = global_weight
        self.local_weight: float = local_weight
        self.entropy: float = entropy

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the embeddings, of spectral norm 1, and the memory at random."""
        super().build(student, teacher, setting)
        for each in (self.embed_student, self.embed_teacher):
            spectral_norm(each)

    @full_precision
    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        *,
        index: Int64[Tensor, " batch"],
        student_features: Features,
        teacher_features: Features,
    ) -> Float[Tensor, ""]:
        """The loss of the batch; logits are not looked at."""
        self.memory.check(index)
        student = _cut(embedded(self.embed_student, only(student_features)))
        teacher = _cut(embedded(self.embed_teacher, only(gradient_free(teacher_features))))
        if not len(index):
            return (student.sum() + teacher.sum()) * 0
        places = self.places(index)
        apart = _apart(student, self.memory.teacher, places) + _apart(teacher, self.memory.student, places)
        if self.training:
            self.memory.hold(index, normalize(student), normalize(teacher))
        local = transport_cost(1 - normalize(student) @ normalize(teacher).T, entropy=self.entropy)
        return self.global_weight * apart.mean() + self.local_weight * local

    def end_step(self, gather: Gather) -> None:
        """Move the memory."""
        self.memory.merge(gather)


def _cut(embedding: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
    """To length 1, where it is longer: the nearest point of the ball, which is never further apart than before."""
    return embedding / torch.linalg.vector_norm(embedding, dim=1, keepdim=True).clamp(min=1)


def _apart(
    embedding: Float[Tensor, "batch d"], bank: Float[Tensor, "samples d"], places: Int64[Tensor, "batch places"]
) -> Float[Tensor, " batch"]:
    critic = (embedding @ bank.T.to(embedding.dtype)).gather(1, places)
    return critic[:, 1:].mean(1) - critic[:, 0]
