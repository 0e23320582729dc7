"""What is usual for losses on tokens, where a recipe does not say it."""

from typing import Any

from preceptor import losses
from preceptor.data.dataset import Data
from preceptor.data.tokens import TokenDataset
from preceptor.names import options_of
from preceptor.notices import note
from preceptor.recipe import DistillRecipe
from preceptor.schema import SUM, Component, by_name


def usual_for(data: Data, recipe: DistillRecipe) -> DistillRecipe:
    """A recipe with T = 1 in losses of tokens that have a temperature and are given none.

    Theirs is that of images, 4, at which a language model says more of what it rules out than of what may come.
    """
    if recipe.loss is None or not isinstance(data.train, TokenDataset):
        return recipe
    loss = recipe.loss.model_dump()
    cooled = {**loss, "parts": [_cooled(by_name(each)) for each in loss["parts"]]} if _is_sum(loss) else _cooled(loss)
    if cooled == loss:
        return recipe
    note("the temperature of the loss is 1, as is usual for tokens; loss.temperature=... is another")
    return recipe.model_copy(update={"loss": Component.model_validate(cooled)})


def _is_sum(loss: dict[str, Any]) -> bool:
    return loss["name"] == SUM and isinstance(loss.get("parts"), list | tuple)


def _cooled(loss: Any) -> Any:
    function = getattr(losses, loss["name"], None)
    has_one = callable(function) and "temperature" in options_of(function)[0]
    return {**loss, "temperature": 1.0} if has_one and "temperature" not in loss else loss
