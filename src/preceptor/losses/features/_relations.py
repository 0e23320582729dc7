"""What losses share that compare how the samples of a batch lie to each other."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.losses.features.base import as_vector, flat, working

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def full_precision(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """The function, in which autocast rounds no product of matrices to half precision."""

    @wraps(function)
    def run(*args: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        # One mode for each kind of device that is there; nested, as the features say by themselves where they are.
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **options)

    return run


def rows(student: Tensor, teacher: Tensor) -> tuple[Float[Tensor, "batch s"], Float[Tensor, "batch t"]]:
    """All values of each sample as one row, in one working precision; no gradient flows to the teacher.

    Raises:
        InputError: they are of different numbers of samples.
    """
    if len(student) != len(teacher):
        raise InputError(
            f"the student's features are of {len(student)} samples but the teacher's of {len(teacher)}; "
            "give both of the same batch"
        )
    dtype = torch.promote_types(working(student[:0]).dtype, teacher.dtype)
    return flat(student).to(dtype), flat(teacher.detach()).to(dtype)


def nothing(feature: Tensor) -> Float[Tensor, ""]:
    """0 with zero gradient: what relations say of a batch in which nothing has a partner."""
    return (feature * 0).sum()


def embedded(layer: nn.Linear, feature: Tensor) -> Float[Tensor, "batch d"]:
    """The layer's output of the pooled feature, in at least single precision."""
    return working(layer(as_vector(feature).to(layer.bias.dtype)))
