"""Teach and distill: from a recipe to a run folder, for one model or a stack of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor import runs
from preceptor.data.dataset import ArrayDataset, Data, require_index
from preceptor.errors import InputError
from preceptor.names import call
from preceptor.recipe import DistillRecipe, Recipe, TeachRecipe
from preceptor.runs.files import finite, locked, make_folder, write_json
from preceptor.runs.identity import fingerprint
from preceptor.schema import Component
from preceptor.tasks.stack import Stack
from preceptor.tasks.task import DistillTask, Loss, Task, TeachTask
from preceptor.tasks.teacher import Lookup, TeacherFn, TeacherLike, Transformed, as_teacher, moved
from preceptor.training import setup
from preceptor.training.batches import Augmentation, Batches, StackedBatches
from preceptor.training.device import Accelerator
from preceptor.training.evaluate import tabulate
from preceptor.training.leaks import check_class_names, refuse_leak
from preceptor.training.loop import Loop, make_accelerator
from preceptor.training.outcome import Result, evaluator, finish
from preceptor.training.progress import progress_bar
from preceptor.training.setup import Samples
from preceptor.training.streams import Streams

Factory = Callable[..., nn.Module]


def teach(
    recipe: TeachRecipe,
    folder: Path | str | None = None,
    *,
    data: Any = None,
    model: Factory | None = None,
    objective: Callable[..., Tensor] | None = None,
    seeds: Sequence[int] = (),
    progress: bool = False,
) -> Result:
    """Train a teacher.

    Args:
        recipe: everything that decides the run.
        folder: the run folder; an interrupted run goes on, a complete one is returned as it is. None keeps
            nothing. A folder that holds another recipe, or was made with other objects, is refused.
        data: your own `Data`, map-style data set, (train, test) or (train, heldout, test), in place of the recipe's.
        model: your own factory ``(num_classes, input_shape) -> nn.Module``, in place of the recipe's.
        objective: your own objective, in place of the recipe's.
        seeds: train a stack, one model for each seed; ``recipe.seed`` is not used then.
        progress: show a progress bar.

    Returns:
        What ``result.json`` holds: held-out and test scores of the last and the best epoch, and the
        circumstances.

    Raises:
        InputError: anything in the recipe, the data or the folder that cannot be.
    """
    folder = None if folder is None else Path(folder)
    accelerator = _accelerator(recipe, folder, stacked=bool(seeds))
    found, sources = _samples(recipe, data, seeds)
    # Of an objective with state its class: its tensors are what it has seen, and are in the checkpoint.
    named = type(objective) if isinstance(objective, nn.Module) else objective
    objects = _objects(folder, recipe, found, model=model, objective=named)
    if objective is None:
        objective = setup.new_objective(recipe.objective, found.num_classes)
    else:
        setup.check_objective(objective, _named(objective), found.num_classes)
    if hasattr(objective, "observe"):
        require_index(found.train, f"the objective '{recipe.objective.name}'")
    module = _module(recipe, sources, seeds or [recipe.seed], model, stacked=bool(seeds))
    task = TeachTask(module, objective, num_samples=len(sources[0].train), num_classes=found.num_classes)
    source_of = list(range(len(seeds))) if seeds else None
    batches = _batches(recipe, sources, source_of, [s.parts["train"] for s in sources])
    with _opened(folder, recipe, accelerator, objects, [{"seed": seed} for seed in seeds]) as result:
        return result or _train(recipe, task, accelerator, sources, source_of, batches, folder, objects, progress)


def distill(
    recipe: DistillRecipe,
    folder: Path | str | None = None,
    *,
    teacher: TeacherLike | None = None,
    data: Any = None,
    model: Factory | None = None,
    loss: Callable[..., Tensor] | None = None,
    choice: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Result:
    """Train a student from a teacher: a callable from batch to logits, a module, or a weighted list of them.

    Args, returns and raises as `teach`; `teacher` and `loss` stand in for the recipe's. Where inputs are the
    same in every epoch, the teacher is asked once for each sample (``recipe.cache``). `choice`, why the recipe names
    this teacher (`preceptor.study.teachers.choose_teacher`), is written into the result.
    """
    folder = None if folder is None else Path(folder)
    accelerator = _accelerator(recipe, folder, stacked=False)
    found, [samples] = _samples(recipe, data, ())
    if loss is None:
        bound = setup.new_loss(recipe.loss, found.num_classes)
    else:
        bound = setup.as_loss(loss, _named(loss), found.num_classes)
    bare = moved(as_teacher(teacher) if teacher is not None else _load_teachers(recipe), accelerator.device)
    given = bare if recipe.transform is None else Transformed(bare, recipe.transform)
    check_class_names(given, found.class_names)
    if teacher is None:
        refuse_leak(recipe, samples, named=data is None)
    setup.check_teacher(given, samples, accelerator.device)
    student = _module(recipe, [samples], [recipe.seed], model, stacked=False)
    batches = _batches(recipe, [samples], None, [samples.for_students])
    objects = _objects(folder, recipe, found, model=model, loss=loss, teacher=None if teacher is None else bare)
    with _opened(folder, recipe, accelerator, objects) as result:
        if result:
            return result
        if recipe.cache and recipe.augmentation is None and setup.repeats(samples.train):
            table = tabulate(given, samples.train, samples.for_students, accelerator.device)
            given = Lookup(table).to(accelerator.device)
        task = DistillTask(
            student,
            given,
            bound,
            ce_weight=recipe.ce_weight,
            distill_weight=recipe.distill_weight,
            labelled=samples.labelled,
        )
        extra = {} if choice is None else {"choice": dict(choice)}
        return _train(recipe, task, accelerator, [samples], None, batches, folder, objects, progress, extra)


@dataclass(frozen=True)
class Student:
    """One student of a stack: its seed, the row of the teachers' table that teaches it, and its loss."""

    seed: int
    teacher: int
    loss: Component
    ce_weight: float = 0.1
    distill_weight: float = 0.9


