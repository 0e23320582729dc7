"""`preceptor record`, a verb with verbs of its own: what is typed, and what is said."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import preceptor
from preceptor.cli import app


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["record", *arguments], prog_name="preceptor")


def test_help_tells_of_its_options_and_verbs() -> None:
    shown = run("--help").stdout
    for said in ("--views", "--form", "record info DIR", "record verify DIR", "Usage: preceptor record "):
        assert said in " ".join(shown.split())
    assert "record teacher" not in shown
    assert "--views" not in run("info", "--help").stdout


def test_a_run_may_be_called_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no run folder or file 'teacher'" in run("teacher", "--out", "record").stderr
    assert run().stderr.strip() == "error: missing argument 'TEACHER'; preceptor record --help says what it takes"


def test_an_option_of_one_letter_is_named(tmp_path: Path) -> None:
    preceptor.teach(data="digits", model="mlp", epochs=1, device="cpu", folder=tmp_path / "run")
    said = run(str(tmp_path / "run"), "--out", str(tmp_path / "record"), "--form", "top_k").stderr
    assert said.strip().endswith("give k (on the command line: -k)")
