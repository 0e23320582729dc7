"""What belongs to the caller: found in whatever he hands over, not trained behind his back, and given back."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.inputs import Inputs, call
from preceptor.notices import note
from preceptor.tasks.reaching import reached
from preceptor.tasks.teacher import Function, Mixture, Teacher, TeacherFn, Transformed, leaves
from preceptor.training.checks.probe import drawing_nothing


def refuse_shared(student: nn.Module, teacher: TeacherFn, inputs: Inputs) -> None:
    """Refuse a student whose training would change the model that teaches it; frozen parts may be shared.

    Args:
        inputs: a small batch, to see which buffers training updates.

    Raises:
        InputError: they share a trainable parameter, or a buffer that training updates.
    """
    taught = [leaf.model for leaf in leaves(teacher) if isinstance(leaf, Teacher)]
    name = shared_tensor(student, taught, inputs)
    if name:
        raise InputError(
            f"the student and its teacher share '{name}', so that training the one would change the other; let the "
            "student's factory make a model of its own, such as copy.deepcopy of the teacher",
            argument="model",
        )


def moves_with(student: nn.Module, teacher: TeacherFn, inputs: Inputs) -> bool:
    """Whether a function that teaches uses what is being trained, such as the student itself; noted."""
    used = [module for leaf in leaves(teacher) if isinstance(leaf, Function) for module in modules_in(leaf.function)]
    if any(module.training and _acts_in_training(module) for module in used if module is not student):
        note(
            "the teacher is a function whose model is in training mode, where dropout draws and batch statistics move; "
            "call eval() on it, or hand over the model itself"
        )
    name = shared_tensor(student, used, inputs)
    if name:
        note(f"the teacher is a function of '{name}', which is being trained; it is asked in every step")
    return name is not None


def shared_tensor(student: nn.Module, others: Iterable[nn.Module], inputs: Inputs) -> str | None:
    """The name of a tensor that training the student changes and that another model has, too."""
    theirs = {place for other in others for _, tensor in _tensors(other) if (place := _place(tensor))}
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and _place(parameter) in theirs:
            return name
    shared = [name for name, buffer in student.named_buffers() if _place(buffer) in theirs]
    return next(iter(_updated(student, shared, inputs)), None) if shared else None


def modules_in(thing: Any) -> list[nn.Module]:
    """The modules that a function or object can reach: what it closes over, is bound to, holds, or names."""
    return [found for found in reached(thing) if isinstance(found, nn.Module)]


@contextmanager
def given_back(teacher: Any) -> Iterator[None]:
    """Let a run move the modules that a caller gave as teachers, and put them back where they were."""
    homes = [(module, devices.pop()) for module in _given(teacher) if len(devices := _devices(module)) == 1]
    try:
        yield
    finally:
        for module, home in homes:
            if _devices(module) != {home}:
                module.to(home)


def _given(teacher: Any) -> Iterator[nn.Module]:
    match teacher:
        case nn.Module():
            yield teacher
        case Teacher() | Mixture() | Transformed():
            yield from (leaf.model for leaf in leaves(teacher) if isinstance(leaf, Teacher))
        case list() | tuple():
            for part in teacher:
                yield from _given(part)


def _devices(module: nn.Module) -> set[torch.device]:
    return {tensor.device for _, tensor in _tensors(module)}


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _place(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 where it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse, or without memory yet
        return 0


def _updated(student: nn.Module, names: list[str], inputs: Inputs) -> list[str]:
    """Those of some buffers that a pass in training mode changes."""
    try:
        trained = copy.deepcopy(student).train()
    except Exception:  # in doubt all of them
        return names
    with drawing_nothing("cpu"):
        call(trained, inputs)
    return [name for name in names if not torch.equal(trained.get_buffer(name), student.get_buffer(name))]


def _acts_in_training(module: nn.Module) -> bool:
    kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
    return any(isinstance(each, kinds) and each.training for each in module.modules())
