"""What a run of token data keeps of its models' answers: not V numbers a token, but a handful.

``scores.safetensors`` stands where other runs have ``predictions.safetensors``. Of each part (``heldout``, ``test``) it
holds the labels that count, row after row of the tokens, and for each set of weights (``last``, ``best``, ``average``)
their scores, one value a label.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.assess.calibration import sorted_into_bins
from preceptor.errors import InputError, did_you_mean
from preceptor.runs import files
from preceptor.runs.integrity import SCHEMA, checked

__all__ = ["NAME", "TokenScores", "has_token_scores", "read_token_scores", "write_token_scores"]

NAME = "scores.safetensors"
"""Of the file in the run folder."""
_OF_PART = {"documents": torch.int32, "labels": torch.int32, "bytes": torch.int32}
_OF_KIND = dict.fromkeys(("nll", "brier", "entropy", "confidence", "correct", "nll_at"), torch.float32)


@dataclass(frozen=True, eq=False)
class TokenScores:
    """The scores of one model on n labels of tokens; at temperature 1, in nats.

    Attributes:
        documents: of each label, the number of its document, int32 (n,).
        labels: the tokens that came, int32 (n,).
        bytes: how many bytes of text each of them is, int32 (n,).
        nll: minus the log-probability of the label, float32 (n,).
        brier: the Brier score, float32 (n,).
        entropy: of the distribution, float32 (n,).
        confidence: the largest probability, float32 (n,).
        correct: whether the most probable token is the label, 0 or 1, float32 (n,).
        nll_at: the NLL at each of the temperatures, float32 (n, G).
        temperatures: G of them, ascending.
    """

    documents: Tensor
    labels: Tensor
    bytes: Tensor
    nll: Tensor
    brier: Tensor
    entropy: Tensor
    confidence: Tensor
    correct: Tensor
    nll_at: Tensor
    temperatures: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def means(self) -> dict[str, float]:
        """Means over labels: ``accuracy``, ``brier``, ``nll`` (nats), ``bits_per_byte``, ``calibration_error`` (of the
        largest probability, in 15 bins) and ``entropy``.

        Bits per byte are all nats over ln 2 times all bytes; NaN where there are no bytes.
        """
        found = {
            "accuracy": _mean(self.correct),
            "brier": _mean(self.brier),
            "nll": _mean(self.nll),
            "bits_per_byte": math.nan,
            "calibration_error": _calibration_error(self.confidence, self.correct),
            "entropy": _mean(self.entropy),
        }
        total = int(self.bytes.sum(dtype=torch.int64))
        if total:
            found["bits_per_byte"] = found["nll"] * len(self) / (math.log(2) * total)
        return found

    def best_temperature(self) -> float:
        """The temperature of the lowest mean NLL: fitted to these labels, so take those of the held-out part.

        The best on the grid, moved to where the parabola through it and its two neighbours, over log T, is lowest; the
        best itself where it has not got two.
        """
        nll = self.nll_at.double().mean(0).tolist()
        return _lowest(nll, self.temperatures)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())


def _calibration_error(confidence: Tensor, correct: Tensor) -> float:
    bins = sorted_into_bins(confidence.double().cpu().numpy(), correct.double().cpu().numpy(), 15, "mass")
    return float(bins.absolute().values.mean())


def _lowest(nll: list[float], temperatures: tuple[float, ...]) -> float:
    place = min(range(len(nll)), key=lambda i: nll[i])
    if not 0 < place < len(nll) - 1 or not all(map(math.isfinite, nll[place - 1 : place + 2])):
        return temperatures[place]
    x = np.log(temperatures[place - 1 : place + 2])
    square, slope, _ = np.polyfit(x - x[1], nll[place - 1 : place + 2], 2)
    return temperatures[place] * math.exp(-slope / (2 * square)) if square > 0 else temperatures[place]


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
        _check(scores, f"the scores of '{name}'", temperatures)
        part = name.partition("/")[0]
        for field, dtype in _OF_PART.items():
            found = getattr(scores, field).to("cpu", dtype)
            if not torch.equal(tensors.setdefault(f"{part}/{field}", found), found):
                raise InputError(f"the {field} of '{name}' are not those of the other weights; score all on the same")
        for field, dtype in _OF_KIND.items():
            tensors[f"{name}/{field}"] = getattr(scores, field).to("cpu", dtype)
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
    wanted = {f: f"{part}/{f}" for f in _OF_PART} | {f: f"{part}/{kind}/{f}" for f in _OF_KIND}
    lacking = [name for name in wanted.values() if name not in stored]
    if lacking or not isinstance(temperatures, list):
        what = lacking[0] if lacking else "temperatures"
        raise InputError(f"'{path}' lacks '{what}'; it is damaged or was not written by Preceptor")
    found = TokenScores(**{f: stored[name] for f, name in wanted.items()}, temperatures=tuple(temperatures))
    _check(found, f"'{path}'", found.temperatures)
    return found


def _check(scores: TokenScores, what: str, temperatures: tuple[float, ...]) -> None:
    """Refuse scores of unlike shapes, of nothing, or at other temperatures than these."""
    if not len(scores):
        raise InputError(f"{what} are of no label; hold out documents of two tokens or more")
    if scores.temperatures != temperatures:
        raise InputError(f"{what} are at other temperatures than those before; score all at the same")
    grid = list(scores.temperatures)
    if not grid or grid[0] <= 0 or grid != sorted(set(grid)):
        raise InputError(f"{what} are at the temperatures {grid}; give some above 0, ascending")
    for field in (*_OF_PART, *_OF_KIND):
        shape = tuple(getattr(scores, field).shape)
        wanted = (len(scores), len(grid)) if field == "nll_at" else (len(scores),)
        if shape != wanted:
            raise InputError(f"the {field} in {what} have shape {shape}; give {wanted}, a row for each label")
