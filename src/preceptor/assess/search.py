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
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor

from preceptor.assess.checks import repeated_rows
from preceptor.assess.evidence import Evidence
from preceptor.assess.families import FAMILIES, Family
from preceptor.assess.forecasts import Array, Forecast, forecast
from preceptor.assess.intervals import Estimate, check_level, lower_bound
from preceptor.assess.optimum import LossLike, Student, as_it_is, student_of_transformed, with_options
from preceptor.assess.sampling import Answers
from preceptor.assess.scores import sharpness
from preceptor.errors import InputError, did_you_mean
from preceptor.outputs import transformed
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
        notes: what a reader should know before believing it.
    """

    family: str
    transform: Transform
    gain: Estimate
    notes: tuple[str, ...] = ()

    @property
    def worthwhile(self) -> bool:
        """Whether the lower bound of the gain is above 0; otherwise the teacher is better left as it is."""
        return self.gain.low > 0


def search_transform(
    logits: Array | Forecast,
    labels: Array | None,
    family: str,
    *,
    loss: LossLike | None = None,
    temperature: float | None = None,
    counts: Array | None = None,
    truth: Array | None = None,
    groups: Array | None = None,
    weights: Array | None = None,
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
        labels: class indices `(N,)`; None where counts or the truth are given, which say more and are taken first.
        family: one of `FAMILIES`.
        loss: what the student will minimise, as in `optimum`; PTLoss's coefficients are what a proxy is, and not given.
            By default one that shows the teacher at the temperature, as TTM does.
        temperature: of the loss; 1 by default.
        counts: how many human raters chose each class, `(N, C)`.
        truth: the true label distribution, `(N, C)`, where it is known; instead of counts.
        groups: what names the group of each sample, `(N,)`, where some belong together (documents, patients, copies):
            no part of the cross-fitting has a share of another's group, and the bound counts groups.
        weights: how much each sample stands for, `(N,)`, where they were chosen or drawn from elsewhere.
        folds: of the cross-fitting.
        level: of the one-sided bound of the gain.
        seed: of the folds.

    Raises:
        InputError: no such family, fewer samples or groups than folds, a temperature or level that cannot be, or
            anything that `forecast` or `Evidence.of` refuses.

    >>> sure = np.array([[6.0, 0.0]] * 400)  # claims 0.998 and is right in 3 of 4
    >>> found = search_transform(sure, [0, 0, 0, 1] * 100, "temperature")
    >>> found.worthwhile, round(found.transform.temperature, 2)
    (True, 5.46)
    """
    student = _student(loss, temperature)
    base, evidence = _standing(*_checked(logits, labels, counts=counts, truth=truth, groups=groups, weights=weights))
    check_level(level)
    answers, parts = evidence.answers, evidence.sampling.folds(len(base), folds, seed)
    before, after = (forecasts_over_folds([base] * folds, parts, answers, each, student) for each in (None, family))
    gain = gain_over_folds(before, after, parts, evidence, level)
    notes = *evidence.notes_on_answers, *repeated_rows([base.numpy()], evidence)
    return Search(family, fitted(base, answers, family, student), gain, notes)


