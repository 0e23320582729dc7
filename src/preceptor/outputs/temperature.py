"""Post-hoc temperature: the one-parameter calibration that any other claim about a teacher must beat."""

import math

import torch
from jaxtyping import Float, Int64
from scipy.optimize import brentq
from torch import Tensor

from preceptor.errors import InputError
from preceptor.tensors import at_label, prepare

COLDEST, HOTTEST = 0.05, 20.0


def fit_temperature(logits: Float[Tensor, "examples classes"], labels: Int64[Tensor, "examples"]) -> float:
    """The T that minimises the mean of -ln softmax(logits / T)_y over held-out examples.

    Guo et al. 2017 (arXiv 1706.04599), section 4.2. The mean is convex in 1/T, so its slope has one root,
    found to machine precision. T stays between 0.05 and 20, or as far beyond as the logits' root mean square
    deviation s from their example's mean: in [0.05 min(1, s), 20 max(1, s)]. Held-out logits that get every label
    right have no root: T is the lower bound there.

    Args:
        logits: the teacher's logits on examples it was not trained on, shape (N, C).
        labels: class numbers in [0, C), shape (N,).

    Returns:
        The temperature to divide the teacher's logits by: above 1 for an over-confident teacher.

    Raises:
        InputError: no example, a logit that is not finite, or labels that are no class numbers (int64), one each.

    >>> import torch
    >>> logits = torch.tensor([[6.0, 0.0]] * 4)  # claims 0.998, is right in 3 of 4: 6 / T = ln 3
    >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 4)
    5.4614
    """
    logits, labels = prepare(logits.detach(), labels, None)
    logits = logits.double()
    if not len(labels):
        raise InputError("there are no held-out examples to fit a temperature on: hold some out.")
    if not logits.isfinite().all():
        worst = int((~logits.isfinite()).any(-1).nonzero()[0])
        raise InputError(f"the logits of example {worst} are not finite: look at the teacher before calibrating it.")
    over_label = logits - at_label(logits, labels).unsqueeze(-1)

    def slope(log_temperature: float) -> float:
        """Derivative of the mean with respect to 1/T: mean logit under the model minus logit of the label."""
        q = (logits / math.exp(log_temperature)).softmax(-1)
        return float((q * over_label).sum(-1).mean())

    cold, hot = temperature_bounds(logits)
    if slope(cold) <= 0:  # colder still would be better
        return math.exp(cold)
    if slope(hot) >= 0:
        return math.exp(hot)
    return math.exp(float(brentq(slope, cold, hot, xtol=1e-13)))  # pyright: ignore[reportArgumentType]


def temperature_bounds(logits: Tensor) -> tuple[float, float]:
    """The range of log T; it grows with the scale of the logits, as some teachers' are in the hundreds."""
    spread = _spread(logits)
    return math.log(COLDEST * min(1.0, spread)), math.log(HOTTEST * max(1.0, spread))


def _spread(log_probs: Tensor) -> float:
    """Root mean square deviation of the finite log-probabilities from those of their sample."""
    finite = log_probs.isfinite()
    known = torch.where(finite, log_probs, 0.0)
    mean = known.sum(-1, keepdim=True) / finite.sum(-1, keepdim=True)
    deviation = torch.where(finite, log_probs - mean, 0.0)
    largest = max(float(deviation.abs().max()), 1e-6)  # taken out, as the square of a huge one would be infinite
    return max(largest * float((deviation / largest).square().sum() / finite.sum()) ** 0.5, 1e-6)
