"""A run's state on disk: tensors in safetensors, the rest in JSON, each checkpoint a folder that appears
whole.

``checkpoints/epoch-0004-step-00000123/`` (four whole epochs, 123 optimizer steps) holds ``state.safetensors``
(model, optimizer, averaged and best weights, the objective's history) and ``state.json`` (counters, optimizer
settings, sums of the epoch so far, and the SHA-256 of all this).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from preceptor.errors import InputError
from preceptor.runs import files

SCHEMA = 1
_GROUP = "group"  # before the number of a group whose tensor it is
FILES = _TENSORS, _STATE = "state.safetensors", "state.json"


def save(folder: Path, name: str, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint into `folder`; it is there completely or not at all."""
    path = folder / name
    if path.exists():  # the same moment once more: a run that was interrupted right after saving
        return path
    files.make_folder(folder)
    with files.atomic_path(path) as temporary:
        temporary.mkdir()
        files.save_tensors(temporary / _TENSORS, tensors)
        content = json.loads(files.to_json({"schema_version": SCHEMA, **state}))
        content["sha256"] = _digest(temporary, content)
        (temporary / _STATE).write_text(files.to_json(content, indent=1), encoding="utf-8")
    return path


def _digest(path: Path, state: Mapping[str, Any]) -> str:
    """The SHA-256 of a checkpoint's tensors and of everything else in its state."""
    rest = {name: value for name, value in state.items() if name != "sha256"}
    content = files.digest(path / _TENSORS) + json.dumps(rest, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def name(epochs: int, steps: int) -> str:
    """The name of the checkpoint after so many whole epochs and optimizer steps."""
    return f"epoch-{epochs:04d}-step-{steps:08d}"


def saved(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("epoch-*-step-*"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])


def after_epochs(folder: Path) -> dict[int, Path]:
    """The checkpoints in `folder` that were written between two epochs, by the number of epochs before them.

    Raises:
        InputError: the state of a checkpoint is missing or damaged.
    """
    found = {}
    for path in saved(folder):
        state = files.read_json(path / _STATE)
        try:
            if state["progress"]["step_in_epoch"] == 0:
                found[int(state["progress"]["epoch"])] = path
        except (KeyError, TypeError):
            raise InputError(f"the checkpoint '{path}' is damaged: its state has no progress; remove it") from None
    return found


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint.

    Raises:
        InputError: a file is missing, damaged, or of a newer format.
    """
    state = files.read_json(path / _STATE)
    version = state.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA:
        raise InputError(
            f"the checkpoint '{path}' has format {version}, newer than this Preceptor's {SCHEMA}; upgrade Preceptor"
        )
    if not (path / _TENSORS).is_file() or _digest(path, state) != state.get("sha256"):
        raise InputError(
            f"the checkpoint '{path}' is damaged (its content does not match its SHA-256); remove that "
            "folder to go on from the checkpoint before it, or from the start if it is the only one"
        )
    return files.load_tensors(path / _TENSORS)[0], state


def prune(folder: Path) -> None:
    """Keep the newest checkpoint only."""
    for old in saved(folder)[:-1]:
        files.remove(old)


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and JSON."""
    state = optimizer.state_dict()
    tensors, values = {}, {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            target = tensors if isinstance(value, torch.Tensor) else values
            target[f"{index}/{name}"] = value
    groups: list[dict[str, Any]] = []
    for index, group in enumerate(state["param_groups"]):  # which of some optimizers hold tensors, such as a step
        held = {name: value for name, value in group.items() if isinstance(value, torch.Tensor)}
        tensors |= {f"{_GROUP}{index}/{name}": value for name, value in held.items()}
        groups.append({name: value for name, value in group.items() if name not in held})
    return tensors, {"values": values, "param_groups": groups}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], rest: Mapping[str, Any]
) -> None:
    """The inverse of `flatten_optimizer`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    groups = [dict(group) for group in rest["param_groups"]]
    for key, value in {**tensors, **rest["values"]}.items():
        index, name = key.split("/", 1)
        if index.startswith(_GROUP):
            groups[int(index.removeprefix(_GROUP))][name] = value
            continue
        parameter = parameters[int(index)]
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
            # In the parameter's memory format: in another one the same sum may be rounded differently.
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def scoped(scope: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`tensors` under the prefix ``scope:``."""
    return {f"{scope}:{name}": tensor for name, tensor in tensors.items()}


def within(scope: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the prefix ``scope:``, without it."""
    return {name.removeprefix(f"{scope}:"): t for name, t in tensors.items() if name.startswith(f"{scope}:")}
