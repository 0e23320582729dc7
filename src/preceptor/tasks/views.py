"""Further views of the inputs that a criterion makes, which both models are shown beside them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.inputs import Inputs, tensors_of
from preceptor.tasks.criterion import Criterion

Viewing = Callable[[Tensor], Tensor]


def viewing_of(criteria: Sequence[Criterion]) -> Viewing | None:
    """What makes views of the inputs, if a criterion does.

    Raises:
        InputError: two do.
    """
    found = [each for each in criteria if each.has("views")]
    if len(found) > 1:
        raise InputError(
            f"the losses '{found[0].name}' and '{found[1].name}' both make views of the inputs; take one of the two"
        )
    return None if not found else lambda inputs: found[0].call("views", inputs)


def with_views(viewing: Viewing, inputs: Inputs) -> Tensor:
    """Inputs (B, ...), and behind them those of the views, (E * B, ...).

    Raises:
        InputError: the inputs go by name.
    """
    if isinstance(inputs, Mapping):
        raise InputError(f"views are made of one tensor, and the inputs are {', '.join(inputs)}; take another loss")
    return torch.cat([inputs, viewing(inputs)])


def apart(whose: str, logits: Tensor, features: Mapping[str, Tensor], rows: int) -> dict[str, Any]:
    """What a model said to `rows` inputs, and, view by view, to their views."""
    views = lambda tensor: tensor[rows:].unflatten(0, (-1, rows))  # noqa: E731
    return {
        "logits": logits[:rows],
        f"{whose}_views": views(logits),
        f"{whose}_features": {name: each[:rows] for name, each in features.items()},
        f"{whose}_view_features": {name: views(each) for name, each in features.items()},
    }


def length(inputs: Inputs) -> int:
    """How many samples some inputs are."""
    return len(tensors_of(inputs)[0])
