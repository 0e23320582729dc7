"""``assess`` for teachers by name: read, compared under each loss, scored where students learn."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from preceptor.assess import Comparison, Question, SeenScore, TeacherScores
from preceptor.assess.evidence import common_shape
from preceptor.assess.forecasts import Array
from preceptor.assess.intervals import check_level
from preceptor.assess.optimum import LossLike
from preceptor.assess.question import check_criterion
from preceptor.assess.ranking import compared
from preceptor.data import tables
from preceptor.errors import InputError
from preceptor.names import Trust
from preceptor.runs import Factory
from preceptor.schema import Component
from preceptor.study.teachers.assessment import Assessment
from preceptor.study.teachers.candidates import Candidate, check_same_samples
from preceptor.study.teachers.known import known_of
from preceptor.study.teachers.notes import notes_on
from preceptor.study.teachers.reading import read_candidates
from preceptor.study.teachers.seen import seen_scores
from preceptor.study.teachers.tokens import assess_tokens, refuse_losses, token_teachers

__all__ = ["assess_candidates", "assess_teachers"]


def assess_teachers(
    names: Sequence[str | Path] | str | Path,
    *,
    losses: Sequence[LossLike] | LossLike = "kd",
    temperature: float | None = None,
    coefficients: Array | Path | str | None = None,
    labels: Array | Path | str | None = None,
    counts: Array | Path | str | None = None,
    truth: Array | Path | str | None = None,
    groups: Array | Path | str | None = None,
    weights: Array | Path | str | None = None,
    samples: Path | str | None = None,
    data: Any = None,
    data_dir: Path | str | None = None,
    model: Factory | str | None = None,
    trust: Trust = False,
    probabilities: bool = False,
    transfer: bool | None = None,
    criterion: str = "brier",
    level: float = 0.95,
    progress: bool = False,
) -> Assessment:
    """Rank teachers by what they are worth to a student, from held-out labels (or counts) alone.

    Teachers are named as `read_candidates` says: runs, their epochs, ensembles, files of logits. Runs bring their
    labels with them, and what people said of their data set, where it knows.

    Language models are ranked by their NLL on held-out documents, with intervals by document
    (`preceptor.assess.compare_tokens`), from the scores that their runs have stored, or from the scalars of a record;
    of the options only `level` is for them.

    Args:
        names: of teachers.
        losses: what students minimise, as in `preceptor.assess.compare`; each is a comparison of its own.
        temperature: of ``ttm`` and ``wttm``, and of the Rényi entropy and the power sum.
        coefficients: of ``ptloss``: numbers, text with commas between them, or a ``.npy`` file.
        labels: class indices `(N,)`, in place of the teachers' own; an array or a ``.npy`` file.
        counts: how many human raters chose each class, `(N, C)`, or for runs of one data set a row for each of its
            samples: then the samples that students learn from are scored by their distance, too. An array or a
            ``.npy`` file.
        truth: the true label distribution, `(N, C)`, where it is known, in place of counts; its rows as theirs.
        groups: what names the group of each sample, `(N,)`, where some belong together, as for
            `preceptor.assess.compare`; an array or a ``.npy`` file.
        weights: how much each sample stands for, `(N,)`, likewise.
        samples: an ``.npz`` or Parquet file of labels, counts, truth, groups, weights and ids; those named above come
            before it.
        data: your own data set, in place of the one that the runs' recipes name.
        data_dir: where the data set's files are, in place of the recipes'.
        model: what makes the model of runs that were trained with one of your own, or its ``package.module:name``.
        trust: import models and data sets of somebody's own that runs name (True, or these names).
        probabilities: the files hold probabilities.
        transfer: score runs on the samples that students learn from, too; None does so where model and data are found.
        criterion: what ranks, as in `preceptor.assess.compare`.
        level: of the intervals.
        progress: show a progress bar.

    Returns:
        One comparison for each loss, as a tuple that prints as tables.

    Raises:
        InputError: as `read_candidates` and `preceptor.assess.compare`; no labels, a teacher that was trained on the
            samples it is compared on, or an option that none of the losses takes.
    """
    check_criterion(criterion)  # what holds for all teachers, before any is looked for
    check_level(level)
    names = [names] if isinstance(names, str | Path) else names
    losses = [losses] if isinstance(losses, str | Mapping | Component) else losses
    if of_tokens := token_teachers(names):
        refuse_losses(losses)
        useless = {
            "temperature": temperature,
            "coefficients": coefficients,
            "labels": labels,
            "counts": counts,
            "truth": truth,
            "groups": groups,
            "weights": weights,
            "samples": samples,
            "data": data,
            "data_dir": data_dir,
            "model": model,
            "probabilities": probabilities or None,
            "transfer": transfer or None,
            "criterion": None if criterion == "brier" else criterion,
        }
        return assess_tokens(of_tokens, level=level, given=useless)
    question = _question(losses, temperature, _coefficients(coefficients), criterion, level)  # before outputs are read
    table = tables.Table() if samples is None else _table(Path(samples))
    given = {
        "labels": table.labels if labels is None else _array(labels),
        "counts": table.counts if counts is None else _array(counts),
        "truth": table.truth if truth is None else _array(truth),
        "groups": table.groups if groups is None else _array(groups),
        "weights": table.weights if weights is None else _array(weights),
    }
    candidates = read_candidates(
        names,
        data=data,
        data_dir=data_dir,
        model=model,
        trust=trust,
        probabilities=probabilities,
        transfer=transfer,
        progress=progress,
    )
    return _assessed(candidates, question, ids=table.ids, **given)


def assess_candidates(
    candidates: Sequence[Candidate],
    *,
    labels: Array | None = None,
    counts: Array | None = None,
    truth: Array | None = None,
    groups: Array | None = None,
    weights: Array | None = None,
    ids: Array | None = None,
    losses: Sequence[LossLike] | LossLike = "kd",
    temperature: float | None = None,
    coefficients: Array | None = None,
    criterion: str = "brier",
    level: float = 0.95,
) -> Assessment:
    """`assess_teachers` for candidates that are read already, or made by yourself.

    Args:
        candidates: what `read_candidates` gives, or your own.
        ids: of the samples that `labels`, `counts` and `truth` are given for; compared with those of the candidates.
        labels, counts, truth, groups, weights: as `assess_teachers`.
        losses, temperature, coefficients, criterion, level: likewise.

    Raises:
        InputError: unlike shapes, other samples or another order of samples or classes, no labels, a teacher that was
            trained on the samples it is compared on, or an option that does not suit the losses.

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 60)
    >>> sure, unsure = (Candidate(f"{scale}", scale * np.eye(3)[labels] + rng.normal(size=(60, 3))) for scale in (3, 1))
    >>> [comparison.best for comparison in assess_candidates([unsure, sure], labels=labels)]
    ['3']
    """
    question = _question(losses, temperature, coefficients, criterion, level)
    given = {"labels": labels, "counts": counts, "truth": truth, "groups": groups, "weights": weights}
    return _assessed(candidates, question, ids=ids, **given)


def _question(
    losses: Sequence[LossLike] | LossLike,
    temperature: float | None,
    coefficients: Array | None,
    criterion: str,
    level: float,
) -> Question:
    several = [losses] if isinstance(losses, str | Mapping | Component) else losses
    return Question.of(several, temperature=temperature, coefficients=coefficients, criterion=criterion, level=level)


def _assessed(
    candidates: Sequence[Candidate],
    question: Question,
    *,
    ids: Array | None,
    **given: Array | None,
) -> Assessment:
    teachers = {candidate.name: candidate.logits for candidate in candidates}
    common_shape(teachers)
    check_same_samples(candidates, ids)
    known = known_of(candidates, **given)
    notes = notes_on(candidates, known, ids)
    comparisons = compared(teachers, known.heldout, question)
    return Assessment(
        replace(
            comparison,
            teachers=_detailed(comparison, candidates, seen_scores(candidates, known, loss, question.level)),
            notes=tuple(dict.fromkeys((*notes, *comparison.notes))),
        )
        for loss, comparison in zip(question.losses, comparisons, strict=True)
    )


def _detailed(
    comparison: Comparison, candidates: Sequence[Candidate], seen: Mapping[str, Mapping[str, SeenScore]]
) -> tuple[TeacherScores, ...]:
    """The teachers with what only runs know: their scores where students learn, and how to load them."""
    references = {candidate.name: candidate.references for candidate in candidates}
    return tuple(
        replace(teacher, students_see=seen[teacher.name], references=references[teacher.name])
        for teacher in comparison.teachers
    )


def _table(path: Path) -> tables.Table:
    if path.suffix == ".npy":
        raise InputError(f"'{path}' is one array; say what it is, with labels, counts or truth", argument="labels")
    return tables.read_table(path)


def _array(given: Array | Path | str | None) -> Any:
    return tables.read_array(Path(given)) if isinstance(given, str | Path) else given


def _coefficients(given: Array | Path | str | None) -> Any:
    if not isinstance(given, str) or given.endswith(".npy"):
        return _array(given)
    try:
        return np.array([float(number) for number in given.split(",")])
    except ValueError:
        raise InputError(
            f"the coefficients are '{given}'; give numbers with commas between them, such as 0.5,0.1, or a .npy file"
        ) from None
