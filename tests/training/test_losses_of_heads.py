"""Losses of logits, of heads and of views train by name; those with parts of their own resume to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from preceptor import models
from preceptor.training import distill
from training.toys import distill_recipe, metrics, snapshot, state_tensors, stopped_at

SIMKD = ["model={name: reused_head, of: resnet8, channels: 64}", "loss=SimKD", "ce_weight=0", "distill_weight=1"]


def trained(folder: Path, *overrides: str) -> Any:
    torch.manual_seed(0)
    teacher = models.resnet8(num_classes=10, input_shape=(1, 8, 8))
    steady = ["model=resnet8", "training.checkpoint_every=2", "optimizer.lr=0.02"]
    return distill(distill_recipe(*steady, *overrides), folder, teacher=teacher)


@pytest.mark.parametrize("name", ["nkd", "wsld", "mlkd"])
def test_losses_of_logits_train_by_name(name: str, tmp_path: Path) -> None:
    recipe = distill_recipe(f"loss={name}", "optimizer.lr=0.02")
    distill(recipe, tmp_path / "run", teacher=lambda batch: batch["input"].flatten(1)[:, :10])
    first, last = (metrics(tmp_path / "run")[epoch]["train"]["distill"] for epoch in (0, -1))
    assert last < first


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss={name: CTKD, ramp: 1}"],
        ["loss=SRRL"],
        ["loss={name: OFA, gamma: 1.5}"],
        SIMKD,
        ["loss={name: HSAKD, init_epochs: 1}"],
    ],
    ids=str,
)
def test_those_with_parts_resume_to_the_bit(overrides: list[str], tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trained(whole, *overrides)
    with stopped_at(4):
        trained(broken, *overrides)
    trained(broken, *overrides)
    assert snapshot(broken) == snapshot(whole)


def test_a_student_of_simkd_ends_in_its_teachers_classifier(tmp_path: Path) -> None:
    trained(tmp_path / "run", *SIMKD, "training.epochs=1")
    torch.manual_seed(0)
    teacher = models.resnet8(num_classes=10, input_shape=(1, 8, 8))
    found = load_file(tmp_path / "run" / "last.safetensors")
    assert found["fc.weight"].equal(teacher.fc.weight)
    assert not any(name.startswith("trunk.fc") for name in found)


def test_in_each_phase_of_hsakd_only_what_learns_in_it_moves(tmp_path: Path) -> None:
    """Though both are in one optimizer, with momentum and weight decay."""
    both = ["loss={name: HSAKD, init_epochs: 1}", "optimizer.weight_decay=0.1", "training.checkpoint_every=1"]
    states = {}
    for step in (1, 3, 6):  # within the first phase, at its end, and at the end of the second
        with stopped_at(step):
            trained(tmp_path / "run", *both)
        states[step] = {
            name: tensor
            for name, tensor in state_tensors(tmp_path / "run").items()
            if name.endswith(("conv1.weight", "fc.weight")) and not name.startswith(("best", "optimizer"))
        }
    heads = {name for name in states[1] if "teacher_heads" in name}
    others = {name for name in states[1] if name not in heads}
    assert heads
    assert any("student_heads" in name for name in others)
    for name in states[1]:
        assert states[1][name].equal(states[3][name]) == (name in others)
        assert states[3][name].equal(states[6][name]) == (name in heads)
