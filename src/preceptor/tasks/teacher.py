"""What a student learns from: any callable from a batch to logits or log-probabilities, or a weighted list of
them.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from preceptor.data.labels import dense_tensor
from preceptor.errors import InputError
from preceptor.inputs import Inputs, call, each
from preceptor.losses.targets import Targets, whole
from preceptor.outputs import average_probabilities, logits_of, read_logits, transformed
from preceptor.schema import Transform
from preceptor.tasks.tokens import of_tokens

Batch: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = Tensor | Targets
"""Logits or log-probabilities, or what a record has kept of them."""
TeacherFn: TypeAlias = Callable[[Batch], Answer]
TeacherLike: TypeAlias = nn.Module | TeacherFn | Sequence["TeacherLike | tuple[TeacherLike, float]"]


class Teacher:
    """A model as a teacher: asked in eval mode and without gradient, and left as it was but for its device.

    Args:
        model: maps ``batch["input"]``, a tensor or keyword arguments, to logits (..., C), alone or under the name
            ``logits``.
        distribution: how logits become the teacher's distribution; ``clip`` is for models trained by squared
            error on the logits (clip to [0, 1], renormalise); ``probabilities`` for models that give these.
        temperature: divides the logits (post-hoc calibration).
        class_names: names of the C classes, compared with the student's where both are known.
        transform: done to the output last (`preceptor.assess.transformed`).
        preprocessing: how raw values became the inputs that it was trained on (`Data.preprocessing`); the same must
            be true of the student's, or `convert` must make it so. Empty where that is not known.
        input_shape: of those inputs, without a batch axis; empty where it is not known.

    Attributes:
        convert: makes the model's own inputs of the student's.
    """

    distribution: str
    temperature: float
    transform: Transform | None
    class_names: tuple[str, ...]

    def __init__(
        self,
        model: nn.Module,
        *,
        distribution: str = "softmax",
        temperature: float = 1.0,
        class_names: Sequence[str] = (),
        transform: Transform | None = None,
        preprocessing: Mapping[str, Any] | None = None,
        input_shape: Sequence[int] = (),
    ) -> None:
        # Not registered anywhere: a teacher's parameters are no optimizer's business.
        self.model: nn.Module = model
        self.distribution, self.temperature, self.class_names = distribution, temperature, tuple(class_names)
        self.transform = transform
        self.preprocessing: dict[str, Any] = dict(preprocessing or {})
        self.input_shape: tuple[int, ...] = tuple(input_shape)
        self.convert: Callable[[Tensor], Tensor] | None = None

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the model, unless it is spread over several devices."""
        if len({tensor.device for tensor in (*self.model.parameters(), *self.model.buffers())}) < 2:
            self.model.to(device)
        return self

    def with_model(self, model: nn.Module) -> "Teacher":
        """The same, of another form of the model."""
        changed = copy.copy(self)
        changed.model = model
        return changed

    @torch.no_grad()
    def answer(self, batch: Batch) -> Tensor:
        """What the model itself says to a batch, before any of it is read."""
        inputs = batch["input"] if self.convert is None else self.convert(batch["input"])
        with in_eval_mode(self.model):
            return _floating(logits_of(call(self.model, _as_weights(inputs, self.model)), "the teacher"))

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        return read_logits(self.answer(batch), self.distribution, self.temperature, self.transform)


