"""The verbs teach and distill, as a caller knows them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from preceptor.data.dataset import as_data, of_splits
from preceptor.errors import InputError
from preceptor.losses.features.base import FeatureLoss
from preceptor.names import Trust
from preceptor.notices import notes_kept
from preceptor.recipe import DistillRecipe, Recipe, TeacherRef, TeachRecipe
from preceptor.recipe.keywords import RecipeLike, make_recipe
from preceptor.recipe.published import USUAL, WEIGHTS, note_dropped, published_weights
from preceptor.recipe.text import parse
from preceptor.records import RecordTeacher
from preceptor.runs import Factory
from preceptor.runs.references import teacher_references
from preceptor.schema import SUM, Component
from preceptor.tasks.teacher import TeacherLike
from preceptor.training.checks.callers import given_back
from preceptor.training.data.samples import load_data
from preceptor.training.loop.parent import longer
from preceptor.training.objects.known import known_as_given
from preceptor.training.objects.own import MakeOptimizer, MakeScheduler, Own
from preceptor.training.objects.students import Student
from preceptor.training.objects.sums import parts_given
from preceptor.training.outcome import Result
from preceptor.training.resolve import completed, distill_job, stack_job, teach_job
from preceptor.training.teachers.given import load_teachers
from preceptor.training.together import check_students, refuse_unlike, train_together
from preceptor.training.train import train

__all__ = ["Result", "Student", "distill", "distill_stack", "distill_together", "teach"]

_PLAIN = str | list | tuple | Mapping  # what the options of a name may be
Collate = Callable[[list[Any]], Any]
Named = Component | str | Mapping[str, Any]
R = TypeVar("R", bound=Recipe)
_ROLES = ("model", "loss", "label_loss", "optimizer", "select")  # by name, or as an object
_OWN = ("label_loss", "optimizer", "select")
_BESIDE_LABELS = {"ce_weight": 1.0, "distill_weight": 1.0}  # of a sum
_BESIDE = ("scheduler", "maximize", "callbacks")  # as an object alone


def teach(
    recipe: RecipeLike | None = None,
    folder: Path | str | None = None,
    *,
    data: Any = None,
    model: Factory | Named | None = None,
    objective: Callable[..., Tensor] | Named | None = None,
    seeds: Sequence[int] = (),
    collate_fn: Collate | None = None,
    optimizer: MakeOptimizer | Mapping[str, Any] | None = None,
    scheduler: MakeScheduler | None = None,
    select: Callable[..., Any] | Named | None = None,
    maximize: bool | None = None,
    callbacks: Sequence[Any] = (),
    more_epochs: int | None = None,
    trust: Trust = False,
    progress: bool = False,
    **keywords: Any,
) -> Result:
    """Train a teacher.

    Args:
        recipe: everything that decides the run: a recipe, the path of a YAML file or the name of a shipped one, or a
            mapping; without it keywords say all.
        folder: the run folder; an interrupted run goes on, a complete one is returned as it is. None keeps
            nothing. A folder that holds another recipe, or was made with other objects, is refused.
        data: your own `Data`, map-style data set, (train, test) or (train, heldout, test); or the name of one of ours,
            or a mapping of its ``name`` and options, as in a recipe.
        model: your own factory ``(num_classes, input_shape) -> nn.Module``, or a name or mapping likewise.
        objective: your own objective (`preceptor.tasks.Criterion`), or a name or mapping likewise.
        collate_fn: makes a batch of a list of samples of `data`, such as a collator of transformers that pads them.
        seeds: train a stack, one model for each seed; ``recipe.seed`` is not used then.
        optimizer: your own, a function of the parameters (or of groups of them) that makes a `torch.optim.Optimizer`
            with its learning rate; or a mapping as in a recipe. It is refused if its state is more than tensors and
            numbers.
        scheduler: your own, a function of the optimizer and the number of all steps that makes a scheduler, which is
            stepped after each optimizer step and, where a run resumes, stepped to where it was.
        select: your own held-out score, a function of probabilities (n, C) and labels (n,) that gives a number; or the
            name of one, or a mapping, as in a recipe.
        maximize: whether more of your own score is better; needed with one.
        callbacks: objects with ``on_step_end(step, steps)`` or ``on_epoch_end(epoch, scores)``, numbers counted from 1;
            one that returns True or "stop" ends the run after this epoch, or at once, evaluated. They are no part of
            what the run is; if one raises an error, the run is saved first.
        more_epochs: go on for so many epochs from the end of the complete run whose folder is given as `recipe`, as a
            new run in `folder`.
        trust: the code that this run names may be imported (True, or these names).
        progress: show a progress bar.
        keywords: laid over the recipe: its keys, nested ones as mappings, and those of ``training`` and ``optimizer``
            by their own names, such as ``epochs=30, lr=0.1``.

    Returns:
        What ``result.json`` holds: held-out and test scores of the last and the best epoch, and the
        circumstances.

    Raises:
        InputError: anything in the recipe, the data or the folder that cannot be.

    >>> result = teach(data="digits", model="mlp", objective="mse", epochs=1, device="cpu")
    >>> 0 < result["heldout"]["last"]["brier"] < 2
    True
    """
    given: dict[str, Any] = {"objective": objective, "optimizer": optimizer, "select": select}
    keywords, objects = _sorted(keywords, data=_collated(data, collate_fn), model=model, **given)
    made = _recipe(TeachRecipe, recipe, keywords, more_epochs, trust)
    objects |= _own(objects, scheduler=scheduler, maximize=maximize, callbacks=callbacks)
    with notes_kept(), known_as_given(objects):
        return train(teach_job(made, _folder(folder), **objects, seeds=seeds), progress=progress)


def distill(
    recipe: RecipeLike | None = None,
    folder: Path | str | None = None,
    *,
    teacher: TeacherLike | Sequence[TeacherRef | Path | str] | TeacherRef | Path | str | None = None,
    data: Any = None,
    model: Factory | Named | None = None,
    loss: Callable[..., Tensor] | Named | Sequence[Any] | None = None,
    label_loss: Callable[..., Tensor] | Named | None = None,
    teacher_model: Factory | str | None = None,
    trust: Trust = False,
    choice: Mapping[str, Any] | None = None,
    collate_fn: Collate | None = None,
    optimizer: MakeOptimizer | Mapping[str, Any] | None = None,
    scheduler: MakeScheduler | None = None,
    select: Callable[..., Any] | Named | None = None,
    maximize: bool | None = None,
    callbacks: Sequence[Any] = (),
    more_epochs: int | None = None,
    progress: bool = False,
    **keywords: Any,
) -> Result:
    """Train a student from a teacher: a callable from batch to logits, a module, or a weighted list of them.

    Args, returns and raises as `teach`; `teacher`, `loss` and `label_loss`, an objective, stand in for the recipe's. A
    `loss` may be a list, the sum of names, mappings and objects, or of pairs of one of these and its weight. A teacher
    may also be a run, by its folder or as ``RUN:best`` (docs/teachers.md); if it was trained with a model of somebody's
    own that the recipe does not name, `teacher_model` makes it, or `trust` allows the run to name it (True, or these
    names). Where inputs are the same in every epoch, the teacher is asked once for each sample (``recipe.cache``).
    `choice`, why the recipe names this teacher (`preceptor.study.teachers.choose_teacher`), is written into the result.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> result = distill(teacher=net, data="digits", model="mlp", loss="wttm", epochs=1, device="cpu")
    >>> result["verb"]
    'distill'
    """
    named = _references(teacher)
    if named:
        keywords = keywords | {"teacher": named}
    own: Any = None if named else teacher
    given: dict[str, Any] = {"label_loss": label_loss, "optimizer": optimizer, "select": select}
    keywords, objects = _sorted(keywords, data=_collated(data, collate_fn), model=model, loss=loss, **given)
    objects |= _own(objects, scheduler=scheduler, maximize=maximize, callbacks=callbacks)
    with notes_kept(), given_back(own), known_as_given(objects):
        made = _recipe(DistillRecipe, recipe, keywords, more_epochs, trust)
        made = _weighed(made, objects["loss"], keywords)
        done = completed(made, _folder(folder), **objects) if own is None else None
        if done is not None:
            return done
        reading: Any = {"teacher_model": teacher_model, "trust": trust}
        job = distill_job(made, _folder(folder), teacher=own, **objects, **reading, choice=choice)
        return train(job, progress=progress)


def distill_together(
    recipe: RecipeLike | None,
    students: Mapping[str, Mapping[str, Any]],
    folder: Path | str | None = None,
    *,
    teacher: TeacherLike | Sequence[TeacherRef | Path | str] | TeacherRef | Path | str | None = None,
    data: Any = None,
    teacher_model: Factory | str | None = None,
    trust: Trust = False,
    collate_fn: Collate | None = None,
    progress: bool = False,
    **keywords: Any,
) -> dict[str, Result]:
    """Train several students of one teacher side by side: each batch is made, and its teacher asked, once for all.

    Every student becomes what `distill` would make of it alone, bit for bit on a CPU, in a run folder of its own. They
    may differ in anything but what they are shown: model, loss, weights, optimizer, schedule, epochs, initialisation
    (``streams={"initialization": 1}``).

    Args:
        recipe: what they have in common, as of `distill`.
        students: by name, the keywords of `distill` in which each differs, objects of one's own among them.
        folder: where each student gets the folder of its name; None keeps nothing.
        teacher, data, teacher_model, trust, collate_fn, progress, keywords: as of `distill`, for all.

    Returns:
        Each student's result, by name.

    Raises:
        InputError: as `distill`; students that would see other batches or another teacher, or one that was given up
            because it diverged, once the others are complete.

    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> students = {"kd": {"loss": "kd"}, "wttm": {"loss": "wttm"}}
    >>> results = distill_together(None, students, teacher=net, data="digits", model="mlp", epochs=1, device="cpu")
    >>> list(results)
    ['kd', 'wttm']
    """
    check_students(students, kept=folder is not None)
    place = _folder(folder)
    named = _references(teacher)
    if named:
        keywords = keywords | {"teacher": named}
    own: Any = None if named else teacher
    with notes_kept(), given_back(own):
        common, objects = _sorted_apart(keywords, data=_collated(data, collate_fn))
        base = make_recipe(DistillRecipe, recipe, common)
        each = {name: _sorted_apart(changes) for name, changes in students.items()}
        recipes = {
            name: _weighed(make_recipe(DistillRecipe, base, said), own.get("loss"), {**common, **said})
            for name, (said, own) in each.items()
        }
        refuse_unlike(recipes)
        shared: dict[str, Any] = {"data": load_data(base, objects.pop("data", None), trust=True)}
        places = {name: None if place is None else place / name for name in recipes}
        with known_as_given(objects, *(changed for _, changed in each.values())):
            if own is None:
                done = {
                    n: completed(made, places[n], **shared, **(objects | each[n][1])) for n, made in recipes.items()
                }
                complete = {name: result for name, result in done.items() if result is not None}
                if len(complete) == len(recipes):
                    return complete
                shared["loaded"] = load_teachers(base, teacher_model, trust)
            jobs = {
                name: distill_job(made, places[name], teacher=own, **shared, **(objects | each[name][1]))
                for name, made in recipes.items()
            }
            return train_together(jobs, progress=progress)


def distill_stack(
    recipe: RecipeLike,
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
    made = make_recipe(DistillRecipe, recipe, {})
    with notes_kept():
        job = stack_job(made, _folder(folder), students, table, data=data, model=model, origin=origin)
        return train(job, progress=progress)


def _sorted_apart(keywords: Mapping[str, Any], **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `_sorted`, where objects are among the keywords; without those that are named or not there."""
    given |= {role: keywords[role] for role in _ROLES if role in keywords}
    beside = {role: keywords[role] for role in _BESIDE if role in keywords}
    said, objects = _sorted({key: value for key, value in keywords.items() if key not in {**given, **beside}}, **given)
    found = {role: thing for role, thing in objects.items() if thing is not None}
    return said, found | (_own(found, **beside) if beside or found.keys() & _OWN else {})


