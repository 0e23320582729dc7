"""Samples from the posterior over a run's weights, as a run folder of models that are a teacher together."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from preceptor import runs
from preceptor.errors import InputError
from preceptor.inputs import Inputs, call
from preceptor.names import Trust
from preceptor.notices import kept_notes, notes_kept
from preceptor.outputs import average_probabilities
from preceptor.recipe import DistillRecipe, TeachRecipe
from preceptor.runs import Factory, Identity, checkpoint, files
from preceptor.runs.contents import contents_of
from preceptor.runs.folder import refuse_other_contents
from preceptor.schema import Component
from preceptor.training.data.cohort import Cohort
from preceptor.training.data.samples import cut, load_data
from preceptor.training.engine.device import Accelerator, make_accelerator
from preceptor.training.engine.progress import progress_bar
from preceptor.training.optim.swag import swag
from preceptor.training.outcome import Result
from preceptor.training.scoring.evaluate import Evaluator, score


def posterior(
    run: Path | str,
    folder: Path | str,
    *,
    samples: int = 8,
    start_epoch: int | None = None,
    rank: int = 20,
    scale: float = 0.5,
    seed: int = 0,
    data: Any = None,
    data_dir: Path | str | None = None,
    model: Factory | str | None = None,
    trust: Trust = False,
    progress: bool = False,
) -> Result:
    """Draw models from the posterior over the weights of a finished run, by SWAG (arXiv 1902.02476).

    The snapshots are the epochs that the run has kept (``training.keep=all``), best from a constant rate at which the
    weights still move. Each sample's batch-norm statistics are estimated anew on the training samples, shown as in
    training. `folder` is then a teacher by name: the mean of all samples' probabilities, or one by ``DIR:member-2``.

    Args:
        run: a complete run of a single model.
        folder: where the samples go; one that is complete is returned as it is.
        samples: how many models.
        start_epoch: the number of epochs before the first snapshot; by default half of the run's.
        rank: of the covariance beside the diagonal, at most the number of snapshots.
        scale: of the covariance.
        seed: of the draws.
        data: your own data set, in place of the one that the run's recipe names.
        data_dir: where the data set's files are.
        model: what makes the model of a run that was trained with one of your own, or its ``package.module:name``.
        trust: import the model and the data set of somebody's own that the run names (True, or these names).
        progress: show a progress bar.

    Returns:
        What ``result.json`` holds, as of a run of several models; under ``posterior`` the settings, the epochs of the
        snapshots and the scores of the samples' mixture.

    Raises:
        InputError: no complete run of one model, fewer than two snapshots, other data than the run's, or a folder that
            holds something else.
    """
    run, folder = Path(run), Path(folder)
    result, recipe = runs.read_result(run), runs.read_recipe(run)
    if result.get("members"):
        raise InputError(f"'{run}' is a stack of {result['members']} models; give a run of a single one")
    if runs.has_token_scores(run):
        raise InputError(f"'{run}' is a language model, of which no posterior is built; average checkpoints or runs")
    if samples < 1:
        raise InputError(f"samples is {samples}; give 1 or more", argument="samples")
    if not scale >= 0:
        raise InputError(f"scale is {scale}; give 0 or more", argument="scale")
    snapshots = _snapshots(run, start_epoch)
    options = {"samples": samples, "epochs": list(snapshots), "rank": rank, "scale": scale, "seed": seed}
    with notes_kept():
        cohort, weights = _models(run, recipe, data, data_dir, model, trust)
        members = [{"seed": recipe.seed, "sample": number} for number in range(samples)]
        objects = (runs.read_objects(run) or {}) | {"posterior": f"swag {json.dumps(options)}"}
        contents = contents_of(cohort.data) | {"parent": {str(run): _digest(snapshots.values())}}
        identity = Identity(recipe, members, objects, contents)
        done = runs.open_run(folder, identity)
        if done is not None:
            return done
        states, said = _drawn(recipe, cohort, list(snapshots.values()), weights, options, progress=progress)
        return _written(folder, identity, cohort, weights, states, said, {"run": str(run), **options})


def _snapshots(run: Path, start_epoch: int | None) -> dict[int, Path]:
    """The checkpoints that are used, by the number of epochs before them."""
    start = runs.epochs_of(run) // 2 if start_epoch is None else start_epoch
    found = {epoch: path for epoch, path in runs.kept_epochs(run).items() if epoch > start}
    if len(found) < 2:
        raise InputError(
            f"the run '{run}' has kept {len(found)} epochs after epoch {start}, and a posterior needs two or more; "
            "train with training.keep=all, or begin earlier",
            argument="start_epoch",
        )
    return found


def _digest(paths: Any) -> str:
    """The SHA-256 of the states in some checkpoints."""
    sha = hashlib.sha256()
    for path in paths:
        sha.update(str(files.read_json(path / "state.json").get("sha256")).encode())
    return f"sha256:{sha.hexdigest()}"


def _models(
    run: Path,
    recipe: TeachRecipe | DistillRecipe,
    data: Any,
    data_dir: Path | str | None,
    factory: Factory | str | None,
    trust: Trust,
) -> tuple[Cohort, runs.Weights]:
    """The run's model and samples, and what its last weights say of themselves."""
    if data_dir is not None and recipe.data is not None:
        named = Component(**(recipe.data.model_dump() | {"data_dir": str(data_dir)}))
        found = load_data(recipe.model_copy(update={"data": named}), data, trust=trust, source=f"the run '{run}'")
    else:
        found = load_data(recipe, data, trust=trust, source=f"the recipe of the run '{run}'")
    made, weights = runs.load_model(run / "last.safetensors", model=factory, trust=trust)
    samples, parts = cut(recipe, found, recipe.seed), runs.parts_of(run)
    if any(not torch.equal(index, samples.parts.get(name, index[:0])) for name, index in parts.items()):
        raise InputError(
            f"the data set '{recipe.data_name}' gives another split than the run '{run}' has recorded; give the data "
            "that it was trained on",
            argument="data_dir",
        )
    if data is None and data_dir is None:
        refuse_other_contents(run, contents_of(found), recipe.data_name)
    return Cohort(made, [samples]), weights


