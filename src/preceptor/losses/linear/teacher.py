"""What a fused loss learns from: the rows of its teacher, a chunk of tokens at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from preceptor.losses._closed import Kernel, Plain, Rows, _block_rows, _on_cpu, _on_gpu
from preceptor.losses._common import check_floating, refused
from preceptor.losses.linear.head import STRAIGHT, Bend, Head, as_head, bent
from preceptor.losses.linear.products import place_for, product, same_dtype
from preceptor.losses.targets import SparseTargets, Targets, each, whole

_IN_BLOCKS = {"cpu"}

Teacher = tuple[Float[Tensor, "*batch width"], Tensor | Head] | Float[Tensor, "*batch vocabulary"] | Targets
"""Hidden states and the head that makes logits of them; logits, or log-probabilities; what a record brings."""


Place = Tensor | None


@dataclass(frozen=True)
class Form:
    """A loss of logits in its three forms, with its options bound.

    Args:
        kernel: value and gradient of rows of logits.
        plain: the same for autograd.
        sparse: ``sparse(student_logits, targets)`` where the teacher is some classes, or the error that refuses them.
        shared: a tensor that all rows share.
    """

    kernel: Kernel
    plain: Plain
    sparse: Callable[[Tensor, SparseTargets], Tensor]
    shared: Tensor | None = None


@dataclass(frozen=True)
class Logits:
    """A teacher of which all logits are there, (tokens, vocabulary)."""

    values: Tensor

    @property
    def size(self) -> int:
        """Entries of its vocabulary."""
        return self.values.shape[-1]

    def room(self, tokens: int, size: int) -> Place:
        """None: they are there."""
        return None

    def solve(self, form: Form, bend: Bend, raw: Tensor, rows: Tensor | slice, into: Place, room: Place) -> Tensor:
        """The losses (rows,) of what the student's matrix gives, (rows, vocabulary); their gradient `into` a place.

        That may be the place of what the matrix gave. `room` is for the teacher's logits.
        """
        return _dense(form, bend, raw, self.values[rows][:, : raw.shape[-1]], STRAIGHT, into)


@dataclass(frozen=True)
class HiddenStates:
    """A teacher's hidden states, (tokens, width), and its head."""

    states: Tensor
    head: Head

    @property
    def size(self) -> int:
        """Entries of its vocabulary."""
        return self.head.size

    def room(self, tokens: int, size: int) -> Place:
        """For the logits of so many tokens; memory that is given back after each chunk is slow to come again."""
        return place_for(self.states, tokens, size)

    def solve(self, form: Form, bend: Bend, raw: Tensor, rows: Tensor | slice, into: Place, room: Place) -> Tensor:
        """As `Logits.solve`."""
        size, head = raw.shape[-1], self.head
        found = product(self.states[rows], head.weight[:size].t(), None if room is None else room[: len(raw)])
        if head.bias is not None:
            found += head.bias[:size]
        return _dense(form, bend, raw, found, head.bend, into)


@dataclass(frozen=True)
class SomeClasses:
    """A teacher of which a record has some classes, (tokens, kept)."""

    targets: SparseTargets

    @property
    def size(self) -> int:
        """Entries of its vocabulary."""
        return self.targets.num_classes

    def room(self, tokens: int, size: int) -> Place:
        """None: it has no logits."""
        return None

    def solve(self, form: Form, bend: Bend, raw: Tensor, rows: Tensor | slice, into: Place, room: Place) -> Tensor:
        """As `Logits.solve`. What autograd holds is of a chunk, not of the batch."""
        targets = each(self.targets, lambda tensor: tensor[rows])
        if into is None:
            return form.sparse(bend.of(raw), targets)
        with torch.enable_grad():
            student = raw.detach().requires_grad_()
            losses = form.sparse(bend.of(student), targets)
            into.copy_(torch.autograd.grad(losses.sum(), student)[0])
        return losses.detach()


