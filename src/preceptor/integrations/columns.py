"""Teachers that are asked with a batch of columns by name, as loaders of transformers make them: each takes its own."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.inputs import taken
from preceptor.models.causal import base_of, uncached
from preceptor.names import options_of
from preceptor.tasks import Teacher
from preceptor.tasks.teacher import Function, Leaf, TeacherFn, each_leaf, leaves

LABELS = ("labels", "label", "label_ids")
_MAIN = ("pixel_values", "input_ids", "input_values", "input_features", "inputs_embeds")
"""The column that a model reads which knows nothing of names."""


def of_columns(teacher: TeacherFn) -> TeacherFn:
    """A teacher whose ``batch["input"]`` is a mapping of columns, as a student of transformers is called with.

    A module is called with those that its ``forward`` names (`preceptor.inputs.call`), but no labels: it is to make no
    loss. One that names none of them is given the main one (``pixel_values``, ``input_ids``, ...) as it is. A function
    is given the mapping.
    """

    def change(leaf: Leaf) -> Leaf:
        if not isinstance(leaf, Teacher):
            return Function(lambda batch: leaf(_mapping(batch)))
        convert, changed = leaf.convert, copy.copy(leaf)

        def pick(columns: Any) -> Any:
            inputs = {name: value for name, value in columns.items() if name not in LABELS}
            if convert is not None:
                return convert(_main(inputs))
            return {**inputs, **uncached(leaf.model)} if taken(leaf.model, inputs) else _main(inputs)

        changed.convert = pick
        return changed

    return each_leaf(teacher, change)


def columns_of(model: nn.Module) -> tuple[set[str], bool]:
    """The columns that the ``forward`` of a module, or of the one within PEFT's, names, and whether it takes any."""
    names, anything = options_of(base_of(model).forward)
    return names - set(LABELS), anything


def columns_read(teacher: TeacherFn) -> list[str]:
    """The columns that a teacher's modules name; what a function reads is its own business."""
    models = [leaf.model for leaf in leaves(teacher) if isinstance(leaf, Teacher) and leaf.convert is None]
    return sorted({name for model in models for name in columns_of(model)[0]})


def check_context(student: nn.Module, teacher: TeacherFn, inputs: Mapping[str, Any]) -> None:
    """Refuse a batch whose documents or padding the student is told of and a teacher is not: they would read others.

    Args:
        student, teacher: as `columns_of` and `of_columns` take them; what a function reads is its own business.
        inputs: the columns of a batch.

    Raises:
        InputError: a teacher's `forward` has no such column.
    """
    told = [name for name in _told(inputs) if name in columns_of(student)[0]]
    for leaf in leaves(teacher):
        model = getattr(leaf, "model", None)
        if not isinstance(model, nn.Module) or getattr(leaf, "convert", None) is not None:
            continue
        missing = [name for name in told if name not in columns_of(model)[0]]
        if missing:
            raise InputError(
                f"the batch tells by '{missing[0]}' what a token may look at, and the teacher, a "
                f"{type(model).__name__}, does not read it; give rows of one document each, padded on the right, or a "
                "teacher that reads it",
                argument="teacher",
            )


def _told(inputs: Mapping[str, Any]) -> list[str]:
    """The columns by which a causal model looks at less than all tokens before: documents, padding on the left."""
    places, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    found = []
    if isinstance(places, Tensor) and bool(((places == 0).sum(-1) > 1).any()):
        found.append("position_ids")
    if isinstance(mask, Tensor) and (mask.ndim > 2 or bool((mask[:, 0] == 0).any())):
        found.append("attention_mask")
    return found


def _mapping(batch: Mapping[str, Any]) -> Any:
    return batch["input"]


def _main(columns: Mapping[str, Any]) -> Tensor:
    tensors = {name: value for name, value in columns.items() if isinstance(value, Tensor)}
    found = [name for name in _MAIN if name in tensors] or list(tensors)
    if len(found) == 1 or (found and found[0] in _MAIN):
        return tensors[found[0]]
    raise InputError(
        f"the teacher names none of the batch's columns {', '.join(columns)}; give a function of the batch, such as "
        "lambda batch: teacher(batch['image'])",
        argument="teacher",
    )
