"""One loop over chunks of tokens: logits are made, turned into their gradient where they lie, and forgotten.

Every gradient here is A q + B(p, q) with numbers A of the token, so a chunk of it is made in one pass from the logits
of both sides. What is summed over tokens is summed in float32.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch._compile import _disable_dynamo  # as `torch.compiler.disable`, which loads the compiler at once

from preceptor.losses._common import check_floating, refused
from preceptor.losses.linear.head import Bend, Head, as_head
from preceptor.losses.linear.products import add_product, product, same_dtype
from preceptor.losses.linear.teacher import Form, Labels, Source, Teacher, source, usable
from preceptor.losses.tokens import note_if_hot

# Tokens at once: enough that the products are as fast as they get, few enough that their logits are small.
_CPU_CHUNK, _GPU_CHUNKS = 256, (256, 1024)


@_disable_dynamo  # it would unroll the loop
def fused(
    name: str,
    form: Form,
    student_hidden: Tensor,
    student_head: Tensor | Head,
    teacher: Teacher | Labels,
    *,
    temperature: float,
    weight: Tensor | None,
    per_token: bool,
    vocabulary: int | None,
    chunk: int | None,
) -> Tensor:
    """The sum of weight x loss, or each token's; what the arguments are is told by the losses.

    Raises:
        InputError: shapes, sizes of vocabularies or dtypes that do not fit, or a weight that wants a gradient.
    """
    head, lead = as_head(student_head), student_hidden.shape[:-1]
    _check_student(student_hidden, head)
    taught = source(teacher, lead)
    size = _common_size(head.size, taught.size, vocabulary)
    note_if_hot(name, temperature, size)
    if chunk is not None and chunk < 1:
        raise refused(f"chunk is {chunk}; give the number of tokens at once, 1 or more, or None.")
    factors = _factors(weight, lead, student_hidden.device, per_token)
    kept = None if factors is None else factors.detach().nonzero().squeeze(-1)
    if kept is not None and len(kept) == lead.numel():
        kept = None
    states, matrix, bias = _operands(student_hidden, head)
    if kept is not None:
        states = states[kept]
    plan = Plan(form, taught, head.bend, size, chunk or _chunk(states), kept)
    wanted = tuple(
        each is not None and each.requires_grad and torch.is_grad_enabled() for each in (states, matrix, bias)
    )
    if per_token:
        values = _PerToken.apply(states, matrix, bias, plan, wanted)
        if kept is not None:
            values = values.new_zeros(lead.numel()).index_copy(0, kept, values)  # type: ignore[union-attr]
        return (values if factors is None else values * factors).reshape(lead)  # type: ignore[union-attr, return-value]
    if factors is None:
        factors = torch.ones(len(states), device=states.device)
    elif kept is not None:
        factors = factors[kept]
    return _Summed.apply(states, matrix, bias, factors, plan, wanted)  # type: ignore[return-value]


# -- what is asked for -------------------------------------------------------------------------------------------------


def _check_student(hidden: Tensor, head: Head) -> None:
    check_floating("student_hidden", hidden)
    if not hidden.ndim or hidden.shape[-1] != head.weight.shape[1]:
        raise refused(
            f"student_hidden has shape {tuple(hidden.shape)} and its head is of width {head.weight.shape[1]}; give the "
            "states that the head is given, (..., H)."
        )


def _operands(hidden: Tensor, head: Head) -> tuple[Tensor, Tensor, Tensor | None]:
    """Flat hidden states, weight and bias, in one dtype that gradients have room in."""
    states, matrix, bias = same_dtype(hidden.reshape(-1, hidden.shape[-1]), head.weight, head.bias)
    if matrix.dtype == torch.float16:
        states, matrix, bias = states.float(), matrix.float(), None if bias is None else bias.float()
    return usable(states), matrix, bias


def _common_size(student: int, teacher: int, given: int | None) -> int:
    """The entries that count; those behind are padding, as good as -inf on both sides."""
    if given is None:
        if student != teacher:
            raise refused(
                f"the student's vocabulary has {student} entries and the teacher's {teacher}; if the first of them are "
                "the same tokens and the others padding, give their number as vocabulary."
            )
        return student
    if not 2 <= given <= min(student, teacher):
        raise refused(
            f"vocabulary is {given}; give the number of tokens that student ({student} entries) and teacher "
            f"({teacher}) have both."
        )
    return given


def _factors(weight: Tensor | None, lead: torch.Size, device: torch.device, per_token: bool) -> Tensor | None:
    """The weights, flat, at least float32."""
    if weight is None:
        return None
    if weight.dtype != torch.bool and not weight.is_floating_point():
        raise refused(f"weight is {weight.dtype}; give booleans, True where the token counts, or numbers.")
    if weight.shape != lead:
        raise refused(f"weight has shape {tuple(weight.shape)}; give one number per token, {tuple(lead)}.")
    if weight.requires_grad and not per_token:
        raise refused(
            "weight wants a gradient, which a sum has not; take the losses per token and weigh them yourself."
        )
    return weight.reshape(-1).to(device, torch.promote_types(weight.dtype, torch.float32))


def _chunk(states: Tensor) -> int:
    if states.device.type == "cpu":
        return _CPU_CHUNK
    low, high = _GPU_CHUNKS
    return min(max(len(states) // 8, low), high)


# -- the loop ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """All that a loss needs beside the student's tensors.

    Args:
        form: the loss.
        teacher: it.
        bend: what comes after the student's matrix.
        size: the entries of the vocabulary that count.
        chunk: tokens at once.
        kept: of the teacher's tokens those that the student's are, (n,); None for all.
    """

    form: Form
    teacher: Source
    bend: Bend
    size: int
    chunk: int
    kept: Tensor | None


class Outcome(NamedTuple):
    """What the loop gives."""

    values: Float[Tensor, " tokens"]
    """One per token, not weighted."""
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None]
    """In the states, the weight and the bias, of the sum of factor x value; None where none is wanted."""


def run(
    plan: Plan, states: Tensor, weight: Tensor, bias: Tensor | None, factors: Tensor | None, wanted: tuple[bool, ...]
) -> Outcome:
    """Losses, and with `factors` (tokens,) the gradients of their weighted sum."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    matrix, offset = weight[: plan.size], None if bias is None else bias[: plan.size]
    values = states.new_empty(len(states), dtype=wide)
    of_states = torch.empty_like(states, memory_format=torch.contiguous_format) if wanted[0] else None
    of_weight = weight.new_zeros(weight.shape, dtype=wide) if wanted[1] else None
    of_bias = weight.new_zeros(len(weight), dtype=wide) if wanted[2] else None
    place = states.new_empty(min(plan.chunk, len(states)), plan.size)
    room = plan.teacher.room(*place.shape)
    for start in range(0, len(states), plan.chunk):
        rows = slice(start, start + plan.chunk)
        h = states[rows]
        raw = product(h, matrix.t(), place[: len(h)])
        if offset is not None:
            raw += offset
        into = None if factors is None else place[: len(h)]
        of_teacher = rows if plan.kept is None else plan.kept[rows]
        values[rows] = plan.teacher.solve(plan.form, plan.bend, raw, of_teacher, into, room)
        if into is None or factors is None:
            continue
        # Weights, small as 1 / n is, come to the narrow factors and not to the gradient, which is of order 1.
        factor = factors[rows, None].to(wide)
        if of_states is not None:
            of_states[rows] = product(into, matrix) * factor
        if of_weight is not None:
            add_product(of_weight[: plan.size], into, (h * factor).to(h.dtype))
        if of_bias is not None:
            of_bias[: plan.size] += torch.mv(into.t(), factors[rows].to(into.dtype))
    return Outcome(values, (of_states, of_weight, of_bias))


