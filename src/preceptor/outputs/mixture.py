"""Several teachers as one."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.errors import InputError
from preceptor.tensors import at_least_float32


@torch.no_grad()
def average_probabilities(
    logits: Sequence[Float[Tensor, "*batch classes"]], weights: Sequence[float] | None = None
) -> Float[Tensor, "*batch classes"]:
    """ln of the weighted mean of softmax(logits) over the teachers, computed in log space, without gradient.

    Args:
        logits: each teacher's logits or log-probabilities (-inf allowed), all of one shape (..., C).
        weights: one per teacher, 0 or more, normalised to the sum 1 here; None weighs all alike.

    Returns:
        Log-probabilities, shape (..., C), in at least float32.

    Raises:
        InputError: no teacher, teachers of different shapes, or weights that are negative, not finite, all 0 or too
            few.

    >>> certain, unsure = torch.tensor([0.0, -torch.inf]), torch.tensor([3.0, 3.0])
    >>> average_probabilities([certain, unsure], weights=[3, 1]).exp()
    tensor([0.8750, 0.1250])
    """
    if not logits:
        raise InputError("there are no teachers to average: give the logits of at least one.")
    if len(shapes := {tuple(each.shape) for each in logits}) > 1:
        raise InputError(f"the teachers' logits have different shapes, {shapes}: give all of them the same batch.")
    weights = [1.0] * len(logits) if weights is None else weights
    if len(weights) != len(logits) or not all(0 <= w < math.inf for w in weights) or not any(weights):
        raise InputError(
            f"the weights {list(weights)} do not fit {len(logits)} teachers: "
            "give each a finite weight of 0 or more, and not 0 to all."
        )
    if len(logits) == 1:  # whatever its weight
        return at_least_float32(logits[0]).log_softmax(-1)
    log_weights = torch.tensor(weights, dtype=torch.float64).log().log_softmax(0).tolist()
    members = [
        at_least_float32(each).log_softmax(-1) + log_weight
        for each, log_weight in zip(logits, log_weights, strict=True)
    ]
    return torch.stack(members).logsumexp(0)
