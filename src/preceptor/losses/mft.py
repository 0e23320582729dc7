"""MFT: a teacher that is corrected towards the label, no more than it must be."""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._common import check_labels, check_temperature, prepare, refused, target_of, zero_where_masked
from preceptor.losses._softened import softened_kl
from preceptor.losses.targets import SparseTargets, Targets, whole


def mft(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    labels: Integer[Tensor, "*batch"],
    *,
    threshold: float = 0.2,
    temperature: float = 1.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Minifinetuning: T² KL(c || q_T), corrected teacher to student, one value per example.

    Belcak et al., "Minifinetuning" (arXiv 2506.15702), as NVIDIA's Model Optimizer computes it. The corrected teacher
    is c = (1 - m) p_T + m [y], with an m for each example: where another class than the label y is the most probable,
    so that the label leads it by the threshold; else so that the label's probability rises by the threshold, to 1 at
    most. In their use the teacher is the student before it was fine-tuned, and there is no other loss.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        labels: the target class y, integers in [0, C), shape (...); anything where masked.
        threshold: in [0, 1]; at 0 a teacher that is right stays as it is.
        temperature: T > 0.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32; less is better.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, labels that are not integers or
            (except on a GPU, or compiled) not in [0, C), a threshold outside [0, 1], temperature not positive, or a
            record of some classes.

    Example:
        >>> import torch
        >>> mft(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
        tensor([0.0201])
    """
    whole_teacher = whole(teacher_logits)
    if isinstance(whole_teacher, SparseTargets):
        raise sparse.refusal("mft", "corrects the teacher's probabilities of all classes")
    check_temperature(temperature)
    if not 0 <= threshold <= 1:
        raise refused(f"threshold of mft is {threshold}; give a number from 0 to 1, such as 0.2.")
    student, teacher = prepare(student_logits, whole_teacher, mask)
    check_labels(labels, student.shape[:-1])
    target = target_of(labels, mask, student.shape[-1]).unsqueeze(-1)
    corrected = _corrected((teacher / temperature).log_softmax(-1), target, threshold)
    losses = temperature**2 * softened_kl(student / temperature, corrected, temperature)
    return zero_where_masked(losses, mask)


def _corrected(log_p: Tensor, target: Tensor, threshold: float) -> Tensor:
    """log c; of equally probable classes the label is taken to be the first."""
    own, top = log_p.gather(-1, target).exp(), log_p.amax(-1, keepdim=True).exp()
    ahead = top - own
    of_wrong = (ahead + threshold) / (1 + ahead + 1e-7)
    of_right = ((own + threshold).clamp(max=1) - own) / (1 - own + 1e-7)
    m = torch.where(ahead > 0, of_wrong, of_right).clamp(0, 1)
    is_target = target == torch.arange(log_p.shape[-1], device=log_p.device)
    return torch.where(is_target, (own * (1 - m) + m).log(), log_p + torch.log1p(-m))
