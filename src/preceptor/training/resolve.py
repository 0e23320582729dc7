"""From a recipe and somebody's objects to a job: data, model, criterion and teacher, each made once."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor import runs
from preceptor.data.dataset import Data
from preceptor.errors import InputError
from preceptor.inputs import batch_to
from preceptor.names import Trust, refuse_made
from preceptor.recipe import DistillRecipe, Recipe, TeacherRef, TeachRecipe
from preceptor.runs import Factory, Identity
from preceptor.runs.contents import contents_of
from preceptor.runs.identity import fingerprint
from preceptor.schema import Component
from preceptor.tasks.stack import Stack
from preceptor.tasks.task import DistillTask
from preceptor.tasks.teacher import (
    Lookup,
    TeacherFn,
    TeacherLike,
)
from preceptor.training.checks import probe
from preceptor.training.checks.caching import same_every_epoch, steady
from preceptor.training.checks.callers import moves_with, refuse_shared
from preceptor.training.checks.first_look import say_what_is_odd
from preceptor.training.checks.leaks import check_class_names, refuse_leak
from preceptor.training.data.batches import Batches, Replay, StackedBatches
from preceptor.training.data.cohort import Cohort
from preceptor.training.data.samples import Samples, cut, load_data
from preceptor.training.engine.device import Accelerator, make_accelerator
from preceptor.training.job import Job
from preceptor.training.loop.parent import parent_digest
from preceptor.training.objects.asked import check_of_samples, checked, counts_of, with_parent
from preceptor.training.objects.criteria import (
    check_criterion,
    new_criterion,
    new_losses,
    note_hot,
    note_squared_error,
    refuse_mixing,
    refuse_targets,
    say_unpublished,
)
from preceptor.training.objects.fusing import distill_task, teach_task
from preceptor.training.objects.known import known_by
from preceptor.training.objects.models import model_name, new_model
from preceptor.training.objects.own import Own
from preceptor.training.objects.starting import refuse_started_on, start_digest
from preceptor.training.objects.students import Student, check_table, groups_of
from preceptor.training.objects.sums import Parts
from preceptor.training.objects.token_losses import usual_for
from preceptor.training.optim.optimizers import check_own
from preceptor.training.scoring.evaluate import tabulate
from preceptor.training.scoring.selection import selection_of
from preceptor.training.teachers.given import as_given, fitted, load_teachers
from preceptor.training.teachers.preprocessing import refuse_unconverted
from preceptor.training.teachers.replay import replay_of, told_records
from preceptor.training.teachers.teacher_scores import scored_rows, scored_teacher

Function = Callable[..., Tensor]


def teach_job(
    recipe: TeachRecipe,
    folder: Path | None,
    *,
    data: Any = None,
    model: Factory | None = None,
    objective: Function | None = None,
    seeds: Sequence[int] = (),
    own: Own | None = None,
) -> Job:
    """A teacher's training, or that of a stack of them; arguments as of `preceptor.training.teach`."""
    own = checked(recipe, own, stacked=bool(seeds))
    check_criterion("objective", recipe.objective, objective)
    accelerator = _accelerator(recipe, folder, stacked=bool(seeds))
    samples = _samples(recipe, data, seeds or [recipe.seed])
    found = samples[0].data
    objects = _objects(folder, recipe, found, model=model, objective=known_by(objective), **own.objects())
    counts = counts_of(samples)
    criterion = new_criterion("objective", recipe.objective, found.num_classes, objective, counts=counts)
    if recipe.mixing:
        refuse_mixing(criterion)
    check_of_samples(samples[0], recipe.sampler, ("objective", criterion))
    module = _module(recipe, samples, seeds or [recipe.seed], model, stacked=bool(seeds))
    if objective is None:
        note_squared_error(recipe.objective, found.num_classes, module)
    cohort = Cohort(module, samples, list(range(len(seeds))) if seeds else None)
    task = teach_task(recipe, cohort, criterion, objective)
    check_own(recipe, own, module, accelerator.device, task.parts, task.state)
    return Job(
        with_parent(Identity(recipe, [{"seed": seed} for seed in seeds], objects, _contents(folder, found, recipe))),
        cohort,
        task,
        _batches(recipe, cohort, [s.parts["train"] for s in samples], accelerator),
        accelerator,
        folder,
        distribution=recipe.distribution,
        calibrate=recipe.calibrate,
        own=own,
        selection=selection_of(recipe, own, found.num_classes),
    )


