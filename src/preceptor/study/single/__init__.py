"""One run: its scores and its learning curve, as a page, a picture and Markdown."""

from preceptor.study.single.report import Report, markdown, read_report, write_picture, write_report

__all__ = ["Report", "markdown", "read_report", "write_picture", "write_report"]
