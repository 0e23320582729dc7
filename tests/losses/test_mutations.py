"""The suite must notice when a loss is wrong: each mutation of a copy of the package turns it red."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import preceptor

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


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


# Runs pytest on copies, and on nothing but the copy: each in a fork of a process that has what takes long to import.
PYTEST_ON_COPIES = """
import json, os, sys
import accelerate, pydantic, scipy.optimize, scipy.stats, sklearn.datasets, torch

def run(source, tests):
    number = os.fork()
    if number == 0:
        status = 99
        try:
            for stream in (1, 2):
                os.dup2(os.open(f"{source}/output", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
            sys.path.insert(0, source)
            import preceptor, pytest
            assert preceptor.__file__.startswith(source)
            status = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            sys.stdout.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

print(json.dumps([run(*each) for each in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def is_green(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Whether its test passes on the package under each mutation, and all of them on the package as it is ("")."""
    places = {name: mutated(tmp_path_factory.mktemp("copy"), MUTATIONS.get(name)) for name in ["", *MUTATIONS]}
    everyone = sorted({mutation.test for mutation in MUTATIONS.values()})
    jobs = [(str(place), [MUTATIONS[name].test] if name else everyone) for name, place in places.items()]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", PYTEST_ON_COPIES, json.dumps(jobs)]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for place in places.values():
        # A run that proves nothing (no test found, broken import) says neither "passed" nor "failed".
        output = (place / "output").read_text()
        summary = output.strip().rsplit("\n", 1)[-1]
        assert "passed" in summary or "failed" in summary, output
    return {name: status == 0 for name, status in zip(places, json.loads(run.stdout), strict=True)}


def mutated(place: Path, mutation: Mutation | None) -> Path:
    """A copy of the package in a folder, with the mutation."""
    package = Path(preceptor.__file__).parent
    shutil.copytree(package, place / "preceptor", ignore=shutil.ignore_patterns("__pycache__"))
    if mutation is not None:
        file = place / "preceptor" / mutation.file
        text = file.read_text()
        assert text.count(mutation.old) == 1, f"the text to mutate is no longer in {mutation.file}: update the table"
        file.write_text(text.replace(mutation.old, mutation.new))
    return place


def test_green_without_mutation(is_green: dict[str, bool]) -> None:
    assert is_green[""]


@pytest.mark.parametrize("name", MUTATIONS)
def test_red_with_mutation(name: str, is_green: dict[str, bool]) -> None:
    assert not is_green[name]
