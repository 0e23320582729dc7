"""What trained models say to the samples that students learn from; a study's folder, and how long it has worked."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from preceptor.data.dataset import Indexed
from preceptor.errors import InputError
from preceptor.recipe import Recipe, dump, parse, read_yaml
from preceptor.study.recipe import Study
from preceptor.training import run as runs
from preceptor.training import setup
from preceptor.training.evaluate import predict, read_logits
from preceptor.training.files import locked, make_folder, read_json, remove, remove_left_overs, write_json, write_text
from preceptor.training.loop import load_weights, make_accelerator
from preceptor.training.stack import Stack


def load_stack(
    recipe: Recipe, path: Path, data: Any, seeds: Sequence[int], source_of: Sequence[int] | None = None
) -> tuple[Stack, runs.Weights]:
    """A stack of models whose weights are at `path`; one member for each of `seeds`."""
    weights = runs.read_weights(path)
    model = Stack([setup.new_model(recipe, data, seed) for seed in seeds], source_of)
    load_weights(model, weights.tensors, f"'{path}'")
    return model, weights


def table_of(
    recipe: Recipe,
    model: nn.Module,
    weights: runs.Weights,
    dataset: Indexed,
    indices: Tensor,
    source_of: Sequence[int] | None = None,
    *,
    calibrated: bool = False,
) -> Tensor:
    """A model's logits or log-probabilities by sample index, (N, C) or (M, N, C); NaN for samples not in `indices`.

    Args:
        indices: (n,), or (S, n) for a stack.
        source_of: for each model of a stack, its row of `indices`; default: its own.
    """
    accelerator = make_accelerator(recipe, None)
    logits, _ = predict(model.to(accelerator.device), dataset, indices, accelerator)
    seen = read_logits(logits, weights.distribution)
    if calibrated:
        seen = seen / torch.tensor(weights.temperature)[..., None, None]
    rows = indices if source_of is None else indices[list(source_of)]
    table = torch.full((*seen.shape[:-2], len(dataset), seen.shape[-1]), torch.nan)
    return table.scatter_(-2, rows[..., None].expand_as(seen), seen)


def refuse_other(folder: Path, study: BaseModel) -> None:
    """Refuse a folder that holds another study.

    Students are stored by the row of their teacher, so even another order of the teachers is another study.
    """
    path = folder / "study.yaml"
    # Read and written again: a version that knows further keys fills in their defaults.
    if path.exists() and _essence(parse(type(study), read_yaml(path))) != _essence(study):
        raise InputError(f"the folder '{folder}' holds another study (see its study.yaml); give another one with --out")


def _essence(study: BaseModel) -> str:
    """The study but for how many processes and threads compute it, which changes no number."""
    changes = {"workers": 1, "threads": None} if isinstance(study, Study) else {}
    return dump(study.model_copy(update=changes))


@contextlib.contextmanager
def claimed(folder: Path, study: BaseModel) -> Iterator["Clock"]:
    """Make a study's folder or find it again, and hold it while this process is at work in it.

    Raises:
        InputError: it holds another study, or another process is at work in it.
    """
    make_folder(folder)
    with locked(folder):
        refuse_other(folder, study)
        remove_left_overs(folder)
        if not (folder / "study.yaml").exists():
            write_text(folder / "study.yaml", _essence(study))
        with Clock(folder) as clock:
            yield clock


class Clock:
    """The seconds that a study has worked, over all its starts: kept in ``time.json`` until the study is complete.

    What a kill cuts off since the last note is not counted.
    """

    def __init__(self, folder: Path) -> None:
        self.path: Path = folder / "time.json"
        before = read_json(self.path).get("time_total", 0.0) if self.path.exists() else 0.0
        self._started = time.perf_counter() - before

    @property
    def time_total(self) -> float:
        """Seconds so far."""
        return round(time.perf_counter() - self._started, 1)

    def noting(self, say: Callable[[str], None]) -> Callable[[str], None]:
        """`say`, and note the time whenever something is said."""

        def said(text: str) -> None:
            self.note()
            say(text)

        return said

    def note(self) -> None:
        """Write down the time so far."""
        write_json(self.path, {"schema_version": 1, "time_total": self.time_total})

    def __enter__(self) -> "Clock":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Stopped or failed, the time is noted; complete, it is in the study's result."""
        if kind is None:
            remove(self.path)
        else:
            with contextlib.suppress(InputError):  # a full disk: what went wrong first is what is told
                self.note()
