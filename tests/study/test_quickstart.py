"""The quickstart from end to end on a reduced grid, and one of its cells against the same student trained alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from preceptor.cli import app
from preceptor.recipe import Component, DistillRecipe, TeachRecipe, parse
from preceptor.study.grid import run_study
from preceptor.study.grid.statistics import summarize
from preceptor.study.recipe import Study
from preceptor.tasks.stack import member_state
from preceptor.tasks.teacher import Teacher
from preceptor.training import distill, load_model, teach

SMALL = [
    "seeds=[3,5]",
    "teach.training.epochs=11",
    "distill.training.epochs=2",
    "baseline.training.epochs=2",
]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quickstart") / "out"
    outcome = CliRunner().invoke(app, ["quickstart", *SMALL, "--out", str(folder)], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    assert "labels alone" in outcome.output
    assert all(label in outcome.output for label in ("ρ accuracy", "ρ distance"))
    return folder


def study_result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "study.json").read_text())


def test_quickstart_tells_the_whole_story(quickstart: Path) -> None:
    result = study_result(quickstart)
    assert list(result["teachers"]) == [
        "cross_entropy", "early_stopped", "label_smoothing", "mse", "soteacher", "tolerant",
        "cross_entropy@10", "label_smoothing@10", "mse@10", "soteacher@10", "tolerant@10",
    ]  # fmt: skip
    assert list(result["students"]) == ["kd", "ttm", "wttm", "ptloss"]
    assert len(summarize(result).teachers) == 11
    page = (quickstart / "report.html").read_text()
    assert all(name in page for name in result["teachers"])
    assert "http://" not in page.split("<details")[0].replace("http://www.w3.org", "")


def test_quickstart_resumes_to_the_same_numbers(quickstart: Path) -> None:
    before = study_result(quickstart)
    (quickstart / "study.json").unlink()
    (quickstart / "students" / "all" / "result.json").unlink()
    arguments = ["quickstart", *SMALL, "--resume", str(quickstart)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    after = study_result(quickstart)
    assert after["students"] == before["students"]
    assert after["teachers"] == before["teachers"]


@pytest.mark.parametrize(("teacher", "weights"), [("mse", "last"), ("early_stopped", "best")])
@pytest.mark.parametrize("loss", ["kd", "ptloss"])
def test_cell_equals_the_student_trained_alone(quickstart: Path, teacher: str, weights: str, loss: str) -> None:
    """Stack rows, teacher tables and seeds are in step: seed 5 of one cell, by the single-model path."""
    result = study_result(quickstart)
    study = parse(Study, result["recipe"])
    source = study.teachers[teacher].of or teacher
    alone = study.teach_recipe(source).model_copy(update={"seed": 5})
    folder = quickstart / "alone" / source
    teach(alone, folder)
    model, _ = load_model(folder / f"{weights}.safetensors")
    entry = study.losses[loss]
    raw = study.distill.model_dump(mode="json") | {
        "seed": 5,
        "loss": entry.loss.model_dump(mode="json"),
        "ce_weight": entry.ce_weight,
        "distill_weight": entry.distill_weight,
    }
    student = distill(parse(DistillRecipe, raw), teacher=Teacher(model))
    found = result["students"][loss][teacher]["test"]
    assert student["test"]["last"]["brier"] == pytest.approx(found["brier"][1], abs=1e-4)
    assert student["test"]["last"]["accuracy"] == pytest.approx(found["accuracy"][1], abs=3e-3)


def test_unstacked_teachers_give_the_same_study(quickstart: Path, tmp_path: Path) -> None:
    result = study_result(quickstart)
    raw = result["recipe"] | {
        "stack_teachers": False,
        "students_per_stack": "seed",
        "teachers": {name: result["recipe"]["teachers"][name] for name in ("cross_entropy", "early_stopped")},
        "losses": {"wttm": result["recipe"]["losses"]["wttm"]},
    }
    again = run_study(parse(Study, raw), tmp_path / "study", command="test")
    for name in ("cross_entropy", "early_stopped"):
        ours, theirs = again["teachers"][name], result["teachers"][name]
        assert ours["heldout"]["brier"] == pytest.approx(theirs["heldout"]["brier"], abs=1e-5)
        assert ours["optimum_brier"]["wttm"] == pytest.approx(theirs["optimum_brier"]["wttm"], abs=1e-5)
        students = again["students"]["wttm"][name]["test"]["brier"]
        assert students == pytest.approx(result["students"]["wttm"][name]["test"]["brier"], abs=1e-4)


def test_member_of_a_stack_loads_alone(quickstart: Path) -> None:
    path = quickstart / "teachers" / "mse" / "last.safetensors"
    model, weights = load_model(path, member=1)
    expected = member_state(weights.tensors, 1)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_teach_recipe_lays_settings_over_the_study() -> None:
    base = {"data": "digits", "model": "mlp", "training": {"epochs": 7, "batch_size": 8}}
    study = parse(
        Study,
        {
            "name": "x", "seeds": [0], "teach": base, "distill": base, "baseline": base,
            "teachers": {"mse": {"objective": "mse", "settings": {"training": {"clip_norm": 1.0}}}},
            "losses": {"kd": {"loss": "kd"}},
        },
    )  # fmt: skip
    recipe = study.teach_recipe("mse")
    assert isinstance(recipe, TeachRecipe)
    assert recipe.objective == Component(name="mse")
    assert (recipe.training.epochs, recipe.training.batch_size, recipe.training.clip_norm) == (7, 8, 1.0)
