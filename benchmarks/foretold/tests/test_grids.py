"""Grids: the best point is found, and unequal grids are refused."""

from pathlib import Path
from typing import Any

import pytest

from foretold.grids import tune
from preceptor.errors import InputError
from preceptor.recipe import parse
from preceptor.study.recipe import Study


def tiny_study() -> Study:
    base: dict[str, Any] = {
        "data": "digits",
        "split": {"train": 200, "heldout": 100, "transfer": 200, "test": "rest"},
        "model": {"name": "mlp", "hidden": [16]},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "training": {"epochs": 3, "batch_size": 32, "device": "cpu"},
    }
    return parse(
        Study,
        {
            "name": "tiny", "seeds": [0], "teach": base, "distill": base, "baseline": base,
            "teachers": {"cross_entropy": {"objective": "cross_entropy"}},
            "losses": {"kd": {"loss": {"name": "kd", "temperature": 1.0}}},
        },
    )  # fmt: skip


def tiny_grids() -> dict[str, Any]:
    """In each grid one point cannot learn."""
    return {
        "seeds": [7, 8],
        "teachers": {"cross_entropy": [["settings.optimizer.lr=1e-7"], ["settings.optimizer.lr=0.01"]]},
        "losses": {"kd": [["ce_weight=0.0", "distill_weight=0.0000001"], ["loss.temperature=2.0"]]},
        "baseline": [["optimizer.lr=0.01"], ["optimizer.lr=1e-7"]],
    }


def test_tune_finds_the_points_that_learn(tmp_path: Path) -> None:
    found = tune(tiny_study(), tiny_grids(), tmp_path)
    assert found["teachers"]["cross_entropy"]["chosen"] == 1
    assert found["baseline"]["chosen"] == 0
    scores = found["teachers"]["cross_entropy"]["scores"]
    assert scores[1] < scores[0]
    assert len(found["losses"]["kd"]["scores"]) == 2


def test_tune_refuses_unequal_grids(tmp_path: Path) -> None:
    grids = tiny_grids()
    grids["baseline"].append(["optimizer.lr=0.1"])
    with pytest.raises(InputError, match="same number"):
        tune(tiny_study(), grids, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tune_refuses_the_seeds_of_the_study(tmp_path: Path) -> None:
    grids = tiny_grids() | {"seeds": [7, 0]}
    with pytest.raises(InputError, match=r"the grids' seeds \[0\] are the study's, too; tune with seeds"):
        tune(tiny_study(), grids, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tune_refuses_a_teacher_without_a_grid(tmp_path: Path) -> None:
    grids = tiny_grids() | {"teachers": {}}
    with pytest.raises(InputError, match="cross_entropy"):
        tune(tiny_study(), grids, tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": None}, "the grids have no 'seeds'; give seeds, teachers, losses, baseline"),
        ({"baseline": None}, "the grids have no 'baseline'; give"),
        ({"baseline": ["optimizer.lr=0.01", "optimizer.lr=0.1"]}, "'baseline.0' is 'optimizer.lr=0.01': "),
        ({"losses": [["ce_weight=0.0"]]}, "'losses' is "),
        ({"teacher": {}}, "unknown key 'teacher'"),
    ],
)
def test_tune_refuses_grids_that_cannot_be(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    grids = {key: value for key, value in (tiny_grids() | changes).items() if value is not None}
    with pytest.raises(InputError, match=f"^{sentence}"):
        tune(tiny_study(), grids, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tune_refuses_a_study_without_a_test_part(tmp_path: Path) -> None:
    raw = tiny_study().model_dump(mode="json")
    for part in ("teach", "distill", "baseline"):
        raw[part]["split"] |= {"test": None}
    with pytest.raises(InputError, match=r"give split\.test"):
        tune(parse(Study, raw), tiny_grids(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
