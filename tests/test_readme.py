"""The README cannot rot: its examples run, its links lead somewhere, its commands exist."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset
from typer.testing import CliRunner

from preceptor.cli import app
from preceptor.training import read_result

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_three_lines_in_a_loop() -> None:
    """The first example, between a forward pass and `loss.backward()`."""
    student = torch.nn.Linear(4, 3)
    images, labels = torch.randn(8, 4), torch.randint(3, (8,))
    names = {
        "torch": torch,
        "F": torch.nn.functional,
        "teacher": torch.nn.Linear(4, 3),
        "images": images,
        "labels": labels,
        "logits": student(images),
    }
    exec(PYTHON[0], names)
    names["loss"].backward()
    assert student.weight.grad is not None
    assert student.weight.grad.abs().sum() > 0


def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    labels = torch.randint(3, (60,))
    good = torch.nn.functional.one_hot(labels, 3) * 2.0
    exec(PYTHON[1], {"logits_a": -good, "logits_b": good, "heldout_labels": labels})
    assert capsys.readouterr().out.startswith("['epoch 5', 'epoch 30'] epoch 5")


def test_models_of_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool = False, **options: int) -> torch.nn.Module:
        """As timm's: what it does not know goes on to the model."""
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, options["num_classes"]))

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    Path("student.yaml").write_text("{data: mine, model: mine, loss: kd, training: {epochs: 1}}")
    sets = [TensorDataset(torch.randn(n, 1, 4, 4), torch.arange(n) % 10) for n in (60, 30, 20)]
    exec(PYTHON[2], dict(zip(("train_set", "validation_set", "test_set"), sets, strict=True)))
    assert read_result(tmp_path / "runs" / "student")["test"]["last"]["accuracy"] >= 0


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert not [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()]


@pytest.mark.parametrize("line", re.findall(r"^preceptor (\w+ [\w-]+)", README, re.MULTILINE))
def test_commands_exist(line: str) -> None:
    verb, recipe = line.split()
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
    if verb in ("teach", "distill", "study", "generations"):
        assert CliRunner().invoke(app, [verb, recipe, "--dry-run"]).exit_code == 0
