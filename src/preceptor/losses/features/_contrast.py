"""What CRD and WCoRD share: embeddings of both models, contrasted with a memory of samples of other classes."""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from preceptor.losses.features._memory import Memory, OtherClasses
from preceptor.losses.features.base import FeatureLoss, Features, Setting, as_vector, count, expect, only


class Contrast(FeatureLoss):
    """A loss that has linear embeddings of the pooled features, and a memory of what both models' have been.

    Args:
        dim: of the embeddings.
        negatives: for each sample.
        momentum: the share of the old value in the memory's new one.
        taps: ``student`` and ``teacher``, as of `FeatureLoss`.

    Raises:
        InputError: an option out of range.
    """

    embed_student: nn.Linear
    embed_teacher: nn.Linear
    memory: Memory
    others: OtherClasses

    def __init__(self, *, dim: int, negatives: int, momentum: float, **taps: Any) -> None:
        super().__init__(**taps)
        count("dim", dim, 1)
        count("negatives", negatives, 1)
        expect("momentum", momentum, 0 <= momentum < 1, "a share from 0 to less than 1")
        self.dim: int = dim
        self.negatives: int = negatives
        self.momentum: float = momentum

    def build(self, student: Features, teacher: Features, setting: Setting) -> None:
        """Make the embeddings, and the memory at random."""
        self.others = OtherClasses(setting.labels, setting.num_samples)
        self.embed_student, self.embed_teacher = (
            nn.Linear(as_vector(only(features)).shape[1], self.dim) for features in (student, teacher)
        )
        self.memory = Memory(setting.num_samples, self.dim, self.momentum)

    def places(self, index: Int64[Tensor, " batch"]) -> Int64[Tensor, "batch places"]:
        """Of each sample its own place in the memory, and then those of its negatives."""
        return torch.cat([index.unsqueeze(1), self.others(index, self.negatives)], 1)
