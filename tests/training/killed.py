"""Run recipes in forked processes that are killed at chosen moments, then started again with the same
command.

    python -m training.killed JOBS.json

Each job is ``{"verb", "folder", "deaths": [...]}``; a death is ``{"moment": name, "nth": n}`` for the moments
below, or ``{"part": x}``, the line of `preceptor.training` at which that part of the lines of a whole run
have run (so the first job of a verb is without deaths). The process that kills its children has everything
imported: a death costs a fork, not a start of Python.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

import preceptor.runs.checkpoint as checkpoint
import preceptor.runs.files as files
import preceptor.runs.metrics as metrics
import preceptor.training.loop.loop as loop
from preceptor.recipe import Component
from preceptor.training import Student, distill, distill_stack, teach
from training.toys import distill_recipe, teach_recipe

TRAINING = str(Path(loop.__file__).parent)


def die() -> None:
    """As sudden as a power cut."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(verb: str, folder: Path) -> None:
    """The command that is started again and again."""
    if verb == "teach":
        recipe = teach_recipe(
            "objective=SoTeacher",
            "model.dropout=0.1",
            "average.decay=0.9",
            "training.epochs=3",
            "training.checkpoint_every=2",
        )
        teach(recipe, folder)
    elif verb == "teach_stack":
        recipe = teach_recipe("objective=SoTeacher", "optimizer.name=adamw", "optimizer.lr=1e-2", "training.epochs=3")
        teach(recipe, folder, seeds=[0, 1])
    elif verb == "teach_conv":
        recipe = teach_recipe("training.checkpoint_every=2", "training.clip_norm=1.0")
        teach(recipe, folder, model=conv)
    elif verb == "distill":
        distill(distill_recipe("training.checkpoint_every=2", "split.transfer=100"), folder, teacher=_teacher)
    elif verb == "distill_memory":
        # A loss with parts, a memory, a constant of the first step and random draws of its own.
        recipe = distill_recipe("training.checkpoint_every=2", "loss.name=CRD", "loss.negatives=20", "loss.dim=4")
        distill(recipe, folder, model=conv, teacher=_live_teacher())
    else:
        table = torch.randn(1, 1797, 10, generator=torch.Generator().manual_seed(0))
        students = [
            Student(0, 0, Component(name="kd")),
            Student(1, 0, Component.model_validate({"name": "ttm", "temperature": 2.0})),
        ]
        distill_stack(distill_recipe("training.checkpoint_every=1"), students, table, folder)


def conv(num_classes: int) -> nn.Module:
    """Convolutions, whose weights have a memory format of their own, and batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(288, num_classes),
    )  # fmt: skip


def _live_teacher() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return conv(10).eval()


def _teacher(batch: Any) -> torch.Tensor:
    return batch["input"].flatten(1)[:, 20:30]


# -- deaths --------------------------------------------------------------------------------------------------


def _patch(module: Any, name: str, nth: int, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Let the n-th call (from 1) of a function go through `wrapper`."""
    function, calls = getattr(module, name), 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return (wrapper(function) if calls == nth else function)(*args, **kwargs)

    setattr(module, name, patched)


def before(function: Callable[..., Any]) -> Callable[..., Any]:
    """Die instead of the call."""
    return lambda *args, **kwargs: die()


def after(function: Callable[..., Any]) -> Callable[..., Any]:
    """Die right after the call."""

    def wrapped(*args: Any, **kwargs: Any) -> None:
        function(*args, **kwargs)
        die()

    return wrapped


