"""What every loss that looks into the models promises: its class tells the truth; a new one is one file and a line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import preceptor
from preceptor import models
from preceptor.losses import features
from preceptor.losses.features import FeatureLoss
from preceptor.names import names
from preceptor.recipe.published import published_weights
from preceptor.tasks import DistillTask
from preceptor.tasks.building import Plan

SOURCE = Path(preceptor.__file__).parent
KINDS: dict[str, type[FeatureLoss]] = {
    name: each
    for name, each in vars(features).items()
    if isinstance(each, type) and issubclass(each, FeatureLoss) and each is not FeatureLoss
}
SHAPE: dict[str, Any] = {"num_classes": 4, "input_shape": (3, 16, 16)}
ROWS = 8


def task_of(name: str) -> DistillTask:
    torch.manual_seed(0)
    options: Any = {"negatives": 4} if name in ("CRD", "WCoRD") else {}
    if name == "MLKD":
        options = {"mean": 0.5, "std": 0.1}  # of random numbers as inputs
    teacher = models.resnet14(**SHAPE)
    student = models.reused_head(of="resnet8", channels=64, **SHAPE) if name == "SimKD" else models.resnet8(**SHAPE)
    plan = Plan({key: each[:2] for key, each in batch().items()}, ROWS, 4, batch()["label"])
    return DistillTask(student, teacher, KINDS[name](**options), plan=plan, ce_weight=0.0, distill_weight=1.0)


def batch() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(ROWS, 3, 16, 16, generator=generator)
    return {"input": inputs, "label": torch.arange(ROWS) % 4, "index": torch.arange(ROWS)}


@pytest.mark.parametrize("name", KINDS)
def test_its_value_is_what_its_class_says(name: str) -> None:
    """A scalar of a statement about a batch, else one value a sample; and it gives the student a gradient."""
    task, seen = task_of(name), []
    task.start_epoch(0 if name in ("AB", "FSP") else 100, 240)  # the first epochs are all that these have
    task.losses[0][0].function.register_forward_hook(lambda *called: seen.append(called[-1]))  # type: ignore[attr-defined]
    task(batch())["loss"].backward()
    [value] = seen
    assert value.shape == (() if KINDS[name].batch_level else (ROWS,))
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    gradients = [each.grad for each in task.bare.parameters() if each.grad is not None]
    assert any(each.any() for each in gradients)
    assert all(each.isfinite().all() for each in gradients)
    task.end_step(lambda rows: rows)


@pytest.mark.parametrize("name", KINDS)
def test_the_catalogue_knows_it(name: str) -> None:
    page = (Path(__file__).parents[3] / "docs" / "catalogue.md").read_text()
    assert name in names("loss")
    [row] = re.findall(rf"^\| `{name}` \|.* \*.+\* \(.*$", page, re.MULTILINE)
    assert all(f"`{tap}`" in row for tap in KINDS[name].default_taps)
    weights = published_weights(name)
    assert weights["distill_weight"] == KINDS[name].published.distill_weight > 0


TOY = """
from preceptor.losses.features.base import FeatureLoss, Published, as_vector, only


class Toy(FeatureLoss):
    \"\"\"Squared distance of the means of two features.\"\"\"

    published = Published(distill_weight=7.0)

    def forward(self, student_logits, teacher_logits, *, student_features, teacher_features):
        ours, theirs = as_vector(only(student_features)), as_vector(only(teacher_features))
        return (ours.mean(1) - theirs.mean(1)).square()
"""
USE = """
import json
from pathlib import Path
from typer.testing import CliRunner
import preceptor
import preceptor.runs
from preceptor.cli import app

preceptor.teach("teach-digits", "teacher", epochs=1)
quick = {"data": "digits", "model": "mlp", "split": preceptor.runs.read_recipe(Path("teacher")).split, "epochs": 1}
preceptor.distill(teacher=preceptor.load("teacher"), loss="Toy", folder="student", device="cpu", **quick)
words = ["distill", "distill-digits", "--teacher", "teacher", "training.epochs=1", "loss=[kd, Toy]", "-o", "sum"]
typed = CliRunner().invoke(app, words)
assert typed.exit_code == 0, typed.output
print("RESULT" + json.dumps({"weight": preceptor.runs.read_recipe(Path("student")).distill_weight}))
"""


def test_a_new_one_is_its_file_and_one_line(tmp_path: Path) -> None:
    package = shutil.copytree(SOURCE, tmp_path / "preceptor", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "losses" / "features" / "toy.py").write_text(TOY)
    with (package / "losses" / "features" / "__init__.py").open("a") as file:
        file.write("from preceptor.losses.features.toy import Toy as Toy\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.partition("RESULT")[2]) == {"weight": 7.0}
