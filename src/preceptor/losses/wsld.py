"""WSLD: soft labels weigh less where the student is better than its teacher."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._common import check_labels, check_temperature, prepare, target_of, zero_where_masked
from preceptor.losses._softened import entropy, softened_kl
from preceptor.losses.targets import SparseTargets, Targets, whole


def wsld(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    labels: Integer[Tensor, "*batch"],
    *,
    temperature: float = 2.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Weighted soft labels: w T² H(p_T, q_T), teacher to student, one value per example.

    Zhou et al., "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective" (ICLR 2021,
    arXiv 2102.00650). H is the cross-entropy of softened probabilities. The weight is w = 1 - exp(-h_s / (h_t + 1e-7))
    of the cross-entropies to the label at T = 1, log q_y and log p_y; no gradient flows through it. Published is 2.5
    times this loss at T = 2 beside a cross-entropy of weight 1.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        labels: the target class y, integers in [0, C), shape (...); anything where masked.
        temperature: T > 0.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32; less is better.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, labels that are not integers or
            (except on a GPU, or compiled) not in [0, C), temperature not positive, or a record of some classes.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> wsld(torch.zeros(2, 2), teacher, torch.tensor([0, 0]), temperature=1.0)
        tensor([0.6902, 0.1928])
    """
    whole_teacher = whole(teacher_logits)
    if isinstance(whole_teacher, SparseTargets):
        raise sparse.refusal("wsld", "takes the cross-entropy to the teacher's probabilities of all classes")
    check_temperature(temperature)
    student, teacher = prepare(student_logits, whole_teacher, mask)
    check_labels(labels, student.shape[:-1])
    target = target_of(labels, mask, student.shape[-1]).unsqueeze(-1)
    hard = (-x.detach().log_softmax(-1).gather(-1, target).squeeze(-1) for x in (student, teacher))
    student_hard, teacher_hard = hard
    weight = -torch.expm1(-student_hard / (teacher_hard + 1e-7))
    softened = teacher / temperature
    soft = softened_kl(student / temperature, softened, temperature) + entropy(softened)
    return zero_where_masked(temperature**2 * weight * soft, mask)