def _as_weights(inputs: Inputs, model: nn.Module) -> Inputs:
    """Inputs in the precision of a model that is in half precision throughout."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    half = len(dtypes) == 1 and dtypes <= {torch.float16, torch.bfloat16}
    if not half:
        return inputs
    [dtype] = dtypes
    return each(inputs, lambda tensor: tensor.to(dtype=dtype) if _is_floating(tensor) else tensor)


def _is_floating(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.is_floating_point()


def _floating(logits: Tensor) -> Tensor:
    """Whole numbers as floats, and a tensor of `torch.inference_mode` as one that a loss may keep."""
    if logits.is_complex():
        raise InputError(f"the teacher's outputs are of {logits.dtype}; give real logits")
    if not logits.is_floating_point():
        return logits.float()
    return logits.clone() if logits.is_inference() else logits


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put `model` into eval mode, and afterwards those of its modules that were in training mode back into that."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class Function:
    """Somebody's function from a batch to logits as a teacher.

    Args:
        function: of the whole batch; its answer is read as a model's is.
        distribution: as of `Teacher`: ``softmax`` or ``probabilities``.
    """

    function: TeacherFn
    distribution: str

    def __init__(self, function: TeacherFn, *, distribution: str = "softmax") -> None:
        self.function, self.distribution = function, distribution

    @torch.no_grad()
    def answer(self, batch: Batch) -> Answer:
        """What the function says to a batch, before any of it is read."""
        said = self.function(batch)
        return said if isinstance(said, Targets) else _floating(logits_of(said, "the teacher"))

    def __call__(self, batch: Batch) -> Answer:
        said = whole(self.answer(batch))
        return said if isinstance(said, Targets) else read_logits(said, self.distribution)


class Mixture:
    """The weighted mean of several teachers' probabilities, as log-probabilities."""

    weights: list[float]

    def __init__(self, teachers: Sequence[TeacherFn], weights: Sequence[float]) -> None:
        self.teachers, self.weights = list(teachers), list(weights)

    def to(self, device: torch.device | str) -> "Mixture":
        """Move the teachers that can be moved."""
        self.teachers: list[TeacherFn] = [moved(teacher, device) for teacher in self.teachers]
        return self

    def __call__(self, batch: Batch) -> Tensor:
        said = [of_all_classes(teacher(batch), "the mean of several teachers") for teacher in self.teachers]
        if len({each.ndim for each in said}) > 1:  # of tokens: a record answers for those that count alone
            said = [of_tokens(each, batch["mask"], "the teacher") for each in said]
        return average_probabilities(said, self.weights)


class Transformed:
    """A teacher whose output is transformed before a student sees it (`preceptor.assess.transformed`)."""

    transform: Transform

    def __init__(self, teacher: TeacherFn, transform: Transform) -> None:
        self.teacher, self.transform = teacher, transform

    def to(self, device: torch.device | str) -> "Transformed":
        """Move the teacher, if it can be moved."""
        self.teacher: TeacherFn = moved(self.teacher, device)
        return self

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        return transformed(of_all_classes(self.teacher(batch), "a transform"), self.transform)


class Lookup:
    """A teacher's outputs for every sample, computed before: ``table[..., batch["index"], :]``.

    Args:
        table: logits or log-probabilities (N, C) by sample index, or (U, N, C) for a stack.
        distribution: as of `Teacher`: ``softmax`` or ``probabilities``.
        row_of: for each model of a stack, the row of `table` that teaches it.
    """

    def __init__(self, table: Tensor, row_of: Sequence[int] | None = None, *, distribution: str = "softmax") -> None:
        self.table = _floating(dense_tensor(table, "teacher's outputs"))
        if self.table.ndim not in (2, 3):
            raise InputError(
                f"the teacher's outputs have shape {tuple(self.table.shape)}; give (N, C), or (U, N, C) for a stack"
            )
        self.row_of = None if row_of is None else torch.tensor(list(row_of))[:, None]
        self.distribution = distribution

    def to(self, device: torch.device | str) -> "Lookup":
        """Move the table."""
        self.table: Tensor = self.table.to(device)
        self.row_of = None if self.row_of is None else self.row_of.to(device)
        return self

    def answer(self, batch: Batch) -> Tensor:
        """What stands in the table for a batch, before any of it is read."""
        index = batch["index"]
        return self.table[index] if self.row_of is None else self.table[self.row_of, index]

    def __call__(self, batch: Batch) -> Tensor:
        return read_logits(self.answer(batch), self.distribution)


def of_all_classes(answer: Answer, what: str) -> Tensor:
    """A teacher's answer, where logits or log-probabilities of all classes are needed.

    Raises:
        InputError: it is from a record of some classes; `what` says who needs all.
    """
    found = whole(answer)
    if isinstance(found, Targets):
        raise InputError(f"{what} needs the teacher's outputs for all classes; record the form 'dense'")
    return found


Leaf: TypeAlias = Teacher | Function | Lookup
"""A teacher that is not made of others."""


def moved(teacher: TeacherFn, device: torch.device | str) -> TeacherFn:
    """`teacher` on `device`, if it is a model or a table; somebody's function looks after itself."""
    return teacher.to(device) if isinstance(teacher, Teacher | Mixture | Transformed | Lookup) else teacher