def completed(
    recipe: DistillRecipe,
    folder: Path | None,
    *,
    data: Any = None,
    model: Factory | None = None,
    loss: Function | Parts | None = None,
    own: Own | None = None,
) -> dict[str, Any] | None:
    """The result of a complete run from the teachers that its recipe names; None if there is training left to do.

    What a teacher is was written down by its weights: it is not loaded, and the code that it may name not imported.

    Raises:
        InputError: the folder holds another run, or what its data or teachers are called has changed since.
    """
    if folder is None or not (folder / "result.json").is_file():
        return None
    found = load_data(recipe, data, trust=True)
    return runs.open_run(folder, _of_student(usual_for(found, recipe), folder, found, model, loss, own))


def distill_job(
    recipe: DistillRecipe,
    folder: Path | None,
    *,
    teacher: TeacherLike | None = None,
    data: Any = None,
    model: Factory | None = None,
    loss: Function | Parts | None = None,
    own: Own | None = None,
    teacher_model: Factory | str | None = None,
    trust: Trust = False,
    choice: Mapping[str, Any] | None = None,
    loaded: TeacherFn | None = None,
) -> Job:
    """A student's training from a teacher; arguments as of `preceptor.training.distill`.

    Args:
        loaded: the teachers that the recipe refers to, where somebody has loaded them already.
    """
    own = checked(recipe, own)
    check_criterion("loss", recipe.loss, loss)
    check_criterion("label_loss", recipe.label_loss, own.label_loss)
    accelerator = _accelerator(recipe, folder, stacked=False)
    [samples] = _samples(recipe, data, [recipe.seed])
    found = samples.data
    recipe = usual_for(found, recipe)
    counts = counts_of([samples])
    named = recipe.model.name if model is None and recipe.model is not None else ""
    losses = new_losses(recipe.loss, found.num_classes, loss, counts=counts, student=named)
    say_unpublished(recipe)
    if samples.are_tokens:
        note_hot(losses, found.num_classes)
    hard = new_criterion("label_loss", recipe.label_loss, found.num_classes, own.label_loss, counts=counts)
    bare = loaded
    if bare is None:
        bare = as_given(teacher) if teacher is not None else load_teachers(recipe, teacher_model, trust)
    check_class_names(bare, found.class_names)
    if recipe.mixing:
        for criterion, _ in losses:
            refuse_mixing(criterion, bare)
        refuse_mixing(hard)
    check_of_samples(samples, recipe.sampler, ("label_loss", hard), *[("loss", each) for each, _ in losses])
    if teacher is None:
        refuse_leak(recipe, samples, named=found.origin is not None)
    student = _module(recipe, [samples], [recipe.seed], model, stacked=False)
    two = samples.train[samples.for_students[:2].tolist()]
    few = two["input"]
    refuse_shared(student, bare, few)
    given = fitted(recipe, bare, samples, accelerator.device)
    replay = replay_of(given, recipe, samples)
    if replay is not None:
        for criterion, _ in losses:
            refuse_targets(criterion, given, two, found.num_classes)
    probe.check_teacher(given, samples, accelerator.device)
    refuse_unconverted(given, found, batch_to(two, accelerator.device))
    identity = _of_student(recipe, folder, found, model, loss, own, None if teacher is None else bare)
    cohort = Cohort(student, [samples])
    task = distill_task(recipe, cohort, given, losses, hard, loss if own.label_loss is None else own.label_loss)
    check_own(recipe, own, student, accelerator.device, task.parts, task.state)

    def prepare() -> dict[str, Any]:
        """Ask the teacher once for all, where its answers are the same in every epoch; say what it is worth."""
        tabulated = (
            recipe.cache
            and not samples.are_tokens  # too many outputs to be kept: that is what records are for
            and recipe.augmentation is None
            and recipe.mixing is None
            and not task.looks_at_teacher
            and not moves_with(student, given, few)
            and steady(given, samples.train, samples.for_students, accelerator.device)
            and same_every_epoch(samples.train, samples.for_students)
        )
        table = None
        if tabulated:
            table = tabulate(given, samples.train, samples.for_students, accelerator.device)
            task.teacher = Lookup(table).to(accelerator.device)
        return {"teacher": scored_teacher(given, cohort, accelerator.device, table)}

    return Job(
        identity,
        cohort,
        task,
        _batches(recipe, cohort, [samples.for_students], accelerator, replay),
        accelerator,
        folder,
        prepare=prepare,
        extra=told_records(given) | ({} if choice is None else {"choice": dict(choice)}),
        own=own,
        selection=selection_of(recipe, own, found.num_classes),
    )


