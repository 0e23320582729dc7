"""A model and a teacher asked for a few samples before training, so that what does not fit is refused at once."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.assess.forecasts import forecast, refuse_probabilities
from preceptor.data.dataset import Data, Indexed
from preceptor.errors import InputError
from preceptor.inputs import Inputs, batch_to, call, described, device_of, each, taken
from preceptor.losses.targets import Targets, whole
from preceptor.notices import note
from preceptor.outputs import logits_of
from preceptor.outputs.logits import others_in
from preceptor.tasks.teacher import Leaf, Lookup, TeacherFn, leaves
from preceptor.training.data.samples import Samples

_FEW = 16


def check_output(model: nn.Module, data: Data, name: str, *, distribution: str = "softmax") -> None:
    """Refuse a model whose output, in eval or in training mode, is not one row of logits with a column for each class.

    Raises:
        InputError: it fails, gives no logits, another number of them, or probabilities.
    """
    whose = f"the model '{name}'"
    few = Indexed(data.train, collate_fn=data.collate_fn)[list(range(min(_FEW, len(data.train))))]  # type: ignore[arg-type]
    was_training = model.training
    said = logits_of(_answer(model.eval(), few["input"], whose), whose)
    model.train(was_training)
    _say_what_is_left_out(model, few["input"], whose)
    _check_kind(said, whose)
    _check_shape(said, few["label"], data.num_classes, whose)
    if distribution == "softmax":
        _refuse_scale(said, f"The outputs of {whose}", "leave its softmax out")
    _check_training(model, few, data, whose)


def _say_what_is_left_out(model: nn.Module, inputs: Inputs, whose: str) -> None:
    """Note inputs by name that a model's forward does not take."""
    if isinstance(inputs, Mapping):
        out = [name for name in inputs if name not in taken(model, inputs)]
        if out:
            note(f"{whose} takes no {', '.join(out)} of the inputs, and is not given it")


def check_parts(model: nn.Module, samples: Samples, name: str) -> None:
    """Refuse held-out and test samples that the model cannot take, where they are unlike those of training.

    Raises:
        InputError: it fails, with the part, the shape and the type of its inputs.
    """
    expected, was_training = _kind(_first(samples.train, samples.parts["train"])), model.training
    parts = {"held-out": _first(samples.train, samples.parts["heldout"])}
    if samples.test is not None:
        parts["test"] = _first(samples.test, samples.test_indices)
    for part, inputs in parts.items():
        if _kind(inputs) != expected:
            _answer(model.eval(), inputs, f"the model '{name}', asked for a {part} sample,")
    model.train(was_training)


def _first(dataset: Indexed, indices: Tensor) -> Inputs:
    return dataset[indices[:1].tolist()]["input"]


def _kind(inputs: Inputs) -> Any:
    """What a model may depend on; the length of sequences, which go by name, is not of it."""
    if isinstance(inputs, Mapping):
        return {name: (tensor.ndim, tensor.dtype) for name, tensor in inputs.items()}
    return inputs.shape, inputs.dtype


def _check_training(model: nn.Module, few: Mapping[str, Tensor], data: Data, whose: str) -> None:
    """The same of a copy in training mode: auxiliary heads may answer then, and statistics move."""
    try:
        learner = copy.deepcopy(model).train()
    except Exception:  # such as a tensor of a graph in it: the first step will tell
        return
    said = _answer(learner, each(few["input"], lambda tensor: tensor[:2]), f"{whose} in training mode", gradient=True)
    logits = logits_of(said, f"{whose} in training mode")
    _check_shape(logits, few["label"][:2], data.num_classes, whose)
    if not logits.requires_grad:
        raise InputError(
            f"the logits of {whose} carry no gradient, so that nothing of it can be trained; compute them of "
            "parameters with requires_grad, without detach() or torch.no_grad()",
            argument="model",
        )
    if others_in(said):
        note(f"{whose} gives {', '.join(others_in(said))} beside its logits in training; only the logits are trained")


