"""A run that was killed and started again ends as one that never was."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from training import killed
from training.toys import snapshot

TESTS = Path(__file__).parents[1]
KILLED = -9
CHECKPOINT_EVERY = {
    "teach": 2,
    "teach_stack": 3,
    "teach_conv": 2,
    "distill": 2,
    "distill_stack": 1,
    "distill_memory": 2,
}  # in optimizer steps

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def random_parts(verb: str, points: int) -> list[list[dict[str, Any]]]:
    """One death in each of so many equal stretches of the run."""
    draw = random.Random(verb)
    return [[{"part": (point + draw.random()) / points}] for point in range(points)]


def worst_moments(verb: str) -> list[list[dict[str, Any]]]:
    """Every moment that might matter, of the first and of the second checkpoint."""
    often = ("checkpoint", "metrics", "file")
    return [
        [{"moment": moment, "nth": nth}]
        for moment in killed.MOMENTS
        for nth in ([1, 2] if any(word in moment for word in often) else [1])
        if verb == "teach" or nth == 2 or "result" in moment
    ]


# A start is about a fifth of all lines: each start gets a little further, or not even that.
AGAIN_AND_AGAIN = [{"part": part} for part in (0.3, 0.1, 0.25, 0.35, 0.2, 0.3)]
DEATHS = {
    ("teach", "random"): random_parts("teach", 12),
    ("teach_stack", "random"): random_parts("teach_stack", 4),
    ("teach_conv", "random"): random_parts("teach_conv", 4),
    ("distill", "random"): random_parts("distill", 4),
    ("distill_stack", "random"): random_parts("distill_stack", 4),
    ("distill_memory", "random"): random_parts("distill_memory", 4),
    ("teach", "worst"): worst_moments("teach"),
    ("teach_stack", "worst"): worst_moments("teach_stack"),
    ("distill", "worst"): worst_moments("distill"),
    ("teach", "again"): [AGAIN_AND_AGAIN],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs, ``<verb>`` never killed and ``<verb>-<kind>-<number>`` killed: one start of Python for all of
    them.
    """
    folder = tmp_path_factory.mktemp("runs")
    jobs = [{"verb": verb, "folder": str(folder / verb), "deaths": []} for verb in CHECKPOINT_EVERY]
    for (verb, kind), deaths in DEATHS.items():
        for number, each in enumerate(deaths):
            jobs.append({"verb": verb, "folder": str(folder / f"{verb}-{kind}-{number}"), "deaths": each})
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "training.killed", str(folder / "jobs.json")]
    subprocess.run(command, check=True, env=environment, timeout=250)
    return folder


@pytest.mark.parametrize(("verb", "kind"), DEATHS)
def test_killed_and_started_again(verb: str, kind: str, runs: Path) -> None:
    expected = runs / verb
    rng = json.loads(expected.with_suffix(".end").read_text())["rng"]
    steps = expected.with_suffix(".steps").stat().st_size
    for number, deaths in enumerate(DEATHS[verb, kind]):
        found = runs / f"{verb}-{kind}-{number}"
        assert json.loads(found.with_suffix(".statuses").read_text()) == [KILLED] * len(deaths) + [0], deaths
        assert snapshot(found) == snapshot(expected), deaths
        assert json.loads(found.with_suffix(".end").read_text())["rng"] == rng
        repeated = found.with_suffix(".steps").stat().st_size - steps
        assert 0 <= repeated <= len(deaths) * CHECKPOINT_EVERY[verb], deaths
