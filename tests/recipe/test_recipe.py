"""Recipes: typed, strict, overridable, and the same after a round trip."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from preceptor.errors import InputError
from preceptor.recipe import (
    Component,
    DistillRecipe,
    TeacherRef,
    TeachRecipe,
    dump,
    find_recipe,
    load,
    override,
    parse,
    read_yaml,
    text_override,
)

SMALL: dict[str, Any] = {"data": "digits", "model": "mlp"}


def test_round_trip() -> None:
    raw = SMALL | {
        "model": {"name": "mlp", "hidden": [8, 8]},
        "teacher": [{"run": "a", "weights": "best"}, "b"],
        "loss": {"name": "ptloss", "coefficients": [0.5, 1e-3]},
        "schedule": {"name": "step", "milestones": [1.5, 2], "warmup_epochs": 1},
        "average": {"kind": "swa"},
        "streams": {"order": 3},
        "training": {"trackers": ["tensorboard"], "clip_norm": 1e-4},
    }
    recipe = parse(DistillRecipe, raw)
    assert parse(DistillRecipe, yaml.safe_load(dump(recipe))) == recipe
    assert recipe.loss.options == {"coefficients": [0.5, 1e-3]}
    assert [str(t.run) for t in recipe.teacher] == ["a", "b"]


def test_every_default_is_spelled_out() -> None:
    spelled = yaml.safe_load(dump(parse(TeachRecipe, SMALL)))
    assert spelled["optimizer"]["momentum"] == 0.9
    assert spelled["objective"] == {"name": "cross_entropy"}
    assert spelled["verb"] == "teach"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive_yaml(value: float) -> None:
    assert override({}, [f"x={value!r}"]) == {"x": value}
    assert isinstance(override({}, [f"x={value!r}"])["x"], float)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1000.0),
        ("-2.5e+2", -250.0),
        (".5e1", 5.0),
        ("3", 3),
        ("0.1", 0.1),
        ("[1e-3, 2]", [0.001, 2]),
        ("1e-3-teacher", "1e-3-teacher"),
        ("1.5-teacher", "1.5-teacher"),
        ("2.0.1", "2.0.1"),
        ("e5", "e5"),
        ("true", True),
        ("null", None),
        ("a: b", {"a": "b"}),
        ("on", "on"),
        ("No", "No"),
        ("False", False),
        ("0711", "0711"),
        ("-7", -7),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("=", "="),
        (".inf", float("inf")),
    ],
)
def test_values_are_yaml(text: str, value: object) -> None:
    assert override({}, [f"x={text}"]) == {"x": value}


def test_floats_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: digits\nmodel: mlp\noptimizer: {lr: 1e-3, weight_decay: 0}\n")
    recipe = load(TeachRecipe, path, ["training.epochs=3", "objective.name=mse", "model.hidden=[4]"])
    assert (recipe.optimizer.lr, recipe.training.epochs, recipe.objective.name) == (0.001, 3, "mse")
    assert recipe.model.options == {"hidden": [4]}


def test_words_that_yaml_once_took_for_booleans_are_text(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: digits\nmodel: mlp\nobjective: {name: mse, on: logit}\n")
    assert load(TeachRecipe, path).objective.options == {"on": "logit"}


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("data: digits\nseed: 1\nmodel: mlp\nseed: 2\n")
    with pytest.raises(
        InputError, match=r"recipe\.yaml' is not valid YAML: line 4 has the key 'seed' again; keep one$"
    ):
        load(TeachRecipe, path)
    with pytest.raises(InputError, match="line 1 has the key 'T' again"):
        override({}, ["loss={T: 1, T: 2}"])


def test_a_merged_key_may_be_given_anew(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("a: {b: &inner {<<: &base {lr: 1, seed: 1}, lr: 2}}\nc: {<<: [*inner, *base], seed: 3}\n")
    assert read_yaml(path)["c"] == {"lr": 2, "seed": 3}


@given(st.text())
def test_text_survives_as_an_override(text: str) -> None:
    assert override({}, [text_override("teacher", text)]) == {"teacher": text}


@given(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"])))
@example("1e3")
@example("on")
def test_text_survives_in_a_dumped_recipe(text: str) -> None:
    dumped = dump(Component(name=text)).partition(": ")[2]
    assert override({}, [f"name={dumped}"]) == {"name": text}


def test_a_folder_does_not_hide_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("teach-digits").mkdir()
    assert find_recipe("teach-digits").is_file()
    Path("mine").write_text("data: digits\nmodel: mlp\n")
    assert find_recipe("mine") == Path("mine")


def test_overrides_leave_the_original_alone() -> None:
    raw = {"optimizer": {"lr": 1.0}, "loss": "kd"}
    assert override(raw, ["optimizer.lr=2", "optimizer.lr=3", "loss.temperature=2", "a.b.c=1"]) == {
        "optimizer": {"lr": 3},
        "loss": {"name": "kd", "temperature": 2},
        "a": {"b": {"c": 1}},
    }
    assert raw == {"optimizer": {"lr": 1.0}, "loss": "kd"}


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("optimizer.lr", "cannot read the override 'optimizer.lr'; write it as key.key=value"),
        ("=3", "cannot read the override '=3'"),
        ("x=[1", r"the value in the override 'x=\[1' is not valid YAML"),
        ("teacher.0.run=b", r"'teacher' is \['a'\], which has no keys"),
        ("training.epochs.x=1", "'epochs' is 5, which has no keys"),
    ],
)
def test_overrides_that_cannot_be(assignment: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        override({"teacher": ["a"], "training": {"epochs": 5}}, [assignment])


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser' in the recipe; did you mean 'optimizer'?"),
        ({"optimizer": {"Ir": 1}}, "unknown key 'optimizer.Ir' in the recipe; known: betas, layer_decay, lr, "),
        ({"training": {"epoch": 1}}, "unknown key 'training.epoch' in the recipe; did you mean 'epochs'?"),
        (
            {"teacher": {"run": "a", "weigth": 2}},
            "unknown key 'teacher.0.weigth' in the recipe; did you mean 'weight'?",
        ),
        ({"average": {"decai": 1}}, "unknown key 'average.decai' in the recipe; did you mean 'decay'?"),
        ({"zzz": 1, "optimizer": {"lr": -1}}, "unknown key 'zzz' in the recipe; known: "),
        ({"optimizer": {"name": "adam"}}, "'optimizer.name' is 'adam'; did you mean 'adamw'?"),
        ({"streams": {"ordre": 1}}, "'streams.ordre"),
        ({"optimizer": {"lr": 0}}, "'optimizer.lr' is 0: input should be greater than 0"),
        ({"optimizer": {"lr": "fast"}}, "'optimizer.lr' is 'fast': input should be a valid number"),
        ({"optimizer": {"lr": float("nan")}}, "'optimizer.lr' is nan: input should be a finite number"),
        ({"training": {"epochs": 1.5}}, "'training.epochs' is 1.5: input should be a valid integer"),
        ({"split": {"heldout": 1.5}}, "'split.heldout' is 1.5"),
        ({"split": {"heldout": 0}}, "'split.heldout' is 0"),
        ({"seed": None}, "'seed' is None"),
        ({"loss": {"temperature": 2}}, "the recipe lacks the key 'loss.name'"),
        ({"schedule": {"name": "step"}}, "schedule.milestones is empty; a step schedule needs at least one epoch"),
        (
            {"schedule": {"name": "cyclic", "cycles": 3}},
            "schedule.cycles is 3, but the 10 epochs after the warm-up are not so many cycles of whole epochs; set "
            "training.epochs to 9, say",
        ),
        (
            {"schedule": {"name": "cyclic", "cycles": 20}},
            "schedule.cycles is 20, but the 10 epochs after the warm-up are not so many cycles of whole epochs; set "
            "training.epochs to 20, say",
        ),
        (
            {"schedule": {"name": "cyclic", "cycles": 3, "warmup_epochs": 0.5}},
            "schedule.cycles is 3, but the 9.5 epochs after the warm-up are not so many cycles of whole epochs; set "
            "training.epochs to 10, say, and schedule.warmup_epochs to a whole number",
        ),
        (
            {"schedule": {"name": "one_cycle"}},
            "schedule.warmup_epochs is 0; a one_cycle schedule rises over some epochs, e.g. 3 of 10",
        ),
        ({"average": {"start_epoch": 10}}, "average.start_epoch is 10, but training ends after 10 epochs"),
        ({"ce_weight": 0, "distill_weight": 0}, "ce_weight and distill_weight are both 0"),
        ({"training": {"precision": "fp8"}}, "'training.precision' is 'fp8'; known: auto, bf16, fp16, fp32"),
        ({"verb": "teach"}, "'verb' is 'teach'"),
    ],
)
def test_what_a_recipe_refuses(raw: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(DistillRecipe, SMALL | raw)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(InputError, match=r"the recipe lacks the key 'run'; add it, or give run=\.\.\."):
        parse(TeacherRef, {"weights": "best"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"- a\n- b\n", "holds a list, not a mapping of keys to values"),
        (b"", "holds a NoneType, not a mapping"),
        (b"a: [1", "is not valid YAML"),
        (b"\xff\xfe\x00\x01", "is not"),
        (b"a: !!python/object:os.system x\n", "is not valid YAML"),
    ],
)
def test_files_that_are_no_recipes(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"cannot read the recipe '.*nowhere.yaml': No such file or "
        "directory",
    ):
        read_yaml(tmp_path / "nowhere.yaml")


def test_recipes_do_not_import_torch() -> None:
    script = "import sys, preceptor.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"training": {"compile": 3.5}}, "'training.compile' is 3.5: input should be a valid boolean, or 'auto'"),
        ({"training": {"num_workers": "Auto"}}, "'training.num_workers' is 'Auto': input should be a valid integer"),
        ({"training": {"num_workers": True}}, "'training.num_workers': True is no number; give one"),
        (
            {"schedule": "one_cycle"},
            "'schedule' is 'one_cycle'; give a mapping with some of the keys name,",
        ),
        ({"schedule": None}, "'schedule' is None; give a mapping with some of the keys name,"),
    ],
)
def test_values_of_several_kinds_are_named_by_their_key(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError) as error:
        parse(TeachRecipe, {"data": "digits", "model": "mlp", **given})
    assert str(error.value).startswith(expected)
