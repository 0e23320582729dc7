"""The teacher for a student, chosen: ``distill --teacher auto RUN...`` and ``teach --select teaching``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preceptor import runs
from preceptor.assess import OPTIMA, Choice, assessed_as, choose
from preceptor.assess.evidence import common_shape
from preceptor.errors import InputError
from preceptor.names import Trust, trusting
from preceptor.recipe import DistillRecipe, TeacherRef
from preceptor.recipe.published import published_of
from preceptor.runs import files
from preceptor.schema import SUM, Component, Transform, by_name, parts_of
from preceptor.study.teachers.candidates import Candidate, check_same_samples
from preceptor.study.teachers.reading import read_candidates

__all__ = ["choose_teacher", "keep_teaching", "student_task"]


def choose_teacher(
    recipe: DistillRecipe,
    names: Sequence[str | Path],
    *,
    data: Any = None,
    data_dir: Path | str | None = None,
    model: runs.Factory | str | None = None,
    trust: Trust = False,
    progress: bool = False,
) -> tuple[DistillRecipe, Choice]:
    """Choose what a student should learn from, from the held-out labels of finished runs, and write it into its recipe.

    A run folder stands for every epoch that it has kept (``training.keep=all``), or else for its last weights, and for
    the averaged ones: the ``best`` ones were selected by the very labels that would judge them here. ``RUN:epoch-4``,
    ``A+B`` and so on are taken as they are (`read_candidates`).

    Args:
        recipe: the student's; its ``teacher`` and ``transform`` are replaced, and under ``ptloss`` its coefficients: by
            those of the proxy if one was chosen, and by 0 (plain KL) otherwise. A loss of unknown optimum is chosen for
            as ``kd``; for one that looks into the teacher a single one is chosen.
        names: run folders.
        data: your own data set, in place of the one that the runs' recipes name.
        data_dir: where the data set's files are.
        model: what makes the model of runs that were trained with one of your own, or its ``package.module:name``.
        trust: import models and data sets of somebody's own that runs name (True, or these names), beside those that
            the recipe names.
        progress: show a progress bar.

    Returns:
        The recipe with its teacher, and the choice with its reasons.

    Raises:
        InputError: no run, a file of logits, runs of other samples or classes, or one that was trained on the samples
            which would judge it.
    """
    if not names:
        raise InputError("there is no run to choose a teacher from; give at least one run folder", argument="names")
    wanted = [term for name in names for term in _expanded(str(name))]
    given: Any = {"data": data, "data_dir": data_dir, "model": model, "trust": trusting(trust, recipe)}
    candidates = read_candidates(wanted, **given, progress=progress)
    choice = _choose(candidates, assessed_as(recipe.named_loss), mix=not _looks_inside(recipe.named_loss))
    return _resolved(recipe, choice, {c.name: c.references for c in candidates}), choice


def keep_teaching(
    folder: Path,
    *,
    data: Any = None,
    data_dir: Path | str | None = None,
    model: runs.Factory | str | None = None,
    trust: Trust = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Keep, beside a run's other weights, those of the epoch that teaches best: ``teaching.safetensors``.

    Chosen among all epochs that the run has kept, and their average if there is one, for ``kd``, with a transform if
    one is worth having; it is stored with the weights, and whoever loads them gets the transformed teacher. The
    held-out labels have then selected this teacher: an unbiased assessment of it needs others.

    Args:
        folder: a complete run of a single model.
        data: your own data set, in place of the recipe's.
        data_dir: where the data set's files are.
        model: what makes the model of runs that were trained with one of your own, or its ``package.module:name``.
        trust: import models and data sets of somebody's own that the run names (True, or these names).
        progress: show a progress bar.

    Returns:
        The run's result, with ``teaching``: which epoch (None for the average), and why. It stays in ``choice.json``.

    Raises:
        InputError: the run has not kept several epochs, or ``choice.json`` is damaged.
    """
    result, teaching = runs.read_result(folder), runs.read_choice(folder)
    if teaching is not None:
        return result | {"teaching": teaching}
    kept = len(runs.kept_epochs(folder))
    if kept < 2:
        raise InputError(
            f"the run '{folder}' has kept {kept} of its epochs, so that there is nothing to choose from; train with "
            "training.keep=all, and for several epochs"
        )
    given: Any = {"data": data, "data_dir": data_dir, "model": model, "trust": trust}
    candidates = read_candidates(_expanded(str(folder)), **given, progress=progress)
    choice = _choose(candidates, Component(name="kd"), mix=False)
    [reference] = next(c.references for c in candidates if c.name == choice.single)
    weights, _ = runs.teacher_weights(reference)
    metadata = {field.name: getattr(weights, field.name) for field in dataclasses.fields(weights)[1:]}
    metadata["temperature"] = 1.0  # of the run's calibration: the transform was fitted without it
    metadata["transform"] = None if choice.transform is None else choice.transform.model_dump(mode="json")
    runs.save_weights(folder / "teaching.safetensors", weights.tensors, metadata)
    teaching = {"epoch": reference.epoch, "choice": choice.to_dict()}
    runs.write_choice(folder, teaching)
    return result | {"teaching": files.finite(teaching)}


