"""The shards of a record: safetensors files, written whole, listed with their checksums, and mapped to be read."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.runs import files, integrity

INDEX: str = integrity.SHARDS
# Of safetensors; what NumPy lacks is read as whole numbers of its size and seen as what it is by torch.
_DTYPES: dict[str, tuple[str, torch.dtype]] = {
    "F64": ("<f8", torch.float64),
    "F32": ("<f4", torch.float32),
    "F16": ("<f2", torch.float16),
    "BF16": ("<i2", torch.bfloat16),
    "I64": ("<i8", torch.int64),
    "I32": ("<i4", torch.int32),
    "U16": ("<u2", torch.uint16),
    "U8": ("|u1", torch.uint8),
}


@dataclass(frozen=True)
class Shard:
    """A file of rows of one view, as its writer's index lists it."""

    path: Path
    view: int
    rows: int
    listed: Mapping[str, Any]


def listed_shards(folder: Path) -> list[Shard]:
    """All shards of a record, by writer and number.

    Raises:
        InputError: an index is damaged.
    """
    return [shard for path in sorted(folder.glob(f"*/{INDEX}")) for shard in read_index(path.parent)]


def read_index(folder: Path) -> list[Shard]:
    """The shards of one writer; none where it has not written any.

    Raises:
        InputError: its index is damaged, or of another record than the manifest in the folder above.
    """
    path = folder / INDEX
    if not path.is_file():
        return []
    integrity.check_shards(path)
    listed = integrity.read_sealed(path).get("files", {})
    return [Shard(folder / name, each["view"], each["rows"], each) for name, each in listed.items()]


def write_shard(folder: Path, view: int, number: int, arrays: Mapping[str, Tensor]) -> Shard:
    """Write a shard: whole or not at all."""
    path = folder / f"view-{view}-{number:05d}.safetensors"
    with files.atomic_path(path) as temporary:
        files.save_tensors(temporary, arrays)
    listed = {
        "view": view,
        "rows": len(arrays["ids"]),
        "sha256": files.digest(path),
        "size": path.stat().st_size,
    }
    return Shard(path, view, listed["rows"], listed)


def write_index(folder: Path, shards: list[Shard]) -> None:
    """List a writer's shards, as those of the record whose manifest is in the folder above."""
    listed = {each.path.name: dict(each.listed) for each in shards}
    of = integrity.read_sealed(folder.parent / integrity.RECORD).get("sha256")
    integrity.write_sealed(folder / INDEX, {"of": of, "files": listed})


class Mapped:
    """A shard that is mapped into memory: rows are read where they are asked for.

    Args:
        shard: as listed.
        check: hold the file to its SHA-256, for which all of it is read once.

    Raises:
        InputError: the file is missing or damaged.
    """

    def __init__(self, shard: Shard, *, check: bool = True) -> None:
        problem = integrity.difference(shard.path, shard.listed) if check else None
        if problem is None and not check and not shard.path.is_file():
            problem = f"'{shard.path}' is missing"
        if problem:
            raise InputError(f"{problem}; copy the record anew, or remove this file's writer's folder and record again")
        self.path: Path = shard.path
        try:
            self.arrays: dict[str, tuple[np.ndarray, torch.dtype]] = dict(_arrays(shard.path))
            whole = all(len(array) == shard.rows for array, _ in self.arrays.values()) and "ids" in self.arrays
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise InputError(f"'{shard.path}' is damaged: it does not hold what is listed of it; copy the record anew")

    def tensor(self, name: str, found: np.ndarray) -> Tensor:
        """Values that were read of an array, as a tensor."""
        return torch.from_numpy(found).view(self.arrays[name][1])

    def ids(self) -> np.ndarray:
        """Of all rows."""
        return np.asarray(self.arrays["ids"][0])


def _arrays(path: Path) -> Iterator[tuple[str, tuple[np.ndarray, torch.dtype]]]:
    """The arrays of a safetensors file, mapped: 8 bytes that say how long the header is, JSON, and the values."""
    mapped = np.memmap(path, np.uint8, "r")
    length = int(mapped[:8].view("<u8")[0])
    header = json.loads(bytes(mapped[8 : 8 + length]))
    for name, each in header.items():
        if name == "__metadata__":
            continue
        numpy_name, dtype = _DTYPES[each["dtype"]]
        start, end = (8 + length + offset for offset in each["data_offsets"])
        if end - start != math.prod(each["shape"]) * np.dtype(numpy_name).itemsize or end > len(mapped):
            raise ValueError("offsets")
        yield name, (mapped[start:end].view(numpy_name).reshape(each["shape"]), dtype)