class _Summed(torch.autograd.Function):
    """The gradient is made in the forward pass, and multiplied by one number in the backward pass."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, factors: Tensor, *rest: Any) -> Tensor:
        plan, wanted = rest
        with torch.autocast(states.device.type, enabled=False):
            found = run(plan, states, weight, bias, factors if any(wanted) else None, wanted)
        ctx.plan, ctx.wanted, ctx.kept = plan, wanted, found.gradients
        ctx.save_for_backward(states, weight, bias, factors)
        return (found.values * factors).sum()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        (upstream,) = outputs
        gradients, ctx.kept = ctx.kept, None  # scaled in place, so good for one use
        if gradients is None:
            with torch.autocast(upstream.device.type, enabled=False):
                states, weight, bias, factors = ctx.saved_tensors
                gradients = run(ctx.plan, states, weight, bias, factors, ctx.wanted).gradients
        return *(None if each is None else each.mul_(upstream) for each in gradients), None, None, None


class _PerToken(torch.autograd.Function):
    """Nothing is kept: the backward pass makes the logits once more."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        ctx.plan, ctx.wanted = rest
        ctx.save_for_backward(states, weight, bias)
        with torch.autocast(states.device.type, enabled=False):
            return run(ctx.plan, states, weight, bias, None, (False, False, False)).values

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivatives()
        (upstream,) = outputs
        with torch.autocast(upstream.device.type, enabled=False):
            states, weight, bias = ctx.saved_tensors
            gradients = run(ctx.plan, states, weight, bias, upstream, ctx.wanted).gradients
        return *gradients, None, None


def _refuse_second_derivatives() -> None:
    if torch.is_grad_enabled():
        raise refused("a fused linear loss has no second derivative; take the loss of the logits, `preceptor.losses`.")
