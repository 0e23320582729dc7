"""Any arrays, from a NumPy `.npz` file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from preceptor.data.arrays import read_npz
from preceptor.data.class_names import as_names, numbered
from preceptor.data.dataset import ArrayDataset, Data, with_heldout
from preceptor.data.files import blamed_on
from preceptor.data.labels import check_labels
from preceptor.data.normalize import Normalize, normalize_of
from preceptor.errors import InputError

Arrays = dict[str, np.ndarray]


def npz(
    *,
    path: str | Path,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    divide_by: float | None = None,
) -> Data:
    """The arrays of a `.npz` file: `train_inputs` and `train_labels`, or `inputs` and `labels`.

    Also read where they are there: `test_inputs` and `test_labels` (else `test` is None), `heldout_inputs` and
    `heldout_labels` (a validation set, which is then the held-out part: `preceptor.data.dataset.with_heldout`),
    `class_names` (strings; else "0", "1", ... up to the largest label) and the samples' ids, `train_ids` or `ids` (and
    `heldout_ids`), by which stored outputs are matched. Other arrays are ignored.

    Inputs are (N, ...), images (N, channels, height, width). Floats and uint8 come out as float32
    `(inputs / divide_by - mean) / std`; other integers (tokens) come out as int64, unchanged. Labels are
    integers (N,). Nothing is unpickled.

    Args:
        path: the file.
        mean: subtracted; one number, or one per channel (axis 1).
        std: divided by, likewise.
        divide_by: first of all; if not given, 255 for uint8 and 1 for floats.

    Raises:
        InputError: no such file, not a `.npz` file, truncated; an array missing, of Python objects or of
            another length; labels that are no classes; inputs that are not finite; a mean or std that does
            not fit.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "points.npz"
    >>> np.savez(file, inputs=np.zeros((4, 2)), labels=np.array([0, 1, 2, 1]))
    >>> data = npz(path=file)
    >>> data.class_names, data.input_shape
    (('0', '1', '2'), (2,))
    """
    path = Path(path).expanduser()
    with blamed_on(path):
        return _data(read_npz(path), mean, std, divide_by)


def _data(arrays: Arrays, mean: float | Sequence[float], std: float | Sequence[float], divide_by: float | None) -> Data:
    own = "train_" if "train_inputs" in arrays or "train_labels" in arrays else ""
    inputs, labels = _pair(arrays, own)
    others = {
        part: _pair(arrays, f"{part}_")
        for part in ("test", "heldout")
        if f"{part}_inputs" in arrays or f"{part}_labels" in arrays
    }
    for part, (theirs, _) in others.items():
        if theirs.shape[1:] != inputs.shape[1:]:
            shapes = tuple(inputs.shape[1:]), tuple(theirs.shape[1:])
            raise InputError(
                f"a training input has shape {shapes[0]} but a {part} input {shapes[1]}; give both one shape"
            )
    class_names = _class_names(arrays, torch.cat([labels, *(theirs for _, theirs in others.values())]))
    normalize = _normalize(inputs, mean, std, divide_by)

    def dataset(inputs: Tensor, labels: Tensor, prefix: str) -> ArrayDataset:
        ids = arrays[f"{prefix}ids"].tolist() if f"{prefix}ids" in arrays else None
        return ArrayDataset(inputs, labels, num_classes=len(class_names), transform=normalize, ids=ids)

    sets = {part: dataset(*pair, f"{part}_") for part, pair in others.items()}
    data = Data(dataset(inputs, labels, own), sets.get("test"), class_names, normalize.as_json() if normalize else {})
    return with_heldout(data, sets["heldout"]) if "heldout" in sets else data


def _pair(arrays: Arrays, prefix: str) -> tuple[Tensor, Tensor]:
    """The checked inputs and labels of one part."""
    for name in (f"{prefix}inputs", f"{prefix}labels"):
        if name not in arrays:
            raise InputError(f"there is no array '{name}', only {', '.join(sorted(arrays)) or 'none at all'}")
    inputs = _inputs(arrays[f"{prefix}inputs"], f"{prefix}inputs")
    labels = check_labels(arrays[f"{prefix}labels"])
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or inputs.ndim == 0 or len(inputs) != len(labels) or len(labels) == 0:
        raise InputError(
            f"'{prefix}inputs' has shape {tuple(inputs.shape)} and '{prefix}labels' {tuple(labels.shape)}; "
            "they must be (N, ...) and (N,), with N at least 1"
        )
    return inputs, labels


def _inputs(array: np.ndarray, name: str) -> Tensor:
    """uint8 as it is, other integers as int64, floats as finite float32."""
    if array.dtype.kind not in "buif":
        raise InputError(f"'{name}' has dtype {array.dtype}; inputs are floats or integers")
    if array.dtype == np.uint8:
        return torch.from_numpy(array)
    if array.dtype.kind in "ui":
        return torch.from_numpy(array.astype(np.int64))
    with np.errstate(over="ignore"):
        inputs = torch.from_numpy(array.astype(np.float32))
    bad = ~inputs.isfinite()
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise InputError(f"sample {first[0]} of '{name}' holds {inputs[tuple(first)].item()}; inputs must be finite")
    return inputs


def _class_names(arrays: Arrays, labels: Tensor) -> tuple[str, ...]:
    if "class_names" not in arrays:
        return numbered(labels, remedy="256 class names")
    return as_names(arrays["class_names"])


def _normalize(
    inputs: Tensor, mean: float | Sequence[float], std: float | Sequence[float], divide_by: float | None
) -> Normalize | None:
    """The transform of floats and uint8; None for tokens."""
    if inputs.dtype == torch.int64:
        return None
    scale = (255.0 if inputs.dtype == torch.uint8 else 1.0) if divide_by is None else float(divide_by)
    return normalize_of(mean, std, channels=inputs.shape[1] if inputs.ndim > 1 else 1, divide_by=scale)
