"""What a run's model says to new inputs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.names import Trust
from preceptor.runs import Factory, has_token_scores, read_recipe
from preceptor.serving.inputs import Part, batches, parts_of
from preceptor.serving.served import Served, Whole, served

_BATCH = 256


@dataclass(frozen=True, eq=False)
class Answers:
    """The predictions for N inputs, in their order."""

    sources: tuple[str, ...]
    """The file of each, (N,); "" for what was handed over."""
    rows: tuple[int, ...]
    """The place in its file or in what was handed over, from 0, (N,)."""
    probabilities: np.ndarray
    """float32 (N, C), each row with the sum 1."""
    class_names: tuple[str, ...]
    """Of the C classes."""

    @property
    def labels(self) -> np.ndarray:
        """The most probable class of each input, int64 (N,)."""
        return self.probabilities.argmax(-1)

    def columns(self, *, top: int = 1, every: bool = False) -> dict[str, list[Any]]:
        """A table by column: file, row, class, probability; ``class_2``, ``probability_2``, ... of the next probable.

        Args:
            top: so many classes of each input.
            every: a column for each class more, ``p(name)``.

        Raises:
            InputError: more classes than there are, or fewer than one.

        >>> answers = Answers(("a.png",), (0,), np.array([[0.25, 0.75]], np.float32), ("cat", "dog"))
        >>> answers.columns(top=2)["class"], answers.columns(top=2)["probability_2"]
        (['dog'], [0.25])
        """
        if not 1 <= top <= len(self.class_names):
            raise InputError(f"top is {top}; give 1 to {len(self.class_names)}, the number of classes", argument="top")
        order = np.argsort(-self.probabilities, axis=-1, kind="stable")[:, :top]
        table: dict[str, list[Any]] = {"file": list(self.sources)} if any(self.sources) else {}
        table["row"] = list(self.rows)
        for place in range(top):
            ending = f"_{place + 1}" if place else ""
            table[f"class{ending}"] = [self.class_names[label] for label in order[:, place]]
            found = np.take_along_axis(self.probabilities, order[:, place : place + 1], -1)[:, 0]
            table[f"probability{ending}"] = found.tolist()
        if every:
            table |= {f"p({n})": self.probabilities[:, label].tolist() for label, n in enumerate(self.class_names)}
        return table


def predict(
    run: Path | str,
    inputs: Any,
    *,
    resize: bool = False,
    member: int | None = None,
    model: Factory | str | None = None,
    trust: Trust = False,
) -> Answers:
    """What a run's model says to files or arrays, which are prepared as the run's own data were.

    Args:
        run: ``RUN``, ``RUN:best``, ``RUN:best:calibrated``, ``RUN:member-2``.
        inputs: a path or several: images (for a run of images whose pixels were bytes), ``.npz`` (its array ``inputs``)
            or ``.npy``, or files with a text on each line (`Path`, for a run of texts); texts, one or several (`str`,
            likewise); or an array or tensor (N, ...) of raw numbers, before the run's normalisation, where that is
            known, else of inputs as the model takes them.
        resize: scale images of another size than the run's to cover it, bilinearly, and keep their middle.
        member: which model of a stack.
        model, trust: as of `preceptor.load`.

    Raises:
        InputError: as `preceptor.load`; a language model; a file that cannot be read, is of another kind, size or
            shape, or not finite.

    >>> import tempfile, preceptor
    >>> folder = tempfile.mkdtemp()
    >>> _ = preceptor.teach(data="digits", model="mlp", epochs=1, device="cpu", folder=folder)
    >>> predict(folder, np.zeros((2, 1, 8, 8))).probabilities.shape
    (2, 10)
    """
    found = served(run, member=member, model=model, trust=trust)
    if has_token_scores(found.reference.run):
        raise InputError(
            f"'{run}' is a language model, which says what comes next at each place of a text and not which class it "
            f"is of; see what it is worth, preceptor assess {found.reference.run}, or let transformers write text with "
            f"it, preceptor export {run} --to pretrained"
        )
    sources: list[str] = []
    rows: list[int] = []

    def counted() -> Iterator[Part]:
        for part in parts_of(inputs, found, resize=resize):
            sources.extend([part.source] * len(part.inputs))
            rows.extend(range(len(part.inputs)))
            yield part

    device = _device(found)
    whole = Whole(found, raw=found.is_normalized).to(device)
    answers = [_answer(whole, batch.to(device), found) for batch in batches(counted(), _BATCH)]
    return Answers(tuple(sources), tuple(rows), torch.cat(answers).numpy(), found.weights.class_names)


def _device(found: Served) -> torch.device:
    """Where the run was trained: its recipe may say the CPU."""
    elsewhere = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    on_cpu = elsewhere is None or read_recipe(found.reference.run).training.device == "cpu"
    return torch.device("cpu") if on_cpu or elsewhere is None else elsewhere


@torch.no_grad()
def _answer(whole: Whole, batch: Tensor, found: Served) -> Tensor:
    try:
        probabilities = whole(batch)[1].cpu()
    except InputError:
        raise
    except Exception as error:  # of anybody's model
        raise InputError(
            f"the model of '{found.name}' cannot take inputs of shape {tuple(batch.shape)} and {batch.dtype} "
            f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); give inputs like those it was "
            "trained on"
        ) from None
    if not probabilities.isfinite().all():
        raise InputError(f"the model of '{found.name}' gives probabilities that are not finite; it has diverged")
    return probabilities
