"""A chain of generations: each learns from the one before, of one size or of several."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax

from preceptor import runs
from preceptor.errors import InputError
from preceptor.recipe import parse
from preceptor.runs.files import load_tensors
from preceptor.runs.load import load
from preceptor.study.generations import markdown, run_generations, table
from preceptor.study.recipe import Generations
from preceptor.study.teachers import read_candidates
from preceptor.training import distill
from preceptor.training.data.samples import cut, load_data
from training.toys import RECIPE, distill_recipe

CHAIN: dict[str, Any] = {
    "seeds": [0, 1],
    "generations": 3,
    "teach": RECIPE | {"model": {"name": "mlp", "hidden": [24]}},
    "distill": RECIPE | {"model": {"name": "mlp", "hidden": [24]}},
    "models": [{"name": "mlp", "hidden": [12]}, {"name": "mlp", "hidden": [4]}],
    "starts": {"strict": {"objective": "cross_entropy"}},
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("chain")
    return folder, run_generations(parse(Generations, CHAIN), folder, command="preceptor generations chain")


def test_teacher_assistants_get_smaller(chain: tuple[Path, dict[str, Any]]) -> None:
    folder, result = chain
    places = [folder / "generation-0" / "strict", folder / "generation-1", folder / "generation-2"]
    sizes = [runs.read_result(place)["num_parameters"] for place in places]
    assert sizes == [width * 65 + (width + 1) * 10 for width in (24, 12, 4)]
    assert result["models"] == ["mlp", "mlp", "mlp"]
    assert [len(link["test"]["accuracy"]) for link in result["chains"]["strict"]] == [2, 2, 2]


def test_each_learns_from_the_one_before(chain: tuple[Path, dict[str, Any]]) -> None:
    """The score of the last one's teacher is that of the assistant, and not of the first."""
    folder, _ = chain
    recipe = parse(Generations, CHAIN).student_recipe(2)
    samples = cut(recipe, load_data(recipe), 1)
    rows = samples.parts["train"]
    probs = load(f"{folder / 'generation-1'}:member-1")(samples.train[rows.tolist()]["input"]).softmax(-1)
    labels = torch.eye(10)[samples.labels[rows]]
    expected = (probs - labels).square().sum(-1).mean().item()
    said = runs.read_result(folder / "generation-2")["teacher"]
    assert said["part"] == ["train", "train"]
    assert said["brier"][1] == pytest.approx(expected, abs=1e-5)


def test_generations_together_are_a_teacher(chain: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A born-again ensemble: the mean over the generations of one seed."""
    folder, result = chain
    name = "+".join(f"{folder / place}:member-0" for place in ("generation-0/strict", "generation-1", "generation-2"))
    [found] = read_candidates([name])
    each = [load_tensors(folder / f"generation-{n}" / "predictions.safetensors")[0]["heldout/last"][0] for n in (1, 2)]
    each.append(load_tensors(folder / "generation-0" / "strict" / "predictions.safetensors")[0]["heldout/last"][0])
    expected = np.mean([softmax(tensor.double().numpy(), -1) for tensor in each], 0)
    np.testing.assert_allclose(np.exp(found.logits), expected, atol=1e-6)
    student = distill(distill_recipe("training.epochs=1"), tmp_path / "s", teacher=name)
    assert student["teacher"]["brier"] < 2
    assert result["chains"]["strict"][0]["ensemble"]["brier"] == pytest.approx(
        result["chains"]["strict"][0]["test"]["brier"], abs=1e-6
    )


def test_the_table_names_the_models_where_they_differ(chain: tuple[Path, dict[str, Any]]) -> None:
    _, result = chain
    assert "| model |" in markdown(result)
    assert len(table(result).columns) == 10
    assert "| model |" not in markdown(result | {"models": []})


def test_models_take_the_place_of_the_model_of_the_students() -> None:
    assert parse(Generations, CHAIN | {"distill": RECIPE}).models == parse(Generations, CHAIN).models


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generations": 4}, "models names 2, one for each generation after the first; set generations to 3"),
        (
            {"models": [], "distill": RECIPE},
            "distill.model differs from teach.model; all generations share one architecture, or models names",
        ),
    ],
)
def test_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse(Generations, CHAIN | changes)
