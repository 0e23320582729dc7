"""VID: the teacher's maps are probable, given the student's."""

import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, softplus

from preceptor.losses.features._relations import full_precision
from preceptor.losses.features.base import (
    STAGES,
    FeatureLoss,
    Features,
    Published,
    Setting,
    as_map,
    expect,
    gradient_free,
    working,
)

_LEAST_VARIANCE = 1e-5


class Gaussian(nn.Module):
    """How improbable one layer's maps are, if they are normal around a regression of another's.

    Args:
        channels_in, channels_out: of the student's and of the teacher's maps.
        variance: at the start, of every channel.
    """

    def __init__(self, channels_in: int, channels_out: int, variance: float) -> None:
        super().__init__()
        self.mean: nn.Sequential = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 1, bias=False),
        )
        start = math.log(math.expm1(variance - _LEAST_VARIANCE))
        self.scale: nn.Parameter = nn.Parameter(torch.full((channels_out,), start))

    def forward(self, student: Float[Tensor, "batch c h w"], teacher: Float[Tensor, "batch d i j"]) -> Tensor:
        """Half the negative log-likelihood of each sample, (B,), less a constant; the larger map is pooled."""
        size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
        mean = working(self.mean(adaptive_avg_pool2d(student, size).to(self.scale.dtype)))
        variance = (softplus(working(self.scale)) + _LEAST_VARIANCE)[:, None, None]
        gap = mean - adaptive_avg_pool2d(working(teacher), size)
        return ((gap.square() / variance + variance.log()) / 2).mean((1, 2, 3))


class VID(FeatureLoss):
    """Variational information distillation: one value per example, layers summed, less is better.

    Ahn et al., "Variational Information Distillation for Knowledge Transfer" (CVPR 2019, arXiv 1904.05835). The
    teacher's maps are taken as normal with a variance per channel around three 1x1 convolutions of the student's; the
    loss is the mean of (gap² / variance + log variance) / 2 over their values, and below 0 where variances are small.

    Args:
        variance: of all channels at the start.
        student, teacher: where to look; by default at the ends of the stages, as many of each.

    Attributes:
        layers: for each pair, the regression and the variances.
    """

    published: ClassVar[Published] = Published(distill_weight=1.0, source="the code of CRD, arXiv 1910.10699")
    default_taps: ClassVar[tuple[str, ...]] = (STAGES,)

    layers: nn.ModuleList

    def __init__(
        self,
        *,
        variance: float = 5.0,
        student: str | list[str] | None = None,
        teacher: str | list[str] | None = None,
    ) -> None:
        super().__init__(student=student, teacher=teacher)
        expect("variance", variance, _LEAST_VARIANCE < variance < math.inf, f"a number above {_LEAST_VARIANCE}")
        self.variance: float = variance

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make a regression for each pair of layers."""
        self.check_pairs(student, teacher)
        self.layers = nn.ModuleList(
            Gaussian(_map(s, None).shape[1], _map(t, None).shape[1], self.variance)
            for s, t in zip(student.values(), teacher.values(), strict=True)
        )

    @full_precision
    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, " batch"]:
        """The loss of each sample; logits are not looked at."""
        teachers = gradient_free(teacher_features)
        pairs = zip(self.layers, student_features.values(), teachers.values(), strict=True)
        values = [
            layer(_map(student, self.student_image), _map(teacher, self.teacher_image))
            for layer, student, teacher in pairs
        ]
        return torch.stack(values).sum(0)


def _map(feature: Tensor, image: tuple[int, int] | None) -> Tensor:
    """Vectors are maps of one place."""
    return feature[:, :, None, None] if feature.ndim == 2 else as_map(feature, image)
