"""Losses whose gradient is known in closed form: value and gradient in one pass over blocks of rows.

Autograd would keep several tensors of the size of the logits for what the forward pass can finish: here it leaves one,
the gradient, in the student's own dtype (float32 for float16).
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from preceptor.losses._common import check_inputs, prepare

# On a CPU, rows are worked on in blocks of so many entries a thread: their temporaries stay in its cache.
_BLOCK_ENTRIES = 1 << 16
# Up to so many entries float64 costs what float32 does: the time of a call goes into starting operations.
_SMALL_ENTRIES = 1 << 11
# A smaller loss is the difference of larger numbers, of which float32 has too few digits: float64 has them.
_SMALL_LOSS = 0.05
# On a GPU without compiler, so many entries at once.
_EAGER_GPU_ENTRIES = 1 << 24
# Forms of the compiled kernel in one process, one for each loss, dtype, mask...; torch's own limit is 8.
_MOST_FORMS = 256


class Rows(NamedTuple):
    """What a kernel makes of rows of logits: the loss is `weight` x `value`, its gradient `slope` x `gradient`."""

    value: Tensor
    """Shape (rows,)."""
    gradient: Tensor
    """Shape (rows, classes); may be written over."""
    weight: Tensor | float
    """A number, or one per row, shape (rows,)."""
    slope: Tensor
    """One number per row, shape (rows, 1)."""


Kernel = Callable[[Tensor, Tensor, Tensor | None], Rows]
"""``kernel(student, teacher, shared)`` of logits (rows, classes), in working precision; it writes over none of them."""
Plain = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""``plain(student, teacher, mask, shared)``: the same loss as a formula that autograd can differentiate again."""


def closed_form(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    *,
    kernel: Kernel,
    plain: Plain,
    shared: Tensor | None = None,
) -> Tensor:
    """The loss of each row: by `kernel` where its gradient is all that is asked for, by `plain` otherwise.

    `plain` serves a compiler (which fuses it), forward-mode and second derivatives, subclasses of tensors, and devices
    that are neither CPU nor CUDA. `shared` is a tensor that all rows share, e.g. PTLoss's coefficients; if it wants a
    gradient, `plain` gives it.
    """
    check_inputs(student, teacher, mask)
    if student.numel() <= _SMALL_ENTRIES and student.device.type == "cpu":
        return _in_float64(student, teacher, mask, shared, plain)
    if _must_be_plain(student, teacher) or (shared is not None and shared.requires_grad):
        return plain(student, teacher, mask, shared)
    wanted = student.requires_grad and torch.is_grad_enabled()
    function = _ClosedForm if torch._C._are_functorch_transforms_active() else _QuickClosedForm
    return function.apply(student, teacher, mask, shared, kernel, plain, [] if wanted else None)  # type: ignore[return-value]


def _in_float64(student: Tensor, teacher: Tensor, mask: Tensor | None, shared: Tensor | None, plain: Plain) -> Tensor:
    """The loss of few logits by the plain formula, of which float64 has digits enough."""
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    return plain(student.double(), teacher.double(), mask, shared).to(dtype)


def _must_be_plain(student: Tensor, teacher: Tensor) -> bool:
    return (
        torch.compiler.is_compiling()
        or student.device.type not in ("cpu", "cuda")
        or any(type(logits) not in (Tensor, torch.nn.Parameter) for logits in (student, teacher))
        or torch.autograd.forward_ad._current_level >= 0
    )


