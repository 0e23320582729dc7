"""A grid of teachers, losses and seeds: every teacher taught, every student of it distilled, in one report."""

from preceptor.study.grid.report import markdown, table, write_picture, write_report
from preceptor.study.grid.run import run_study

__all__ = ["markdown", "run_study", "table", "write_picture", "write_report"]
