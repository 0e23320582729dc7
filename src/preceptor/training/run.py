"""The run folder (docs/run-folder.md): a documented, versioned format that is checked when it is read.

``recipe.yaml`` what was asked, ``splits.json`` who saw which sample, ``metrics.jsonl`` one line an epoch,
``checkpoints/`` the state to go on from, ``last.safetensors`` / ``best.safetensors`` /
``average.safetensors`` the weights, ``result.json`` what came out and on what; the result is written last, so
a run that has one is complete.
"""

import dataclasses
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor import __version__
from preceptor.data.dataset import shortened
from preceptor.errors import InputError
from preceptor.recipe import (
    DistillRecipe,
    Recipe,
    TeacherRef,
    TeachRecipe,
    Transform,
    dump,
    parse,
    parse_transform,
    read_yaml,
)
from preceptor.training import build, checkpoint, files
from preceptor.training.loop import load_weights
from preceptor.training.stack import member_state
from preceptor.training.teacher import Teacher

SCHEMA = 1
# What may differ when a run is continued: where and how it is computed, not what.
_CIRCUMSTANCES = {"num_workers", "trackers", "checkpoint_every", "checkpoint_epochs", "keep", "device"}
_MEMBERS, _OBJECTS = "# members: ", "# objects: "


def open_run(
    folder: Path,
    recipe: Recipe,
    members: Sequence[Mapping[str, Any]] = (),
    objects: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Look at a run folder; return its result if it is there and complete, else None. Nothing is written.

    Args:
        members: of a stack, what sets each apart (JSON): its seed, or a student's seed, teacher, loss and
            weights.
        objects: the fingerprints of the Python objects that stand in for the recipe's entries, by role.

    Raises:
        InputError: the folder holds another recipe or was made with other objects, or holds something that is no run.
    """
    path = folder / "recipe.yaml"
    if path.exists():
        _refuse_other(folder, recipe, members)
        _refuse_other_objects(folder, objects or {})
        if not (folder / "result.json").exists():
            return None
        _refuse_more_epochs(folder, recipe)
        return read_result(folder)
    if folder.is_file() or (folder.is_dir() and any(f for f in folder.iterdir() if not f.name.startswith("."))):
        raise InputError(f"'{folder}' exists and is no run folder; give a new one with --out")
    return None


def make_run(
    folder: Path, recipe: Recipe, members: Sequence[Mapping[str, Any]] = (), objects: Mapping[str, str] | None = None
) -> None:
    """Write a run's recipe into its folder if it is not there; arguments as of `open_run`."""
    if not (folder / "recipe.yaml").exists():
        header = f"{_MEMBERS}{json.dumps(list(members))}\n" if members else ""
        header += f"{_OBJECTS}{json.dumps(objects or {})}\n"
        files.write_text(folder / "recipe.yaml", header + dump(recipe))


def _refuse_other(folder: Path, recipe: Recipe, members: Sequence[Mapping[str, Any]]) -> None:
    found = read_recipe(folder)
    ours, theirs = (_flatten(_essence(r)) for r in (recipe, found))
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise InputError(
                f"the run folder '{folder}' holds another recipe: {key} is {theirs.get(key)!r} there and "
                f"{ours.get(key)!r} here; give another folder with --out, or remove that one"
            )
    theirs = read_members(folder)
    if len(theirs) != len(members):
        raise InputError(
            f"the run folder '{folder}' holds {_count(theirs)}, not {_count(members)}; give another folder with --out"
        )
    for position, (there, here) in enumerate(zip(theirs, members, strict=True)):
        if there != here:
            raise InputError(
                f"the run folder '{folder}' holds another stack: member {position} is {json.dumps(there)} "
                f"there and {json.dumps(here)} here; give another folder with --out"
            )


def _refuse_more_epochs(folder: Path, recipe: Recipe) -> None:
    """Refuse to look on silently while epochs are asked for that a complete run has not kept."""
    if recipe.training.keep == "all" and read_recipe(folder).training.keep != "all":
        raise InputError(
            f"the run '{folder}' is complete and has kept its last epoch alone; leave training.keep=all out, or keep "
            "them in a new folder with --out"
        )


def _refuse_other_objects(folder: Path, ours: Mapping[str, str]) -> None:
    theirs = read_objects(folder)
    if theirs is None:
        return
    for role in sorted(theirs.keys() | ours.keys()):
        there, here = (given.get(role, "the recipe's own") for given in (theirs, ours))
        if there != here:
            raise InputError(
                f"the run folder '{folder}' was made with another {role}: {there} there and {here} here; give the same "
                f"{role}, or another folder with --out"
            )


def _count(members: Sequence[Any]) -> str:
    return f"a stack of {len(members)} models" if members else "a single model"


def _essence(recipe: Recipe) -> dict[str, Any]:
    content = recipe.model_dump(mode="json")
    content["training"] = {k: v for k, v in content["training"].items() if k not in _CIRCUMSTANCES}
    return content


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            k: v for name, inner in value.items() for k, v in _flatten(inner, f"{prefix}.{name}".strip(".")).items()
        }
    return {prefix: value}


