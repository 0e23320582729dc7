"""A teacher's inputs, made as those that it was trained on: converted from the student's, or refused."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.inputs import device_of, tensors_of
from preceptor.losses._common import sent
from preceptor.notices import note
from preceptor.tasks.teacher import Function, Leaf, Lookup, Teacher, TeacherFn, each_leaf, leaves
from preceptor.training.checks.callers import modules_in
from preceptor.training.checks.probe import drawing_nothing

Convert = Callable[[Tensor], Tensor]
Preprocessing = Mapping[str, Any]

_NORMALIZE = {"divide_by", "mean", "std"}


def with_own_inputs(teacher: TeacherFn, data: Data, *, resize: bool = False) -> TeacherFn:
    """A teacher whose models are given inputs as they were trained on, where the student's are made otherwise.

    Args:
        resize: also images of the size that they were trained on.

    Raises:
        InputError: the one cannot be computed from the other; both are stated.
    """

    def fit(leaf: Leaf) -> Leaf:
        if isinstance(leaf, Teacher) and leaf.preprocessing:
            refuse_other_context(leaf.preprocessing, data.preprocessing)
        if not isinstance(leaf, Teacher) or not leaf.input_shape:
            return leaf  # nobody knows what it was trained on
        fitted = copy.copy(leaf)
        shapes = leaf.input_shape, data.input_shape
        sized = _resized(*shapes) if resize else None
        if sized is None:
            _note_shapes(leaf.preprocessing, data.preprocessing, *shapes)
        fitted.convert = _both(conversion(leaf.preprocessing, shapes[0], data.preprocessing, shapes[1]), sized)
        return fitted

    return each_leaf(teacher, fit)


def refuse_other_context(theirs: Preprocessing, ours: Preprocessing) -> None:
    """Refuse a language model that was taught to see other tokens than its student does, or tokens of another kind.

    Args:
        theirs, ours: the `Data.preprocessing` of teacher and student; under ``context`` what a position may look at.

    Raises:
        InputError: naming the first entry that differs.
    """
    their_context, our_context = (given.get("context", {}) for given in (theirs, ours))
    for name in dict.fromkeys([*our_context, *their_context]):
        there, here = their_context.get(name), our_context.get(name)
        if there != here:
            raise InputError(
                f"the teacher learned from rows of tokens whose {name} is {there}, and the student's is {here}; "
                "give the student's data the options of the teacher's",
                argument="data",
            )


def conversion(
    theirs: Preprocessing, their_shape: Sequence[int], ours: Preprocessing, our_shape: Sequence[int]
) -> Convert | None:
    """From inputs made as `ours` to inputs made as `theirs`; None where they are made alike.

    Args:
        theirs: the teacher's `Data.preprocessing`.
        their_shape: of one of its inputs.
        ours, our_shape: the student's.

    Raises:
        InputError: it cannot be computed.
    """
    convert, said = _conversion(theirs, their_shape, ours, our_shape)
    if said:
        note(said)
    return convert


def _note_shapes(
    theirs: Preprocessing, ours: Preprocessing, their_shape: Sequence[int], our_shape: Sequence[int]
) -> None:
    if _is_text(theirs, ours) or tuple(their_shape) == tuple(our_shape):
        return
    remedy = "; resize: true gives it images of its own size" if _resized(their_shape, our_shape) else ""
    note(f"the teacher was trained on inputs of shape {tuple(their_shape)} and is given {tuple(our_shape)}{remedy}")


def _resized(their_shape: Sequence[int], our_shape: Sequence[int]) -> Convert | None:
    """From images of one size to images of another; None where they are alike, or no images of as many channels."""
    if len(their_shape) != 3 or len(our_shape) != 3 or their_shape[0] != our_shape[0]:
        return None
    if tuple(their_shape) == tuple(our_shape):
        return None
    size = list(their_shape[1:])
    return lambda images: F.interpolate(images, size, mode="bilinear", antialias=True)


def _both(first: Convert | None, then: Convert | None) -> Convert | None:
    if first is None or then is None:
        return first or then
    return lambda inputs: then(first(inputs))


def refuse_unconverted(teacher: TeacherFn, data: Data, batch: Mapping[str, Tensor]) -> None:
    """Refuse a loaded model within a function or another module that is given the student's inputs as they are, though
    it was trained on others; whoever holds it may make them its own.

    Args:
        batch: some samples of the student's, to see what the model is given of them.

    Raises:
        InputError: stating both.
    """
    for leaf in leaves(teacher):
        if isinstance(leaf, Lookup) or (isinstance(leaf, Teacher) and leaf.input_shape):
            continue
        holders = [leaf.model] if isinstance(leaf, Teacher) else modules_in(leaf.function)
        for model in (module for holder in holders for module in holder.modules() if "_as_teacher" in vars(module)):
            stored = vars(model)["_as_teacher"]
            theirs, shape = stored.get("preprocessing") or {}, stored.get("input_shape") or data.input_shape
            if _differ(theirs, shape, data.preprocessing, data.input_shape) and _is_given(model, leaf, batch):
                raise InputError(
                    f"the teacher holds a model that was trained on inputs with {_said(theirs)}, and gives it the "
                    f"student's, which have {_said(data.preprocessing)}; hand over the loaded model itself, or give "
                    "the student's data set the options of the teacher's",
                    argument="teacher",
                )


def _differ(theirs: Preprocessing, their_shape: Sequence[int], ours: Preprocessing, our_shape: Sequence[int]) -> bool:
    try:
        return _conversion(theirs, their_shape, ours, our_shape)[0] is not None
    except InputError:
        return True


def _is_given(model: nn.Module, leaf: Teacher | Function, batch: Mapping[str, Tensor]) -> bool:
    """Whether a model that a teacher holds is handed the inputs of a batch as they are, in whatever shape."""
    given: list[Any] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: given.extend([*args, *kwargs.values()]), with_kwargs=True
    )
    try:
        with drawing_nothing(device_of(batch["input"])):
            leaf.answer(batch)
    finally:
        handle.remove()
    own = [tensor.reshape(-1) for tensor in tensors_of(batch["input"])]
    return any(
        torch.equal(each.reshape(-1), tensor.to(each)) for each in given if isinstance(each, Tensor) for tensor in own
    )


def _conversion(
    theirs: Preprocessing, their_shape: Sequence[int], ours: Preprocessing, our_shape: Sequence[int]
) -> tuple[Convert | None, str]:
    """The conversion, and what is to be said of it."""
    if _is_text(theirs, ours):
        return _of_texts(theirs, their_shape, ours, our_shape)
    if theirs == ours:
        return None, ""
    if not theirs or not ours:
        whose, known = ("the teacher", ours) if not theirs else ("the data set", theirs)
        return None, (
            f"how {whose}'s inputs were made is not known (Data.preprocessing); the other side's are "
            f"{_said(known)}, and must be the same"
        )
    if theirs.keys() == ours.keys() == _NORMALIZE:
        return _of_numbers(theirs, ours)
    raise _other(theirs, ours)


def _of_numbers(theirs: Preprocessing, ours: Preprocessing) -> tuple[Convert | None, str]:
    """Both are `(raw / divide_by - mean) / std`: `inputs * scale + shift`, per channel."""
    (their_mean, their_std), (mean, std) = _float64(theirs), _float64(ours)
    lengths = {len(values) for values in (their_mean, their_std, mean, std)} - {1}
    if len(lengths) > 1:
        raise _other(theirs, ours)
    unit = ours["divide_by"] / theirs["divide_by"]
    scale, shift = std * unit / their_std, (mean * unit - their_mean) / their_std
    if torch.allclose(scale, torch.ones_like(scale), rtol=1e-6) and shift.abs().max() < 1e-6:
        return None, ""
    if unit != 1:  # the same numbers divided otherwise, or other numbers? A file of pixels may have been divided before
        raise InputError(
            f"the teacher was trained on inputs with {_said(theirs)}, and the student's have {_said(ours)}; whether "
            "the numbers that are divided are the same cannot be known: give both one divide_by, or a function of the "
            "batch as the teacher",
            argument="data",
        )

    def convert(inputs: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (inputs.ndim - 2)
        by, plus = (sent(each.to(inputs.dtype), inputs.device).reshape(shape) for each in (scale, shift))
        return inputs * by + plus

    return (
        convert,
        f"the teacher is given inputs as it was trained on, {_said(theirs)}; the student's are {_said(ours)}",
    )


def _float64(normalize: Preprocessing) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(normalize[name], dtype=torch.float64).reshape(-1) for name in ("mean", "std"))
    return mean, std


def _is_text(theirs: Preprocessing, ours: Preprocessing) -> bool:
    return "max_bytes" in theirs and {**theirs, "max_bytes": 0} == {**ours, "max_bytes": 0}


def _of_texts(
    theirs: Preprocessing, their_shape: Sequence[int], ours: Preprocessing, our_shape: Sequence[int]
) -> tuple[Convert | None, str]:
    """Texts that the student reads whole, or at greater length than its teacher, are cut as the teacher's were."""
    most, longest = theirs["max_bytes"], max(their_shape[0], our_shape[0])
    if most == ours["max_bytes"] or longest < min(most, ours["max_bytes"]):  # then neither has cut a text
        return None, ""
    if most > ours["max_bytes"]:
        raise _other(theirs, ours)
    said = f"the teacher is given texts cut at {most} bytes, as it was trained on; the student's are {_said(ours)}"
    return lambda inputs: cut_texts(inputs, most), said


