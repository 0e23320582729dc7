"""What a run leaves behind: scores of its last, best and averaged weights, these weights and their predictions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from preceptor import runs
from preceptor.data.dataset import Data
from preceptor.models.hub import is_pretrained, save_pretrained
from preceptor.outputs import fit_temperature
from preceptor.runs.files import atomic_path, remove, save_tensors
from preceptor.runs.token_scores import TokenScores
from preceptor.runs.tokenizer import end_of, write_tokenizer
from preceptor.training.evaluators import evaluator_of
from preceptor.training.job import Job
from preceptor.training.loop.loop import Loop
from preceptor.training.scoring.evaluate import score
from preceptor.training.scoring.token_evaluator import TokenEvaluator

Result = dict[str, Any]


def finish(job: Job, loop: Loop) -> Result:
    """Score the last, best and averaged weights, the test set once each, and save weights and predictions."""
    states = loop.weights()
    outputs = _outputs(job, loop, states)
    loop.raw_model.load_state_dict(states["last"])
    if job.folder and job.accelerator.is_main_process:
        _save(job, job.folder, states, outputs)
        if is_pretrained(loop.raw_model):
            remove(job.folder / "pretrained")  # of a process that was killed here
            with atomic_path(job.folder / "pretrained") as temporary:
                _save_pretrained(loop.raw_model, temporary, job.cohort.data)
    stopped = {"epochs": loop.progress.epoch, "by": loop.progress.stopped} if loop.progress.stopped else None
    return {
        "schema_version": runs.SCHEMA,
        "verb": job.verb,
        "members": job.cohort.size,
        "num_parameters": job.cohort.num_parameters(),
        "best_epoch": job.cohort.plain(loop.progress.best_epoch),
        "temperature": outputs.temperatures or None,
        "heldout": outputs.scores["heldout"],
        "test": outputs.scores.get("test"),
        "circumstances": runs.circumstances(job.accelerator.device),
    } | ({"stopped": stopped} if stopped else {})


@dataclass
class _Outputs:
    """What the weights of a run say to its held-out and test samples.

    Args:
        scores: by part and kind of weights.
        temperatures: by kind of weights, where they are asked for.
        predictions: of classifiers, by ``PART/KIND`` and ``PART/labels``.
        tokens: of language models, by part and kind.
    """

    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    temperatures: dict[str, Any] = field(default_factory=dict)
    predictions: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, dict[str, TokenScores]] = field(default_factory=dict)


def _outputs(job: Job, loop: Loop, states: Mapping[str, dict[str, Tensor]]) -> _Outputs:
    parts = ["heldout"] + ["test"] * (job.cohort.samples[0].test is not None)
    evaluators = {part: evaluator_of(job, part) for part in parts}
    found = _Outputs({part: {} for part in parts})
    for kind, state in states.items():
        loop.raw_model.load_state_dict(state)
        for part, evaluator in evaluators.items():
            if isinstance(evaluator, TokenEvaluator):
                tokens = evaluator.scored(loop.raw_model)
                found.tokens.setdefault(part, {})[kind] = tokens
                found.scores[part][kind] = tokens.means()
                continue
            outputs, labels = evaluator.predictions(loop.raw_model)
            found.scores[part][kind] = score(outputs, labels, calibration=True) | job.selection.score(outputs, labels)
            found.predictions |= {f"{part}/{kind}": outputs, f"{part}/labels": labels}
        if job.calibrate:
            found.temperatures[kind] = _temperatures(job, found, kind)
    return found


def _temperatures(job: Job, found: _Outputs, kind: str) -> float | list[float]:
    """Fitted to the held-out labels."""
    if found.tokens:
        return found.tokens["heldout"][kind].best_temperature()
    logits, labels = found.predictions[f"heldout/{kind}"], found.predictions["heldout/labels"]
    pairs = zip(job.cohort.each(logits), job.cohort.each(labels), strict=True)
    return job.cohort.plain([fit_temperature(rows, y) for rows, y in pairs])


def _save_pretrained(model: nn.Module, folder: Path, data: Data) -> None:
    save_tokenizer = None if data.tokenizer is None else data.tokenizer.save
    end = end_of(data.preprocessing, data.class_names)
    save_pretrained(model, folder, data.class_names, save_tokenizer=save_tokenizer, end=end)


def _save(job: Job, folder: Path, states: dict[str, dict[str, Tensor]], outputs: _Outputs) -> None:
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
        temperature = outputs.temperatures.get(kind, 1.0)
        runs.save_weights(folder / f"{kind}.safetensors", state, metadata | {"temperature": temperature})
    if data.tokenizer is not None:
        write_tokenizer(folder, data.tokenizer)
    if outputs.tokens:
        runs.write_token_scores(folder, outputs.tokens)
        return
    with atomic_path(folder / "predictions.safetensors") as temporary:
        save_tensors(temporary, outputs.predictions, {"distribution": job.distribution})
