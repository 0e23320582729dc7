"""What every process of a 2-process run does: started by torchrun, `python -m training.processes FOLDER`.

The runs are those of `RUNS`, which the test repeats in one process.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.losses.features import AT, CRD, SP, VID, FitNet
from preceptor.training import distill, teach
from preceptor.training.loop.loop import Interrupted, Loop
from training.toys import distill_recipe, stopped_at, teach_recipe

SOTEACHER = ("objective=SoTeacher", "training.epochs=3", "average.decay=0.9", "optimizer.lr=0.05")


def teacher(batch: Any) -> Tensor:
    """Some fixed function of the input."""
    return batch["input"].flatten(1)[:, 20:30] * 4


def normed(num_classes: int) -> nn.Module:
    """A net with batch normalisation."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes))


def plain(num_classes: int) -> nn.Module:
    """A net without."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))


def maps(num_classes: int = 10, width: int = 3) -> nn.Module:
    """A net of convolutions, without norms."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2), nn.Tanh(), nn.Conv2d(width, width, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )  # fmt: skip


def looking(folder: Path, loss: Any, *overrides: str) -> None:
    """Student and teacher are looked into; what a loss has beside its parameters is kept for each process."""
    torch.manual_seed(0)
    recipe = distill_recipe("cache=false", "training.epochs=3", "optimizer.lr=0.02", *overrides)
    distill(recipe, folder, teacher=maps(width=4), model=maps, loss=loss)
    torch.save(loss.state_dict(), folder / f"loss-{PartialState().process_index}.pt")


def resumed(folder: Path) -> None:
    """Stopped in the middle of an epoch, just after a checkpoint, then started again."""
    recipe = teach_recipe(*SOTEACHER, "training.checkpoint_every=2", "training.clip_norm=1.0")
    with stopped_at(5):
        teach(recipe, folder)
    teach(recipe, folder)


def interrupted(folder: Path) -> None:
    """Ctrl-C reaches the last process only, in the fifth step; all stop together, and start again."""
    recipe = teach_recipe(*SOTEACHER, "training.clip_norm=1.0")
    step = Loop._step

    def interrupting(self: Loop, batches: Any) -> None:
        step(self, batches)
        last = self.accelerator.process_index == self.accelerator.num_processes - 1
        self._interrupted = last and self.progress.step == 4

    Loop._step = interrupting  # type: ignore
    try:
        teach(recipe, folder)
    except Interrupted:
        assert (folder / "checkpoints" / "epoch-0001-step-00000005").is_dir()
    Loop._step = step
    teach(recipe, folder)


class Stopping:
    """Ends a run within its third epoch."""

    def on_step_end(self, step: int, steps: int) -> bool:
        return step == 8


def own(folder: Path) -> None:
    """A sampler, groups, a label loss without a mask, a scheduler, a callback that stops."""
    recipe = distill_recipe(
        "training.epochs=4", "sampler=balanced", "training.select=macro_f1", "optimizer.no_decay=[biases]"
    )
    distill(
        recipe,
        folder,
        teacher=teacher,
        label_loss=nn.CrossEntropyLoss(reduction="none", weight=torch.linspace(0.5, 2, 10)),
        scheduler=lambda optimizer, steps: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5),
        callbacks=[Stopping()],
    )


def memory(folder: Path) -> None:
    """A loss with a memory, which all processes' samples move alike on each."""
    loss = CRD(dim=4, negatives=20)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teacher = plain(10).eval()
    distill(distill_recipe(), folder, teacher=teacher, model=plain, loss=loss)
    rank = PartialState().process_index
    torch.save(loss.state_dict() | {"labels": loss.others.labels}, folder.with_name(f"{folder.name}-{rank}.pt"))


# The last batch of each epoch, of 22 samples or 250 - 3 x 64 = 58, shares out unevenly.
RUNS: dict[str, Callable[[Path], Any]] = {
    "teach": lambda folder: teach(teach_recipe(*SOTEACHER, "training.clip_norm=1.0"), folder),
    "accumulate": lambda folder: teach(teach_recipe(*SOTEACHER, "training.accumulate=3"), folder),
    "distill": lambda folder: distill(distill_recipe("split.transfer=99"), folder, teacher=teacher),
    "live": lambda folder: distill(
        distill_recipe("cache=false", "loss=dkd", "training.batch_size=61"), folder, teacher=teacher
    ),
    "resumed": resumed,
    "own": own,
    "interrupted": interrupted,
    "normed": lambda folder: teach(teach_recipe(), folder, model=normed),
    "memory": memory,
    "dist": lambda folder: distill(distill_recipe("loss=dist"), folder, teacher=teacher),
    "regressed": lambda folder: looking(folder, VID(student=["0", "2"]), "training.clip_norm=1.0"),
    "attended": lambda folder: looking(folder, AT(student=["0", "2"]), "training.batch_size=61", "distill_weight=1000"),
    "hint": lambda folder: looking(folder, FitNet(student="2")),
    "relations": lambda folder: looking(folder, SP(student="2")),
}


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    said: dict[str, Any] = {}
    for name, run in RUNS.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(folder / name)
        said[name] = [str(warning.message) for warning in caught if "micro-batch" in str(warning.message)]
    try:
        teach(teach_recipe(), folder / "stack", seeds=[0, 1])
    except InputError as error:
        said["stack"] = str(error)
    again = teach(teach_recipe(*SOTEACHER, "training.clip_norm=1.0"), folder / "teach")  # complete: only read
    said["again"] = again["test"]["last"]["accuracy"]
    (folder / f"said-{PartialState().process_index}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
