"""A record of tokens held to the rows that a student brings, which are known by what they hold and not by where."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.records import Manifest, difference
from preceptor.records.samples import trained_on
from preceptor.records.teacher import RecordTeacher
from preceptor.records.token_teacher import TokenRecordTeacher
from preceptor.records.tokens import Tokens, digests_at
from preceptor.runs.identity import feed_array
from preceptor.tasks.teacher import Function, TeacherFn
from preceptor.training.data.batches import Replay
from preceptor.training.data.samples import Samples
from preceptor.training.data.streams import Streams


def digests_of_tokens(samples: Samples, rows: Tensor) -> dict[str, str]:
    """What tells the recorded rows (N,) of tokens from others, as the identity of a record has it."""
    sha = hashlib.sha256()
    feed_array(sha, rows)
    feed_array(sha, digests_at(samples.data.train, rows))
    return {"rows of tokens": f"sha256:{sha.hexdigest()}"}


def refuse_unlike(teacher: TeacherFn, samples: Samples) -> None:
    """Refuse a record of rows of tokens to a student of other data, and the other way round.

    Raises:
        InputError: so it is.
    """
    function = teacher.function if isinstance(teacher, Function) else teacher
    if not isinstance(function, RecordTeacher) or isinstance(function, TokenRecordTeacher) == samples.are_tokens:
        return
    kinds = ("rows of tokens", "samples with one label each")
    recorded, brought = reversed(kinds) if samples.are_tokens else kinds
    raise InputError(
        f"the record '{function.record.folder}' is of {recorded} and the data are {brought}; give the record of a "
        "teacher of these data"
    )


def replay_of_tokens(teachers: Sequence[TokenRecordTeacher], samples: Samples, found: Mapping[str, Any]) -> Replay:
    """What shows a student of tokens the views of a record in turn.

    Args:
        teachers: that look their answers up, one or more.
        found: what a manifest says of the student's data (`preceptor.training.teachers.replay.described`).

    Raises:
        InputError: a record of another context, vocabulary or number of views than the student's or the first's, one
            that lacks a row that the student learns from, or whose teacher has learned rows that the student is scored
            on.
    """
    first = teachers[0].record.manifest
    own = digests_at(samples.data.train, samples.for_students)
    for teacher in teachers:
        _refuse_other_context(teacher, found)
        if teacher.record.manifest.views != first.views:
            raise InputError(
                f"the records '{teachers[0].record.folder}' and '{teacher.record.folder}' have {first.views} and "
                f"{teacher.record.manifest.views} views; record the ensemble as one teacher"
            )
        lacking = samples.for_students[teacher.tokens.find(own) < 0]
        if len(lacking):
            raise _lacking(teacher, lacking, len(own))
        trained = trained_on(teacher.record.folder)
        if trained is not None:
            _refuse_seen(teacher, _digests_of(teacher.tokens, trained), own, samples)
    streams = Streams(first.seed, first.streams)  # type: ignore[arg-type]
    return Replay(streams, first.views, samples.for_students)


def _refuse_other_context(teacher: TokenRecordTeacher, found: Mapping[str, Any]) -> None:
    """What a position sees, and what it is asked; not which rows there are, nor in which order."""
    manifest: Manifest = teacher.record.manifest
    for names in (("preprocessing",), ("num_classes", "class_names", "augmentation", "mixing")):
        asked = manifest.model_copy(update={name: found[name] for name in names})
        problem = difference(manifest, asked, "in the record", "for the student")
        if problem:
            raise InputError(
                f"the record '{teacher.record.folder}' does not fit: {problem}; give the student what was recorded, or "
                "record anew"
            )


def _lacking(teacher: TokenRecordTeacher, rows: Tensor, total: int) -> InputError:
    return InputError(
        f"the record '{teacher.record.folder}' lacks {len(rows)} of the {total} rows of tokens that the student learns "
        f"from (the first: row {int(rows[0])}); record the teacher for these data, or give the student those that were "
        "recorded"
    )


def _digests_of(tokens: Tokens, rows: Tensor) -> Tensor:
    """The digests of those of some rows that are on record."""
    return tokens.digests[torch.isin(tokens.rows, rows)]


def _refuse_seen(teacher: TokenRecordTeacher, trained: Tensor, own: Tensor, samples: Samples) -> None:
    """Refuse a teacher that has learned (n, 16) what the student is scored on, and does not learn (m, 16) itself."""
    learned = {row.tobytes() for row in trained.numpy()} - {row.tobytes() for row in own.numpy()}
    scored = {"heldout": (samples.data.train, samples.parts["heldout"])}
    if samples.test is not None:
        scored["test"] = (samples.test.dataset, samples.test_indices)
    for part, (dataset, rows) in scored.items():
        found = digests_at(dataset, rows).numpy()
        seen = [int(row) for row, each in zip(rows, found, strict=True) if each.tobytes() in learned]
        if seen:
            raise InputError(
                f"the teacher of the record '{teacher.record.folder}' was trained on {len(seen)} of the student's "
                f"{part} rows (the first: row {seen[0]}); give the student data that hold out the teacher's documents"
            )
