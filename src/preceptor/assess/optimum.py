"""What a loss makes of a teacher: the output a student would have at the loss's minimum.

That, and not the teacher's own output, is what reaches the student, so that is what should be scored.
"""

import math

import numpy as np
import torch
from jaxtyping import Float64

from preceptor.assess.forecasts import Array, Forecast, forecast
from preceptor.errors import InputError, did_you_mean
from preceptor.outputs.proxy import proxy_teacher

__all__ = ["optimum"]

OPTIMA: tuple[str, ...] = ("kd", "dkd", "ttm", "wttm", "ptloss")
SOFTENING = ("ttm", "wttm")  # those whose optimum is the teacher at their temperature


def stand_in(loss: str) -> str:
    """The loss whose optimum is taken for that of `loss`: its own, or where that is not known `kd`, the teacher."""
    return loss if loss in OPTIMA else "kd"


def check_loss(loss: str, temperature: float | None) -> None:
    """Refuse a loss of unknown optimum, one without the temperature that it needs, and a temperature that cannot be."""
    if loss not in OPTIMA:
        raise InputError(f"The loss {loss!r} has no known optimum: {did_you_mean(loss, OPTIMA)}")
    if temperature is not None and not 0 < temperature < math.inf:
        raise InputError(f"temperature is {temperature}: it must be above 0 and finite.")
    if loss in SOFTENING and temperature is None:
        raise InputError(
            f"The loss {loss!r} has no optimum without its temperature: pass temperature, e.g. 4 (on the command line "
            "--temperature 4)."
        )


def optimum(
    logits: Array | Forecast, loss: str = "kd", *, temperature: float | None = None, coefficients: Array | None = None
) -> Float64[np.ndarray, "*stack N C"]:
    """Log-probabilities of the student that minimises a loss, sample by sample.

    The teacher itself for `kd` and `dkd` (at any temperature: both sides are softened alike; both parts of `dkd` are 0
    there and only there, if their weights are above 0), the teacher at the temperature for `ttm` and `wttm` (a weight
    moves no minimum), the proxy teacher for `ptloss`.

    Args:
        logits: the teacher's logits or log-probabilities, `(..., N, C)`.
        loss: `kd`, `dkd`, `ttm`, `wttm` or `ptloss`.
        temperature: of `ttm` and `wttm`, which need it; it changes nothing for the others.
        coefficients: of `ptloss`, which needs them, `(M,)` or `(C, M)`.

    Returns:
        Log-probabilities `(..., N, C)` in float64.

    Raises:
        InputError: a loss of unknown optimum, an option that it needs or does not take, a temperature that is not above
            0, coefficients that allow no proxy, or anything `forecast` refuses.

    >>> np.exp(optimum([[2 * np.log(3.0), 0.0]], "ttm", temperature=2.0)).round(4).tolist()
    [[0.75, 0.25]]
    """
    check_loss(loss, temperature)
    if (coefficients is not None) != (loss == "ptloss"):
        wants = "needs its coefficients: pass" if loss == "ptloss" else "takes no coefficients: leave out"
        raise InputError(f"The loss {loss!r} {wants} coefficients (on the command line --coefficients 0.5,0.1).")
    log_probs = forecast(logits).log_probs
    if loss in ("kd", "dkd"):
        return log_probs
    if loss == "ptloss":
        return _proxy(log_probs, coefficients)
    assert temperature is not None
    return forecast(log_probs / temperature).log_probs


def _proxy(log_probs: np.ndarray, coefficients: Array | None) -> np.ndarray:
    with torch.no_grad():
        table = torch.as_tensor(coefficients, dtype=torch.float64, device="cpu")
        return proxy_teacher(torch.as_tensor(log_probs), table).log_probs.numpy()
