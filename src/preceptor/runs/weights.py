"""A run's weights on disk: safetensors whose header says which model they belong to, and models rebuilt from them."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from preceptor import names
from preceptor.data.dataset import shortened
from preceptor.errors import InputError
from preceptor.models.preparation import finish_, own_memory_, to_channels_last_
from preceptor.names import Trust
from preceptor.recipe import TeacherRef
from preceptor.runs import checkpoint, files
from preceptor.runs.folder import check_member, read_result
from preceptor.runs.integrity import SCHEMA, checked
from preceptor.schema import Component, Transform, parse_transform
from preceptor.tasks.stack import Stack, member_names, member_state
from preceptor.tasks.teacher import Teacher

Factory = Callable[..., nn.Module]


@dataclass(frozen=True)
class Weights:
    """A model's weights with what a reader must know about them."""

    tensors: dict[str, Tensor]
    model: dict[str, Any]
    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    distribution: str
    temperature: float | list[float]
    members: int | None
    transform: Transform | None = None
    """Of the output: chosen with the weights (``teaching``)."""


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write weights atomically, as plain safetensors: tensor names are those of the model's state dict."""
    with files.atomic_path(path) as temporary:
        files.save_tensors(temporary, tensors, {"schema_version": SCHEMA, **metadata})


def read_weights(path: Path) -> Weights:
    """Weights that a run wrote.

    Raises:
        InputError: no such file, damaged, a pickle, of a newer format, or without Preceptor's metadata.
    """
    tensors, metadata = files.load_tensors(checked(path.parent, path.name))
    if not {"model", "schema_version"} <= metadata.keys():
        raise InputError(f"'{path}' does not say which model it belongs to; give weights that Preceptor wrote")
    if metadata["schema_version"] > SCHEMA:
        raise InputError(
            f"'{path}' has format {metadata['schema_version']}, newer than this Preceptor's {SCHEMA}; upgrade Preceptor"
        )
    found: dict[str, Any] = {"tensors": tensors}
    for field in dataclasses.fields(Weights)[1:]:
        if field.name not in metadata and field.default is not dataclasses.MISSING:
            continue
        if field.name not in metadata:
            raise InputError(f"'{path}' lacks '{field.name}'; it is damaged or was not written by Preceptor")
        value = metadata[field.name]
        found[field.name] = tuple(value) if field.name in ("input_shape", "class_names") else value
    if found.get("transform") is not None:
        found["transform"] = parse_transform(found["transform"], f"'{path}'")
    return Weights(**found)


def load_model(
    path: Path, member: int | None = None, *, model: Factory | str | None = None, trust: Trust = False
) -> tuple[torch.nn.Module, Weights]:
    """Rebuild the model whose weights are at `path`.

    Args:
        member: which of a stack.
        model: what makes it, where the weights name somebody's own: a module, or a function of `num_classes` and, if
            its signature names them, `input_shape` and the options that the weights name; or its
            ``package.module:name``.
        trust: import the model that the weights name, if it is somebody's own (True, or these names).

    Raises:
        InputError: as `read_weights`; the weights are of another architecture than their recipe's, or of somebody's
            own, and neither `model` nor `trust` is given; a stack without `member`, or `member` without a stack or
            outside it.
    """
    weights = read_weights(path)
    return _model_of(weights, f"'{path}'", member, model, trust), weights


def stack_of(weights: Weights, source: str, source_of: Sequence[int] | None = None, *, trust: Trust = False) -> Stack:
    """All models of a stack as one module.

    Args:
        weights: of the stack.
        source: what an error calls them.
        source_of: for each model, the row of the input that it reads; default: its own.
        trust: as of `load_model`.

    Raises:
        InputError: they are a single model's, or of somebody's own model that is not trusted.
    """
    if weights.members is None:
        raise InputError(f"{source} holds a single model, not a stack; load it by load_model")
    stack = Stack([_made(weights, source, None, trust) for _ in range(weights.members)], source_of)
    load_weights(stack, weights.tensors, source)
    return stack.eval()


def load_teacher(reference: TeacherRef, *, model: Factory | str | None = None, trust: Trust = False) -> Teacher:
    """The teacher that a recipe refers to.

    Args:
        model, trust: as of `load_model`.

    Raises:
        InputError: the run is missing or incomplete, or has no such weights, epoch or member; or it has a model of
            somebody's own, and neither `model` nor `trust` is given.
    """
    module, weights = model_of(reference, model=model, trust=trust)
    return Teacher(module, temperature=temperature_of(reference, weights), **reading_of(weights))


def reading_of(weights: Weights) -> dict[str, Any]:
    """How a model of these weights is read as a `Teacher`, and what it was trained on, as its arguments."""
    wanted = ("distribution", "class_names", "transform", "preprocessing", "input_shape")
    return {name: getattr(weights, name) for name in wanted}


