"""Losses that look into models, where outputs alone are compared: refused in a sentence that says what to do."""

import pytest

import preceptor.assess as assess
from preceptor.errors import InputError
from preceptor.recipe import parse, read_yaml
from preceptor.recipe.text import shipped_recipes
from preceptor.study.recipe import Generations, LossEntry, Study


@pytest.mark.parametrize("loss", ["FitNet", {"name": "sum", "parts": ["kd", "CRD"]}])
def test_a_grid_stacks_its_students(loss: object) -> None:
    raw = read_yaml(shipped_recipes()["quickstart"])
    name = loss if isinstance(loss, str) else "CRD"
    with pytest.raises(InputError, match=f"preceptor distill RECIPE loss={name} --teacher RUN$"):
        parse(Study, raw | {"losses": {"hint": {"loss": loss}}})
    chain = read_yaml(shipped_recipes()["generations-fashion-mnist"])
    with pytest.raises(InputError, match=f"'{name}' looks into the models, and the students of a study are trained as"):
        parse(Generations, chain | {"distill": chain["distill"] | {"loss": loss}})
    assert parse(LossEntry, {"loss": "wttm"}).distill_weight == 0.9


@pytest.mark.parametrize("loss", ["FitNet", {"name": "AT", "power": 1.0}])
def test_none_is_assessed(loss: object) -> None:
    with pytest.raises(
        InputError, match=r"looks into the models and has no optimum .* give kd, which judges the teacher"
    ):
        assess.compare({"a": [[0.0, 1.0]], "b": [[1.0, 0.0]]}, [0], loss=loss)  # type: ignore[arg-type]
