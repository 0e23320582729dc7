"""What a teacher is worth on labels that are known, said before a student learns from it."""

from typing import Any

import torch
from torch import Tensor

from preceptor.data.dataset import labels_of
from preceptor.errors import InputError
from preceptor.notices import note, say
from preceptor.outputs.asking import ask
from preceptor.records import Record
from preceptor.records.scores import scores as recorded_scores
from preceptor.records.teacher import heldout_of
from preceptor.records.token_scores import token_scores as recorded_token_scores
from preceptor.records.token_teacher import TokenRecordTeacher
from preceptor.records.tokens import digests_at, token_ids
from preceptor.runs import TokenScores
from preceptor.tasks.teacher import Function, Mixture, TeacherFn, Transformed
from preceptor.training.checks.probe import drawing_nothing, spread
from preceptor.training.data.cohort import Cohort
from preceptor.training.data.samples import Samples
from preceptor.training.scoring.evaluate import score
from preceptor.training.scoring.token_evaluator import token_scores
from preceptor.training.teachers.replay import record_of

_MOST = 10_000  # training samples that are looked at
_LIVE = 1_000  # for which a teacher is asked that is asked in every step anyway
_SHOWN = {"accuracy": "accuracy", "Brier": "brier", "NLL": "nll"}
_PARTS = {"heldout": "held-out", "train": "training"}

Scores = dict[str, Any]


def scored_teacher(teacher: TeacherFn, cohort: Cohort, device: torch.device, table: Tensor | None) -> Scores:
    """A teacher's scores on held-out labels, or where it has nothing to say to those samples on training labels.

    They are said in one line, and noted where they are no better than chance: on either part, since a table whose rows
    are shuffled may be right elsewhere. Each teacher of a mixture is scored as well.

    Args:
        teacher: as the student is given it, on `device`.
        cohort: of the single student.
        table: its outputs for the training samples (N, C), if they were made.

    Returns:
        ``part`` (``heldout`` or ``train``), the number of ``samples``, accuracy, brier, nll, calibration_error and
        entropy, and the accuracy and Brier score of chance: of the commonest class, and of the classes' shares; for a
        mixture the same of each of its ``teachers``.
    """
    found = _scored(teacher, cohort, device, table, "the teacher")
    mixture = teacher.teacher if isinstance(teacher, Transformed) else teacher
    if isinstance(mixture, Mixture) and len(mixture.teachers) > 1:
        found["teachers"] = [
            _scored(part, cohort, device, None, f"teacher {position}") for position, part in enumerate(mixture.teachers)
        ]
    return found


def scored_rows(table: Tensor, rows: Tensor, cohort: Cohort) -> Scores:
    """The scores of the teachers of a stack's students: as of `scored_teacher`, a value for each student.

    Args:
        table: (U, N, C); rows of samples for which nobody was asked are NaN.
        rows: for each student the row of `table` that teaches it.
    """
    assert cohort.source_of is not None
    labels = labels_of(cohort.data.train)
    pairs = list(zip(rows.tolist(), cohort.source_of, strict=True))
    each = {pair: _scored_row(table[pair[0]], labels, cohort.samples[pair[1]]) for pair in dict.fromkeys(pairs)}
    found = [each[pair] for pair in pairs]
    if not all(found):
        return {}
    means = {name: sum(scores[name] for scores in found) / len(found) for name in _SHOWN.values()}
    _show("the teachers, on average", {**found[0], **means})
    for (row, _), scores in each.items():
        _warn(scores, f"teacher {row} of the table")
    return {name: [scores[name] for scores in found] for name in found[0]}


def _scored_row(table: Tensor, labels: Tensor, samples: Samples) -> Scores:
    """The scores of one teacher, (N, C), on the held-out samples if it has rows of these, else on training samples."""
    for part in _PARTS:
        few = torch.tensor(spread(samples.parts[part], _MOST))
        scores = _scores(table[few], labels[few], part)
        if scores:
            return scores
    return {}


def _scored(teacher: TeacherFn, cohort: Cohort, device: torch.device, table: Tensor | None, whose: str) -> Scores:
    samples = cohort.samples[0]
    if samples.are_tokens:
        return _of_tokens(teacher, cohort, device, whose)
    record = record_of(teacher)
    if record is not None and record.manifest.form.kind != "dense":
        found = _of_some_classes(record, samples)
        if found:
            _show(whose, found)
            _warn(found, whose)
        return found
    found = _asked(teacher, *cohort.scored("heldout"), device, "heldout")
    train = samples.parts["train"]
    if table is None:
        few = torch.tensor(spread(train, _LIVE))
        learned = _asked(teacher, samples.train, few, device, "train")
    else:
        few = torch.tensor(spread(train, _MOST))
        learned = _scores(table[few], labels_of(samples.data.train)[few], "train")
    shown = found or learned
    if shown:
        _show(whose, shown)
        if not _warn(shown, whose):
            _warn(learned, whose)
    return shown


