"""DIST: match the teacher by correlation, along classes and along the batch."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._common import check_temperature, prepare
from preceptor.losses.targets import SparseTargets, Targets, whole


def dist(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 4.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """DIST: T² (beta inter + gamma intra), a statement about the whole batch: one scalar.

    Huang et al., "Knowledge Distillation from A Stronger Teacher" (NeurIPS 2022, arXiv 2205.10536),
    equations 8 to 10; T² as in the authors' code. With probabilities at temperature T, *inter* is the
    mean over examples of 1 - Pearson(q_b, p_b) along the classes, and *intra* the mean over classes of
    1 - Pearson(q_c, p_c) along the batch. Leading dimensions are flattened into one batch.

    The correlation with a constant is 0, with zero gradient; so is every intra term in a batch of one.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        beta: weight of the inter-class (per-example) term.
        gamma: weight of the intra-class (per-class) term.
        temperature: T > 0.
        mask: shape (...); False removes an example from both terms; an all-masked batch gives 0.

    Returns:
        The loss of the batch, a scalar, in at least float32.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, or temperature not positive.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
        >>> dist(teacher.roll(1, 0), teacher, temperature=1.0)
        tensor(3.5000)
    """
    whole_teacher = whole(teacher_logits)
    if isinstance(whole_teacher, SparseTargets):
        raise sparse.refusal("dist", "correlates the probabilities of all classes, also along the batch")
    check_temperature(temperature)
    student, teacher = prepare(student_logits, whole_teacher, mask)
    # Divided by a small temperature, logits lose the digits in which two near ones differ; less their largest, few do.
    q, p = (_rows(((x - x.detach().amax(-1, keepdim=True)) / temperature).softmax(-1)) for x in (student, teacher))
    if q.shape[0] == 0:
        return q.sum()
    keep = torch.ones_like(q[:, :1]) if mask is None else mask.reshape(-1, 1).to(q)
    count = keep.sum()
    inter = (_one_less_pearson(q, p, dim=1) * keep).sum() / count.clamp(min=1)
    intra = torch.where(count > 0, _one_less_pearson(q, p, dim=0, keep=keep).mean(), 0.0)
    return temperature**2 * (beta * inter + gamma * intra)


def _rows(probs: Tensor) -> Float[Tensor, "rows classes"]:
    return probs.reshape(-1, probs.shape[-1])


def _one_less_pearson(x: Tensor, y: Tensor, *, dim: int, keep: Tensor | float = 1.0) -> Tensor:
    """1 - Pearson correlation along dim of the entries that keep (0 or 1) leaves; 1 with a constant.

    Half the squared distance of two vectors of length 1, which cancels nothing where they are near.
    """
    x, y = _unit_deviation(x, dim, keep), _unit_deviation(y, dim, keep)
    varied = (x != 0).any(dim, keepdim=True) & (y != 0).any(dim, keepdim=True)
    return torch.where(varied, (x - y).square().sum(dim, keepdim=True) / 2, 1.0)


def _unit_deviation(x: Tensor, dim: int, keep: Tensor | float) -> Tensor:
    """Deviations from the mean, scaled to length 1; all zero, without gradient, where x is constant."""
    weight = torch.ones_like(x) * keep
    kept = x * weight
    mean = kept.sum(dim, keepdim=True) / weight.sum(dim, keepdim=True).clamp(min=1)
    deviation = (x - mean) * weight
    # Correlation ignores scale: dividing by the largest deviation first keeps the squares of tiny
    # probabilities from underflowing. Deviations of the order of rounding are those of a constant.
    largest = deviation.detach().abs().amax(dim, keepdim=True)
    limits = torch.finfo(x.dtype)
    rounding = 8 * limits.eps * kept.detach().abs().amax(dim, keepdim=True)
    constant = largest <= rounding.clamp(min=limits.tiny / limits.eps)
    scaled = torch.where(constant, 0.0, deviation / torch.where(constant, 1.0, largest))
    length = torch.where(constant, 1.0, scaled.square().sum(dim, keepdim=True)).sqrt()
    return scaled / length
