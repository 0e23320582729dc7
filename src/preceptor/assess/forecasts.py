"""A teacher's output as scores want it: probabilities and their logarithms, in float64, checked once."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from preceptor.data.labels import refuse_masked
from preceptor.errors import InputError

__all__ = ["Array", "Forecast", "forecast"]

Array = torch.Tensor | ArrayLike
"""What every function here takes: a tensor on any device, a NumPy array, or nested lists."""

# By how much rows of probabilities may miss the sum 1: stored in half precision by up to about 5e-4, in bfloat16 by
# 5e-3. Written down with two decimals they may miss it by a few hundredths, and still are no logits.
_SUM_TOLERANCE, _COARSE_TOLERANCE, _ROUNDED = 1e-3, 1e-2, 5e-2
_SAY_SO = "pass probabilities=True (to `forecast`, and its result to what does not take this)"
_LOGITS_INSTEAD = (
    ", or logits without probabilities=True; where only some teachers hold probabilities, hand in the logarithms of "
    "those (np.log)"
)
# The share of such rows from which on they are no coincidence.
_MOST = 0.5


@dataclass(frozen=True, eq=False)
class Forecast:
    """Class probabilities and their logarithms, both `(..., N, C)` in float64; made by `forecast`."""

    log_probs: Float64[np.ndarray, "*stack N C"]
    probs: Float64[np.ndarray, "*stack N C"]

    @property
    def num_samples(self) -> int:
        """N, the number of samples."""
        return self.probs.shape[-2]

    def only(self, rows: np.ndarray) -> "Forecast":
        """Some of the samples of one of `(N, C)`, bool (N,)."""
        return Forecast(self.log_probs[rows], self.probs[rows])

    def forecast(self, rows: slice = slice(None)) -> "Forecast":
        """Some rows of one of `(N, C)`, as of an `Output`."""
        return Forecast(self.log_probs[rows], self.probs[rows])

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self.probs.shape[-1]


def forecast(logits: Array | Forecast, *, probabilities: bool = False, what: str = "The logits") -> Forecast:
    """Read logits or log-probabilities as a `Forecast`; one that is a forecast already passes through.

    Every score takes logits and calls this first, so a forecast made once serves many scores.

    Args:
        logits: `(..., N, C)`; -inf stands for probability 0.
        probabilities: the array holds probabilities, not logits.
        what: what an error calls the array.

    Returns:
        The forecast, in float64.

    Raises:
        InputError: a row is NaN, infinite, or looks like probabilities where logits are expected.

    >>> forecast([[0.0, 0.0], [0.0, float("-inf")]]).probs.tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """
    return logits if isinstance(logits, Forecast) else read(logits, probabilities=probabilities, what=what).forecast()


@dataclass(frozen=True, eq=False)
class Output:
    """A teacher's output `(..., N, C)` as it was handed in, checked; made by `read`."""

    values: np.ndarray
    probabilities: bool

    def only(self, rows: np.ndarray) -> "Output":
        """Some of the samples, bool (N,)."""
        return Output(self.values[rows], self.probabilities)

    def forecast(self, rows: slice = slice(None)) -> Forecast:
        """Some of its rows, if it is one of `(N, C)`, or all of it, as a forecast."""
        values = self.values[rows].astype(np.float64, copy=False)
        return _from_probabilities(values) if self.probabilities else _from_logits(values)


def read(
    logits: Array, *, probabilities: bool = False, what: str = "The logits", remedy: str = _LOGITS_INSTEAD
) -> Output:
    """Check logits, log-probabilities or probabilities, and leave them as they are: in float64 large ones would fill
    the memory.

    Args:
        logits, probabilities, what: as `forecast`.
        remedy: what an error advises where rows of probabilities are no distribution.
    """
    coarse = isinstance(logits, torch.Tensor) and logits.dtype == torch.bfloat16  # which NumPy does not have
    values = to_numpy(logits)
    if values.ndim < 2 or values.shape[-1] < 2 or values.size == 0:
        raise InputError(f"{what} have shape {values.shape}: hand in (samples, classes) with at least two classes.")
    if values.dtype.kind not in "fiu":
        raise InputError(f"{what} hold {values.dtype} values: hand in real numbers.")
    _refuse_broken_rows(values, what)
    if probabilities:
        _refuse_no_distribution(values, what, _COARSE_TOLERANCE if coarse else _SUM_TOLERANCE, remedy)
    else:
        refuse_probabilities(values, what, remedy=_SAY_SO)
    return Output(values, probabilities)