class _ClosedForm(torch.autograd.Function):
    """`closed_form` for autograd and torch.func. Where a gradient is wanted, `kept` is a list to leave it in."""

    @staticmethod
    def forward(
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,
        shared: Tensor | None,
        kernel: Kernel,
        plain: Plain,
        kept: list[Tensor] | None,
    ) -> Tensor:
        losses, gradient = _solve(student, teacher, mask, shared, kernel, plain, with_gradient=kept is not None)
        if kept is not None:
            assert gradient is not None
            kept.append(gradient)
        return losses

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.kernel, ctx.plain, ctx.kept = inputs
        # A tensor made under inference mode cannot be saved for backward. Nothing can change its history: it has none.
        ctx.outside = [each if each is not None and each.is_inference() else None for each in tensors]
        ctx.save_for_backward(*[each if out is None else None for each, out in zip(tensors, ctx.outside, strict=True)])

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,), unused = outputs, (None,) * 6
        saved = zip(ctx.saved_tensors, ctx.outside, strict=True)
        student, teacher, mask, shared = (inside if out is None else out for inside, out in saved)
        if torch.is_grad_enabled():  # this gradient may itself be differentiated
            pull = torch.func.vjp(lambda logits: ctx.plain(logits, teacher, mask, shared), student)[1]
            return pull(upstream)[0], *unused
        if ctx.kept:
            gradient = ctx.kept.pop()  # scaled in place, so good for one use
        else:
            _, gradient = _solve(student, teacher, mask, shared, ctx.kernel, ctx.plain, with_gradient=True)
            assert gradient is not None
        return _scale(gradient, upstream.unsqueeze(-1)).to(student.dtype), *unused

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """Rows are independent: the mapped dimension is one more leading dimension."""
        student, teacher, mask, shared, kernel, plain, kept = args
        student, teacher = (_leading(args[i], in_dims[i], info.batch_size) for i in (0, 1))
        mask = None if mask is None else _leading(mask, in_dims[2], info.batch_size)
        if shared is not None and in_dims[3] is not None:
            dims = (0, 0, None if mask is None else 0, in_dims[3])
            return torch.vmap(plain, dims)(student, teacher, mask, shared), 0
        wanted = kept is not None or student.requires_grad
        kept = [] if wanted else None
        return _ClosedForm.apply(student, teacher, mask, shared, kernel, plain, kept), 0  # type: ignore[return-value]


class _QuickClosedForm(torch.autograd.Function):
    """`_ClosedForm` outside of torch.func: with a `setup_context`, torch reads a signature anew at each call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        output = _ClosedForm.forward(*inputs)
        _ClosedForm.setup_context(ctx, inputs, output)
        return output

    backward = _ClosedForm.backward


def _leading(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _scale(gradient: Tensor, factor: Tensor) -> Tensor:
    """`gradient` times `factor`, in place and without a whole copy in the factor's dtype."""
    if gradient.dtype == factor.dtype or gradient.device.type != "cpu":
        return gradient.mul_(factor)
    rows, factors = gradient.view(-1, gradient.shape[-1]), factor.reshape(-1, 1)
    step = _block_rows(rows)
    for start in range(0, len(rows), step):
        rows[start : start + step].mul_(factors[start : start + step])
    return gradient


