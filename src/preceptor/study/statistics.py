"""What the statistics of all studies share: reading a result, ranks and their correlation, the bootstrap over seeds.

Every list of a result holds one value a seed, in the order of ``seeds``; a value that is not finite is null there and
NaN here, and makes NaN whatever rests on it: no seed is dropped in silence.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64

from preceptor.assess.intervals import Estimate
from preceptor.errors import InputError

__all__ = [
    "centred_ranks",
    "check_format",
    "check_lengths",
    "differs",
    "percentile",
    "row_correlations",
    "seed_weights",
    "value_at",
    "values_at",
]


def differs(estimate: Estimate | None) -> bool:
    """Whether 0 lies outside the interval; an interval that is not there rules out nothing."""
    return estimate is not None and estimate.excludes_zero


def check_format(result: Mapping[str, Any], schema: int, keys: Iterable[str]) -> None:
    """Refuse the result of any study that is of a newer format than `schema`, or lacks one of `keys`."""
    version = value_at(result, "schema_version")
    if not isinstance(version, int):
        raise InputError(f"the study's schema_version is {version!r}; it is damaged or was not written by Preceptor")
    if version > schema:
        raise InputError(f"the study has format {version}, newer than this Preceptor's {schema}; upgrade Preceptor")
    for key in keys:
        value_at(result, key)


def check_lengths(value: Any, where: str, num_seeds: int) -> None:
    """Every list holds one value a seed, but for the bins of a reliability diagram."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "reliability":
                check_lengths(inner, f"{where}.{key}", num_seeds)
    elif isinstance(value, list) and len(value) != num_seeds:
        raise InputError(f"the study's {where} has {len(value)} values for {num_seeds} seeds; run the study again")


def value_at(result: Any, *path: str) -> Any:
    """What a path of keys leads to; a key that is not there is named."""
    for depth, key in enumerate(path):
        if not isinstance(result, Mapping) or key not in result:
            where = ".".join(path[: depth + 1])
            raise InputError(f"the study lacks '{where}'; it is damaged or was not written by Preceptor")
        result = result[key]
    return result


def values_at(result: Mapping[str, Any], *path: str) -> Float64[np.ndarray, "values"]:
    """A list of numbers, null as NaN."""
    found = value_at(result, *path)
    try:
        values = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(())
    if values.ndim != 1:
        raise InputError(f"the study's {'.'.join(path)} is not a list of numbers; run the study again")
    # An infinite score has no interval either.
    return np.where(np.isfinite(values), values, np.nan)


def seed_weights(num_seeds: int, resamples: int, seed: int) -> Float64[np.ndarray, "rows seeds"]:
    """The weight of each seed in a mean: equal in the first row, resampled in the others."""
    equal = np.full(num_seeds, 1 / num_seeds)
    draws = np.random.default_rng(seed).multinomial(num_seeds, equal, size=resamples if num_seeds > 1 else 0)
    return np.vstack([equal, draws / num_seeds])


def centred_ranks(values: Float64[np.ndarray, "rows n"]) -> Float64[np.ndarray, "rows n"]:
    """Ranks within each row less their mean; equal values share the mean of their ranks, as Spearman has it."""
    values = np.round(values, 12)
    return np.sign(values[:, :, None] - values[:, None, :]).sum(-1) / 2


def row_correlations(x: Float64[np.ndarray, "rows n"], y: Float64[np.ndarray, "rows n"]) -> Float64[np.ndarray, "rows"]:
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.divide((x * y).sum(-1), scale, out=np.full(len(x), np.nan), where=scale > 0)


def percentile(values: Float64[np.ndarray, "rows"]) -> Estimate:
    """The first value in the 95 % percentile interval of the others."""
    known = values[1:][np.isfinite(values[1:])]
    if np.isnan(values[0]) or known.size == 0:
        return Estimate(float(values[0]), np.nan, np.nan)
    return Estimate(float(values[0]), *(float(end) for end in np.quantile(known, [0.025, 0.975])))
