"""A record of tokens as a teacher: rows are found by what they hold, wherever a student's data have them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.linear import Head
from preceptor.records.hidden import Hidden
from preceptor.records.reader import Record
from preceptor.records.targets import Targets
from preceptor.records.teacher import RecordTeacher
from preceptor.records.tokens import Tokens, digests_of, is_of_tokens, read_tokens, token_ids


class TokenRecordTeacher(RecordTeacher):
    """A teacher that looks its answers to rows of tokens up in a record, by the content of the rows.

    A data set may be shuffled, be longer, or be of another file: a row of the same tokens, positions and next tokens
    has the answers that were recorded.

    Args:
        record: of tokens, or its folder.
        temperature: as of `RecordTeacher`.

    Raises:
        InputError: as `RecordTeacher`; a record that is not of tokens.
    """

    def __init__(self, record: Record | Path | str, *, temperature: float = 1.0) -> None:
        super().__init__(record, temperature=temperature)
        self.tokens: Tokens = read_tokens(self.record.folder)
        self.heldout_tokens: Tokens | None = None if self.heldout is None else read_tokens(self.heldout.folder)

    def __call__(self, batch: Mapping[str, Any]) -> Tensor | Targets:
        """What is stored of the n positions of a batch that count, row after row: log-probabilities (n, V), or targets.

        Args:
            batch: ``input`` (``input_ids`` and ``position_ids``, int64 (B, L)), ``label`` (int64 (B, L)), ``mask``
                (bool (B, L)) and, where a view is meant, ``view``; ``index`` (B,) for errors.

        Raises:
            InputError: a row that is not on record.
        """
        record, ids, view = self._found(batch)
        return self._tempered(record.read(ids, view, device=batch["mask"].device))

    def states_and_head(self, batch: Mapping[str, Any]) -> tuple[Tensor, Head] | None:
        """What makes the same answer without n times V numbers: hidden states (n, H) of the positions that count, and
        their head, float32.

        Args:
            batch: as of a call.

        Returns:
            None of a record of another form, or where no head has the temperature.

        Raises:
            InputError: a row that is not on record.
        """
        if not isinstance(self.record.manifest.form, Hidden):
            return None
        if self.temperature != 1 and self.record.head.softcap is not None:
            return None
        record, ids, view = self._found(batch)
        states, head = record.hidden_and_head(ids, view, device=batch["mask"].device)
        return states, Head(head.weight, head.bias, head.scale / self.temperature, head.softcap)

    def _found(self, batch: Mapping[str, Any]) -> tuple[Record, Tensor, int]:
        """The record, the ids (n,) and the view of the positions of a batch that count."""
        mask: Tensor = batch["mask"]
        counting = mask.any(-1)
        inputs = {name: each[counting] for name, each in batch["input"].items()}
        digests = digests_of(inputs, batch["label"][counting])
        record, rows = self._looked_up(digests, "view" in batch)
        if bool((rows < 0).any()):
            index = batch["index"][counting] if "index" in batch else counting.nonzero()[:, 0]
            raise self.lacking(int(index.cpu()[rows < 0][0]))
        view = int(torch.as_tensor(batch["view"]).reshape(-1)[0]) if "view" in batch else 0
        return record, token_ids(rows, mask[counting].cpu()), view

    def _looked_up(self, digests: Tensor, shown: bool) -> tuple[Record, Tensor]:
        """The record that the rows are in, and which of its rows they are: held-out ones are not shown in training."""
        if self.heldout is not None and self.heldout_tokens is not None and not shown:
            rows = self.heldout_tokens.find(digests)
            if bool((rows >= 0).all()):
                return self.heldout, rows
        return self.record, self.tokens.find(digests)

    def lacking(self, row: int) -> InputError:
        """The sentence for a row of the student's data that is not on record."""
        return InputError(
            f"row {row} of the data is none of the {len(self.tokens.rows)} rows of tokens in the record "
            f"'{self.record.folder}'; record the teacher for these data, or leave it out"
        )

    def features(self, names: Sequence[str], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Refused: there are none of rows of tokens."""
        raise InputError(f"the record '{self.record.folder}' is of tokens and has no features; take the live teacher")


def teacher_of(folder: Path | str) -> RecordTeacher:
    """A record as a teacher, of samples or of tokens.

    Raises:
        InputError: there is no record, or it is damaged.
    """
    return TokenRecordTeacher(folder) if is_of_tokens(Path(folder)) else RecordTeacher(folder)
