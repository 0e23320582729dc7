"""Who saw which sample: ``splits.json`` of a run folder."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.runs import files
from preceptor.runs.folder import check_member, read_members
from preceptor.runs.integrity import SCHEMA, checked
from preceptor.runs.token_scores import has_token_scores


def write_splits(folder: Path, parts: Mapping[str, Tensor]) -> None:
    """Record which samples each part holds (one list, or one for each seed of a stack).

    Raises:
        InputError: they are recorded already, and are others: the data set has changed.
    """
    path = folder / "splits.json"
    content = {"schema_version": SCHEMA, "parts": {name: index.tolist() for name, index in parts.items()}}
    if not path.exists():
        files.write_json(path, content, indent=None)
    elif files.read_json(path).get("parts") != content["parts"]:
        raise InputError(
            f"'{path}' records another split than the data set gives now; put the data back as they were "
            "when the run began, or give another folder",
            argument="folder",
        )


def read_splits(folder: Path) -> dict[str, Tensor]:
    """The samples of each part of a run's data.

    Raises:
        InputError: the file is missing or damaged.
    """
    content = files.read_json(checked(folder, "splits.json"))
    if not isinstance(content.get("parts"), dict):
        raise InputError(f"'{folder / 'splits.json'}' lacks 'parts'; it is damaged or was not written by Preceptor")
    return {name: torch.tensor(index, dtype=torch.int64) for name, index in content["parts"].items()}


def parts_of(folder: Path, member: int | None = None) -> dict[str, Tensor]:
    """The samples of each part of the data of one model, int64 (n,); `member` picks one of a stack.

    Raises:
        InputError: as `read_splits`; a stack without `member`, or `member` without a stack or outside it.
    """
    parts, members = read_splits(folder), read_members(folder)
    check_member(len(members) or None, member, f"the run '{folder}'")
    if member is None:
        return parts
    seeds = [other["seed"] for other in members]
    distinct = list(dict.fromkeys(seeds))
    # Students of one seed share their samples: one row stands for all of them.
    shared = len(next(iter(parts.values()))) == len(distinct)
    row = distinct.index(seeds[member]) if shared else member
    return {name: rows[row] for name, rows in parts.items()}


def heldout_labels(folder: Path, member: int | None = None) -> tuple[Tensor, Tensor]:
    """The held-out samples of one model and the labels that the run recorded for them, both int64 (n,).

    Raises:
        InputError: as `parts_of` and `read_predictions`.
    """
    index = parts_of(folder, member)["heldout"]
    labels = read_predictions(folder, "heldout/labels")["heldout/labels"]
    return index, labels if member is None else labels[member]


def read_predictions(folder: Path, *names: str) -> dict[str, Tensor]:
    """What a run's models said to the held-out and test samples, and their labels, by name (``heldout/last``).

    Raises:
        InputError: the file is missing or damaged, or lacks one of `names`.
    """
    path = checked(folder, "predictions.safetensors")
    if not path.is_file() and has_token_scores(folder):
        raise InputError(
            f"the run '{folder}' is of tokens, of which scores are stored and no predictions; assess it by its scores, "
            f"preceptor assess {folder}"
        )
    if not path.is_file():
        raise InputError(f"the run '{folder}' lacks {path.name}; copy the run folder whole")
    stored, _ = files.load_tensors(path)
    for name in names:
        if name not in stored:
            raise InputError(f"'{path}' lacks '{name}'; it is damaged or was not written by Preceptor")
    return stored
