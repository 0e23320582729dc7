"""What a run has stored of its held-out predictions, and the inputs that they are of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor import runs
from preceptor.data.dataset import Indexed, labels_of
from preceptor.errors import InputError
from preceptor.inputs import Inputs
from preceptor.names import Trust
from preceptor.outputs import read_logits
from preceptor.schema import Component
from preceptor.serving.served import Served, Whole
from preceptor.training.data.samples import load_data

_STORED = ("last", "best", "average")
_MOST = 512  # samples: enough to see a wrong one, and quick


@dataclass(frozen=True)
class HeldOut:
    """Held-out inputs (n, ...) as the model takes them, and the probabilities (n, C) that are expected for them."""

    inputs: Inputs
    expected: Tensor
    stored: bool
    """Whether the expected ones are those that the run has stored; else the model has been asked in torch."""


def held_out(served: Served, *, data: Any = None, data_dir: Path | str | None = None, trust: Trust = False) -> HeldOut:
    """The first 512 held-out samples of a run.

    Args:
        data, data_dir, trust: as of `preceptor.study.teachers.read_candidates`.

    Raises:
        InputError: the data set cannot be had, or is not the one that the run was trained on.
    """
    run, member = served.reference.run, served.reference.member
    index, labels = runs.heldout_labels(run, member)
    recipe = runs.read_recipe(run)
    if data_dir is not None and recipe.data is not None:
        component = Component(**(recipe.data.model_dump() | {"data_dir": str(data_dir)}))
        recipe = recipe.model_copy(update={"data": component})
    found = load_data(recipe, data, trust=trust, source=f"the recipe of the run '{run}'")
    own = labels_of(found.train, found.num_classes)
    if index.max() >= len(own) or not torch.equal(own[index], labels):
        raise InputError(
            f"the data set '{recipe.data_name}' gives other labels for the held-out samples than the run '{run}' has "
            "recorded; give the data that it was trained on",
            argument="data_dir",
        )
    inputs = Indexed(found.train, num_classes=found.num_classes, collate_fn=found.collate_fn)[index[:_MOST]]["input"]
    stored = _stored(served)
    if stored is None:
        with torch.no_grad():
            return HeldOut(inputs, Whole(served, raw=False)(inputs)[1].double(), False)
    return HeldOut(inputs, stored[:_MOST], True)


def _stored(served: Served) -> Tensor | None:
    """The probabilities that a run has stored; none of epochs, or of weights with a transform of their own."""
    reference = served.reference
    if reference.epoch is not None or reference.weights not in _STORED:
        return None
    name = f"heldout/{reference.weights}"
    logits = runs.read_predictions(reference.run, name)[name]
    logits = logits if reference.member is None else logits[reference.member]
    return read_logits(logits.double(), temperature=served.temperature).softmax(-1)
