"""Search for the transform of a teacher that brings it nearest to the truth, and whether it is worth having.

Each family of transforms is fitted by minimising the held-out Brier score of what the student's loss makes
of the transformed teacher: one parameter by a search of its line, many by gradient (L-BFGS-B) from the transform
that changes nothing. The gain is cross-fitted: every sample is scored under parameters fitted on other samples,
so that a family of many parameters cannot fool itself.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from scipy.optimize import minimize, minimize_scalar
from scipy.special import stdtrit
from torch import Tensor

from preceptor.assess.families import FAMILIES, Family
from preceptor.assess.forecasts import Array, Forecast, check_labels, forecast
from preceptor.assess.intervals import Estimate, check_level
from preceptor.assess.optimum import LossLike, Student, as_it_is, student_of_transformed, with_options
from preceptor.assess.scores import brier, sharpness
from preceptor.errors import InputError, did_you_mean
from preceptor.schema import Transform

__all__ = ["FAMILIES", "Search", "crossfitted", "recalibrated", "search_transform"]

_ITERATIONS = 30
# A step that lowers the mean Brier score by less than this is far below its sampling error: stop there.
_PRECISION = 1e-5
# On a line: points of the grid, samples to try them on, and how exactly the best is wanted (1 % of a temperature, say).
_GRID, _FEW, _XATOL = 13, 1000, 0.01


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
    loss: LossLike | None = None,
    temperature: float | None = None,
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
        loss: what the student will minimise, as in `optimum`; PTLoss's coefficients are what a proxy is, and not given.
            By default one that shows the teacher at the temperature, as TTM does.
        temperature: of the loss; 1 by default.
        folds: of the cross-fitting.
        level: of the one-sided bound of the gain.
        seed: of the folds.

    Raises:
        InputError: no such family, fewer samples than folds, a temperature or level that cannot be, or anything
            `forecast` refuses.

    >>> sure = np.array([[6.0, 0.0]] * 400)  # claims 0.998 and is right in 3 of 4
    >>> found = search_transform(sure, [0, 0, 0, 1] * 100, "temperature")
    >>> found.worthwhile, round(found.transform.temperature, 2)
    (True, 5.46)
    """
    student = _student(loss, temperature)
    base, targets = _checked(logits, labels)
    check_level(level)
    parts = folds_of(len(targets), folds, seed)
    before, after = (forecasts_over_folds([base] * folds, parts, targets, each, student) for each in (None, family))
    gain = gain_over_folds(before, after, parts, targets, level)
    return Search(family, fitted(base, targets, family, student), gain)


