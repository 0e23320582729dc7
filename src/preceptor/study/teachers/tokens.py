"""``assess`` for language models by name: their scores are read, compared by document, and nothing is computed anew."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from preceptor.assess.optimum import LossLike
from preceptor.assess.token_scores import TokenScores
from preceptor.assess.tokens import compare_tokens
from preceptor.errors import InputError
from preceptor.recipe import TeacherRef
from preceptor.records.manifest import MANIFEST
from preceptor.records.reader import HELDOUT, Record
from preceptor.records.token_scores import token_scores
from preceptor.records.tokens import is_of_tokens
from preceptor.runs import has_token_scores, read_token_scores
from preceptor.runs.contents import distinct, same_teacher
from preceptor.runs.references import Source, Term, kind_of, name_of, terms_of
from preceptor.schema import Component
from preceptor.study.teachers.assessment import Assessment
from preceptor.study.teachers.notes import on_selected

__all__ = ["assess_tokens", "read_tokens", "refuse_losses", "token_teachers"]


def token_teachers(names: Sequence[str | Path]) -> list[TeacherRef]:
    """The teachers of tokens that some names stand for; none where all of them are of another kind.

    Raises:
        InputError: a name of nothing, some of tokens and some not, or an ensemble of teachers of tokens.
    """
    terms = {str(name): terms_of(str(name)) for name in names}
    of_tokens = {name: any(map(_is_of_tokens, _sources(found))) for name, found in terms.items()}
    if not any(of_tokens.values()):
        return []
    if not all(of_tokens.values()):
        one, other = (next(name for name, is_it in of_tokens.items() if is_it is wanted) for wanted in (True, False))
        raise InputError(f"'{one}' is a teacher of tokens and '{other}' is not; assess them apart")
    for name, found in terms.items():
        if len(found) > 1 or (found[0].mixed and len(found[0].sources) > 1):
            raise InputError(
                f"'{name}' is an ensemble, and its members' scores do not tell those of the mean of their "
                f"probabilities; record it, preceptor record '{name}' --out FOLDER, and assess the record"
            )
    references = [each for found in terms.values() for each in _sources(found) if isinstance(each, TeacherRef)]
    called = [name_of(each) for each in references]
    repeated = {name for name in called if called.count(name) > 1}
    if repeated or len(terms) < len(names):
        raise InputError(f"'{min(repeated or terms)}' is given twice; give each teacher once")
    return distinct(references, same_teacher, name_of)


def read_tokens(reference: TeacherRef) -> TokenScores:
    """The scores of a teacher of tokens on its held-out documents.

    Args:
        reference: to a run's last, best or averaged weights, or to a record.

    Raises:
        InputError: the run or the record has no such scores, or is damaged.
    """
    if kind_of(reference.run) == "record":
        folder = reference.run / HELDOUT
        if not (folder / MANIFEST).is_file():
            raise InputError(
                f"the record '{reference.run}' has no held-out documents, by which a teacher is assessed; record it "
                "with them (heldout=True), or assess its run"
            )
        return token_scores(Record(folder))
    if reference.epoch is not None or reference.calibrated or reference.member is not None:
        name = name_of(reference)
        raise InputError(
            f"the run '{reference.run}' has scores of its last, best and averaged weights alone, and '{name}' is none "
            f"of these; record it, preceptor record '{name}' --out FOLDER, and assess the record"
        )
    return read_token_scores(reference.run, "heldout", reference.weights)


def refuse_losses(losses: Sequence[LossLike]) -> None:
    """Refuse what students of teachers of tokens minimise, unless it is ``kd``, whose optimum is the teacher itself.

    That is all that scores tell of.

    Raises:
        InputError: another loss, or an option of one.
    """
    other = [loss for loss in losses if loss not in ("kd", {"name": "kd"}, Component(name="kd"))]
    if other:
        first: Any = other[0]
        name = first.get("name") if isinstance(first, Mapping) else getattr(first, "name", first)
        raise InputError(
            f"the loss is '{name}', and the scores of teachers of tokens tell of kd alone, whose optimum is the "
            "teacher itself; leave the loss out",
            argument="loss",
        )


def assess_tokens(references: Sequence[TeacherRef], *, level: float, given: Mapping[str, Any]) -> Assessment:
    """Rank teachers of tokens by their NLL on held-out documents.

    Args:
        references: that `token_teachers` gives.
        level: of the intervals.
        given: options of `assess_teachers` by name, None where they are left out: tokens have no use for them.

    Raises:
        InputError: an option that is given, or as `read_tokens` and `compare_tokens`.
    """
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"{name} is given, and teachers of tokens are scored on the held-out documents of their own run, token "
                f"by token; leave {name} out",
                argument=name,
            )
    known = {name_of(each): each for each in references}
    found = compare_tokens({name: read_tokens(each) for name, each in known.items()}, level=level)
    teachers = tuple(replace(each, references=(known[each.name],)) for each in found.teachers)
    notes = (*on_selected({name: (each,) for name, each in known.items()}), *found.notes)
    return Assessment([replace(found, teachers=teachers, notes=notes)])


def _sources(terms: Sequence[Term]) -> list[Source]:
    return [source for term in terms for source in term.sources]


def _is_of_tokens(source: Source) -> bool:
    if isinstance(source, Path) or source.run.is_file():
        return False
    return is_of_tokens(source.run) if kind_of(source.run) == "record" else has_token_scores(source.run)
