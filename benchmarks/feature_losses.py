"""What a training step costs with each loss that looks into the models, beside one with plain kd.

    python benchmarks/feature_losses.py --json benchmarks/feature_losses.json
    python benchmarks/feature_losses.py --quick

A ResNet-20 teaches a ResNet-8 on images of CIFAR's size, 100 classes, on one thread of a CPU: forward of both, loss,
backward, SGD. Steps of all losses are taken in turn, in seconds of the processor. A ratio is the median over the rounds
of a loss's step over the mean of the kd steps at the start and the end of that round. Peak memory is the most bytes of
tensors that live at once, models and optimizer included. Ratios are of this pair: beside larger models a loss is a
smaller part.
"""

import argparse
import json
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from preceptor import __version__, models
from preceptor.losses import features, kd
from preceptor.losses.features import FeatureLoss
from preceptor.tasks import DistillTask
from preceptor.tasks.building import Plan

CLASSES, SAMPLES = 100, 50_000
REUSED = "SimKD"  # whose student ends in the teacher's classifier


class Peak(TorchDispatchMode):
    """Counts the bytes of tensors that are alive; `most` is the largest sum, with those that were there before."""

    def __init__(self, there: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()
        for each in there:
            self._see(each)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._see(each)
        return found

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def kinds() -> dict[str, type[FeatureLoss]]:
    """All losses that look into the models, by name."""
    found = {name: each for name, each in vars(features).items() if isinstance(each, type)}
    return {name: each for name, each in found.items() if issubclass(each, FeatureLoss) and each is not FeatureLoss}


def step_of(name: str, batch_size: int) -> tuple[Callable[[], None], DistillTask]:
    """One training step with a loss."""
    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_classes": CLASSES, "input_shape": (3, 32, 32)}
    teacher = models.resnet20(**shape)
    student = models.reused_head(of="resnet8", channels=64, **shape) if name == REUSED else models.resnet8(**shape)
    pixels = {"divide_by": 255.0, "mean": [0.5], "std": [0.25]}
    inputs, labels = (torch.rand(batch_size, 3, 32, 32) - 0.5) / 0.25, torch.arange(batch_size) % CLASSES
    batch = {"input": inputs, "label": labels, "index": torch.arange(batch_size)}
    example = {key: value[:2] for key, value in batch.items()}
    plan = Plan(example, SAMPLES, CLASSES, torch.arange(SAMPLES) % CLASSES, preprocessing=pixels)
    task = DistillTask(student, teacher, kd if name == "kd" else kinds()[name](), plan=plan)
    alone = getattr(task.losses[0][0].function, "init_epochs", None)
    # Of losses with epochs of their own the step is one of these where nothing is left of the loss behind them.
    task.start_epoch(0 if alone and name in ("AB", "FSP") else 100, 240)
    own = [] if task.state is None else [each for each in task.state.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD([*student.parameters(), *own], lr=1e-3, momentum=0.9)
    student.train()

    def step() -> None:
        task(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        task.end_step(lambda rows: rows)

    return step, task


def seconds(step: Callable[[], None]) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def peak(step: Callable[[], None], task: DistillTask) -> int:
    """The most bytes of a second step, when the optimizer has its buffers."""
    modules = [task.bare, *([] if task.state is None else [task.state]), task.teacher.model]  # type: ignore[attr-defined]
    there = [each for module in modules for each in (*module.parameters(), *module.buffers())]
    with Peak(there) as counted:
        step()
        counted.most = counted.now
        step()
    return counted.most


def measured(names: list[str], batch_size: int, rounds: int) -> dict[str, dict[str, float]]:
    """For each loss its seconds and bytes over those of kd, and the number of its parameters."""
    steps = {name: step_of(name, batch_size) for name in ["kd", *names]}
    bytes_of = {name: peak(*each) for name, each in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        before = seconds(steps["kd"][0])
        found = {name: seconds(steps[name][0]) for name in names}
        base = (before + seconds(steps["kd"][0])) / 2
        times["kd"].append(base)
        for name in names:
            times[name].append(found[name] / base)
    told = {"kd": {"seconds": statistics.median(times["kd"]), "bytes": bytes_of["kd"]}}
    for name in names:
        state = steps[name][1].state
        own = 0 if state is None else sum(each.numel() for each in state.parameters() if each.requires_grad)
        told[name] = {
            "time": round(statistics.median(times[name]), 2),
            "memory": round(bytes_of[name] / bytes_of["kd"], 2),
            "parameters": own,
        }
    return told


def markdown(found: dict[str, dict[str, float]]) -> str:
    """A table, the cheapest first."""
    lines = ["| loss | step | peak memory | parameters of its own |", "|---|---|---|---|"]
    for name, each in sorted(found.items(), key=lambda pair: pair[1].get("time", 0.0)):
        if name != "kd":
            lines.append(f"| {name} | {each['time']:.2f}x | {each['memory']:.2f}x | {each['parameters']:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches, one round: whether it runs")
    parser.add_argument("--losses", nargs="*", help="by name; default: all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    batch_size, rounds = (8, 1) if given.quick else (64, given.rounds)
    found = measured(given.losses or [*kinds()], batch_size, rounds)
    said = f"ResNet-20 to ResNet-8, 32 x 32 pixels, {CLASSES} classes, batches of {batch_size}, one thread"
    versions = {"preceptor": __version__, "torch": str(torch.__version__), "machine": platform.machine()}
    if given.json:
        told = {"setting": said, "rounds": rounds, **versions, "losses": found}
        given.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if given.markdown:
        given.markdown.write_text(markdown(found) + "\n", encoding="utf-8")
    base = found["kd"]
    print(f"{said}: kd {base['seconds'] * 1e3:.0f} ms, {base['bytes'] / 1e6:.0f} MB\n\n{markdown(found)}")


if __name__ == "__main__":
    main()
