"""A run folder's recipe and result: opened, refused where it is another's, read (docs/run-folder.md).

``recipe.yaml`` what was asked, ``members.json`` and ``objects.json`` what else tells this run from others,
``splits.json`` who saw which sample, ``metrics.jsonl`` one line an epoch, ``checkpoints/`` the state to go on from,
``last.safetensors`` / ``best.safetensors`` / ``average.safetensors`` the weights, ``result.json`` what came out and on
what; the result is written last, so a run that has one is complete.
"""

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preceptor.errors import InputError
from preceptor.notices import note
from preceptor.recipe import DistillRecipe, Recipe, TeachRecipe, dump, parse, read_yaml
from preceptor.runs import files, integrity
from preceptor.runs.identity import is_same
from preceptor.runs.integrity import SCHEMA, checked

# What may differ when a run is continued: where and how it is computed, not what.
_CIRCUMSTANCES = {"num_workers", "trackers", "checkpoint_every", "checkpoint_epochs", "keep", "device"}
# What a run may change that goes on from another's end.
_LONGER = ("parent", "training.epochs", "training.patience", "schedule.", "optimizer.lr")
_MEMBERS, _OBJECTS, _CONTENTS = "members", "objects", "contents"
_CHANGED = {
    "data": "with other data under the name '{data}': their {key} have changed",
    "teacher": "with another teacher under the name '{key}': its weights have changed",
    "start": "from other weights under the name '{key}': they have changed",
    "parent": "from another parent under the name '{key}': its last checkpoint has changed",
}
_NO_RUN = "it has no recipe.yaml; give a folder that teach or distill wrote"


@dataclass(frozen=True)
class Identity:
    """What makes a run this one: a folder is gone on with only by the same.

    Args:
        recipe: what was asked.
        members: of a stack, what sets each apart (JSON): its seed, or a student's seed, teacher, loss and weights.
        objects: the fingerprints of the Python objects that stand in for the recipe's entries, by role.
        contents: the digests of what the recipe names, by role and name (`preceptor.runs.contents`).
    """

    recipe: TeachRecipe | DistillRecipe
    members: Sequence[Mapping[str, Any]] = ()
    objects: Mapping[str, str] = field(default_factory=dict)
    contents: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def open_run(folder: Path, identity: Identity) -> dict[str, Any] | None:
    """Look at a run folder; return its result if it is there and complete, else None. Nothing is written.

    Raises:
        InputError: the folder holds another run, or something that is no run.
    """
    if (folder / "recipe.yaml").exists():
        _refuse_other(folder, identity)
        if not (folder / "result.json").exists():
            return None
        _refuse_more_epochs(folder, identity.recipe)
        return read_result(folder)
    if folder.is_file() or (folder.is_dir() and any(map(_foreign, folder.iterdir()))):
        raise InputError(f"'{folder}' exists and is no run folder; give a new one", argument="folder")
    return None


def _foreign(path: Path) -> bool:
    """Whether a file in a folder without a recipe is not what `make_run` writes first."""
    return not path.name.startswith(".") and path.name not in (f"{_MEMBERS}.json", f"{_OBJECTS}.json")


def make_run(folder: Path, identity: Identity) -> None:
    """Write down what a run is, if it is not there: its recipe last, as a folder that has one is a run."""
    if (folder / "recipe.yaml").exists():
        return
    if identity.members:
        _write(folder, _MEMBERS, list(identity.members))
    contents = {role: dict(content) for role, content in identity.contents.items()}
    _write(folder, _OBJECTS, dict(identity.objects), **{_CONTENTS: contents})
    files.write_text(folder / "recipe.yaml", dump(identity.recipe))


def give_up(folder: Path) -> None:
    """Remove what a start has written that was refused before its first checkpoint: the mended recipe, which is another
    run, may have the folder.
    """
    ours = ["recipe.yaml", f"{_MEMBERS}.json", f"{_OBJECTS}.json", "splits.json", "metrics.jsonl"]
    if not any(path.name not in ours and not path.name.startswith(".") for path in folder.iterdir()):
        for name in ours:
            files.remove(folder / name)


