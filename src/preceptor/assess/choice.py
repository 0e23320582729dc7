"""Choice of what a student should learn from: which teachers, in what mixture, under which transform.

`compare` ranks teachers as they are. `choose` goes on: from the best of them to a mixture, and from that to a
transform, each step taken only where its cross-fitted gain is beyond doubt.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64
from scipy.optimize import minimize
from torch import Tensor

from preceptor.assess.checks import permuted_classes, repeated_rows
from preceptor.assess.evidence import Evidence
from preceptor.assess.families import FAMILIES
from preceptor.assess.forecasts import Array, Forecast, check_labels, forecast
from preceptor.assess.intervals import Estimate, check_level
from preceptor.assess.optimum import LossLike, Student, student_of_transformed, with_options
from preceptor.assess.sampling import Answers
from preceptor.assess.search import at_best_temperature, fitted, forecasts_over_folds, gain_over_folds
from preceptor.assess.text import as_text
from preceptor.errors import InputError, did_you_mean
from preceptor.outputs import average_probabilities, transformed
from preceptor.schema import Proxy, Transform

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Choice", "Step", "choose", "mixture_weights"]

SCHEMA_VERSION = 1
# A mixture's smaller parts cost as much to run as its larger ones and hardly change it.
_SMALLEST_WEIGHT = 0.02
_NO_WEIGHT = 1e-6

_Made = list[dict[str, float]]


@dataclass(frozen=True)
class Step:
    """Something that was tried: by how much it lowers the Brier score on samples it was not fitted to."""

    name: str
    gain: Estimate
    taken: bool


@dataclass(frozen=True)
class Choice:
    """What a student should learn from, and why; made by `choose`.

    Attributes:
        loss: the student's loss that this was chosen for.
        temperature: at which that loss shows a teacher to the student; 1 but for those that soften it.
        single: the best single teacher.
        weights: of the teachers in the mixture, by name; they sum to 1.
        transform: of the mixture's output; None leaves it as it is.
        steps: all that was tried.
        brier: mean held-out Brier score of what the loss makes of the single teacher as it is, and of the choice;
            cross-fitted, as the gains are.
        notes: what a reader should know before believing it.
    """

    loss: str
    temperature: float
    single: str
    weights: Mapping[str, float]
    transform: Transform | None
    steps: tuple[Step, ...]
    brier: tuple[float, float]
    notes: tuple[str, ...] = ()

    @property
    def coefficients(self) -> tuple[float, ...] | tuple[tuple[float, ...], ...] | None:
        """PTLoss's coefficients, where a proxy was chosen; (M,) or (C, M)."""
        return self.transform.coefficients if isinstance(self.transform, Proxy) else None

    def log_probs(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The chosen teacher's log-probabilities `(..., C)`, from the outputs of those it is made of."""
        return transformed(_mixed(outputs, self.weights), self.transform)

    def __str__(self) -> str:
        return as_text(self.table(), self.notes)

    def table(self) -> "Table":
        """What was tried and what was taken, as a `rich` table."""
        from rich.table import Table
        from rich.text import Text

        mixture = " + ".join(f"{weight:.2f} {name}" for name, weight in self.weights.items())
        what = "as it is" if self.transform is None else f"under {self.transform.kind}"
        caption = (
            f"Taken: {mixture}, {what}. Brier score of what the loss makes of it: {self.brier[1]:.4f}; of the "
            f"best single teacher as it is, {self.single}: {self.brier[0]:.4f}. All is cross-fitted. Taken is "
            "what is better beyond doubt than what was taken before it, simple things first."
        )
        table = Table(title=f"The teacher for {self.loss}", caption=Text(caption))  # a name may hold brackets
        for header in ("tried", "gain", "at least", "taken"):
            table.add_column(header, justify="left" if header == "tried" else "right")
        for step in self.steps:
            row = step.name, f"{step.gain.value:+.4f}", f"{step.gain.low:+.4f}", "yes" if step.taken else ""
            table.add_row(*row)
        return table

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain data for JSON, with a `schema_version`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "loss": self.loss,
            "temperature": self.temperature,
            "single": self.single,
            "weights": dict(self.weights),
            "transform": None if self.transform is None else self.transform.model_dump(mode="json"),
            "steps": [
                {"name": s.name, "taken": s.taken, "gain": s.gain.value, "lower_bound": s.gain.low} for s in self.steps
            ],
            "brier": {"single": self.brier[0], "chosen": self.brier[1]},
            "notes": list(self.notes),
        }


