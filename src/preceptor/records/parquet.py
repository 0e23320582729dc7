"""A record as a Parquet file, and Parquet files, ours or somebody's, as a record."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from preceptor.data.arrays import Parquet
from preceptor.data.tables import Table, read_table
from preceptor.errors import InputError
from preceptor.records.codes import decode, encode, pack_classes, unpack_classes
from preceptor.records.forms import Dense, Form, Sampled, TopK
from preceptor.records.hidden import Hidden
from preceptor.records.manifest import Identity, Manifest
from preceptor.records.reader import Record
from preceptor.records.tokens import is_of_tokens
from preceptor.records.writer import RecordWriter
from preceptor.runs import files

_KEY = "preceptor.record"
_ROWS = 16_384  # a row group
_SCALARS = ("entropy", "log_max", "label_log_prob")


def to_parquet(record: Record, path: Path | str) -> None:
    """Write a record into one Parquet file: a row for each sample and view, in the order of views and ids.

    Columns: ``id``, ``view``, ``label`` (-1 where unknown), ``entropy``, ``log_max``, ``label_log_prob``; lists
    ``log_powers`` and, of a dense record, ``logits`` (log-probabilities at T = 1), of others ``classes``, ``log_probs``
    and ``log_tails`` or ``tau``; ``features/<module>``, flattened. Numbers of fewer bits are written as float32.
    The manifest is in the file's metadata, so that `from_parquet` gives the same record back.

    Args:
        record: of any form, without held-out samples.
        path: that is not there yet.

    Raises:
        InputError: there is a file, or pyarrow is missing.
    """
    path = Path(path)
    if path.exists():
        raise InputError(f"'{path}' is there; give the name of a new file")
    if isinstance(record.manifest.form, Hidden) or is_of_tokens(record.folder):
        what = "hidden states, whose head" if isinstance(record.manifest.form, Hidden) else "tokens, whose documents"
        raise InputError(f"the record '{record.folder}' is of {what} a table has no room for; copy its folder")
    if not len(record):
        raise InputError(f"the record '{record.folder}' has no samples; record some")
    arrow, parquet = _pyarrow()
    writer: Any = None
    with files.atomic_path(path) as temporary:
        for table in _tables(record, arrow):
            writer = parquet.ParquetWriter(temporary, table.schema) if writer is None else writer
            writer.write_table(table)
        writer.close()


def from_parquet(
    path: Path | str,
    folder: Path | str,
    *,
    form: Form | None = None,
    probabilities: bool = False,
    shard_size: int = _ROWS,
) -> Record:
    """Make a record of a Parquet file.

    Of one that `to_parquet` has written it is the same record. Of somebody else's the column ``logits`` is read: a list
    of C numbers in every row, of fixed size or not, or a tensor of Arrow or Ray; beside it ``id`` or ``ids``, whole
    numbers (positions where there is none), and ``label`` or ``labels``.

    Args:
        path: of the file.
        folder: of the record.
        form: to store somebody's outputs in, by default `Dense`.
        probabilities: these are probabilities.
        shard_size: as of `RecordWriter`.

    Raises:
        InputError: no such file or column, ids that are no whole numbers, or pyarrow is missing.
    """
    path = Path(path)
    _pyarrow()
    told = Parquet(path).metadata.get(_KEY) if path.is_file() else None
    if told is None:
        _from_table(path, Path(folder), form or Dense(), probabilities, shard_size)
    elif form is not None or probabilities:
        raise InputError(f"'{path}' is a record already, which keeps its form; leave form and probabilities out")
    else:
        _from_ours(path, Path(folder), told, shard_size)
    return Record(folder)


def _pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InputError("Parquet files need pyarrow; run pip install 'preceptor[parquet]'") from None


# -- ours --------------------------------------------------------------------------------------------------------------


def _tables(record: Record, arrow: Any) -> Iterator[Any]:
    for view in range(record.views):
        for ids in record.ids_of(view).split(_ROWS):
            columns = dict(_columns(_spelt_out(record.rows(ids, view), record.manifest), view))
            table = arrow.table({name: _arrow_array(each, arrow) for name, each in columns.items()})
            yield table.replace_schema_metadata({_KEY: record.manifest.model_dump_json()})


def _spelt_out(rows: dict[str, Tensor], manifest: Manifest) -> dict[str, Tensor]:
    """Rows as they are stored with classes as numbers, and log-probabilities as floats."""
    found = dict(rows)
    if isinstance(manifest.form, TopK | Sampled):
        found["classes"] = unpack_classes(rows["classes"], manifest.form.k, manifest.num_classes)
    if "low" in rows:
        found["log_probs"] = decode(rows["log_probs"], rows["low"], rows["scalars"][:, 1])
    return found


def _columns(rows: dict[str, Tensor], view: int) -> Iterator[tuple[str, Tensor]]:
    yield "id", rows["ids"]
    yield "view", torch.full_like(rows["ids"], view, dtype=torch.int32)
    yield "label", rows["labels"]
    for place, name in enumerate(_SCALARS):
        yield name, rows["scalars"][:, place]
    yield "log_powers", rows["scalars"][:, len(_SCALARS) :]
    dense = "classes" not in rows
    for name, each in rows.items():
        if name not in ("ids", "labels", "scalars"):
            yield "logits" if dense and name == "log_probs" else name, each


def _arrow_array(values: Tensor, arrow: Any) -> Any:
    if values.is_floating_point() and values.dtype != torch.float64:
        values = values.float()
    flat = arrow.array(values.contiguous().numpy().reshape(-1))
    return flat if values.ndim == 1 else arrow.FixedSizeListArray.from_arrays(flat, values[0].numel())


def _from_ours(path: Path, folder: Path, told: str, shard_size: int) -> None:
    try:
        manifest = Manifest.model_validate_json(told)
    except ValidationError as error:
        raise InputError(f"'{path}' holds a manifest that cannot be read: {error.errors()[0]['msg']}") from None
    if manifest.features:
        raise InputError(f"'{path}' holds features, whose shapes Parquet has lost; record these anew")
    _, parquet = _pyarrow()
    with RecordWriter(folder, manifest, shard_size=shard_size) as writer:
        for batch in parquet.ParquetFile(path).iter_batches(_ROWS):
            read = {name: _tensor(batch[name]) for name in batch.schema.names}
            for view in read["view"].unique().tolist():
                here = read["view"] == view
                writer.add(view, _rows({name: each[here] for name, each in read.items()}, manifest))


def _tensor(column: Any) -> Tensor:
    values = column.flatten() if hasattr(column, "value_lengths") else column
    return torch.from_numpy(np.array(values.to_numpy(zero_copy_only=False))).reshape(len(column), -1).squeeze(-1)


def _rows(read: dict[str, Tensor], manifest: Manifest) -> dict[str, Tensor]:
    """Columns as a shard's arrays."""
    scalars = [read[name][:, None] for name in _SCALARS]
    rows = {
        "ids": read["id"],
        "labels": read["label"],
        "scalars": torch.cat([*scalars, read["log_powers"].reshape(len(read["id"]), -1)], -1),
    }
    size = len(read["id"])
    for name in manifest.form.arrays:
        found = read["logits" if isinstance(manifest.form, Dense) else name]
        found = found if name in ("tau", "low") else found.reshape(size, -1)  # a list of one is a number to `_tensor`
        if name == "classes":
            found = pack_classes(found, manifest.num_classes)
        elif name == "log_probs" and manifest.form.dtype == "uint8":
            found = encode(found, read["low"], read["log_max"])
        elif name == "log_probs":
            found = found.to(getattr(torch, manifest.form.dtype))
        rows[name] = found
    return rows


