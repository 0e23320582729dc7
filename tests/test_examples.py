"""Every script in examples/ runs as it says, on data that it makes itself, and ends with something to read."""

import ast
import os
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from preceptor.cli import app

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SCRIPTS = sorted((ROOT / "examples").glob("*.sh"))
LEAVES_TRACES = ("lightning_module",)
"""Seed the process for good, so each has one of its own; the others run here, where the packages are imported once."""


def command_of(example: Path) -> list[str]:
    """The line of its docstring that starts with ``$``."""
    text = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    [command] = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return shlex.split(command)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    first, *rest = command_of(example)
    assert f"examples/{example.name}" in rest
    monkeypatch.chdir(tmp_path)
    if first == "python" and example.stem not in LEAVES_TRACES:
        assert rest == [f"examples/{example.name}"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of other packages stop nobody who types the command
            runpy.run_path(str(example), run_name="__main__")
    else:
        launched(first, [str(ROOT / word) if word.startswith("examples/") else word for word in rest])
    assert capfd.readouterr().out.strip()


def launched(first: str, arguments: list[str]) -> None:
    program = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*program[first], *arguments], env=environment, timeout=200, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    print(done.stdout)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_commands_run_as_they_are_written(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell says what it would start, word by word; that is then run here, where the packages are imported."""
    program = tmp_path / "bin" / "preceptor"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{{ printf '%s\\n' \"$@\"; echo; }} >>'{tmp_path}/commands'\n")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", str(script)], cwd=tmp_path, env=environment, timeout=60, check=True)
    monkeypatch.chdir(tmp_path)
    shown = ""
    for command in (tmp_path / "commands").read_text().removesuffix("\n\n").split("\n\n"):
        done = CliRunner().invoke(app, command.splitlines(), catch_exceptions=False)
        assert done.exit_code == 0, done.output
        shown += done.stdout
    assert shown.count("Assessed on tokens") == script.read_text(encoding="utf-8").count("\npreceptor assess ")
    assert len(script.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_says_what_it_shows(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert (ast.get_docstring(ast.parse(text)) or "").splitlines()[0].endswith(".")
