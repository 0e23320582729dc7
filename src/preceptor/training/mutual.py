"""Several models that teach each other while they learn: deep mutual learning, each model a run of its own."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from preceptor.errors import InputError
from preceptor.interrupts import Interrupted, Interruption
from preceptor.notices import notes_kept
from preceptor.recipe import TeachRecipe
from preceptor.recipe.keywords import RecipeLike, make_recipe
from preceptor.runs import checkpoint, files
from preceptor.tasks.mutual import Company
from preceptor.tasks.task import TeachTask
from preceptor.training.data.samples import load_data
from preceptor.training.engine.progress import progress_bar
from preceptor.training.job import Job
from preceptor.training.loop.loop import Loop, lent_generator
from preceptor.training.loop.step import is_channels_last
from preceptor.training.outcome import Result
from preceptor.training.resolve import teach_job
from preceptor.training.together import SharedBatches, check_students, refuse_apart, refuse_unlike
from preceptor.training.train import opened, scored_on_heldout, written_down
from preceptor.training.verbs import _collated, _folder, _sorted_apart

# What of a recipe decides what the others learn from a model.
_TELLING = ("model", "start", "objective", "optimizer", "schedule", "training", "seed", "streams", "generation")


def teach_together(
    recipe: RecipeLike | None,
    models: Mapping[str, Mapping[str, Any]],
    folder: Path | str | None = None,
    *,
    weight: float = 1.0,
    temperature: float = 1.0,
    data: Any = None,
    collate_fn: Any = None,
    progress: bool = False,
    **keywords: Any,
) -> dict[str, Result]:
    """Train models that teach each other (deep mutual learning, arXiv 1706.00384): each minimises its objective +
    weight T^2 times the mean over the others of KL(other || model).

    They take their steps in turn, each seeing the others as they are by then, as in the paper's algorithm 1. Each has a
    run folder of its own, which is a teacher's as any other; together, ``OUT/a+OUT/b``, they are an ensemble.

    Args:
        recipe: what they have in common, as of `teach`.
        models: by name, the keywords of `teach` in which each differs: model, objective, optimizer, average, and
            ``streams`` for another initialisation. At least two.
        folder: where each gets the folder of its name; None keeps nothing.
        weight: of the divergence.
        temperature: T; the paper's is 1.
        data, collate_fn, progress, keywords: as of `teach`, for all.

    Returns:
        Each model's result, by name.

    Raises:
        InputError: as `teach`; models that would see other batches, that stop early, or that start as the same network.

    >>> pair = {"a": {}, "b": {"streams": {"initialization": 1}}}
    >>> list(teach_together(None, pair, data="digits", model="mlp", epochs=1, device="cpu"))
    ['a', 'b']
    """
    check_students(models, kept=folder is not None, what="model")
    for name, value in (("weight", weight), ("temperature", temperature)):
        if not value > 0:
            raise InputError(f"{name} is {value}; give a number above 0", argument=name)
    place = _folder(folder)
    with notes_kept():
        common, objects = _sorted_apart(keywords, data=_collated(data, collate_fn))
        base = make_recipe(TeachRecipe, recipe, common)
        each = {name: _sorted_apart(changes) for name, changes in models.items()}
        recipes = {name: make_recipe(TeachRecipe, base, said) for name, (said, _) in each.items()}
        _check(recipes, {name: given for name, (_, given) in each.items()})
        given: dict[str, Any] = {"data": load_data(base, objects.pop("data", None), trust=True)}
        jobs = {
            name: teach_job(made, None if place is None else place / name, **given, **(objects | each[name][1]))
            for name, made in recipes.items()
        }
        refuse_apart(jobs, "model")
        return _train(_acquainted(jobs, weight, temperature), progress=progress)


def _check(recipes: Mapping[str, TeachRecipe], given: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse models that cannot be trained beside each other."""
    if len(recipes) < 2:
        raise InputError("there is one model, and nobody for it to learn from; give two or more")
    refuse_unlike(recipes, "model")
    (first, one), *others = recipes.items()
    for name, other in others:
        if one.training.epochs != other.training.epochs:
            raise InputError(f"the models '{first}' and '{name}' differ in epochs; give them the same, to keep company")
    for name, recipe in recipes.items():
        own = given[name].get("own")
        if recipe.training.patience or (own is not None and own.callbacks):
            raise InputError(
                f"the model '{name}' may stop before the others, who learn from it; leave patience and callbacks out"
            )
    starts: dict[str, str] = {}
    for name, recipe in recipes.items():
        seed = recipe.streams.get("initialization", recipe.seed)
        drawn = recipe.start or f"{recipe.model} {given[name].get('model')} {seed}"
        known = starts.setdefault(drawn, name)
        if known != name:
            raise InputError(
                f"the models '{known}' and '{name}' start as the same network, and would have nothing to tell each "
                f"other; give '{name}' streams={{'initialization': {seed + 1}}}"
            )


def _acquainted(jobs: Mapping[str, Job], weight: float, temperature: float) -> dict[str, Job]:
    """The jobs with each other's models, which are part of what each run is."""
    met = {}
    for name, job in jobs.items():
        assert isinstance(job.task, TeachTask)
        others = {other: it for other, it in jobs.items() if other != name}
        job.task.company = Company([it.task.bare for it in others.values()], weight, temperature)
        told = {other: _digest(it) for other, it in others.items()}
        said = f"mutual learning {json.dumps({'weight': weight, 'temperature': temperature, **told}, sort_keys=True)}"
        met[name] = replace(job, identity=replace(job.identity, objects={**job.identity.objects, "company": said}))
    return met


