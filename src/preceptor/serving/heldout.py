"""What a run has stored of its held-out predictions, and the inputs that they are of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor import runs
from preceptor.data.dataset import Data, Indexed, labels_of
from preceptor.errors import InputError
from preceptor.inputs import Inputs, tensors_of
from preceptor.names import Trust
from preceptor.outputs import read_logits
from preceptor.runs import has_token_scores
from preceptor.schema import Component
from preceptor.serving.served import Served, Whole
from preceptor.training.data.samples import load_data

_STORED = ("last", "best", "average")
_MOST = 512  # samples: enough to see a wrong one, and quick
_MOST_NUMBERS = 2**24  # probabilities of rows of tokens


@dataclass(frozen=True)
class HeldOut:
    """Held-out inputs (n, ...) as the model takes them, and the probabilities that are expected for them."""

    inputs: Inputs
    expected: Tensor
    """(n, C); of rows of tokens those of the m labels that count, (m,)."""
    stored: bool
    """Whether the expected ones are those that the run has stored; else the model has been asked in torch."""
    labels: Tensor | None = None
    """Of rows of tokens, (n, L)."""

    def __len__(self) -> int:
        return len(tensors_of(self.inputs)[0])

    def seen(self, probabilities: Tensor) -> Tensor:
        """What of a model's probabilities (n, ..., C) is compared."""
        return probabilities if self.labels is None else _at_labels(probabilities, self.labels)


def held_out(served: Served, *, data: Any = None, data_dir: Path | str | None = None, trust: Trust = False) -> HeldOut:
    """The first 512 held-out samples of a run.

    Args:
        data, data_dir, trust: as of `preceptor.study.teachers.read_candidates`.

    Raises:
        InputError: the data set cannot be had, or is not the one that the run was trained on.
    """
    run, member = served.reference.run, served.reference.member
    recipe = runs.read_recipe(run)
    if data_dir is not None and recipe.data is not None:
        component = Component(**(recipe.data.model_dump() | {"data_dir": str(data_dir)}))
        recipe = recipe.model_copy(update={"data": component})
    found = load_data(recipe, data, trust=trust, source=f"the recipe of the run '{run}'")
    own = labels_of(found.train, found.num_classes)
    if has_token_scores(run):
        return _of_tokens(served, found, own)
    index, labels = runs.heldout_labels(run, member)
    if index.max() >= len(own) or not torch.equal(own[index], labels):
        raise _other_labels(recipe.data_name, run)
    inputs = Indexed(found.train, num_classes=found.num_classes, collate_fn=found.collate_fn)[index[:_MOST]]["input"]
    stored = _stored(served)
    if stored is None:
        with torch.no_grad():
            return HeldOut(inputs, Whole(served, raw=False)(inputs)[1].double(), False)
    return HeldOut(inputs, stored[:_MOST], True)


def _other_labels(data_name: str, run: Path) -> InputError:
    return InputError(
        f"the data set '{data_name}' gives other labels for the held-out samples than the run '{run}' has recorded; "
        "give the data that it was trained on",
        argument="data_dir",
    )


def _of_tokens(served: Served, data: Data, labels: Tensor) -> HeldOut:
    """The first rows of tokens, and the probabilities of their labels, of which a run has stored the NLL."""
    run = served.reference.run
    index, recorded = runs.parts_of(run)["heldout"], runs.read_token_scores(run)
    ours = labels[index[index < len(labels)]]
    if not torch.equal(ours[ours >= 0], recorded.labels.long()):
        raise _other_labels(runs.read_recipe(run).data_name, run)
    few = index[: max(1, min(_MOST, _MOST_NUMBERS // (labels.shape[1] * data.num_classes)))]
    inputs = Indexed(data.train, num_classes=data.num_classes, collate_fn=data.collate_fn)[few]["input"]
    if served.temperature == 1 and served.reference.epoch is None and served.reference.weights in _STORED:
        nll = runs.read_token_scores(run, kind=served.reference.weights).nll[: int((labels[few] >= 0).sum())]
        return HeldOut(inputs, (-nll.double()).exp(), True, labels[few])
    with torch.no_grad():
        said = Whole(served, raw=False)(inputs)[1].double()
    return HeldOut(inputs, _at_labels(said, labels[few]), False, labels[few])


def _at_labels(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Of (n, L, C) and labels (n, L), those that count: (m,)."""
    return probabilities.gather(-1, labels.clamp(min=0)[..., None])[..., 0][labels >= 0]


def _stored(served: Served) -> Tensor | None:
    """The probabilities that a run has stored; none of epochs, or of weights with a transform of their own."""
    reference = served.reference
    if reference.epoch is not None or reference.weights not in _STORED:
        return None
    name = f"heldout/{reference.weights}"
    logits = runs.read_predictions(reference.run, name)[name]
    logits = logits if reference.member is None else logits[reference.member]
    return read_logits(logits.double(), temperature=served.temperature).softmax(-1)
