"""Labels against what people said of the same samples."""

import numpy as np

from preceptor.errors import InputError

__all__ = ["refuse_contradicted"]

# Some labels that none of a few raters gave are no wonder; so many are none of these samples'.
_MOST = 1 / 3


def refuse_contradicted(labels: np.ndarray, raters: np.ndarray, frequencies: np.ndarray) -> None:
    """Refuse labels (N,) that none of the raters gave, or that the truth excludes, in a third of the rows or more.

    How often a further rater says what none has said is estimated as Good and Turing do: by the share of classes that
    were named once. Of few raters, who agree in nothing, no label is a contradiction.

    Raises:
        InputError: naming the first such row.
    """
    nobody = frequencies[np.arange(len(labels)), labels] == 0
    finite = np.isfinite(raters)
    counts = np.where(finite, raters, 0.0)[:, None] * frequencies
    once = np.abs(counts - 1) < 1e-6
    expected = np.where(finite, once.sum(-1) / np.where(finite, raters, 1.0), 0.0)
    if nobody.mean() < max(_MOST, expected.mean() + _MOST / 2):
        return
    place = int(np.argmax(nobody))
    who = "none of the raters gave" if finite.all() else "the truth excludes"
    raise InputError(
        f"The labels contradict the {'counts' if finite.all() else 'truth'}: in {nobody.sum()} of {len(labels)} rows "
        f"{who} them (the first: row {place}, label {labels[place]}). Bring both into one order of samples and "
        "classes, or leave the labels out.",
        argument="labels",
    )
