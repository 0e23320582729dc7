"""Run a study: teach, assess, distill, for every seed. An interrupted one goes on where it stood."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor import assess, runs
from preceptor.names import named_in
from preceptor.recipe import TeacherRef, TeachRecipe
from preceptor.runs.identity import fingerprint
from preceptor.runs.weights import model_of
from preceptor.study.executors import side_by_side
from preceptor.study.folder import Clock, completed
from preceptor.study.grid.statistics import SCHEMA, SCORES
from preceptor.study.outputs import data_with_test, refuse_other_data, table_of
from preceptor.study.recipe import LossEntry, Study, TeacherEntry
from preceptor.training.data.cohort import Cohort
from preceptor.training.data.samples import Samples, cut
from preceptor.training.engine.device import make_accelerator
from preceptor.training.scoring.evaluate import Evaluator, score
from preceptor.training.verbs import Student, distill_stack, teach

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outputs:
    """One teacher of a study, all seeds: logits or log-probabilities, and its scores."""

    heldout: Tensor  # (S, n, C)
    heldout_labels: Tensor  # (S, n)
    scores: Mapping[str, Mapping[str, list[float]]]
    students_see: Tensor  # (S, N, C), NaN where no student of that seed looks
    origin: tuple[str, ...]  # fingerprints of the weights that say this


def run_study(
    study: Study, folder: Path, *, command: str, progress: bool = False, say: Say = lambda _: None
) -> dict[str, Any]:
    """Run every cell of a study that is not done yet, and write ``study.json``.

    Args:
        folder: the study's folder; teachers, students and the baseline are run folders inside.
        command: what reproduces it, for the report.
        say: told what happens, one line at a time.

    Returns:
        What ``study.json`` holds (docs/run-folder.md).
    """

    def make(clock: Clock) -> dict[str, Any]:
        with _threads(study.threads):
            return _run(study, folder, progress, clock.noting(say)) | {"command": command}

    complete = (folder / "study.json").exists()
    result = completed(folder, "study.json", study, make)
    if complete:
        refuse_other_data(study.baseline, folder / "baseline")
    return result


@contextlib.contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Compute with so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(study: Study, folder: Path, progress: bool, say: Say) -> dict[str, Any]:
    """Train and score every cell."""
    data = data_with_test(study.teach, study.seeds[0])
    teach_all(study, folder, data, progress=progress, say=say)
    say("hard labels: the student without a teacher")
    baseline = _teach_stack(study.baseline, list(study.seeds), folder / "baseline", data, progress)
    say("assess: every teacher on held-out labels")
    outputs = {name: _outputs(study, name, folder, data) for name in study.teachers}
    say(f"distill: {len(study.seeds)} seeds x {len(study.teachers)} teachers x {len(study.losses)} losses")
    students = _distill(study, outputs, folder, data, progress)
    return {
        "schema_version": SCHEMA,
        "name": study.name,
        "data": study.teach.data_name,
        "seeds": list(study.seeds),
        "teachers": {name: _assessed(study, found) for name, found in outputs.items()},
        "baseline": _kept(baseline, "last"),
        "students": students,
        "recipe": study.model_dump(mode="json"),
        "circumstances": runs.circumstances(make_accelerator(study.teach.training).device),
    }


# -- teach ------------------------------------------------------------------------------------------------------------


def teach_all(study: Study, folder: Path, data: Any, *, progress: bool = False, say: Say = lambda _: None) -> None:
    """Train every teacher of every seed: a stack of seeds each, or one by one over ``study.workers`` processes."""
    if study.stack_teachers:
        for number, name in enumerate(study.trained, 1):
            say(f"teach {number}/{len(study.trained)}: {name}")
            _teach_stack(study.teach_recipe(name), list(study.seeds), folder / "teachers" / name, data, progress)
        return
    jobs: dict[str, tuple[TeachRecipe, Path, bool]] = {}
    for seed in study.seeds:
        for name in study.trained:
            place = f"teachers/{name}/seed-{seed}"
            jobs[place] = study.teach_recipe(name).model_copy(update={"seed": seed}), folder / place, progress
    for number, (place, accuracy) in enumerate(side_by_side(_teach_one, jobs, study.workers, progress=progress), 1):
        say(f"teach {number}/{len(jobs)}: {place}, held-out accuracy {accuracy:.4f}")


def _teach_one(recipe: TeachRecipe, folder: Path, progress: bool) -> float:
    """One teacher, in a process of its own if there are several workers."""
    return teach(recipe, folder, progress=progress)["heldout"]["last"]["accuracy"]


def _teach_stack(recipe: TeachRecipe, seeds: list[int], folder: Path, data: Any, progress: bool) -> dict[str, Any]:
    return teach(recipe, folder, data=data, seeds=seeds, progress=progress)


# -- assess -----------------------------------------------------------------------------------------------------------


def _outputs(study: Study, name: str, folder: Path, data: Any) -> Outputs:
    """What one teacher says, of every seed, to held-out samples and to those that students learn from."""
    entry = study.teachers[name]
    run = folder / "teachers" / (entry.of or name)
    recipe = study.teach_recipe(entry.of or name)
    samples = [cut(recipe, data, seed) for seed in study.seeds]
    if study.stack_teachers:
        return _of_run(entry, recipe, run, samples, list(range(len(samples))))
    parts = [_of_run(entry, recipe, run / f"seed-{each.seed}", [each], None) for each in samples]
    return Outputs(
        torch.stack([p.heldout for p in parts]),
        torch.stack([p.heldout_labels for p in parts]),
        {part: {key: [p.scores[part][key] for p in parts] for key in SCORES} for part in ("heldout", "test")},  # type: ignore[misc]
        torch.stack([p.students_see for p in parts]),
        tuple(origin for p in parts for origin in p.origin),
    )


def _of_run(
    entry: TeacherEntry, recipe: TeachRecipe, run: Path, samples: list[Samples], source_of: list[int] | None
) -> Outputs:
    """What the model, or the stack, of one run says."""
    reference = TeacherRef(run=run, weights=entry.weights, epoch=entry.epoch)
    weights, source = runs.teacher_weights(reference)
    trust = named_in(recipe)
    model = model_of(reference, trust=trust)[0] if source_of is None else runs.stack_of(weights, source, trust=trust)
    cohort = Cohort(model, samples, source_of)
    seen = [each.for_students for each in samples]
    indices = seen[0] if source_of is None else torch.stack(seen)
    table = table_of(recipe, model, weights, samples[0].train, indices, calibrated=entry.calibrated)
    said = _computed(recipe, cohort, weights) if entry.epoch else _stored(entry, run, weights)
    scores = {part: _score(*each) for part, each in said.items()}
    return Outputs(*said["heldout"], scores, table, (fingerprint(weights.tensors),))


def _stored(entry: TeacherEntry, run: Path, weights: runs.Weights) -> dict[str, tuple[Tensor, Tensor]]:
    """Outputs and labels by part, as the run has written them."""
    stored = runs.read_predictions(run)
    temperature = torch.tensor(weights.temperature if entry.calibrated else 1.0)[..., None, None]
    kind = entry.weights
    return {part: (stored[f"{part}/{kind}"] / temperature, stored[f"{part}/labels"]) for part in ("heldout", "test")}


def _computed(recipe: TeachRecipe, cohort: Cohort, weights: runs.Weights) -> dict[str, tuple[Tensor, Tensor]]:
    """The same of an epoch, whose outputs no run writes."""
    accelerator = make_accelerator(recipe.training)
    model = cohort.module.to(accelerator.device)
    return {
        part: Evaluator(cohort, part, accelerator, distribution=weights.distribution).predictions(model)
        for part in ("heldout", "test")
    }


def _score(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    values = score(logits, labels, calibration=True)
    return {key: values[key] for key in SCORES}


def _assessed(study: Study, outputs: Outputs) -> dict[str, Any]:
    """Held-out scores, reliability, and the predictions for each loss: the Brier score of its student's optimum, which
    is of the student's distance to the truth, and the same at the best temperature, which is of its accuracy.
    """
    log_probs, labels = outputs.heldout.double().log_softmax(-1), outputs.heldout_labels
    pooled = assess.reliability(log_probs.flatten(0, 1), labels.flatten())
    optima = {name: optimum_of(entry, log_probs) for name, entry in study.losses.items()}
    return {
        **outputs.scores,
        "reliability": {key: value.tolist() for key, value in asdict(pooled).items()},
        "brier_recalibrated": _recalibrated(log_probs, labels),
        "optimum_brier": {name: assess.brier(each, labels).mean(-1).tolist() for name, each in optima.items()},
        "optimum_brier_recalibrated": {name: _recalibrated(each, labels) for name, each in optima.items()},
    }


def _recalibrated(log_probs: Tensor, labels: Tensor) -> list[float]:
    """The Brier score at the best temperature, one value a seed."""
    pairs = zip(log_probs, labels, strict=True)
    return [float(assess.brier(assess.recalibrated(rows, y), y).mean()) for rows, y in pairs]


def optimum_of(entry: LossEntry, log_probs: Tensor) -> Any:
    """What a study's loss makes of a teacher: the log-probabilities of its optimal student."""
    return assess.optimum(log_probs, assess.assessed_as(entry.loss))


