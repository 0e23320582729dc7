"""Somebody else's objective, loss, model, data set and augmentation, by package.module:name; and a new method
of ours.
"""

import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import preceptor
import preceptor.losses
from preceptor.errors import InputError
from preceptor.names import ROOMS, find, names
from preceptor.training import distill, load_model, teach
from training.toys import distill_recipe, metrics, snapshot, state_tensors, stopped_at, teach_recipe

METHODS = '''
"""A teacher's objective and a student's loss, with nothing of Preceptor's in them."""

import torch
from torch import nn


def hinge(logits, labels, *, margin=1.0, mask=None):
    right = logits.gather(-1, labels[..., None])
    values = (margin - right + logits).clamp(min=0).mean(-1)
    return values if mask is None else torch.where(mask, values, 0.0)


class Counting(nn.Module):
    """Cross-entropy, weighed by how often a sample has been seen."""

    def __init__(self, growth=0.5):
        super().__init__()
        self.growth = growth

    def bind(self, *, model, num_samples, num_classes, stack=()):
        self.register_buffer("visits", torch.zeros(*stack, num_samples))

    def forward(self, logits, labels, *, index, mask=None):
        values = -logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        values = values * (1 + self.growth * self.visits.gather(-1, index))
        return values if mask is None else torch.where(mask, values, 0.0)

    def observe(self, logits, index, mask):
        self.visits.scatter_add_(-1, index, mask.float())


def squared(student_logits, teacher_logits, *, scale=1.0, mask=None):
    values = scale * (student_logits - teacher_logits).square().mean(-1)
    return values if mask is None else torch.where(mask, values, 0.0)
'''

THINGS = '''
"""A model, a data set and an augmentation."""

import torch
from torch import nn
from torch.utils.data import Dataset


def wide(num_classes, width=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Tanh(), nn.Linear(width, num_classes))


class Perceptron(nn.Sequential):
    def __init__(self, *, num_classes, width=5):
        super().__init__(nn.Flatten(), nn.Linear(16, width), nn.Tanh(), nn.Linear(width, num_classes))


def hands_on(*, pretrained=False, **options):
    """As torchvision's and timm's functions do."""
    return Perceptron(**options)


class Blobs(Dataset):
    classes = ["left", "right", "up"]

    def __init__(self, size=200):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(size, 1, 4, 4, generator=generator)
        for number in range(size):
            self.inputs[number, 0, number % 3] += 2

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], index % 3


def pair(size=200):
    return Blobs(size), Blobs(60)


class Shift:
    def draw(self, num_samples, generator):
        return torch.randn(num_samples, generator=generator)

    def apply(self, inputs, parameters):
        return inputs + parameters[:, None, None, None]


not_callable = 3
'''