def distill_stack(
    recipe: DistillRecipe,
    students: Sequence[Student],
    table: Tensor,
    folder: Path | str | None = None,
    *,
    data: Any = None,
    model: Factory | None = None,
    origin: str | None = None,
    progress: bool = False,
) -> Result:
    """Train many students at once, each from its own row of a table of teacher outputs.

    Args:
        recipe: what they share; its seed, teacher, loss and weights are not used.
        students: the members, which may differ by seed, teacher and loss.
        table: (U, N, C) logits or log-probabilities of U teachers for all N samples of the data set.
        origin: what the table was made from, which a folder's run must have in common with this one; by default the
            table itself. (Computed again on another machine, its last digits may differ.)

    Returns and raises as `teach`, with one score per student.
    """
    folder = None if folder is None else Path(folder)
    accelerator = _accelerator(recipe, folder, stacked=True)
    if not students:
        raise InputError("there are no students to distill; give at least one")
    seeds = list(dict.fromkeys(student.seed for student in students))
    found, sources = _samples(recipe, data, seeds)
    _check_table(table, students, len(sources[0].train), found.num_classes)
    groups: dict[str, tuple[list[int], Loss]] = {}  # students of one loss are computed together
    for position, student in enumerate(students):
        key = student.loss.model_dump_json()
        if key not in groups:
            groups[key] = ([], setup.new_loss(student.loss, found.num_classes))
        groups[key][0].append(position)
    source_of = [seeds.index(student.seed) for student in students]
    module = _module(recipe, sources, [s.seed for s in students], model, stacked=True, source_of=source_of)
    task = DistillTask(
        module,
        Lookup(table, [student.teacher for student in students]).to(accelerator.device),
        list(groups.values()),
        ce_weight=torch.tensor([student.ce_weight for student in students], device=accelerator.device),
        distill_weight=torch.tensor([student.distill_weight for student in students], device=accelerator.device),
        labelled=_stacked_labelled(sources, source_of),
    )
    batches = _batches(recipe, sources, source_of, [s.for_students for s in sources])
    objects = _objects(folder, recipe, found, model=model, table=table if origin is None else None)
    if origin is not None:
        objects["table"] = origin
    with _opened(folder, recipe, accelerator, objects, [_member(student) for student in students]) as result:
        return result or _train(recipe, task, accelerator, sources, source_of, batches, folder, objects, progress)


# -- parts ---------------------------------------------------------------------------------------------------


def _accelerator(recipe: Recipe, folder: Path | None, *, stacked: bool) -> Accelerator:
    if recipe.training.trackers and folder is None:
        raise InputError(
            f"training.trackers is {list(recipe.training.trackers)}, but nothing is kept; give a run folder, or no "
            "trackers"
        )
    accelerator = make_accelerator(recipe, folder)
    if stacked and accelerator.num_processes > 1:
        raise InputError("a stack is trained by one process; start it without accelerate launch")
    return accelerator


def _objects(folder: Path | None, recipe: Recipe, data: Data, **given: Any) -> dict[str, str]:
    """The fingerprints of what stands in for the recipe's own, by role, for the run folder."""
    if folder is None:
        return {}
    if data.origin != recipe.data.model_dump(mode="json"):
        given["data"] = data
    return {role: fingerprint(thing) for role, thing in given.items() if thing is not None}


@contextlib.contextmanager
def _opened(
    folder: Path | None,
    recipe: Recipe,
    accelerator: Accelerator,
    objects: Mapping[str, str],
    members: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Result | None]:
    """The result of a complete run; else None, and the folder is made and held while this run is at work in it.

    The main process goes first and holds it for all of them; the others look at what it made.
    """
    if folder is None:
        yield None
        return
    with contextlib.ExitStack() as held:
        with accelerator.main_process_first():
            result = runs.open_run(folder, recipe, members, objects)
            if result is None and accelerator.is_main_process:
                make_folder(folder)
                held.enter_context(locked(folder))
                result = runs.open_run(folder, recipe, members, objects)  # another may just have made or completed it
                runs.make_run(folder, recipe, members, objects)
        yield result