def stack_job(
    recipe: DistillRecipe,
    folder: Path | None,
    students: Sequence[Student],
    table: Tensor,
    *,
    data: Any = None,
    model: Factory | None = None,
    origin: str | None = None,
) -> Job:
    """The training of many students at once; arguments as of `preceptor.training.distill_stack`."""
    own = checked(recipe, None, stacked=True)
    check_criterion("label_loss", recipe.label_loss)
    accelerator = _accelerator(recipe, folder, stacked=True)
    if recipe.mixing:
        refuse_mixing(None, Lookup(table))
    if not students:
        raise InputError("there are no students to distill; give at least one")
    seeds = list(dict.fromkeys(student.seed for student in students))
    samples = _samples(recipe, data, seeds)
    found = samples[0].data
    check_table(table, students, len(samples[0].train), found.num_classes)
    source_of = [seeds.index(student.seed) for student in students]
    module = _module(recipe, samples, [s.seed for s in students], model, stacked=True, source_of=source_of)
    cohort = Cohort(module, samples, source_of)
    hard = new_criterion("label_loss", recipe.label_loss, found.num_classes, counts=counts_of(samples))
    device = accelerator.device
    task = DistillTask(
        module,
        Lookup(table, [student.teacher for student in students]).to(device),
        groups_of(students, found.num_classes),
        ce_weight=torch.tensor([student.ce_weight for student in students], device=device),
        distill_weight=torch.tensor([student.distill_weight for student in students], device=device),
        labelled=cohort.labelled,
        label_loss=hard,
        num_samples=len(samples[0].train),
        num_classes=found.num_classes,
    )
    check_own(recipe, own, module, device, task.parts, task.state)
    objects = _objects(folder, recipe, found, model=model, table=table if origin is None else None)
    if origin is not None:
        objects["table"] = origin
    rows = torch.tensor([student.teacher for student in students])
    members = [vars(student) | {"loss": student.loss.model_dump(mode="json")} for student in students]
    batches = _batches(recipe, cohort, [s.for_students for s in samples], accelerator)
    prepare = lambda: {"teacher": scored_rows(table, rows, cohort)}  # noqa: E731
    identity = with_parent(Identity(recipe, members, objects, _contents(folder, found, recipe)))
    selection = selection_of(recipe, own, found.num_classes)
    return Job(identity, cohort, task, batches, accelerator, folder, prepare=prepare, selection=selection)


# -- parts -------------------------------------------------------------------------------------------------------------


