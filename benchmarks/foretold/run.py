"""Run a prediction study: teach, assess, choose, distill. An interrupted one goes on where it stood."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foretold.recipe import CandidateEntry, PredictionStudy
from foretold.summary import SCHEMA
from foretold.truth import Truth
from preceptor import assess, runs
from preceptor.assess import Choice, choose, crossfitted, forecast, search_transform
from preceptor.assess.families import FAMILIES
from preceptor.assess.optimum import with_options
from preceptor.data.dataset import Data, labels_of
from preceptor.errors import InputError, did_you_mean
from preceptor.names import named_in
from preceptor.outputs import average_probabilities, read_logits, transformed
from preceptor.recipe import TeacherRef
from preceptor.runs.files import load_tensors
from preceptor.runs.identity import fingerprint
from preceptor.schema import Component, Temperature
from preceptor.study.executors import side_by_side
from preceptor.study.folder import Clock, completed
from preceptor.study.grid.run import optimum_of
from preceptor.study.recipe import LossEntry
from preceptor.study.teachers.auto import student_task
from preceptor.training.data.samples import Samples, cut, stack_of
from preceptor.training.engine.device import make_accelerator
from preceptor.training.objects.criteria import new_loss, new_objective
from preceptor.training.scoring.evaluate import predict
from preceptor.training.verbs import Student, distill_stack, teach

Say = Callable[[str], None]
LogProbs = Mapping[str, Tensor]  # by checkpoint: log-probabilities (S, N, C)


def run_prediction(
    study: PredictionStudy,
    data: Data,
    truth: Truth,
    folder: Path,
    *,
    command: str,
    student_data: Data | None = None,
    teachers: Path | None = None,
    progress: bool = False,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Run every part of a prediction study that is not done yet, and write ``prediction.json``.

    Args:
        study: what to run.
        data: without a test set of its own; labels drawn from the truth.
        truth: of the samples of ``data.train``, at least those that may be held out or tested on. Seen by the oracle
            student and by the scores, never by ``auto``. Where it is not known for all samples that students learn
            from there is no oracle student, and no distance on those.
        folder: teachers and students are run folders inside.
        command: what reproduces it, for the report.
        student_data: what the students read, where it is another form of the same samples in the same order.
        teachers: the ``teachers`` folder of another study with the same teachers, which are then not trained again.
        progress: show progress bars.
        say: told what happens, one line at a time.

    Returns:
        What ``prediction.json`` holds: predictions and outcomes, one value a seed.

    Raises:
        InputError: a truth of another shape than the data, no test part or a test sample of unknown truth; a family,
            objective or loss that cannot be; a folder that holds another study or where another process is at work; or
            a worker that has died.
    """

    def make(clock: Clock) -> dict[str, Any]:
        labels = labels_of(data.train, data.num_classes)
        samples = [cut(study.teach, data, seed) for seed in study.seeds]
        if truth.probs.shape != (len(labels), data.num_classes):
            raise InputError(
                f"the truth has shape {truth.probs.shape} for {len(labels)} samples of {data.num_classes} classes; "
                "give a row for each sample of data.train"
            )
        _check_parts(samples, truth)
        _check_methods(study, data.num_classes)
        teachers_folder = teachers or folder / "teachers"
        place = _Place(folder, teachers_folder, data, student_data or data, samples, labels, truth, progress)
        return _run(study, place, clock.noting(say)) | {"command": command}

    return completed(folder, "prediction.json", study, make)


def _check_parts(samples: list[Samples], truth: Truth) -> None:
    """Refuse samples that no student could be tested on, before any teacher is trained."""
    if any("test" not in cut.parts for cut in samples):
        raise InputError("the split has no test part, which says what students become; give split.test")
    if not all(truth.knows(cut.parts["test"]) for cut in samples):
        raise InputError("the truth of some test samples is not known; draw the test part from samples where it is")