# -- distill ----------------------------------------------------------------------------------------------------------


def _distill(
    study: Study, outputs: Mapping[str, Outputs], folder: Path, data: Any, progress: bool
) -> dict[str, dict[str, Any]]:
    """Every student; the last epoch's scores by loss, teacher and part, one value per seed."""
    cells = [(loss, teacher) for loss in study.losses for teacher in outputs]
    chunks = [list(study.seeds)] if study.students_per_stack == "all" else [[seed] for seed in study.seeds]
    results = [_distill_chunk(study, outputs, cells, chunk, folder, data, progress) for chunk in chunks]
    found: dict[str, dict[str, Any]] = {loss: {} for loss in study.losses}
    for position, (loss, teacher) in enumerate(cells):
        found[loss][teacher] = {
            part: {
                key: [
                    value
                    for result, chunk in zip(results, chunks, strict=True)
                    for value in result[part]["last"][key][position * len(chunk) : (position + 1) * len(chunk)]
                ]
                for key in SCORES
            }
            for part in ("heldout", "test")
        }
    return found


def _distill_chunk(
    study: Study,
    outputs: Mapping[str, Outputs],
    cells: list[tuple[str, str]],
    seeds: list[int],
    folder: Path,
    data: Any,
    progress: bool,
) -> dict[str, Any]:
    """The students of some seeds as one stack: for each cell in turn, one for each seed."""
    rows = [list(study.seeds).index(seed) for seed in seeds]
    table = torch.stack([found.students_see[row] for found in outputs.values() for row in rows])
    names = list(outputs)
    students = [
        Student(
            seed,
            names.index(teacher) * len(seeds) + position,
            study.losses[loss].loss,
            study.losses[loss].ce_weight,
            study.losses[loss].distill_weight,
        )
        for loss, teacher in cells
        for position, seed in enumerate(seeds)
    ]
    place = folder / "students" / ("all" if study.students_per_stack == "all" else f"seed-{seeds[0]}")
    origin = fingerprint([found.origin for found in outputs.values()])
    return distill_stack(study.distill, students, table, place, data=data, origin=origin, progress=progress)


def _kept(result: Mapping[str, Any], weights: str) -> dict[str, Any]:
    return {part: {key: result[part][weights][key] for key in SCORES} for part in ("heldout", "test")}
