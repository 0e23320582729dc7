"""From a batch to a loss and its named parts: tasks for anybody's loop, without a trainer of ours."""

from preceptor.tasks.criterion import Criterion, of_loss, of_objective
from preceptor.tasks.stack import Stack
from preceptor.tasks.stored import Stored
from preceptor.tasks.task import DistillTask, Task, TeachTask
from preceptor.tasks.teacher import Lookup, Mixture, Teacher, TeacherLike, Transformed, as_teacher

__all__ = [
    "Criterion",
    "DistillTask",
    "Lookup",
    "Mixture",
    "Stack",
    "Stored",
    "Task",
    "TeachTask",
    "Teacher",
    "TeacherLike",
    "Transformed",
    "as_teacher",
    "of_loss",
    "of_objective",
]
