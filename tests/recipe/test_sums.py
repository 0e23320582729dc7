"""Sums of losses in a recipe: the weight of each part stands in it, and what is wrong is said before anything runs."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, dump, load, override, parse
from preceptor.recipe.keywords import make_recipe
from preceptor.schema import parts_of


def weights(recipe: DistillRecipe) -> dict[str, float | None]:
    return {part.name: weight for part, weight in parts_of(recipe.loss)}


def dry(*overrides: str) -> Result:
    return CliRunner().invoke(app, ["distill", "distill-digits", *overrides, "--dry-run"], prog_name="preceptor")


def test_the_weights_of_parts_are_written_out() -> None:
    said: list[Any] = ["wttm", "CRD", {"name": "FitNet", "weight": 2, "student": "0"}]
    printed = yaml.safe_load(dump(parse(DistillRecipe, {"loss": said})))
    assert printed["loss"]["parts"] == [  # of CRD the weight that its authors give
        {"name": "wttm", "weight": 1.0}, {"name": "CRD", "weight": 0.8},
        {"name": "FitNet", "weight": 2, "student": "0"},
    ]  # fmt: skip
    assert yaml.safe_load(dump(parse(DistillRecipe, printed))) == printed
    assert "name: CRD\n    weight: 0.8\n" in dry("loss=[wttm, CRD]").stdout


def test_another_student_has_the_weight_of_its_own() -> None:
    base = parse(DistillRecipe, {"loss": ["ReviewKD", "kd"], "model": "resnet8x4"})
    assert weights(base) == {"ReviewKD": 5.0, "kd": 1.0}
    assert weights(make_recipe(DistillRecipe, base, {"model": "resnet20"})) == {"ReviewKD": 0.6, "kd": 1.0}
    said = parse(DistillRecipe, {"loss": [{"name": "ReviewKD", "weight": 2.0}, "kd"], "model": "resnet8x4"})
    assert weights(make_recipe(DistillRecipe, said, {"model": "resnet20"})) == {"ReviewKD": 2.0, "kd": 1.0}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["loss=[]"], "a sum is a list of losses, each a name or a mapping; give loss=[kd, wttm], say"),
        (["loss=[kd, kd]"], "the sum has 'kd' twice; give it once"),
        (["loss=[kd, wtm]"], "there is no loss called 'wtm'; did you mean 'wttm'?"),
        (["loss=kdd"], "there is no loss called 'kdd'"),
        (["loss=[kd, {name: wttm, weight: -1}]"], "the weight of 'wttm' in a sum is -1; give a number of at least 0"),
        (["loss=[kd, 3]"], "3 is no part of a sum; give a name"),
        (["loss={name: kd, temprature: 3}"], "did you mean 'temperature'?"),
        (["label_loss=cross"], "there is no label_loss called 'cross'"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(overrides: list[str], said: str) -> None:
    outcome = dry(*overrides)
    assert outcome.exit_code == 2
    assert not outcome.stdout
    assert said in outcome.stderr.splitlines()[-1]


def test_a_dry_run_of_a_teacher_too() -> None:
    outcome = CliRunner().invoke(app, ["teach", "teach-digits", "objective=mes", "--dry-run"])
    assert outcome.exit_code == 2
    assert "did you mean 'mse'?" in outcome.stderr


@pytest.mark.parametrize(
    ("raw", "assignment", "expected"),
    [
        ({"loss": ["wttm", "CRD"]}, "loss.parts.1.weight=3", {"wttm": 1.0, "CRD": 3}),
        ({"loss": ["wttm", {"name": "CRD", "dim": 8}]}, "loss.0.weight=0.5", {"wttm": 0.5, "CRD": 0.8}),
        ({"loss": {"name": "sum", "parts": ["wttm", "kd"]}}, "loss.parts.0.weight=4", {"wttm": 4, "kd": 1.0}),
        ({"loss": ["wttm", "kd"]}, "loss.temperature=4", {"wttm": 1.0, "kd": 1.0}),
        ({"loss": ["wttm", "kd"]}, "loss.parts.7.weight=4", {"wttm": 1.0, "kd": 1.0}),
    ],
)
def test_an_override_into_a_sum_names_one_that_works(
    raw: dict[str, Any], assignment: str, expected: dict[str, float], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"which has no keys; give it as a whole, e\.g\. ") as caught:
        override(raw, [assignment])
    [remedy] = shlex.split(re.sub(".*e.g. ", "", str(caught.value)))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    found = load(DistillRecipe, tmp_path / "r.yaml", [remedy])
    assert weights(found) == expected