def _drawn(
    recipe: TeachRecipe | DistillRecipe,
    cohort: Cohort,
    snapshots: Sequence[Path],
    weights: runs.Weights,
    options: dict[str, Any],
    *,
    progress: bool,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The state of each sample, and what they say to the held-out and test samples, (S, n, C), by name."""
    model, accelerator = cohort.module, make_accelerator(recipe.training)
    model.to(accelerator.device)
    parameters = {name for name, _ in model.named_parameters()}
    states = [checkpoint.within("model", checkpoint.load(path)[0]) for path in snapshots]
    distribution = swag([{n: t for n, t in state.items() if n in parameters} for state in states], rank=options["rank"])
    parts = ["heldout"] + ["test"] * (cohort.samples[0].test is not None)
    evaluators = {part: Evaluator(cohort, part, accelerator, distribution=weights.distribution) for part in parts}
    drawn: list[dict[str, Tensor]] = []
    said: dict[str, list[Tensor]] = {}
    with progress_bar("posterior", enabled=progress) as step:
        for number in range(options["samples"]):
            generator = torch.Generator().manual_seed(options["seed"] * 1_000_003 + number)
            model.load_state_dict(states[-1])
            _set_parameters(model, distribution.sample(generator, scale=options["scale"]))
            estimate_statistics(model, _inputs(recipe, cohort, accelerator), accelerator)
            for part, evaluator in evaluators.items():
                outputs, labels = evaluator.predictions(model)
                said.setdefault(f"{part}/last", []).append(outputs)
                said.setdefault(f"{part}/labels", []).append(labels)
            drawn.append({name: tensor.cpu().clone() for name, tensor in model.state_dict().items()})
            step(number + 1, options["samples"], {})
    return drawn, {name: torch.stack(each) for name, each in said.items()}


@torch.no_grad()
def _set_parameters(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """By parameter, as a state has one that is shared under each of its names, of which the last would count."""
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])


def _inputs(recipe: TeachRecipe | DistillRecipe, cohort: Cohort, accelerator: Accelerator) -> Iterator[Inputs]:
    """The inputs of one epoch of training, of one that training has not shown; none of them is mixed."""
    samples = cohort.samples[0]
    seen = samples.parts["train"] if isinstance(recipe, TeachRecipe) else samples.for_students
    batches = cohort.batches(recipe.model_copy(update={"mixing": None}), [seen], device=accelerator.device)
    for micro_batches in batches.epoch(recipe.training.epochs):
        for batch in micro_batches:
            yield batch["input"]


def estimate_statistics(model: nn.Module, inputs: Iterator[Inputs], accelerator: Accelerator) -> None:
    """Batch-norm statistics anew, as plain means over batches; all else is in eval mode, as when the model is asked."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # torch's word for the mean of all
    with torch.no_grad(), accelerator.autocast():
        for each in inputs:
            call(model, each)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _written(
    folder: Path,
    identity: Identity,
    cohort: Cohort,
    weights: runs.Weights,
    states: Sequence[dict[str, Tensor]],
    said: dict[str, Tensor],
    settings: dict[str, Any],
) -> Result:
    """The folder, as that of a stack, and its result."""
    parts = [name.removesuffix("/last") for name in said if name.endswith("/last")]
    scores = {p: {"last": score(said[f"{p}/last"], said[f"{p}/labels"], calibration=True)} for p in parts}
    mixture = {
        part: score(average_probabilities(list(said[f"{part}/last"])), said[f"{part}/labels"][0], calibration=True)
        for part in parts
    }
    names = ("model", "num_classes", "input_shape", "class_names", "preprocessing", "distribution")
    metadata = {name: getattr(weights, name) for name in names} | {"members": len(states), "temperature": 1.0}
    stacked = {name.replace(".", "/"): torch.stack([state[name] for state in states]) for name in states[0]}
    result = {
        "schema_version": runs.SCHEMA,
        "verb": identity.recipe.verb,
        "members": len(states),
        "num_parameters": cohort.num_parameters(),
        "temperature": None,
        "heldout": scores["heldout"],
        "test": scores.get("test"),
        "posterior": settings | {"mixture": mixture},
        "circumstances": runs.circumstances(next(cohort.module.parameters()).device),
        "notes": kept_notes(),
    }
    files.make_folder(folder)
    with files.locked(folder):
        runs.make_run(folder, identity)
        runs.write_splits(folder, {name: index[None] for name, index in cohort.parts.items()})
        runs.save_weights(folder / "last.safetensors", stacked, metadata)
        with files.atomic_path(folder / "predictions.safetensors") as temporary:
            files.save_tensors(temporary, said, {"distribution": weights.distribution})
        runs.write_result(folder, result)
    return runs.read_result(folder)