def read_recipe(folder: Path) -> TeachRecipe | DistillRecipe:
    """The recipe of a run.

    Raises:
        InputError: `folder` is no run folder, or its recipe is not one of this version's.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise InputError(
            f"'{folder}' is no run folder: it has no recipe.yaml; give a folder that teach or distill wrote"
        )
    raw = read_yaml(path)
    return parse(DistillRecipe if raw.get("verb") == "distill" else TeachRecipe, raw)


def read_members(folder: Path) -> list[dict[str, Any]]:
    """What sets the members of a stack apart; none for a single model."""
    return _header(folder, _MEMBERS) or []


def read_objects(folder: Path) -> dict[str, str] | None:
    """The fingerprints of the Python objects that a run was given, by role; None if an older Preceptor made it."""
    return _header(folder, _OBJECTS)


def _header(folder: Path, name: str) -> Any:
    """The JSON in one of the comments that a run's recipe begins with."""
    for line in (folder / "recipe.yaml").read_text(encoding="utf-8").splitlines()[:2]:
        if line.startswith(name):
            return json.loads(line.removeprefix(name))
    return None


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a complete run.

    Raises:
        InputError: the run is not complete, or its result is damaged or of a newer format.
    """
    path = folder / "result.json"
    if not (folder / "recipe.yaml").is_file():
        raise InputError(
            f"'{folder}' is no run folder: it has no recipe.yaml; give a folder that teach or distill wrote"
        )
    if not path.is_file():
        raise InputError(f"the run '{folder}' is not complete: it has no result.json; run the same command again")
    result = files.read_json(path)
    found = result.get("schema_version")
    if not isinstance(found, int) or found > SCHEMA:
        raise InputError(f"'{path}' has format {found}, newer than this Preceptor's {SCHEMA}; upgrade Preceptor")
    for key in ("verb", "heldout", "test"):
        if key not in result:
            raise InputError(f"'{path}' lacks '{key}'; it is damaged or was not written by Preceptor")
    return result


def write_splits(folder: Path, parts: Mapping[str, Tensor]) -> None:
    """Record which samples each part holds (one list, or one for each seed of a stack).

    Raises:
        InputError: they are recorded already, and are others: the data set has changed.
    """
    path = folder / "splits.json"
    content = {"schema_version": SCHEMA, "parts": {name: index.tolist() for name, index in parts.items()}}
    if not path.exists():
        files.write_json(path, content, indent=None)
    elif files.read_json(path) != content:
        raise InputError(
            f"'{path}' records another split than the data set gives now; put the data back as they were "
            "when the run began, or give another folder with --out"
        )


def read_splits(folder: Path) -> dict[str, Tensor]:
    """The samples of each part of a run's data.

    Raises:
        InputError: the file is missing or damaged.
    """
    content = files.read_json(folder / "splits.json")
    if not isinstance(content.get("parts"), dict):
        raise InputError(f"'{folder / 'splits.json'}' lacks 'parts'; it is damaged or was not written by Preceptor")
    return {name: torch.tensor(index, dtype=torch.int64) for name, index in content["parts"].items()}


def parts_of(folder: Path, member: int | None = None) -> dict[str, Tensor]:
    """The samples of each part of the data of one model, int64 (n,); `member` picks one of a stack.

    Raises:
        InputError: as `read_splits`; a stack without `member`, or `member` without a stack or outside it.
    """
    parts, members = read_splits(folder), read_members(folder)
    _check_member(len(members) or None, member, f"the run '{folder}'")
    if member is None:
        return parts
    seeds = [other["seed"] for other in members]
    distinct = list(dict.fromkeys(seeds))
    # Students of one seed share their samples: one row stands for all of them.
    shared = len(next(iter(parts.values()))) == len(distinct)
    row = distinct.index(seeds[member]) if shared else member
    return {name: rows[row] for name, rows in parts.items()}


def heldout_labels(folder: Path, member: int | None = None) -> tuple[Tensor, Tensor]:
    """The held-out samples of one model and the labels that the run recorded for them, both int64 (n,).

    Raises:
        InputError: as `parts_of`; the run's predictions are missing or damaged.
    """
    path = folder / "predictions.safetensors"
    index = parts_of(folder, member)["heldout"]
    stored, _ = files.load_tensors(path)
    if "heldout/labels" not in stored:
        raise InputError(f"'{path}' lacks 'heldout/labels'; it is damaged or was not written by Preceptor")
    labels = stored["heldout/labels"]
    return index, labels if member is None else labels[member]


def circumstances(device: torch.device | str) -> dict[str, Any]:
    """What a result was computed with: versions, commit, device, threads, date."""
    return {
        "preceptor": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("torch", "numpy", "accelerate", "safetensors")},
        "commit": _commit(),
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree that runs, if it is one."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass(frozen=True)
class Weights:
    """A model's weights with what a reader must know about them."""

    tensors: dict[str, Tensor]
    model: dict[str, Any]
    num_classes: int
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    distribution: str
    temperature: float | list[float]
    members: int | None
    transform: Transform | None = None
    """Of the output: chosen with the weights (``teaching``)."""


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write weights atomically, as plain safetensors: tensor names are those of the model's state dict."""
    with files.atomic_path(path) as temporary:
        files.save_tensors(temporary, tensors, {"schema_version": SCHEMA, **metadata})


