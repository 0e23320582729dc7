"""The forms that a row of a teacher's outputs is stored in: dense, the top k with their tail, a sample of k classes; or
the hidden states of a language model.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

import torch
from pydantic import ConfigDict
from torch import Tensor

from preceptor.errors import InputError
from preceptor.records.codes import decode, encode, pack_classes, unpack_classes
from preceptor.records.hidden import Hidden
from preceptor.records.powers import log_power_sums
from preceptor.records.sampling import draw, sizes_of
from preceptor.records.targets import DenseTargets, SampledTargets, Scalars, Targets, TopKTargets

Dtype = Literal["float32", "float16", "bfloat16"]
Arrays = dict[str, Tensor]

GRID: tuple[float, ...] = (0.25, 0.5, 0.625, 0.8, 1.25, 1.6, 2.0)
"""Exponents g = 1 / T of which U_g = sum_c p_c^g is stored: T = 4, 2, 1.6, 1.25, and what scores of these need."""


@dataclass(frozen=True)
class Dense:
    """Log-probabilities of all classes: exact up to `dtype`.

    Args:
        dtype: ``float32``, ``float16`` or ``bfloat16``.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    dtype: Dtype = "float32"
    kind: Literal["dense"] = "dense"
    arrays: ClassVar[tuple[str, ...]] = ("log_probs",)

    def check(self, num_classes: int) -> None:
        """Refuse a number of classes that the form is not for."""

    def pack(self, log_probs: Tensor, uniform: Tensor, scalars: Scalars) -> Arrays:
        """What is stored of log-probabilities (B, C)."""
        return {"log_probs": log_probs.to(getattr(torch, self.dtype))}

    def unpack(self, arrays: Arrays, scalars: Scalars, num_classes: int) -> DenseTargets:
        """What was stored, as targets."""
        return DenseTargets(arrays["log_probs"].float())


@dataclass(frozen=True)
class TopK:
    """The k most probable classes, and the mass of all others: what a loss makes of it is bounded from below.

    Args:
        k: classes a sample, fewer than there are.
        dtype: of their log-probabilities; ``uint8`` are 254 steps from the smallest to the largest of a row. The tail's
            are float32.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    k: int
    dtype: Dtype | Literal["uint8"] = "float16"
    kind: Literal["top_k"] = "top_k"

    @property
    def arrays(self) -> tuple[str, ...]:
        """What is stored of it."""
        return ("classes", "log_probs", "log_tails", *(("low",) if self.dtype == "uint8" else ()))

    def check(self, num_classes: int) -> None:
        """Refuse a number of classes that the form is not for."""
        _check_k(self.k, num_classes)

    def pack(self, log_probs: Tensor, uniform: Tensor, scalars: Scalars) -> Arrays:
        """What is stored of log-probabilities (B, C)."""
        ids = log_probs.topk(self.k, sorted=False).indices.sort(-1).values
        head = log_probs.gather(-1, ids)
        # Of the whole softmax, not one minus the head: rounded, a head may sum to more than 1.
        tails = log_power_sums(log_probs.scatter(-1, ids, -torch.inf), (1.0, *scalars.powers))
        found = {"classes": pack_classes(ids, log_probs.shape[-1]), "log_tails": tails.float()}
        if self.dtype == "uint8":
            low = torch.where(head.isneginf(), torch.inf, head).amin(-1).float()
            return found | {"log_probs": encode(head, low, scalars.log_max), "low": low}
        return found | {"log_probs": head.to(getattr(torch, self.dtype))}

    def unpack(self, arrays: Arrays, scalars: Scalars, num_classes: int) -> TopKTargets:
        """What was stored, as targets."""
        log_probs = arrays["log_probs"]
        if self.dtype == "uint8":
            log_probs = decode(log_probs, arrays["low"], scalars.log_max)
        return TopKTargets(
            log_probs=log_probs.float(),
            ids=unpack_classes(arrays["classes"], self.k, num_classes),
            num_classes=num_classes,
            powers=scalars.powers,
            log_powers=scalars.log_powers,
            labels=scalars.labels,
            label_log_probs=scalars.label_log_probs,
            log_tail=arrays["log_tails"][..., 0],
            log_tail_powers=arrays["log_tails"][..., 1:],
        )


@dataclass(frozen=True)
class Sampled:
    """k classes by systematic sampling with probabilities proportional to size: what a loss makes of it is unbiased.

    Classes larger than a threshold are there with certainty, each other one with a probability that is known.

    Args:
        k: classes a sample, fewer than there are.
        sizes: exponents g; the size of a class is the mean over them of p^g / U_g. More than 1.0 alone costs accuracy
            at T = 1 and gains it at the temperatures 1 / g.
        dtype: of the log-probabilities.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    k: int
    sizes: tuple[float, ...] = (1.0,)
    dtype: Dtype = "float16"
    kind: Literal["sampled"] = "sampled"
    arrays: ClassVar[tuple[str, ...]] = ("classes", "log_probs", "tau")

    def check(self, num_classes: int) -> None:
        """Refuse a number of classes that the form is not for."""
        _check_k(self.k, num_classes)

    def pack(self, log_probs: Tensor, uniform: Tensor, scalars: Scalars) -> Arrays:
        """What is stored of log-probabilities (B, C); `uniform` (B,) in (0, 1) decides what is drawn."""
        ids, tau = draw(sizes_of(log_probs, self.sizes, scalars.powers, scalars.log_powers), self.k, uniform)
        return {
            "classes": pack_classes(ids, log_probs.shape[-1]),
            "log_probs": log_probs.gather(-1, ids).to(getattr(torch, self.dtype)),
            "tau": tau.float(),
        }

    def unpack(self, arrays: Arrays, scalars: Scalars, num_classes: int) -> SampledTargets:
        """What was stored, as targets."""
        return SampledTargets(
            log_probs=arrays["log_probs"].float(),
            ids=unpack_classes(arrays["classes"], self.k, num_classes),
            num_classes=num_classes,
            powers=scalars.powers,
            log_powers=scalars.log_powers,
            labels=scalars.labels,
            label_log_probs=scalars.label_log_probs,
            tau=arrays["tau"],
            sizes=self.sizes,
        )


Form: TypeAlias = Dense | TopK | Sampled | Hidden


def scalars_of(log_probs: Tensor, labels: Tensor, grid: tuple[float, ...] = GRID) -> Scalars:
    """What is stored beside every form, of log-probabilities (B, C) and labels (B,), -1 where unknown."""
    known = labels >= 0
    at_label = log_probs.gather(-1, labels.clamp(min=0)[:, None]).squeeze(-1)
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)  # for 0 log 0 = 0
    return Scalars(
        entropy=-(finite.exp() * finite).sum(-1).float(),
        log_max=log_probs.amax(-1).float(),
        powers=grid,
        log_powers=log_power_sums(log_probs, grid).float(),
        labels=labels,
        label_log_probs=torch.where(known, at_label, torch.nan).float(),
    )


def _check_k(k: int, num_classes: int) -> None:
    if not 1 <= k < num_classes:
        raise InputError(
            f"k is {k} of {num_classes} classes; give one from 1 to {num_classes - 1}, or the form 'dense'"
        )


__all__ = ["GRID", "Dense", "Form", "Hidden", "Sampled", "Targets", "TopK", "scalars_of"]
