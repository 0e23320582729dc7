"""What losses of maps share: features as maps in working precision, pairs of them, and one size for both."""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.features.base import STAGES, FeatureLoss, Features, Setting, as_map, working

Pair = tuple[Float[Tensor, "batch student_channels h w"], Float[Tensor, "batch teacher_channels i j"]]
"""A student's map and a teacher's."""


def maps(feature: Tensor, image: tuple[int, int] | None = None) -> Float[Tensor, "batch channels h w"]:
    """A feature as maps in working precision, tokens by the `image` that they are of; a vector (B, D) is a map of one
    position.
    """
    return working(feature[:, :, None, None] if feature.ndim == 2 else as_map(feature, image))


def size(feature: Tensor) -> tuple[int, int]:
    """Height and width of maps."""
    height, width = feature.shape[-2:]
    return height, width


def shrunk(feature: Tensor, target: Sequence[int]) -> Tensor:
    """Maps averaged to another size; as they are, where they have it."""
    return feature if size(feature) == tuple(target) else F.adaptive_avg_pool2d(feature, (target[0], target[1]))


def of_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps, the larger averaged to the size of the smaller."""
    smaller = [min(pair) for pair in zip(size(student), size(teacher), strict=True)]
    return shrunk(student, smaller), shrunk(teacher, smaller)


class MapLoss(FeatureLoss):
    """A loss that compares maps pair by pair, one value a sample, and adds the pairs up."""

    default_taps: ClassVar[tuple[str, ...]] = (STAGES,)
    over_space: ClassVar[bool] = False  # whether it says nothing of maps of one position

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        self.check_pairs(student, teacher)
        pairs = self.pairs(student, teacher)
        if self.over_space and all((1, 1) in (size(of_student), size(of_teacher)) for of_student, of_teacher in pairs):
            raise InputError(
                f"the loss '{type(self).__name__}' compares where maps are large, and {', '.join(student)} against "
                f"{', '.join(teacher)} have one position; name modules whose outputs are maps or tokens"
            )
        self.make(pairs, setting)

    def make(self, pairs: Sequence[Pair], setting: Setting) -> None:
        """The parts that depend on shapes."""

    def pairs(self, student: Features, teacher: Features) -> list[Pair]:
        """The maps to compare; no gradient flows to the teacher's."""
        both = zip(student.values(), teacher.values(), strict=True)
        return [
            (maps(of_student, self.student_image), maps(of_teacher.detach(), self.teacher_image))
            for of_student, of_teacher in both
        ]

    def compare(self, level: int, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of one pair: (B,), or a scalar of the batch."""
        raise NotImplementedError

    def compare_all(self, pairs: Sequence[Pair]) -> Tensor:
        """The loss of all pairs."""
        return torch.stack([self.compare(level, *pair) for level, pair in enumerate(pairs)]).sum(0)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Features, teacher_features: Features
    ) -> Float[Tensor, "*batch"]:
        """The loss of each sample (or of the batch), in float32 at least.

        Args:
            student_logits: not looked at.
            teacher_logits: not looked at.
            student_features: by tap, maps (B, C, H, W), tokens (B, T, D) or vectors (B, D).
            teacher_features: the same of the teacher; no gradient flows to them.
        """
        return self.compare_all(self.pairs(student_features, teacher_features))
