"""Every script in examples/ runs as its docstring says, on data that it makes itself, and ends with a line to read."""

import ast
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def command_of(example: Path) -> list[str]:
    """The line of its docstring that starts with ``$``."""
    text = ast.get_docstring(ast.parse(example.read_text(encoding="utf-8"))) or ""
    [command] = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    return shlex.split(command)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    first, *rest = command_of(example)
    assert f"examples/{example.name}" in rest
    program = {"python": [sys.executable], "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"]}
    arguments = [str(ROOT / word) if word.startswith("examples/") else word for word in rest]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*program[first], *arguments], cwd=tmp_path, env=environment, timeout=200, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.strip()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_short_and_says_what_it_shows(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    assert (ast.get_docstring(ast.parse(text)) or "").splitlines()[0].endswith(".")