def _digest(job: Job) -> str:
    """What tells a model from another that would have said something else."""
    content = job.recipe.model_dump(mode="json", include=set(_TELLING))
    content["training"] = {key: content["training"][key] for key in ("epochs", "batch_size", "clip_norm", "precision")}
    whole = json.dumps([content, dict(job.identity.objects)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


# -- training ----------------------------------------------------------------------------------------------------------


class MutualLoop(Loop):
    """A loop that keeps its checkpoints until all in its company have one of the same moment."""

    def __init__(self, *arguments: Any, company: list[Path], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.company = company

    def _prune(self) -> None:
        if self.accelerator.is_main_process and self.recipe.training.keep == "last":
            _keep_from(self.company, common_moment(self.company))


def common_moment(folders: list[Path]) -> str | None:
    """The name of the newest checkpoint that all of some run folders have; None if there is none."""
    each = [[path.name for path in checkpoint.saved(folder / "checkpoints")] for folder in folders]
    return next((name for name in reversed(each[0]) if all(name in names for names in each)), None) if each else None


def _keep_from(folders: list[Path], moment: str | None) -> None:
    """Remove what is older than a moment that all have."""
    for folder in folders if moment else []:
        for path in checkpoint.saved(folder / "checkpoints"):
            if path.name == moment:
                break
            files.remove(path)


def _rewind(folders: list[Path]) -> None:
    """Remove the checkpoints after the newest that all have, from which all go on."""
    moment = common_moment(folders)
    for folder in folders:
        for path in reversed(checkpoint.saved(folder / "checkpoints")):
            if path.name == moment:
                break
            files.remove(path)


def _train(jobs: Mapping[str, Job], *, progress: bool) -> dict[str, Result]:
    """Run the jobs in turn, or go on where all of them were."""
    with contextlib.ExitStack() as held:
        results = {name: held.enter_context(opened(job)) for name, job in jobs.items()}
        left = {name: job for name, job in jobs.items() if results[name] is None}
        company = [job.folder for job in left.values() if job.folder is not None]
        if len(left) < len(jobs):
            _refuse_alone({name: job.folder for name, job in left.items() if job.folder is not None}, jobs)
        elif company:
            accelerator = next(iter(jobs.values())).accelerator
            if accelerator.is_main_process:
                _rewind(company)
            accelerator.wait_for_everyone()
        total = sum(job.batches.steps_per_epoch * job.recipe.training.epochs for job in left.values())
        with progress_bar(f"{len(jobs)} models", enabled=progress) as show:
            loops: dict[str, Loop] = {}
            shared = {layout: SharedBatches(next(iter(jobs.values())).batches) for layout in (False, True)}

            def on_step(_done: int, _steps: int, scores: Any) -> None:
                show(sum(loop.progress.step for loop in loops.values()), total, scores)

            for name, job in left.items():
                more: dict[str, Any] = {"own": job.own, "selection": job.selection, "folder": job.folder}
                heldout, batches = scored_on_heldout(job, shown=progress), shared[is_channels_last(job.cohort.module)]
                given = (job.task, batches, job.recipe, heldout, job.accelerator)
                loops[name] = MutualLoop(*given, **more, on_step=on_step, company=company)
            _in_turn(loops)
        results |= {name: written_down(left[name], loop, {}) for name, loop in loops.items()}
        return {name: result for name in jobs if (result := results[name]) is not None}


def _refuse_alone(left: Mapping[str, Path], jobs: Mapping[str, Job]) -> None:
    """Refuse to train the rest of those whose company is complete, unless it has nothing left to learn."""
    for name, folder in left.items():
        saved = checkpoint.after_epochs(folder / "checkpoints")
        if jobs[name].recipe.training.epochs not in saved:
            raise InputError(
                f"the run '{folder}' is not complete and its company, which it has learned from step by step, is; "
                "remove the folders of all, and run the same command again"
            )


def _in_turn(loops: Mapping[str, Loop]) -> None:
    """A step of each in turn, to the end of all.

    Raises:
        Interrupted: Ctrl-C, TERM or HUP; all have saved their state at the same step.
        InputError: of the first that is refused.
    """
    if not loops:
        return
    one = next(iter(loops.values()))
    for loop in loops.values():
        loop.interruption = one.interruption
    with one.interruption.caught(), lent_generator(one.accelerator.device):
        running = {name: loop.steps() for name, loop in loops.items()}
        try:
            while running:
                for name in list(running):
                    if next(running[name], StopIteration) is StopIteration:
                        del running[name]
        except Interrupted as stop:
            reached = max(_moment(loop) for loop in loops.values())
            saved = [_caught_up(loops[name], steps, reached) for name, steps in running.items()]
            raise Interrupted(stop.number, saved=stop.saved and all(saved)) from None


def _moment(loop: Loop) -> tuple[int, int]:
    return loop.progress.epoch, loop.progress.step


def _caught_up(loop: Loop, steps: Iterator[None], reached: tuple[int, int]) -> bool:
    """Save a loop once it is where the others are; whether that was possible."""
    loop.interruption = Interruption(alone=loop.interruption.alone)  # what was asked is being done
    try:
        while _moment(loop) < reached and next(steps, StopIteration) is not StopIteration:
            pass
        return loop.save() and _moment(loop) == reached
    except InputError:  # it has diverged since it was looked at, or the disk is full
        return False
