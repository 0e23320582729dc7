"""A recipe from whatever a caller has: a recipe, a path, a mapping, keywords, or some of these."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from preceptor.errors import InputError, did_you_mean
from preceptor.recipe.models import Recipe, Training
from preceptor.recipe.nearest import meant
from preceptor.recipe.optimization import Optimizer
from preceptor.recipe.published import WEIGHTS, published_weights, with_own_weights, without_published
from preceptor.recipe.text import find_recipe, parse, read_yaml
from preceptor.schema import by_name

R = TypeVar("R", bound=Recipe)
RecipeLike = Recipe | Path | str | Mapping[str, Any]

# Keys that a keyword may name without their section: ``epochs=30``, ``lr=0.1``.
_SECTIONS = {
    key: section
    for section, model in (("training", Training), ("optimizer", Optimizer))
    for key in model.model_fields
    if key != "name"
}

_UNSAID = {*WEIGHTS, "loss"}


def make_recipe(kind: type[R], recipe: RecipeLike | None, keywords: Mapping[str, Any]) -> R:
    """The recipe that a caller means.

    Args:
        kind: of recipe.
        recipe: one that is made, the path of a YAML file or the name of one that ships with Preceptor, a mapping, or
            None for the defaults.
        keywords: laid over it: its keys (a nested one as a mapping, of which what it names is changed), and the keys of
            ``training`` and ``optimizer`` by their own names, whichever comes first. Weights that the recipe has for
            its own loss are not another's that a keyword names.

    Raises:
        InputError: a recipe of another verb, a file that cannot be read, or an unknown key or value.

    >>> from preceptor.recipe import TeachRecipe
    >>> made = make_recipe(TeachRecipe, {"data": "digits", "model": "mlp"}, {"epochs": 3, "lr": 0.1})
    >>> made.training.epochs, made.optimizer.lr
    (3, 0.1)
    """
    if isinstance(recipe, BaseModel) and not isinstance(recipe, kind):
        verb = "teach" if kind.__name__ == "TeachRecipe" else "distill"
        raise InputError(f"the recipe is a {type(recipe).__name__}, and {verb} needs a {kind.__name__}")
    if isinstance(recipe, kind) and not keywords:
        return recipe
    raw = _raw(recipe)
    if {"loss", "model"} & keywords.keys():  # some losses are weighed by the student's model
        raw = {key: value for key, value in raw.items() if key not in _of_its_loss(recipe)}
        if isinstance(recipe, BaseModel) and "loss" in raw:
            raw["loss"] = without_published(raw["loss"], raw.get("model"))
    before = dict(raw)
    whole = {key: value for key, value in keywords.items() if key in kind.model_fields}
    for key, value in whole.items():
        held = by_name(raw.get(key))
        if isinstance(value, Mapping) and isinstance(held, Mapping) and "name" not in value:
            value = {**held, **value}
        raw[key] = value
    for key in (each for each in keywords if each not in whole):  # behind the sections, wherever a caller has them
        _lay_over(kind, raw, key, keywords)
    return parse(kind, with_own_weights(raw, before, keywords))


def _of_its_loss(recipe: RecipeLike | None) -> set[str]:
    """The weights that a made recipe has of its loss and model alone, which others do not inherit."""
    if not isinstance(recipe, BaseModel):
        return set()
    said = published_weights(getattr(recipe, "loss", None), getattr(recipe, "model", None))
    return {each for each in WEIGHTS if getattr(recipe, each, None) == said.get(each)}


def _lay_over(kind: type[Recipe], raw: dict[str, Any], key: str, keywords: Mapping[str, Any]) -> None:
    """Lay a keyword over the section that it belongs to.

    Raises:
        InputError: there is no such keyword, or the section is a keyword, too, and says otherwise.
    """
    section, value = _SECTIONS.get(key), keywords[key]
    if section is None:
        raise InputError(f"there is no keyword '{key}'; {_meant(kind, key)}")
    said = keywords.get(section)
    if isinstance(said, Mapping) and said.get(key, value) != value:
        raise InputError(f"{key} is {value!r}, and in {section} {said[key]!r}; give one of them", argument=key)
    held = raw.get(section) or {}
    if isinstance(held, Mapping):  # what else it may be is refused with the recipe
        raw[section] = {**held, key: value}


def _meant(kind: type[Recipe], key: str) -> str:
    """Which keyword is meant: a key of the recipe, one of those that need no section, or a mapping of a section's."""
    section, _, name = (meant(kind, [], key) or "").rpartition(".")
    if not name:
        return did_you_mean(key, [*kind.model_fields, *_SECTIONS])
    if section in ("", *_SECTIONS.values()):
        return f"did you mean '{name}'?"
    named = "" if section in ("split", "schedule", "average") else "'name': ..., "
    return f"did you mean {section}={{{named}'{name}': ...}}?"


def _raw(recipe: RecipeLike | None) -> dict[str, Any]:
    if recipe is None:
        return {}
    if isinstance(recipe, BaseModel):  # weights that nobody said are those of the loss, which may become another
        return recipe.model_dump(exclude=_UNSAID - recipe.model_fields_set)
    if isinstance(recipe, Mapping):
        return dict(recipe)
    if isinstance(recipe, str | Path):
        return read_yaml(find_recipe(str(recipe)))
    raise InputError(f"the recipe is a {type(recipe).__name__}; give a path, a mapping, or keywords")