def _refuse_other(folder: Path, identity: Identity) -> None:
    ours, theirs = (_flatten(_essence(r)) for r in (identity.recipe, read_recipe(folder)))
    for key in sorted(ours.keys() | theirs.keys()):
        object_instead = key.partition(".")[0] == "loss" and "loss" in identity.objects  # which is compared below
        if ours.get(key) != theirs.get(key) and not object_instead:
            raise InputError(
                f"the run folder '{folder}' holds another recipe: {key} is {theirs.get(key)!r} there and "
                f"{ours.get(key)!r} here; give another folder, or remove that one",
                argument="folder",
            )
    _refuse_other_members(folder, [dict(member) for member in identity.members])
    _refuse_other_objects(folder, identity.objects)
    refuse_other_contents(folder, identity.contents, identity.recipe.data_name)


def refuse_unlike_parent(parent: Path, identity: Identity) -> None:
    """Refuse to go on from a run for more epochs with anything but its own recipe, objects and data.

    Raises:
        InputError: naming what differs; a run that is not complete.
    """
    trained = epochs_of(parent)
    if identity.recipe.training.epochs <= trained:
        raise InputError(
            f"training.epochs is {identity.recipe.training.epochs}, but the parent '{parent}' has trained {trained} "
            f"epochs already; give {trained + 1} or more"
        )
    ours, theirs = (_flatten(_essence(r)) for r in (identity.recipe, read_recipe(parent)))
    for key in sorted(ours.keys() | theirs.keys()):
        object_instead = key.partition(".")[0] == "loss" and "loss" in identity.objects
        if ours.get(key) != theirs.get(key) and not key.startswith(_LONGER) and not object_instead:
            raise InputError(
                f"a run goes on from '{parent}' with its own recipe, and {key} is {theirs.get(key)!r} there and "
                f"{ours.get(key)!r} here; leave {key} as it is (epochs, patience, schedule and optimizer.lr may differ)"
            )
    try:
        _refuse_other_members(parent, [dict(member) for member in identity.members])
        _refuse_other_objects(parent, {k: v for k, v in identity.objects.items() if k != "scheduler"}, {"scheduler"})
        contents = {role: content for role, content in identity.contents.items() if role != "parent"}
        refuse_other_contents(parent, contents, identity.recipe.data_name)
    except InputError as error:
        raise InputError(f"no run can go on from its parent with other objects or data: {error}") from None


def epochs_of(folder: Path) -> int:
    """The epochs that a complete run has trained: its recipe's, unless it was stopped before.

    Raises:
        InputError: it is no complete run.
    """
    stopped = read_result(folder).get("stopped")
    return stopped["epochs"] if stopped else read_recipe(folder).training.epochs


def _refuse_other_members(folder: Path, ours: list[dict[str, Any]]) -> None:
    theirs = read_members(folder)
    if len(theirs) != len(ours):
        raise InputError(
            f"the run folder '{folder}' holds {_count(theirs)}, not {_count(ours)}; give another folder",
            argument="folder",
        )
    for position, (there, here) in enumerate(zip(theirs, ours, strict=True)):
        if there != here:
            raise InputError(
                f"the run folder '{folder}' holds another stack: member {position} is {json.dumps(there)} "
                f"there and {json.dumps(here)} here; give another folder",
                argument="folder",
            )


def _refuse_other_objects(folder: Path, ours: Mapping[str, str], free: Collection[str] = ()) -> None:
    theirs = read_objects(folder)
    if theirs is None:
        return
    for role in sorted((theirs.keys() | ours.keys()) - set(free)):
        there, here = (given.get(role, "the recipe's own") for given in (theirs, ours))
        if not is_same(there, here):
            raise InputError(
                f"the run folder '{folder}' was made with another {role}: {there} there and {here} here; give the same "
                f"{role}, or another folder",
                argument="folder",
            )


def refuse_other_contents(folder: Path, contents: Mapping[str, Mapping[str, str]], data_name: str) -> None:
    """Refuse a run that was made from other contents (`preceptor.runs.contents`), if it has recorded any.

    Raises:
        InputError: naming what has changed.
    """
    theirs = read_contents(folder)
    if theirs is None:
        if contents:
            _say_unrecorded(folder.resolve())
        return
    for role, ours in contents.items():
        for key in sorted(ours.keys() | theirs.get(role, {}).keys()):
            there, here = (content.get(key, "none") for content in (theirs.get(role, {}), ours))
            if there != here:
                changed = _CHANGED[role].format(key=key, data=data_name)
                raise InputError(
                    f"the run folder '{folder}' was made {changed} "
                    f"since ({there[:19]} there and {here[:19]} here); put back what was there, or give another folder",
                    argument="folder",
                )