def cut_texts(texts: Tensor, most: int) -> Tensor:
    """Rows of UTF-8 bytes cut to at most `most` bytes each, between two characters.

    Args:
        texts: uint8 (B, L), zeros behind each text.

    >>> cut_texts(torch.tensor([list("aé".encode()), list(b"abc")], dtype=torch.uint8), 2)
    tensor([[97,  0],
            [97, 98]], dtype=torch.uint8)
    """
    if texts.shape[-1] <= most:
        return texts
    cut = texts[..., :most].clone()
    within = _continues(texts[..., most])  # the character at the cut has begun before it
    for place in range(most - 1, max(most - 5, -1), -1):
        begins = ~_continues(cut[..., place])
        cut[..., place] = cut[..., place].masked_fill(within, 0)
        within = within & ~begins
    return cut


def _continues(byte: Tensor) -> Tensor:
    """Whether a byte is within a character of UTF-8, and not its first."""
    return (byte & 0b1100_0000) == 0b1000_0000


def _said(preprocessing: Preprocessing) -> str:
    return ", ".join(f"{name} {value}" for name, value in preprocessing.items())


def _other(theirs: Preprocessing, ours: Preprocessing) -> InputError:
    return InputError(
        f"the teacher was trained on inputs with {_said(theirs)}, and the student's have {_said(ours)}; give the "
        "student's data set the options of the teacher's",
        argument="data",
    )
