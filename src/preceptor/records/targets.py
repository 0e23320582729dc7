"""What a batch brings from a record: targets of each form, and the numbers that are stored beside all of them."""

from dataclasses import dataclass

from jaxtyping import Float, Integer
from torch import Tensor

from preceptor.losses.targets import DenseTargets, SampledTargets, Targets, TopKTargets

__all__ = ["DenseTargets", "SampledTargets", "Scalars", "Targets", "TopKTargets"]


@dataclass(frozen=True)
class Scalars:
    """What is known of each teacher's output whatever its form, float32.

    Args:
        entropy: in nats, (B,).
        log_max: log of the largest probability, (B,).
        powers: the exponents g = 1 / T.
        log_powers: log U_g with U_g = sum_c p_c^g, (B, G).
        labels: int64 (B,), -1 where unknown.
        label_log_probs: log p of the labels, (B,), NaN where unknown.
    """

    entropy: Float[Tensor, "batch"]
    log_max: Float[Tensor, "batch"]
    powers: tuple[float, ...]
    log_powers: Float[Tensor, "batch grid"]
    labels: Integer[Tensor, "batch"]
    label_log_probs: Float[Tensor, "batch"]