def _accelerator(recipe: Recipe, folder: Path | None, *, stacked: bool) -> Accelerator:
    if recipe.training.trackers and folder is None:
        raise InputError(
            f"training.trackers is {list(recipe.training.trackers)}, but nothing is kept; give a run folder, or no "
            "trackers",
            argument="folder",
        )
    accelerator = make_accelerator(recipe.training, folder)
    if stacked and accelerator.num_processes > 1:
        raise InputError("a stack is trained by one process; start it without accelerate launch")
    return accelerator


def _samples(recipe: Recipe, data: Any, seeds: Sequence[int]) -> list[Samples]:
    found = load_data(recipe, data, trust=True)
    samples = [cut(recipe, found, seed) for seed in seeds]
    say_what_is_odd(samples[0])
    return samples


def _batches(
    recipe: Recipe,
    cohort: Cohort,
    indices: Sequence[Tensor],
    accelerator: Accelerator,
    replay: Replay | None = None,
) -> Batches | StackedBatches:
    return cohort.batches(
        recipe, indices, processes=accelerator.num_processes, device=accelerator.device, replay=replay
    )


def _objects(folder: Path | None, recipe: Recipe, data: Data, **given: Any) -> dict[str, str]:
    """The fingerprints of what stands in for the recipe's own, by role, for the run folder or to know a parent by; of
    some criteria they are `given` (`known_by`).
    """
    if folder is None and recipe.parent is None:
        return {}
    if recipe.data is None or data.origin != recipe.data.model_dump(mode="json"):
        given["data"] = data
    there = {role: thing for role, thing in given.items() if thing is not None}
    return {role: thing if isinstance(thing, str) else fingerprint(thing) for role, thing in there.items()}


def _contents(
    folder: Path | None, data: Data, recipe: Recipe, teachers: Sequence[TeacherRef] = ()
) -> dict[str, dict[str, str]]:
    if folder is None and recipe.parent is None:
        return {}
    beside = {"parent": parent_digest(recipe.parent) if recipe.parent else {}, "start": start_digest(recipe)}
    return contents_of(data, teachers) | {role: content for role, content in beside.items() if content}


def _of_student(
    recipe: DistillRecipe,
    folder: Path | None,
    data: Data,
    model: Factory | None,
    loss: Function | Parts | None,
    own: Own | None = None,
    teacher: TeacherFn | None = None,
) -> Identity:
    """What makes a student's run this one; `teacher` is an object in place of the recipe's."""
    more = {role: known_by(thing) for role, thing in (own or Own()).objects().items()}
    objects = _objects(folder, recipe, data, model=model, loss=_parts_known_by(loss), teacher=teacher, **more)
    teachers = recipe.teacher if teacher is None else ()
    return with_parent(Identity(recipe, (), objects, _contents(folder, data, recipe, teachers)))


def _parts_known_by(loss: Function | Parts | None) -> Any:
    if isinstance(loss, list):
        return [(part if isinstance(part, Component) else known_by(part), weight) for part, weight in loss]
    return known_by(loss)


def _module(
    recipe: Recipe,
    samples: Sequence[Samples],
    seeds: Sequence[int],
    factory: Factory | None,
    *,
    stacked: bool,
    source_of: Sequence[int] | None = None,
) -> nn.Module:
    """The model, or a stack of one for each of `seeds`."""
    refuse_made(factory)
    data = samples[0].data
    for each in samples:
        refuse_started_on(recipe, each)
    models = [new_model(recipe, data, seed, factory) for seed in seeds]
    name = model_name(recipe, factory)
    probe.check_output(models[0], data, name, distribution=getattr(recipe, "distribution", "softmax"))
    probe.check_parts(models[0], samples[0], name)
    if not stacked:
        return models[0]
    if isinstance(samples[0].train[[0]]["input"], Mapping):
        raise InputError(
            f"the model '{name}' cannot be trained as a stack, as its inputs go by name; train one model a run"
        )
    try:
        return Stack(models, source_of)
    except ValueError as error:
        raise InputError(f"the model '{name}' cannot be trained as a stack: {error}") from None
