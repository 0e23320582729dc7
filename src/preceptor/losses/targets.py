"""What a loss learns from where a teacher's whole output was not kept: some classes, and what is known of the rest.

Tensors alone; `preceptor.records` writes and reads them. Every loss takes them in place of the teacher's logits, or
refuses them and says why (`preceptor.losses.sparse`).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Integer
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """What all forms have in common.

    Args:
        log_probs: of the classes that are there, at T = 1, (..., k); (..., C) where all are.
    """

    log_probs: Float[Tensor, "*batch kept"]

    @property
    def shape(self) -> torch.Size:
        """That of the logits that they stand for, (..., C)."""
        return self.log_probs.shape

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.log_probs.device

    def to(self, *arguments: Any, **options: Any) -> "Targets":
        """The same on another device, as `torch.Tensor.to` takes it."""
        return each(self, lambda tensor: tensor.to(*arguments, **options))

    def __getitem__(self, index: Any) -> "Targets":
        """Those of some examples."""
        return each(self, lambda tensor: tensor[index])


Form = TypeVar("Form", bound=Targets)


def each(targets: Form, change: Callable[[Tensor], Tensor]) -> Form:
    """The same targets with every tensor changed."""
    held = {field.name: getattr(targets, field.name) for field in fields(targets)}
    return replace(targets, **{name: change(value) for name, value in held.items() if isinstance(value, Tensor)})


@dataclass(frozen=True)
class DenseTargets(Targets):
    """Log-probabilities of all classes (..., C): exact up to the dtype that they were stored in."""


@dataclass(frozen=True)
class SparseTargets(Targets):
    """Some classes of each example.

    Args:
        ids: of the classes that are there, int64 (..., k).
        num_classes: C.
        powers: the exponents g = 1 / T, beside 1, of which more is known.
        log_powers: log U_g with U_g = sum_c p_c^g over all C classes, (..., G).
        labels: of the examples, int64 (...), -1 where unknown; None where nobody knows.
        label_log_probs: log p of these labels, (...).
    """

    ids: Integer[Tensor, "*batch kept"]
    num_classes: int
    powers: tuple[float, ...]
    log_powers: Float[Tensor, "*batch grid"]
    labels: Integer[Tensor, "*batch"] | None = None
    label_log_probs: Float[Tensor, "*batch"] | None = None

    @property
    def shape(self) -> torch.Size:
        """That of the logits that they stand for, (..., C)."""
        return torch.Size((*self.ids.shape[:-1], self.num_classes))


@dataclass(frozen=True, kw_only=True)
class TopKTargets(SparseTargets):
    """The k most probable classes, and the mass of all others together: losses are bounded from below.

    Args:
        log_tail: log of the sum of p over the classes that are not there, (...).
        log_tail_powers: the same of p^g for each g of `powers`, (..., G).
    """

    log_tail: Float[Tensor, "*batch"]
    log_tail_powers: Float[Tensor, "*batch grid"]


@dataclass(frozen=True, kw_only=True)
class SampledTargets(SparseTargets):
    """k classes, drawn with probabilities that are known: losses and gradients are unbiased.

    A class is drawn with probability min(1, r / tau), where its size r is the mean of p^g / U_g over the exponents in
    `sizes`.

    Args:
        tau: the threshold, (...); what is larger is there with certainty.
        sizes: the exponents g.
    """

    tau: Float[Tensor, "*batch"]
    sizes: tuple[float, ...] = (1.0,)


def whole(teacher: Tensor | Targets) -> Tensor | SparseTargets:
    """Targets of all classes as the tensor that they are; everything else as it is."""
    return teacher.log_probs if isinstance(teacher, DenseTargets) else teacher  # type: ignore[return-value]


def takes_targets(loss: Callable[..., Any]) -> bool:
    """Whether a loss is one of this package, which take targets or say why not; somebody's own expects logits.

    >>> from preceptor.losses import kd
    >>> takes_targets(functools.partial(kd, temperature=2.0)), takes_targets(torch.nn.functional.l1_loss)
    (True, False)
    """
    while isinstance(loss, functools.partial):
        loss = loss.func
    return getattr(loss, "__module__", "").startswith("preceptor.losses.")