def _solve(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    shared: Tensor | None,
    kernel: Kernel,
    plain: Plain,
    *,
    with_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """The losses (...), in working precision, and their gradient (..., classes) in the dtype that it is kept in."""
    lead, classes = student.shape[:-1], student.shape[-1]
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    z, v = student.reshape(-1, classes), teacher.reshape(-1, classes)
    gradient = None
    if with_gradient:
        gradient = torch.empty_like(z, dtype=_kept_dtype(z), memory_format=torch.contiguous_format)
    if z.device.type == "cpu":
        losses = _on_cpu(z, v, shared, kernel, dtype, gradient)
        if mask is not None:
            hidden = ~mask.reshape(-1)
            losses.masked_fill_(hidden, 0.0)
            if gradient is not None and hidden.any():
                gradient[hidden] = 0.0
    else:
        keep = None if mask is None else mask.reshape(-1)
        losses = _on_gpu(z, v, keep, shared, kernel, plain, gradient)
    return losses.view(lead), None if gradient is None else gradient.view(student.shape)


def _kept_dtype(student: Tensor) -> torch.dtype:
    """That of the student; but float16 has no room for a small gradient until a loss scaler has lifted it."""
    return torch.float32 if student.dtype == torch.float16 else student.dtype


# -- CPU: in blocks ------------------------------------------------------------------------------------------


def _block_rows(rows: Tensor) -> int:
    return max(1, _BLOCK_ENTRIES * torch.get_num_threads() // rows.shape[-1])


def _on_cpu(
    student: Tensor, teacher: Tensor, shared: Tensor | None, kernel: Kernel, dtype: torch.dtype, gradient: Tensor | None
) -> Tensor:
    losses = torch.empty(len(student), dtype=dtype)
    step = _block_rows(student)
    for start in range(0, len(student), step):
        part = slice(start, start + step)
        z, v, into = student[part], teacher[part], None if gradient is None else gradient[part]
        found = _block(z, v, shared, kernel, dtype, into)
        losses[part] = found
    return losses


def _block(
    student: Tensor, teacher: Tensor, shared: Tensor | None, kernel: Kernel, dtype: torch.dtype, into: Tensor | None
) -> Tensor:
    """The losses of a block; its gradient goes `into` its place, which may be that of the student's logits."""
    rows = kernel(student.to(dtype), teacher.to(dtype), shared)
    losses, at, exact = rows.value * rows.weight, None, None
    if dtype != torch.float64:
        small = rows.value.abs() < _SMALL_LOSS
        if small.any():
            (at,) = small.nonzero(as_tuple=True)
            exact = None if into is None else torch.empty(len(at), into.shape[-1], dtype=into.dtype)
            losses[at] = _block(student[at], teacher[at], shared, kernel, torch.float64, exact).to(dtype)
    if into is not None:
        torch.mul(rows.gradient, rows.slope, out=into)
        if at is not None and exact is not None:
            into[at] = exact
    return losses


# -- GPU: in one compiled kernel -----------------------------------------------------------------------------


def _on_gpu(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    shared: Tensor | None,
    kernel: Kernel,
    plain: Plain,
    into: Tensor | None,
) -> Tensor:
    """The losses by the plain formula, which rounds small ones well, and the closed gradient `into` its place."""
    if into is None:
        return plain(student, teacher, mask, shared)
    compiled = _compiled()
    if compiled.works:
        try:
            losses, gradient = compiled(student, teacher, mask, shared, kernel, plain)
            into.copy_(gradient)
            return losses
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            compiled.give_up(error)
    step = max(1, _EAGER_GPU_ENTRIES // student.shape[-1])
    losses = []
    for start in range(0, len(student), step):
        part = slice(start, start + step)
        kept = None if mask is None else mask[part]
        loss, into[part] = _fused(student[part], teacher[part], kept, shared, kernel, plain)
        losses.append(loss)
    return torch.cat(losses) if losses else plain(student, teacher, mask, shared)


def _fused(
    student: Tensor, teacher: Tensor, mask: Tensor | None, shared: Tensor | None, kernel: Kernel, plain: Plain
) -> tuple[Tensor, Tensor]:
    losses = plain(student, teacher, mask, shared)
    z, v = prepare(student, teacher, mask)
    rows = kernel(z, v, shared)
    gradient = (rows.gradient * rows.slope).to(_kept_dtype(student))
    return losses, gradient if mask is None else gradient.masked_fill(~mask.unsqueeze(-1), 0.0)


class _Compiled:
    """`_fused`, compiled for each loss, dtype and mask that there is, until that fails: trying anew takes longer."""

    def __init__(self) -> None:
        self.works = True
        self._function = torch.compile(_fused, fullgraph=True)

    def __call__(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        with torch._dynamo.config.patch(recompile_limit=_MOST_FORMS):
            return self._function(*arguments)

    def give_up(self, error: Exception) -> None:
        self.works = False
        warnings.warn(
            f"the losses could not be compiled for this GPU ({type(error).__name__}) and run uncompiled, several times "
            "slower; with Triton installed they are compiled.",
            stacklevel=2,
        )


@cache
def _compiled() -> _Compiled:
    return _Compiled()


# -- what kernels are made of --------------------------------------------------------------------------------


def softened(logits: Tensor, temperature: float) -> Tensor:
    """The logits over the temperature, shifted so that the largest of each row is 0."""
    top = logits.amax(-1, keepdim=True)
    return torch.add(top.mul_(-1 / temperature), logits, alpha=1 / temperature)


class Divergence(NamedTuple):
    """Rows of KL(p || q) with what it is made of."""

    value: Tensor
    """KL(p || q), shape (rows,)."""
    gradient: Tensor
    """`total` x (q - p), shape (rows, classes)."""
    p: Tensor
    """`total` x p."""
    total: Tensor
    """Shape (rows, 1)."""


def divergence(x: Tensor, y: Tensor) -> Divergence:
    """KL(p || q) of q = softmax(x) and p = softmax(y), both with largest logit 0; x and y are written over.

    The sum of q - p is not quite the 0 it should be: added to the sum of p log(p / q), it makes up for the rounding
    of the two normalisers. Classes with p = 0 give 0 x inf = nan there and do not count; a row that is nan all over
    still is, by its q - p.
    """
    gap = y - x
    q, p = x.exp_(), y.exp_()
    total = p.sum(-1, keepdim=True)
    ratio = total / q.sum(-1, keepdim=True)
    gap = gap.sub_(ratio.log()).mul_(p)
    gradient = q.mul_(ratio).sub_(p)
    value = (gap.nansum(-1) + gradient.sum(-1)) / total.squeeze(-1)
    return Divergence(value, gradient, p, total)
