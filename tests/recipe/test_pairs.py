"""The 13 pairs of CIFAR-100's tables: the published recipe, our fast one, and the script that runs them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pairs
from preceptor.names import call
from preceptor.recipe import Recipe
from preceptor.training.optim.schedule import multiplier


def recipes(form: str) -> list[Recipe]:
    made: list[Recipe] = [pairs.teacher_recipe(name, form) for name in sorted({pair.teacher for pair in pairs.PAIRS})]
    return made + [pairs.student_recipe(pair, form) for pair in pairs.PAIRS]


def test_there_are_13_pairs_of_6_teachers_and_9_students() -> None:
    assert len({pair.name for pair in pairs.PAIRS}) == 13
    assert (len({pair.teacher for pair in pairs.PAIRS}), len({pair.student for pair in pairs.PAIRS})) == (6, 9)


def test_every_model_can_be_made() -> None:
    models = {recipe.model.name: recipe.model for recipe in recipes("fast") if recipe.model}
    for model in models.values():
        with torch.device("meta"):
            made = call("model", model, {"num_classes": 100, "input_shape": (3, 32, 32)})
            assert made(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


def test_the_long_form_is_the_published_one() -> None:
    for recipe in recipes("long"):
        assert recipe.model is not None
        light = recipe.model.name in ("mobilenet_v2", "shufflenet_v1", "shufflenet_v2")
        assert (recipe.training.epochs, recipe.training.batch_size) == (240, 64)
        optimizer = recipe.optimizer
        assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.9, 5e-4)
        assert not optimizer.nesterov
        rates = [
            optimizer.lr * multiplier(recipe.schedule, 782 * epoch, steps_per_epoch=782, epochs=240)
            for epoch in (0, 149, 150, 179, 180, 209, 210, 239)
        ]
        first = 0.01 if light else 0.05
        assert rates == pytest.approx([first, first, *(first / 10,) * 2, *(first / 100,) * 2, *(first / 1000,) * 2])
    student = pairs.student_recipe(pairs.PAIRS[0])
    assert (student.loss.name, student.loss.options) == ("kd", {"temperature": 4.0})
    assert (student.ce_weight, student.distill_weight) == (0.1, 0.9)


def test_the_fast_form_is_an_eighth_as_long_with_the_rate_of_its_batch() -> None:
    for long, fast in zip(recipes("long"), recipes("fast"), strict=True):
        assert (fast.training.epochs, fast.training.batch_size) == (30, 512)
        assert fast.model is not None
        higher = 4 if fast.model.name == "mobilenet_v2" else 1  # benchmarks/rates.py
        assert fast.optimizer.lr / long.optimizer.lr == pytest.approx(higher * 512 / 64)
        assert fast.schedule.name == "one_cycle"


def test_the_script_trains_a_pair_and_writes_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.arange(90) % 3
    inputs = (
        np.random.default_rng(0).integers(0, 50, (90, 3, 8, 8), np.uint8)
        + 60 * labels.astype(np.uint8)[:, None, None, None]
    )
    np.savez(tmp_path / "small.npz", inputs=inputs, labels=labels)
    small: list[Any] = [f"data={{name: npz, path: {tmp_path / 'small.npz'}}}", "split={heldout: 20, test: 30}"]
    small += ["training.epochs=1", "training.batch_size=20", "training.num_workers=0", "schedule.warmup_epochs=0.5"]
    command = ["--out", str(tmp_path / "out"), "--form", "fast", "--pairs", "resnet56/resnet20", "--alone", *small]
    pairs.main(command)
    (row,) = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert set(row) == {"pair", "seed", "teacher", "student alone", "student"}
    text = (tmp_path / "out" / "pairs.md").read_text()
    assert text.splitlines()[2].startswith(f"| resnet56/resnet20 | 1 | {row['teacher']:.2f} | 72.34 |")
    assert f"| {row['student']:.2f} | 70.66 |" in text
    runs = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert runs == ["student-resnet20-of-resnet56-0", "teacher-resnet20-0", "teacher-resnet56-0"]
    assert text in capsys.readouterr().out
