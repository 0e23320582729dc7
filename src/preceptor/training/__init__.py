"""One loop for teachers and students: recipes, runs that survive a kill, stacks of small models."""

from preceptor.runs import load_model, load_teacher, read_recipe, read_result, read_splits
from preceptor.tasks.teacher import Lookup, Mixture, Teacher, as_teacher
from preceptor.training.mutual import teach_together
from preceptor.training.posterior import posterior
from preceptor.training.recording import record
from preceptor.training.verbs import Student, distill, distill_stack, distill_together, teach

__all__ = [
    "Lookup",
    "Mixture",
    "Student",
    "Teacher",
    "as_teacher",
    "distill",
    "distill_stack",
    "distill_together",
    "load_model",
    "load_teacher",
    "posterior",
    "read_recipe",
    "read_result",
    "read_splits",
    "record",
    "teach",
    "teach_together",
]