@functools.cache
def _say_unrecorded(folder: Path) -> None:
    note(f"the run '{folder}' has no contents recorded: whether its data and teachers are still the same is not known")


def _refuse_more_epochs(folder: Path, recipe: Recipe) -> None:
    """Refuse to look on silently while epochs are asked for that a complete run has not kept."""
    if recipe.training.keep == "all" and read_recipe(folder).training.keep != "all":
        raise InputError(
            f"the run '{folder}' is complete and has kept its last epoch alone; leave training.keep=all out, or keep "
            "them in a new folder",
            argument="folder",
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
        raise InputError(f"'{folder}' is no run folder: {_NO_RUN}")
    raw = read_yaml(checked(folder, path.name))
    try:
        return parse(DistillRecipe if raw.get("verb") == "distill" else TeachRecipe, raw)
    except InputError as error:
        raise InputError(f"'{path}' is none of this version's recipes: {error}; give another folder") from None


def read_members(folder: Path) -> list[dict[str, Any]]:
    """What sets the members of a stack apart; none for a single model."""
    return _read(folder, _MEMBERS) or []


def read_objects(folder: Path) -> dict[str, str] | None:
    """The fingerprints of the Python objects that a run was given, by role; None if an older Preceptor made it."""
    return _read(folder, _OBJECTS)


def read_contents(folder: Path) -> dict[str, dict[str, str]] | None:
    """The digests of the data and the teachers that a run was made with; None if an older Preceptor made it."""
    path = folder / f"{_OBJECTS}.json"
    return files.read_json(path).get(_CONTENTS) if path.exists() else None


def _write(folder: Path, name: str, content: Any, **more: Any) -> None:
    files.write_json(folder / f"{name}.json", {"schema_version": SCHEMA, name: content, **more})


def _read(folder: Path, name: str) -> Any:
    """What a file of the folder says; runs of format 1 have it in a comment that their recipe begins with."""
    path = checked(folder, f"{name}.json")
    if path.exists():
        content = files.read_json(path)
        if name not in content:
            raise InputError(f"'{path}' lacks '{name}'; it is damaged or was not written by Preceptor")
        return content[name]
    for line in (folder / "recipe.yaml").read_text(encoding="utf-8").splitlines()[:2]:
        if line.startswith(f"# {name}: "):
            return json.loads(line.removeprefix(f"# {name}: "))
    return None


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Write ``result.json``, last of all: with the checksums of the run's files and one of itself."""
    for chosen in (integrity.CHOICE, integrity.TEACHING):  # after an earlier result
        files.remove(folder / chosen)
    integrity.write_sealed(folder / integrity.RESULT, {**result, "files": integrity.manifest(folder)})


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a complete run, without the checksums in it.

    Raises:
        InputError: the run is not complete, or its result is damaged or of a newer format.
    """
    path = folder / integrity.RESULT
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"'{folder}' is no run folder: {_NO_RUN}")
    if not path.is_file():
        raise InputError(f"the run '{folder}' is not complete: it has no result.json; run the same command again")
    result = integrity.read_sealed(path)
    checked(folder, "recipe.yaml")  # else it is another run's result
    for key in ("schema_version", "verb", "heldout", "test"):
        if key not in result:
            raise InputError(f"'{path}' lacks '{key}'; it is damaged or was not written by Preceptor")
    return integrity.unsealed(result)


def check_member(size: int | None, member: int | None, source: str) -> None:
    """Refuse no member of a stack, a member of a single model, and one that is not there."""
    if size is None and member is not None:
        raise InputError(f"{source} holds a single model, not a stack; leave member={member} out")
    if size is not None and member is None:
        raise InputError(
            f"{source} holds a stack of {size} models; say which member, e.g. member=0, or by name RUN:member-0"
        )
    if size is not None and member is not None and not 0 <= member < size:
        raise InputError(f"{source} holds members 0 to {size - 1}, not member={member}; give one of those")
