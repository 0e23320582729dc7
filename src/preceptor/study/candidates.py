"""The teachers that ``preceptor assess`` is given: run folders and files of logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preceptor import assess
from preceptor.assess import Comparison
from preceptor.errors import InputError
from preceptor.training import files
from preceptor.training import run as runs


@dataclass(frozen=True)
class Candidate:
    """One teacher's predictions for the samples that it is compared on."""

    name: str
    logits: np.ndarray
    labels: np.ndarray | None
    ids: np.ndarray | None
    trained_on: np.ndarray | None


def compare_candidates(
    names: Sequence[str], *, labels: Path | None = None, level: float = 0.95, probabilities: bool = False
) -> Comparison:
    """Compare run folders (their held-out predictions) and files of logits, on the same samples.

    Args:
        names: ``RUN``, ``RUN:best``, ``FILE.npz`` (logits, and labels and ids if it has them) or ``FILE.npy`` (logits).
        labels: a ``.npy`` file of labels, where no candidate brings its own.
        level: of the simultaneous intervals.
        probabilities: the files hold probabilities.

    Raises:
        InputError: a file or run that cannot be read, predictions for different samples, no labels, or a teacher that
            was trained on the samples it is compared on.
    """
    found = [_read(name) for name in names]
    repeated = {c.name for c in found if sum(other.name == c.name for other in found) > 1}
    if repeated:
        raise InputError(f"'{min(repeated)}' is given twice; give each teacher once")
    _refuse_seen(found)
    truth = _labels(found, labels)
    ids = {c.name: c.ids for c in found if c.ids is not None}
    shared = ids if len(ids) == len(found) else None
    logits: dict[str, Any] = {c.name: c.logits for c in found}
    return assess.compare(logits, truth, ids=shared, level=level, probabilities=probabilities)


def _read(name: str) -> Candidate:
    path = Path(name)
    if path.suffix == ".npz":
        arrays = _load(path)
        if "logits" not in arrays:
            raise InputError(f"'{path}' has no array 'logits'; it holds: {', '.join(sorted(arrays))}")
        return Candidate(path.stem, arrays["logits"], arrays.get("labels"), arrays.get("ids"), None)
    if path.suffix == ".npy":
        return Candidate(path.stem, _load(path)["array"], None, None, None)
    folder, _, weights = name.partition(":")
    return _read_run(Path(folder), weights or "last", name)


def _read_run(folder: Path, weights: str, name: str) -> Candidate:
    if not folder.is_dir():
        raise InputError(f"there is no run folder or file '{folder}'; give a run folder, a .npz or a .npy file")
    runs.read_result(folder)
    tensors, _ = files.load_tensors(folder / "predictions.safetensors")
    if f"heldout/{weights}" not in tensors:
        there = [key.removeprefix("heldout/") for key in tensors if key.startswith("heldout/") and "labels" not in key]
        raise InputError(f"the run '{folder}' has no '{weights}' weights; it has: {', '.join(sorted(there))}")
    logits = tensors[f"heldout/{weights}"]
    if logits.ndim != 2:
        raise InputError(f"the run '{folder}' is a stack of models; assess takes runs of one model each")
    # Log-probabilities whatever the distribution: raw scores of a squared-error teacher may look like probabilities.
    parts = runs.read_splits(folder)
    return Candidate(
        name,
        logits.double().log_softmax(-1).numpy(),
        tensors["heldout/labels"].numpy(),
        parts["heldout"].numpy(),
        parts["train"].numpy(),
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz or .npy file; nothing is unpickled."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror or error}; give a .npz or .npy file") from None
    except (ValueError, EOFError) as error:
        raise InputError(f"'{path}' is damaged, or holds Python objects, which are not read: {error}") from None
    if isinstance(loaded, np.ndarray):
        return {"array": loaded}
    with loaded:
        return {name: loaded[name] for name in loaded.files}


def _labels(found: Sequence[Candidate], path: Path | None) -> np.ndarray:
    if path is not None:
        return _load(path).get("array", np.empty(0))
    own = [candidate for candidate in found if candidate.labels is not None]
    for candidate in own[1:]:
        if not np.array_equal(candidate.labels, own[0].labels):  # type: ignore[arg-type]
            raise InputError(
                f"the labels of '{candidate.name}' are not those of '{own[0].name}': made for other samples or in "
                "another order; give predictions for the same samples"
            )
    if own:
        assert own[0].labels is not None
        return own[0].labels
    raise InputError("there are no labels: give --labels FILE.npy, or .npz files with an array 'labels'")


def _refuse_seen(found: Sequence[Candidate]) -> None:
    """Refuse a teacher that was trained on samples that another one, and so all, are compared on."""
    heldout = next((c.ids for c in found if c.trained_on is not None), None)
    for candidate in found:
        if heldout is None or candidate.trained_on is None:
            continue
        seen = np.intersect1d(candidate.trained_on, heldout)
        if len(seen):
            raise InputError(
                f"the teacher '{candidate.name}' was trained on {len(seen)} of the held-out samples (the first: "
                f"{seen[0]}); compare teachers of one split: the same data, split and seed"
            )
