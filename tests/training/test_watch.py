"""Losses that are looked at every so many steps are refused as if each had been looked at on the spot."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import preceptor
from preceptor.errors import InputError
from preceptor.training.engine.watch import Watch
from preceptor.training.loop import step as stepping
from training.toys import teach_recipe, weights

QUICK: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "optimizer": {"name": "adamw", "lr": 0.01},  # fused on a CPU, too
    "split": {"heldout": 15},
    "device": "cpu",
}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepping, "_is_asynchronous", lambda accelerator: True)


class Fragile(nn.Module):
    """NaN for inputs above 5, which are of one training sample, from the second epoch on."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(5, num_classes)
        self.register_buffer("asked", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.asked += self.training
        logits = self.linear(x)
        return torch.where((x > 5).any(-1, keepdim=True) & (self.asked > 10), torch.nan, logits)


def points(poison: int) -> list[tuple[Tensor, int]]:
    torch.manual_seed(0)
    data = [(torch.rand(5), label % 3) for label in range(75)]
    data[poison][0][2] = 6.0
    return data


def refusal(poison: int, **given: Any) -> str:
    with pytest.raises(InputError) as error:
        preceptor.teach(data=points(poison), **QUICK, **given)
    return str(error.value)


@pytest.fixture(scope="module")
def on_the_spot() -> str:
    return refusal(20, model=Fragile)


def test_the_same_sample_and_epoch_are_named(watched: None, on_the_spot: str) -> None:
    assert "the logits for sample 20 are not finite in epoch 1" in on_the_spot
    assert refusal(20, model=Fragile) == on_the_spot


def test_a_teacher_that_is_not_finite_is_named(watched: None) -> None:
    def teacher(batch: Any) -> Tensor:
        logits = batch["input"][:, :3].clone()
        logits[batch["index"] == 20, 1] = torch.nan
        return logits

    with pytest.raises(InputError, match="the teacher's output for sample 20 holds nan"):
        preceptor.distill(data=points(0), model=Linear, teacher=teacher, cache=False, loss="kd", **QUICK)


class Linear(nn.Linear):
    def __init__(self, num_classes: int) -> None:
        super().__init__(5, num_classes)


def test_weights_stay_as_they_were_before_the_first_bad_step() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], fused=True)
    watch = Watch(optimizer, torch.device("cpu"))
    history = []
    for step, value in enumerate([1.0, 2.0, torch.nan, 1.0]):
        loss = (weight * value).sum()
        watch.see(loss)
        watch.end_step(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append(weight.detach().clone())
    assert watch.first() == 2
    assert not torch.equal(history[0], history[1])
    assert torch.equal(history[1], history[2])
    assert torch.equal(history[1], history[3])


def test_a_run_that_is_watched_gives_the_same_bits(watched: None, tmp_path: Path, monkeypatch: Any) -> None:
    recipe = teach_recipe("optimizer.name=adamw")
    preceptor.teach(recipe, tmp_path / "watched")
    monkeypatch.setattr(stepping, "_is_asynchronous", lambda accelerator: False)
    preceptor.teach(recipe, tmp_path / "plain")
    one, other = weights(tmp_path / "watched"), weights(tmp_path / "plain")
    assert all(torch.equal(one[name], other[name]) for name in other)