def read_weights(path: Path) -> Weights:
    """Weights that a run wrote.

    Raises:
        InputError: no such file, damaged, a pickle, of a newer format, or without Preceptor's metadata.
    """
    tensors, metadata = files.load_tensors(path)
    if not {"model", "schema_version"} <= metadata.keys():
        raise InputError(f"'{path}' does not say which model it belongs to; give weights that Preceptor wrote")
    if metadata["schema_version"] > SCHEMA:
        raise InputError(
            f"'{path}' has format {metadata['schema_version']}, newer than this Preceptor's {SCHEMA}; upgrade Preceptor"
        )
    found: dict[str, Any] = {"tensors": tensors}
    for field in dataclasses.fields(Weights)[1:]:
        if field.name not in metadata and field.default is not dataclasses.MISSING:
            continue
        if field.name not in metadata:
            raise InputError(f"'{path}' lacks '{field.name}'; it is damaged or was not written by Preceptor")
        value = metadata[field.name]
        found[field.name] = tuple(value) if field.name in ("input_shape", "class_names") else value
    if found.get("transform") is not None:
        found["transform"] = parse_transform(found["transform"], f"'{path}'")
    return Weights(**found)


def load_model(
    path: Path, member: int | None = None, *, model: Callable[..., torch.nn.Module] | None = None
) -> tuple[torch.nn.Module, Weights]:
    """Rebuild the model whose weights are at `path`.

    Args:
        member: which of a stack.
        model: the factory that the run was given in place of its recipe's model.

    Raises:
        InputError: as `read_weights`; the weights are of another architecture than their recipe's, or of somebody's
            own factory and `model` is not given; a stack without `member`, or `member` without a stack or outside it.
    """
    weights = read_weights(path)
    return _model_of(weights, f"'{path}'", member, model), weights


