"""Run a study of generations: every chain, every seed. An interrupted one goes on where it stood."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor import assess, runs
from preceptor.names import named_in
from preceptor.outputs import average_probabilities
from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.runs.identity import fingerprint
from preceptor.study.folder import Clock, completed
from preceptor.study.generations.report import SCHEMA
from preceptor.study.outputs import data_with_test, refuse_other_data, table_of
from preceptor.study.recipe import Generations
from preceptor.training.data.samples import cut
from preceptor.training.engine.device import make_accelerator
from preceptor.training.verbs import Student, distill_stack, teach


def run_generations(
    study: Generations,
    folder: Path,
    *,
    command: str,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train every chain, and write ``generations.json``. An interrupted one goes on where it stood.

    All seeds of a generation, and from generation 1 on all chains, are trained as one stack.

    Returns:
        For each start and each generation the test scores of the single model and of the ensemble of all generations so
        far (mean of probabilities), one value per seed.
    """

    def make(clock: Clock) -> dict[str, Any]:
        return _run(study, folder, progress, clock.noting(say)) | {"command": command}

    complete = (folder / "generations.json").exists()
    result = completed(folder, "generations.json", study, make)
    if complete:
        refuse_other_data(study.teach, folder / "generation-0" / next(iter(study.starts)))
    return result


def _run(study: Generations, folder: Path, progress: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and score every chain."""
    data = data_with_test(study.teach, study.seeds[0])
    starts, seeds = list(study.starts), list(study.seeds)
    for start in starts:
        say(f"generation 0: {start}")
        teach(study.teach_recipe(start), folder / "generation-0" / start, data=data, seeds=seeds, progress=progress)
    students = [
        Student(
            seed, row * len(seeds) + i, study.distill.named_loss, study.distill.ce_weight, study.distill.distill_weight
        )
        for row in range(len(starts))
        for i, seed in enumerate(seeds)
    ]
    for generation in range(1, study.generations):
        say(f"generation {generation}: {len(students)} students")
        table, origin = _teachers(study, folder, generation - 1, data)
        recipe = study.student_recipe(generation)
        place = folder / f"generation-{generation}"
        distill_stack(recipe, students, table, place, data=data, origin=origin, progress=progress)
    return {
        "schema_version": SCHEMA,
        "name": study.name,
        "data": study.teach.data_name,
        "seeds": seeds,
        "top_k": study.top_k,
        "models": _models(study),
        "chains": {start: _chain(study, folder, start) for start in starts},
        "recipe": study.model_dump(mode="json"),
        "circumstances": runs.circumstances(make_accelerator(study.teach.training).device),
    }


def _models(study: Generations) -> list[str]:
    """What the model of each generation is called, where they differ."""
    each = [study.teach.model, *study.models]
    return [model.name if model else "" for model in each] if study.models else []


def _teachers(study: Generations, folder: Path, generation: int, data: Any) -> tuple[Tensor, str]:
    """What the models of one generation say to their students, (starts x seeds, N, C), and its origin."""
    seeds = list(study.seeds)
    if generation == 0:
        recipes = [(study.teach_recipe(start), folder / "generation-0" / start) for start in study.starts]
        tables, origins = zip(
            *(_stack_table(recipe, place, data, seeds, seeds) for recipe, place in recipes), strict=True
        )
        return torch.cat(tables), fingerprint(origins)
    recipe = study.student_recipe(generation)
    place = folder / f"generation-{generation}"
    return _stack_table(recipe, place, data, seeds, seeds * len(study.starts))


def _stack_table(
    recipe: TeachRecipe | DistillRecipe, place: Path, data: Any, seeds: Sequence[int], members: Sequence[int]
) -> tuple[Tensor, str]:
    path, source_of = place / "last.safetensors", [seeds.index(s) for s in members]
    weights = runs.read_weights(path)
    model = runs.stack_of(weights, f"'{path}'", source_of, trust=named_in(recipe))
    samples = [cut(recipe, data, seed) for seed in seeds]
    indices = torch.stack([s.for_students for s in samples])
    table = table_of(recipe, model, weights, samples[0].train, indices, source_of)
    return table, fingerprint(weights.tensors)


def _chain(study: Generations, folder: Path, start: str) -> list[dict[str, Any]]:
    """Test scores along one chain: of each generation, and of the ensemble of all so far."""
    seen: list[Tensor] = []
    chain = []
    for generation in range(study.generations):
        logits, labels = _test_predictions(study, folder, start, generation)
        seen.append(logits)
        together = average_probabilities(seen)
        chain.append(
            {
                "generation": generation,
                "test": _score(logits, labels, study.top_k),
                "ensemble": _score(together, labels, study.top_k),
            }
        )
    return chain


def _test_predictions(study: Generations, folder: Path, start: str, generation: int) -> tuple[Tensor, Tensor]:
    place = folder / f"generation-{generation}"
    tensors = runs.read_predictions(place / start if generation == 0 else place, "test/last", "test/labels")
    size, first = len(study.seeds), list(study.starts).index(start) * len(study.seeds) * (generation > 0)
    rows = slice(first, first + size)
    return tensors["test/last"][rows], tensors["test/labels"][rows]


def _score(logits: Tensor, labels: Tensor, top_k: int) -> dict[str, list[float]]:
    predictions = assess.forecast(logits.double().log_softmax(-1))
    values = {
        "accuracy": assess.accuracy(predictions, labels).mean(-1),
        "brier": assess.brier(predictions, labels).mean(-1),
        "nll": assess.nll(predictions, labels).mean(-1),
        "calibration_error": assess.calibration_error(predictions, labels),
        "entropy": assess.entropy(predictions).mean(-1),
        "top_k_mass": assess.top_k_mass(predictions, k=min(top_k, logits.shape[-1])).mean(-1),
    }
    return {name: np.asarray(value).tolist() for name, value in values.items()}
