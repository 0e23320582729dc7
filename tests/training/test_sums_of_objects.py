"""A loss that is handed over, alone or in a sum of names and objects: what the run says of it, and what it is."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import preceptor
from preceptor import runs
from preceptor.errors import InputError
from preceptor.losses import kd, wttm
from preceptor.losses.features import CRD, FitNet
from training.toys import assert_close, metrics, stopped_at, weights

FEW: dict[str, Any] = {"data": "digits", "split": {"train": 128, "heldout": 20, "test": 20}, "epochs": 2}


def net(num_classes: int = 10, width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, num_classes))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return net(width=5)


def distill(teacher: nn.Module, folder: Path | None, loss: Any, recipe: Any = None, **more: Any) -> Any:
    return preceptor.distill(recipe, folder, teacher=teacher, model=net, loss=loss, device="cpu", **FEW, **more)


def written(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "recipe.yaml").read_text())


def hint() -> FitNet:
    return FitNet(student="0", teacher="0")


WEIGHED = {"name": "wttm", "weight": 2.0, "temperature": 2.0}
NAMED = {"name": "FitNet", "student": "0", "teacher": "0"}


def test_a_recipe_names_no_loss_that_was_handed_over(teacher: nn.Module, tmp_path: Path) -> None:
    distill(teacher, tmp_path / "r", hint())
    said = written(tmp_path / "r")
    assert (said["loss"], said["model"]) == (None, None)
    assert (said["ce_weight"], said["distill_weight"]) == (1.0, 100.0)
    assert (runs.read_objects(tmp_path / "r") or {})["loss"].startswith("preceptor.losses.features.fitnet:FitNet")
    assert distill(teacher, tmp_path / "r", hint())["verb"] == "distill"  # the run that is there
    with pytest.raises(InputError, match="names no loss, as an object stood in for it; give loss=, the name of one or"):
        distill(teacher, None, None, tmp_path / "r" / "recipe.yaml")
    with pytest.raises(InputError, match="was made with another loss"):
        distill(teacher, tmp_path / "r", CRD(student="2", teacher="2"), distill_weight=100.0)


def test_a_run_begun_by_an_older_preceptor_goes_on(teacher: nn.Module, tmp_path: Path) -> None:
    """Its recipe names kd, whatever was handed over."""
    with stopped_at(1):
        distill(teacher, tmp_path, hint())
    path = tmp_path / "recipe.yaml"
    path.write_text(path.read_text().replace("loss: null\n", "loss:\n  name: kd\n"))
    assert written(tmp_path)["loss"] == {"name": "kd"}
    assert distill(teacher, tmp_path, hint())["verb"] == "distill"


@pytest.mark.parametrize(
    ("mixed", "named"),
    [
        ([hint, "wttm"], [NAMED, "wttm"]),
        ([WEIGHED, hint], [WEIGHED, NAMED]),
        (
            [(hint, 7.0), (partial(kd, temperature=2.0), 0.5)],
            [{**NAMED, "weight": 7.0}, {"name": "kd", "temperature": 2.0, "weight": 0.5}],
        ),
    ],
)  # fmt: skip
def test_a_mixed_list_is_the_sum_of_its_names(mixed: list[Any], named: list[Any], teacher: nn.Module, tmp_path: Path):
    fresh = [(e[0](), e[1]) if isinstance(e, tuple) and e[0] is hint else e() if e is hint else e for e in mixed]
    distill(teacher, tmp_path / "mixed", fresh)
    distill(teacher, tmp_path / "named", named)
    assert_close(weights(tmp_path / "mixed"), weights(tmp_path / "named"), 0)
    assert metrics(tmp_path / "mixed")[-1]["train"] == metrics(tmp_path / "named")[-1]["train"]
    assert written(tmp_path / "mixed")["loss"] is None


def test_a_killed_run_of_a_mixed_list_goes_on_exactly(teacher: nn.Module, tmp_path: Path) -> None:
    def run(folder: Path) -> Any:
        loss = [CRD(student="2", teacher="2", negatives=4, dim=4), ("wttm", 0.5), hint()]
        return distill(teacher, folder, loss, training={"checkpoint_every": 1})

    run(tmp_path / "whole")
    with stopped_at(1):
        run(tmp_path / "parts")
    run(tmp_path / "parts")
    assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), 0)


def test_another_list_is_another_run(teacher: nn.Module, tmp_path: Path) -> None:
    distill(teacher, tmp_path, [hint(), "kd"])
    for other in ([hint(), "wttm"], [hint(), ("kd", 0.5)], [hint(), kd], ["kd", hint()]):
        with pytest.raises(InputError, match="was made with another loss"):
            distill(teacher, tmp_path, other)
    distill(teacher, tmp_path, [hint(), "kd"])


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ([kd, "kd"], "the sum has 'kd' twice"),
        ([kd, "wtm"], "there is no loss called 'wtm'"),
        ([(kd, -1.0), wttm], "in a sum is -1.0; give a number of at least 0"),
        ([kd, 3], "the loss is 3; give a function"),
        ([FitNet, "kd"], "the loss is the class FitNet; give one that is made"),
    ],
)
def test_what_is_no_part_is_one_sentence(loss: Any, said: str, teacher: nn.Module) -> None:
    with pytest.raises(InputError, match=said):
        distill(teacher, None, loss)


def test_weights_of_a_recipe_are_not_those_of_an_object(teacher: nn.Module, tmp_path: Path) -> None:
    recipe = {"loss": "wttm", "ce_weight": 0.3, "distill_weight": 2.0}
    for name, loss, more, expected in (
        ("object", hint(), {}, (1.0, 100.0)),
        ("said", hint(), {"distill_weight": 5.0}, (1.0, 5.0)),
        ("list", [hint(), "kd"], {}, (1.0, 1.0)),
        ("function", partial(kd, temperature=2.0), {}, (0.3, 2.0)),  # of the outputs, as the recipe's own
    ):
        result = distill(teacher, tmp_path / name, loss, recipe, **more)
        said = written(tmp_path / name)
        assert (said["ce_weight"], said["distill_weight"]) == expected
        assert any("of the recipe are for 'wttm'" in each for each in result["notes"]) == (name != "function")
