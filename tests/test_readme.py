"""The README cannot rot: its examples run, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from preceptor.cli import app

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
