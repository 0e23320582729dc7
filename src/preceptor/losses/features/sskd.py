"""SSKD: what a teacher says of turned images, and how like it finds them to those that are not."""

import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from preceptor.errors import InputError
from preceptor.losses.features._alone import is_alone
from preceptor.losses.features._relations import full_precision, nothing
from preceptor.losses.features.base import (
    FeatureLoss,
    Features,
    Published,
    Setting,
    as_vector,
    count,
    expect,
    only,
    working,
)
from preceptor.losses.kd import kd


def kept(rank: Int64[Tensor, " rows"], ratio: float) -> Bool[Tensor, " rows"]:
    """Which rows a student learns from: those a teacher has right, and of the wrong ones the share least wrong.

    Args:
        rank: how many answers the teacher finds better than the true one; 0 where it is right.
        ratio: the share of the wrong ones, rounded down to a whole number of rows.

    Example:
        >>> import torch
        >>> kept(torch.tensor([3, 0, 1, 2, 0]), 0.7)
        tensor([False,  True,  True,  True,  True])
    """
    wrong = (rank > 0).sum()
    count = len(rank) - wrong + (wrong.double() * ratio).long()
    place = rank.argsort(stable=True).argsort()
    return place < count


class SSKD(FeatureLoss):
    """Self-supervision in knowledge distillation: a scalar, less is better.

    Xu et al., "Knowledge Distillation Meets Self-Supervision" (ECCV 2020, arXiv 2006.07114). Both models are also
    shown each image turned by 90, 180 and 270 degrees. kd_weight KL of the images as they are, plus transform_weight
    KL of the turned ones, both at ``temperature``, plus similarity_weight KL, at ``similarity_temperature``, of how
    like a turned image is to each image of the batch: cosines of what a head of two layers makes of pooled features.
    KL from teacher to student, times T². Of turned images that the teacher gets wrong, a share is left out.

    The teacher's head learns first, to find a turned image's own one by cross-entropy of the cosines, while the
    student does not learn. In the authors' code that is a stage of 60 epochs with a schedule of its own and precedes
    the student's 240; here these epochs are the first of the run, with its schedule. There each view has a random crop
    of its own, here all views of an image have one.

    Samples without a label are left out, as what the teacher has wrong is told by labels.

    Args:
        kd_weight, transform_weight, similarity_weight: of the three terms.
        temperature, similarity_temperature: T of the first two terms and of the third.
        keep_transformed, keep_similar: the share of wrong answers kept, of classes and of similarities.
        init_epochs: how many epochs the teacher's head learns, of those of the run: 1 or more.
        student, teacher: where to look; by default at what the classifiers are given.

    Attributes:
        head_student, head_teacher: the two layers on the features, as wide as these are.

    Raises:
        InputError: an option out of range; inputs that are no square images; init_epochs that are all of the run.
    """

    published: ClassVar[Published] = Published(ce_weight=0.1, source="the authors' code, arXiv 2006.07114")
    batch_level: ClassVar[bool] = True

    head_student: nn.Module
    head_teacher: nn.Module

    def __init__(
        self,
        *,
        kd_weight: float = 0.9,
        transform_weight: float = 2.7,
        similarity_weight: float = 10.0,
        temperature: float = 4.0,
        similarity_temperature: float = 0.5,
        keep_transformed: float = 1.0,
        keep_similar: float = 0.75,
        init_epochs: int = 60,
        student: str | None = None,
        teacher: str | None = None,
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        weights = {"kd_weight": kd_weight, "transform_weight": transform_weight, "similarity_weight": similarity_weight}
        for name, value in weights.items():
            expect(name, value, value >= 0, "a weight of at least 0")
        for name, value in {"temperature": temperature, "similarity_temperature": similarity_temperature}.items():
            expect(name, value, 0 < value < math.inf, "a positive finite number")
        for name, value in {"keep_transformed": keep_transformed, "keep_similar": keep_similar}.items():
            expect(name, value, 0 <= value <= 1, "a share from 0 to 1")
        count("init_epochs", init_epochs, 1, ", as the head means nothing before")
        self.kd_weight: float = kd_weight
        self.transform_weight: float = transform_weight
        self.similarity_weight: float = similarity_weight
        self.temperature: float = temperature
        self.similarity_temperature: float = similarity_temperature
        self.keep_transformed: float = keep_transformed
        self.keep_similar: float = keep_similar
        self.init_epochs: int = init_epochs
        self.alone: bool = True

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the heads."""
        self.head_student, self.head_teacher = (
            _head(as_vector(only(features)).shape[1]) for features in (student, teacher)
        )

    def views(self, input: Tensor) -> Tensor:
        """The images turned by 90, 180 and 270 degrees, (3 * B, C, H, H)."""
        if input.ndim != 4 or input.shape[2] != input.shape[3]:
            raise InputError(
                f"the loss 'SSKD' turns square images (B, C, H, H), and the inputs are of shape {tuple(input.shape)}; "
                "give such images, or take another loss"
            )
        return torch.cat([input.rot90(quarters, (2, 3)) for quarters in (1, 2, 3)])

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Whether in this epoch, the first of which is 0, the teacher's head learns."""
        self.alone = is_alone("SSKD", self.init_epochs, epoch, epochs)

    @full_precision
    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        *,
        labels: Int64[Tensor, " batch"],
        student_views: Float[Tensor, "views batch classes"],
        teacher_views: Float[Tensor, "views batch classes"],
        student_features: Features,
        teacher_features: Features,
        student_view_features: Features,
        teacher_view_features: Features,
    ) -> Float[Tensor, ""]:
        """The loss of the batch."""
        if self.alone:
            similar = _similarities(self.head_teacher, teacher_features, teacher_view_features)
            return cross_entropy(similar, _own(similar))
        with torch.no_grad():
            similar = _similarities(self.head_teacher, teacher_features, teacher_view_features)
        of_student = _similarities(self.head_student, student_features, student_view_features)
        loss = self.kd_weight * kd(student_logits, teacher_logits, temperature=self.temperature).mean()
        loss = loss + self.transform_weight * _divergence(
            student_views.flatten(0, 1),
            teacher_views.flatten(0, 1),
            labels.repeat(len(teacher_views)),
            self.temperature,
            self.keep_transformed,
        )
        if len(labels) < 2:  # like what, if not itself
            return loss + nothing(of_student)
        return loss + self.similarity_weight * _divergence(
            of_student, similar, _own(similar), self.similarity_temperature, self.keep_similar
        )


def _head(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))


def _similarities(head: nn.Module, plain: Features, views: Features) -> Float[Tensor, "rows batch"]:
    """Cosines of each view, view after view, with each plain sample."""
    dtype = next(head.parameters()).dtype
    features = (as_vector(only(plain)), as_vector(only(views).flatten(0, 1)))
    unit = [normalize(working(head(each.to(dtype)))) for each in features]
    return unit[1] @ unit[0].T


def _own(similar: Float[Tensor, "rows batch"]) -> Int64[Tensor, " rows"]:
    """Which sample each row is a view of."""
    rows, batch = similar.shape
    return torch.arange(rows, device=similar.device) % batch


def _divergence(
    student: Float[Tensor, "rows classes"],
    teacher: Float[Tensor, "rows classes"],
    truth: Int64[Tensor, " rows"],
    temperature: float,
    ratio: float,
) -> Float[Tensor, ""]:
    """T² KL, the mean over the rows that are kept."""
    rank = (teacher > teacher.gather(1, truth.unsqueeze(1))).sum(1)
    keep = kept(rank, ratio)
    return kd(student, teacher, temperature=temperature, mask=keep).sum() / keep.sum().clamp(min=1)
