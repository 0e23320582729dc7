"""Two processes, and several micro-batches, train as one process does on the whole batch."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from preceptor.training import distill, teach
from training.processes import RUNS, SOTEACHER, normed, teacher
from training.toys import assert_close, distill_recipe, metrics, state_tensors, teach_recipe, weights

TESTS = Path(__file__).parents[1]
ELSEWHERE = {  # what two processes train otherwise than one, and why; draws are a process's own
    "normed": "batch normalisation",
    "hint": "batch normalisation",
    "dist": "a batch-level loss",
    "relations": "a batch-level loss",
}
PER_EXAMPLE = [name for name in RUNS if name not in (*ELSEWHERE, "memory")]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "training.processes"]
    done = subprocess.run(
        [sys.executable, *launch, str(folder)], env=environment, timeout=200, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    for name in PER_EXAMPLE:
        RUNS[name](folder / name)
    return folder


def assert_same_run(found: Path, expected: Path) -> None:
    """The same curve, weights, optimizer, average and history, up to rounding."""
    for line, other in zip(metrics(found), metrics(expected), strict=True):
        assert line["train"] == pytest.approx(other["train"], abs=2e-6)
        assert line["heldout"] == pytest.approx(other["heldout"], abs=2e-6)
        assert line["lr"] == other["lr"]
    assert_close(weights(found), weights(expected), 1e-5)
    assert_close(state_tensors(found), state_tensors(expected), 1e-5)


@pytest.mark.parametrize("name", PER_EXAMPLE)
def test_two_processes_train_as_one(name: str, two_processes: Path, one_process: Path) -> None:
    assert_same_run(two_processes / name, one_process / name)


def test_a_memory_is_the_same_on_all_processes(two_processes: Path) -> None:
    first, second = (torch.load(two_processes / f"memory-{rank}.pt") for rank in (0, 1))
    for name in ("memory.student", "memory.teacher", "log_constants"):
        assert first[name].equal(second[name])
        assert first[name].isfinite().all()
    seen = first["memory.student"][first["labels"] >= 0]
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(150))  # at the start they are random: each has been moved
    saved = state_tensors(two_processes / "memory")
    [found] = [name for name in saved if name.endswith("memory.student")]
    assert saved[found].equal(first["memory.student"])
    assert not any("memory" in name for name in weights(two_processes / "memory"))


def test_history_is_compared(one_process: Path) -> None:
    tensors = state_tensors(one_process / "teach")
    assert tensors["objective:consistency.visits"].sum() == 3 * 150


def test_warnings_of_two_processes(two_processes: Path) -> None:
    first, second = (json.loads((two_processes / f"said-{rank}.json").read_text()) for rank in (0, 1))
    for name in RUNS:
        cause = ELSEWHERE.get(name)
        assert len(first[name]) == (cause is not None), name
        assert cause is None or cause in first[name][0]
        assert second[name] == []
    assert "stack" in first["stack"]
    assert first["again"] == second["again"] > 0


@pytest.mark.parametrize("name", ["regressed", "hint"])
def test_parts_of_a_loss_are_the_same_on_both_processes(name: str, two_processes: Path) -> None:
    first, second = (torch.load(two_processes / name / f"loss-{rank}.pt") for rank in (0, 1))
    assert_close(first, second, 0)
    newest = state_tensors(two_processes / name)
    assert_close({key: newest[f"objective:{key}"] for key in first}, first, 0)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_micro_batches_add_up(accumulate: int, tmp_path: Path) -> None:
    overrides = (*SOTEACHER, "training.clip_norm=0.5")
    teach(teach_recipe(*overrides), tmp_path / "whole")
    teach(teach_recipe(*overrides, f"training.accumulate={accumulate}"), tmp_path / "parts")
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_micro_batches_of_a_stack_add_up(tmp_path: Path) -> None:
    overrides = ("objective=SoTeacher", "training.clip_norm=0.5")
    teach(teach_recipe(*overrides), tmp_path / "whole", seeds=[0, 1])
    teach(teach_recipe(*overrides, "training.accumulate=3"), tmp_path / "parts", seeds=[0, 1])
    assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), 1e-5)


def test_more_parts_than_samples(tmp_path: Path) -> None:
    """Steps of 4, the last of 2: some micro-batches hold nothing but padding."""
    small = ("split.train=22", "training.batch_size=4", "training.epochs=1")
    teach(teach_recipe(*small), tmp_path / "whole")
    teach(teach_recipe(*small, "training.accumulate=5"), tmp_path / "parts")
    assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), 1e-5)


def test_batch_normalisation_warns_once_where_it_matters() -> None:
    teach(teach_recipe(), model=normed)
    with pytest.warns(UserWarning, match="batch normalisation sees one micro-batch") as caught:
        teach(teach_recipe("training.accumulate=2"), model=normed)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="batch normalisation sees one micro-batch") as caught:
        teach(teach_recipe("training.accumulate=2"), model=normed, seeds=[0, 1])
    assert len(caught) == 1


def test_batch_level_loss_warns_once_where_it_matters() -> None:
    distill(distill_recipe("loss=dist"), teacher=teacher)
    with pytest.warns(UserWarning, match="a batch-level loss sees one micro-batch") as caught:
        distill(distill_recipe("loss=dist", "training.accumulate=2"), teacher=teacher)
    assert len(caught) == 1


def test_no_warning_without_cause() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        teach(teach_recipe("training.accumulate=2"))
        distill(distill_recipe("training.accumulate=2"), teacher=teacher)


def test_the_users_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    teach(teach_recipe("model.dropout=0.5", "training.epochs=1"))
    assert torch.equal(torch.get_rng_state(), before)
