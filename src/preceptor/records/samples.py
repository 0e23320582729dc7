"""Which samples of its data a record was made for, and which its teacher was trained on: ``samples.json``."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.runs import integrity

SAMPLES = "samples.json"


def write_samples(folder: Path, parts: Mapping[str, Tensor], trained_on: Tensor | None) -> None:
    """Write down the parts of the data, by name, and the samples that the teacher was trained on, where that is known.

    Raises:
        InputError: other ones are written down already.
    """
    path = folder / SAMPLES
    content = {
        "files": {},  # none, but it makes sure that what is sealed is held to its seal
        "parts": {name: index.tolist() for name, index in parts.items()},
        "trained_on": None if trained_on is None else trained_on.tolist(),
    }
    if not path.is_file():
        integrity.write_sealed(path, content)
    elif integrity.unsealed(integrity.read_sealed(path)) != integrity.unsealed(content):
        raise InputError(f"'{path}' tells of other samples than are to be recorded; give another folder")


def trained_on(folder: Path) -> Tensor | None:
    """The samples that the teacher of a record of ours was trained on, int64 (n,); None where that was not known.

    Raises:
        InputError: the file that says so is missing or damaged.
    """
    path = folder / SAMPLES
    if not path.is_file():
        raise InputError(f"'{path}' is missing, which says what the record's teacher has seen; copy the record anew")
    found = integrity.read_sealed(path).get("trained_on")
    return None if found is None else torch.tensor(found, dtype=torch.int64)