def check_teacher(teacher: TeacherFn, samples: Samples, device: torch.device | str) -> None:
    """Refuse a teacher whose output does not fit the data set, by asking it, on `device`, for a few samples.

    Raises:
        InputError: it fails; no tensor, another shape than one row of logits for each sample, probabilities where
            logits are meant or the other way round; or a table of another number of samples.
    """
    parts = list(leaves(teacher))
    for part in parts:
        if isinstance(part, Lookup) and part.table.shape[-2] != len(samples.train):
            raise InputError(
                f"the teacher's table has {part.table.shape[-2]} rows and the data set {len(samples.train)} "
                "samples; give one row for each sample"
            )
    batch = batch_to(samples.train[spread(samples.for_students, _FEW)], device)
    for position, part in enumerate(parts):
        said = whole(_ask(part.answer, batch))
        if isinstance(said, Targets):  # a record of some classes: log-probabilities, of which it was sure itself
            continue
        _check_kind(said, "the teacher")
        _check_classes(said, samples.data.num_classes)
        labels = batch["label"]
        if samples.are_tokens and said.ndim == 2:  # a record of tokens answers for those that count alone
            labels = labels[batch["mask"]]
        _check_shape(said, labels, samples.data.num_classes, "the teacher")
        _check_scale(part, said, f"teacher {position}" if len(parts) > 1 else "the teacher")
    _ask(teacher, batch)  # what is done to their outputs must fit, too


def spread(indices: Tensor, count: int) -> list[int]:
    """Up to `count` of some indices, evenly spread over them."""
    places = torch.linspace(0, len(indices) - 1, min(count, len(indices))).round().long()
    return indices[places].tolist()


@contextmanager
def drawing_nothing(device: torch.device | str) -> Iterator[None]:
    """Ask somebody without gradient, and leave the global generators as they are."""
    device = torch.device(device)
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _answer(model: nn.Module, inputs: Inputs, whose: str, *, gradient: bool = False) -> Any:
    try:
        with drawing_nothing("cpu"), torch.set_grad_enabled(gradient):
            return call(model, inputs)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{whose} cannot take inputs of {described(inputs)}: {error}") from error


def _ask(teacher: Callable[[Any], Any], batch: Mapping[str, Any]) -> Any:
    try:
        with drawing_nothing(device_of(batch["input"])):
            return teacher(batch)
    except InputError:
        raise
    except KeyError as error:
        raise InputError(
            f"the teacher asks the batch for {error}, and it has {', '.join(batch)}; give a function of these"
        ) from error
    except Exception as error:
        shapes, reason = described(each(batch["input"], lambda t: t[0])), str(error).partition("\n")[0]
        raise InputError(
            f"the teacher cannot read the data set's inputs of {shapes} ({reason}); distill on the data set that "
            "the teacher was trained for"
        ) from error


def _check_kind(said: Tensor, whose: str) -> None:
    """Refuse tensors that losses cannot compute with: sparse, without content, or of 8-bit floats."""
    coarse = said.is_floating_point() and said.dtype.itemsize < 2
    if (
        said.is_meta
        or said.layout != torch.strided
        or said.is_nested
        or said.is_quantized
        or said.is_complex()
        or coarse
    ):
        raise InputError(
            f"{whose} gives a tensor of {said.dtype} ({said.layout}, on '{said.device}'), which no loss can read; "
            "give a dense one of float32, float16 or bfloat16"
        )


def _check_classes(said: Tensor, num_classes: int) -> None:
    if said.ndim == 2 and said.shape[-1] not in (1, num_classes):
        raise InputError(
            f"the teacher has {said.shape[-1]} classes and the student {num_classes}; "
            "distill on the data set that the teacher was trained for"
        )


def _check_shape(said: Tensor, labels: Tensor, num_classes: int, whose: str) -> None:
    shape, wanted = tuple(said.shape), (*labels.shape, num_classes)
    if shape == wanted:
        return
    if num_classes == 2 and shape in (tuple(labels.shape), (*labels.shape, 1)):
        raise InputError(
            f"{whose} gives one number for each sample, shape {shape}, and there are 2 classes; give two logits: for "
            "the logit z of class 1 these are [0, z]"
        )
    if whose != "the teacher" and shape[:-1] == wanted[:-1]:
        raise InputError(
            f"{whose} has {shape[-1]} outputs and the data set {num_classes} classes; "
            "build the model with as many outputs"
        )
    raise InputError(
        f"the output of {whose} has shape {shape} for {len(labels)} samples; it must be {wanted}, one row of "
        f"{num_classes} logits for each"
    )


def _check_scale(part: Leaf, said: Tensor, whose: str) -> None:
    """Refuse probabilities that are to be read as logits, and logits that are to be read as probabilities."""
    if part.distribution == "softmax":
        _refuse_scale(said, f"The outputs of {whose}", "pass probabilities=True")
    elif part.distribution == "probabilities":
        known = said[~said.isnan().any(-1)]
        if len(known):
            forecast(known, probabilities=True, what=f"The outputs of {whose}")


def _refuse_scale(said: Tensor, what: str, remedy: str) -> None:
    known = said[said.amax(-1).isfinite()]
    if len(known):
        refuse_probabilities(known.detach().double().cpu().numpy(), what, remedy=remedy)
