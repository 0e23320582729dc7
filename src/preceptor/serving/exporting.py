"""A run's model, written for other programs, and checked against what the run has stored."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from preceptor.errors import InputError, did_you_mean
from preceptor.inputs import Inputs, each
from preceptor.names import Trust
from preceptor.runs import Factory, files, has_token_scores, read_recipe
from preceptor.serving import formats
from preceptor.serving.heldout import HeldOut, held_out
from preceptor.serving.served import Served, raw_inputs, served

Format = Literal["onnx", "pt2", "safetensors", "pretrained"]
_SUFFIX = {"onnx": ".onnx", "pt2": ".pt2", "safetensors": ".safetensors", "pretrained": "-pretrained"}
_GRAPHS = ("onnx", "pt2")
# Of probabilities. What a run has stored was computed in its own precision, in batches of another size.
_TOLERANCE = {"fp32": 1e-4, "fp16": 0.01, "bf16": 0.05, "auto": 0.05}


@dataclass(frozen=True)
class Export:
    """What `export` wrote."""

    path: Path
    to: Format
    input: str
    """What the file's input is: shape, dtype, meaning."""
    difference: float | None
    """The largest one, over held-out samples and classes, between probabilities; None if it was not looked at."""
    tolerance: float | None
    samples: int
    """How many were compared."""
    against: str
    """What with: ``stored``, what the run has stored, or ``torch``, what its model says now."""

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.path}: {self.input}; not checked"
        what = "the run's stored predictions" if self.against == "stored" else "the run's model in torch"
        return (
            f"{self.path}: {self.input}; the largest difference of a probability from {what} is {self.difference:.1e} "
            f"(of {self.samples} held-out samples; at most {self.tolerance:g} is allowed)"
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for JSON."""
        return asdict(self) | {"path": str(self.path)}


def export(
    run: Path | str,
    *,
    to: Format,
    path: Path | str | None = None,
    check: bool = True,
    preprocessing: bool = True,
    tolerance: float | None = None,
    member: int | None = None,
    data: Any = None,
    data_dir: Path | str | None = None,
    model: Factory | str | None = None,
    trust: Trust = False,
) -> Export:
    """Write a run's model for other programs (docs/export.md), checked against the predictions that the run has stored.

    Args:
        run: ``RUN``, ``RUN:best``, ``RUN:best:calibrated`` (its temperature goes with it), ``RUN:member-2``.
        to: ``onnx`` and ``pt2`` (torch.export) are graphs from raw numbers (batch, ...) to ``logits`` and
            ``probabilities``, for any batch; ``safetensors`` is a file of weights, ``pretrained`` a folder.
        path: of the file or folder, which must not be there yet; default: the run's name with a suffix, beside it.
        check: read it back, as its users would, and compare its probabilities for up to 512 held-out samples.
        preprocessing: begin graphs with the run's own, where it is known; else they take what the model takes.
        tolerance: the largest difference of a probability; default: 1e-4, or 0.05 for a run in bf16, 0.01 in fp16.
        member: which model of a stack.
        data: your own data set, in place of the one that the run's recipe names, for the check.
        data_dir: where the data set's files are, likewise.
        model: what makes the model of a run that was trained with one of your own, or its ``package.module:name``.
        trust: import the model and the data set that the run names, if they are somebody's own (True, or these names).

    Raises:
        InputError: no such run or format, something at `path`, a package that is missing, a model that cannot become
            a graph, or a file that says something else than the run did, which is removed.

    >>> import tempfile, preceptor
    >>> folder = tempfile.mkdtemp()
    >>> _ = preceptor.teach(data="digits", model="mlp", epochs=1, device="cpu", folder=f"{folder}/run")
    >>> done = export(f"{folder}/run", to="safetensors")
    >>> done.difference < 1e-4, done.path.name
    (True, 'run.safetensors')
    """
    if to not in get_args(Format):
        raise InputError(f"the format is '{to}'; {did_you_mean(to, get_args(Format))}", argument="to")
    found = served(run, member=member, model=model, trust=trust)
    place = _place(found, to, path)
    known = _known(found, data, data_dir, trust) if check else None
    raw = to in _GRAPHS and preprocessing and found.is_normalized
    inputs = _example(found) if known is None else known.inputs
    if isinstance(inputs, Mapping) and to in _GRAPHS:
        raise InputError(
            f"'{found.name}' cannot become {to}: its inputs go by name, and a graph here takes one tensor; export it "
            "to safetensors",
            argument="to safetensors",
        )
    inputs = inputs if isinstance(inputs, Mapping) or not raw else raw_inputs(inputs, found)
    if tolerance is None:
        tolerance = _TOLERANCE[read_recipe(found.reference.run).training.precision]
    difference = None
    with files.atomic_path(place) as temporary:
        read = _write(found, to, temporary, each(inputs, lambda rows: rows[:2].contiguous()), raw, model)
        if known is not None:
            difference = _difference(read, inputs, known)
            if not difference <= tolerance:
                raise InputError(
                    f"'{place}' was not written: a probability differs by {difference:.2g} from the run's own, and "
                    f"{tolerance:g} is allowed; if that will do, allow tolerance={difference * 1.1:.2g}",
                    argument=f"tolerance {difference * 1.1:.2g}",
                )
    return Export(
        place,
        to,
        _said(inputs, raw),
        difference,
        None if known is None else tolerance,
        0 if known is None else len(known),
        "" if known is None else "stored" if known.stored else "torch",
    )


def _place(found: Served, to: str, path: Path | str | None) -> Path:
    """Where the file goes: by default beside the run's folder, in which nothing is added."""
    run = found.reference.run
    run = run if run.name not in ("", "..") else run.resolve()
    place = run.with_name(run.name + _SUFFIX[to]) if path is None else Path(path)
    if place.exists() or not place.name:
        raise InputError(f"'{place}' is there already; remove it, or give another path", argument="path")
    files.make_folder(place.parent)
    return place


def _known(found: Served, data: Any, data_dir: Path | str | None, trust: Trust) -> HeldOut:
    try:
        return held_out(found, data=data, data_dir=data_dir, trust=trust)
    except InputError as error:
        others = (error.argument,) if isinstance(error.argument, str) else error.argument or ()
        raise InputError(
            f"the export of '{found.name}' cannot be checked: {error}; or leave the check out",
            argument=(*others, "check False"),
        ) from None


def _example(found: Served) -> Inputs:
    if has_token_scores(found.reference.run):
        ids = torch.zeros(2, 2, dtype=torch.int64)
        return {"input_ids": ids, "position_ids": torch.arange(2).expand(2, 2)}
    shape = (2, *found.weights.input_shape)
    return torch.zeros(shape, dtype=torch.uint8 if found.is_text else torch.float32)


def _write(
    found: Served, to: str, path: Path, example: Inputs, raw: bool, model: Factory | str | None
) -> Callable[[Any], Tensor]:
    write = formats.write_safetensors if to == "safetensors" else formats.write_pretrained
    if to not in _GRAPHS or not isinstance(example, Tensor):
        return write(found, path, model)
    if to == "onnx":
        return formats.write_onnx(found, path, example, raw)
    return formats.write_pt2(found, path, example, raw)


@torch.no_grad()
def _difference(read: Callable[[Any], Tensor], inputs: Inputs, known: HeldOut) -> float:
    """The largest of all, in batches of unlike sizes: of one, of three, of the rest."""
    parts = torch.arange(len(known)).split([1, min(3, len(known) - 1), max(0, len(known) - 4)])
    answers = torch.cat([read(each(inputs, lambda t, rows=rows: t[rows])) for rows in parts if len(rows)])
    return float((known.seen(answers).double() - known.expected).abs().max())


def _said(inputs: Inputs, raw: bool) -> str:
    if isinstance(inputs, Mapping):
        return f"inputs by name: {', '.join(inputs)}"
    shape = ", ".join(["batch", *map(str, inputs.shape[1:])])
    kind = str(inputs.dtype).removeprefix("torch.")
    return f"input ({shape}) {kind}, {'raw numbers' if raw else 'as the model takes it'}"
