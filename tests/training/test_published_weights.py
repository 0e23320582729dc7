"""A loss that looks into the models weighs what it was published with, however given, unless somebody says else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import TensorDataset

import preceptor
from preceptor import models
from preceptor.losses import kd
from preceptor.losses.features import AT, FitNet, ReviewKD
from preceptor.recipe import DistillRecipe, load, parse, read_yaml
from preceptor.recipe.keywords import make_recipe
from preceptor.runs import read_result
from preceptor.tasks import DistillTask

IMAGES = torch.randn(60, 3, 16, 16, generator=torch.Generator().manual_seed(0))
DATA = tuple(TensorDataset(IMAGES[rows], torch.arange(20) % 4) for rows in torch.arange(60).split(20))
BATCH = {"input": IMAGES[:4], "label": torch.arange(4)}


def net(num_classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, num_classes))


def read_recipe(folder: Path) -> DistillRecipe:
    return parse(DistillRecipe, read_yaml(folder / "recipe.yaml"))


def weights_of(recipe: Any) -> tuple[float, float]:
    return recipe.ce_weight, recipe.distill_weight


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"loss": "kd"}, (0.1, 0.9)),
        ({"loss": "FitNet"}, (1.0, 100.0)),
        ({"loss": "FitNet", "ce_weight": 0.5}, (0.5, 100.0)),
        ({"loss": {"name": "AT", "power": 1.0}, "distill_weight": 3.0}, (1.0, 3.0)),
        ({"loss": ["wttm", "AT"]}, (1.0, 1.0)),
        ({"loss": "ReviewKD", "model": "resnet20"}, (1.0, 0.6)),
        ({"loss": "ReviewKD", "model": "resnet8x4"}, (1.0, 5.0)),
    ],
)
def test_of_a_recipe(said: dict[str, Any], expected: tuple[float, float]) -> None:
    assert weights_of(parse(DistillRecipe, said)) == expected


def test_another_loss_does_not_inherit_them() -> None:
    base = parse(DistillRecipe, {"loss": "FitNet"})
    assert weights_of(make_recipe(DistillRecipe, base, {"loss": "AT"})) == (1.0, 1000.0)
    assert weights_of(make_recipe(DistillRecipe, base, {"loss": "kd"})) == (0.1, 0.9)
    said = parse(DistillRecipe, {"ce_weight": 0.3})  # of no loss in particular
    assert weights_of(make_recipe(DistillRecipe, said, {"loss": "AT"})) == (0.3, 1000.0)


FILE = {"loss": {"name": "wttm", "temperature": 2.0}, "ce_weight": 0.2, "distill_weight": 3.0}


@pytest.mark.parametrize(
    ("overrides", "expected", "noted"),
    [
        (["loss=FitNet"], (1.0, 100.0), "are for 'wttm', and 'FitNet' has its own, ce_weight=1.0"),
        (["loss={name: AT, power: 1.0}"], (1.0, 1000.0), "and 'AT' has its own"),
        (["loss=[wttm, AT]"], (1.0, 1.0), "and 'sum' has its own, ce_weight=1.0 distill_weight=1.0"),
        (["loss=FitNet", "distill_weight=7"], (1.0, 7.0), "note: ce_weight=0.2 of the recipe are for 'wttm'"),
        (["loss=FitNet", "ce_weight=0.2", "distill_weight=3"], (0.2, 3.0), ""),
        (["loss=kd"], (0.2, 3.0), ""),  # a loss of the outputs as well
        (["loss.temperature=4"], (0.2, 3.0), ""),
        (["seed=3"], (0.2, 3.0), ""),
    ],
)
def test_weights_that_a_file_has_for_its_own_loss(
    overrides: list[str], expected: tuple[float, float], noted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(FILE))
    assert weights_of(load(DistillRecipe, tmp_path / "mine.yaml", overrides)) == expected
    said = capsys.readouterr().err
    assert (noted in said) if noted else not said
    keywords = {key: yaml.safe_load(value) for key, _, value in (each.partition("=") for each in overrides)}
    if not any("." in key for key in keywords):
        for recipe in (tmp_path / "mine.yaml", FILE, parse(DistillRecipe, FILE)):
            assert weights_of(make_recipe(DistillRecipe, recipe, keywords)) == expected
            said = capsys.readouterr().err
            assert (noted in said) if noted else not said


def test_back_from_a_loss_that_was_published_with_weights(capsys: pytest.CaptureFixture[str]) -> None:
    raw = {"loss": "FitNet", "ce_weight": 0.5, "distill_weight": 20.0}
    assert weights_of(make_recipe(DistillRecipe, raw, {"loss": "kd"})) == (0.1, 0.9)
    assert "and 'kd' has its own, ce_weight=0.1 distill_weight=0.9" in capsys.readouterr().err
    assert weights_of(make_recipe(DistillRecipe, raw, {"loss": {"name": "FitNet", "student": "0"}})) == (0.5, 20.0)


def test_a_recipe_that_went_through_many_hands_has_only_the_weights_that_somebody_said() -> None:
    """Each step of a call lays keywords over a made recipe, whose defaults must not become what was said."""
    base = make_recipe(DistillRecipe, parse(DistillRecipe, {"model": "resnet8"}), {"teacher": "runs/t"})
    again = make_recipe(DistillRecipe, base, {"epochs": 3})
    assert weights_of(make_recipe(DistillRecipe, again, {"loss": "AT"})) == (1.0, 1000.0)
    assert weights_of(make_recipe(DistillRecipe, again, {"epochs": 4})) == (0.1, 0.9)
    said = make_recipe(DistillRecipe, parse(DistillRecipe, {"ce_weight": 0.1}), {"teacher": "runs/t"})
    assert weights_of(make_recipe(DistillRecipe, said, {"loss": "AT"})) == (0.1, 1000.0)


def test_side_by_side_each_student_has_the_weights_of_its_loss(tmp_path: Path) -> None:
    preceptor.teach(None, tmp_path / "t", model="cnn", data=DATA, epochs=1, device="cpu", num_classes=4)
    recipe = parse(DistillRecipe, {"model": "cnn", "training": {"epochs": 1, "device": "cpu"}, "num_classes": 4})
    students = {"kd": {"loss": "kd"}, "AT": {"loss": "AT"}, "sum": {"loss": ["kd", "AT"]}}
    preceptor.distill_together(recipe, students, tmp_path, teacher=str(tmp_path / "t"), data=DATA)
    found = {name: read_recipe(tmp_path / name) for name in students}
    assert {name: weights_of(each) for name, each in found.items()} == {
        "kd": (0.1, 0.9),
        "AT": (1.0, 1000.0),
        "sum": (1.0, 1.0),
    }


def test_of_an_object(tmp_path: Path) -> None:
    common: Any = {"teacher": net(), "model": net, "data": DATA, "epochs": 1, "device": "cpu"}
    preceptor.distill(None, tmp_path / "own", loss=FitNet(student="0"), **common)
    preceptor.distill(None, tmp_path / "said", loss=FitNet(student="0"), distill_weight=2.0, **common)
    preceptor.distill_together(None, {"one": {"loss": FitNet(student="0")}}, tmp_path, **common)
    for name, expected in (("own", 100.0), ("said", 2.0), ("one", 100.0)):
        assert read_result(tmp_path / name)["verb"] == "distill"
        assert f"distill_weight: {expected}" in (tmp_path / name / "recipe.yaml").read_text()


def test_in_a_loop_of_ones_own() -> None:
    tasks = [
        DistillTask(net(), net(), loss, example=BATCH)
        for loss in (kd, AT(student="0"), [(kd, 2.0), (AT(student="0"), 5.0)])
    ]
    assert [weights_of(task) for task in tasks] == [(0.1, 0.9), (1.0, 1000.0), (1.0, 1.0)]
    said = tasks[2](BATCH)
    torch.testing.assert_close(said["distill"], 2 * said["distill_kd"] + 5 * said["distill_AT"])
    torch.testing.assert_close(said["loss"], said["ce"] + said["distill"])


def test_of_a_sum_by_name_a_part_has_the_weight_of_its_paper(tmp_path: Path) -> None:
    common: Any = {"teacher": net(), "model": net, "data": DATA, "epochs": 1, "device": "cpu"}
    parts = [{"name": "FitNet", "student": "0"}, {"name": "kd", "weight": 2.0}]
    preceptor.distill(None, tmp_path, loss=parts, **common)
    [row] = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if "distill_FitNet" in line][-1:]
    found = json.loads(row)
    found = found.get("train", found)
    assert found["distill"] == pytest.approx(100 * found["distill_FitNet"] + 2 * found["distill_kd"], rel=1e-5)


def test_a_part_of_a_sum_is_weighed_by_its_student_too(tmp_path: Path) -> None:
    few = {"split": {"train": 32, "heldout": 10, "test": 10}, "data": "digits", "epochs": 1, "device": "cpu"}
    teacher = models.resnet8(num_classes=10, input_shape=(1, 8, 8))
    common: Any = {"teacher": teacher, "loss": [{"name": "ReviewKD", "warmup_epochs": 0}, "kd"], **few}
    for model, weight in (("resnet20", 0.6), ("resnet8", 5.0)):
        preceptor.distill(None, tmp_path / model, model=model, **common)
        found = json.loads((tmp_path / model / "metrics.jsonl").read_text().splitlines()[-1])
        found = found.get("train", found)
        assert found["distill"] == pytest.approx(weight * found["distill_ReviewKD"] + found["distill_kd"], rel=1e-5)


def test_another_student_does_not_inherit_the_weight_of_the_first() -> None:
    base = parse(DistillRecipe, {"loss": "ReviewKD", "model": "resnet8x4"})
    assert weights_of(make_recipe(DistillRecipe, base, {"model": "resnet20"})) == (1.0, 0.6)
    said = parse(DistillRecipe, {"loss": "ReviewKD", "model": "resnet8x4", "distill_weight": 2.0})
    assert weights_of(make_recipe(DistillRecipe, said, {"model": "resnet20"})) == (1.0, 2.0)


def test_reviewkd_knows_its_students() -> None:
    assert ReviewKD.published.of_student["resnet20"] == 0.6
