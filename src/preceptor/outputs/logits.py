"""The logits in whatever a model returns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from preceptor.errors import InputError


def logits_of(output: Any, whose: str = "the model") -> Tensor:
    """The logits in a model's answer: the tensor itself, or what it calls `logits`, or the one tensor that it holds.

    Models of transformers answer with a mapping, others with a named tuple or with a tuple of one; where several
    tensors have no names it cannot be known which are the logits.

    Args:
        output: a tensor, a mapping or object with ``logits``, or something that holds a single tensor.
        whose: what an error calls the one who answered.

    Raises:
        InputError: there are no such logits.

    >>> import torch
    >>> logits_of({"logits": torch.zeros(1, 2), "hidden": torch.ones(1, 8)})
    tensor([[0., 0.]])
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping | tuple | list) and len(output) == 1:
        [found] = output.values() if isinstance(output, Mapping) else output
    if not isinstance(found, Tensor):
        raise InputError(
            f"{whose} returns {_described(output)}; it must return logits, shape (B, C), alone or under the name "
            "'logits'"
        )
    return found


def others_in(output: Any) -> list[str]:
    """What a model's answer holds beside its logits, by name."""
    if isinstance(output, Tensor):
        return []
    if isinstance(output, Mapping):
        names = output.keys()
    else:
        names = getattr(output, "_fields", ()) or getattr(output, "__dict__", ())
    return [str(name) for name in names if name != "logits"]


def _described(output: Any) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output)) or 'nothing'}"
    if isinstance(output, tuple | list):
        return f"a {type(output).__name__} of {len(output)}"
    return f"a {type(output).__name__}"
