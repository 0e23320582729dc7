"""Which language model will teach best: teachers scored on one held-out text, document by document.

The next token is a draw from the text's own distribution, so that held-out differences of NLL estimate differences of
the divergence from it, as those of Brier scores do of the squared distance. Tokens of one document are no independent
draws: what is resampled are documents, and a mean over tokens is a quotient of two sums over documents.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64, Int64

from preceptor.assess import intervals
from preceptor.assess.calibration import Reliability
from preceptor.assess.comparison import Comparison, Difference, TeacherScores
from preceptor.assess.intervals import Estimate
from preceptor.assess.sampling import FEW_GROUPS, Sampling
from preceptor.assess.token_scores import OF_LABELS, TokenScores
from preceptor.errors import InputError

__all__ = ["TokenComparison", "compare_tokens"]

# Of the bytes that one teacher or the other is scored on, as a share: what the first tokens of rows, which nothing
# foretells, may make. More is another text.
_UNSHARED = 0.02
_NOT_KNOWN = ("num_classes", "class_names", "top_k", "temperature", "coefficients", "loss")


@dataclass(frozen=True)
class TokenComparison(Comparison):
    """Language models in order, best first; made by `compare_tokens`. A token is a sample.

    Attributes:
        num_documents: by which intervals are.
        num_bytes: of the text that was scored.
    """

    num_documents: int = 0
    num_bytes: int = 0

    columns: ClassVar[Mapping[str, str]] = {
        "nll": "NLL ↓",
        "bits_per_byte": "bits per byte ↓",
        "perplexity": "perplexity ↓",
        "accuracy": "accuracy ↑",
        "brier": "Brier ↓",
        "calibration_error": "ECE ↓",
    }
    plain_columns: ClassVar[Mapping[str, str]] = {
        "entropy": "entropy",
        "best_temperature": "best T",
        "nll_at_best_temperature": "NLL there",
    }

    @property
    def title(self) -> str:
        """Of the table."""
        return "Assessed on tokens, by document"

    @property
    def caption(self) -> str:
        """Of the table."""
        tokens = f"{self.num_samples:,} tokens, " if self.criterion == "nll" else ""
        counted = f"{tokens}{self.num_bytes:,} bytes, of {self.num_documents:,} documents"
        found = f"{counted}; {self.level:.0%} intervals by document."
        if not self.differences:
            return found
        ranked = {"nll": "NLL, nats a token", "bits_per_byte": "bits per byte"}[self.criterion]
        return (
            f"{found} Ranked by {ranked}; 'behind' is the paired difference to the best teacher, simultaneous over all "
            "pairs; equal ranks are ties."
        )

    def to_dict(self) -> dict[str, Any]:
        """As of a comparison, with ``num_documents`` and ``num_bytes``; what scores do not tell is left out."""
        found = {name: value for name, value in super().to_dict().items() if name not in _NOT_KNOWN}
        return found | {"num_documents": self.num_documents, "num_bytes": self.num_bytes}


def compare_tokens(
    teachers: Mapping[str, TokenScores], *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> TokenComparison:
    """Rank language models by their NLL on a held-out text, with intervals by document.

    Scores (in `TeacherScores.scores`): ``nll`` (nats a token), ``bits_per_byte``, ``perplexity``, ``accuracy`` of the
    most probable token, ``brier`` where it is known, ``calibration_error`` (of the largest probability, in 15 bins of
    equal mass), each in its interval; and without one ``entropy``, and where several temperatures were scored
    ``best_temperature`` and ``nll_at_best_temperature``, which are fitted to these very labels.

    Teachers of unlike tokens that were scored on the same documents are ranked by bits per byte, and nothing else of
    theirs is compared. An interval allows for two documents that were not seen, as unlike the others as any that was.
    Of a single document there are no intervals, and all teachers are tied, as noted.

    Args:
        teachers: scores of each, by name.
        level: coverage of the intervals.
        resamples: bootstrap resamples of the documents, shared by all teachers.
        seed: of the resampling.

    Returns:
        The comparison, best teacher first. A single teacher is scored and not ranked.

    Raises:
        InputError: no teacher, scores that are not finite or of unlike shapes, teachers that were scored on unlike
            documents, or a level, resamples or a seed that cannot be.

    >>> import torch
    >>> documents, rows = torch.arange(40).repeat_interleave(50), torch.arange(2000)
    >>> def scored(nll: torch.Tensor) -> TokenScores:
    ...     half = torch.full((2000,), 0.5)
    ...     ones = torch.ones(2000, dtype=torch.int32)
    ...     return TokenScores(documents, rows, ones, nll, half, half, half, half.round(), nll[:, None], (1.0,))
    >>> nll = 3 + torch.randn(2000, generator=torch.Generator().manual_seed(0))
    >>> comparison = compare_tokens({"worse": scored(nll + 0.1), "better": scored(nll)})
    >>> comparison.ranking, comparison.tie_groups, comparison.criterion
    (['better', 'worse'], [['better'], ['worse']], 'nll')
    """
    intervals.check_level(level)
    intervals.check_resamples(resamples)
    intervals.check_seed(seed)
    _check(teachers)
    draws = {"level": level, "resamples": resamples, "seed": seed}
    documents = np.unique(np.concatenate([_numbers(each.documents) for each in teachers.values()]))
    same = _of_same_tokens(teachers)
    unshared = 0.0 if same else _unshared(teachers, documents)
    criterion = "nll" if same else "bits_per_byte"
    read = {name: _Row.of(scores, documents, same) for name, scores in teachers.items()}
    names = sorted(read, key=lambda name: read[name].units[criterion].mean())
    differences = _differences(np.stack([read[name].units[criterion] for name in names]), **draws)
    ranks = intervals.ranks(differences, len(names)) if differences else [None]
    first = teachers[names[0]]
    return TokenComparison(
        teachers=tuple(
            TeacherScores(name, rank, read[name].estimates(**draws), read[name].reliability)
            for name, rank in zip(names, ranks, strict=True)
        ),
        differences=tuple(Difference(names[i], names[j], pair) for (i, j), pair in differences.items()),
        criterion=criterion,
        num_samples=len(first),
        num_classes=0,
        class_names=None,
        level=level,
        resamples=resamples,
        seed=seed,
        loss="kd",
        temperature=None,
        coefficients=None,
        scored="the teacher's own output",
        notes=tuple(_notes(len(documents), same, unshared, any(row.fitted for row in read.values()))),
        num_documents=len(documents),
        num_bytes=int(_numbers(first.bytes).sum()),
    )


@dataclass(frozen=True, eq=False)
class _Row:
    """One teacher's scores, each a value a document (G,) whose plain mean is the score."""

    units: dict[str, Float64[np.ndarray, "G"]]
    place: Int64[np.ndarray, "n"]
    bias: float
    """How far above the truth bias alone may put the calibration error."""
    reliability: Reliability
    fitted: dict[str, Estimate]

    @classmethod
    def of(cls, scores: TokenScores, documents: np.ndarray, same: bool) -> "_Row":
        """A teacher's; of teachers on unlike tokens only what can be compared."""
        place, count = np.searchsorted(documents, _numbers(scores.documents)), len(documents)
        bins, sizes = scores.bins(), _numbers(scores.bytes).astype(np.float64)
        gap, ones = bins.absolute(), np.ones(len(scores))
        values = {name: _reals(getattr(scores, name)) for name in ("nll", "brier", "entropy")}
        values |= {"accuracy": _reals(scores.correct), "calibration_error": gap.values}
        units = {name: _by_document(each, ones, place, count) for name, each in values.items()} if same else {}
        if sizes.any():
            units["bits_per_byte"] = _by_document(values["nll"] / math.log(2), sizes, place, count)
        fitted: dict[str, float] = {}
        if len(scores.temperatures) > 1 and same:
            fitted["best_temperature"] = scores.best_temperature()
            fitted["nll_at_best_temperature"] = scores.nll_at_best_temperature()
        return cls(
            {name: each for name, each in units.items() if np.isfinite(each).all()},
            place,
            gap.bias,
            Reliability(*bins.diagram(_reals(scores.confidence))),
            {name: Estimate(value, math.nan, math.nan) for name, value in fitted.items()},
        )

    def estimates(self, *, level: float, resamples: int, seed: int) -> dict[str, Estimate]:
        """All scores, each in its interval."""
        units = np.stack(list(self.units.values()))
        count = units.shape[1]
        if count == 1:
            found = {name: Estimate(float(each[0]), math.nan, math.nan) for name, each in self.units.items()}
        else:
            each = intervals.studentised_intervals(
                units, np.ptp(units, axis=1), level=level, resamples=resamples, seed=seed
            )
            found = {name: replace(e, low=max(0.0, e.low)) for name, e in zip(self.units, each, strict=True)}
            if "accuracy" in found:
                of, alike = self.units["accuracy"], Sampling(self.place).alike(self.units["accuracy"])
                found["accuracy"] = intervals.proportion_interval(of, level, alike, count)
            if "calibration_error" in found:
                error = found["calibration_error"]
                found["calibration_error"] = replace(error, low=max(0.0, error.low - self.bias))
        if "nll" in found:
            nll = found["nll"]
            found["perplexity"] = Estimate(*(float(np.exp(end)) for end in (nll.value, nll.low, nll.high)))
        return found | self.fitted


