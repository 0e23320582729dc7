"""The command line: ``preceptor VERB``. Nothing heavy is imported before a verb runs: ``--help`` is instant."""

from preceptor.cli.app import app, main

__all__ = ["app", "main"]
