"""What a recorded teacher is worth, from the numbers beside its outputs alone, whatever the form of the record."""

import math

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.records.reader import Record
from preceptor.records.targets import Scalars


def scores(
    record: Record, *, temperature: float = 1.0, view: int = 0, ids: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Scores of a teacher at a temperature, one value per sample, as those of `preceptor.assess`, within rounding.

    With log p of the label y and U_g = sum_c p_c^g on a grid of g = 1 / T: NLL is log U_g - g log p_y, and the Brier
    score 1 - 2 p_y^g / U_g + U_2g / U_g^2.

    Args:
        record: written with labels.
        temperature: 1, or one whose inverse is in the record's grid.
        view: from 0.
        ids: of the samples, int64; all of the view by default.

    Returns:
        ``nll``; ``accuracy``, where a label that ties with the most probable class counts as right; ``brier`` where 2 g
        is in the grid, too; ``entropy`` at T = 1.

    Raises:
        InputError: a temperature that is not in the grid, or samples without labels.
    """
    ids = record.ids_of(view) if ids is None else ids
    known = record.scalars(ids, view)
    if bool((known.labels < 0).any()):
        sample = int(ids[(known.labels < 0).nonzero()[0, 0]])
        raise InputError(f"sample {sample} was recorded without a label; give the ids of samples that have one")
    g = 1 / temperature
    log_total = _log_total(known, g)
    if log_total is None:
        grid = ", ".join(f"{1 / g:.4g}" for g in sorted({1.0, *known.powers}))
        raise InputError(f"temperature is {temperature:g}; the record has what scores need at {grid}")
    at_label = g * known.label_log_probs.double() - log_total
    found = {
        "nll": -at_label,
        "accuracy": (known.label_log_probs == known.log_max).double(),
    }
    log_square = _log_total(known, 2 * g)
    if log_square is not None:
        found["brier"] = 1 - 2 * at_label.exp() + (log_square - 2 * log_total).exp()
    if math.isclose(g, 1.0):
        found["entropy"] = known.entropy.double()
    return {name: each.numpy() for name, each in found.items()}


def _log_total(known: Scalars, g: float) -> Tensor | None:
    """log U_g, or None where it was not stored."""
    if math.isclose(g, 1.0):
        return torch.zeros(len(known.entropy), dtype=torch.float64)
    place = next((i for i, each in enumerate(known.powers) if math.isclose(each, g)), None)
    return None if place is None else known.log_powers[:, place].double()
