"""Where a machine sets limits: memory that is full, data that are slow to read."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import preceptor
from preceptor.errors import InputError
from preceptor.training.data.batches import useful_workers
from preceptor.training.engine import limits
from preceptor.training.engine.device import fast_precision
from training.toys import teach_recipe, weights


class Hungry(nn.Module):
    """A model that finds no memory in some training step, of a GPU or of a CPU."""

    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    healthy = 4

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear, self.steps = nn.Linear(64, num_classes), 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training and len(x) > 16  # probes are smaller
        if self.steps > self.healthy:
            raise self.error
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_that_does_not_fit_is_named_and_the_state_saved(
    error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hungry, "error", error)
    sentence = (
        r"a batch of 64 samples does not fit into the memory of 'cpu'; in a new run set training.batch_size below 64, "
        r"or training.accumulate to 2, .*; this run is saved as it is"
    )
    with pytest.raises(InputError, match=sentence):
        preceptor.teach(teach_recipe(), tmp_path / "run", model=Hungry)
    monkeypatch.setattr(Hungry, "healthy", 100)  # where there is more memory, it goes on
    preceptor.teach(teach_recipe(), tmp_path / "run", model=Hungry)
    preceptor.teach(teach_recipe(), tmp_path / "whole", model=Hungry)
    one, other = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_another_error_of_torch_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hungry, "error", RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot"):
        preceptor.teach(teach_recipe(), model=Hungry)


class Slow(Dataset[Any]):
    """Samples of which each takes a while."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(self.seconds)
        return torch.full((64,), index / 40), index % 2


@pytest.mark.skipif(useful_workers() == 0, reason="there is no second core")
def test_loading_that_limits_is_said_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "NOTICED", 0.1)
    given: dict[str, Any] = {"model": lambda num_classes: nn.Linear(64, num_classes), "epochs": 2, "device": "cpu"}
    preceptor.teach(data=Slow(0.005), **given)
    slow = capsys.readouterr().err
    assert slow.count("% of an epoch's time goes into reading samples; training.num_workers: auto") == 1
    one = preceptor.teach(data=Slow(0.0), num_workers="auto", **given)
    assert "reading samples" not in capsys.readouterr().err
    assert one["heldout"] == preceptor.teach(data=Slow(0.0), **given)["heldout"]


@pytest.mark.parametrize(("has", "expected"), [({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32"), (None, "fp32")])
def test_bf16_is_taken_where_the_processor_is_known_to_have_it(
    has: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has is None:  # a torch that cannot say
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert fast_precision("cpu") == expected