# -- somebody's --------------------------------------------------------------------------------------------------------


def _from_table(path: Path, folder: Path, form: Form, probabilities: bool, shard_size: int) -> None:
    table = read_table(path)
    if table.logits is None:
        raise InputError(f"'{path}' has no column 'logits'; rename the one that holds a list of numbers in every row")
    log_probs = _log_probs(torch.from_numpy(np.array(table.logits)), probabilities, path)
    ids = _ids(table, path)
    labels = None if table.labels is None else torch.from_numpy(np.array(table.labels)).long()
    manifest = Manifest(
        form=form,
        num_classes=log_probs.shape[-1],
        class_names=table.class_names or (),
        num_samples=len(ids),
        identity=Identity(
            teacher={path.name: f"sha256:{files.digest(path)}"}, ids="position" if table.ids is None else "given"
        ),
    )
    with RecordWriter(folder, manifest, shard_size=shard_size) as writer:
        for rows in torch.arange(len(ids)).split(_ROWS):
            writer.write(ids[rows], 0, log_probs[rows], None if labels is None else labels[rows])


def _log_probs(outputs: Tensor, probabilities: bool, path: Path) -> Tensor:
    if outputs.ndim != 2 or not outputs.is_floating_point():
        raise InputError(f"the logits of '{path}' are {outputs.dtype} {tuple(outputs.shape)}; give lists of numbers")
    if not probabilities:
        return outputs.double().log_softmax(-1).float()
    total = outputs.double().sum(-1, keepdim=True)
    if bool((outputs < 0).any()) or bool(((total - 1).abs() > 1e-2).any()):
        raise InputError(f"rows of '{path}' do not sum to 1, and are no probabilities; leave probabilities out")
    return (outputs.double() / total).log().float()


def _ids(table: Table, path: Path) -> Tensor:
    assert table.logits is not None
    if table.ids is None:
        return torch.arange(len(table.logits))
    if table.ids.dtype.kind not in "iu":
        raise InputError(
            f"the ids of '{path}' are not whole numbers ({table.ids.dtype}); give the samples' places in their data set"
        )
    return torch.from_numpy(table.ids.astype(np.int64))