def _of_tokens(teacher: TeacherFn, cohort: Cohort, device: torch.device, whose: str) -> Scores:
    """The scores of a language model on held-out tokens; none where it cannot answer, as a record without them."""
    try:
        with drawing_nothing(device):
            found = _recorded(teacher, cohort.samples[0])
            found = token_scores(teacher, *cohort.scored("heldout"), device) if found is None else found
    except Exception as error:
        note(f"the teacher could not be scored on held-out labels ({type(error).__name__}: {error})")
        return {}
    scores = _beside_chance(found.labels.long(), "heldout") | found.means()
    _show(whose, scores)
    _warn(scores, whose)
    return scores


def _recorded(teacher: TeacherFn, samples: Samples) -> TokenScores | None:
    """The scores of held-out tokens by the numbers beside a record of them; None of another teacher."""
    function = teacher.function if isinstance(teacher, Function) else teacher
    if not isinstance(function, TokenRecordTeacher) or function.temperature != 1:
        return None
    if function.heldout is None or function.heldout_tokens is None:
        raise InputError("its record has no held-out rows; record it with these")
    index = samples.parts["heldout"]
    rows = function.heldout_tokens.find(digests_at(samples.data.train, index))
    if bool((rows < 0).any()):
        raise function.lacking(int(index[rows < 0][0]))
    return recorded_token_scores(function.heldout, token_ids(rows, samples.labels[index] >= 0))


def _asked(teacher: TeacherFn, dataset: Any, indices: Tensor, device: torch.device, part: str) -> Scores:
    """The scores on a part; none where the teacher cannot answer, such as a function that knows its samples only."""
    try:
        with drawing_nothing(device):
            outputs, labels = ask(teacher, dataset, indices, device)
    except Exception as error:
        note(f"the teacher could not be scored on {_PARTS[part]} labels ({type(error).__name__}: {error})")
        return {}
    return _scores(outputs, labels, part)


def _of_some_classes(record: Record, samples: Samples) -> Scores:
    """The scores of a teacher whose record has not all classes, from the numbers beside them, where it has held-out
    samples.
    """
    heldout = heldout_of(record)
    index = samples.parts["heldout"]
    if heldout is None or not torch.isin(index, heldout.ids).all():
        note("the teacher could not be scored: its record has not all classes, and no held-out samples")
        return {}
    each = recorded_scores(heldout, ids=index)
    means = {name: float(each[name].mean()) for name in (*_SHOWN.values(), "entropy")}
    return _beside_chance(samples.labels[index], "heldout") | means | {"calibration_error": None}


def _scores(outputs: Tensor, labels: Tensor, part: str) -> Scores:
    known = outputs.amax(-1).isfinite()
    if not known.any():
        return {}
    return _beside_chance(labels[known], part) | score(outputs[known], labels[known], calibration=True)


def _beside_chance(labels: Tensor, part: str) -> Scores:
    """What the scores of a part are compared with: those of its commonest class, and of the classes' shares."""
    shares = labels.bincount() / len(labels)
    return {
        "part": part,
        "samples": len(labels),
        "chance": float(shares.max()),
        "chance_brier": float(1 - shares.square().sum()),
    }


def _warn(scores: Scores, whose: str) -> bool:
    """Note a teacher that is right hardly more often than its commonest class is, and no nearer to the labels."""
    if not scores:
        return False
    chance, count = scores["chance"], scores["samples"]
    noise = 2 * (chance * (1 - chance) / count) ** 0.5
    poor = scores["accuracy"] <= chance + noise and scores["brier"] >= scores["chance_brier"]
    if poor:
        note(
            f"{whose} is right in {scores['accuracy']:.3f} of {count} {_PARTS[scores['part']]} samples, not clearly "
            f"more than by chance: the commonest class has {chance:.3f} of them; look whether its outputs are of "
            "these samples, its classes in this order and its inputs as it was trained on"
        )
    return poor


def _show(whose: str, scores: Scores) -> None:
    numbers = ", ".join(f"{title} {scores[name]:.4f}" for title, name in _SHOWN.items())
    say(f"{whose}: {numbers} on {scores['samples']} {_PARTS[scores['part']]} labels")