def choose(
    teachers: Mapping[str, Array | Forecast],
    labels: Array | None = None,
    *,
    counts: Array | None = None,
    truth: Array | None = None,
    groups: Array | None = None,
    weights: Array | None = None,
    loss: LossLike = "kd",
    temperature: float | None = None,
    families: Sequence[str] | None = None,
    mix: bool = True,
    folds: int = 5,
    level: float = 0.95,
    seed: int = 0,
) -> Choice:
    """Choose what a student should learn from, from labels that no teacher was trained on.

    From the teacher with the lowest Brier score as it is, in three steps. First another single teacher: the one with
    the lowest score at its best temperature, as a teacher that is only too sure of itself needs no more than that. Then
    the mixture of all teachers with the lowest score (weights on the simplex, a convex problem: Breiman's stacking,
    1996). Last a transform, searched for under the student's loss: of the families, from few parameters to many, one
    that is better than those before it. Each step is taken only if the one-sided lower bound of its cross-fitted gain
    is above 0: every part of the samples is scored by what was selected, mixed and transformed without its labels.
    Teachers and mixtures are compared at the temperature that suits each best, as the last step may set it; where
    `families` has no `temperature`, as the loss shows them.

    Args:
        teachers: logits or log-probabilities `(N, C)` of each candidate, by name, over the same samples:
            several runs, or the checkpoints of one.
        labels: class indices `(N,)`; None where counts or the truth are given, which say more and are taken first.
        counts: how many human raters chose each class, `(N, C)`.
        truth: the true label distribution, `(N, C)`, where it is known; instead of counts.
        groups, weights: what names the group of each sample `(N,)`, and how much each stands for, as for
            `search_transform`.
        loss: what the student will minimise, as in `optimum`. Under `ptloss` a proxy's coefficients are the loss's own;
            with any other transform, or none, they are to be 0, which makes it plain KL.
        temperature: of the losses that need it, as `ttm` and `wttm`: their students see the teacher softened by it.
        families: of transforms to search (`search_transform`); all of them by default.
        mix: consider mixtures.
        folds: of the cross-fitting.
        level: of the one-sided bounds.
        seed: of the folds.

    Raises:
        InputError: no teacher, teachers of unlike shape, fewer samples than classes, an unknown loss or one without its
            temperature, an unknown family, or anything that `search_transform` refuses.

    >>> rng = np.random.default_rng(0)
    >>> sure = rng.normal(size=(2000, 3)) * 4
    >>> labels = [rng.choice(3, p=p) for p in forecast(sure / 4).probs]
    >>> choice = choose({"sure": sure, "noise": rng.normal(size=(2000, 3)) * 4}, labels)
    >>> choice.single, choice.transform.kind
    ('sure', 'temperature')
    """
    sought = with_options(loss, searched=True, temperature=temperature)
    student = student_of_transformed(sought)
    wanted = _checked_families(families)
    check_level(level)
    evidence = Evidence.of(teachers, labels, counts=counts, truth=truth, groups=groups, weights=weights)
    outputs = {str(k): forecast(logits, what=f"The logits of teacher {str(k)!r}") for k, logits in teachers.items()}
    if (stands := evidence.standing) is not None:
        outputs, evidence = {name: found.only(stands) for name, found in outputs.items()}, evidence.only(stands)
    parts = evidence.sampling.folds(evidence.num_samples, folds, seed)
    trial = _Trial(outputs, evidence, parts, "temperature" if "temperature" in wanted else None, student, level)
    singles = made = trial.singles()
    if trial.free and len(outputs) > 1:
        singles = made = trial.taken("single at its best temperature", singles, trial.singles_at_best_temperature())
    if mix and len(outputs) > 1:
        made = trial.taken("mixture", singles, trial.mixtures())
    family, chosen = trial.family(made, wanted)
    transform = fitted(_mixed(trial.tensors, made[0]), evidence.answers, family, student) if family else None
    [name] = singles[0]
    scores = trial.score(trial.seen(singles)), trial.score(chosen)
    shown_at = float(sought.options.get("temperature", 1.0))
    return Choice(sought.name, shown_at, name, made[0], transform, tuple(trial.steps), scores, trial.notes)


