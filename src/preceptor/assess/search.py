"""Search for the transform of a teacher that brings it nearest to the truth, and whether it is worth having.

Each family of transforms is fitted by minimising the held-out Brier score of what the student's loss makes
of the transformed teacher, by gradient (L-BFGS-B), starting from the transform that changes nothing. The
gain is cross-fitted: every sample is scored under parameters fitted on other samples, so that a family of
many parameters cannot fool itself.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.optimize import minimize
from scipy.special import ndtri
from torch import Tensor

from preceptor.assess.families import FAMILIES, Family
from preceptor.assess.forecasts import Array, Forecast, check_labels, forecast
from preceptor.assess.intervals import Estimate
from preceptor.errors import InputError, did_you_mean
from preceptor.recipe import Transform

__all__ = ["FAMILIES", "Search", "recalibrated", "search_transform"]

_ITERATIONS = 30
# A step that lowers the mean Brier score by less than this is far below its sampling error: stop there.
_PRECISION = 1e-5


@dataclass(frozen=True)
class Search:
    """A family's best transform, and what it is worth; made by `search_transform`.

    Attributes:
        family: which one.
        transform: fitted on all samples.
        gain: how much lower the Brier score is on samples that the fit did not see: the cross-fitted mean, with
            a one-sided lower bound (`high` is infinite).
    """

    family: str
    transform: Transform
    gain: Estimate

    @property
    def worthwhile(self) -> bool:
        """Whether the lower bound of the gain is above 0; otherwise the teacher is better left as it is."""
        return self.gain.low > 0


def search_transform(
    logits: Array | Forecast,
    labels: Array,
    family: str,
    *,
    temperature: float = 1.0,
    folds: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> Search:
    """The transform of one family that minimises the held-out Brier score, and its cross-fitted gain.

    Families: `temperature`; `vector` (a scale and a bias a class); `proxy`, `proxy-classwise`, `proxy-5`,
    `proxy-5-classwise` (the proxy teacher of PTLoss, arXiv 2305.05010, with coefficients of degree M = 1 or
    5, shared by the classes or one row a class). The paper draws coefficients at random and scores them by
    the distance to one-hot labels, which is not proper unless squared; here the squared distance is followed
    down its gradient.

    Args:
        logits: the teacher's logits or log-probabilities on held-out samples, `(N, C)`.
        labels: class indices `(N,)`.
        family: one of `FAMILIES`.
        temperature: at which the student's loss softens what it is given (TTM and WTTM; 1 for KD and PTLoss).
        folds: of the cross-fitting.
        level: of the one-sided bound of the gain.
        seed: of the folds.

    Raises:
        InputError: no such family, fewer samples than folds, or anything `forecast` refuses.

    >>> sure = np.array([[6.0, 0.0]] * 400)  # claims 0.998 and is right in 3 of 4
    >>> found = search_transform(sure, [0, 0, 0, 1] * 100, "temperature")
    >>> found.worthwhile, round(found.transform.temperature, 2)
    (True, 5.46)
    """
    if family not in FAMILIES:
        raise InputError(f"there is no family of transforms called {family!r}; {did_you_mean(family, FAMILIES)}")
    log_probs = forecast(logits).log_probs
    if log_probs.ndim != 2:
        raise InputError(f"the logits have shape {log_probs.shape}; search one teacher at a time, (samples, classes)")
    targets = check_labels(labels, log_probs.shape)
    problem = _Problem(torch.tensor(log_probs), torch.tensor(targets), temperature)
    found = FAMILIES[family]
    gain = np.empty(len(targets))
    for test in folds_of(len(targets), folds, seed):
        train = np.setdiff1d(np.arange(len(targets)), test)
        parameters = problem.part(train).minimise(found)
        part = problem.part(test)
        gain[test] = part.brier(None) - part.brier(found, parameters)
    transform = found.transform(problem.minimise(found), log_probs.shape[-1])
    return Search(family, transform, lower_bound(gain, level))


def recalibrated(logits: Array | Forecast, labels: Array) -> Forecast:
    """The teacher at the temperature with the lowest Brier score on these very samples.

    No temperature moves the most probable class, so what is left of the Brier score is the part that bears on
    accuracy. One parameter fitted to thousands of samples flatters by next to nothing.

    Args:
        logits: `(N, C)`.
        labels: class indices `(N,)`.

    >>> sure = np.array([[6.0, 0.0]] * 400)
    >>> recalibrated(sure, [0, 0, 0, 1] * 100).probs[0].round(2).tolist()
    [0.75, 0.25]
    """
    log_probs = forecast(logits).log_probs
    problem = _Problem(torch.tensor(log_probs), torch.tensor(check_labels(labels, log_probs.shape)), 1.0)
    family = FAMILIES["temperature"]
    return forecast(family.apply(problem.log_probs, torch.tensor(problem.minimise(family))))


def lower_bound(gain: Float64[np.ndarray, "N"], level: float) -> Estimate:
    """The mean of paired per-sample gains with its one-sided lower bound."""
    error = gain.std(ddof=1) / math.sqrt(len(gain))
    return Estimate(float(gain.mean()), float(gain.mean() - ndtri(level) * error), math.inf)


def folds_of(num_samples: int, folds: int, seed: int) -> list[Int64[np.ndarray, "n"]]:
    if not 2 <= folds <= num_samples:
        raise InputError(f"folds is {folds} for {num_samples} samples; use at least 2 and at most one a sample")
    return np.array_split(np.random.default_rng(seed).permutation(num_samples), folds)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Held-out log-probabilities and labels, and the Brier score of a transform of them."""

    log_probs: Tensor
    labels: Tensor
    temperature: float

    def part(self, rows: np.ndarray) -> "_Problem":
        index = torch.as_tensor(rows)
        return _Problem(self.log_probs[index], self.labels[index], self.temperature)

    def brier(self, family: Family | None, parameters: Any = None) -> np.ndarray:
        """Per-sample Brier scores `(N,)`."""
        with torch.no_grad():
            return self._brier(family, torch.as_tensor(parameters) if family else None).numpy()

    def _brier(self, family: Family | None, parameters: Tensor | None) -> Tensor:
        log_probs = self.log_probs if family is None else family.apply(self.log_probs, parameters)  # type: ignore[arg-type]
        if self.temperature != 1.0:
            log_probs = (log_probs / self.temperature).log_softmax(-1)
        probs = log_probs.exp()
        return probs.square().sum(-1) - 2 * probs.gather(-1, self.labels[:, None]).squeeze(-1) + 1

    def minimise(self, family: Family) -> np.ndarray:
        """The parameters with the lowest mean Brier score that L-BFGS-B finds from the start."""
        start, bounds = family.box(self.log_probs.shape[-1])
        # The first step has length 1 over all parameters: in these units it is about 1 in each.
        unit = math.sqrt(len(start))

        def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = torch.tensor(values * unit, requires_grad=True)
            mean = self._brier(family, parameters).mean()
            (gradient,) = torch.autograd.grad(mean, parameters)
            return float(mean.detach()), gradient.numpy() * unit

        found = minimize(
            objective,
            start / unit,
            jac=True,
            method="L-BFGS-B",
            bounds=[(low / unit, high / unit) for low, high in bounds],
            options={"maxiter": _ITERATIONS, "ftol": _PRECISION},
        )
        return np.clip(found.x * unit, *np.array(bounds).T)  # multiplied back, a bound may be missed by its last digit
