"""What a prediction study found: pure functions of ``prediction.json``.

A candidate is one point: its mean over seeds of what was predicted against its mean over seeds of what its students
became. Intervals are 95 % percentile bootstraps over seeds, all candidates resampled together: they speak of these
candidates, not of others. Correlations are Spearman's, signed so that 1 is a perfect prediction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from preceptor.assess.intervals import Estimate, mean_interval
from preceptor.study.statistics import centred_ranks, check_format, percentile, row_correlations, seed_weights

__all__ = ["GUESSES", "LossSummary", "summarize"]

GUESSES = {"accuracy": 1, "nll": -1, "calibration_error": -1}
"""What people usually guess by, and whether more of it is thought to be better."""

SCHEMA = 2  # of prediction.json

_RESAMPLES = 1000
_SPLITS = 200

Seeds = Float64[np.ndarray, "candidates seeds"]


@dataclass(frozen=True)
class LossSummary:
    """One loss of a prediction study.

    Attributes:
        correlation: of the recalibrated held-out Brier score of the loss's optimum with the students' test accuracy.
        halves: the correlation of the accuracy of students of one half of the seeds with that of the other half, a
            mean over random halvings.
        ceiling: what a prediction without error could be expected to reach over all seeds, by Spearman and Brown:
            `sqrt(2 halves / (1 + halves))`. It is above `halves`, as a mean over all seeds is less noisy.
        better_half: the correlation among the better half of the candidates, by what was predicted.
        with_distance: of the Brier score itself with the students' squared distance to the truth.
        distance_halves, distance_ceiling: as `halves` and `ceiling`, of that distance.
        brier: of the Brier score itself with the students' accuracy.
        distance_heldout, distance_transfer: correlation of the teachers' true distance, on held-out samples and on the
            samples that students learn from (NaN where their truth is not known), with the students' accuracy.
        guesses: correlation of each of `GUESSES` with the students' accuracy.
        early_stopped: of the recalibrated score with the accuracy of students stopped at their best held-out epoch.
        early_stopped_gap: accuracy of the student of the truth less that of the labels, both stopped so, in points.
        regret: accuracy of the best candidate's students less that of the candidate that each seed's prediction puts
            first, in points.
        hard, oracle, auto: accuracy of the students of the labels, of the truth, and of ``auto``'s choice. Without a
            student of the truth, the oracles and all that is compared with them is NaN.
        oracle_of_auto: of the student of the truth under the coefficients that ``auto`` set, if it set any (PTLoss).
        closure: (student - hard) / (oracle - hard), of means over seeds, by candidate; NaN unless the 95 % interval of
            the paired difference oracle - hard is above 0.
        auto_closure: the same of ``auto``'s choice, which sees neither the truth nor a test label, and of its oracle.
    """

    correlation: Estimate
    halves: float
    ceiling: float
    better_half: Estimate
    with_distance: Estimate
    distance_halves: float
    distance_ceiling: float
    brier: Estimate
    distance_heldout: Estimate
    distance_transfer: Estimate
    guesses: Mapping[str, Estimate]
    early_stopped: Estimate
    early_stopped_gap: Estimate
    regret: Estimate
    hard: Estimate
    oracle: Estimate
    auto: Estimate
    oracle_of_auto: Estimate
    closure: Mapping[str, Estimate]
    auto_closure: Estimate


def summarize(result: Mapping[str, Any]) -> dict[str, LossSummary]:
    """The summary of each loss, from the content of ``prediction.json``.

    Raises:
        InputError: it is of a newer format, or damaged.
    """
    check_format(result, SCHEMA, ("candidates", "losses", "hard", "seeds"))
    return {name: _summarize(result, name) for name in result["losses"]}


def _summarize(result: Mapping[str, Any], loss: str) -> LossSummary:
    names = list(result["candidates"])
    found = result["losses"][loss]
    keys = ("accuracy", "accuracy_best", "distance")
    accuracy, stopped, away = (_stack(found["students"][name][key] for name in names) for key in keys)
    unknown = dict.fromkeys(keys, [np.nan] * accuracy.shape[1])
    truth = found["oracle"] or unknown
    stopped_gap = np.array(truth["accuracy_best"]) - np.array(result["hard"]["accuracy_best"])
    predicted = {
        key: _stack(result["candidates"][name]["losses"][loss][key] for name in names)
        for key in ("brier", "brier_recalibrated", "distance_heldout", "distance_transfer")
    }
    guesses = {key: _stack(result["candidates"][name][key] for name in names) for key in GUESSES}
    best_guess = predicted["brier_recalibrated"]
    better = np.argsort(best_guess.mean(1))[: len(names) // 2]
    # Format 1 compared `auto` with the oracle of the fixed task, though PTLoss's coefficients are its own.
    truth_of_auto = found.get("oracle_of_auto") or truth
    hard, oracle, auto, oracle_of_auto = (
        np.array(part["accuracy"]) for part in (result["hard"], truth, found["auto"], truth_of_auto)
    )
    halves, distance_halves = _halves(accuracy), _halves(away)
    return LossSummary(
        correlation=_correlation(-best_guess, accuracy),
        halves=halves,
        ceiling=_ceiling(halves),
        better_half=_correlation(-best_guess[better], accuracy[better]),
        with_distance=_correlation(predicted["brier"], away),
        distance_halves=distance_halves,
        distance_ceiling=_ceiling(distance_halves),
        brier=_correlation(-predicted["brier"], accuracy),
        distance_heldout=_correlation(-predicted["distance_heldout"], accuracy),
        distance_transfer=_correlation(-predicted["distance_transfer"], accuracy),
        guesses={key: _correlation(sign * guesses[key], accuracy) for key, sign in GUESSES.items()},
        early_stopped=_correlation(-best_guess, stopped),
        early_stopped_gap=mean_interval(100 * stopped_gap),
        regret=_regret(best_guess, accuracy),
        hard=mean_interval(hard),
        oracle=mean_interval(oracle),
        auto=mean_interval(auto),
        oracle_of_auto=mean_interval(oracle_of_auto),
        closure={name: _closure(row, hard, oracle) for name, row in zip(names, accuracy, strict=True)},
        auto_closure=_closure(auto, hard, oracle_of_auto),
    )


def _stack(rows: Any) -> Seeds:
    return np.array(list(rows), dtype=np.float64)


def _weights(num_seeds: int) -> Float64[np.ndarray, "draws seeds"]:
    return seed_weights(num_seeds, _RESAMPLES, 0)


def _spearman(x: Float64[np.ndarray, "draws n"], y: Float64[np.ndarray, "draws n"]) -> Float64[np.ndarray, "draws"]:
    return row_correlations(centred_ranks(x), centred_ranks(y))


def _correlation(x: Seeds, y: Seeds) -> Estimate:
    weights = _weights(x.shape[1])
    return percentile(_spearman(weights @ x.T, weights @ y.T))


def _ceiling(halves: float) -> float:
    return float(np.sqrt(2 * halves / (1 + halves))) if halves > 0 else 0.0


def _halves(accuracy: Seeds) -> float:
    rng, seeds = np.random.default_rng(0), accuracy.shape[1]
    halves = [np.array_split(rng.permutation(seeds), 2) for _ in range(_SPLITS)]
    one, other = (np.array([accuracy[:, half[i]].mean(1) for half in halves]) for i in (0, 1))
    return float(_spearman(one, other).mean())


def _regret(predicted: Seeds, accuracy: Seeds) -> Estimate:
    chosen = np.take_along_axis(accuracy, predicted.argmin(0)[None], 0)[0]
    return percentile(100 * np.array([(accuracy @ w).max() - chosen @ w for w in _weights(len(chosen))]))


def _closure(student: np.ndarray, hard: np.ndarray, oracle: np.ndarray) -> Estimate:
    """NaN where the seeds leave open whether there is a gap, or where the truth teaches worse than labels."""
    if not mean_interval(oracle - hard).low > 0:
        return Estimate(np.nan, np.nan, np.nan)
    weights = _weights(len(student))
    return percentile((weights @ (student - hard)) / (weights @ (oracle - hard)))
