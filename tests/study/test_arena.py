"""The arena's quick form: what its tables are made of, that it goes on; its statistics by hand and by simulation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.stats import ttest_1samp

import arena
from arena_report import STOPPED, claims, correlation, detectable, judged, markdown, pooled, regret, students_of

FEW = ["--quick", "--device", "cpu", "--teachers", "ce", STOPPED, "two", "--losses", "kd", "ptloss"]

SEEDS = {
    "seeds": [0, 1],
    "epochs": 3,
    "missing": [],
    "unfinished": [],
    "command": "arena",
    "circumstances": {},
    "test_images": {},
}


def run(out: Path, *arguments: str) -> dict[str, Any]:
    arena.main([*FEW, "--out", str(out), *arguments])
    return json.loads((out / "arena.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("arena")
    run(out, "--seeds", "3")
    return out


def test_the_tables_are_of_the_runs_and_a_second_call_adds_seeds(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = json.loads((finished / "arena.json").read_text())
    assert (first["seeds"], first["missing"], list(first["teachers"])) == ([3], [], ["ce", STOPPED, "two"])
    ends = {path: path.stat().st_mtime_ns for path in finished.rglob("result.json")}
    both = run(finished, "--seeds", "3", "4")
    assert both["seeds"] == [3, 4]
    assert {path: path.stat().st_mtime_ns for path in ends} == ends  # nothing is trained twice
    assert both["students"]["two"]["kd"]["accuracy"][:1] == first["students"]["two"]["kd"]["accuracy"]
    for number, seed in enumerate(both["seeds"]):
        folder = finished / f"seed-{seed}"
        student = json.loads((folder / "students" / "two" / "ptloss" / "result.json").read_text())
        assert both["students"]["two"]["ptloss"]["brier"][number] == student["test"]["last"]["brier"]
        teacher = json.loads((folder / "teachers" / "ce" / "result.json").read_text())
        for name, weights in (("ce", "last"), (STOPPED, "best")):
            for score in ("brier", "accuracy", "nll"):
                assert both["teachers"][name][score][number] == pytest.approx(teacher["heldout"][weights][score])
        longer = json.loads((folder / "alone-4" / "result.json").read_text())
        assert both["alone_longer"]["accuracy"][number] == longer["test"]["last"]["accuracy"]
    right = {name: [_right(finished, seed, name) for seed in (3, 4)] for name in ("ce", "two")}
    away = 100 * np.mean([two - ce for two, ce in zip(right["two"], right["ce"], strict=True)], axis=(0, 1))
    assert both["test_images"]["an ensemble of two over CE"] == pytest.approx(np.std(away, ddof=1) / 10)  # 100 images
    assert "an ensemble of two over CE" in capsys.readouterr().out
    assert (finished / "arena.png").stat().st_size > 0


def _right(out: Path, seed: int, teacher: str) -> np.ndarray:
    """Where the students of a teacher are right, (losses, images)."""
    stored = [load_file(out / f"seed-{seed}/students/{teacher}/{loss}/predictions.safetensors") for loss in FEW[-2:]]
    return np.array([each["test/last"].argmax(1) == each["test/labels"] for each in stored], dtype=float)


def test_a_budget_that_is_spent_leaves_a_report_of_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--budget", "0")["seeds"] == []
    assert "No seed has a teacher" in capsys.readouterr().out
    (tmp_path / "times.json").write_text('{"student alone, 2 epochs": 0.0, "teacher ce": 1000.0}')
    result = run(tmp_path, "--budget", "500", "--seeds", "0")
    assert (result["seeds"], result["unfinished"]) == ([], [0])  # the teacher would have taken too long
    assert [path.parent.name for path in tmp_path.rglob("result.json")] == ["alone-2"]


def test_an_unfinished_seed_is_shown_with_the_teachers_that_are_complete(finished: Path) -> None:
    result = run(finished, "--seeds", "3", "--budget", "0", "--teachers", "ce", "two", "mse")
    assert (list(result["teachers"]), result["missing"]) == (["ce", "two"], ["mse"])
    assert "Not complete: mse." in markdown(result)


def test_where_the_best_epoch_is_the_last_both_have_the_same_students(tmp_path: Path) -> None:
    folder = tmp_path / "teachers" / "ce"
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text("training: {epochs: 10}\n")
    for best, expected in ((9, "ce"), (8, STOPPED)):
        (folder / "result.json").write_text(f'{{"best_epoch": {best}}}')
        assert students_of(tmp_path, STOPPED) == expected
    assert students_of(tmp_path, "mse") == "mse"


def made(teachers: dict[str, list[float]], became: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """A result of which held-out Brier scores and students' accuracies (a share, a value a seed) are given."""
    return {
        "teachers": {
            name: {"brier": values, "brier_recalibrated": values, "accuracy": values, "nll": values}
            for name, values in teachers.items()
        },
        "students": {
            name: {loss: {"accuracy": values} for loss, values in losses.items()} for name, losses in became.items()
        },
        "alone": {"accuracy": [0.4, 0.5]},
        "alone_longer": {},
        "longer": 9,
    }


