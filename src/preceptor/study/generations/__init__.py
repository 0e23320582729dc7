"""Chains in which each student teaches the next (arXiv 1805.05551; with a strict start, Born-Again Networks)."""

from preceptor.study.generations.report import check, markdown, table
from preceptor.study.generations.run import run_generations

__all__ = ["check", "markdown", "run_generations", "table"]