def half_a_file(save_file: Callable[..., Any]) -> Callable[..., Any]:
    """Die when half of the tensors' bytes are written."""

    def wrapped(tensors: Any, path: Path, metadata: Any) -> None:
        save_file(tensors, path, metadata)
        os.truncate(path, path.stat().st_size // 2)
        die()

    return wrapped


def half_a_line(append: Callable[..., Any]) -> Callable[..., Any]:
    """Die when half of a line of metrics is written."""

    def wrapped(log: Any, line: Any) -> None:
        length = append(log, line)
        os.truncate(log.path, length - 20)
        die()

    return wrapped


def half_a_removal(prune: Callable[..., Any]) -> Callable[..., Any]:
    """Die when one of the old checkpoint's two files is removed."""

    def wrapped(folder: Path) -> None:
        for old in checkpoint.saved(folder)[:-1]:
            (old / "state.json").unlink()
        die()

    return wrapped


def when_renaming(suffix: str, how: Callable[..., Any]) -> Callable[[int], None]:
    """Die before or after the n-th rename onto a path that ends in `suffix`."""

    def arm(nth: int) -> None:
        replace, calls = os.replace, 0

        def patched(source: Any, target: Any) -> None:
            nonlocal calls
            calls += suffix in Path(target).name
            (how(replace) if suffix in Path(target).name and calls == nth else replace)(source, target)

        os.replace = patched

    return arm


MOMENTS: dict[str, Callable[[int], None]] = {
    "while a temporary file is written": lambda n: _patch(files, "save_file", n, half_a_file),
    "before a checkpoint is renamed": when_renaming("epoch-", before),
    "after a checkpoint is renamed": when_renaming("epoch-", after),
    "before a line of metrics": lambda n: _patch(metrics.MetricsLog, "append", n, before),
    "within a line of metrics": lambda n: _patch(metrics.MetricsLog, "append", n, half_a_line),
    "between a line of metrics and its checkpoint": lambda n: _patch(metrics.MetricsLog, "append", n, after),
    "between a checkpoint and the next": lambda n: _patch(loop.Loop, "save", n, after),
    "while the checkpoint before is removed": lambda n: _patch(checkpoint, "prune", n + 1, half_a_removal),
    "before the recipe is there": when_renaming("recipe.yaml", before),
    "after the recipe is there": when_renaming("recipe.yaml", after),
    "before the weights are there": when_renaming("last.safetensors", before),
    "between weights and result": when_renaming("result.json", before),
    "after the result": when_renaming("result.json", after),
}


def at_line(number: int) -> Callable[[], int]:
    """Die at the n-th line of `preceptor.training`; the function that is returned counts the lines so far."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(TRAINING):
            return None
        if event == "line":
            count += 1
            if count == number:
                die()
        return trace

    sys.settrace(trace)
    return lambda: count


# -- running -------------------------------------------------------------------------------------------------


def child(verb: str, folder: Path, death: dict[str, Any]) -> None:
    """One start of the command: counts its optimizer steps, and notes what must be the same at the end."""
    log = open(folder.with_suffix(".steps"), "ab", buffering=0)  # noqa: SIM115 - closed by death
    step = loop.Loop._step
    loop.Loop._step = lambda self, batches: (step(self, batches), log.write(b"."))[0]  # type: ignore
    end: dict[str, Any] = {}
    count = at_line(death["line"]) if "line" in death else None
    if "moment" in death:
        MOMENTS[death["moment"]](death["nth"])
    torch.manual_seed(5)
    run(verb, folder)
    if count is not None:
        sys.settrace(None)
        end["lines"] = count()
    end["rng"] = torch.get_rng_state().tolist()
    folder.with_suffix(".end").write_text(json.dumps(end))


def start(verb: str, folder: Path, death: dict[str, Any]) -> int:
    """Fork a child; its exit status, negative if a signal ended it."""
    pid = os.fork()
    if pid == 0:
        try:
            child(verb, folder, death)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None  # against power cuts; what a killed process wrote is there without
    teach(teach_recipe("objective=SoTeacher", "training.epochs=1"))  # whatever is imported late, is now
    lines: dict[str, int] = {}
    for job in json.loads(Path(sys.argv[1]).read_text()):
        verb, folder = job["verb"], Path(job["folder"])
        if job["deaths"]:
            deaths = [{"line": 1 + int(d["part"] * lines[verb])} if "part" in d else d for d in job["deaths"]]
            statuses = [start(verb, folder, death) for death in [*deaths, {}]]
        else:
            statuses = [start(verb, folder, {"line": 0})]  # there is no line 0: the lines are only counted
            lines[verb] = json.loads(folder.with_suffix(".end").read_text())["lines"]
        folder.with_suffix(".statuses").write_text(json.dumps(statuses))


if __name__ == "__main__":
    main()