def model_of(
    reference: TeacherRef, *, model: Factory | str | None = None, trust: Trust = False
) -> tuple[nn.Module, Weights]:
    """The model that a reference names, in eval mode; arguments and errors as of `load_teacher`."""
    read_result(reference.run)
    weights, source = teacher_weights(reference)
    return _model_of(weights, source, reference.member, model, trust), weights


def temperature_of(reference: TeacherRef, weights: Weights) -> float:
    """The temperature that a reference asks for: the one fitted to its run's weights, or 1.

    Raises:
        InputError: the run has fitted none.
    """
    if not reference.calibrated:
        return 1.0
    if not read_result(reference.run).get("temperature"):
        raise InputError(
            f"the teacher '{reference.run}' has no temperature of its own; teach it with calibrate=true, or "
            "leave calibrated out"
        )
    fitted = weights.temperature
    return fitted[reference.member or 0] if isinstance(fitted, list) else fitted


def teacher_weights(reference: TeacherRef) -> tuple[Weights, str]:
    """The weights that a reference names, all members of a stack, and what an error calls them.

    Raises:
        InputError: as `load_teacher`.
    """
    run, epoch = reference.run, reference.epoch
    path = run / f"{reference.weights}.safetensors"
    if not path.exists():
        there = [kind for kind in ("last", "best", "average", "teaching") if (run / f"{kind}.safetensors").exists()]
        raise InputError(f"the run '{run}' has no '{reference.weights}' weights; it has: {', '.join(there)}")
    weights = read_weights(path)
    if epoch is None:
        return weights, f"'{path}'"
    kept = kept_epochs(run)
    if epoch not in kept:
        raise InputError(
            f"the run '{run}' has not kept epoch {epoch}; it has: {shortened(list(kept)) or 'none'}; train with "
            "training.keep=all to keep every epoch"
        )
    tensors, _ = checkpoint.load(kept[epoch])
    # All else is the run's: the file of its last weights says which model this is.
    return dataclasses.replace(
        weights, tensors=checkpoint.within("model", tensors), temperature=1.0, transform=None
    ), f"'{kept[epoch]}'"


def kept_epochs(run: Path) -> dict[int, Path]:
    """The checkpoints that a run has kept, by the number of epochs before them."""
    folder = run / "checkpoints"
    for path in checkpoint.saved(folder):
        for name in checkpoint.FILES:
            checked(run, f"{folder.name}/{path.name}/{name}")
    return checkpoint.after_epochs(folder)


def _model_of(
    weights: Weights, source: str, member: int | None, factory: Factory | str | None, trust: Trust
) -> torch.nn.Module:
    check_member(weights.members, member, source)
    made = _made(weights, source, factory, trust)
    load_weights(made, weights.tensors if member is None else member_state(weights.tensors, member), source)
    to_channels_last_(made, torch.zeros(2, *weights.input_shape))
    return made.eval()


def _made(weights: Weights, source: str, factory: Factory | str | None, trust: Trust) -> torch.nn.Module:
    """A model of the weights' architecture."""
    supplied = {"num_classes": weights.num_classes, "input_shape": weights.input_shape}
    component = _component(weights, source)
    with torch.random.fork_rng(devices=[]):  # the weights that it draws are replaced
        if factory is None:
            made = names.call("model", component, supplied, trust=trust, source=source)
        else:
            made = _given(factory, component, supplied)
        finish_(made, member_names(weights.tensors), weights.input_shape)
    own_memory_(made)
    return made


def _component(weights: Weights, source: str) -> Component:
    """The model that weights name; one that was handed over as an object is named so that people know it."""
    named = dict(weights.model or {})
    try:
        return Component.model_validate({"name": named.pop("factory", None), **named})
    except ValidationError:
        raise InputError(f"{source} names no model; it is damaged or was not written by Preceptor") from None


def _given(factory: Factory | str, component: Component, supplied: Mapping[str, Any]) -> nn.Module:
    """A model that the caller says how to make, with the options that the weights name where it takes them."""
    found = names.find("model", factory, trust=True) if isinstance(factory, str) else factory
    if isinstance(found, nn.Module):
        return copy.deepcopy(found)
    known, anything = names.options_of(found)
    named = component.options if ":" in component.name else {}
    options = {key: value for key, value in named.items() if key in known or anything}
    made = found(**(options | names.accepted(found, supplied)))
    names.check_kind("model", component.name, made)
    return made


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict that must fit exactly.

    Raises:
        InputError: it is another architecture's; the first tensor that does not fit is named.
    """
    own = model.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        what = f"lacks '{missing[0]}'" if missing else f"has '{extra[0]}', which the model lacks"
        raise InputError(f"{source} is of another architecture: it {what}; give the model that it was trained with")
    for name, tensor in tensors.items():
        if not is_lazy(own[name]) and tensor.shape != own[name].shape:
            raise InputError(
                f"{source} is of another architecture: '{name}' has shape {tuple(tensor.shape)}, the model's "
                f"has {tuple(own[name].shape)}; give the model that it was trained with"
            )
    model.load_state_dict(dict(tensors))