def to_numpy(values: Array) -> np.ndarray:
    """A NumPy array of whatever was handed in, its floats of at most float64; bfloat16 becomes float32."""
    if isinstance(values, torch.Tensor):
        try:
            tensor = values.detach().cpu()
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        except (TypeError, NotImplementedError, RuntimeError) as error:  # sparse, quantised, nested, without content
            raise InputError(
                f"A tensor of {values.dtype} cannot be read ({str(error).splitlines()[0]}): hand in a dense one of "
                "float32 or integers."
            ) from None
    refuse_masked(values, "array")
    try:
        found = np.asarray(values)
        return found.astype(np.float64) if found.dtype == np.longdouble else found
    except ValueError:  # NumPy's own words are of inhomogeneous shapes
        raise InputError(
            "The rows of a list are of unlike lengths: give one number for each class in every row."
        ) from None


def check_labels(labels: Array | None, shape: tuple[int, ...]) -> Int64[np.ndarray, "*stack N"]:
    """Labels of predictions `(..., N, C)` as int64 `(..., N)`; an `InputError` names the first bad one."""
    *samples, num_classes = shape
    if labels is None:
        raise InputError("The labels are missing: hand in one whole number a sample.")
    values = to_numpy(labels)
    if values.ndim == 0 or values.shape != tuple(samples[-values.ndim :]):
        raise InputError(
            f"The labels have shape {values.shape} but the samples {tuple(samples)}: use one label a sample."
        )
    if values.dtype.kind not in "biuf":
        wrong = np.array([not isinstance(label, int | float) for label in values.ravel().tolist()]).reshape(
            values.shape
        )
        place = first_row(wrong if wrong.any() else ~wrong)
        raise InputError(f"The label at row {place} is {values[place]!r}: use class indices, which are numbers.")
    wrong = ~((values >= 0) & (values < num_classes) & (values == np.floor(values)))
    if wrong.any():
        raise InputError(
            f"The label at row {first_row(wrong)} is {values[wrong][0]}: labels are whole numbers from 0 to "
            f"{num_classes - 1}, as there are {num_classes} classes."
        )
    return np.broadcast_to(values.astype(np.int64), samples)


def check_same_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise an `InputError` unless the two shapes are equal."""
    if found != expected:
        raise InputError(f"{name} have shape {found} where {expected} is expected: use the same samples and classes.")


def first_row(wrong: np.ndarray) -> int | tuple[int, ...]:
    """Where a boolean array is first true: an index, or a tuple of them in a stack."""
    place = tuple(int(i) for i in np.argwhere(wrong)[0])
    return place[0] if len(place) == 1 else place


def missing(values: np.ndarray) -> np.ndarray:
    """Where an array of any type holds NaN, NaT or None."""
    if values.dtype.kind == "O":
        return np.array([each is None or each != each for each in values.ravel()], bool).reshape(values.shape)
    return np.isnan(values) if values.dtype.kind in "fcmM" else np.zeros(values.shape, bool)


def _refuse_broken_rows(values: np.ndarray, what: str) -> None:
    # The maximum is NaN, +inf or -inf exactly where a row has no softmax.
    peak = values.max(-1)
    broken = ~np.isfinite(peak)
    if broken.any():
        raise InputError(
            f"{what} are not finite in row {first_row(broken)} (its maximum is {peak[broken][0]}; such rows: "
            f"{broken.sum()}): drop them or repair the model that wrote them."
        )


def refuse_probabilities(values: np.ndarray, what: str, *, remedy: str = "pass probabilities=True") -> None:
    """Refuse what is nowhere negative and has rows of about one sum, though some may be broken: no logits are so."""
    if (values < 0).any():
        return
    total = values.sum(-1, dtype=np.float64)
    for whole, name in ((1, "probabilities"), (100, "percentages")):
        alike = np.abs(total - whole) <= _ROUNDED * whole
        if values.max() > whole * (1 + _ROUNDED) or alike.mean() < _MOST:
            continue
        shown = "every row" if alike.all() else f"{alike.sum()} of {alike.size} rows, not row {first_row(~alike)},"
        advice = remedy if whole == 1 else "divide them by 100"
        raise InputError(
            f"{what} look like {name} (no number is negative and {shown} sums to about {whole}): {advice}, or hand in "
            "logits or log-probabilities.",
            argument="probabilities" if "probabilities=True" in advice else None,
        )


def _refuse_no_distribution(probs: np.ndarray, what: str, tolerance: float, remedy: str) -> None:
    total = probs.sum(-1, dtype=np.float64)
    wrong = (np.abs(total - 1) > tolerance) | (probs < 0).any(-1)
    if wrong.any():
        raise InputError(
            f"{what} are no distribution in row {first_row(wrong)} (its sum is {total[wrong][0]:.6g}, "
            f"its minimum {probs[wrong][0].min():.6g}): give rows of sum 1{remedy}."
        )


def _from_probabilities(probs: np.ndarray) -> Forecast:
    probs = probs / probs.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return Forecast(np.log(probs), probs)


def _from_logits(logits: np.ndarray) -> Forecast:
    log_probs = logits - logits.max(-1, keepdims=True)
    probs = np.exp(log_probs)
    total = probs.sum(-1, keepdims=True)
    probs /= total
    log_probs -= np.log(total)
    return Forecast(log_probs, probs)
