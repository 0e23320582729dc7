"""Fused linear losses whose gradient is linear in what the teacher says, so that a sample of it will do."""

from functools import partial

from jaxtyping import Float, Shaped
from torch import Tensor

from preceptor import losses
from preceptor.losses._common import check_temperature, refused, sent
from preceptor.losses.kd import _kernel as kd_kernel
from preceptor.losses.kd import _plain as kd_plain
from preceptor.losses.linear.engine import fused
from preceptor.losses.linear.head import Head, as_head
from preceptor.losses.linear.teacher import Form, Teacher
from preceptor.losses.ptloss import Coefficients, coefficient_tensor
from preceptor.losses.ptloss import _kernel as ptloss_kernel
from preceptor.losses.ptloss import _plain as ptloss_plain
from preceptor.losses.ttm import _ttm_kernel, _ttm_plain, _wttm_kernel, _wttm_plain


def kd(
    student_hidden: Float[Tensor, "*batch hidden"],
    student_head: Float[Tensor, "vocabulary hidden"] | Head,
    teacher: Teacher,
    *,
    temperature: float = 1.0,
    weight: Shaped[Tensor, "*batch"] | None = None,
    per_token: bool = False,
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, "*batch"]:
    """`preceptor.losses.kd`, T² KL(p_T || q_T), from hidden states and heads.

    Gradient in the student's logits: T (q_T - p_T).

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        teacher: a pair of hidden states (..., H_t) and head; logits (..., V); or what a record brings. No
            gradient flows.
        temperature: T > 0.
        weight: shape (...), boolean or numbers; tokens of weight 0 are not computed, whatever they hold. None for 1.
        per_token: give each token's loss and make its gradient in the backward pass.
        vocabulary: the first so many entries count on both sides, the others are padding; None for all.
        chunk: tokens at once, None for a number that fits the device.

    Returns:
        The sum of weight x loss, a scalar, or with `per_token` each token's weight x loss (...); at least float32, less
        is better.

    Raises:
        InputError: shapes, vocabularies or dtypes that do not fit, or a temperature not positive.

    Example:
        >>> import torch
        >>> hidden, weight = torch.eye(2), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]).requires_grad_()
        >>> mask = torch.tensor([True, True])
        >>> loss = kd(hidden, weight, (torch.eye(2), torch.zeros(3, 2)), weight=mask / mask.sum())
        >>> loss
        tensor(0.2969, grad_fn=<_SummedBackward>)
        >>> loss.backward()
        >>> kd(hidden, weight, torch.zeros(2, 3), per_token=True)
        tensor([0.4743, 0.1195], grad_fn=<ViewBackward0>)
    """
    check_temperature(temperature)
    form = Form(
        partial(kd_kernel, temperature=temperature),
        partial(kd_plain, temperature=temperature),
        partial(losses.kd, temperature=temperature),
    )
    return fused(
        "kd",
        form,
        student_hidden,
        student_head,
        teacher,
        temperature=temperature,
        weight=weight,
        per_token=per_token,
        vocabulary=vocabulary,
        chunk=chunk,
    )


def ttm(
    student_hidden: Float[Tensor, "*batch hidden"],
    student_head: Float[Tensor, "vocabulary hidden"] | Head,
    teacher: Teacher,
    *,
    temperature: float = 1.0,
    weight: Shaped[Tensor, "*batch"] | None = None,
    per_token: bool = False,
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, "*batch"]:
    """`preceptor.losses.ttm`, KL(p_T || q), from hidden states and heads.

    Gradient in the student's logits: q - p_T.

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        teacher: a pair of hidden states (..., H_t) and head; logits (..., V); or what a record brings. No
            gradient flows.
        temperature: T > 0, of the teacher alone.
        weight: shape (...), boolean or numbers; tokens of weight 0 are not computed, whatever they hold. None for 1.
        per_token: give each token's loss and make its gradient in the backward pass.
        vocabulary: the first so many entries count on both sides, the others are padding; None for all.
        chunk: tokens at once, None for a number that fits the device.

    Returns:
        The sum of weight x loss, a scalar, or with `per_token` each token's weight x loss (...); at least float32, less
        is better.

    Raises:
        InputError: shapes, vocabularies or dtypes that do not fit, or a temperature not positive.
    """
    check_temperature(temperature)
    form = Form(
        partial(_ttm_kernel, temperature=temperature),
        partial(_ttm_plain, temperature=temperature),
        partial(losses.ttm, temperature=temperature),
    )
    return fused(
        "ttm",
        form,
        student_hidden,
        student_head,
        teacher,
        temperature=temperature,
        weight=weight,
        per_token=per_token,
        vocabulary=vocabulary,
        chunk=chunk,
    )


