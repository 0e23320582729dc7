"""What is known of the samples on which teachers are compared, checked once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float64, Int64

from preceptor.assess import distance
from preceptor.assess.contradiction import refuse_contradicted
from preceptor.assess.forecasts import (
    Array,
    Forecast,
    check_labels,
    check_same_shape,
    first_row,
    missing,
    to_numpy,
)
from preceptor.assess.sampling import Answers, Sampling
from preceptor.errors import InputError

__all__ = ["Evidence", "Ratings", "common_order", "common_shape"]


@dataclass(frozen=True, eq=False)
class Ratings:
    """How many raters judged each sample (N,), and their frequencies (N, C); a known truth is infinitely many."""

    raters: Float64[np.ndarray, "N"]
    frequencies: Float64[np.ndarray, "N C"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of N samples that no teacher was trained on; made by `Evidence.of`, which checks it.

    Attributes:
        labels: class indices (N,).
        drawn: the labels are drawn from the counts or the truth, as none were given.
        ratings: of human raters, or the truth itself, if either is known.
        class_names: in the order of the classes, if known.
        sampling: which samples belong together, and how much each stands for.
    """

    labels: Int64[np.ndarray, "N"]
    drawn: bool = False
    ratings: Ratings | None = None
    class_names: tuple[str, ...] | None = None
    sampling: Sampling = field(default_factory=Sampling)

    @classmethod
    def of(
        cls,
        teachers: Mapping[str, Array | Forecast],
        labels: Array | None,
        *,
        ids: Array | Mapping[str, Array] | None = None,
        counts: Array | None = None,
        truth: Array | None = None,
        class_names: Array | Sequence[str] | Mapping[str, Array | Sequence[str]] | None = None,
        groups: Array | None = None,
        weights: Array | None = None,
    ) -> "Evidence":
        """What a user hands in for the samples that the teachers' logits are of, as `compare` takes it.

        Raises:
            InputError: teachers of unlike shape or in another order of samples or classes, ids that repeat, or labels,
                counts, a truth, groups or weights that do not fit them; counts beside a truth; labels that counts or
                truth contradict; or none of the three.
        """
        shape = common_shape(teachers)
        names = [str(name) for name in teachers]
        if len(set(names)) < len(names):
            raise InputError(f"Two teachers have one name: {sorted(names)}: give each a name of its own.")
        known = cls.of_samples(shape, labels, counts=counts, truth=truth, groups=groups, weights=weights)
        common_order("ids", ids, names, shape[0], once=True)
        return replace(known, class_names=common_order("class_names", class_names, names, shape[1], once=True))

    @classmethod
    def of_samples(
        cls,
        shape: tuple[int, int],
        labels: Array | None,
        *,
        counts: Array | None = None,
        truth: Array | None = None,
        groups: Array | None = None,
        weights: Array | None = None,
    ) -> "Evidence":
        """What a user hands in for samples and classes of this number."""
        if labels is not None:
            labels = check_labels(labels, shape)
        ratings = _ratings(counts, truth, shape)
        sampling = Sampling.of(shape[0], groups, weights)
        if labels is None and ratings is not None:
            return cls(distance.draw_labels(ratings.frequencies), True, ratings, sampling=sampling)
        labels = check_labels(labels, shape)
        if ratings is not None:
            refuse_contradicted(labels, ratings.raters, ratings.frequencies)
        return cls(labels, False, ratings, sampling=sampling)

    def only(self, rows: np.ndarray) -> "Evidence":
        """What is known of some of the samples, bool (N,)."""
        ratings = self.ratings and Ratings(self.ratings.raters[rows], self.ratings.frequencies[rows])
        return replace(self, labels=self.labels[rows], ratings=ratings, sampling=self.sampling.only(rows))

    @property
    def standing(self) -> np.ndarray | None:
        """The samples that stand for anything, bool (N,); None if all do, as those of weight 0 are not there."""
        weights = self.sampling.weights
        return None if weights is None or weights.all() else weights > 0

    @property
    def num_samples(self) -> int:
        """N, the number of samples."""
        return len(self.labels)

    @property
    def answers(self) -> Answers:
        """What forecasts are scored by where a distribution does as well as a label: counts or truth come first."""
        target = self.labels if self.ratings is None else self.ratings.frequencies
        return Answers(target, self.sampling.weights)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know before believing scores on it."""
        if not self.drawn or self.ratings is None:
            return self.sampling.notes
        source = "truth" if np.isinf(self.ratings.raters).all() else "counts"
        return (
            f"No labels were given: one a sample was drawn from the {source}, for the scores that need them; the "
            "distance does not.",
            *self.sampling.notes,
        )

    @property
    def notes_on_answers(self) -> tuple[str, ...]:
        """Likewise, of scores by the answers, which need no label where counts or truth are known."""
        return self.sampling.notes

    @property
    def knows_distance(self) -> bool:
        """Whether the distance to the truth itself can be told, and not only differences of distances."""
        return self.ratings is not None and bool((self.ratings.raters >= 2).all())


def _ratings(counts: Array | None, truth: Array | None, shape: tuple[int, int]) -> Ratings | None:
    if counts is not None and truth is not None:
        raise InputError("counts and truth are both given: hand in the truth alone, which says more.")
    if truth is not None:
        known = distance.probabilities_of(truth, "The true label distributions")
        check_same_shape("The true label distributions", known.shape, shape)
        return Ratings(np.full(shape[0], np.inf), known)
    return None if counts is None else Ratings(*distance.rater_frequencies(counts, shape))


def common_shape(teachers: Mapping[str, Array | Forecast]) -> tuple[int, int]:
    """Samples and classes, the same for every teacher, or an `InputError` that names the one that differs."""
    if not isinstance(teachers, Mapping):
        raise InputError(
            f"The teachers are handed in as {type(teachers).__name__}: hand in a dictionary, {{name: logits}}."
        )
    if not teachers:
        raise InputError("There is no teacher to assess: hand in at least one array of logits, by name.")
    shapes = {name: _shape(logits) for name, logits in teachers.items()}
    first, expected = next(iter(shapes.items()))
    if len(expected) != 2:
        raise InputError(f"{logits_of(first)} have shape {expected}: hand in (samples, classes).")
    if expected[1] < 2:
        raise InputError(
            f"{logits_of(first)} have shape {expected}: hand in one column for each of at least two classes."
        )
    for name, shape in shapes.items():
        if shape != expected:
            raise InputError(
                f"{logits_of(name)} have shape {shape} but those of {first!r} {expected}: "
                "hand in the same samples and classes for every teacher."
            )
    if expected[0] < expected[1]:
        raise InputError(f"There are {expected[0]} samples for {expected[1]} classes: hold out more samples.")
    return expected


def _shape(logits: Array | Forecast) -> tuple[int, ...]:
    if isinstance(logits, Forecast):
        return logits.probs.shape
    plain = isinstance(logits, np.ndarray) or (isinstance(logits, torch.Tensor) and not logits.is_nested)
    return tuple((logits if plain else to_numpy(logits)).shape)  # type: ignore[union-attr]


def common_order(
    what: str, values: Array | Mapping[str, Array] | None, teachers: list[str], length: int, *, once: bool
) -> tuple[str, ...] | None:
    """What is listed for every teacher, once it is sure that all list the same in the same order.

    Args:
        once: each of them may be listed only once.

    Raises:
        InputError: naming the first teacher and place that differ, or what is listed twice.
    """
    if values is None:
        return None
    if not isinstance(values, Mapping):
        lists = [to_numpy(values)] * len(teachers)
    elif set(values) == set(teachers):
        lists = [to_numpy(values[name]) for name in teachers]
    else:
        raise InputError(f"{what} are given for {list(values)} but logits for {teachers}: name the same teachers.")
    for name, found in zip(teachers, lists, strict=True):
        if found.shape != (length,):
            raise InputError(f"The {what} of teacher {name!r} have shape {found.shape}: hand in {length} of them.")
        if (lacking := missing(found)).any():
            i = first_row(lacking)
            raise InputError(f"The {what} of teacher {name!r} hold {found[i]} in place {i}: give one for every sample.")
        differs = np.asarray(found != lists[0])
        if differs.any():
            i = first_row(differs)
            if str(found[i]) == str(lists[0][i]):
                raise InputError(
                    f"The {what} of teacher {name!r} are {found.dtype} and those of {teachers[0]!r} {lists[0].dtype}: "
                    "give both as one type."
                )
            raise InputError(
                f"The {what} of teacher {name!r} have {found[i]} in place {i} where {teachers[0]!r} has "
                f"{lists[0][i]}: bring all teachers into one order."
            )
    listed = tuple(str(value) for value in lists[0])
    if once and len(set(listed)) < length:
        value, times = Counter(listed).most_common(1)[0]
        raise InputError(f"The {what} of teacher {teachers[0]!r} have {value} {times} times: list each once.")
    return listed


def logits_of(teacher: str) -> str:
    return f"The logits of teacher {teacher!r}"