@pytest.fixture(autouse=True)
def _toybox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in the folder that the command is called from."""
    (tmp_path / "toybox").mkdir()
    (tmp_path / "toybox" / "__init__.py").write_text("")
    (tmp_path / "toybox" / "methods.py").write_text(METHODS)
    (tmp_path / "toybox" / "things.py").write_text(THINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "toybox"]:
        monkeypatch.delitem(sys.modules, name)


def blobs(make: Any, *overrides: str) -> Any:
    recipe = make(*overrides)
    options = {"data": {"name": "toybox.things:Blobs"}, "model": {"name": "toybox.things:wide", "width": 7}}
    split = {"train": 100, "heldout": 40, "test": "rest"}
    return type(recipe).model_validate(recipe.model_dump() | options | {"split": split})


def test_a_factory_that_hands_its_options_on(tmp_path: Path) -> None:
    recipe = blobs(teach_recipe, "training.epochs=1")
    model = type(recipe.model).model_validate({"name": "toybox.things:hands_on", "width": 6})
    teach(recipe.model_copy(update={"model": model}), "taught")
    model, _ = load_model(tmp_path / "taught" / "last.safetensors", trust=True)
    assert sum(p.numel() for p in model.parameters()) == 6 * 20 + 3


def test_everything_of_ones_own(tmp_path: Path) -> None:
    taught = teach(blobs(teach_recipe, "objective.name=toybox.methods:hinge", "objective.margin=2.0"), "taught")
    assert taught["test"]["last"]["accuracy"] > 0.5
    recipe = blobs(
        distill_recipe,
        "teacher=taught",
        "loss.name=toybox.methods:squared",
        "loss.scale=0.1",
        "augmentation=toybox.things:Shift",
        "training.epochs=12",
    )
    result = distill(recipe, "student")
    assert result["test"]["last"]["accuracy"] > 0.5
    model, found = load_model(tmp_path / "student" / "last.safetensors", trust=["toybox.things:wide"])
    assert found.class_names == ("left", "right", "up")
    assert found.model == {"name": "toybox.things:wide", "width": 7}
    assert sum(p.numel() for p in model.parameters()) == result["num_parameters"] == 16 * 7 + 7 + 7 * 3 + 3


def test_a_stateful_objective_survives(tmp_path: Path) -> None:
    recipe = blobs(teach_recipe, "objective.name=toybox.methods:Counting", "objective.growth=0.3", "training.epochs=4")
    teach(recipe, "whole")
    with stopped_at(5):
        teach(recipe, "run")
    teach(recipe, "run")
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")
    assert state_tensors(tmp_path / "run")["objective:visits"].sum() == 400
    assert metrics(tmp_path / "run")[3]["train"]["objective"] > 0
    teach(recipe, "stack", seeds=[0, 1])
    assert state_tensors(tmp_path / "stack")["objective:visits"].sum(-1).tolist() == [400.0, 400.0]


def test_a_train_and_a_test_set() -> None:
    recipe = blobs(teach_recipe).model_dump() | {"data": "toybox.things:pair", "split": {"heldout": 50}}
    result = teach(type(teach_recipe()).model_validate(recipe))
    assert result["test"]["last"]["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["data=toyboks.things:Blobs"],
            "the data 'toyboks.things:Blobs' cannot be imported: No module named 'toyboks'",
        ),
        (["model=toybox.things:wiede"], "'toybox.things' has no callable 'wiede'; did you mean 'wide'?"),
        (["model=toybox.things:not_callable"], "has no callable 'not_callable'"),
        (["model=:wide"], "the model ':wide' cannot be imported"),
        (["model=toybox.things:wide", "model.widht=3"], "unknown key 'model.widht' .* did you mean 'width'?"),
        (["objective=toybox.methods:hinge", "objective.margn=1"], "unknown key 'objective.margn'"),
        (["objective.name=toybox.methods:Counting", "objective.grow=1"], "unknown key 'objective.grow'"),
    ],
)
def test_names_that_lead_nowhere(overrides: list[str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        teach(teach_recipe(*overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["timm:create_model", "torchvision.models:resnet18"])
def test_a_library_of_models_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = name.partition(":")[0].partition(".")[0]
    for module in {package, *(each for each in sys.modules if each.startswith(f"{package}."))}:
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(InputError, match=f"the model '{name}' cannot be imported: .*; run pip install {package}$"):
        find("model", name, trust=True)


def test_models_of_torchvision_and_timm_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(model_name: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
        assert (model_name, pretrained) == ("tiny", False)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, kwargs.pop("num_classes"), **kwargs))

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))  # type: ignore[arg-type]
    package, module = types.ModuleType("torchvision"), types.ModuleType("torchvision.models")
    module.resnet18 = lambda *, weights=None, progress=True, **kwargs: create_model("tiny", **kwargs)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", module)
    for model in ({"name": "timm:create_model", "model_name": "tiny"}, "torchvision.models:resnet18"):
        recipe = blobs(teach_recipe).model_dump() | {"model": model}
        assert teach(type(teach_recipe()).model_validate(recipe))["test"]["last"]["accuracy"] > 0.5


def test_public_names_are_found() -> None:
    for room, places in ROOMS.items():
        modules = [places] if isinstance(places, str) else places
        for name in names(room):
            assert any(find(room, name) is getattr(sys.modules[module], name, None) for module in modules)
    assert {"kd", "FitNet"} <= set(names("loss"))
    assert "FeatureLoss" not in names("loss")
    assert {"cross_entropy", "mse", "tolerant", "SoTeacher", "label_smoothing"} <= set(names("objective"))
    assert not {"average_weights", "fit_temperature", "average_probabilities"} & set(names("objective"))


def test_a_new_method_is_its_file_and_an_import_line(tmp_path: Path) -> None:
    """A copy of the package, with one file more and one line more: the recipe knows the new loss, and so do
    its errors.
    """
    package = tmp_path / "preceptor"
    shutil.copytree(Path(preceptor.__file__).parent, package)
    (package / "losses" / "squared.py").write_text(METHODS)
    with open(package / "losses" / "__init__.py", "a", encoding="utf-8") as file:
        file.write("from preceptor.losses.squared import squared; __all__ += ['squared']\n")
    script = """
from preceptor.errors import InputError
from preceptor.training import distill
from training.toys import distill_recipe

def run(*overrides):
    recipe = distill_recipe(*overrides)
    return distill(recipe, teacher=lambda batch: batch["input"].flatten(1)[:, :10])

print(run("loss.name=squared", "loss.scale=0.5")["test"]["last"]["accuracy"])
for wrong in (["loss=sqared"], ["loss.name=squared", "loss.scal=1"]):
    try:
        run(*wrong)
    except InputError as error:
        print(error)
"""
    paths = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    accuracy, name, option = done.stdout.splitlines()
    assert 0 <= float(accuracy) <= 1
    assert "did you mean 'squared'?" in name
    assert "did you mean 'scale'?" in option
    assert "squared" not in preceptor.losses.__all__
