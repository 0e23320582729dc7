"""The suite must notice when a loss is wrong: each mutation of a copy of the package turns it red."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import preceptor

ROOT = Path(__file__).parents[2]


class Mutation(NamedTuple):
    """Replace `old`, which occurs exactly once in `file` of the package, by `new`; `test` must then fail."""

    file: str
    old: str
    new: str
    test: str


MUTATIONS = {
    "KL direction swapped": Mutation(
        file="losses/_closed.py",
        old="gap = y - x\n    q, p = x.exp_(), y.exp_()",
        new="gap = x - y\n    q, p = y.exp_(), x.exp_()",
        test="tests/losses/test_closed.py::test_blocks_in_single_precision_against_the_oracle",
    ),
    "T² removed from KD": Mutation(
        file="losses/kd.py",
        old="Rows(found.value, found.gradient, temperature**2, temperature / found.total)",
        new="Rows(found.value, found.gradient, 1.0, temperature / found.total)",
        test="tests/losses/test_closed.py::test_blocks_in_single_precision_against_the_oracle",
    ),
    "denominator K in the top score difference": Mutation(
        file="teaching/tolerant.py",
        old="top[..., 1:].sum(-1) / (k - 1)",
        new="top[..., 1:].sum(-1) / k",
        test="tests/teaching/test_tolerant.py::test_difference_by_hand",
    ),
}


# Runs pytest on the copy, and on nothing but the copy.
PYTEST_ON_COPY = """
import sys, preceptor, pytest
sys.exit(pytest.main(sys.argv[2:]) if preceptor.__file__.startswith(sys.argv[1]) else "not the copy")
"""


def suite_is_green(source: Path, *tests: str) -> bool:
    """Run some tests against the package under `source`."""
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    options = ["-x", "-q", "-p", "no:cacheprovider", *tests]
    command = [sys.executable, "-c", PYTEST_ON_COPY, str(source), *options]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    # A run that proves nothing (no test found, broken import) says neither "passed" nor "failed".
    summary = run.stdout.strip().rsplit("\n", 1)[-1]
    assert "passed" in summary or "failed" in summary, run.stdout + run.stderr
    return run.returncode == 0


@pytest.fixture
def copied_package(tmp_path: Path) -> Path:
    package = Path(preceptor.__file__).parent
    shutil.copytree(package, tmp_path / "preceptor", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_green_without_mutation(copied_package):
    assert suite_is_green(copied_package, *sorted({mutation.test for mutation in MUTATIONS.values()}))


@pytest.mark.parametrize("name", MUTATIONS)
def test_red_with_mutation(copied_package, name):
    mutation = MUTATIONS[name]
    file = copied_package / "preceptor" / mutation.file
    text = file.read_text()
    assert text.count(mutation.old) == 1, f"the text to mutate is no longer in {mutation.file}: update the table"
    file.write_text(text.replace(mutation.old, mutation.new))
    assert not suite_is_green(copied_package, mutation.test)