def wttm(
    student_hidden: Float[Tensor, "*batch hidden"],
    student_head: Float[Tensor, "vocabulary hidden"] | Head,
    teacher: Teacher,
    *,
    temperature: float = 1.0,
    weight: Shaped[Tensor, "*batch"] | None = None,
    per_token: bool = False,
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, "*batch"]:
    """`preceptor.losses.wttm`, U KL(p_T || q), from hidden states and heads.

    Gradient in the student's logits: U q - p^(1/T) with U = sum_c p_c^(1/T), which over 49,152 tokens is about 2 at
    T = 1.25 and some hundreds at T = 4.

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        teacher: a pair of hidden states (..., H_t) and head; logits (..., V); or what a record brings. No
            gradient flows.
        temperature: T > 0, of the teacher alone.
        weight: shape (...), boolean or numbers; tokens of weight 0 are not computed, whatever they hold. None for 1.
        per_token: give each token's loss and make its gradient in the backward pass.
        vocabulary: the first so many entries count on both sides, the others are padding; None for all.
        chunk: tokens at once, None for a number that fits the device.

    Returns:
        The sum of weight x loss, a scalar, or with `per_token` each token's weight x loss (...); at least float32, less
        is better.

    Raises:
        InputError: shapes, vocabularies or dtypes that do not fit, or a temperature not positive.
    """
    check_temperature(temperature)
    form = Form(
        partial(_wttm_kernel, temperature=temperature),
        partial(_wttm_plain, temperature=temperature),
        partial(losses.wttm, temperature=temperature),
    )
    return fused(
        "wttm",
        form,
        student_hidden,
        student_head,
        teacher,
        temperature=temperature,
        weight=weight,
        per_token=per_token,
        vocabulary=vocabulary,
        chunk=chunk,
    )


def ptloss(
    student_hidden: Float[Tensor, "*batch hidden"],
    student_head: Float[Tensor, "vocabulary hidden"] | Head,
    teacher: Teacher,
    *,
    coefficients: Coefficients,
    weight: Shaped[Tensor, "*batch"] | None = None,
    per_token: bool = False,
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, "*batch"]:
    """`preceptor.losses.ptloss`, KL(p || q) perturbed, from hidden states and heads.

    Gradient in the student's logits: (sum a) q - a with a_c = p_c (1 + q_c sum_m m eps_m (1 - q_c)^(m-1)).

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        teacher: a pair of hidden states (..., H_t) and head; logits (..., V); or what a record brings (all
            classes or a sample). No
            gradient flows.
        coefficients: eps, shape (M,) shared by the tokens or (V, M) one row per token; m counts from 1.
        weight: shape (...), boolean or numbers; tokens of weight 0 are not computed, whatever they hold. None for 1.
        per_token: give each token's loss and make its gradient in the backward pass.
        vocabulary: the first so many entries count on both sides, the others are padding; None for all.
        chunk: tokens at once, None for a number that fits the device.

    Returns:
        The sum of weight x loss, a scalar, or with `per_token` each token's weight x loss (...); at least float32, less
        is better.

    Raises:
        InputError: shapes, vocabularies or dtypes that do not fit, or coefficients of another shape or that want a
            gradient.
    """
    eps = coefficients.detach() if isinstance(coefficients, Tensor) else coefficients
    if isinstance(coefficients, Tensor) and coefficients.requires_grad:
        raise refused("coefficients want a gradient, which a fused loss has not; take `preceptor.losses.ptloss`.")
    classes = vocabulary if vocabulary is not None else as_head(student_head).size
    shared = sent(coefficient_tensor(eps, num_classes=classes), student_hidden.device)
    form = Form(ptloss_kernel, ptloss_plain, partial(losses.ptloss, coefficients=shared), shared)
    return fused(
        "ptloss",
        form,
        student_hidden,
        student_head,
        teacher,
        temperature=1.0,
        weight=weight,
        per_token=per_token,
        vocabulary=vocabulary,
        chunk=chunk,
    )
