"""A record as a teacher, in anybody's loop."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.records.manifest import MANIFEST
from preceptor.records.reader import HELDOUT, Record
from preceptor.records.targets import DenseTargets, Targets

_HALF = (torch.float16, torch.bfloat16)


def heldout_of(record: Record) -> Record | None:
    """What a record says of held-out samples as they are, if it has some."""
    beside = record.folder / HELDOUT
    return Record(beside) if (beside / MANIFEST).is_file() else None


class RecordTeacher:
    """A teacher that looks its answers up in a record.

    Args:
        record: or its folder.
        ids: int64 (N,), for each sample of your data set its id in the record; by default its position,
            ``batch["index"]``.
        temperature: divides the stored log-probabilities, as post-hoc calibration does; of a record of all classes.

    Raises:
        InputError: there is no record, it is damaged, or has no form to which a temperature could be given.

    >>> import tempfile
    >>> from preceptor.records import Dense, Manifest, RecordWriter
    >>> folder = tempfile.mkdtemp()
    >>> with RecordWriter(folder, Manifest(form=Dense(), num_classes=2)) as writer:
    ...     writer.write(torch.tensor([5, 3]), 0, torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log())
    >>> RecordTeacher(folder)({"index": torch.tensor([3])}).exp()
    tensor([[0.2500, 0.7500]])
    """

    def __init__(self, record: Record | Path | str, *, ids: Tensor | None = None, temperature: float = 1.0) -> None:
        self.record: Record = record if isinstance(record, Record) else Record(record)
        self.ids: Tensor | None = ids
        self.temperature: float = temperature
        kind = self.record.manifest.form.kind
        if temperature != 1 and kind not in ("dense", "hidden"):
            raise InputError(
                f"the record '{self.record.folder}' is of the form '{kind}', whose classes do not tell its "
                "distribution at another temperature; give the temperature to the loss"
            )
        self.heldout: Record | None = heldout_of(self.record)

    @property
    def plain(self) -> Path | None:
        """The folder of the record, where it is all that there is to this teacher."""
        return self.record.folder if self.ids is None and self.temperature == 1 else None

    def __call__(self, batch: Mapping[str, Any]) -> Tensor | Targets:
        """What is stored of the samples of a batch: log-probabilities (B, C), or the targets of another form.

        Args:
            batch: ``index`` (int64, (B,)) and, where a view is meant, ``view`` (int64, (B,), all the same). Without it
                held-out samples are looked up as they are, if the record has them, and all others in view 0.

        Raises:
            InputError: a sample that is not on record.
        """
        index = batch["index"]
        ids = self._ids(index)
        record, view = self._place(ids, batch)
        return self._tempered(record.read(ids, view, device=index.device))

    def _tempered(self, found: Targets) -> Tensor | Targets:
        if not isinstance(found, DenseTargets):
            return found
        return found.log_probs if self.temperature == 1 else found.log_probs / self.temperature

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What there are features of."""
        return self.record.manifest.features

    @property
    def features_described(self) -> Mapping[str, str]:
        """Where they were tapped and how they are stored, as far as the record says so."""
        return self.record.manifest.identity.features

    def features(self, names: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Stored features of the samples of a batch, by name; half precision as float32.

        Args:
            names: of `feature_names`.
            batch: as of a call.

        Raises:
            InputError: as of a call; no such features.
        """
        index = batch["index"]
        ids = self._ids(index)
        record, view = self._place(ids, batch)
        found = {name: record.features(name, ids, view).to(index.device) for name in names}
        return {name: each.float() if each.dtype in _HALF else each for name, each in found.items()}

    def _ids(self, index: Tensor) -> Tensor:
        return index.cpu() if self.ids is None else self.ids[index.cpu()]

    def _place(self, ids: Tensor, batch: Mapping[str, Any]) -> tuple[Record, int]:
        if "view" in batch:
            views = torch.as_tensor(batch["view"])
            return self.record, int(views.reshape(-1)[0])
        if self.heldout is not None and bool(torch.isin(ids, self.heldout.ids).all()):
            return self.heldout, 0
        return self.record, 0
