"""What a model is given: one tensor, or tensors by name."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, overload

import torch
from torch import Tensor, nn

from preceptor.errors import InputError

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]
"""A tensor (B, ...), or several of one B by name, such as ``input_ids`` and ``attention_mask``."""


def call(model: nn.Module, inputs: Inputs) -> Any:
    """What a model says to its inputs.

    A tensor is its first argument. Tensors by name are keyword arguments, of which a model is given those that its
    `forward` names, so that a teacher may read what its student does not; one that takes any keyword gets all. A
    language model of transformers is told to keep no cache, with which it would let packed documents see each other.

    Raises:
        InputError: it takes none of them.

    >>> class Net(nn.Module):
    ...     def forward(self, pixel_values):
    ...         return pixel_values.sum(-1)
    >>> call(Net(), {"pixel_values": torch.ones(2, 3), "pixel_mask": torch.ones(2)})
    tensor([3., 3.])
    """
    if not isinstance(inputs, Mapping):
        return model(inputs)
    names = taken(model, inputs)
    if not names:
        raise InputError(
            f"the model, a {type(model).__name__}, takes none of the inputs, which are called {', '.join(inputs)}; "
            "name the arguments of its forward so, or give a data set whose input is one tensor"
        )
    uncached: dict[str, Any] = {"use_cache": False} if "use_cache" in _parameters(model) else {}
    return model(**{**uncached, **{name: inputs[name] for name in names}})


def taken(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Which of some keyword arguments a model's `forward` takes."""
    parameters = _parameters(model)
    found = [name for name in names if name in parameters]
    if not found and any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return list(names)
    return found


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_named(model).forward).parameters


def _named(model: nn.Module) -> nn.Module:
    """The model below wrappers that pass on whatever they get: several processes', a compiler's, PEFT's."""
    base = getattr(model, "get_base_model", None)  # of PEFT
    inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None) or (base and base())
    kinds = {each.kind for each in inspect.signature(model.forward).parameters.values()}
    passes_on = kinds <= {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    return _named(inner) if passes_on and isinstance(inner, nn.Module) else model


@overload
def each(inputs: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor: ...
@overload
def each(inputs: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]: ...
@overload
def each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs: ...


def each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with each of their tensors changed."""
    if isinstance(inputs, Mapping):
        return {name: change(tensor) for name, tensor in inputs.items()}
    return change(inputs)


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """The tensors of some inputs."""
    return list(inputs.values()) if isinstance(inputs, Mapping) else [inputs]


def device_of(inputs: Inputs) -> torch.device:
    """Where some inputs are."""
    return tensors_of(inputs)[0].device


def batch_to(batch: Mapping[str, Any], device: torch.device | str, *, non_blocking: bool = False) -> dict[str, Any]:
    """A batch on a device; what is there already is not copied."""
    send: Callable[[Tensor], Tensor] = lambda tensor: tensor.to(device, non_blocking=non_blocking)  # noqa: E731
    return {name: each(value, send) for name, value in batch.items()}


def described(inputs: Inputs) -> str:
    """Shapes and types for a sentence.

    >>> described({"input_ids": torch.zeros(2, 5, dtype=torch.int64)})
    'input_ids (2, 5) torch.int64'
    >>> described(torch.zeros(2, 3))
    'shape (2, 3) and torch.float32'
    """
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in inputs.items())
    return f"shape {tuple(inputs.shape)} and {inputs.dtype}"


def equal(one: Inputs, other: Inputs) -> bool:
    """Whether two inputs have the same names, shapes and values; where both are NaN they are equal."""
    if isinstance(one, Mapping) or isinstance(other, Mapping):
        return (
            isinstance(one, Mapping)
            and isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(equal(one[name], other[name]) for name in one)
        )
    same = one.shape == other.shape
    return same and bool(((one == other) | ((one != one) & (other != other))).all())
