"""The two losses of a `Distillation` for causal language models, from hidden states: the logits never all exist."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.inputs import taken
from preceptor.integrations.columns import LABELS
from preceptor.integrations.distillation import UNLABELLED, Distillation
from preceptor.losses import linear
from preceptor.losses.linear import Head
from preceptor.models.causal import head_of, hidden_and_head, inner_of
from preceptor.tasks import Teacher
from preceptor.tasks.teacher import in_eval_mode

_NAMES = [name for name in linear.__all__ if name not in ("Head", "cross_entropy")]


class FusedLosses:
    """What `Distillation` does, with a named loss of `preceptor.losses.linear`.

    Of a teacher that is one causal language model as it stands the logits never exist either; every other is asked as
    ever.

    Args:
        distillation: whose teacher, loss, weights and vocabulary these are; its loss to the labels is cross-entropy.

    Raises:
        InputError: another loss, or one to the labels.
    """

    def __init__(self, distillation: Distillation) -> None:
        self._distillation = distillation
        self._loss = _loss_of(distillation)
        self._lives = _is_live(distillation.teacher)

    def ask(self, inputs: Mapping[str, Any], device: torch.device) -> Any:
        """What the teacher says to a batch: hidden states and their head, or what `Distillation.ask` gives."""
        if not self._lives:
            return self._distillation.ask(inputs, device)
        teacher = self._distillation.teacher_on(device)
        assert isinstance(teacher, Teacher)
        names = [name for name in taken(teacher.model, inputs) if name not in LABELS]
        with torch.no_grad(), in_eval_mode(teacher.model):
            return hidden_and_head(teacher.model, **{name: inputs[name] for name in names})

    def losses(self, hidden: Tensor, head: Head, teacher: Any, labels: Tensor, count: Tensor) -> dict[str, Tensor]:
        """As `Distillation.losses`, of the student's hidden states (B, L, H) and its head."""
        distillation, counts = self._distillation, labels != UNLABELLED
        weight = counts / count.to(counts.device)
        part = self._loss(hidden, head, teacher, weight=weight, vocabulary=distillation.vocabulary)
        loss, parts = distillation.distill_weight * part, {"distill": part.detach()}
        if distillation.ce_weight > 0:
            ce = linear.cross_entropy(hidden, head, labels, weight=weight)
            loss, parts = loss + distillation.ce_weight * ce, {"ce": ce.detach(), **parts}
        return {"loss": loss, **parts}


def _loss_of(distillation: Distillation) -> Callable[..., Tensor]:
    given = distillation.loss
    said = {"name": given} if isinstance(given, str) else {} if callable(given) else dict(given)
    name = said.pop("name", None)
    if name not in _NAMES:
        raise InputError(
            f"fused=True needs one of {', '.join(_NAMES)} by name, and the loss is {name or given!r}; give one of "
            "them, or fused=False"
        )
    if not distillation.labels_alone:
        raise InputError("fused=True has the cross-entropy to the labels; leave label_loss and label smoothing out")
    loss: Callable[..., Tensor] = getattr(linear, name)
    return functools.partial(loss, **said)  # whose options those of the loss of logits are, which has been tried


def _is_live(teacher: Any) -> bool:
    """Whether a teacher is one causal language model of which nothing but its logits is asked."""
    if not isinstance(teacher, Teacher) or teacher.convert is not None or teacher.transform is not None:
        return False
    if teacher.distribution != "softmax" or teacher.temperature != 1:
        return False
    try:
        head_of(inner_of(teacher.model))
    except InputError:
        return False
    return True