@dataclass(frozen=True)
class Labels:
    """A teacher that knows one token, (tokens, 1), of a vocabulary of `size`."""

    ids: Tensor
    size: int

    def room(self, tokens: int, size: int) -> Place:
        """None: it has no logits."""
        return None

    def solve(self, form: Form, bend: Bend, raw: Tensor, rows: Tensor | slice, into: Place, room: Place) -> Tensor:
        """As `Logits.solve`, in blocks of rows whose temporaries are small."""
        wide, ids = torch.promote_types(raw.dtype, torch.float32), self.ids[rows]
        step = _block_rows(raw) if raw.device.type == "cpu" else max(len(raw), 1)
        values = raw.new_empty(len(raw), dtype=wide)
        for start in range(0, len(raw), step):
            block = slice(start, start + step)
            logits = bend.of(raw[block].to(wide))
            log_q = logits.log_softmax(-1)
            values[block] = -log_q.gather(-1, ids[block]).squeeze(-1)
            if into is not None:
                gradient = log_q.exp_().scatter_add_(-1, ids[block], log_q.new_full((len(log_q), 1), -1.0))
                pulled = bend.pulled(Rows(values[block], gradient, 1.0, log_q.new_ones(len(log_q), 1)), logits)
                into[block] = pulled.gradient * pulled.slope
        return values


Source = Logits | HiddenStates | SomeClasses | Labels
"""A teacher, token after token."""


def _dense(form: Form, bend: Bend, raw: Tensor, teacher: Tensor, of_teacher: Bend, into: Place) -> Tensor:
    kernel, plain = bent(form.kernel, form.plain, bend, of_teacher)
    if raw.device.type not in _IN_BLOCKS:
        return _on_gpu(raw, teacher, None, form.shared, kernel, plain, into)
    dtype = torch.promote_types(torch.promote_types(raw.dtype, teacher.dtype), torch.float32)
    return _on_cpu(raw, teacher, form.shared, kernel, dtype, into)


def source(teacher: Teacher | Labels, lead: torch.Size) -> Source:
    """The teacher of tokens of the leading shape `lead`, flattened, without gradient.

    Raises:
        InputError: it is none, or of another leading shape.
    """
    if isinstance(teacher, Labels):
        return teacher
    if isinstance(teacher, tuple) and len(teacher) == 2 and isinstance(teacher[0], Tensor):
        states, head = teacher[0].detach(), as_head(teacher[1])
        check_floating("the teacher's hidden states", states)
        _check_lead(states.shape[:-1], lead)
        if states.shape[-1] != head.weight.shape[1]:
            raise refused(
                f"the teacher's hidden states have width {states.shape[-1]} and its head {head.weight.shape[1]}; give "
                "the states that its head is given, after the last norm."
            )
        bias = None if head.bias is None else head.bias.detach()
        states, weight, bias = same_dtype(states.reshape(-1, states.shape[-1]), head.weight.detach(), bias)
        return HiddenStates(states, Head(weight, bias, head.scale, head.softcap))
    found = whole(teacher) if isinstance(teacher, Tensor | Targets) else None
    if isinstance(found, SparseTargets):
        _check_lead(found.shape[:-1], lead)
        return SomeClasses(each(found, lambda tensor: usable(tensor.reshape(lead.numel(), *tensor.shape[len(lead) :]))))
    if isinstance(found, Tensor):
        check_floating("the teacher's logits", found)
        _check_lead(found.shape[:-1], lead)
        return Logits(found.detach().reshape(-1, found.shape[-1]))
    raise refused(
        f"the teacher is a {type(teacher).__name__}; give a pair of hidden states and head, logits, or the targets of "
        "a record."
    )


def usable(tensor: Tensor) -> Tensor:
    """What was made under inference mode, in a form that autograd may keep."""
    return tensor.clone() if tensor.is_inference() and not torch.is_inference_mode_enabled() else tensor


def _check_lead(of_teacher: torch.Size, of_student: torch.Size) -> None:
    if of_teacher != of_student:
        raise refused(
            f"the student has hidden states of {tuple(of_student)} tokens and the teacher stands for "
            f"{tuple(of_teacher)}; give both for the same tokens."
        )
