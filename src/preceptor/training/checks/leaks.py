"""What a student must not be given: teachers that were trained on what it is scored on, or for other classes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from preceptor import runs
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeacherRef
from preceptor.runs.references import kind_of
from preceptor.tasks.teacher import Teacher, TeacherFn, leaves
from preceptor.training.checks.token_leaks import changed, refuse_learned
from preceptor.training.data.samples import Samples


def refuse_leak(recipe: DistillRecipe, samples: Samples, *, named: bool) -> None:
    """Refuse a teacher that was trained on samples that the student is scored on; `named` if the recipe's data are."""
    for reference in recipe.teacher:
        trained = _trained_on(reference, recipe, samples, named=named)
        refuse_seen(reference.run, trained, samples)


def refuse_seen(teacher: Path, trained: Tensor, samples: Samples) -> None:
    """Refuse a teacher that was trained on some of the samples (n,) that its student is scored on."""
    for part, seen in scored_and_seen(trained, samples):
        raise InputError(
            f"the teacher '{teacher}' was trained on {len(seen)} of the student's {part} samples "
            f"(the first: {int(seen[0])}); give the student the teacher's split and seed"
        )


def scored_and_seen(trained: Tensor, samples: Samples) -> Iterator[tuple[str, Tensor]]:
    """The parts that a run is scored on which have any of these samples (n,), and which of them."""
    for part in ("heldout", "test"):
        scored = samples.parts.get(part, torch.empty(0, dtype=torch.int64))
        seen = scored[torch.isin(scored, trained)]
        if len(seen):
            yield part, seen


def _trained_on(reference: TeacherRef, recipe: DistillRecipe, samples: Samples, *, named: bool) -> Tensor:
    """The samples that a teacher was trained on, as far as they are the student's."""
    nothing = torch.empty(0, dtype=torch.int64)
    if kind_of(reference.run) != "run":
        return nothing  # others do not say, and a record is held to the student's data first
    alike = named and runs.read_recipe(reference.run).data == recipe.data
    if samples.are_tokens:
        if alike and changed(reference.run, samples.data):
            return nothing
        if not alike:
            refuse_learned(reference.run, runs.parts_of(reference.run, reference.member)["train"], samples)
    if not alike and not same_samples(reference, samples):
        return nothing  # the indices are those of another data set
    return runs.parts_of(reference.run, reference.member)["train"]


def same_samples(reference: TeacherRef, samples: Samples) -> bool:
    """Whether a run's data are the student's in another spelling: the labels it recorded are found in their places.

    Labels in the order of the classes say nothing, as many a data set lists them so.
    """
    labels = samples.labels
    if samples.are_tokens:
        index, recorded = runs.parts_of(reference.run)["heldout"], runs.read_token_scores(reference.run).labels
        ours = labels[index[index < len(labels)]]
        return torch.equal(ours[ours >= 0], recorded.long())
    index, recorded = runs.heldout_labels(reference.run, reference.member)
    if int(index.max()) >= len(labels) or bool((recorded.diff() >= 0).all()):
        return False
    return torch.equal(labels[index], recorded)


def check_class_names(teacher: TeacherFn, names: Sequence[str]) -> None:
    """Refuse teachers with another number of classes, or another order of them where both carry names."""
    for part in leaves(teacher):
        theirs = part.class_names if isinstance(part, Teacher) else ()
        if theirs and len(theirs) != len(names):
            raise InputError(
                f"the teacher has {len(theirs)} classes and the student {len(names)}; "
                "distill on the data set that the teacher was trained for"
            )
        numbers = tuple(map(str, range(len(names))))  # what a data set without names has
        if numbers in (tuple(theirs), tuple(names)) and set(theirs) != set(names):
            continue
        for position, (other, ours) in enumerate(zip(theirs, names, strict=False)):
            if ours != other:
                raise InputError(
                    f"class {position} is '{other}' to the teacher and '{ours}' to the student; put the "
                    "classes of the data set into the teacher's order"
                )