@dataclass(eq=False)
class _Trial:
    """Selections of teachers, as weights by name: one made from all samples, then one for each part without its labels.

    Args:
        free: `temperature` if the transform to come may be one: teachers are then compared at the temperature that
            suits each best, and the loss's own does not decide; else None, and they are as the loss shows them.
        steps: all that was tried, in order.
    """

    outputs: Mapping[str, Forecast]
    evidence: Evidence
    parts: Sequence[np.ndarray]
    free: str | None
    student: Student
    level: float
    steps: list[Step] = field(default_factory=list)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Log-probabilities (N, C) by name."""
        return {name: torch.from_numpy(found.log_probs) for name, found in self.outputs.items()}

    @property
    def answers(self) -> Answers:
        """What is known of the samples."""
        return self.evidence.answers

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know before believing the choice."""
        of_labels = () if self.evidence.drawn else permuted_classes(self.outputs, self.evidence.labels)
        outputs = [found.log_probs for found in self.outputs.values()]
        return *self.evidence.notes_on_answers, *repeated_rows(outputs, self.evidence), *of_labels

    @cached_property
    def selections(self) -> list[np.ndarray]:
        """The samples that each selection is made from."""
        everyone = np.arange(self.evidence.num_samples)
        return [everyone, *(np.setdiff1d(everyone, part) for part in self.parts)]

    def singles(self) -> _Made:
        """The teacher with the lowest Brier score as it is."""
        if self.free:
            return self._lowest(self.outputs)
        return self._lowest({name: forecast(self.student(found)) for name, found in self.tensors.items()})

    def singles_at_best_temperature(self) -> _Made:
        """The teacher with the lowest score at its best temperature: one number, fitted to all samples at once."""
        return self._lowest({name: at_best_temperature(found, self.answers) for name, found in self.tensors.items()})

    def mixtures(self) -> _Made:
        """The mixture with the lowest score: its weights above 0."""
        probs = np.stack([found.probs for found in self.outputs.values()])
        fits = [best_mixture(probs[:, rows], self.answers[rows]) for rows in self.selections]
        # Without the digits that depend on the order of the teachers: the same choice is then the same recipe.
        return [{name: round(float(w), 10) for name, w in zip(self.outputs, fit, strict=True) if w > 0} for fit in fits]

    def taken(self, name: str, before: _Made, after: _Made) -> _Made:
        """The one or the other: `after` if its gain is beyond doubt."""
        gain = self._gain(self.seen(before, self.free), self.seen(after, self.free))
        self.steps.append(Step(name, gain, gain.low > 0))
        return after if gain.low > 0 else before

    def family(self, made: _Made, wanted: Sequence[str]) -> tuple[str | None, list[Forecast]]:
        """The family of transforms for a selection, if any, and what students see then: from few parameters to many,
        each only where it is better beyond doubt than what was the best so far.
        """
        base = _mixed(self.tensors, made[0])
        as_is = best = self.seen(made, None)
        found, gains = None, {}
        for family in sorted(wanted, key=lambda name: len(FAMILIES[name].box(base)[0])):
            seen = self.seen(made, family)
            gains[family] = self._gain(as_is, seen)
            if self._gain(best, seen).low > 0:
                found, best = family, seen
        self.steps += [Step(family, gain, family == found) for family, gain in gains.items()]
        return found, best

    def seen(self, made: _Made, family: str | None = None) -> list[Forecast]:
        """What students see of a selection, for each part: of no sample what its own label helped to choose."""
        bases = [_mixed(self.tensors, weights) for weights in made[1:]]
        return forecasts_over_folds(bases, self.parts, self.answers, family, self.student)

    def score(self, seen: Sequence[Forecast]) -> float:
        """The mean Brier score of one forecast for each part."""
        each = np.empty(self.evidence.num_samples)
        for found, part in zip(seen, self.parts, strict=True):
            each[part] = self.answers[part].brier(found.probs)
        return self.answers.mean(each)

    def _gain(self, before: list[Forecast], after: list[Forecast]) -> Estimate:
        return gain_over_folds(before, after, self.parts, self.evidence, self.level)

    def _lowest(self, seen: Mapping[str, Forecast]) -> _Made:
        scores = {name: self.answers.brier(found.probs) for name, found in seen.items()}
        return [
            {min(scores, key=lambda name: self.answers[rows].mean(scores[name][rows])): 1.0} for rows in self.selections
        ]


