"""Runs that begin with another's weights: fine-tuned, resumed, known by their start, and refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.errors import InputError
from preceptor.runs.load import load
from preceptor.training import distill, teach
from training.toys import distill_recipe, snapshot, stopped_at, teach_recipe, weights


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "first"
    teach(teach_recipe("training.keep=all", "calibrate=true"), folder)
    return folder


@pytest.mark.parametrize("name", ["", ":best", ":epoch-1"])
def test_it_begins_with_these_weights(name: str, first: Path, tmp_path: Path) -> None:
    """At a rate that moves nothing they are still there."""
    still = ["optimizer.lr=1e-12", "optimizer.weight_decay=0", "training.epochs=1", "streams.initialization=3"]
    teach(teach_recipe(f"start={first}{name}", *still), tmp_path / "next")
    for key, tensor in load(f"{first}{name}").state_dict().items():
        torch.testing.assert_close(weights(tmp_path / "next")[key], tensor, atol=1e-7, rtol=0)


def test_a_teacher_is_adapted_to_a_student(first: Path, tmp_path: Path) -> None:
    """Fine-tuned towards what a small model says it comes nearer to that, and stays as large as it was."""
    teach(teach_recipe("model.hidden=[3]"), tmp_path / "small")
    recipe = distill_recipe(f"start={first}", "ce_weight=0.1", "optimizer.lr=0.05", "training.epochs=5")
    distill(recipe, tmp_path / "adapted", teacher=tmp_path / "small")
    inputs = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    small, before, after = (
        load(path)(inputs).softmax(-1) for path in (tmp_path / "small", first, tmp_path / "adapted")
    )
    assert (after - small).square().sum() < (before - small).square().sum()
    assert weights(tmp_path / "adapted").keys() == weights(first).keys()


def test_it_resumes_and_is_known_by_its_start(first: Path, tmp_path: Path) -> None:
    recipe = teach_recipe(f"start={first}", "training.checkpoint_every=1")
    teach(recipe, tmp_path / "whole")
    with stopped_at(3):
        teach(recipe, tmp_path / "broken")
    teach(recipe, tmp_path / "broken")
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")
    with pytest.raises(InputError, match="holds another recipe: start is"):
        teach(teach_recipe(f"start={first}:epoch-1"), tmp_path / "whole")
    other = tmp_path / "other"
    teach(teach_recipe(), other)
    teach(teach_recipe(f"start={other}"), tmp_path / "of-other")
    for path in sorted(other.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    teach(teach_recipe("streams.initialization=9"), other)
    with pytest.raises(InputError, match="from other weights under the name"):
        teach(teach_recipe(f"start={other}"), tmp_path / "of-other")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["start={first}:calibrated"], "which is not the weights of one model"),
        (["start={first}:snapshots"], "which is not the weights of one model"),
        (["start={first}", "model.hidden=[5]"], "is of another architecture"),
        (["start={first}", "seed=1"], r"was trained on \d+ of the heldout samples"),
        (["start=nowhere"], "there is no run folder or file 'nowhere'"),
    ],
)
def test_refused(changes: list[str], said: str, first: Path, tmp_path: Path) -> None:
    recipe: Any = teach_recipe(*(change.replace("{first}", str(first)) for change in changes))
    with pytest.raises(InputError, match=said):
        teach(recipe, tmp_path / "next")
    assert not (tmp_path / "next").exists()
