"""Teachers as they are given: a reference of a recipe loaded, an object of somebody's taken for what it is."""

from pathlib import Path
from typing import Any

import torch

from preceptor import runs
from preceptor.data.tables import read_table
from preceptor.errors import InputError
from preceptor.models.folders import pretrained_of
from preceptor.names import Trust, trusting
from preceptor.notices import note
from preceptor.recipe import DistillRecipe, TeacherRef
from preceptor.records.teacher import RecordTeacher
from preceptor.records.token_teacher import teacher_of
from preceptor.runs import Factory
from preceptor.runs.contents import distinct, same_teacher
from preceptor.runs.references import kind_of, name_of
from preceptor.tasks.stored import Stored, stored
from preceptor.tasks.teacher import (
    Function,
    Leaf,
    TeacherFn,
    Transformed,
    as_teacher,
    each_leaf,
    leaves,
    moved,
    of_module,
    of_probabilities,
)
from preceptor.training.checks.vocabulary import of_tokens
from preceptor.training.data.samples import Samples
from preceptor.training.teachers.matching import matched
from preceptor.training.teachers.preprocessing import with_own_inputs
from preceptor.training.teachers.token_replay import refuse_unlike

_SUFFIXES = (".npz", ".npy", ".parquet")
_CALLED = {"file": "a file of outputs", "record": "a record", "pretrained": "a model of transformers"}


def load_teachers(recipe: DistillRecipe, model: Factory | str | None, trust: Trust) -> TeacherFn:
    """The teachers that a recipe refers to, as one.

    Raises:
        InputError: there is none; as `load_reference`.
    """
    if not recipe.teacher:
        raise InputError(
            "the recipe lacks the key 'teacher'; give teacher=RUN_FOLDER, a folder that teach wrote", argument="teacher"
        )
    trust = trusting(trust, recipe)
    several = distinct(recipe.teacher, same_teacher, name_of)
    loaded = [(load_reference(each, model=model, trust=trust), each.weight) for each in several]
    return loaded[0][0] if len(loaded) == 1 else as_teacher(loaded)


def fitted(recipe: DistillRecipe, teacher: TeacherFn, samples: Samples, device: torch.device) -> TeacherFn:
    """A teacher as a student is given it: read, matched, moved, on inputs of its own, transformed."""
    read = of_probabilities(teacher) if recipe.probabilities else teacher
    for leaf in leaves(read):
        refuse_unlike(leaf, samples)
    ours = each_leaf(read, lambda leaf: matched(of_tokens(leaf, samples), recipe, samples))
    there = moved(with_own_inputs(ours, samples.data, resize=recipe.resize), device)
    return there if recipe.transform is None else Transformed(there, recipe.transform)


def load_reference(reference: TeacherRef, *, model: Factory | str | None, trust: Trust) -> Leaf:
    """The teacher that a recipe refers to: a run's, a record, a file of outputs, a model of transformers.

    Args:
        model, trust: as of `preceptor.runs.load_teacher`.

    Raises:
        InputError: as `preceptor.runs.load_teacher`; a file that cannot be read, or has no logits.
    """
    kind = kind_of(reference.run)
    if kind == "run" and reference.run.suffix in _SUFFIXES and not reference.run.exists():
        raise InputError(f"there is no file '{reference.run}'; give the path of a teacher's outputs, or of a run")
    if kind == "run":
        return runs.load_teacher(reference, model=model, trust=trust)
    if reference != TeacherRef(run=reference.run, weight=reference.weight):
        raise InputError(
            f"'{reference.run}' is {_CALLED[kind]}, which has no weights, epochs or members; leave these out"
        )
    if kind == "pretrained":
        note(
            f"nothing is known of what the teacher '{reference.run}' was trained on: it may be what its student is "
            "scored on"
        )
        return of_module(pretrained_of(reference.run))
    return _stored_file(reference.run) if kind == "file" else Function(teacher_of(reference.run))


def _stored_file(path: Path) -> Stored:
    if path.suffix not in _SUFFIXES:
        raise InputError(f"'{path}' is no file of outputs by its name; give one that ends in {', '.join(_SUFFIXES)}")
    table = read_table(path)
    if table.logits is None:
        raise InputError(
            f"'{path}' has no 'logits', and is no teacher; give a file with a teacher's outputs under that name, be "
            "they logits, log-probabilities or probabilities"
        )
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
    if isinstance(teacher, RecordTeacher):
        raise InputError(
            "the teacher is a RecordTeacher with ids or a temperature of its own, which is for a loop of your own; "
            "give the folder of its record"
        )
    if isinstance(teacher, list | tuple):
        parts = [part if isinstance(part, tuple) else (part, 1.0) for part in teacher]
        teacher = [(stored(part) or part, weight) for part, weight in parts] if _are_pairs(parts) else teacher
    return as_teacher(teacher)


def _are_pairs(parts: list[Any]) -> bool:
    return all(len(part) == 2 for part in parts) and any(stored(part[0]) is not None for part in parts)
