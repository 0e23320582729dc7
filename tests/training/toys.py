"""Small runs for the tests of the engine: digits, tiny nets, and what must be equal between two of them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from preceptor.recipe import DistillRecipe, TeachRecipe, override, parse
from preceptor.runs.files import load_tensors
from preceptor.training.loop.loop import Loop

RECIPE: dict[str, Any] = {
    "data": "digits",
    "model": {"name": "mlp", "hidden": [12]},
    "split": {"train": 150, "heldout": 50, "test": 100},
    "optimizer": {"lr": 0.1},
    "training": {"epochs": 2, "batch_size": 64, "device": "cpu"},
}


def teach_recipe(*overrides: str) -> TeachRecipe:
    """A small teacher's recipe: digits, 150 samples, steps of 64, 64 and 22."""
    return parse(TeachRecipe, override(RECIPE, overrides))


def distill_recipe(*overrides: str) -> DistillRecipe:
    """The same for a student, under KD."""
    return parse(DistillRecipe, override(RECIPE, overrides))


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without what was measured by the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [without_time(line) for line in lines]


def without_time(value: dict[str, Any]) -> dict[str, Any]:
    """A line of metrics or a result without what was measured by the clock."""
    return {name: inner for name, inner in value.items() if not name.startswith("time_")}


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything in a run folder that two runs of one recipe have in common, bit for bit."""
    content: dict[str, Any] = {
        "metrics": metrics(folder),
        "files": sorted(str(p.name) for p in folder.iterdir()),
    }
    for path in folder.glob("*.safetensors"):
        content[path.name] = _bits(path)
    for name in ("recipe.yaml", "objects.json", "splits.json"):
        content[name] = (folder / name).read_text()
    result = without_time(json.loads((folder / "result.json").read_text()))
    del result["files"], result["sha256"]  # of files that were read here, and of the clock
    content["result"] = result | {"circumstances": {**result["circumstances"], "date": None}}
    for path in (folder / "checkpoints").iterdir():
        state = without_time(json.loads((path / "state.json").read_text()))
        del state["sha256"], state["progress"]["metrics_bytes"]  # they know how long the clock's digits were
        content[path.name] = state, _bits(path / "state.safetensors")
    return content


def _bits(path: Path) -> Any:
    """Tensors by name, as bytes, and metadata (their order in the file is not fixed)."""
    tensors, metadata = load_tensors(path)
    return {
        n: (t.dtype, t.shape, t.contiguous().view(-1).view(torch.uint8).numpy().tobytes()) for n, t in tensors.items()
    }, metadata


def weights(folder: Path, kind: str = "last") -> dict[str, Tensor]:
    """The weights that a run ended with."""
    return load_file(folder / f"{kind}.safetensors")


def state_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a run's newest checkpoint."""
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: path.name)
    return load_tensors(newest / "state.safetensors")[0]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Equal names, and values within `tolerance`."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


class Stopped(Exception):
    """A run came to the step at which a test stops it."""


@contextlib.contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Let a run break off before its optimizer step `step` (from 0), and go on without complaint."""
    whole = Loop._step

    def stopping(self: Loop, batches: Any) -> None:
        if self.progress.step == step:
            raise Stopped
        whole(self, batches)

    Loop._step = stopping  # type: ignore
    try:
        with contextlib.suppress(Stopped):
            yield
    finally:
        Loop._step = whole
