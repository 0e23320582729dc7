"""What a run of token data keeps of its models' answers: not V numbers a token, but a handful.

``scores.safetensors`` stands where other runs have ``predictions.safetensors``. Of each part (``heldout``, ``test``) it
holds the labels that count, row after row of the tokens, and for each set of weights (``last``, ``best``, ``average``)
their scores, one value a label.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor.assess.token_scores import OF_LABELS, OF_MODEL, TokenScores
from preceptor.errors import InputError, did_you_mean
from preceptor.runs import files
from preceptor.runs.integrity import SCHEMA, checked

__all__ = ["NAME", "TokenScores", "has_token_scores", "read_token_scores", "write_token_scores"]

NAME = "scores.safetensors"
"""Of the file in the run folder."""


def has_token_scores(folder: Path) -> bool:
    """Whether a folder is that of a run of token data, which has scores in place of predictions."""
    return (folder / NAME).is_file()


def write_token_scores(folder: Path, parts: Mapping[str, Mapping[str, TokenScores]]) -> None:
    """Write the scores of a run, whole or not at all.

    Args:
        folder: of the run.
        parts: of each part, ``heldout`` or ``test``, the scores of each set of weights, such as ``last``. Within a part
            they are of the same labels, and all have the same temperatures.

    Raises:
        InputError: scores of unlike length, of no label, or of other labels or temperatures than the first; or the file
            cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    every = {f"{part}/{kind}": each for part, kinds in parts.items() for kind, each in kinds.items()}
    if not every:
        raise InputError("there are no scores to write; give those of one part and one set of weights at least")
    temperatures = next(iter(every.values())).temperatures
    for name, scores in every.items():
        scores.check(f"the scores of '{name}'")
        if scores.temperatures != temperatures:
            raise InputError(f"the scores of '{name}' are at other temperatures than the first; score all at the same")
        part = name.partition("/")[0]
        for field in OF_LABELS:
            found = getattr(scores, field).to("cpu", torch.int32)
            if not torch.equal(tensors.setdefault(f"{part}/{field}", found), found):
                raise InputError(f"the {field} of '{name}' are not those of the other weights; score all on the same")
        for field in OF_MODEL:
            tensors[f"{name}/{field}"] = getattr(scores, field).to("cpu", torch.float32)
    with files.atomic_path(folder / NAME) as temporary:
        files.save_tensors(temporary, tensors, {"schema_version": SCHEMA, "temperatures": list(temperatures)})


def read_token_scores(folder: Path, part: str = "heldout", kind: str = "last") -> TokenScores:
    """The scores of one set of a run's weights on one part of its data.

    Args:
        folder: of a run of token data.
        part: ``heldout`` or ``test``.
        kind: ``last``, ``best`` or ``average``.

    Raises:
        InputError: the run has no scores, or none of this part or kind, or the file is damaged.
    """
    path = checked(folder, NAME)
    if not path.is_file():
        raise InputError(f"the run '{folder}' has no {NAME}, as only runs of token data have one; give one of those")
    stored, metadata = files.load_tensors(path)
    parts = {name.split("/")[0] for name in stored}
    if part not in parts:
        raise InputError(f"the run '{folder}' has no scores of its part '{part}'; {did_you_mean(part, parts)}")
    kinds = {name.split("/")[1] for name in stored if name.startswith(f"{part}/") and name.count("/") == 2}
    if kind not in kinds:
        raise InputError(f"the run '{folder}' has no scores of its weights '{kind}'; {did_you_mean(kind, kinds)}")
    temperatures: Any = metadata.get("temperatures")
    wanted = {f: f"{part}/{f}" for f in OF_LABELS} | {f: f"{part}/{kind}/{f}" for f in OF_MODEL}
    lacking = [name for name in wanted.values() if name not in stored]
    if lacking or not isinstance(temperatures, list):
        what = lacking[0] if lacking else "temperatures"
        raise InputError(f"'{path}' lacks '{what}'; it is damaged or was not written by Preceptor")
    tensors = {field: stored[name] for field, name in wanted.items()}
    found = TokenScores(**tensors, temperatures=tuple(map(float, temperatures)))
    found.check(f"the scores in '{path}'")
    return found
