"""Tensors that lie beside the shards of a record, once for all of it, under a sealed list of their checksum."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.runs import files, integrity


def write_beside(folder: Path, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write ``NAME.safetensors`` and ``NAME.json``, which lists it, unless the same is there.

    Raises:
        InputError: something else is there, or the files cannot be written.
    """
    there = read_beside(folder, name)
    if there is not None:
        same = there[0].keys() == tensors.keys() and all(_equal(there[0][key], each) for key, each in tensors.items())
        if not same or there[1] != files.finite(metadata):
            raise InputError(
                f"'{folder / name}.safetensors' is of another recording; give another folder", argument="folder"
            )
        return
    path = folder / f"{name}.safetensors"
    files.make_folder(folder)
    with files.atomic_path(path) as temporary:
        files.save_tensors(temporary, tensors, metadata)
    listed = {"sha256": files.digest(path), "size": path.stat().st_size}
    integrity.write_sealed(folder / f"{name}.json", {"files": {path.name: listed}})


def read_beside(folder: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What `write_beside` has written: the tensors and the metadata; None where there is nothing.

    Raises:
        InputError: it is missing or damaged.
    """
    listing, path = folder / f"{name}.json", folder / f"{name}.safetensors"
    if not listing.is_file():
        return None
    listed = integrity.read_sealed(listing).get("files", {}).get(path.name, {})
    problem = integrity.difference(path, listed)
    if problem:
        raise InputError(f"{problem}; copy the record anew, or record again into another folder")
    return files.load_tensors(path)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other.detach().cpu())
