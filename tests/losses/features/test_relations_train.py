"""Losses of relations and embeddings teach a student through `distill`, by their names."""

from typing import Any

import pytest
import torch
from torch import nn

from preceptor.training import distill
from training.toys import distill_recipe, metrics, state_tensors

OPTIONS: dict[str, tuple[str, ...]] = {
    "SP": (),
    "RKD": (),
    "PKT": (),
    "CC": (),
    "VID": ("loss.student=['1']",),
    "CRD": ("loss.negatives=40", "loss.dim=8", "training.accumulate=2"),
    "ITRD": (),
    "WCoRD": ("loss.negatives=40", "loss.dim=8"),
    "SSKD": ("loss.init_epochs=1",),
}
OWN = {"CC", "VID", "CRD", "ITRD", "WCoRD", "SSKD"}
"""Those that have parts of their own."""


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 10),
    )


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return net(8).eval()


@pytest.mark.parametrize("name", OPTIONS)
def test_it_teaches(name: str, teacher: nn.Module, tmp_path: Any) -> None:
    recipe = distill_recipe(f"loss.name={name}", *OPTIONS[name], "training.epochs=3", "optimizer.lr=0.02")
    model = lambda num_classes: net(4)  # noqa: E731
    distill(recipe, tmp_path / "run", teacher=teacher, model=model)
    lines = metrics(tmp_path / "run")
    first, *_, last = (line["train"]["distill"] for line in lines)
    if name not in ("CRD", "WCoRD", "SSKD"):  # whose memory or whose stage changes what is asked
        assert 0 < last < first if name != "VID" else last < first
    assert all(abs(line["train"]["distill"]) < float("inf") for line in lines)
    own = [key for key in state_tensors(tmp_path / "run") if key.startswith("objective:")]
    assert bool(own) == (name in OWN)
