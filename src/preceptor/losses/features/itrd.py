"""ITRD: features correlate with the teacher's one by one, and samples' similarities say as much as the teacher's."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from preceptor.losses.features._relations import embedded, full_precision, nothing, rows
from preceptor.losses.features.base import FeatureLoss, Features, Published, Setting, as_vector, expect, only


@full_precision
def correlation(
    student: Float[Tensor, "batch d"], teacher: Float[Tensor, "batch d"], *, alpha: float = 1.01
) -> Float[Tensor, ""]:
    """log2 of the sum over features of |c - 1|^(2 alpha), c their correlation along the batch: less is better.

    As in the authors' code c is (B - 1) / B of the correlation, so that the loss is finite. A feature that is constant
    in the batch correlates with nothing.

    Args:
        student, teacher: features of the same samples, as many of each. No gradient flows to the teacher.
        alpha: order of the entropy.

    Returns:
        The loss of the batch, a scalar, in at least float32; 0 for one sample.

    Example:
        >>> import torch
        >>> correlation(torch.tensor([[1.0], [2.0]]), torch.tensor([[5.0], [7.0]]), alpha=1.0)
        tensor(-2.)
    """
    student, teacher = rows(student, teacher)
    if len(student) < 2:
        return nothing(student)
    c = (_standardized(student) * _standardized(teacher)).mean(0)
    return (c - 1).abs().pow(2 * alpha).sum().log2()


def _standardized(x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
    """Of mean 0 and variance 1 along the batch; 0, without gradient, where no more than rounding varies."""
    deviation = x - x.mean(0)
    rounding = 8 * torch.finfo(x.dtype).eps * x.detach().abs().amax(0)
    constant = deviation.detach().abs().amax(0) <= rounding
    deviation = torch.where(constant, 0.0, deviation)
    variance = torch.where(constant, 1.0, deviation.square().sum(0) / (len(x) - 1))
    return deviation / variance.sqrt()


@full_precision
def mutual_information(student: Float[Tensor, "batch s"], teacher: Float[Tensor, "batch t"]) -> Float[Tensor, ""]:
    """Sum of G_s² - G_st²: G_s are the cosines of all pairs, G_st = G_s * G_t, both of trace 1; less is better.

    Args:
        student, teacher: features of the same samples. No gradient flows to the teacher.

    Returns:
        The loss of the batch, a scalar, in at least float32; 0 for one sample.

    Example:
        >>> import torch
        >>> mutual_information(torch.ones(2, 3), torch.eye(2))
        tensor(0.5000)
    """
    student, teacher = rows(student, teacher)
    if len(student) < 2:
        return nothing(student)
    of_student, of_teacher = (unit @ unit.T for unit in (normalize(student), normalize(teacher)))
    return _of_trace_one(of_student).square().sum() - _of_trace_one(of_student * of_teacher).square().sum()


def _of_trace_one(matrix: Float[Tensor, "batch batch"]) -> Float[Tensor, "batch batch"]:
    return matrix / matrix.trace().clamp(min=1e-12)


class ITRD(FeatureLoss):
    """Information theoretic representation distillation of the pooled features: a scalar, less is better.

    Miles et al., "Information Theoretic Representation Distillation" (BMVC 2022, arXiv 2112.00459):
    beta_correlation `correlation` + beta_information `mutual_information`. The student's features are embedded
    linearly to the teacher's width, for the second term only where the widths differ, as in the authors' code.

    Args:
        beta_correlation: weight of the correlation; 2 in the paper.
        beta_information: weight of the mutual information; 1 in most of the paper's pairs, 0 in the others.
        alpha: order of the entropy; 1.01 where both are of one family of architectures, else 1.5.
        student, teacher: where to look; by default at what the classifiers are given.

    Attributes:
        embed: the embedding.
    """

    published: ClassVar[Published] = Published(distill_weight=1.0, source="the authors' code, arXiv 2112.00459")
    batch_level: ClassVar[bool] = True

    embed: nn.Linear

    def __init__(
        self,
        *,
        beta_correlation: float = 2.0,
        beta_information: float = 1.0,
        alpha: float = 1.01,
        student: str | None = None,
        teacher: str | None = None,
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        expect("beta_correlation", beta_correlation, beta_correlation >= 0, "a weight of at least 0")
        expect("beta_information", beta_information, beta_information >= 0, "a weight of at least 0")
        expect("alpha", alpha, alpha > 0, "an order above 0")
        self.beta_correlation: float = beta_correlation
        self.beta_information: float = beta_information
        self.alpha: float = alpha

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the embedding."""
        self.embed = nn.Linear(as_vector(only(student)).shape[1], as_vector(only(teacher)).shape[1])

    @full_precision
    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, ""]:
        """The loss of the batch; logits are not looked at."""
        student, teacher = as_vector(only(student_features)), as_vector(only(teacher_features))
        wide = embedded(self.embed, student)
        compared = student if student.shape[1] == teacher.shape[1] else wide
        return self.beta_correlation * correlation(
            wide, teacher, alpha=self.alpha
        ) + self.beta_information * mutual_information(compared, teacher)