def _own(objects: dict[str, Any], **beside: Any) -> dict[str, Own]:
    """What of the objects is handed over beside model and criterion, taken out of them."""
    return {"own": Own(**{role: objects.pop(role) for role in _OWN if role in objects}, **beside)}


def _recipe(kind: type[R], recipe: Any, keywords: Mapping[str, Any], more_epochs: int | None, trust: Trust) -> R:
    if more_epochs is None:
        return make_recipe(kind, recipe, keywords)
    return longer(kind, recipe, more_epochs, keywords, trust=trust)


def _weighed(made: DistillRecipe, loss: Any, keywords: Collection[str]) -> DistillRecipe:
    """A recipe for a loss that is handed over: it names none, and has the weights that this was published with, where
    neither a keyword says others nor the recipe, unless those are of another loss.
    """
    if loss is None:
        return made
    name = SUM if isinstance(loss, list) else type(loss).__name__
    ours = _BESIDE_LABELS if isinstance(loss, list) else loss.weights() if isinstance(loss, FeatureLoss) else {}
    was = made.loss if made.loss is not None and "loss" in made.model_fields_set else None
    said = {key for key in WEIGHTS if key in made.model_fields_set}
    if was is not None and was.name != name and (ours or published_weights(was, made.model)):
        dropped = {key: getattr(made, key) for key in WEIGHTS if key in said and key not in keywords}
        note_dropped(dropped, {key: {**USUAL, **ours}[key] for key in dropped}, was.name, name)
        said -= dropped.keys()
    weights = {key: value for key, value in {**USUAL, **ours}.items() if key not in said}
    return parse(DistillRecipe, made.model_dump() | {"loss": None} | weights)