def _by_document(values: np.ndarray, sizes: np.ndarray, place: np.ndarray, count: int) -> Float64[np.ndarray, "G"]:
    """One value for each of `count` documents, whose mean is the sum of values over the sum of sizes.

    As `Sampling.units`, for sizes of any kind: theta + (sum - theta * size) / mean size.
    """
    sums, held = np.bincount(place, values, count), np.bincount(place, sizes, count)
    theta = sums.sum() / held.sum()
    return theta + (sums - theta * held) / held.mean()


def _differences(
    units: Float64[np.ndarray, "rows G"], *, level: float, resamples: int, seed: int
) -> dict[tuple[int, int], Estimate]:
    """Of all pairs of teachers, the score of the first less that of the second."""
    # What all teachers find hard in a document is in no difference, nor in what another document might have had.
    own = units - units.mean(0)
    own -= own.min()
    if units.shape[1] == 1:
        pairs = [(i, j) for i in range(len(units)) for j in range(i + 1, len(units))]
        return {(i, j): Estimate(float(units[i, 0] - units[j, 0]), math.nan, math.nan) for i, j in pairs}
    unseen, best = (np.broadcast_to(each[:, None], own.shape) for each in (own.max(1), own.min(1)))
    return intervals.simultaneous_differences(
        own, unseen=unseen, best=best, level=level, resamples=resamples, seed=seed
    )