def _named(function: Callable[..., Any]) -> Component:
    """A name for somebody's own function, for error sentences."""
    return Component(name=getattr(function, "__name__", type(function).__name__))


def _member(student: Student) -> dict[str, Any]:
    return vars(student) | {"loss": student.loss.model_dump(mode="json")}


def _check_table(table: Tensor, students: Sequence[Student], num_samples: int, num_classes: int) -> None:
    if table.ndim != 3 or table.shape[1:] != (num_samples, num_classes):
        raise InputError(
            f"the teachers' table has shape {tuple(table.shape)}; give (teachers, {num_samples}, "
            f"{num_classes}), one row for each sample of the data set"
        )
    for position, student in enumerate(students):
        if not 0 <= student.teacher < len(table):
            raise InputError(
                f"student {position} learns from teacher {student.teacher}, but the table holds teachers 0 "
                f"to {len(table) - 1}"
            )


def _samples(recipe: Recipe, data: Any, seeds: Sequence[int]) -> tuple[Data, list[Samples]]:
    found = setup.load_data(recipe, data)
    return found, [setup.cut(recipe, found, seed) for seed in seeds or [recipe.seed]]


def _module(
    recipe: Recipe,
    sources: Sequence[Samples],
    seeds: Sequence[int],
    factory: Factory | None,
    *,
    stacked: bool,
    source_of: Sequence[int] | None = None,
) -> nn.Module:
    if isinstance(factory, nn.Module):
        raise InputError(
            f"the model is a {type(factory).__name__} already made; give a function that makes one, so that "
            "its initial weights are drawn by the recipe's seed"
        )
    data = sources[0].data
    models = [setup.new_model(recipe, data, seed, factory) for seed in seeds]
    setup.check_output(models[0], data, _named(factory).name if factory else recipe.model.name)
    if not stacked:
        return models[0]
    try:
        return Stack(models, source_of)
    except ValueError as error:
        raise InputError(f"the model '{recipe.model.name}' cannot be trained as a stack: {error}") from None


def _load_teachers(recipe: DistillRecipe) -> TeacherFn:
    if not recipe.teacher:
        raise InputError("the recipe lacks the key 'teacher'; give teacher=RUN_FOLDER, a folder that teach wrote")
    loaded = [(runs.load_teacher(reference), reference.weight) for reference in recipe.teacher]
    return loaded[0][0] if len(loaded) == 1 else as_teacher(loaded)


def _stacked_labelled(sources: Sequence[Samples], source_of: Sequence[int]) -> Tensor | None:
    labelled = [source.labelled for source in sources]
    if any(rows is None for rows in labelled):
        return None
    return torch.stack([rows for rows in labelled if rows is not None])[list(source_of)]


def _train(
    recipe: Recipe,
    task: Task,
    accelerator: Accelerator,
    sources: list[Samples],
    source_of: list[int] | None,
    batches: Batches | StackedBatches,
    folder: Path | None,
    objects: Mapping[str, str],
    progress: bool,
    extra: Mapping[str, Any] | None = None,
) -> Result:
    """Run the loop, and write down what came out."""
    if folder and accelerator.is_main_process:
        runs.write_splits(folder, _recorded_parts(sources, source_of))
    heldout = evaluator(recipe, sources, source_of, accelerator, "heldout")
    shown = progress and accelerator.is_main_process
    _prime(task.model, sources[0].data, accelerator, shown=shown)
    with (
        _tracked(accelerator, recipe),
        progress_bar(folder.name if folder else "training", enabled=shown) as on_step,
    ):
        loop = Loop(task, batches, recipe, heldout, accelerator, folder=folder, on_step=on_step)
        loop.run()
    result = finish(recipe, loop, sources, source_of, folder, objects)
    result |= {"time_total": round(loop.time_total, 2), **(extra or {})}
    if folder and accelerator.is_main_process:
        write_json(folder / "result.json", result)
    accelerator.wait_for_everyone()  # no process may look for files that are still being written
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


def _recorded_parts(sources: Sequence[Samples], source_of: Sequence[int] | None) -> Mapping[str, Tensor]:
    if source_of is None:
        return sources[0].parts
    return {name: setup.stack_of(sources, name) for name in sources[0].parts}


def _batches(
    recipe: Recipe, sources: Sequence[Samples], source_of: Sequence[int] | None, indices: Sequence[Tensor]
) -> Batches | StackedBatches:
    augmentation: Augmentation | None = call("augmentation", recipe.augmentation) if recipe.augmentation else None
    streams = [
        Batches(
            samples.train,
            rows,
            recipe.training.batch_size,
            Streams(samples.seed, recipe.streams),
            augmentation=augmentation,
            num_workers=recipe.training.num_workers,
        )
        for samples, rows in zip(sources, indices, strict=True)
    ]
    return streams[0] if source_of is None else StackedBatches(streams, source_of)


__all__ = ["Result", "Student", "distill", "distill_stack", "teach"]