def _collated(data: Any, collate_fn: Collate | None) -> Any:
    """The data that were handed over, with what makes batches of them."""
    data = of_splits(data)
    if collate_fn is None:
        return data
    if not callable(collate_fn):
        raise InputError(
            f"collate_fn is a {type(collate_fn).__name__}; give a function from a list of samples to a batch",
            argument="collate_fn",
        )
    if data is None or isinstance(data, str | Mapping | Component):
        raise InputError(
            "collate_fn makes batches of samples that are handed over; give data= a data set, or let the function that "
            "the recipe names return Data(..., collate_fn=...)",
            argument="data",
        )
    return replace(as_data(data), collate_fn=collate_fn)


def _folder(folder: Path | str | None) -> Path | None:
    if folder is None:
        return None
    if not isinstance(folder, str | Path):
        raise InputError(f"the folder is a {type(folder).__name__}; give a path", argument="folder")
    return Path(folder)


def _references(teacher: Any) -> list[dict[str, Any]]:
    """Teachers that are runs, as a recipe refers to them; none for an object."""
    several = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
    several = [each.plain or each if isinstance(each, RecordTeacher) else each for each in several]
    if not all(isinstance(each, str | Path | TeacherRef) for each in several):
        return []
    found = [[each] if isinstance(each, TeacherRef) else teacher_references(str(each)) for each in several]
    return [reference.model_dump() for references in found for reference in references]


def _sorted(keywords: dict[str, Any], **given: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a recipe says, names and their options among it, and what only an object can say."""
    data = given.get("data")
    if isinstance(data, Mapping) and any(
        hasattr(part, "__len__") and not isinstance(part, _PLAIN) for part in data.values()
    ):
        raise InputError(
            f"the data are a mapping of {', '.join(map(str, data))}; give a data set of (input, label), (train, test) "
            "or (train, heldout, test)",
            argument="data",
        )
    said: dict[str, Any] = {r: thing for r, thing in given.items() if isinstance(thing, str | Mapping | Component)}
    loss = given.get("loss")
    if isinstance(loss, list | tuple):  # a sum, which a recipe can hold if all its parts have names
        parts = parts_given(loss)
        said |= {"loss": loss} if parts is None else {}
        given["loss"] = parts
    return keywords | said, {role: None if role in said else thing for role, thing in given.items()}
