"""OFA-KD: every stage of a student, whatever its architecture, projected to logits."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from preceptor.losses.features._maps import maps
from preceptor.losses.features._projectors import MapProjector, TokenProjector
from preceptor.losses.features.base import STAGES, FeatureLoss, Features, Published, Setting, expect, working


def ofa(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    labels: Int64[Tensor, " batch"],
    *,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Float[Tensor, " batch"]:
    """-sum_c ((p_c + [c = y])^gamma - [c = y]) log q_c of probabilities at T, one value a sample; less is better.

    At gamma = 1 it is the cross-entropy to the teacher. No gradient flows to the teacher; there is no T².

    Args:
        student: logits (B, C).
        teacher: logits or log-probabilities (B, C), -inf allowed.
        labels: y, class numbers (B,).
        gamma: above 1 the label weighs more, for an unsure teacher by 2^gamma - 1 at most.
        temperature: T > 0.

    >>> import torch
    >>> ofa(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([1]), gamma=2.0)
    tensor([1.0397])
    """
    student, teacher = working(student), working(teacher.detach())
    p = (teacher / temperature).softmax(-1)
    at_label = torch.zeros_like(p).scatter(-1, labels.long().unsqueeze(-1), 1.0)
    target = (p + at_label) ** gamma - at_label
    return -(target * (student / temperature).log_softmax(-1)).sum(-1)


class OFA(FeatureLoss):
    """The loss `ofa` of the student's logits and of those that a projector makes of each of its stages, added up.

    Hao et al., "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation" (NeurIPS
    2023, arXiv 2310.19444). The projector of maps halves them once for each stage that follows, by separable
    convolutions; that of tokens merges patches to a grid of 7 x 7 and has as many transformer blocks. The teacher is
    asked for logits alone. Published is gamma 1, in the released command for ImageNet 1.5.

    Samples without a label are left out, as the label weighs in it.

    Args:
        student: where to look in the student: maps (B, C, H, W) or tokens (B, T, D), the earliest stage first.
        gamma: of `ofa`.
        temperature: of `ofa`.

    Raises:
        InputError: a gamma or temperature that is not above 0.
    """

    published: ClassVar[Published] = Published(source="released code, CIFAR-100 and ImageNet")
    default_taps: ClassVar[tuple[str, ...]] = (STAGES,)

    teacher_taps: tuple[str, ...]
    projectors: nn.ModuleList

    def __init__(
        self, *, student: str | Sequence[str] | None = None, gamma: float = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__(student=student)
        self.teacher_taps = ()
        expect("gamma of OFA", gamma, 0 < gamma < math.inf, "a positive number, such as 1.5")
        expect("temperature of OFA", temperature, 0 < temperature < math.inf, "a positive number, such as 1.0")
        self.gamma: float = gamma
        self.temperature: float = temperature

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the projectors.

        Those of maps are as wide as the student's last stage, or as what the teacher's classifier is given, if that is
        wider and the teacher is a live model.
        """
        found = [_read(feature) for feature in student.values()]
        *_, last = found
        own = last.shape[-1] if last.ndim == 3 else last.shape[1]
        projectors: list[nn.Module] = []
        for place, feature in enumerate(found):
            following = len(found) - 1 - place
            if feature.ndim == 3:
                projectors.append(
                    TokenProjector(feature.shape, own, following, setting.num_classes, self.student_image)
                )
            else:
                wide = max(own, _width_of_teacher(setting))
                projectors.append(MapProjector(feature.shape[1], wide, following, setting.num_classes))
        self.projectors = nn.ModuleList(projectors)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, *, student_features: Features
    ) -> Float[Tensor, " batch"]:
        """The loss of each sample, in float32 at least.

        Args:
            student_logits: (B, C).
            teacher_logits: (B, C); no gradient flows to them.
            labels: class numbers (B,).
            student_features: by tap, maps (B, C, H, W) or tokens (B, T, D).
        """
        pairs = zip(self.projectors, student_features.values(), strict=True)
        said = [student_logits, *(projector(_read(feature)) for projector, feature in pairs)]
        losses: list[Any] = [
            ofa(logits, teacher_logits, labels, gamma=self.gamma, temperature=self.temperature) for logits in said
        ]
        return torch.stack([loss.to(losses[0].dtype) for loss in losses]).sum(0)


def _read(feature: Tensor) -> Tensor:
    """Tokens as they are; all else as maps."""
    return working(feature) if feature.ndim == 3 else maps(feature)


def _width_of_teacher(setting: Setting) -> int:
    """What the last linear layer of as many outputs as there are classes is given; 0 where there is none."""
    modules = [] if setting.teacher is None else list(setting.teacher.modules())
    layers = [each for each in reversed(modules) if isinstance(each, nn.Linear)]
    return next((each.in_features for each in layers if each.out_features == setting.num_classes), 0)
