"""Doing a job: the folder opened, the loop run, what came out written down."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from preceptor import runs
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.errors import InputError
from preceptor.notices import kept_notes
from preceptor.recipe import Recipe
from preceptor.runs.files import finite, locked, make_folder
from preceptor.tasks.stack import Stack
from preceptor.training.data.batches import Source
from preceptor.training.engine.device import Accelerator
from preceptor.training.engine.progress import OnStep, progress_bar
from preceptor.training.evaluators import AnyEvaluator, evaluator_of
from preceptor.training.job import Job
from preceptor.training.loop.loop import Loop
from preceptor.training.outcome import Result, finish


def train(job: Job, *, progress: bool = False) -> Result:
    """Run a job, or go on with it where it was; a complete one is returned as it is.

    Args:
        job: what to run.
        progress: show a progress bar.

    Raises:
        InputError: the folder holds another run, another process is at work in it, or what the loop refuses.
    """
    with opened(job) as result:
        if result:
            return result
        return _train(job, job.prepare(), progress=progress)


@contextlib.contextmanager
def opened(job: Job) -> Iterator[Result | None]:
    """The result of a complete run; else None, and the folder is made and held while this run is at work in it.

    The main process goes first and holds it for all of them; the others look at what it made.
    """
    folder = job.folder
    if folder is None:
        yield None
        return
    with contextlib.ExitStack() as held:
        with job.accelerator.main_process_first():
            result = runs.open_run(folder, job.identity)
            if result is None and job.accelerator.is_main_process:
                make_folder(folder)
                held.enter_context(locked(folder))
                result = runs.open_run(folder, job.identity)  # another may just have made or completed it
                if not (folder / "recipe.yaml").exists():
                    held.enter_context(_given_up_if_refused(folder))
                runs.make_run(folder, job.identity)
        yield result


@contextlib.contextmanager
def _given_up_if_refused(folder: Path) -> Iterator[None]:
    """Give a new folder up if its run is refused before there is anything worth keeping."""
    try:
        yield
    except InputError:
        runs.give_up(folder)
        raise


def _train(job: Job, prepared: Mapping[str, Any], *, progress: bool) -> Result:
    """Run the loop, and write down what came out."""
    shown = progress and job.accelerator.is_main_process
    heldout = scored_on_heldout(job, shown=shown)
    with (
        _tracked(job.accelerator, job.recipe),
        progress_bar(job.folder.name if job.folder else "training", enabled=shown) as on_step,
    ):
        loop = loop_of(job, job.batches, heldout, on_step)
        loop.run()
    return written_down(job, loop, prepared)


def loop_of(job: Job, batches: Source, heldout: AnyEvaluator, on_step: OnStep) -> Loop:
    """The loop of a job, on these batches."""
    more: dict[str, Any] = {"own": job.own, "selection": job.selection, "folder": job.folder, "on_step": on_step}
    return Loop(job.task, batches, job.recipe, heldout, job.accelerator, **more)


def scored_on_heldout(job: Job, *, shown: bool) -> AnyEvaluator:
    """What scores the models of a job; its splits are written down and its model's frozen part has run."""
    if job.folder and job.accelerator.is_main_process:
        runs.write_splits(job.folder, job.cohort.parts)
    _prime(job.cohort.module, job.cohort.data, job.accelerator, shown=shown)
    return evaluator_of(job, "heldout")


def written_down(job: Job, loop: Loop, prepared: Mapping[str, Any]) -> Result:
    """The result of a run whose loop has come to its end, in its folder if there is one."""
    result = finish(job, loop) | {
        "time_total": round(loop.time_total, 2),
        **prepared,
        **job.extra,
        "notes": kept_notes(),
    }
    if job.folder and job.accelerator.is_main_process:
        runs.write_result(job.folder, result)
    job.accelerator.wait_for_everyone()  # no process may look for files that are still being written
    return finite(result)


def _prime(model: nn.Module, data: Data, accelerator: Accelerator, *, shown: bool) -> None:
    """Let a model with a frozen part run that once for each sample, before training, and not once an epoch."""
    bare: Any = model.template if isinstance(model, Stack) else model
    parts = [part for part in (data.train, data.test) if isinstance(part, ArrayDataset) and part.transform is None]
    if hasattr(bare, "prime"):
        with progress_bar("encoding", enabled=shown) as on_step:
            inputs = [part.inputs for part in parts]
            bare.prime(inputs, device=accelerator.device, report=lambda done, total: on_step(done, total, {}))


@contextlib.contextmanager
def _tracked(accelerator: Accelerator, recipe: Recipe) -> Iterator[None]:
    """Trackers for the time of one run; accelerate's own ending would end the process group with them."""
    if recipe.training.trackers:
        accelerator.init_trackers("preceptor", config={"seed": recipe.seed})
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