def _checked_families(families: object) -> list[str]:
    """The families of transforms to search."""
    if not isinstance(families, Collection | None) or isinstance(families, str | bytes):
        raise InputError(f"families is {families!r}: give a list of them, [{families!r}].", argument="families")
    wanted = list(FAMILIES if families is None else families)
    for family in wanted:
        if not isinstance(family, str) or family not in FAMILIES:
            raise InputError(f"There is no family {family!r} of transforms: {did_you_mean(family, FAMILIES)}")
    return wanted


def _mixed(outputs: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The mixture that the weights, by name, make of the outputs."""
    return average_probabilities([outputs[name] for name in weights], list(weights.values()))


def mixture_weights(probs: Float64[np.ndarray, "teachers N C"], labels: Array) -> Float64[np.ndarray, "teachers"]:
    """The weights, 0 or more and of sum 1, whose mixture has the lowest mean Brier score.

    `mean ||sum_k w_k p_k - e_y||^2` is quadratic and convex in the weights. While a weight is below 0.02, the smallest
    is set to 0 and the rest solved again: one at a time, as many teachers that are alike share what one of them would
    get.

    Args:
        probs: of each teacher, over the same samples.
        labels: class indices `(N,)`.

    Raises:
        InputError: labels that are no class indices of these samples.

    >>> mixture_weights(np.array([[[1.0, 0.0]] * 4, [[0.0, 1.0]] * 4]), [0, 0, 0, 1]).round(3).tolist()
    [0.75, 0.25]
    """
    return best_mixture(probs, Answers(check_labels(labels, probs.shape[1:])))


def best_mixture(probs: np.ndarray, answers: Answers) -> np.ndarray:
    """`mixture_weights` for labels or distributions, and samples that may have weights."""
    weighted = probs if answers.weights is None else probs * np.sqrt(answers.weights / answers.weights.mean())[:, None]
    flat = weighted.reshape(len(probs), -1)
    products = flat @ flat.T / len(answers)
    at_label = np.array([answers.mean(answers.at(each)) for each in probs])
    kept = np.arange(len(probs))
    weights = _on_simplex(products, at_label)
    while weights.min() < _SMALLEST_WEIGHT:
        nothing = weights < _NO_WEIGHT
        left = ~nothing if nothing.any() else np.arange(len(kept)) != weights.argmin()
        kept = kept[left]
        weights = _on_simplex(products[np.ix_(kept, kept)], at_label[kept])
    result = np.zeros(len(probs))
    result[kept] = weights
    return result


def _on_simplex(products: np.ndarray, at_label: np.ndarray) -> np.ndarray:
    """The w >= 0 of sum 1 that minimises w' products w - 2 at_label' w."""
    found = minimize(
        lambda w: float(w @ products @ w - 2 * at_label @ w),
        np.full(len(at_label), 1 / len(at_label)),
        jac=lambda w: 2 * (products @ w - at_label),
        method="SLSQP",
        bounds=[(0.0, 1.0)] * len(at_label),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 500, "ftol": 1e-10},
    )
    weights = found.x.clip(0.0)
    return weights / weights.sum()
