"""Runs and a study of format 1, written by version 0.1.0, are read as they were."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import preceptor
from preceptor import runs
from preceptor.cli import app
from preceptor.recipe import DistillRecipe, TeacherRef, parse
from preceptor.recipe.text import read_yaml
from training.toys import assert_close, weights

OLD = Path(__file__).parents[1] / "fixtures" / "schema1"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders, where they were made: their recipes name teachers by relative paths."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return tmp_path / "old"


@pytest.mark.parametrize(("name", "members"), [("teacher", None), ("student", None), ("stack", 2)])
def test_results_recipes_members_and_objects(name: str, members: int | None, old: Path) -> None:
    result = runs.read_result(old / name)
    assert result["schema_version"] == 1
    assert result["members"] == members
    assert runs.read_recipe(old / name).training.epochs >= 1
    assert runs.read_members(old / name) == ([{"seed": 0}, {"seed": 1}] if members else [])
    assert runs.read_objects(old / name) == {}
    assert set(runs.read_splits(old / name)) >= {"train", "heldout", "test"}


@pytest.mark.parametrize("name", ["teacher", "teacher:best", "teacher:average", "teacher:epoch-1", "teacher:teaching"])
def test_models(name: str, old: Path) -> None:
    run, _, moment = name.partition(":")
    found = preceptor.load(name).state_dict()
    if not moment.startswith("epoch"):
        assert_close(found, load_file(old / run / f"{moment or 'last'}.safetensors"), 0)
    assert preceptor.load("stack:member-1")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_complete_run_is_found_complete(old: Path) -> None:
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file() and path.name != ".lock"}
    for name in ("teacher", "student"):
        verb = preceptor.teach if name == "teacher" else preceptor.distill
        recipe = old / name / "recipe.yaml"
        assert verb(recipe, name) == runs.read_result(old / name)  # type: ignore[operator]
    after = {path: path.read_bytes() for path in old.rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == before


def test_an_old_run_teaches(old: Path) -> None:
    preceptor.distill(old / "student" / "recipe.yaml", "again")
    assert_close(weights(old / "again"), weights(old / "student"), 1e-6)  # the losses round otherwise now
    assert json.loads((old / "again" / "result.json").read_text())["schema_version"] == 2


def test_an_interrupted_old_run_goes_on(old: Path) -> None:
    """Its newest checkpoint is that of the end; what it left is written anew in format 2."""
    (old / "student" / "result.json").unlink()
    (old / "student" / "last.safetensors").unlink()
    preceptor.distill(old / "student" / "recipe.yaml", "student")
    assert_close(weights(old / "student"), load_file(OLD / "student" / "last.safetensors"), 0)


def test_an_old_run_is_assessed(old: Path) -> None:
    called = CliRunner().invoke(app, ["assess", "teacher", "teacher:teaching", "--json"])
    assert called.exit_code == 0, called.output
    assert {t["name"] for t in json.loads(called.stdout)["rankings"][0]["teachers"]} == {"teacher", "teacher:teaching"}
    assert runs.load_teacher(TeacherRef(run=old / "teacher", weights="teaching"))


def test_a_study_of_format_1(old: Path) -> None:
    called = CliRunner().invoke(app, ["report", "study"])
    assert called.exit_code == 0, called.output
    assert (old / "study" / "report.html").is_file()
    assert "cross_entropy" in called.output
    again = CliRunner().invoke(app, ["study", "study.yaml", "--out", "study", "--json"])
    assert again.exit_code == 0, again.output


def test_the_fixtures_are_of_format_1() -> None:
    assert (OLD / "stack" / "recipe.yaml").read_text().startswith("# members: [{")
    raw = read_yaml(OLD / "student" / "recipe.yaml")
    assert parse(DistillRecipe, raw).teacher[0].run == Path("teacher")
