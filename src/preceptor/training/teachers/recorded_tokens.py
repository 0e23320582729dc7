"""Rows of tokens as a record has them: what is asked of a language model, position after position."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.inputs import taken
from preceptor.losses.linear import Head
from preceptor.records.forms import Dense, Form, Hidden
from preceptor.records.hidden import write_head
from preceptor.records.tokens import token_ids, tokens_at, write_tokens
from preceptor.records.writer import RecordWriter
from preceptor.tasks.teacher import Teacher, TeacherFn, in_eval_mode, of_all_classes
from preceptor.tasks.tokens import of_tokens
from preceptor.training.data.samples import Samples

_NUMBERS = 2**25  # logits of a batch: in float32 128 MB
_MOST_ROWS, _SHARD_BYTES = 256, 2**26
_LEAST, _MOST = 256, 2**18  # rows of a shard
_SCALARS = 60  # bytes beside what a form stores: ten floats, the label and the id
Batch = Mapping[str, Any]


class TokenRows:
    """How rows of tokens become rows of a record, one for each position that counts.

    Args:
        samples: whose data are rows of tokens.
        form: of the record.
        teacher: to be asked.
        features: what of its inner modules is asked for: nothing.
        few: a batch of some rows, on the device.

    Raises:
        InputError: hidden states of a teacher that is no language model alone, or features.
    """

    def __init__(self, samples: Samples, form: Form, teacher: TeacherFn, features: tuple[str, ...], few: Batch) -> None:
        if features:
            raise InputError("features are recorded of samples, and these are rows of tokens; leave features out")
        self.samples: Samples = samples
        self.teacher: TeacherFn = teacher
        asked = hidden_states_of(teacher) if isinstance(form, Hidden) else None
        self.states_of: Callable[[Batch], tuple[Tensor, Head]] | None = asked
        self.head: Head | None = None if self.states_of is None else self.states_of(few)[1]
        length, classes = samples.labels.shape[1], samples.data.num_classes
        self.batch: int = max(1, min(_MOST_ROWS, _NUMBERS // (length * classes)))
        self.shard_size: int = max(_LEAST, min(_MOST, _SHARD_BYTES // self._row_bytes(form)))

    def _row_bytes(self, form: Form) -> int:
        if isinstance(form, Hidden):
            return 4 * (0 if self.head is None else self.head.weight.shape[1]) + _SCALARS
        return (4 * self.samples.data.num_classes if isinstance(form, Dense) else 8 * form.k) + _SCALARS

    def ids(self, rows: Tensor) -> Tensor:
        """Of the positions of some rows (N,) that count, int64 (n,)."""
        return token_ids(rows, self.samples.labels[rows] >= 0)

    def write_beside(self, folder: Path, rows: Tensor, *, head: bool = False) -> None:
        """Write down which tokens these rows (N,), ascending, are, and the head of hidden states if it is wanted."""
        data = self.samples.data
        if head and self.head is not None:
            write_head(folder, self.head)
        write_tokens(folder, tokens_at(data.train, rows, context_of(data.preprocessing)))

    def write(self, writer: RecordWriter, batch: Batch, view: int) -> None:
        """Ask the teacher, and add what it says to a record."""
        mask: Tensor = batch["mask"]
        states = None
        if self.states_of is None:
            said = of_tokens(of_all_classes(self.teacher(batch), "a record"), mask, "the teacher")
        else:
            states, head = self.states_of(batch)
            states = states[mask]
            said = head.logits(states)
        ids = token_ids(batch["index"].cpu(), mask.cpu())
        log_probs = said.float().log_softmax(-1).cpu()
        writer.write(ids, view, log_probs, labels=batch["label"][mask].cpu(), hidden=states)


def context_of(preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """What decides what a position sees."""
    found = preprocessing.get("context")
    return dict(found) if isinstance(found, Mapping) else {}


def hidden_states_of(teacher: TeacherFn) -> Callable[[Batch], tuple[Tensor, Head]]:
    """A teacher as a function from a batch to what its head is given, (B, L, H), and the head.

    Raises:
        InputError: it is not one language model whose hidden states can be had.
    """
    model = teacher.model if isinstance(teacher, Teacher) else None
    method = getattr(model, "hidden_and_head", None)
    if not isinstance(teacher, Teacher) or method is None:
        what = type(teacher if model is None else model).__name__
        raise InputError(
            f"the form 'hidden' needs a causal language model with hidden_and_head, and the teacher is a {what}; "
            "record the form 'dense' or 'sampled'",
            argument="form",
        )
    if teacher.distribution != "softmax" or teacher.transform is not None or teacher.temperature != 1:
        raise InputError(
            "the form 'hidden' stores a model as it is, and the teacher's outputs are changed after its head; record "
            "the form 'dense' or 'sampled'",
            argument="form",
        )

    @torch.no_grad()
    def asked(batch: Batch) -> tuple[Tensor, Head]:
        inputs = batch["input"]
        with in_eval_mode(teacher.model):
            return method(**{name: inputs[name] for name in taken(teacher.model, inputs)})

    return asked
