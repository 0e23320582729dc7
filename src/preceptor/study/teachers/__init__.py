"""Teachers by name (runs, their epochs, ensembles, files of logits): compared, chosen from, shown on a page."""

from typing import Any

from preceptor.study.teachers.assessing import assess_candidates, assess_teachers
from preceptor.study.teachers.assessment import Assessment
from preceptor.study.teachers.auto import choose_teacher, keep_teaching
from preceptor.study.teachers.candidates import Candidate, Predictions
from preceptor.study.teachers.reading import read_candidates

__all__ = [
    "Assessment",
    "Candidate",
    "Predictions",
    "assess_candidates",
    "assess_teachers",
    "choose_teacher",
    "keep_teaching",
    "read_candidates",
]


def assess_files(*arguments: Any, **options: Any) -> Assessment:
    """Deprecated: `assess_teachers`."""
    import warnings

    warnings.warn("'assess_files' is now 'assess_teachers'", DeprecationWarning, stacklevel=2)
    return assess_teachers(*arguments, **options)
