"""Several teachers as one: the mean of their probabilities, where they are of the same samples."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from preceptor import assess
from preceptor.errors import InputError
from preceptor.outputs import average_probabilities
from preceptor.recipe import TeacherRef
from preceptor.study.teachers.candidates import Candidate, Predictions, agreed, check_same_samples

__all__ = ["ensemble"]


def ensemble(name: str, members: Sequence[Candidate], weights: Sequence[float] | None = None) -> Candidate:
    """The mean of the members' probabilities, of those that predict the same samples.

    Args:
        weights: one a member, with the sum 1; None weighs all alike.
    """
    first = members[0]
    for member in members:
        if member.logits.shape != first.logits.shape:
            raise InputError(
                f"the members of the ensemble '{name}' have unlike shapes: '{member.name}' {member.logits.shape} and "
                f"'{first.name}' {first.logits.shape}; give predictions for the same samples and classes"
            )
        if sum(other.name == member.name for other in members) > 1:
            raise InputError(f"the ensemble '{name}' has '{member.name}' twice; give each member once")
    check_same_samples(members)
    trained = [member.trained_on for member in members if member.trained_on is not None]
    live = all(member.references for member in members)
    seen, unseen = _seen_by_all(members, weights)
    return Candidate(
        name,
        _mean(
            [assess.forecast(m.logits, what=f"The logits of teacher {m.name!r}").log_probs for m in members], weights
        ),
        _first(member.labels for member in members),
        _first(member.ids for member in members),
        np.unique(np.concatenate(trained)) if trained else None,
        _references(members, weights) if live else (),
        agreed("counts", members),
        agreed("truth", members),
        _first(member.class_names for member in members),
        agreed("groups", members),
        agreed("weights", members),
        seen,
        unseen,
    )


def _references(members: Sequence[Candidate], weights: Sequence[float] | None) -> tuple[TeacherRef, ...]:
    if weights is None:
        return tuple(reference for member in members for reference in member.references)
    return tuple(
        reference.model_copy(update={"weight": weight})
        for member, weight in zip(members, weights, strict=True)
        for reference in member.references
    )


def _seen_by_all(
    members: Sequence[Candidate], weights: Sequence[float] | None
) -> tuple[dict[str, Predictions], str | None]:
    """What the ensemble says to the samples of a part, where that part is the same for every member."""
    found: dict[str, Predictions] = {}
    for part, first in members[0].students_see.items():
        views = [member.students_see.get(part) for member in members]
        same = [view for view in views if view is not None and np.array_equal(view.ids, first.ids)]
        if len(same) == len(members):
            found[part] = Predictions(_mean([view.logits for view in same], weights), first.labels, first.ids)
    # A file holds held-out predictions alone, which is no secret to whoever names it.
    unlike = all(member.students_see for member in members) and not found
    reason = "its members were not trained on the same samples" if unlike else None
    return found, _first([*(member.unseen for member in members), reason])


def _mean(log_probs: Sequence[np.ndarray], weights: Sequence[float] | None) -> np.ndarray:
    return average_probabilities([torch.from_numpy(each) for each in log_probs], weights).numpy()


def _first(values: Iterable[Any]) -> Any:
    """The first that is known, or None."""
    return next((value for value in values if value is not None), None)