def _expanded(name: str) -> list[str]:
    """A plain run folder as all that may be chosen of it; anything else as it is."""
    run = Path(name)
    if not (run / "recipe.yaml").is_file():
        return [name]
    weights = [f"{name}:epochs"] if len(runs.kept_epochs(run)) > 1 else [name]
    return [*weights, *([f"{name}:average"] if (run / "average.safetensors").is_file() else [])]


def _choose(candidates: Sequence[Candidate], loss: Component, *, mix: bool = True) -> Choice:
    for candidate in candidates:
        if not candidate.references:
            raise InputError(
                f"'{candidate.name}' is a file of logits, and no teacher that a student could learn from; "
                "give run folders"
            )
    common_shape({candidate.name: candidate.logits for candidate in candidates})
    check_same_samples(candidates)
    first = candidates[0]
    assert first.labels is not None
    teachers = {candidate.name: candidate.logits for candidate in candidates}
    return choose(teachers, first.labels, loss=loss, mix=mix)


def _resolved(recipe: DistillRecipe, choice: Choice, references: dict[str, tuple[TeacherRef, ...]]) -> DistillRecipe:
    """The recipe with what was chosen."""
    teachers = tuple(
        reference.model_copy(update={"weight": weight * reference.weight / sum(r.weight for r in references[name])})
        for name, weight in sorted(choice.weights.items())
        for reference in references[name]
    )
    loss, transform = student_task(recipe.named_loss, choice)
    return recipe.model_copy(update={"teacher": teachers, "transform": transform, "loss": loss})


def _looks_inside(loss: Component) -> bool:
    """Whether a loss asks for a teacher's features, which a mixture has none of."""
    return any(published_of(part.name) is not None for part, _ in parts_of(loss))


def student_task(loss: Component, choice: Choice) -> tuple[Component, Transform | None]:
    """The student's loss after a choice, and the transform of the teacher's output that it is shown.

    Where a transform may be the loss's own options, as PTLoss's coefficients are a proxy, one of that kind becomes
    them; with any other, or none, they are those that leave the teacher as it is.
    """
    own = OPTIMA[choice.loss].own
    if own is None:
        return loss, choice.transform
    chosen = choice.transform if isinstance(choice.transform, type(own)) else None
    options = (chosen or own).model_dump(exclude={"kind"})
    return _with_options(loss, choice.loss, options), None if chosen else choice.transform


def _with_options(loss: Component, name: str, options: dict[str, Any]) -> Component:
    """A loss, or the part of a sum that is called so, with further options."""
    if loss.name != SUM:
        return Component(name=loss.name, **(loss.options | options))
    parts: list[Any] = [by_name(each) for each in loss.options["parts"]]
    changed = [each | options if each["name"] == name else each for each in parts]
    return Component.model_validate({"name": SUM, "parts": changed})
