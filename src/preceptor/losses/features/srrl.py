"""SRRL: what the teacher's classifier makes of the student's features."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.losses.features._adapters import connector
from preceptor.losses.features._heads import Borrowed, borrowed
from preceptor.losses.features._maps import maps
from preceptor.losses.features.base import (
    LAST,
    PENULTIMATE,
    FeatureLoss,
    Features,
    Published,
    Setting,
    expect,
    only,
    working,
)


class SRRL(FeatureLoss):
    """alpha |f_s' - f_t|² / D + beta |W(f_s') - v|² / C, one value a sample; less is better.

    Yang et al., "Knowledge Distillation via Softmax Regression Representation Learning" (ICLR 2021). The student's last
    maps go through a 1x1 convolution, batch norm and ReLU, and are averaged over space, f_s' (D); f_t is what the
    teacher's classifier W is given, and v are the teacher's logits. W is the teacher's own and stays as it is. The
    released code has alpha = beta = 1, a later port of it beta = 5.

    Args:
        student: where to look in the student: maps, tokens or vectors.
        teacher: what the teacher's classifier is given.
        alpha: weight of the features' term.
        beta: weight of the logits' term.

    Raises:
        InputError: a weight below 0.
    """

    published: ClassVar[Published] = Published(source="released code, ImageNet")
    default_taps: ClassVar[tuple[str, ...]] = (LAST,)

    connector: nn.Module
    head: Borrowed

    def __init__(
        self,
        *,
        student: str | Sequence[str] | None = None,
        teacher: str | Sequence[str] | None = None,
        alpha: float = 1.0,
        beta: float = 1.0,
    ) -> None:
        super().__init__(student=student, teacher=PENULTIMATE if teacher is None else teacher)
        for name, weight in (("alpha", alpha), ("beta", beta)):
            expect(f"{name} of SRRL", weight, weight >= 0, "0 or more")
        self.alpha: float = alpha
        self.beta: float = beta

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the connector, and find the teacher's classifier.

        Raises:
            InputError: the teacher has none, or it is not given one vector a sample; several features on a side.
        """
        self.head, wanted = borrowed(self, teacher, setting)
        self.connector = nn.Sequential(connector(_grid(only(student)).shape[1], wanted), nn.ReLU())

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, " batch"]:
        """The loss of each sample, in float32 at least.

        Args:
            student_logits: not looked at.
            teacher_logits: v, (B, C), without temperature.
            student_features: maps (B, C, H, W), tokens (B, T, D) or vectors (B, D).
            teacher_features: vectors (B, D); no gradient flows to them.
        """
        grid = _grid(only(student_features))
        vectors = self.connector(grid).mean((-2, -1)).to(grid.dtype)
        losses: Any = self.alpha * srrl(vectors, working(only(teacher_features)))
        return losses + self.beta * srrl(self.head(vectors), working(teacher_logits))


def srrl(student: Float[Tensor, "batch width"], teacher: Float[Tensor, "batch width"]) -> Float[Tensor, " batch"]:
    """The mean squared difference of two vectors, one value a sample; no gradient flows to the teacher's.

    >>> import torch
    >>> srrl(torch.zeros(2, 2), torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    tensor([5., 0.])
    """
    return F.mse_loss(student, teacher.detach(), reduction="none").mean(1)


def _grid(feature: Tensor) -> Tensor:
    """Maps; of tokens all, in a row."""
    return working(feature.transpose(1, 2)[..., None]) if feature.ndim == 3 else maps(feature)