def test_statistics_by_hand() -> None:
    result = made(
        {"ce": [0.3, 0.2], "mse": [0.2, 0.3], "two": [0.1, 0.1]},
        {
            "ce": {"kd": [0.50, 0.60], "ttm": [0.50, 0.62]},
            "mse": {"kd": [0.52, 0.59], "ttm": [0.53, 0.60]},
            "two": {"kd": [0.51, 0.64], "ttm": [0.56, 0.64]},
        },
    )
    # Seed 0: in kd the order is two, mse, ce by Brier and mse, two, ce by accuracy (0.5), in ttm it is the same (1).
    # Seed 1: two, ce, mse in all.
    assert correlation(result, "Brier score").value == pytest.approx((0.75 + 1) / 2)
    # "two" is first; in kd and seed 0 mse is a point better.
    assert regret(result, "Brier score").value == pytest.approx((0.5 + 0) / 2)
    assert regret(result, None).value == pytest.approx(np.mean([1, 3, 3, 2]), abs=1e-9)
    found = claims(result)
    assert found["teachers"]["MSE over CE"] == pytest.approx([2.5, -1.5])
    assert found["losses"]["ttm over kd"] == pytest.approx([2.0, 1.0])
    assert found["distilling"] == {"student of CE by kd over the student alone": pytest.approx([10.0, 10.0])}
    spread, degrees = pooled(list(found["teachers"].values()))
    two = np.array([3.5, 3.0])
    assert (spread, degrees) == (pytest.approx(np.sqrt((8.0 + two.var(ddof=1)) / 2)), 2)


def test_a_teacher_that_was_not_stopped_early_is_not_counted_twice() -> None:
    scores = {"ce": [0.3, 0.2], STOPPED: [0.3, 0.2], "mse": [0.2, 0.3]}
    of_ce, of_mse = {"kd": [0.5, 0.6], "ttm": [0.5, 0.62]}, {"kd": [0.5, 0.6], "ttm": [0.54, 0.6]}
    same = made(scores, {"ce": of_ce, STOPPED: of_ce, "mse": of_mse})
    assert judged(same) == ["ce", "mse"]
    assert claims(same)["losses"]["ttm over kd"] == pytest.approx([2.0, 1.0])
    assert not claims(same)["teachers"]["stopped early (best held-out Brier score) over CE"].any()
    assert "| the same students | – |" in markdown({**same, **SEEDS})
    other = made(scores, {"ce": of_ce, STOPPED: of_mse, "mse": of_mse})
    assert judged(other) == ["ce", STOPPED, "mse"]


@pytest.mark.parametrize("seeds", [2, 5])
def test_the_detectable_difference_is_found_in_four_of_five_tests(seeds: int) -> None:
    noise = np.random.default_rng(0).normal(size=(20_000, seeds))
    found = ttest_1samp(noise + detectable(1.0, seeds, seeds - 1), 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
