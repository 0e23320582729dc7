"""NKD: the target class by its probability, the others among themselves."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._common import check_labels, check_temperature, prepare, target_of, zero_where_masked
from preceptor.losses._softened import entropy
from preceptor.losses.dkd import apart, others_kl
from preceptor.losses.targets import SparseTargets, Targets, whole


def nkd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    labels: Integer[Tensor, "*batch"],
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Normalised KD: -p_y log q_y + gamma T² H(p', q'), teacher to student, one value per example.

    Yang et al., "From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss
    and Customized Soft Labels" (ICCV 2023, arXiv 2303.13005). The first term, at T = 1, is the label's cross-entropy by
    the teacher's p_y. In the second p' and q' are the distributions at T over the classes other than y, and H their
    cross-entropy: it is that of `dkd`, NCKD, and the entropy of p'. Published are gamma 1.5 at T = 1, for ImageNet
    gamma 1 at T = 1, for CIFAR-100 gamma 3.5 at T = 3, beside a cross-entropy of weight 1.

    It has no best student: the first term falls as long as q_y rises. H is 0 with two classes, and where the teacher
    gives the others no probability at all.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        labels: the target class y, integers in [0, C), shape (...); anything where masked.
        gamma: weight of the second term.
        temperature: T > 0, of the second term alone.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32; less is better.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, labels that are not integers or
            (except on a GPU, or compiled) not in [0, C), temperature not positive, or a record of some classes.

    Example:
        >>> import torch
        >>> nkd(torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]), gamma=1.0)
        tensor([1.4240])
    """
    whole_teacher = whole(teacher_logits)
    if isinstance(whole_teacher, SparseTargets):
        raise sparse.refusal("nkd", "normalises the teacher's probabilities of all classes but the label")
    check_temperature(temperature)
    student, teacher = prepare(student_logits, whole_teacher, mask)
    check_labels(labels, student.shape[:-1])
    target = target_of(labels, mask, student.shape[-1])
    p, log_q = (x.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1) for x in (teacher, student))
    of_target = torch.where(p.isneginf(), 0.0, -p.exp() * log_q)
    student, teacher = (apart(x, target) for x in (student, teacher))
    of_others = others_kl(student, teacher, temperature)
    spread = torch.where(teacher.none.squeeze(-1), 0.0, entropy(teacher.others / temperature))
    return zero_where_masked(of_target + gamma * (of_others + temperature**2 * spread), mask)
