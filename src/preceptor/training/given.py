"""Teachers as they are given: a reference of a recipe loaded, an object of somebody's taken for what it is."""

from pathlib import Path
from typing import Any

from preceptor import runs
from preceptor.data.tables import read_table
from preceptor.errors import InputError
from preceptor.names import Trust
from preceptor.recipe import TeacherRef
from preceptor.runs import Factory
from preceptor.tasks.stored import Stored, stored
from preceptor.tasks.teacher import Leaf, TeacherFn, as_teacher

_SUFFIXES = (".npz", ".npy", ".parquet")


def load_reference(reference: TeacherRef, *, model: Factory | str | None, trust: Trust) -> Leaf:
    """The teacher that a recipe refers to: a run's, or a file of stored outputs.

    Args:
        model, trust: as of `preceptor.runs.load_teacher`.

    Raises:
        InputError: as `preceptor.runs.load_teacher`; a file that cannot be read, or has no logits.
    """
    if not reference.run.is_file():
        return runs.load_teacher(reference, model=model, trust=trust)
    if reference != TeacherRef(run=reference.run, weight=reference.weight):
        raise InputError(
            f"'{reference.run}' is a file of outputs, which has no weights, epochs or members; leave these out"
        )
    return _stored_file(reference.run)


def _stored_file(path: Path) -> Stored:
    if path.suffix not in _SUFFIXES:
        raise InputError(f"'{path}' is no file of outputs by its name; give one that ends in {', '.join(_SUFFIXES)}")
    table = read_table(path)
    if table.logits is None:
        raise InputError(f"'{path}' has no 'logits', and is no teacher; give a file with a teacher's logits")
    return Stored(
        table.logits, ids=table.ids, labels=table.labels, class_names=table.class_names, name=f"the outputs in '{path}'"
    )


def as_given(teacher: Any) -> TeacherFn:
    """Any form of teacher (`preceptor.tasks.as_teacher`), stored outputs among them (`preceptor.tasks.stored`).

    Raises:
        InputError: as of these.
    """
    found = stored(teacher)
    if found is not None:
        return found
    if isinstance(teacher, list | tuple):
        parts = [part if isinstance(part, tuple) else (part, 1.0) for part in teacher]
        teacher = [(stored(part) or part, weight) for part, weight in parts] if _are_pairs(parts) else teacher
    return as_teacher(teacher)


def _are_pairs(parts: list[Any]) -> bool:
    return all(len(part) == 2 for part in parts) and any(stored(part[0]) is not None for part in parts)
