"""SoTeacher (arXiv 2206.06661): cross-entropy, a Lipschitz penalty and a consistency penalty.

The defaults are what the authors' released code computes. Whatever is ours says so.
"""

from collections.abc import Mapping
from typing import Literal

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from preceptor.teaching.classification import cross_entropy
from preceptor.teaching.consistency import Consistency
from preceptor.teaching.lipschitz import Lipschitz, largest_singular_value

__all__ = ["Consistency", "Lipschitz", "SoTeacher", "largest_singular_value"]


class SoTeacher(nn.Module):
    """Cross-entropy + Lipschitz penalty + consistency penalty, by default as in the authors' released code.

    Dong et al. 2024 (arXiv 2206.06661). Cross-entropy and consistency are one value per example; the
    Lipschitz penalty is one per optimizer step. The first epoch is cross-entropy and Lipschitz penalty
    alone.

    The history of N samples and C classes takes 4 N C + 8 N bytes per model: see `Consistency`.

    Args:
        lipschitz: weight of `Lipschitz`; 0 leaves it out.
        consistency: final weight of `Consistency`; 0 leaves it out.
        norm: "l1" (the authors') or "spectral" (ours); see `Lipschitz`.
        schedule: "linear" (the authors') or "constant" (ours); see `Consistency`.
        average: "authors", "mean" (ours) or "ema" (ours); see `Consistency`.
        decay: what "ema" keeps at each visit.

    Raises:
        InputError: a value that its part refuses.

    >>> import torch
    >>> objective = SoTeacher()
    >>> objective.bind(model=nn.Linear(4, 3), num_samples=100, num_classes=3)
    >>> objective.start_epoch(0, 10)
    >>> objective(torch.zeros(1, 3), torch.tensor([2]), index=torch.tensor([57]))  # ln 3
    tensor([1.0986])
    """

    lipschitz: Lipschitz
    consistency: Consistency

    def __init__(
        self,
        lipschitz: float = 1e-5,
        consistency: float = 1.0,
        *,
        norm: Literal["l1", "spectral"] = "l1",
        schedule: Literal["linear", "constant"] = "linear",
        average: Literal["authors", "mean", "ema"] = "authors",
        decay: float = 0.9,
    ) -> None:
        super().__init__()
        self.lipschitz = Lipschitz(lipschitz, norm=norm)
        self.consistency = Consistency(consistency, schedule=schedule, average=average, decay=decay)

    def bind(self, *, model: nn.Module, num_samples: int, num_classes: int, stack: tuple[int, ...] = ()) -> None:
        """Remember the model's layers and make room for the history.

        Args:
            model: the model whose parameters and buffers `penalty` will be given.
            num_samples: the size of the data set that the indices point into.
            num_classes: the number of classes.
            stack: the leading model shape.

        Raises:
            InputError: the Lipschitz penalty finds nothing in the model that it can bound.
        """
        self.lipschitz.bind(model=model)
        self.consistency.bind(num_samples=num_samples, num_classes=num_classes, stack=stack)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Set the weight of the consistency penalty for this epoch.

        Args:
            epoch: counts from 0.
            epochs: how many there will be.
        """
        self.consistency.start_epoch(epoch, epochs)

    def forward(
        self,
        logits: Float[Tensor, "*stack batch classes"],
        labels: Int64[Tensor, "*stack batch"],
        *,
        index: Int64[Tensor, "*stack batch"],
        mask: Bool[Tensor, "*stack batch"] | None = None,
    ) -> Float[Tensor, "*stack batch"]:
        """Cross-entropy plus consistency penalty of each example.

        Args:
            logits: the teacher's logits, shape (*stack, B, C).
            labels: class numbers in [0, C), shape (*stack, B).
            index: each example's position in its data set, shape (*stack, B).
            mask: False marks examples that do not count, shape (*stack, B); theirs is exactly 0.

        Returns:
            Shape (*stack, B), in at least float32.

        Raises:
            InputError: `bind` has not been called, or labels, index or history do not fit the logits.
        """
        consistency = self.consistency(logits, labels, index=index, mask=mask)
        return cross_entropy(logits, labels, mask=mask) + consistency

    def penalty(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        """The Lipschitz penalty of one model.

        Args:
            tensors: name to tensor, the model's named parameters and buffers.

        Returns:
            A scalar, in at least float32.

        Raises:
            InputError: `bind` has not been called.
        """
        return self.lipschitz.penalty(tensors)

    def observe(
        self,
        logits: Float[Tensor, "*stack batch classes"],
        index: Int64[Tensor, "*stack batch"],
        mask: Bool[Tensor, "*stack batch"] | None = None,
    ) -> None:
        """Take the step's predictions into the history.

        Args:
            logits: the teacher's logits, shape (*stack, B, C), gathered over processes.
            index: each example's position in its data set, shape (*stack, B).
            mask: False marks examples to forget, shape (*stack, B).

        Raises:
            InputError: `bind` has not been called, or index or history do not fit the logits.
        """
        self.consistency.observe(logits, index, mask)