def _check_methods(study: PredictionStudy, num_classes: int) -> None:
    """Refuse families, objectives and losses that cannot be, before any teacher is trained."""
    for name, candidate in study.candidates.items():
        if candidate.family is not None and candidate.family not in FAMILIES:
            hint = did_you_mean(candidate.family, FAMILIES)
            raise InputError(f"candidates.{name}.family is '{candidate.family}'; {hint}")
    for name in study.teachers:
        new_objective(study.teach_recipe(name).objective, num_classes)
    for entry in study.losses.values():
        new_loss(entry.loss, num_classes)
        with_options(assess.assessed_as(entry.loss))


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a study runs, what its teachers and students read, and what is known of it; `samples` are one a seed."""

    folder: Path
    teachers: Path
    data: Data
    student_data: Data
    samples: list[Samples]
    labels: Tensor
    truth: Truth
    progress: bool


def _run(study: PredictionStudy, place: _Place, say: Say) -> dict[str, Any]:
    """Train and score everything."""
    say(f"teach: {len(study.teachers)} teachers x {len(study.seeds)} seeds")
    jobs = {name: (study, name, place) for name in study.teachers}
    for number, (name, _) in enumerate(side_by_side(_teach, jobs, study.workers, progress=place.progress), 1):
        say(f"taught {number}/{len(jobs)}: {name}")
    say("assess: every checkpoint of every teacher")
    table = {member: _outputs(study, member, place) for member in study.members}
    shown = {name: _candidate(candidate, table, place) for name, candidate in study.candidates.items()}
    result: dict[str, Any] = {
        "schema_version": SCHEMA,
        "name": study.name,
        "seeds": list(study.seeds),
        "candidates": {name: _assessed(study, each, place) for name, each in shown.items()},
    }
    say(f"distill: {len(study.losses)} losses x {len(shown)} candidates x {len(study.seeds)} seeds")
    origin = _origin(study, place)
    result["hard"] = _outcomes(_hard_students(study, origin, place), 0, place)
    jobs = {name: (study, name, table, shown, origin, place) for name in study.losses}
    found: dict[str, Any] = {}
    for number, (name, outcomes) in enumerate(side_by_side(_loss, jobs, study.workers, progress=place.progress), 1):
        say(f"distilled {number}/{len(jobs)}: {name}")
        found[name] = outcomes
    return result | {
        "losses": {name: found[name] for name in study.losses},
        "recipe": study.model_dump(mode="json"),
        "circumstances": runs.circumstances(make_accelerator(study.teach.training).device),
    }


def _teach(study: PredictionStudy, name: str, place: _Place) -> None:
    """One teacher, all seeds."""
    recipe = study.teach_recipe(name)
    teach(recipe, place.teachers / name, data=place.data, seeds=study.seeds, progress=place.progress)


# -- what teachers say ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Shown:
    """What a candidate says.

    Args:
        log_probs: (S, N, C): of every sample of the data set, which students learn from.
        heldout: one (n, C) a seed, to be scored: of the held-out samples, each without its own label, where a
            transform is fitted to these.
    """

    log_probs: Tensor
    heldout: list[Tensor]


def _origin(study: PredictionStudy, place: _Place) -> str:
    """What all that students are shown is made from, beside the recipe: computed on another machine, it is the same."""
    weights = [load_tensors(place.teachers / name / "last.safetensors")[0] for name in study.teachers]
    return fingerprint([weights, place.truth.probs])


def _outputs(study: PredictionStudy, member: str, place: _Place) -> Tensor:
    """Log-probabilities (S, N, C) of one checkpoint, for every sample of the data set."""
    name, epoch = member.rsplit("@", 1)
    recipe = study.teach_recipe(name)
    weights, source = runs.teacher_weights(TeacherRef(run=place.teachers / name, epoch=int(epoch)))
    model = runs.stack_of(weights, source, [0] * len(study.seeds), trust=named_in(recipe))
    accelerator = make_accelerator(recipe.training)
    dataset = place.samples[0].train
    everyone = torch.arange(len(dataset))[None]
    logits, _ = predict(model.to(accelerator.device), dataset, everyone, accelerator)
    return read_logits(logits, recipe.distribution).log_softmax(-1)


def _candidate(candidate: CandidateEntry, table: LogProbs, place: _Place) -> _Shown:
    """A candidate's output; a fitted transform is each seed's own."""
    base = average_probabilities([table[m] for m in candidate.of])
    heldout = [cut.parts["heldout"] for cut in place.samples]
    if candidate.family is None:
        fixed = Temperature(temperature=candidate.temperature) if candidate.temperature is not None else None
        log_probs = transformed(base, fixed)
        return _Shown(log_probs, [rows[index] for rows, index in zip(log_probs, heldout, strict=True)])
    everywhere, unseen = [], []
    for rows, index in zip(base, heldout, strict=True):
        logits, labels = rows[index], place.labels[index]
        everywhere.append(transformed(rows, search_transform(logits, labels, candidate.family).transform))
        unseen.append(torch.tensor(crossfitted(logits, labels, candidate.family)))
    return _Shown(torch.stack(everywhere), unseen)


def _assessed(study: PredictionStudy, shown: _Shown, place: _Place) -> dict[str, Any]:
    """What held-out labels say of a candidate, and how far it really is from the truth; one value a seed."""
    found: dict[str, Any] = {"accuracy": [], "nll": [], "calibration_error": []}
    for rows, each in zip(shown.heldout, place.samples, strict=True):
        labels, prediction = place.labels[each.parts["heldout"]], forecast(rows)
        found["accuracy"].append(float(assess.accuracy(prediction, labels).mean()))
        found["nll"].append(float(assess.nll(prediction, labels).mean()))
        found["calibration_error"].append(float(assess.calibration_error(prediction, labels)))
    found["losses"] = {name: _optimum(entry, shown, place) for name, entry in study.losses.items()}
    return found


def _optimum(entry: LossEntry, shown: _Shown, place: _Place) -> dict[str, list[float]]:
    """Brier score and distance of what a loss makes of a teacher: on held-out samples, and where students look.

    A distance is NaN where the truth is not known.
    """
    keys = ("brier", "brier_recalibrated", "distance_heldout", "distance_transfer")
    found: dict[str, list[float]] = {key: [] for key in keys}
    truth = place.truth
    for rows, unseen, each in zip(shown.log_probs, shown.heldout, place.samples, strict=True):
        heldout, transfer = each.parts["heldout"], each.for_students
        seen, labels = forecast(optimum_of(entry, unseen)), place.labels[heldout]
        found["brier"].append(float(assess.brier(seen, labels).mean()))
        found["brier_recalibrated"].append(float(assess.brier(assess.recalibrated(seen, labels), labels).mean()))
        found["distance_heldout"].append(float(truth.distance(seen.probs, heldout.numpy())))
        away = np.nan
        if truth.knows(transfer):  # else spared: the proxy teacher of so many samples takes a while
            away = truth.distance(forecast(optimum_of(entry, rows[transfer])).probs, transfer.numpy())
        found["distance_transfer"].append(float(away))
    return found


# -- students ---------------------------------------------------------------------------------------------------------


def _hard_students(study: PredictionStudy, origin: str, place: _Place) -> dict[str, Tensor]:
    """Test log-probabilities (1, S, n, C) of the students of the labels alone."""
    nothing = torch.zeros(1, len(place.labels), place.data.num_classes)
    students = [Student(seed, 0, Component(name="kd"), 1.0, 0.0) for seed in study.seeds]
    return _students(study, students, nothing, "hard", origin, place)


def _loss(
    study: PredictionStudy, name: str, table: LogProbs, shown: Mapping[str, _Shown], origin: str, place: _Place
) -> dict[str, Any]:
    """Students of every candidate, of the truth where it is known, and of what ``auto`` chooses, under one loss.

    What ``auto`` chooses has a student of the truth of its own where it sets the loss's coefficients: the gap is that
    of the very task.
    """
    entry = study.losses[name]
    samples, truth = place.samples, place.truth
    outputs = [{member: rows[i] for member, rows in table.items()} for i in range(len(samples))]
    choices = [_choose(entry, each, place.labels, cut) for each, cut in zip(outputs, samples, strict=True)]
    own, transforms = zip(*(student_task(entry.loss, choice) for choice in choices), strict=True)
    chosen = [
        transformed(average_probabilities([each[m] for m in choice.weights], list(choice.weights.values())), transform)
        for each, choice, transform in zip(outputs, choices, transforms, strict=True)
    ]
    given = (entry.loss,) * len(samples)
    groups = [(each.log_probs, given) for each in shown.values()] + [(torch.stack(chosen), own)]
    known = all(truth.knows(cut.for_students) for cut in samples)
    if known:
        certain = torch.tensor(truth.probs).log().float().expand(len(samples), -1, -1)
        groups += [(certain, given)] if own == given else [(certain, given), (certain, own)]
    teachers = torch.stack([log_probs for log_probs, _ in groups]).flatten(0, 1).float()
    students = [
        Student(seed, group * len(samples) + i, tasks[i], entry.ce_weight, entry.distill_weight)
        for group, (_, tasks) in enumerate(groups)
        for i, seed in enumerate(study.seeds)
    ]
    log_probs = _students(study, students, teachers, name, origin, place)
    outcomes = [_outcomes(log_probs, group, place) for group in range(len(groups))]
    return {
        "students": dict(zip(shown, outcomes, strict=False)),
        "auto": outcomes[len(shown)],
        "oracle": outcomes[len(shown) + 1] if known else None,
        "oracle_of_auto": outcomes[-1] if known else None,
        "choices": [choice.to_dict() for choice in choices],
    }


def _choose(entry: LossEntry, outputs: LogProbs, labels: Tensor, cut: Samples) -> Choice:
    """What ``--teacher auto`` would choose: from held-out labels alone."""
    heldout = cut.parts["heldout"]
    heldout_outputs = {member: rows[heldout] for member, rows in outputs.items()}
    return choose(heldout_outputs, labels[heldout], loss=assess.assessed_as(entry.loss))


def _students(
    study: PredictionStudy, students: list[Student], table: Tensor, name: str, origin: str, place: _Place
) -> dict[str, Tensor]:
    """Test log-probabilities (groups, S, n, C) of students after the ``last`` and the ``best`` epoch.

    They are trained as one stack, or as several of ``study.students_per_stack``.
    """
    run, size = place.folder / "students" / name, study.students_per_stack or len(students)
    stacks = [students[start : start + size] for start in range(0, len(students), size)]
    runs_of = [run] if len(stacks) == 1 else [run / f"stack-{number}" for number in range(len(stacks))]
    for stack, part in zip(stacks, runs_of, strict=True):
        distill_stack(
            study.distill, stack, table, part, data=place.student_data, origin=origin, progress=place.progress
        )
    found = [load_tensors(part / "predictions.safetensors")[0] for part in runs_of]
    logits = {kind: torch.cat([tensors[f"test/{kind}"] for tensors in found]) for kind in ("last", "best")}
    return {kind: z.log_softmax(-1).unflatten(0, (-1, len(study.seeds))) for kind, z in logits.items()}


def _outcomes(log_probs: Mapping[str, Tensor], group: int, place: _Place) -> dict[str, list[float]]:
    """Expected accuracy and squared distance to the truth on the test part, one value a seed.

    ``accuracy_best`` is that of the epoch with the best held-out score, ``accuracy`` and ``distance`` are of the last.
    """
    index = [rows.numpy() for rows in stack_of(place.samples, "test")]
    truth = place.truth
    last, best = ([rows.double().exp().numpy() for rows in log_probs[kind][group]] for kind in ("last", "best"))
    return {
        "accuracy": [float(truth.accuracy(p, i)) for p, i in zip(last, index, strict=True)],
        "accuracy_best": [float(truth.accuracy(p, i)) for p, i in zip(best, index, strict=True)],
        "distance": [float(truth.distance(p, i)) for p, i in zip(last, index, strict=True)],
    }
