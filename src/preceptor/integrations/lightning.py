"""Lightning: a `Distillation` in a `training_step`, and the checkpoint of a `LightningModule` as a teacher."""

import copy
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preceptor.errors import InputError
from preceptor.integrations.distillation import Distillation
from preceptor.notices import note
from preceptor.runs.weights import load_weights

__all__ = ["Distillation", "load_teacher"]


def load_teacher(
    path: Path | str, model: nn.Module | Callable[[], nn.Module], *, prefix: str | None = None
) -> nn.Module:
    """The model whose weights are in the checkpoint of a `LightningModule`, in eval mode, on the CPU.

    Weights alone are read, and nothing is unpickled but tensors and plain values; neither `lightning` nor
    `pytorch_lightning` is needed. With a callback that averages weights (`EMAWeightAveraging`) they are the average,
    and where it had not begun those that were trained: Lightning writes the untrained model in its place then.

    Args:
        path: a ``.ckpt``, or any file of `torch.save` that has weights under ``state_dict``.
        model: of that architecture, or a function that makes it; a module that is given stays as it is.
        prefix: of the weights' names in the file, ``"model."`` where the `LightningModule` has the model as
            ``self.model``; by default the one under which the file has all of them.

    Raises:
        InputError: no such file, one that has more than weights and plain values, weights of another architecture (the
            first name or shape that does not fit is named), or several models that it could be.
    """
    tensors = _weights_in(Path(path))
    made = copy.deepcopy(model) if isinstance(model, nn.Module) else model()
    if not isinstance(made, nn.Module):
        raise InputError(f"the model is a {type(made).__name__}; give a torch.nn.Module, or a function that makes one")
    chosen = _prefix(tensors, made, f"'{path}'") if prefix is None else prefix
    found = {name.removeprefix(chosen): tensor for name, tensor in tensors.items() if name.startswith(chosen)}
    if not found:
        raise InputError(f"'{path}' has no weights with the prefix '{chosen}'; it has {_some(tensors)}")
    load_weights(made, found, f"'{path}'" + (f" under '{chosen}'" if chosen else ""))
    return made.eval()


def _weights_in(path: Path) -> Mapping[str, Tensor]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'; give the .ckpt of a LightningModule") from None
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise InputError(
            f"'{path}' holds more than weights and plain values{what}, and is not unpickled; "
            "where you trust it, load it with torch.load(path, weights_only=False) and write "
            "torch.save({'state_dict': loaded['state_dict']}, path)"
        ) from None
    except (RuntimeError, EOFError, IsADirectoryError, OSError) as error:
        raise InputError(f"'{path}' cannot be read: {error}; give the .ckpt of a LightningModule") from error
    tensors = held.get("state_dict") if isinstance(held, Mapping) else None
    if not isinstance(tensors, Mapping) or not tensors:
        raise InputError(f"'{path}' has no weights under 'state_dict'; give the .ckpt of a LightningModule")
    return _trained_instead(path, held) or tensors


def _trained_instead(path: Path, held: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    """The weights of training where an average of them had not begun, which is the model before training then."""
    averaging, current = held.get("averaging_state"), held.get("current_model_state")
    if not isinstance(averaging, Mapping) or not isinstance(current, Mapping) or averaging.get("n_averaged") != 0:
        return None
    note(
        f"the average in '{path}' had not begun, and is the untrained model; the weights of training are taken instead"
    )
    return current


def _prefix(tensors: Mapping[str, Tensor], model: nn.Module, source: str) -> str:
    """The prefix under which all weights of a model are in a file, or the one under which most are, to be refused."""
    own = model.state_dict()
    wanted = own.keys()
    shared = {prefix: len(wanted & _under(prefix, tensors)) for prefix in _prefixes(tensors)}
    whole = [prefix for prefix, count in shared.items() if count == len(wanted)]
    exact = [prefix for prefix in whole if len(_under(prefix, tensors)) == len(wanted)]
    fitting = [prefix for prefix in whole if all(tensors[prefix + name].shape == own[name].shape for name in wanted)]
    several = [prefix for prefix in exact if prefix in fitting] or fitting or exact or whole
    if len(several) > 1:
        raise InputError(f"{source} has several models that it could be; give prefix, one of {_some(several)}")
    if several:
        return several[0]
    most = max(shared, key=lambda prefix: shared[prefix])
    if shared[most] == 0:
        raise InputError(
            f"{source} is of another architecture: it has {_some(tensors)}, and the model {_some(wanted)}; give the "
            "model that it was trained with"
        )
    return most


def _prefixes(names: Any) -> list[str]:
    found = {"": None}
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[:count]) + ".": None for count in range(1, len(parts))}
    return list(found)


def _under(prefix: str, names: Any) -> set[str]:
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _some(names: Any) -> str:
    listed = [f"'{name}'" for name in names]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")
