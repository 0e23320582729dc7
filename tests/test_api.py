"""The public names, and recipes from whatever a caller has."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import preceptor
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.recipe.keywords import make_recipe
from training.toys import RECIPE, assert_close, teach_recipe, weights

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 64, "device": "cpu", "lr": 0.1}


def blobs(size: int, seed: int) -> torch.utils.data.TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 3
    return torch.utils.data.TensorDataset(torch.randn(size, 4, generator=generator) + labels[:, None], labels)


DATA = blobs(90, 0), blobs(30, 1), blobs(60, 2)


def make_student(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, num_classes))


# -- no YAML -----------------------------------------------------------------------------------------------------------


def test_teach_distill_load_without_yaml(tmp_path: Path) -> None:
    taught = preceptor.teach(model=make_student, data=DATA, objective="mse", folder=tmp_path / "t", **QUICK)
    assert taught["verb"] == "teach"
    net = preceptor.load(tmp_path / "t", model=make_student)
    assert not net.training
    assert net.class_names == ("0", "1", "2")
    student = preceptor.distill(teacher=net, model=make_student, data=DATA, loss="wttm", folder=tmp_path / "s", **QUICK)
    assert student["test"]["last"]["accuracy"] >= 0
    loaded = preceptor.load(tmp_path / "s:best", model=f"{__name__}:make_student")
    assert_close(loaded.state_dict(), weights(tmp_path / "s", "best"), 0)


def test_keywords_say_what_a_recipe_says(tmp_path: Path) -> None:
    preceptor.teach(teach_recipe("objective=mse"), tmp_path / "object")
    preceptor.teach({**RECIPE, "objective": "mse"}, tmp_path / "mapping")
    (tmp_path / "recipe.yaml").write_text((tmp_path / "object" / "recipe.yaml").read_text())
    preceptor.teach(tmp_path / "recipe.yaml", tmp_path / "path")
    keywords = {name: value for name, value in RECIPE.items() if name not in ("training", "optimizer")}
    preceptor.teach(folder=tmp_path / "words", **keywords, objective="mse", **RECIPE["training"], lr=0.1)
    for name in ("mapping", "path", "words"):
        assert_close(weights(tmp_path / name), weights(tmp_path / "object"), 0)
        assert (tmp_path / name / "recipe.yaml").read_text() == (tmp_path / "object" / "recipe.yaml").read_text()


def test_keywords_are_laid_over_a_recipe() -> None:
    base = teach_recipe()
    made = make_recipe(TeachRecipe, base, {"epochs": 7, "optimizer": {"momentum": 0.5}, "model": "mlp", "seed": 3})
    assert (made.training.epochs, made.training.batch_size) == (7, base.training.batch_size)
    assert (made.optimizer.momentum, made.optimizer.lr) == (0.5, base.optimizer.lr)
    assert made.model is not None
    assert made.model.options == {}
    assert made.seed == 3
    assert make_recipe(TeachRecipe, base, {}) is base


@pytest.mark.parametrize(
    "keywords", [{"lr": 0.3, "optimizer": {"name": "adamw"}}, {"optimizer": {"name": "adamw"}, "lr": 0.3}]
)
def test_a_rate_is_that_of_the_optimizer_beside_it_in_any_order(keywords: dict[str, Any]) -> None:
    made = make_recipe(TeachRecipe, None, keywords)
    assert (made.optimizer.name, made.optimizer.lr) == ("adamw", 0.3)


def test_a_recipe_that_ships_is_found_by_name() -> None:
    assert make_recipe(TeachRecipe, "teach-digits-mse", {"epochs": 2}).training.epochs == 2


@pytest.mark.parametrize(
    ("recipe", "keywords", "sentence"),
    [
        (None, {"epoch": 3}, "there is no keyword 'epoch'; did you mean 'epochs'"),
        (None, {"epochs": "many"}, "'training.epochs' is 'many'"),
        ("no-such", {}, "there is no recipe 'no-such'"),
        (3, {}, "the recipe is a int; give a path, a mapping, or keywords"),
        (DistillRecipe(**RECIPE), {}, "the recipe is a DistillRecipe, and teach needs a TeachRecipe"),
        ({"objectiv": "mse"}, {}, "unknown key 'objectiv' in the recipe; did you mean 'objective'"),
        (None, {"optimizer": {"lrr": 1}}, "unknown key 'optimizer.lrr'"),
        ({"optimizer": "adamw"}, {"lr": 1}, "'optimizer' is 'adamw'; give a mapping"),
    ],
)
def test_recipes_that_are_none(recipe: Any, keywords: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_recipe(TeachRecipe, recipe, keywords)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there are no data: the recipe lacks the key 'data'") as caught:
        preceptor.teach(model="mlp", folder=tmp_path / "run")
    assert caught.value.argument == "data"
    with pytest.raises(InputError, match="there is no model: the recipe lacks the key 'model'") as caught:
        preceptor.teach(data="digits", folder=tmp_path / "run")
    assert caught.value.argument == "model"
    assert not (tmp_path / "run").exists()


def test_data_mine_goes_on_to_work(tmp_path: Path) -> None:
    """What recipes had to say before objects were enough."""
    recipe = {**RECIPE, "data": "mine", "model": "mine", "split": {}}
    assert preceptor.teach(recipe, tmp_path / "run", data=DATA, model=make_student)["verb"] == "teach"


# -- teachers by name --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    for name, seed in (("a", 0), ("b", 1)):
        recipe = teach_recipe(f"streams.initialization={seed}", "training.keep=all", "calibrate=true")
        preceptor.teach(recipe, folder / name)
    preceptor.teach(teach_recipe(), folder / "stack", seeds=[0, 1])
    return folder


def test_a_teacher_by_name(taught: Path, tmp_path: Path) -> None:
    preceptor.distill(RECIPE, tmp_path / "name", teacher=f"{taught}/a:best")
    preceptor.distill({**RECIPE, "teacher": {"run": taught / "a", "weights": "best"}}, tmp_path / "recipe")
    assert_close(weights(tmp_path / "name"), weights(tmp_path / "recipe"), 0)
    preceptor.distill(RECIPE, tmp_path / "sum", teacher=f"{taught}/a+{taught}/b:epoch-1")
    preceptor.distill(RECIPE, tmp_path / "list", teacher=[taught / "a", f"{taught}/b:epoch-1"])
    assert_close(weights(tmp_path / "sum"), weights(tmp_path / "list"), 0)
    with pytest.raises(InputError, match="there is no run folder or file 'runs/nowhere'"):
        preceptor.distill(RECIPE, teacher="runs/nowhere")


def test_load_finds_every_moment(taught: Path) -> None:
    assert_close(preceptor.load(taught / "a").state_dict(), weights(taught / "a"), 0)
    assert_close(preceptor.load(f"{taught}/a:best").state_dict(), weights(taught / "a", "best"), 0)
    assert_close(preceptor.load(f"{taught}/a:epoch-2").state_dict(), weights(taught / "a"), 0)
    assert_close(preceptor.load(taught / "a" / "best.safetensors").state_dict(), weights(taught / "a", "best"), 0)
    member = preceptor.load(taught / "stack", member=1).state_dict()
    assert_close(preceptor.load(f"{taught}/stack:member-1").state_dict(), member, 0)
    net = preceptor.load(taught / "a")
    assert not net.training
    assert net.class_names == tuple("0123456789")
    assert isinstance(net(torch.zeros(2, 1, 8, 8)), Tensor)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a:bst", "names no weights of the run; did you mean 'best'"),
        ("a+b", "stands for several models|stands for 2 models"),
        ("a:epochs", "stands for several teachers"),
        ("a:calibrated", "names what is done to a model's output, and no model; leave calibrated out"),
        ("stack", "holds a stack of 2 models; say which member"),
        ("nowhere", "there is no run folder or file"),
    ],
)
def test_what_cannot_be_loaded(name: str, sentence: str, taught: Path) -> None:
    named = "+".join(str(taught / part) for part in name.split("+"))
    with pytest.raises(InputError, match=sentence):
        preceptor.load(named)


# -- names -------------------------------------------------------------------------------------------------------------


def test_public_names_are_there() -> None:
    for name in preceptor.__all__:
        assert getattr(preceptor, name) is not None
    assert set(dir(preceptor)) == set(preceptor.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'tech'"):
        _ = preceptor.tech


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, preceptor; sys.exit(bool({'torch', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
