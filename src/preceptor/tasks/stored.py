"""A teacher's outputs that somebody has stored, before it is known which of them are of which samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.data.class_names import as_names
from preceptor.data.labels import refuse_masked
from preceptor.errors import InputError, did_you_mean
from preceptor.tasks.teacher import Batch, Lookup

_KEYS = ("logits", "ids", "labels", "class_names")


class Stored(Lookup):
    """Stored outputs, a row a sample: a teacher once its rows are matched to the samples of a data set.

    Args:
        outputs: logits, log-probabilities or, with ``distribution="probabilities"``, these: (R, C), a tensor or an
            array, or an array of R lists.
        ids: what identifies the samples, (R,).
        labels: class numbers beside them, (R,), to be checked against the data's.
        class_names: what the columns are called, (C,).
        name: what an error calls them.
        distribution: as of `Lookup`.

    Raises:
        InputError: no table of numbers, or another number of ids or labels than of rows, or of names than of columns.
    """

    def __init__(
        self,
        outputs: Any,
        *,
        ids: Any = None,
        labels: Any = None,
        class_names: Any = None,
        name: str = "the stored outputs",
        distribution: str = "softmax",
    ) -> None:
        super().__init__(_numbers(outputs, name), distribution=distribution)
        if self.table.ndim != 2:
            raise InputError(f"{name} have shape {tuple(self.table.shape)}; give (samples, classes)")
        self.name = name
        self.ids: Sequence[Any] | None = _listed(ids, len(self.table), "ids", name)
        self.labels: Sequence[Any] | None = _listed(labels, len(self.table), "labels", name)
        self.class_names: tuple[str, ...] = () if class_names is None else as_names(class_names)
        if self.class_names and len(self.class_names) != self.table.shape[1]:
            raise InputError(
                f"{name} have {self.table.shape[1]} columns and {len(self.class_names)} class names; give one for each"
            )

    def answer(self, batch: Batch) -> Tensor:
        """Refused: whose row is whose is not known yet."""
        raise InputError(
            f"{self.name} are not matched to samples; preceptor.distill does so, and in a loop of your own "
            "preceptor.tasks.Lookup(table) takes one row for each sample of the data set"
        )


def stored(given: Any) -> Stored | None:
    """Stored outputs as somebody hands them over in Python; None if it is something else.

    Args:
        given: an array or a tensor (R, C), or a mapping of ``logits`` and, beside them, ``ids``, ``labels`` and
            ``class_names``, as the files have them.

    Raises:
        InputError: as `Stored`; an unknown key.
    """
    if isinstance(given, np.ndarray) or type(given) is Tensor:
        return Stored(given)
    if not isinstance(given, Mapping) or callable(given):
        return None
    unknown = next((key for key in given if key not in _KEYS), None)
    if unknown is not None:
        raise InputError(f"the stored outputs have the key '{unknown}'; {did_you_mean(str(unknown), _KEYS)}")
    if "logits" not in given:
        raise InputError("the stored outputs have no 'logits'; give {'logits': (R, C), 'ids': (R,)}")
    more = {key: value for key, value in given.items() if key != "logits"}
    return Stored(given["logits"], **more)


def _numbers(outputs: Any, name: str) -> Any:
    """Lists, and arrays of them, as of Ray and pyarrow, as arrays of numbers; others such that torch reads them."""
    if not isinstance(outputs, np.ndarray | list):
        return outputs
    if isinstance(outputs, np.ndarray) and outputs.dtype != object:
        refuse_masked(outputs, "teacher's outputs")
        return np.require(outputs, requirements=("C", "W"))
    try:
        return np.stack([np.asarray(row, dtype=np.float64) for row in outputs])
    except (TypeError, ValueError, RuntimeError):  # the last of tensors with a gradient
        raise InputError(f"{name} are Python objects that are no rows of one length; give numbers (R, C)") from None


def _listed(values: Any, length: int, what: str, name: str) -> Sequence[Any] | None:
    if values is None:
        return None
    if isinstance(values, set | frozenset):
        raise InputError(f"{name} have {what} in a set, which has no order; give a list, in the order of the rows")
    listed = values.tolist() if isinstance(values, np.ndarray | torch.Tensor) else list(values)
    if len(listed) != length or any(isinstance(each, list) for each in listed[:1]):
        raise InputError(f"{name} have {length} rows and {len(listed)} {what}; give one for each row")
    return listed
