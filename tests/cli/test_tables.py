"""Tables on a narrow terminal and in a pipe: no name and no number is cut or left out."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from preceptor.cli import app
from preceptor.study.teachers import assess_teachers
from preceptor.study.teachers.page import write_page
from study.html_page import Page

LONG = "a teacher with a name that is as long as those that people give to their runs, and which no table may cut"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("logits")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    paths = []
    for scale, name in enumerate(("one", "two", LONG), 1):
        path = folder / f"{name}.npz"
        np.savez(path, logits=scale * np.eye(3)[labels] + rng.normal(size=(200, 3)), labels=labels)
        paths.append(path)
    return paths


def shown(files: list[Path], columns: int | None) -> str:
    environment = {"COLUMNS": None if columns is None else str(columns)}
    outcome = CliRunner().invoke(app, ["assess", *map(str, files)], env=environment, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "narrow" not in outcome.stderr
    return outcome.stdout


def cells(text: str, column: int) -> str:
    """What stands in a column of all tables, line after line, without spaces."""
    rows = [line.split("│") for line in text.splitlines() if line.startswith("│")]
    return "".join(row[column].replace(" ", "") for row in rows)


@pytest.mark.parametrize("columns", [80, 60])
def test_narrow(files: list[Path], columns: int) -> None:
    text = shown(files, columns)
    assert max(map(len, text.splitlines())) <= columns
    assert "…" not in text
    assert LONG.replace(" ", "") in cells(text, 2)
    [comparison] = assess_teachers(files)
    for teacher in comparison.teachers:
        for name in ("brier", "brier_recalibrated", "accuracy", "nll", "calibration_error"):
            assert str(teacher.scores[name]) in text
    for header in ("behind", "Brier", "at best T", "accuracy", "NLL", "ECE"):
        assert header in text
    assert text.count("Assessed for kd") == 1
    assert text.count("200 samples") == 1


def test_piped(files: list[Path]) -> None:
    """Without a width a row is a line."""
    text = shown(files, None)
    assert "…" not in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert len(rows) == 3
    [comparison] = assess_teachers(files)
    for teacher, row in zip(comparison.teachers, rows, strict=True):
        assert teacher.name in row
        assert str(teacher.scores["nll"]) in row
    assert text.startswith("Assessed for kd"), "in a wide table a title in the middle is out of sight"


def test_a_wide_table_of_a_page_is_not_cut(files: list[Path], tmp_path: Path) -> None:
    path = write_page(assess_teachers(files), tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    assert LONG in Page(text).text
    assert re.search(r'<div class="scroll wide">\s*<table>', text)
    style = text[text.index("<style>") : text.index("</style>")]
    assert re.search(r"\.wide \{[^}]*max-width: calc\(100vw - ", style), "as wide as the window"
    assert re.search(r"\.scroll \{ overflow-x: auto; \}", style), "and beyond that it scrolls"
    assert re.search(r"@media print \{.*\.scroll \{ overflow-x: visible; \}", style, re.DOTALL), "paper does not scroll"
