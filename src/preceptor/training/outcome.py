"""What a run leaves behind: scores of its last, best and averaged weights, these weights and their predictions."""

from pathlib import Path
from typing import Any

from torch import Tensor

from preceptor import runs
from preceptor.models.hub import is_pretrained, save_pretrained
from preceptor.outputs import fit_temperature
from preceptor.runs.files import atomic_path, remove, save_tensors
from preceptor.training.evaluate import Evaluator, score
from preceptor.training.job import Job
from preceptor.training.loop import Loop

Result = dict[str, Any]


def finish(job: Job, loop: Loop) -> Result:
    """Score the last, best and averaged weights, the test set once each, and save weights and predictions."""
    states = loop.weights()
    parts = ["heldout"] + ["test"] * (job.cohort.samples[0].test is not None)
    scores: dict[str, dict[str, Any]] = {part: {} for part in parts}
    predictions: dict[str, Tensor] = {}
    temperatures: dict[str, Any] = {}
    for kind, state in states.items():
        loop.raw_model.load_state_dict(state)
        for part in parts:
            outputs, labels = _evaluator(job, part).predictions(loop.raw_model)
            scores[part][kind] = score(outputs, labels, calibration=True) | job.selection.score(outputs, labels)
            predictions |= {f"{part}/{kind}": outputs, f"{part}/labels": labels}
        if job.calibrate:
            temperatures[kind] = _temperatures(job, predictions[f"heldout/{kind}"], predictions["heldout/labels"])
    loop.raw_model.load_state_dict(states["last"])
    if job.folder and job.accelerator.is_main_process:
        _save(job, job.folder, states, predictions, temperatures)
        if is_pretrained(loop.raw_model):
            remove(job.folder / "pretrained")  # of a process that was killed here
            with atomic_path(job.folder / "pretrained") as temporary:
                save_pretrained(loop.raw_model, temporary, job.cohort.data.class_names)
    stopped = {"epochs": loop.progress.epoch, "by": loop.progress.stopped} if loop.progress.stopped else None
    return {
        "schema_version": runs.SCHEMA,
        "verb": job.verb,
        "members": job.cohort.size,
        "num_parameters": job.cohort.num_parameters(),
        "best_epoch": job.cohort.plain(loop.progress.best_epoch),
        "temperature": temperatures or None,
        "heldout": scores["heldout"],
        "test": scores.get("test"),
        "circumstances": runs.circumstances(job.accelerator.device),
    } | ({"stopped": stopped} if stopped else {})


def _evaluator(job: Job, part: str) -> Evaluator:
    return Evaluator(job.cohort, part, job.accelerator, distribution=job.distribution)


def _temperatures(job: Job, logits: Tensor, labels: Tensor) -> float | list[float]:
    pairs = zip(job.cohort.each(logits), job.cohort.each(labels), strict=True)
    return job.cohort.plain([fit_temperature(rows, y) for rows, y in pairs])


def _save(
    job: Job,
    folder: Path,
    states: dict[str, dict[str, Tensor]],
    predictions: dict[str, Tensor],
    temperatures: dict[str, Any],
) -> None:
    data, objects = job.cohort.data, job.identity.objects
    own = {"factory": objects["model"].partition(" ")[0]} if "model" in objects else None
    metadata = {
        "model": own or (job.model.model_dump(mode="json") if job.model else None),
        "num_classes": data.num_classes,
        "input_shape": list(data.input_shape),
        "class_names": list(data.class_names),
        "preprocessing": data.preprocessing,
        "distribution": job.distribution,
        "members": job.cohort.size,
    }
    for kind, state in states.items():
        temperature = temperatures.get(kind, 1.0)
        runs.save_weights(folder / f"{kind}.safetensors", state, metadata | {"temperature": temperature})
    with atomic_path(folder / "predictions.safetensors") as temporary:
        save_tensors(temporary, predictions, {"distribution": job.distribution})
