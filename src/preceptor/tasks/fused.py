"""The tasks of language models of many tokens, from hidden states and heads: the logits of a step never all exist.

What they minimise, and its gradient, is that of `TeachTask` and `DistillTask` to rounding.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from preceptor.inputs import taken
from preceptor.losses.linear import Head, cross_entropy
from preceptor.tasks.task import DistillTask, Output, TeachTask
from preceptor.tasks.teacher import Function, Teacher, TeacherFn, in_eval_mode
from preceptor.tasks.tokens import of_tokens

LinearLoss = Callable[..., Tensor]
"""``loss(hidden, head, teacher, *, weight)``, a sum over tokens: one of `preceptor.losses.linear` with its options."""


class HasStates(Protocol):
    """A language model whose head may be used by others (`preceptor.models.causal_lm.CausalLM`)."""

    @property
    def head(self) -> Head: ...


@runtime_checkable
class StoresStates(Protocol):
    """A teacher that looks hidden states up (`preceptor.records.TokenRecordTeacher`)."""

    def states_and_head(self, batch: Mapping[str, Any]) -> tuple[Tensor, Head] | None: ...


def gives_states(model: nn.Module) -> bool:
    """Whether a model gives hidden states where its ``forward`` is called with ``states=True``, and tells its head."""
    return bool(taken(model, ["states"])) and hasattr(model, "head")


class FusedTeachTask(TeachTask):
    """`TeachTask` for cross-entropy.

    Args:
        As of `TeachTask`; a model that `gives_states`.
    """

    def __call__(self, batch: Mapping[str, Any], count: Tensor | None = None) -> Output:
        """As of `TeachTask`; under ``logits`` are hidden states (B, L, H), which are finite where logits are."""
        seen = _Seen(self.model, self.bare, self._whole(batch), count)
        loss = cross_entropy(seen.hidden, seen.head, seen.labels, weight=seen.weight)
        return {"loss": loss, "objective": loss.detach(), "logits": seen.states}


class FusedDistillTask(DistillTask):
    """`DistillTask` for cross-entropy to the labels, and to the teacher losses of `preceptor.losses.linear`.

    A teacher that is one such language model is asked for its hidden states, too, and so is a record that holds some;
    any other for its answer.

    Args:
        As of `DistillTask`; a student that `gives_states`.
        fused: the same losses from hidden states, with their weights.
    """

    def __init__(self, *arguments: Any, fused: Sequence[tuple[LinearLoss, float]], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.fused: list[tuple[LinearLoss, float]] = list(fused)

    def __call__(self, batch: Mapping[str, Any], count: Tensor | None = None) -> Output:
        """As of `DistillTask`; under ``logits`` are hidden states (B, L, H), which are finite where logits are."""
        batch = self._whole(batch)
        seen = _Seen(self.model, self.bare, batch, count)
        taught = asked(self.teacher, batch)
        shares = [weight * loss(seen.hidden, seen.head, taught, weight=seen.weight) for loss, weight in self.fused]
        soft = torch.stack(shares).sum()
        total = self.distill_weight * soft
        hard = cross_entropy(seen.hidden, seen.head, seen.labels, weight=seen.weight)
        return {
            "loss": total + self.ce_weight * hard,
            self._label_part: hard.detach(),
            "distill": soft.detach(),
            **self._named(shares),
            "logits": seen.states,
        }

    def _named(self, shares: Sequence[Tensor]) -> Output:
        if len(shares) == 1:
            return {}
        return {
            f"distill_{criterion.name}": (share / weight).detach()
            for (criterion, _), (_, weight), share in zip(self.losses, self.fused, shares, strict=True)
        }


class _Seen:
    """What a model says to the tokens of a batch that count: hidden states (n, H), their labels and their weights."""

    def __init__(self, model: nn.Module, bare: Any, batch: Mapping[str, Any], count: Tensor | None) -> None:
        mask: Tensor = batch["mask"]
        inputs = {name: batch["input"][name] for name in taken(model, batch["input"])}
        self.states: Tensor = model(**inputs, states=True)  # through what wraps it for several processes
        self.head: Head = bare.head
        self.hidden: Tensor = self.states[mask]
        self.labels: Tensor = batch["label"][mask]
        total = mask.sum().clamp(min=1) if count is None else count
        self.weight: Tensor = (1 / total.float()).expand(len(self.labels))


def asked(teacher: TeacherFn, batch: Mapping[str, Any]) -> Any:
    """A teacher's hidden states (n, H) of the tokens that count and its head, or its answer for these."""
    mask: Tensor = batch["mask"]
    with torch.no_grad():
        if not isinstance(teacher, Teacher):
            found = _looked_up(teacher, batch)
            return of_tokens(teacher(batch), mask, "the teacher") if found is None else found
        if not lends_head(teacher):
            return of_tokens(teacher(batch), mask, "the teacher")
        model: Any = teacher.model
        with in_eval_mode(model):
            inputs = {name: batch["input"][name] for name in taken(model, batch["input"])}
            states = model(**inputs, states=True)
        head: Head = model.head
    if teacher.temperature != 1:
        head = Head(head.weight, head.bias, head.scale / teacher.temperature)
    return states[mask], head


def _looked_up(teacher: TeacherFn, batch: Mapping[str, Any]) -> tuple[Tensor, Head] | None:
    """Hidden states (n, H) and the head of a teacher that stores them; None of any other."""
    plain = teacher.function if isinstance(teacher, Function) and teacher.distribution == "softmax" else teacher
    return plain.states_and_head(batch) if isinstance(plain, StoresStates) else None


def lends_head(teacher: Teacher) -> bool:
    """Whether a teacher's distribution is the softmax of what its head makes of its hidden states, and no more."""
    if teacher.convert is not None or teacher.transform is not None or teacher.distribution != "softmax":
        return False
    model: Any = teacher.model
    return gives_states(model) and (teacher.temperature == 1 or model.head.softcap is None)
