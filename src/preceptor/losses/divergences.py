"""Divergences that the student's own probabilities weigh too: reverse KL, Jensen-Shannon, skew KL, total variation.

All at one temperature for both sides and without the factor T², as the released code for language models has them.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from preceptor.losses import sparse
from preceptor.losses._closed import closed_form
from preceptor.losses._divergences import jsd_form, reverse_kl_form, skew_kl_form, tvd_form
from preceptor.losses.targets import SparseTargets, Targets, whole


def reverse_kl(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    temperature: float = 1.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Reverse KL: KL(q_T || p_T), student to teacher, no T², one value per example.

    Gu et al., "MiniLLM: Knowledge Distillation of Large Language Models" (arXiv 2306.08543, ICLR 2024), equation 1, for
    each token over the whole vocabulary. With R the loss, the gradient in the student's logits is
    q_T (log q_T - log p_T - R) / T. Infinite, and without gradient, where the teacher rules out a class (-inf) that the
    student does not.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        temperature: T > 0.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32; 0 or more, less is better.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, temperature not positive, or a teacher of which
            a record has some classes alone.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2)
        >>> reverse_kl(student, teacher)
        tensor([0.3278])
    """
    kernel, plain = reverse_kl_form(temperature)
    return closed_form(student_logits, _all_classes("reverse_kl", teacher_logits), mask, kernel=kernel, plain=plain)


def jsd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    beta: float = 0.5,
    normalize: bool = False,
    temperature: float = 1.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Generalized Jensen-Shannon divergence: beta KL(p_T || m) + (1 - beta) KL(q_T || m), one value per example.

    Agarwal et al., "On-Policy Distillation of Language Models" (arXiv 2306.13649, ICLR 2024), equation 1;
    m = beta p_T + (1 - beta) q_T. As in their and others' code beta = 0 is KL(p_T || q_T), teacher to student, and
    beta = 1 is KL(q_T || p_T), neither of which the formula tends to: it tends to 0. Divided by beta (1 - beta)
    (`normalize`) it does tend to them. With k = KL(q_T || m) the gradient in the student's logits is
    (1 - beta) q_T (log q_T - log m - k) / T.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        beta: the teacher's share of the mixture, from 0 to 1.
        normalize: divide by beta (1 - beta), so that the loss is continuous in beta and of one size at each.
        temperature: T > 0.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32; 0 or more, less is better.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, temperature not positive, beta not from 0 to 1,
            or a teacher of which a record has some classes alone.

    Example:
        >>> import torch
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
        >>> [round(jsd(student, teacher, beta=beta).item(), 4) for beta in (0.0, 0.01, 0.5)]
        [0.3278, 0.0032, 0.0895]
        >>> [round(jsd(student, teacher, beta=beta, normalize=True).item(), 4) for beta in (0.0, 0.01, 0.5)]
        [0.3278, 0.3282, 0.3582]
    """
    kernel, plain = jsd_form(beta, normalize, temperature)
    return closed_form(student_logits, _all_classes("jsd", teacher_logits), mask, kernel=kernel, plain=plain)


def skew_kl(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Skew KL: KL(p_T || skew p_T + (1 - skew) q_T), teacher to student, no T², one value per example.

    Ko et al., "DistiLLM: Towards Streamlined Distillation for Large Language Models" (arXiv 2402.03898, ICML 2024),
    section 3.1, whose alpha `skew` is. Never above log(1 / skew). With r = (1 - skew) p_T q_T / mixture the gradient in
    the student's logits is (q_T sum(r) - r) / T.

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        skew: the teacher's share of the mixture, from 0 (KL) to below 1.
        temperature: T > 0.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32; 0 or more, less is better.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, temperature not positive, skew not from 0 to
            below 1, or a teacher of which a record has some classes alone.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0]])
        >>> skew_kl(torch.zeros(1, 2), teacher, skew=0.0), skew_kl(torch.zeros(1, 2), teacher)
        (tensor([0.3278]), tensor([0.2726]))
    """
    kernel, plain = skew_kl_form(skew, temperature)
    return closed_form(student_logits, _all_classes("skew_kl", teacher_logits), mask, kernel=kernel, plain=plain)


def tvd(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"] | Targets,
    *,
    temperature: float = 1.0,
    mask: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Total variation distance: sum_c |q_T,c - p_T,c| / 2, one value per example.

    Wen et al., "f-Divergence Minimization for Sequence-Level Knowledge Distillation" (arXiv 2307.15190, ACL 2023), for
    each token. With s = sign(q_T - p_T) the gradient in the student's logits is q_T (s - sum q_T s) / (2 T).

    Args:
        student_logits: z, shape (..., C).
        teacher_logits: v, shape (..., C): logits or log-probabilities, -inf allowed. No gradient flows.
        temperature: T > 0.
        mask: shape (...); False marks examples that give exactly 0 and no gradient.

    Returns:
        The loss of each example, shape (...), in at least float32; from 0 to 1, less is better.

    Raises:
        InputError: shapes differ, fewer than 2 classes, integer logits, temperature not positive, or a teacher of which
            a record has some classes alone.

    Example:
        >>> import torch
        >>> tvd(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))
        tensor([0.3808])
    """
    kernel, plain = tvd_form(temperature)
    return closed_form(student_logits, _all_classes("tvd", teacher_logits), mask, kernel=kernel, plain=plain)


def _all_classes(name: str, teacher: Tensor | Targets) -> Tensor:
    found = whole(teacher)
    if isinstance(found, SparseTargets):
        raise sparse.refusal(name, "weighs what the teacher says of every class by the student's probabilities")
    return found
