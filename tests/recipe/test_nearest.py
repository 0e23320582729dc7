"""An unknown key names the key that is meant, also in another group, and by the names of other libraries."""

import re

import pytest
from typer.testing import CliRunner

from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeachRecipe, override, parse
from preceptor.recipe.keywords import make_recipe
from preceptor.recipe.nearest import _OTHERS, meant
from preceptor.study.recipe import Study

BASE = {"data": "digits", "model": "mlp", "loss": "kd"}


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("lr=0.1", "optimizer.lr"),
        ("learning_rate=0.1", "optimizer.lr"),
        ("learning-rate=0.1", "optimizer.lr"),
        ("gradient_clip_val=1", "training.clip_norm"),  # of Lightning
        ("max_grad_norm=1", "training.clip_norm"),  # of transformers
        ("max_epochs=3", "training.epochs"),
        ("num_train_epochs=3", "training.epochs"),
        ("batch_size=8", "training.batch_size"),
        ("per_device_train_batch_size=8", "training.batch_size"),
        ("weight_decay=0.1", "optimizer.weight_decay"),
        ("gradient_accumulation_steps=2", "training.accumulate"),
        ("warmup_epochs=1", "schedule.warmup_epochs"),
        ("training.lr=0.1", "optimizer.lr"),
        ("optimizer.learning_rate=0.1", "optimizer.lr"),
        ("optimizer.batch_size=8", "training.batch_size"),
        ("temperature=4", "loss.temperature"),
        ("learnin_rate=0.1", "optimizer.lr"),
    ],
)
def test_the_key_that_is_meant_works_when_typed(typed: str, key: str) -> None:
    with pytest.raises(InputError, match=rf"did you mean '{re.escape(key)}'\?$"):
        parse(DistillRecipe, override(BASE, [typed]))
    parse(DistillRecipe, override(BASE, [f"{key}={typed.partition('=')[2]}"]))


@pytest.mark.parametrize(("typed", "key"), [("optimizer.lrr", "lr"), ("optimzer.lr", "optimizer"), ("sed", "seed")])
def test_a_near_neighbour_comes_first(typed: str, key: str) -> None:
    with pytest.raises(InputError, match=rf"did you mean '{key}'\?$"):
        parse(TeachRecipe, override({}, [f"{typed}=1"]))


def test_what_means_nothing_gets_the_list() -> None:
    with pytest.raises(InputError, match=r"unknown key 'training\.zzz' in the recipe; known: accumulate, batch_size"):
        parse(TeachRecipe, override({}, ["training.zzz=1"]))


def test_a_teacher_has_an_objective_and_a_student_a_loss() -> None:
    assert meant(TeachRecipe, [], "loss") == "objective"
    assert meant(DistillRecipe, [], "objective") is None
    assert meant(DistillRecipe, [], "criterion") == "loss"
    assert meant(TeachRecipe, [], "temperature") is None


def test_within_a_study() -> None:
    assert meant(Study, ["teach"], "learning_rate") == "teach.optimizer.lr"
    assert meant(Study, ["teach", "training"], "lr") == "teach.optimizer.lr"


@pytest.mark.parametrize("key", _OTHERS)
def test_every_name_in_the_table_leads_to_a_key(key: str) -> None:
    """A name that is a key itself, or that two keys share in one recipe, would mislead."""
    first = key.partition(".")[0]
    kinds = [kind for kind in (TeachRecipe, DistillRecipe) if first in kind.model_fields]
    assert kinds, key
    for kind in kinds:
        for other in _OTHERS[key].split():
            assert meant(kind, [], other) == key or other in kind.model_fields, other


@pytest.mark.parametrize(
    ("keyword", "said"),
    [
        ("learning_rate", "did you mean 'lr'?"),
        ("num_epochs", "did you mean 'epochs'?"),
        ("dataset", "did you mean 'data'?"),
        ("warmup_epochs", "did you mean schedule={'warmup_epochs': ...}?"),
        ("temperature", "did you mean loss={'name': ..., 'temperature': ...}?"),
        ("epoch_s", "did you mean 'epochs'?"),
    ],
)
def test_keywords(keyword: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        make_recipe(DistillRecipe, None, {keyword: 1})
    assert str(refused.value) == f"there is no keyword '{keyword}'; {said}"
    assert make_recipe(DistillRecipe, None, {"loss": {"name": "kd", "temperature": 4}}).loss.options == {
        "temperature": 4
    }


def test_an_option_that_is_a_key() -> None:
    for option, key in {"--lr": "optimizer.lr", "--max-epochs": "training.epochs", "--seed": "seed"}.items():
        outcome = CliRunner().invoke(app, ["teach", "teach-digits", option, "3"])
        assert (outcome.exit_code, outcome.stderr.strip().endswith(f"; did you mean {key}=VALUE?")) == (2, True)
        assert CliRunner().invoke(app, ["teach", "teach-digits", f"{key}=3", "--dry-run"]).exit_code == 0