def leaves(teacher: TeacherFn) -> Iterator[Leaf]:
    """The teachers that a mixture is made of, or the one there is."""
    if isinstance(teacher, Mixture):
        for part in teacher.teachers:
            yield from leaves(part)
    elif isinstance(teacher, Transformed):
        yield from leaves(teacher.teacher)
    else:
        yield teacher if isinstance(teacher, Leaf) else Function(teacher)


def each_leaf(teacher: TeacherFn, change: Callable[[Leaf], Leaf]) -> TeacherFn:
    """The same teacher with other leaves; the one given stays as it is."""
    if isinstance(teacher, Mixture):
        return Mixture([each_leaf(part, change) for part in teacher.teachers], teacher.weights)
    if isinstance(teacher, Transformed):
        return Transformed(each_leaf(teacher.teacher, change), teacher.transform)
    return change(teacher if isinstance(teacher, Leaf) else Function(teacher))


def of_probabilities(teacher: TeacherFn) -> TeacherFn:
    """A teacher whose leaves give probabilities where logits were expected."""

    def change(leaf: Leaf) -> Leaf:
        changed = copy.copy(leaf)
        if leaf.distribution == "softmax":
            changed.distribution = "probabilities"
        return changed

    return each_leaf(teacher, change)


def as_teacher(teacher: TeacherLike) -> TeacherFn:
    """Any form of teacher as one callable from a batch to logits or log-probabilities.

    A module is given ``batch["input"]`` (tensors by name as keyword arguments), in eval mode and without gradient, a
    function the whole batch; of what they return the ``logits`` are taken. A sequence (of teachers, or of pairs with a
    weight) becomes the mean of their probabilities.

    Raises:
        InputError: an empty list, a weight that is not positive, or something that cannot be called.
    """
    if isinstance(teacher, nn.Module):
        return of_module(teacher)
    if isinstance(teacher, Leaf | Mixture | Transformed):
        return teacher
    if callable(teacher):
        return Function(teacher)
    if _is_table(teacher):
        raise InputError(
            "a teacher is a callable from batch to logits, a module, or a list of them, not a table of numbers; give "
            "preceptor.tasks.Lookup(torch.as_tensor(table)), whose rows are the samples of the data set"
        )
    if not isinstance(teacher, Sequence) or isinstance(teacher, str) or not teacher:
        what = "an empty one" if isinstance(teacher, list | tuple) else f"a {type(teacher).__name__}"
        raise InputError(f"a teacher is a callable from batch to logits, a module, or a list of them, not {what}")
    pairs: list[Any] = [part if isinstance(part, tuple) else (part, 1.0) for part in teacher]
    weights = [weight for _, weight in pairs]
    if any(not weight > 0 for weight in weights):
        raise InputError(f"the teachers' weights are {weights}; give positive numbers")
    return Mixture([as_teacher(part) for part, _ in pairs], weights)


def _is_table(teacher: Any) -> bool:
    """An array, or numbers however deep in lists."""
    if isinstance(teacher, np.number | int | float):
        return False
    while isinstance(teacher, list | tuple) and teacher:
        teacher = teacher[0]
    return isinstance(teacher, Tensor | np.ndarray | np.number | int | float)


def of_module(model: nn.Module) -> Teacher:
    """A module as a teacher, with how it says itself that it is to be read: its run (`preceptor.load`), its folder."""
    unmade = next((name for name, tensor in model.named_parameters() if is_lazy(tensor)), None)
    if unmade is not None:
        raise InputError(
            f"the teacher's parameter '{unmade}' has no values yet, as no input was seen by its lazy layer; call the "
            "model on one and train it before it teaches",
            argument="teacher",
        )
    reading = {"class_names": _named_classes(model), **vars(model).get("_as_teacher", {})}
    return Teacher(model, **reading)


def _named_classes(model: nn.Module) -> tuple[str, ...]:
    """The class names in the configuration of a model of transformers; none where it has just numbered them."""
    named = getattr(getattr(model, "config", None), "id2label", None)
    if not isinstance(named, Mapping):
        return ()
    names = tuple(str(named.get(number)) for number in range(len(named)))
    return () if names == tuple(f"LABEL_{number}" for number in range(len(named))) else names
