"""A teacher at the temperature that suits some samples best, in few passes over a large output."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from preceptor.assess.sampling import Answers
from preceptor.assess.search import best_log_temperature

__all__ = ["Recalibrated", "at_best"]

# Of an output of more numbers than _LARGE, the search sees _FEW; all decide about the last step, by how the score
# changes over _STEP in log T.
_LARGE, _FEW, _STEP = 2**23, 2**21, 0.05
_BLOCK = 2**18


class Recalibrated(NamedTuple):
    """Per sample (N,) the Brier score at the best temperature, and the worst and best that a label could give."""

    brier: np.ndarray
    worst: np.ndarray
    best: np.ndarray


def at_best(log_probs: np.ndarray, answers: Answers) -> Recalibrated:
    """A teacher (N, C) at the temperature with the lowest Brier score on these very samples.

    For a large output the temperature is found on some of the samples, and moved to the lowest point of the parabola
    through the scores of all at three temperatures. The minimum is flat: a search that sees all samples in each step
    ends no nearer to it.
    """
    return _scores(log_probs, answers, math.exp(_log_temperature(log_probs, answers)))


def _log_temperature(log_probs: np.ndarray, answers: Answers) -> float:
    if log_probs.size <= _LARGE:
        return best_log_temperature(torch.from_numpy(log_probs), answers)
    few = np.linspace(0, len(log_probs) - 1, max(1, _FEW // log_probs.shape[1])).astype(int)
    found = best_log_temperature(torch.from_numpy(log_probs[few]).double(), answers[few])
    low, middle, high = (
        answers.mean(_scores(log_probs, answers, math.exp(found + step)).brier) for step in (-_STEP, 0.0, _STEP)
    )
    curvature = low - 2 * middle + high
    if curvature <= 0:
        return found
    return found + float(np.clip(_STEP * (low - high) / (2 * curvature), -2 * _STEP, 2 * _STEP))


def _scores(log_probs: np.ndarray, answers: Answers, temperature: float) -> Recalibrated:
    blocks = zip(*_block_scores(log_probs, answers, temperature), strict=True)
    return Recalibrated(*(np.concatenate(block).astype(np.float64) for block in blocks))


def _block_scores(log_probs: np.ndarray, answers: Answers, temperature: float) -> Iterator[tuple[np.ndarray, ...]]:
    step = max(1, _BLOCK // log_probs.shape[1])
    for start in range(0, len(log_probs), step):
        rows = slice(start, start + step)
        softened = torch.from_numpy(log_probs[rows]) / temperature
        probs = torch.softmax(softened, -1).numpy()
        sharpness = np.einsum("nc,nc->n", probs, probs)
        yield (
            sharpness - 2 * answers[rows].at(probs) + 1,
            sharpness - 2 * probs.min(-1) + 1,
            sharpness - 2 * probs.max(-1) + 1,
        )
