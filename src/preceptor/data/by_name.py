"""Inputs that are several arrays by name, such as the tokens of a text and their mask."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.data.labels import refuse_masked
from preceptor.errors import InputError
from preceptor.inputs import Inputs

_NO_INPUTS = ("label", "labels", "index", "mask")  # of a sample whose arrays go by name


def named_inputs(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a mapping with a label, as data sets of tokens and collators give them; none where it has none."""
    if not sample.keys() & {"label", "labels"}:
        return {}
    kept = {str(name): value for name, value in sample.items() if name not in _NO_INPUTS}
    return {name: value for name, value in kept.items() if _is_array(value)}


def _is_array(value: Any) -> bool:
    """A tensor, an array or a list of numbers, however deep; a single number is none."""
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 0
    while isinstance(value, list | tuple) and value:
        value = value[0]
        if isinstance(value, Tensor | np.ndarray | np.generic | int | float):
            return True
    return False


def without_text(sample: Any) -> Any:
    """A sample without what no collator can make a tensor of."""
    if not isinstance(sample, Mapping):
        return sample
    return {name: value for name, value in sample.items() if not isinstance(value, str | bytes) and value is not None}


def tensors_by_name(value: Any, indices: Sequence[int]) -> Inputs:
    """The input of a sample, or of a batch, as a tensor or as tensors by name.

    Raises:
        InputError: it is something else, or holds what is no array.
    """
    if not isinstance(value, Mapping):
        return torch.as_tensor(value)
    found = {}
    for name, part in value.items():
        refuse_masked(part, f"{name} of sample {indices[0]}")
        if not _is_array(part):
            raise InputError(
                f"{name} in the input of sample {indices[0]} is a {type(part).__name__}, no array; leave it out, or "
                "make an array of it"
            )
        try:
            found[str(name)] = torch.as_tensor(part)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{name} in the input of sample {indices[0]} cannot be made a tensor ({error}); give an array of "
                "numbers"
            ) from None
    if not found:
        raise InputError(f"the input of sample {indices[0]} is an empty mapping; give arrays by name")
    return found
