"""Keywords over a recipe: whole sections, and keys of a section by their own names."""

from typing import Any

import pytest

from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe
from preceptor.recipe.keywords import make_recipe


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ["adamw", "torch.optim:Adam"])
def test_a_key_is_laid_over_its_section_in_whatever_order_they_are_given(name: str, turned: bool) -> None:
    keywords: dict[str, Any] = {"lr": 0.3, "optimizer": {"name": name}, "epochs": 7, "training": {"batch_size": 3}}
    made = make_recipe(DistillRecipe, None, dict(reversed(keywords.items())) if turned else keywords)
    assert (made.optimizer.name, made.optimizer.lr) == (name, 0.3)
    assert (made.training.epochs, made.training.batch_size) == (7, 3)


def test_a_key_that_its_section_says_otherwise_is_refused() -> None:
    with pytest.raises(InputError, match=r"^lr is 0\.3, and in optimizer 0\.1; give one of them$"):
        make_recipe(DistillRecipe, None, {"lr": 0.3, "optimizer": {"lr": 0.1}})
    assert make_recipe(DistillRecipe, None, {"lr": 0.1, "optimizer": {"lr": 0.1}}).optimizer.lr == 0.1


def test_what_a_mapping_names_is_changed_of_a_name_alone_too() -> None:
    made = make_recipe(DistillRecipe, {"loss": "wttm"}, {"loss": {"temperature": 2.0}})
    assert (made.loss.name, made.loss.options) == ("wttm", {"temperature": 2.0})


@pytest.mark.parametrize("held", ["adamw", [1], 3])
def test_a_section_that_is_none_is_refused_beside_its_keys_too(held: Any) -> None:
    with pytest.raises(InputError, match=r"'optimizer' is .*; give a mapping with some of the keys name, lr"):
        make_recipe(DistillRecipe, {"optimizer": held}, {"lr": 0.1})