def crossfitted(
    logits: Array | Forecast,
    labels: Array,
    family: str,
    *,
    loss: LossLike | None = None,
    temperature: float | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Float64[np.ndarray, "N C"]:
    """The teacher under the best transform of a family, each sample under one that was fitted without its label.

    What to score a fitted transform by, or to compare it with other teachers: on the labels that it was fitted to, a
    transform of many parameters looks better than it is.

    Args:
        logits: the teacher's logits or log-probabilities on held-out samples, `(N, C)`.
        labels: class indices `(N,)`.
        family, loss, temperature, folds, seed: as for `search_transform`, whose gain is that of these outputs.

    Returns:
        Log-probabilities `(N, C)` in float64, before the student's loss softens them.

    Raises:
        InputError: as `search_transform`.

    >>> sure = np.array([[6.0, 0.0]] * 400)
    >>> np.exp(crossfitted(sure, [0, 0, 0, 1] * 100, "temperature")).mean(0).round(2).tolist()
    [0.75, 0.25]
    """
    student = _student(loss, temperature)
    base, targets = _checked(logits, labels)
    parts = folds_of(len(targets), folds, seed)
    result = torch.empty_like(base)
    for part, teacher, parameters in _fits([base] * folds, parts, targets, _family(family), student):
        result[part] = _family(family).apply(teacher[part], torch.as_tensor(parameters))
    return result.numpy()


def fitted(base: Tensor, labels: np.ndarray, family: str, student: Student) -> Transform:
    """The transform of a family with the lowest Brier score of what the loss makes of a teacher (N, C)."""
    found = _family(family)
    with _one_thread_each():
        parameters = _Problem(base, torch.tensor(labels), student).minimise(found)
    return found.transform(_rounded(parameters), base.shape[-1])


def forecasts_over_folds(
    bases: Sequence[Tensor], parts: Sequence[np.ndarray], labels: np.ndarray, family: str | None, student: Student
) -> list[Forecast]:
    """What the loss makes of each part's teacher: as it is, or under a transform fitted to it on the other parts.

    Args:
        bases: for each of the parts that are scored, a teacher (N, C) made without its labels.
        student: what the loss makes of a teacher.
    """
    if family is None:
        rows = zip(bases, parts, strict=True)
        return [_Problem(base[part], torch.tensor(labels[part]), student).forecast(None) for base, part in rows]
    return [
        _Problem(base[part], torch.tensor(labels[part]), student).forecast(_family(family), parameters)
        for part, base, parameters in _fits(bases, parts, labels, _family(family), student)
    ]


def gain_over_folds(
    before: Sequence[Forecast], after: Sequence[Forecast], parts: Sequence[np.ndarray], labels: np.ndarray, level: float
) -> Estimate:
    """By how much the Brier score falls, with its one-sided lower bound; one forecast for each of the parts."""
    gain, worst = np.empty(len(labels)), []
    for part, old, new in zip(parts, before, after, strict=True):
        gain[part] = brier(old, labels[part]) - brier(new, labels[part])
        worst.append(worst_gain(old, new))
    return lower_bound(gain, min(worst), level)


def _student(loss: LossLike | None, temperature: float | None) -> Student:
    if loss is None:
        loss, temperature = "ttm", 1.0 if temperature is None else temperature
    return student_of_transformed(with_options(loss, searched=True, temperature=temperature))


def _checked(logits: Array | Forecast, labels: Array) -> tuple[Tensor, np.ndarray]:
    """One teacher's log-probabilities (N, C) and the labels (N,)."""
    log_probs = forecast(logits).log_probs
    if log_probs.ndim != 2:
        raise InputError(f"the logits have shape {log_probs.shape}; search one teacher at a time, (samples, classes)")
    return torch.tensor(log_probs), check_labels(labels, log_probs.shape)


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise InputError(f"there is no family of transforms called {name!r}; {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def _fits(
    bases: Sequence[Tensor], parts: Sequence[np.ndarray], labels: np.ndarray, family: Family, student: Student
) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Each part, its teacher, and the parameters fitted to that teacher on the other parts."""

    def fit(part: np.ndarray, teacher: Tensor) -> np.ndarray:
        rest = np.setdiff1d(np.arange(len(labels)), part)
        return _Problem(teacher[rest], torch.tensor(labels[rest]), student).minimise(family)

    with _one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(fit, parts, bases))
    yield from zip(parts, bases, found, strict=True)


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Takes torch's own threads, and says how many they were: a fit works in blocks too small for them, so they would
    only get into each other's way; several fits side by side do gain.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _rounded(parameters: np.ndarray) -> np.ndarray:
    """To six digits: more would be noise of the search, and differ from one order of the teachers to another."""
    return np.array([float(f"{value:.6g}") for value in parameters])


def recalibrated(logits: Array | Forecast, labels: Array) -> Forecast:
    """The teacher at the temperature with the lowest Brier score on these very samples.

    No temperature moves the most probable class, so what is left of the Brier score is the part that bears on
    accuracy. One parameter fitted to thousands of samples flatters by next to nothing.

    Args:
        logits: `(N, C)`.
        labels: class indices `(N,)`.

    Raises:
        InputError: a stack of teachers, labels that are no class indices, or anything `forecast` refuses.

    >>> sure = np.array([[6.0, 0.0]] * 400)
    >>> recalibrated(sure, [0, 0, 0, 1] * 100).probs[0].round(2).tolist()
    [0.75, 0.25]
    """
    base, targets = _checked(logits, labels)
    problem = _Problem(base, torch.tensor(targets), as_it_is)
    family = FAMILIES["temperature"]
    return problem.forecast(family, problem.minimise(family))


def lower_bound(gain: Float64[np.ndarray, "N"], worst: float, level: float) -> Estimate:
    """The mean of paired per-sample gains with its one-sided lower bound, Student's t.

    The bound is that of one sample more, of the `worst` gain there could be. Where a teacher is all but certain, hardly
    a sample shows what a rare error costs, and without it a bound would trust what it has not seen.
    """
    bounded = np.append(gain, worst)
    error = bounded.std(ddof=1) / math.sqrt(len(bounded))
    low = bounded.mean() - stdtrit(len(bounded) - 1, level) * error
    return Estimate(float(gain.mean()), float(low), math.inf)


def worst_gain(before: Forecast, after: Forecast) -> float:
    """The least by which any sample's Brier score could fall from one forecast to the other, whatever its label."""
    fixed = sharpness(before) - sharpness(after)
    return float((fixed - 2 * (before.probs - after.probs).max(-1)).min())


def folds_of(num_samples: int, folds: int, seed: int) -> list[Int64[np.ndarray, "n"]]:
    if not 2 <= folds <= num_samples:
        raise InputError(f"folds is {folds} for {num_samples} samples; use at least 2 and at most one a sample")
    return np.array_split(np.random.default_rng(seed).permutation(num_samples), folds)


@dataclass(frozen=True, eq=False)
class _Problem:
    """Held-out log-probabilities and labels, and the Brier score of a transform of them."""

    log_probs: Tensor
    labels: Tensor
    student: Student

    def forecast(self, family: Family | None, parameters: Any = None) -> Forecast:
        """What the loss makes of the teacher, or of a transform of it."""
        with torch.no_grad():
            return forecast(self._optimum(family, torch.as_tensor(parameters) if family else None))

    def brier(self, family: Family, parameters: Tensor) -> Tensor:
        """The mean Brier score, differentiable in the parameters."""
        probs = self._optimum(family, parameters).exp()
        at_label = probs.gather(-1, self.labels[:, None]).squeeze(-1)
        return (torch.linalg.vecdot(probs, probs) - 2 * at_label + 1).mean()

    def _optimum(self, family: Family | None, parameters: Tensor | None) -> Tensor:
        return self.student(self.log_probs if family is None else family.apply(self.log_probs, parameters))  # type: ignore[arg-type]

    def minimise(self, family: Family) -> np.ndarray:
        """The parameters with the lowest mean Brier score that are found: on a line by trying, else by gradient."""
        start, bounds = family.box(self.log_probs)
        return self._on_line(family, *bounds[0]) if len(start) == 1 else self._by_gradient(family, start, bounds)

    def _on_line(self, family: Family, low: float, high: float) -> np.ndarray:
        """One parameter: the best of a grid, then Brent's method between its neighbours.

        A gradient would vanish where a teacher is all but certain. The grid is tried on a few samples first, and on all
        of them only if Brent's method, which sees all, is led to an end of what these few left.
        """
        grid = np.linspace(low, high, _GRID)
        few = np.linspace(0, len(self.labels) - 1, min(len(self.labels), _FEW)).astype(int)
        for rows in (few, np.arange(len(self.labels))):
            part = _Problem(self.log_probs[rows], self.labels[rows], self.student)
            best = int(np.argmin([part._at(family, value) for value in grid]))
            ends = grid[max(best - 1, 0)], grid[min(best + 1, _GRID - 1)]
            solved: Any = minimize_scalar(
                lambda value: self._at(family, value), bounds=ends, method="bounded", options={"xatol": _XATOL}
            )
            found = float(solved.x)
            outer = [end for end in ends if low < end < high]
            if all(abs(found - end) > 2 * _XATOL for end in outer):
                break
        return np.array([found])

    def _at(self, family: Family, value: float) -> float:
        with torch.no_grad():
            return float(self.brier(family, torch.tensor([value], dtype=torch.float64)))

    def _by_gradient(self, family: Family, start: np.ndarray, bounds: list[tuple[float, float]]) -> np.ndarray:
        """Many parameters: L-BFGS-B from the transform that changes nothing."""
        # The first step has length 1 over all parameters: in these units it is about 1 in each.
        unit = math.sqrt(len(start))

        def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
            parameters = torch.tensor(values * unit, requires_grad=True)
            mean = self.brier(family, parameters)
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
