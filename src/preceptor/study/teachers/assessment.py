"""What assessed teachers are worth, under each loss that was asked for: text, plain data."""

import warnings
from dataclasses import asdict
from typing import Any, NamedTuple

from preceptor.assess import Comparison, Reliability, SeenScore
from preceptor.assess.text import as_text
from preceptor.runs import files

__all__ = ["SCHEMA", "Assessment"]

SCHEMA = 2


class Assessment(tuple[Comparison, ...]):
    """One comparison for each loss, as a tuple that prints as tables; made by `assess_teachers`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know before believing any of them."""
        return self[0].notes

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and which of two scores predicts where two are shown."""
        return self[0].remarks

    def __str__(self) -> str:
        tables = [as_text(comparison.table()) for comparison in self]
        return "\n\n".join(tables) + "".join(f"\nnote: {remark}" for remark in self.remarks)

    def to_dict(self) -> dict[str, Any]:
        """The assessment as plain data for JSON, with a ``schema_version``; None for what is not finite."""
        return files.finite(
            {
                "schema_version": SCHEMA,
                "rankings": [_with_details(comparison) for comparison in self],
                "candidates": {
                    teacher.name: [reference.model_dump(mode="json") for reference in teacher.references]
                    for teacher in self[0].teachers
                },
                "notes": list(self.notes),
            }
        )

    @property
    def rankings(self) -> tuple["_Ranking", ...]:
        """Deprecated: the comparisons, in the form that earlier versions had."""
        warnings.warn("'rankings' is now the assessment itself, a tuple of comparisons", DeprecationWarning, 2)
        return tuple(_Ranking.of(comparison) for comparison in self)


def _with_details(comparison: Comparison) -> dict[str, Any]:
    """A comparison's plain data, and of each teacher ``reliability`` and ``students_see``."""
    content = comparison.to_dict()
    for teacher, found in zip(comparison.teachers, content["teachers"], strict=True):
        found["reliability"] = {key: value.tolist() for key, value in asdict(teacher.reliability).items()}
        found["students_see"] = {
            part: {"measure": seen.measure, **asdict(seen.estimate), "num_samples": seen.num_samples}
            for part, seen in teacher.students_see.items()
        }
    return content


class _Ranking(NamedTuple):
    """What was a result of its own."""

    comparison: Comparison
    reliability: dict[str, Reliability]
    students_see: dict[str, dict[str, SeenScore]]

    @classmethod
    def of(cls, comparison: Comparison) -> "_Ranking":
        seen: dict[str, dict[str, SeenScore]] = {part: {} for part in comparison.parts_seen}
        for teacher in comparison.teachers:
            for part, score in teacher.students_see.items():
                seen[part][teacher.name] = score
        return cls(comparison, {t.name: t.reliability for t in comparison.teachers}, seen)