def _check(teachers: Mapping[str, TokenScores]) -> None:
    if not teachers:
        raise InputError("There is no teacher to assess: hand in the scores of at least one, by name.")
    for name, scores in teachers.items():
        scores.check(f"the scores of teacher {name!r}")
        bad = ~np.isfinite(_reals(scores.nll))
        if bad.any():
            place = int(bad.argmax())
            raise InputError(
                f"The NLL of teacher {name!r} for label {place} is {float(scores.nll[place])}: score a teacher whose "
                "logits are finite."
            )


def _of_same_tokens(teachers: Mapping[str, TokenScores]) -> bool:
    first = next(iter(teachers.values()))
    return all(
        np.array_equal(_numbers(getattr(each, field)), _numbers(getattr(first, field)))
        for each in teachers.values()
        for field in OF_LABELS
    )


def _unshared(teachers: Mapping[str, TokenScores], documents: np.ndarray) -> float:
    """The largest share of bytes that one teacher was scored on and the first was not, document by document.

    Raises:
        InputError: it is more than the tokens that begin a row can make.
    """
    held = {
        name: np.bincount(
            np.searchsorted(documents, _numbers(each.documents)), _numbers(each.bytes), minlength=len(documents)
        )
        for name, each in teachers.items()
    }
    (first, expected), *others = held.items()
    worst = 0.0
    for name, found in others:
        share = float(np.abs(found - expected).sum() / max(1.0, expected.sum(), found.sum()))
        if not expected.any() or share > _UNSHARED:
            at = documents[int(np.abs(found - expected).argmax())]
            raise InputError(
                f"The teachers {first!r} and {name!r} were scored on other tokens, and not on the same documents (of "
                f"document {at}: {expected[documents == at][0]:.0f} and {found[documents == at][0]:.0f} bytes), so "
                "nothing of theirs can be compared: score both on one text, held out alike."
            )
        worst = max(worst, share)
    return worst


def _notes(documents: int, same: bool, unshared: float, fitted: bool) -> Iterator[str]:
    if documents == 1:
        yield (
            "All tokens are of one document: without a second there are no intervals, and no telling teachers apart; "
            "hold out several, or have a long one cut into parts (document_bytes)."
        )
    elif documents < FEW_GROUPS:
        yield f"There are {documents} documents: intervals by document are rough with fewer than {FEW_GROUPS}."
    if not same:
        more = f" They share all but {unshared:.2%} of the bytes; the others begin a row." if unshared else ""
        yield (
            "The teachers read the text in unlike tokens, of which only bits per byte can be compared; a student needs "
            f"a teacher of its own tokens.{more}"
        )
    if fitted:
        yield (
            "The best temperature of a teacher, and its NLL there, are fitted to these very documents, so that NLL is "
            "a little too low; it ranks nobody."
        )


def _numbers(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.int64)


def _reals(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().numpy().astype(np.float64)
