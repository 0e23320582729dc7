"""What a run leaves behind: scores of its last, best and averaged weights, these weights and their predictions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor import runs
from preceptor.data.dataset import Indexed
from preceptor.outputs import fit_temperature
from preceptor.recipe import Recipe
from preceptor.runs.files import atomic_path, save_tensors
from preceptor.training.device import Accelerator
from preceptor.training.evaluate import Evaluator, score
from preceptor.training.loop import Loop
from preceptor.training.setup import Samples

Result = dict[str, Any]


def evaluator(
    recipe: Recipe,
    sources: Sequence[Samples],
    source_of: list[int] | None,
    accelerator: Accelerator,
    part: str,
) -> Evaluator:
    """What scores a model, or a stack of them, on the held-out or the test samples."""
    # An `Indexed` of its own: random transforms of a data set are the same here in every epoch and run.
    used = sources[0].train if part == "heldout" else sources[0].test
    assert used is not None
    rows = [s.parts["heldout"] if part == "heldout" else s.test_indices for s in sources]
    return Evaluator(
        Indexed(used.dataset, num_classes=used.num_classes),
        rows[0] if source_of is None else torch.stack(rows),
        accelerator,
        distribution=getattr(recipe, "distribution", "softmax"),
        source_of=source_of,
    )


def finish(
    recipe: Recipe,
    loop: Loop,
    sources: list[Samples],
    source_of: list[int] | None,
    folder: Path | None,
    objects: Mapping[str, str],
) -> Result:
    """Score the last, best and averaged weights, the test set once each, and save weights and predictions."""
    states = {"last": dict(loop.raw_model.state_dict()), "best": loop.best}
    if loop.averaged is not None:
        states["average"] = dict(loop.averaged.module.state_dict())
    parts = ["heldout"] + ["test"] * (sources[0].test is not None)
    result: Result = {
        "schema_version": runs.SCHEMA,
        "verb": recipe.verb,  # type: ignore[attr-defined]
        "members": len(source_of) if source_of is not None else None,
        "num_parameters": sum(
            p[0].numel() if source_of is not None else p.numel() for p in loop.raw_model.parameters()
        ),
        "best_epoch": loop.progress.best_epoch if source_of is not None else loop.progress.best_epoch[0],
        "temperature": None,
        "heldout": {},
        "test": {} if len(parts) == 2 else None,
        "circumstances": runs.circumstances(loop.accelerator.device),
    }
    predictions: dict[str, Tensor] = {}
    # Copied: loading one state into the model would change the others.
    states = {kind: {name: tensor.clone() for name, tensor in state.items()} for kind, state in states.items()}
    temperatures: dict[str, Any] = {}
    for kind, state in states.items():
        loop.raw_model.load_state_dict(state)
        for part in parts:
            outputs, labels = evaluator(recipe, sources, source_of, loop.accelerator, part).predictions(loop.raw_model)
            result[part][kind] = score(outputs, labels, calibration=True)
            predictions |= {f"{part}/{kind}": outputs, f"{part}/labels": labels}
        if getattr(recipe, "calibrate", False):
            temperatures[kind] = _temperatures(predictions[f"heldout/{kind}"], predictions["heldout/labels"])
    result["temperature"] = temperatures or None
    loop.raw_model.load_state_dict(states["last"])
    if folder and loop.accelerator.is_main_process:
        for kind, state in states.items():
            metadata = _metadata(recipe, sources[0], source_of, objects) | {"temperature": temperatures.get(kind, 1.0)}
            runs.save_weights(folder / f"{kind}.safetensors", state, metadata)
        with atomic_path(folder / "predictions.safetensors") as temporary:
            save_tensors(temporary, predictions, {"distribution": getattr(recipe, "distribution", "softmax")})
    return result


def _temperatures(logits: Tensor, labels: Tensor) -> float | list[float]:
    if logits.ndim == 2:
        return fit_temperature(logits, labels)
    return [fit_temperature(rows, y) for rows, y in zip(logits, labels, strict=True)]


def _metadata(
    recipe: Recipe, samples: Samples, source_of: list[int] | None, objects: Mapping[str, str]
) -> dict[str, Any]:
    data = samples.data
    own = {"factory": objects["model"].partition(" ")[0]} if "model" in objects else None
    return {
        "model": own or recipe.model.model_dump(mode="json"),
        "num_classes": data.num_classes,
        "input_shape": list(data.input_shape),
        "class_names": list(data.class_names),
        "preprocessing": data.preprocessing,
        "distribution": getattr(recipe, "distribution", "softmax"),
        "members": None if source_of is None else len(source_of),
    }