def crossfitted(
    logits: Array | Forecast,
    labels: Array | None,
    family: str,
    *,
    loss: LossLike | None = None,
    temperature: float | None = None,
    counts: Array | None = None,
    truth: Array | None = None,
    groups: Array | None = None,
    weights: Array | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Float64[np.ndarray, "N C"]:
    """The teacher under the best transform of a family, each sample under one that was fitted without its label.

    What to score a fitted transform by, or to compare it with other teachers: on the labels that it was fitted to, a
    transform of many parameters looks better than it is.

    Args:
        logits: the teacher's logits or log-probabilities on held-out samples, `(N, C)`.
        labels: class indices `(N,)`; None where counts or the truth are given.
        family, loss, temperature, counts, truth, groups, weights, folds, seed: as for `search_transform`, whose gain is
            that of these outputs.

    Returns:
        Log-probabilities `(N, C)` in float64, before the student's loss softens them.

    Raises:
        InputError: as `search_transform`.

    >>> sure = np.array([[6.0, 0.0]] * 400)
    >>> np.exp(crossfitted(sure, [0, 0, 0, 1] * 100, "temperature")).mean(0).round(2).tolist()
    [0.75, 0.25]
    """
    student = _student(loss, temperature)
    everyone, known = _checked(logits, labels, counts=counts, truth=truth, groups=groups, weights=weights)
    base, evidence = _standing(everyone, known)
    parts = evidence.sampling.folds(len(base), folds, seed)
    standing = torch.empty_like(base)
    for part, teacher, parameters in _fits([base] * folds, parts, evidence.answers, _family(family), student):
        standing[part] = _family(family).apply(teacher[part], torch.as_tensor(parameters))
    if known.standing is None:
        return standing.numpy()
    # What weighs nothing is in no fit, so that the one to all others has not seen its label.
    result = transformed(everyone, fitted(base, evidence.answers, family, student))
    result[torch.from_numpy(known.standing)] = standing
    return result.numpy()


def fitted(base: Tensor, answers: Answers, family: str, student: Student) -> Transform:
    """The transform of a family with the lowest Brier score of what the loss makes of a teacher (N, C)."""
    found = _family(family)
    with _one_thread_each():
        parameters = _Problem.of(base, answers, student).minimise(found)
    return found.transform(_rounded(parameters), base.shape[-1])


def forecasts_over_folds(
    bases: Sequence[Tensor], parts: Sequence[np.ndarray], answers: Answers, family: str | None, student: Student
) -> list[Forecast]:
    """What the loss makes of each part's teacher: as it is, or under a transform fitted to it on the other parts.

    Args:
        bases: for each of the parts that are scored, a teacher (N, C) made without its labels.
        student: what the loss makes of a teacher.
    """
    if family is None:
        rows = zip(bases, parts, strict=True)
        return [_Problem.of(base[part], answers[part], student).forecast(None) for base, part in rows]
    return [
        _Problem.of(base[part], answers[part], student).forecast(_family(family), parameters)
        for part, base, parameters in _fits(bases, parts, answers, _family(family), student)
    ]


def gain_over_folds(
    before: Sequence[Forecast], after: Sequence[Forecast], parts: Sequence[np.ndarray], evidence: Evidence, level: float
) -> Estimate:
    """By how much the Brier score falls, with its one-sided lower bound; one forecast for each of the parts."""
    answers = evidence.answers
    gain, worst = np.empty(len(answers)), []
    for part, old, new in zip(parts, before, after, strict=True):
        gain[part] = answers[part].brier(old.probs) - answers[part].brier(new.probs)
        worst.append(worst_gain(old, new))
    return lower_bound(evidence.sampling.units(gain[None])[0], min(worst), level)


def _student(loss: LossLike | None, temperature: float | None) -> Student:
    if loss is None:
        loss, temperature = "ttm", 1.0 if temperature is None else temperature
    return student_of_transformed(with_options(loss, searched=True, temperature=temperature))


def _checked(logits: Array | Forecast, labels: Array | None, **known: Any) -> tuple[Tensor, Evidence]:
    """One teacher's log-probabilities (N, C), and what is known of its samples."""
    log_probs = forecast(logits).log_probs
    if log_probs.ndim != 2:
        raise InputError(f"the logits have shape {log_probs.shape}; search one teacher at a time, (samples, classes)")
    return torch.tensor(log_probs), Evidence.of_samples(log_probs.shape, labels, **known)


def _standing(base: Tensor, evidence: Evidence) -> tuple[Tensor, Evidence]:
    """Both without the samples of weight 0."""
    stands = evidence.standing
    return (base, evidence) if stands is None else (base[torch.from_numpy(stands)], evidence.only(stands))


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise InputError(f"there is no family of transforms called {name!r}; {did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def _fits(
    bases: Sequence[Tensor], parts: Sequence[np.ndarray], answers: Answers, family: Family, student: Student
) -> Iterator[tuple[np.ndarray, Tensor, np.ndarray]]:
    """Each part, its teacher, and the parameters fitted to that teacher on the other parts."""

    def fit(part: np.ndarray, teacher: Tensor) -> np.ndarray:
        rest = np.setdiff1d(np.arange(len(answers)), part)
        return _Problem.of(teacher[rest], answers[rest], student).minimise(family)

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
    base, evidence = _checked(logits, labels)
    return at_best_temperature(base, evidence.answers)


def at_best_temperature(log_probs: Tensor, answers: Answers) -> Forecast:
    """A teacher (N, C) at the temperature with the lowest Brier score on these samples."""
    found = torch.tensor([best_log_temperature(log_probs, answers)], dtype=log_probs.dtype)
    return _Problem.of(log_probs, answers, as_it_is).forecast(FAMILIES["temperature"], found)


def best_log_temperature(log_probs: Tensor, answers: Answers) -> float:
    """The logarithm of this temperature."""
    return float(_Problem.of(log_probs, answers, as_it_is).minimise(FAMILIES["temperature"])[0])


def worst_gain(before: Forecast, after: Forecast) -> float:
    """The least by which any sample's Brier score could fall from one forecast to the other, whatever its label."""
    fixed = sharpness(before) - sharpness(after)
    return float((fixed - 2 * (before.probs - after.probs).max(-1)).min())


@dataclass(frozen=True, eq=False)
class _Problem:
    """Held-out log-probabilities, labels (n,) or distributions (n, C), and the Brier score of a transform of them."""

    log_probs: Tensor
    target: Tensor
    weights: Tensor | None
    student: Student

    @classmethod
    def of(cls, log_probs: Tensor, answers: Answers, student: Student) -> "_Problem":
        weights = None if answers.weights is None else torch.tensor(answers.weights)
        return cls(log_probs, torch.tensor(answers.target), weights, student)

    def forecast(self, family: Family | None, parameters: Any = None) -> Forecast:
        """What the loss makes of the teacher, or of a transform of it."""
        with torch.no_grad():
            return forecast(self._optimum(family, torch.as_tensor(parameters) if family else None))

    def brier(self, family: Family, parameters: Tensor) -> Tensor:
        """The mean Brier score, differentiable in the parameters."""
        probs = self._optimum(family, parameters).exp()
        if self.target.ndim == 2:
            at_answer = torch.linalg.vecdot(probs, self.target)
        else:
            at_answer = probs.gather(-1, self.target[:, None]).squeeze(-1)
        scores = torch.linalg.vecdot(probs, probs) - 2 * at_answer + 1
        return scores.mean() if self.weights is None else (self.weights @ scores) / self.weights.sum()

    def _part(self, rows: np.ndarray) -> "_Problem":
        return replace(
            self,
            log_probs=self.log_probs[rows],
            target=self.target[rows],
            weights=None if self.weights is None else self.weights[rows],
        )

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
        samples = len(self.log_probs)
        few = np.linspace(0, samples - 1, min(samples, _FEW)).astype(int)
        for rows in (few, np.arange(samples)):
            part = self._part(rows)
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
