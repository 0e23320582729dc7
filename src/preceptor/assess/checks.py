"""What makes scores mean less than they seem: samples that are copies, classes in another order, too few samples."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from preceptor.assess.evidence import Evidence
from preceptor.assess.forecasts import Forecast

__all__ = ["class_order", "confusion", "fingerprints", "permuted_classes", "repeated", "repeated_rows", "too_few"]

# Copies of one input get the same output up to rounding.
_ALIKE = 1e-6
# The share of samples that are copies from which on intervals are visibly too narrow.
_NOTED = 0.02
# How much better another order of classes must agree, on samples that did not choose it, to be no accident.
_BETTER, _SURE, _GOOD = 0.05, 4.0, 0.5
# Differences below this are of no interest to anybody.
_SMALL = 0.005


def fingerprints(log_probs: np.ndarray) -> np.ndarray:
    """Two numbers (N, 2) that tell outputs (N, C) apart: they differ wherever the outputs do."""
    directions = np.random.default_rng(0).standard_normal((log_probs.shape[-1], 2))
    return np.maximum(log_probs, -1e4) @ (directions / np.sqrt(log_probs.shape[-1]))


def repeated(prints: np.ndarray, evidence: Evidence) -> tuple[str, ...]:
    """A note where samples repeat others' outputs under every teacher, and nothing was said of groups.

    Few values that many samples share, one more often than another, are how the teachers answer (a small tree, inputs
    of a few categories) and no copies; copies of few items are as many of each.

    Args:
        prints: the `fingerprints` of all teachers side by side, (N, 2 * teachers).
    """
    if evidence.sampling.groups is not None:
        return ()
    ordered = prints[np.lexsort(prints.T[::-1])]
    tolerance = _ALIKE * (1 + np.abs(ordered[1:]))
    same = (np.abs(np.diff(ordered, axis=0)) <= tolerance).all(-1)
    copies = int(same.sum())
    times = np.diff(np.flatnonzero(np.concatenate([[True], ~same, [True]])))  # how often each output is there
    few_values = len(times) ** 2 < len(prints) and times.min() < times.max()
    if copies < max(2, _NOTED * len(prints)) or few_values:
        return ()
    return (
        f"{copies} of {len(prints)} samples repeat another's logits: if they are copies of an input, or ratings of one "
        "item, intervals are too narrow and folds see each other's samples; give groups, which name the items.",
    )


def repeated_rows(outputs: Sequence[np.ndarray], evidence: Evidence) -> tuple[str, ...]:
    """`repeated` of teachers' log-probabilities (N, C)."""
    if evidence.sampling.groups is not None:
        return ()
    return repeated(np.concatenate([fingerprints(each) for each in outputs], axis=-1), evidence)


def confusion(labels: np.ndarray, top: np.ndarray, num_classes: int) -> np.ndarray:
    """How often samples of each class (rows) are given to each (columns), in two halves: (2, C, C)."""
    half = np.arange(len(labels)) % 2
    place = (half * num_classes + labels) * num_classes + top
    return np.bincount(place, minlength=2 * num_classes**2).reshape(2, num_classes, num_classes)


def class_order(name: str, halves: np.ndarray, class_names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """A note where a teacher agrees with the labels far better after a permutation of its classes.

    Each half of the samples is judged by the permutation that suits the other best.

    Args:
        halves: `confusion` of the teacher.
    """
    total = halves.sum()
    as_it_is = np.trace(halves.sum(0)) / total
    better = sum(one[linear_sum_assignment(-other)].sum() for one, other in (halves, halves[::-1])) / total
    # The two agreements differ in at most 1 of each sample, in the share that either has right.
    noise = np.sqrt((as_it_is + better) / total)
    # A weak teacher that says few of the classes gains by any order that gives it the commonest.
    if better - as_it_is < max(_BETTER, _SURE * noise) or better < _GOOD:
        return ()
    order = linear_sum_assignment(-halves.sum(0))[1]
    label = int(np.argmax(order != np.arange(len(order))))
    called = [repr(class_names[i]) if class_names else str(i) for i in (order[label], label)]
    return (
        f"{name} agrees with the labels in {as_it_is:.0%} of the samples, and would in {better:.0%} if its classes "
        f"were in another order (its class {called[0]} is what the labels call {called[1]}): check the order of its "
        "classes.",
    )


def permuted_classes(teachers: Mapping[str, Forecast], labels: np.ndarray) -> tuple[str, ...]:
    """The note of `class_order` on each teacher that needs it."""
    found = [
        class_order(f"The teacher {name!r}", confusion(labels, teacher.probs.argmax(-1), teacher.num_classes))
        for name, teacher in teachers.items()
    ]
    return tuple(note for notes in found for note in notes)


def too_few(size: float, margin: float, largest: float) -> tuple[str, ...]:
    """A note where all differences of teachers that were seen could be the chance of two samples.

    Args:
        size: number of samples, or groups; of those with weights the effective number.
        margin: what two samples could do to a difference.
        largest: the largest difference.
    """
    if largest == 0 or largest >= margin or margin < _SMALL:  # those that differ in nothing are one teacher
        return ()
    return (
        f"{size:.0f} samples are too few to say anything of differences as small as these: the largest is "
        f"{largest:.2g}, and up to {margin:.2g} might be two samples that happen not to be among them.",
    )
