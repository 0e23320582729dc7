"""MLKD: match the teacher at several temperatures, sample by sample, along the batch and along the classes."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._common import check_temperature, prepare, refused
from preceptor.losses._softened import softened_kl
from preceptor.losses.targets import SparseTargets, Targets, whole


def mlkd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    temperatures: Sequence[float] = (4.0, 3.0, 5.0, 2.0, 6.0),
    twice: Sequence[float] = (2.0, 6.0),
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """Multi-level KD of one view, teacher to student, a statement about the whole batch: one scalar.

    Jin, Wang and Lin, "Multi-Level Logit Distillation" (CVPR 2023), as their code computes it. With probabilities Q and
    P (B, C) at T it is the sum over the temperatures of a (T² KL + |P Pᵀ - Q Qᵀ|² / B) + b |Pᵀ P - Qᵀ Q|² / C, where
    KL is the mean over the batch, a the share of examples whose teacher is no surer than its median, and b that of
    classes to which it gives no more than their median. (The paper masks those examples out; the code's mask comes
    after the mean, and only scales it.) The KL at the temperatures `twice` counts once more, with weight 1. Published
    is 0.9 times this loss and 0.9 times `kd` at 4, 3 and 5 of a strongly augmented view, beside
    cross-entropies of weight 0.1 of both views: `MLKD`, which looks at both. Leading dimensions are one batch; it
    holds matrices of B x B and C x C.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        temperatures: every T > 0.
        twice: every T > 0; the code's term for strong views takes these two of this view.
        mask: shape (...); False removes an example; an all-masked batch gives 0.

    Returns:
        The loss of the batch, a scalar, in at least float32; less is better.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, no temperature or one that is not positive, or
            a record of some classes.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
        >>> mlkd(torch.zeros(2, 3), teacher, temperatures=[1.0], twice=[])
        tensor(0.3492)
    """
    whole_teacher = whole(teacher_logits)
    if isinstance(whole_teacher, SparseTargets):
        raise sparse.refusal("mlkd", "compares the probabilities of all classes, also along the batch")
    if not temperatures:
        raise refused("temperatures of mlkd are none; give one or more, such as 4.0.")
    for temperature in (*temperatures, *twice):
        check_temperature(temperature)
    student, teacher = (_rows(x) for x in prepare(student_logits, whole_teacher, mask))
    keep = torch.ones_like(student[:, 0], dtype=torch.bool) if mask is None else mask.reshape(-1)
    count = keep.sum().clamp(min=1)
    kept = keep.to(student) / count
    sure = teacher.softmax(-1)
    examples = _share_below_median(sure.amax(-1), keep)
    classes = _share_below_median((sure * keep[:, None]).sum(0), keep.new_ones(sure.shape[-1]))
    loss = student.sum() * 0
    # Autocast would round the products to half precision.
    with torch.autocast(student.device.type, enabled=False):
        for temperature in temperatures:
            q, p = ((x / temperature).softmax(-1) * keep[:, None] for x in (student, teacher))
            along_batch = (p @ p.T - q @ q.T).square().sum() / count
            along_classes = (p.T @ p - q.T @ q).square().sum() / student.shape[-1]
            loss = loss + examples * along_batch + classes * along_classes
    for temperature, weight in [*((t, examples) for t in temperatures), *((t, 1.0) for t in twice)]:
        kl = softened_kl(student / temperature, teacher / temperature, temperature)
        loss = loss + weight * temperature**2 * (kl * kept).sum()
    return loss


def _rows(logits: Tensor) -> Float[Tensor, "rows classes"]:
    return logits.reshape(-1, logits.shape[-1])


def _share_below_median(values: Float[Tensor, "n"], keep: Bool[Tensor, "n"]) -> Tensor:
    """Which share of those kept is no larger than their median; 0 of none."""
    if not len(values):
        return values.sum()
    count = keep.sum()
    ordered = values.masked_fill(~keep, torch.inf).sort().values
    middle = torch.stack([(count - 1).clamp(min=0) // 2, (count // 2).clamp(max=len(values) - 1)])
    median = ordered.gather(0, middle).mean()
    # What equals the median but for its rounding is no larger either.
    below = (values <= median * (1 + 1e-5)) & keep
    return (below.sum() / count.clamp(min=1)).to(values)
