"""Teachers by name (runs, their epochs, ensembles, files of logits): ranked, chosen from, shown on a page."""

from preceptor.study.teachers.auto import choose_teacher, keep_teaching
from preceptor.study.teachers.candidates import Candidate, Predictions, read_candidates
from preceptor.study.teachers.ranking import Assessment, Ranking, SeenScore, assess_candidates, assess_files

assess_teachers = assess_files

__all__ = [
    "Assessment",
    "Candidate",
    "Predictions",
    "Ranking",
    "SeenScore",
    "assess_candidates",
    "assess_files",
    "assess_teachers",
    "choose_teacher",
    "keep_teaching",
    "read_candidates",
]
