"""Shipped recipes: all of them can run."""

from pathlib import Path

import pytest

import preceptor
from preceptor.recipe import DistillRecipe, Recipe, TeachRecipe, load
from preceptor.study.recipe import Generations, Study
from preceptor.training.objects.criteria import new_loss, new_objective

RECIPES = sorted((Path(preceptor.__file__).parent / "recipes").glob("*.yaml"))
KINDS = {
    "teach": TeachRecipe,
    "distill": DistillRecipe,
    "study": Study,
    "generations": Generations,
    "quickstart": Study,
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe(path: Path) -> None:
    """Each opens with the command that runs it, and every name and option in it exists."""
    words = path.read_text().splitlines()[0].removeprefix("# ").split()
    assert words[0] == "preceptor"
    assert words[-1] == path.stem or path.stem in words
    recipe = load(KINDS[words[1]], path)
    if isinstance(recipe, Study):
        parts: list[Recipe] = [recipe.teach_recipe(name) for name in recipe.trained] + [recipe.baseline]
        losses = [entry.loss for entry in recipe.losses.values()]
    elif isinstance(recipe, Generations):
        parts, losses = [recipe.teach_recipe(name) for name in recipe.starts], [recipe.distill.loss]
    else:
        parts = [recipe]
        losses = [recipe.loss] if isinstance(recipe, DistillRecipe) else []
    for part in parts:
        if isinstance(part, TeachRecipe):
            new_objective(part.objective, num_classes=10)
    for loss in losses:
        new_loss(loss, num_classes=10)
