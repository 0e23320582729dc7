"""Fused linear losses that the student's probabilities weigh too: they need a teacher of all classes."""

from jaxtyping import Float, Shaped
from torch import Tensor

from preceptor import losses
from preceptor.losses._divergences import jsd_form, reverse_kl_form, skew_kl_form, tvd_form
from preceptor.losses.linear.engine import fused
from preceptor.losses.linear.head import Head
from preceptor.losses.linear.teacher import Form, Teacher


def reverse_kl(
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
    """`preceptor.losses.reverse_kl`, KL(q_T || p_T), from hidden states and heads.

    With R the loss, the gradient in the student's logits is q_T (log q_T - log p_T - R) / T.

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        teacher: a pair of hidden states (..., H_t) and head; logits (..., V); or what a record brings of all
            classes. No
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
        InputError: shapes, vocabularies or dtypes that do not fit, a temperature not positive, or a teacher of which
            a record has some classes alone.
    """
    form = Form(*reverse_kl_form(temperature), losses.reverse_kl)
    return fused(
        "reverse_kl",
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


def jsd(
    student_hidden: Float[Tensor, "*batch hidden"],
    student_head: Float[Tensor, "vocabulary hidden"] | Head,
    teacher: Teacher,
    *,
    beta: float = 0.5,
    normalize: bool = False,
    temperature: float = 1.0,
    weight: Shaped[Tensor, "*batch"] | None = None,
    per_token: bool = False,
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, "*batch"]:
    """`preceptor.losses.jsd`, beta KL(p_T || m) + (1 - beta) KL(q_T || m), from hidden states and heads.

    With k = KL(q_T || m) the gradient in the student's logits is (1 - beta) q_T (log q_T - log m - k) / T. Without
    `normalize` a beta of 0.01 is a hundredth of the loss at 0.

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        teacher: a pair of hidden states (..., H_t) and head; logits (..., V); or what a record brings of all
            classes. No
            gradient flows.
        beta: the teacher's share of the mixture m, from 0 (KL(p_T || q_T)) to 1 (KL(q_T || p_T)).
        normalize: divide by beta (1 - beta), so that the loss is continuous in beta.
        temperature: T > 0.
        weight: shape (...), boolean or numbers; tokens of weight 0 are not computed, whatever they hold. None for 1.
        per_token: give each token's loss and make its gradient in the backward pass.
        vocabulary: the first so many entries count on both sides, the others are padding; None for all.
        chunk: tokens at once, None for a number that fits the device.

    Returns:
        The sum of weight x loss, a scalar, or with `per_token` each token's weight x loss (...); at least float32, less
        is better.

    Raises:
        InputError: shapes, vocabularies or dtypes that do not fit, a temperature not positive, beta not from 0 to 1, or
            a teacher of which a record has some classes alone.
    """
    form = Form(*jsd_form(beta, normalize, temperature), losses.jsd)
    return fused(
        "jsd",
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


def skew_kl(
    student_hidden: Float[Tensor, "*batch hidden"],
    student_head: Float[Tensor, "vocabulary hidden"] | Head,
    teacher: Teacher,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    weight: Shaped[Tensor, "*batch"] | None = None,
    per_token: bool = False,
    vocabulary: int | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""] | Float[Tensor, "*batch"]:
    """`preceptor.losses.skew_kl`, KL(p_T || skew p_T + (1 - skew) q_T), from hidden states and heads.

    With r = (1 - skew) p_T q_T / mixture the gradient in the student's logits is (q_T sum(r) - r) / T.

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        teacher: a pair of hidden states (..., H_t) and head; logits (..., V); or what a record brings of all
            classes. No
            gradient flows.
        skew: the teacher's share of the mixture, from 0 (KL) to below 1.
        temperature: T > 0.
        weight: shape (...), boolean or numbers; tokens of weight 0 are not computed, whatever they hold. None for 1.
        per_token: give each token's loss and make its gradient in the backward pass.
        vocabulary: the first so many entries count on both sides, the others are padding; None for all.
        chunk: tokens at once, None for a number that fits the device.

    Returns:
        The sum of weight x loss, a scalar, or with `per_token` each token's weight x loss (...); at least float32, less
        is better.

    Raises:
        InputError: shapes, vocabularies or dtypes that do not fit, a temperature not positive, skew not from 0 to below
            1, or a teacher of which a record has some classes alone.
    """
    form = Form(*skew_kl_form(skew, temperature), losses.skew_kl)
    return fused(
        "skew_kl",
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


def tvd(
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
    """`preceptor.losses.tvd`, sum_c |q_T,c - p_T,c| / 2, from hidden states and heads.

    With s = sign(q_T - p_T) the gradient in the student's logits is q_T (s - sum q_T s) / (2 T).

    Args:
        student_hidden: h, shape (..., H), what the student's head is given.
        student_head: W, shape (V, H), or a `Head`.
        teacher: a pair of hidden states (..., H_t) and head; logits (..., V); or what a record brings of all
            classes. No
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
        InputError: shapes, vocabularies or dtypes that do not fit, a temperature not positive, or a teacher of which
            a record has some classes alone.
    """
    form = Form(*tvd_form(temperature), losses.tvd)
    return fused(
        "tvd",
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
