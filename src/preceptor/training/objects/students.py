"""The students of a stack: what sets each apart, and whose losses are computed together."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from preceptor.errors import InputError
from preceptor.schema import Component
from preceptor.tasks.criterion import Criterion
from preceptor.training.objects.criteria import new_loss


@dataclass(frozen=True)
class Student:
    """One student of a stack: its seed, the row of the teachers' table that teaches it, and its loss."""

    seed: int
    teacher: int
    loss: Component
    ce_weight: float = 0.1
    distill_weight: float = 0.9


def groups_of(students: Sequence[Student], num_classes: int) -> list[tuple[list[int], Criterion]]:
    """Students of one loss are computed together."""
    groups: dict[str, tuple[list[int], Criterion]] = {}
    for position, student in enumerate(students):
        key = student.loss.model_dump_json()
        if key not in groups:
            groups[key] = ([], new_loss(student.loss, num_classes))
            if groups[key][1].masks != "asked":
                raise InputError(
                    f"the loss '{student.loss.name}' heeds no mask, without which it cannot be trained in a stack; "
                    "give it one, or distill its students one by one"
                )
            if groups[key][1].module is not None:
                raise InputError(
                    f"the loss '{student.loss.name}' has parameters or state of its own and cannot be trained in a "
                    "stack; distill its students one by one"
                )
        groups[key][0].append(position)
    return list(groups.values())


def check_table(table: Tensor, students: Sequence[Student], num_samples: int, num_classes: int) -> None:
    if table.ndim != 3 or table.shape[1:] != (num_samples, num_classes):
        raise InputError(
            f"the teachers' table has shape {tuple(table.shape)}; give (teachers, {num_samples}, "
            f"{num_classes}), one row for each sample of the data set"
        )
    for position, student in enumerate(students):
        if not 0 <= student.teacher < len(table):
            raise InputError(
                f"student {position} learns from teacher {student.teacher}, but the table holds teachers 0 "
                f"to {len(table) - 1}"
            )
