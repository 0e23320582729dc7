"""A recipe from whatever a caller has: a recipe, a path, a mapping, keywords, or some of these."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from preceptor.errors import InputError, did_you_mean
from preceptor.recipe.models import Recipe, Training
from preceptor.recipe.nearest import meant
from preceptor.recipe.optimization import Optimizer
from preceptor.recipe.text import find_recipe, parse, read_yaml

R = TypeVar("R", bound=Recipe)
RecipeLike = Recipe | Path | str | Mapping[str, Any]

# Keys that a keyword may name without their section: ``epochs=30``, ``lr=0.1``.
_SECTIONS = {
    key: section
    for section, model in (("training", Training), ("optimizer", Optimizer))
    for key in model.model_fields
    if key != "name"
}


def make_recipe(kind: type[R], recipe: RecipeLike | None, keywords: Mapping[str, Any]) -> R:
    """The recipe that a caller means.

    Args:
        kind: of recipe.
        recipe: one that is made, the path of a YAML file or the name of one that ships with Preceptor, a mapping, or
            None for the defaults.
        keywords: laid over it: its keys (a nested one as a mapping, of which what it names is changed), and the keys of
            ``training`` and ``optimizer`` by their own names.

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
    # Whole keys first: a rate beside an optimizer is that optimizer's, whichever is written first.
    for key, value in sorted(keywords.items(), key=lambda item: item[0] not in kind.model_fields):
        section = None if key in kind.model_fields else _SECTIONS.get(key)
        if key not in kind.model_fields and section is None:
            raise InputError(f"there is no keyword '{key}'; {_meant(kind, str(key))}")
        if section is not None:
            beside = raw.get(section) or {}
            raw[section] = (
                {**beside, key: value} if isinstance(beside, Mapping) else beside
            )  # what that is, `parse` says
        elif isinstance(value, Mapping) and isinstance(raw.get(key), Mapping) and "name" not in value:
            raw[key] = {**raw[key], **value}
        else:
            raw[key] = value
    return parse(kind, raw)


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
    if isinstance(recipe, BaseModel):
        return recipe.model_dump()
    if isinstance(recipe, Mapping):
        return dict(recipe)
    if isinstance(recipe, str | Path):
        return read_yaml(find_recipe(str(recipe)))
    raise InputError(f"the recipe is a {type(recipe).__name__}; give a path, a mapping, or keywords")
