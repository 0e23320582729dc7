"""RKD: distances of pairs and angles of triplets of samples are the teacher's."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss
from torch.utils.checkpoint import checkpoint

from preceptor.losses.features._relations import full_precision, nothing, rows
from preceptor.losses.features.base import FeatureLoss, Features, Published, Setting, as_vector, expect, only

_AT_ONCE = 2**20
"""How many numbers an intermediate tensor of the angles may have, where one anchor does not need more."""


@full_precision
def rkd(
    student: Float[Tensor, "batch *s"],
    teacher: Float[Tensor, "batch *t"],
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Float[Tensor, ""]:
    """Relational knowledge distillation: gaps of distances and of angles in the batch, less is better.

    Park et al., "Relational Knowledge Distillation" (CVPR 2019, arXiv 1904.05068). Distances of all pairs, divided by
    their mean; cosines of the angles at every sample between every two others. Gaps go through the Huber loss, and are
    averaged over B² and B³ entries, those that are 0 by definition included. Neither side's scale, position or
    direction in space matters.

    Args:
        student: features of any shape and width, floating point.
        teacher: features of the same samples. No gradient flows.
        distance_weight: of the distances.
        angle_weight: of the angles; 0 leaves them out, and with them the time of B³ products.

    Returns:
        The loss of the batch, a scalar, in at least float32; 0 for one sample.

    Raises:
        InputError: they are of different numbers of samples.

    Example:
        >>> import torch
        >>> line = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
        >>> rkd(7 - 3 * line, line), rkd(corner, line, angle_weight=0.0)
        (tensor(0.), tensor(0.2760))
    """
    student, teacher = rows(student, teacher)
    if len(student) < 2:
        return nothing(student)
    loss = nothing(student)
    if distance_weight:
        loss = loss + distance_weight * smooth_l1_loss(_distances(student), _distances(teacher))
    if angle_weight:
        loss = loss + angle_weight * _gap_of_angles(student, teacher)
    return loss


def _distances(points: Float[Tensor, "batch d"]) -> Float[Tensor, "batch batch"]:
    """Of all pairs, divided by their mean; 1e-6 where points coincide, as in the code of CRD."""
    # By differences: products of long vectors that are near each other would cancel.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").clamp(min=1e-6)
    distances = distances.masked_fill(torch.eye(len(points), dtype=torch.bool, device=points.device), 0.0)
    return distances / (distances.sum() / (len(points) * (len(points) - 1)))


def _gap_of_angles(student: Float[Tensor, "batch s"], teacher: Float[Tensor, "batch t"]) -> Float[Tensor, ""]:
    """The Huber loss of all cosines, some anchors at a time; what each needs is computed again for its gradient."""
    batch = len(student)
    step = max(_AT_ONCE // (batch * max(batch, student.shape[1], teacher.shape[1])), 1)
    if step >= batch:
        return _of_anchors(student, teacher, 0, batch) / batch**3
    sums = [
        checkpoint(_of_anchors, student, teacher, start, start + step, use_reentrant=False, preserve_rng_state=False)
        for start in range(0, batch, step)
    ]
    return torch.stack(sums).sum() / batch**3


def _of_anchors(student: Tensor, teacher: Tensor, start: int, end: int) -> Tensor:
    return smooth_l1_loss(_cosines(student, start, end), _cosines(teacher, start, end), reduction="sum")


def _cosines(points: Float[Tensor, "batch d"], start: int, end: int) -> Float[Tensor, "anchors batch batch"]:
    """Of the angles at some of the points between every two; 0 where one of the two is the anchor itself."""
    rays = normalize(points.unsqueeze(0) - points[start:end].unsqueeze(1), dim=2)
    return rays @ rays.mT


class RKD(FeatureLoss):
    """Relational knowledge distillation of the pooled features: `rkd`, a scalar.

    Args:
        distance_weight, angle_weight: of distances and of angles.
        student, teacher: where to look; by default at what the classifiers are given.
    """

    published: ClassVar[Published] = Published(distill_weight=1.0, source="the code of CRD, arXiv 1910.10699")
    batch_level: ClassVar[bool] = True

    def __init__(
        self,
        *,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        student: str | None = None,
        teacher: str | None = None,
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        expect("distance_weight", distance_weight, distance_weight >= 0, "a weight of at least 0")
        expect("angle_weight", angle_weight, angle_weight >= 0, "a weight of at least 0")
        self.distance_weight: float = distance_weight
        self.angle_weight: float = angle_weight

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Refuse several features of a model."""
        for features in (student, teacher):
            only(features)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, ""]:
        """The loss of the batch; logits are not looked at."""
        student, teacher = as_vector(only(student_features)), as_vector(only(teacher_features))
        return rkd(student, teacher, distance_weight=self.distance_weight, angle_weight=self.angle_weight)