def load_teacher(reference: TeacherRef) -> Teacher:
    """The teacher that a recipe refers to.

    Raises:
        InputError: the run is missing or incomplete, or has no such weights, epoch or member.
    """
    read_result(reference.run)
    weights, source = teacher_weights(reference)
    model = _model_of(weights, source, reference.member)
    return Teacher(
        model,
        distribution=weights.distribution,
        temperature=temperature_of(reference, weights),
        class_names=weights.class_names,
        transform=weights.transform,
    )


def temperature_of(reference: TeacherRef, weights: Weights) -> float:
    """The temperature that a reference asks for: the one fitted to its run's weights, or 1.

    Raises:
        InputError: the run has fitted none.
    """
    if not reference.calibrated:
        return 1.0
    if not read_result(reference.run).get("temperature"):
        raise InputError(
            f"the teacher '{reference.run}' has no temperature of its own; teach it with calibrate=true, or "
            "set calibrated=false"
        )
    fitted = weights.temperature
    return fitted[reference.member or 0] if isinstance(fitted, list) else fitted


def teacher_weights(reference: TeacherRef) -> tuple[Weights, str]:
    """The weights that a reference names, all members of a stack, and what an error calls them.

    Raises:
        InputError: as `load_teacher`.
    """
    run, epoch = reference.run, reference.epoch
    path = run / f"{reference.weights}.safetensors"
    if not path.exists():
        there = [kind for kind in ("last", "best", "average", "teaching") if (run / f"{kind}.safetensors").exists()]
        raise InputError(f"the run '{run}' has no '{reference.weights}' weights; it has: {', '.join(there)}")
    weights = read_weights(path)
    if epoch is None:
        return weights, f"'{path}'"
    kept = kept_epochs(run)
    if epoch not in kept:
        raise InputError(
            f"the run '{run}' has not kept epoch {epoch}; it has: {shortened(list(kept)) or 'none'}; train with "
            "training.keep=all to keep every epoch"
        )
    tensors, _ = checkpoint.load(kept[epoch])
    # All else is the run's: the file of its last weights says which model this is.
    return dataclasses.replace(
        weights, tensors=checkpoint.within("model", tensors), temperature=1.0, transform=None
    ), f"'{kept[epoch]}'"


def kept_epochs(run: Path) -> dict[int, Path]:
    """The checkpoints that a run has kept, by the number of epochs before them."""
    return checkpoint.after_epochs(run / "checkpoints")


def _model_of(
    weights: Weights, source: str, member: int | None, factory: Callable[..., torch.nn.Module] | None = None
) -> torch.nn.Module:
    _check_member(weights.members, member, source)
    made = _made(weights, source, factory)
    load_weights(made, weights.tensors if member is None else member_state(weights.tensors, member), source)
    return made.to(memory_format=torch.channels_last).eval()


def _made(weights: Weights, source: str, factory: Callable[..., torch.nn.Module] | None) -> torch.nn.Module:
    """A model of the weights' architecture."""
    supplied = {"num_classes": weights.num_classes, "input_shape": weights.input_shape}
    if factory is None and "factory" in weights.model:
        raise InputError(
            f"{source} holds weights of a model factory of your own, {weights.model['factory']}; rebuild it by "
            "load_model(path, model=...), or name it in the recipe as package.module:name and train again"
        )
    with torch.random.fork_rng(devices=[]):  # the weights that it draws are replaced
        if factory is not None:
            return factory(**build.accepted(factory, supplied))
        return build.call("model", build.Component(**weights.model), supplied)


def _check_member(size: int | None, member: int | None, source: str) -> None:
    """Refuse no member of a stack, a member of a single model, and one that is not there."""
    if size is None and member is not None:
        raise InputError(f"{source} holds a single model, not a stack; leave member={member} out")
    if size is not None and member is None:
        raise InputError(f"{source} holds a stack of {size} models; say which member, e.g. member=0")
    if size is not None and member is not None and not 0 <= member < size:
        raise InputError(f"{source} holds members 0 to {size - 1}, not member={member}; give one of those")
