"""Reading a record: any rows, in any order, from where they lie on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.losses.linear import Head
from preceptor.records.forms import Dense
from preceptor.records.hidden import Hidden, in_float32, read_head, targets_of
from preceptor.records.manifest import Manifest, read_manifest
from preceptor.records.shards import Mapped, Shard, listed_shards
from preceptor.records.targets import DenseTargets, Scalars, Targets
from preceptor.runs.verify import verify

TOKENS = "tokens"
"""Of the files that say which tokens a record is of: ``tokens.safetensors``, listed by ``tokens.json``."""
HELDOUT = "heldout"
"""The folder within a record that holds one of held-out samples, as they are."""


class Record:
    """A teacher's stored outputs, mapped into memory.

    Args:
        folder: that a `RecordWriter` has written.
        check: hold each shard to its SHA-256 when it is first read from, for which all of it is read once.

    Raises:
        InputError: there is no record, or it is damaged.
    """

    def __init__(self, folder: Path | str, *, check: bool = True) -> None:
        self.folder: Path = Path(folder)
        self.check: bool = check
        self.manifest: Manifest = read_manifest(self.folder)
        self._shards: list[Shard] = listed_shards(self.folder)
        self._mapped: dict[int, Mapped] = {}
        self._places: dict[int, _Places] = {}
        self._heads: dict[str, Head] = {}

    def __reduce__(self) -> tuple[object, ...]:
        return _opened, (self.folder, self.check)

    def __len__(self) -> int:
        """Samples in the first view."""
        return sum(shard.rows for shard in self._shards if shard.view == 0)

    @property
    def num_classes(self) -> int:
        """C."""
        return self.manifest.num_classes

    @property
    def views(self) -> int:
        """How often each sample is stored."""
        return self.manifest.views

    @property
    def is_of_tokens(self) -> bool:
        """Whether its rows are positions of rows of tokens (`preceptor.records.tokens`)."""
        return (self.folder / f"{TOKENS}.json").is_file()

    @property
    def ids(self) -> Tensor:
        """Of the samples in the first view, ascending, int64 (N,)."""
        return torch.from_numpy(self._places_of(0).ids)

    @property
    def num_bytes(self) -> int:
        """Of all shards."""
        return sum(shard.listed["size"] for shard in self._shards)

    def ids_of(self, view: int) -> Tensor:
        """Of the samples in a view, ascending, int64 (N,)."""
        return torch.from_numpy(self._places_of(view).ids)

    def read(self, ids: Tensor, view: int = 0, *, device: torch.device | str = "cpu") -> Targets:
        """What is stored of some samples, as the losses take it.

        Args:
            ids: int64 (B,), in any order, also more than once.
            view: from 0.
            device: where it is wanted; hidden states meet their head there.

        Raises:
            InputError: a sample or a view that is not there, or a damaged shard.
        """
        form = self.manifest.form
        if isinstance(form, Dense):
            return DenseTargets(self._rows(("log_probs",), ids, view)["log_probs"].float()).to(device)
        if isinstance(form, Hidden):
            return targets_of(self._rows(form.arrays, ids, view), self._head_on(device))
        arrays = self._rows((*form.arrays, "scalars", "labels"), ids, view)
        return form.unpack(arrays, self._scalars(arrays), self.num_classes).to(device)

    def log_probs(self, ids: Tensor, view: int = 0) -> Tensor:
        """Log-probabilities at T = 1, float32 (B, C), of a dense record or one of hidden states.

        Raises:
            InputError: as `read`, or a record of another form.
        """
        if not isinstance(self.manifest.form, Dense | Hidden):
            raise InputError(
                f"the record '{self.folder}' is of the form '{self.manifest.form.kind}', which has not all classes; "
                "give its targets, record.read(ids), to a loss"
            )
        return self.read(ids, view).log_probs

    @property
    def head(self) -> Head:
        """What makes logits of hidden states, as it was stored, on the CPU.

        Raises:
            InputError: a record of another form, or the head is missing or damaged.
        """
        self._form_of_hidden()
        if "stored" not in self._heads:
            # That of held-out samples is the record's.
            self._heads["stored"] = read_head(self.folder.parent if self.folder.name == HELDOUT else self.folder)
        return self._heads["stored"]

    def hidden(self, ids: Tensor, view: int = 0) -> Tensor:
        """Stored hidden states (B, H), which the fused losses of `preceptor.losses.linear` take beside the `head`.

        Raises:
            InputError: as `read`, or a record of another form.
        """
        return self._rows(self._form_of_hidden().arrays, ids, view)["hidden"]

    def hidden_and_head(self, ids: Tensor, view: int = 0, *, device: torch.device | str = "cpu") -> tuple[Tensor, Head]:
        """Hidden states (B, H) and the head that makes logits of them, both float32 and on `device`.

        Raises:
            InputError: as `read`, or a record of another form.
        """
        head = self._head_on(device)
        return self.hidden(ids, view).to(device, torch.float32), head

    def _form_of_hidden(self) -> Hidden:
        form = self.manifest.form
        if not isinstance(form, Hidden):
            raise InputError(
                f"the record '{self.folder}' is of the form '{form.kind}', which has no hidden states; record the form "
                "'hidden'"
            )
        return form

    def _head_on(self, device: torch.device | str) -> Head:
        if str(device) not in self._heads:
            self._heads[str(device)] = in_float32(self.head, device)
        return self._heads[str(device)]

    def scalars(self, ids: Tensor, view: int = 0) -> Scalars:
        """What is stored beside every form, of some samples.

        Raises:
            InputError: as `read`.
        """
        return self._scalars(self._rows(("scalars", "labels"), ids, view))

    def features(self, name: str, ids: Tensor, view: int = 0) -> Tensor:
        """The stored outputs (B, ...) of a named module.

        Raises:
            InputError: as `read`, or no such module.
        """
        if name not in self.manifest.features:
            raise InputError(
                f"the record '{self.folder}' has no features of '{name}'; it has those of "
                f"{', '.join(self.manifest.features) or 'no module'}"
            )
        [found] = self._rows((f"features/{name}",), ids, view).values()
        return found

    def rows(self, ids: Tensor, view: int = 0) -> dict[str, Tensor]:
        """All that is stored of some samples, by array, as `RecordWriter.add` takes it.

        Raises:
            InputError: as `read`.
        """
        names = ("labels", "scalars", *self.manifest.form.arrays, *(f"features/{n}" for n in self.manifest.features))
        return {"ids": ids} | self._rows(names, ids, view)

    def verify(self) -> tuple[str, ...]:
        """A sentence for every file that is not what was written, and for what is missing; none where all is well."""
        found = verify(self.folder).problems
        if found:
            return found
        beside = self.folder / HELDOUT
        lacking = Record(beside)._lacking() if beside.is_dir() else ()
        return (*self._lacking(), *lacking)

    def _lacking(self) -> tuple[str, ...]:
        """A sentence for every view that lacks samples."""
        try:
            counts = [len(Record(self.folder)._places_of(view).ids) for view in range(self.views)]
        except InputError as error:
            return (str(error),)
        wanted = self.manifest.num_samples or counts[0]
        return tuple(
            f"view {view} of the record '{self.folder}' has {count} of {wanted} samples; record the others"
            for view, count in enumerate(counts)
            if count != wanted
        )

    def _scalars(self, arrays: Mapping[str, Tensor]) -> Scalars:
        numbers = arrays["scalars"]
        return Scalars(
            entropy=numbers[:, 0],
            log_max=numbers[:, 1],
            powers=self.manifest.grid,
            log_powers=numbers[:, 3:],
            labels=arrays["labels"].long(),
            label_log_probs=numbers[:, 2],
        )

    def _shard(self, number: int) -> Mapped:
        if number not in self._mapped:
            self._mapped[number] = Mapped(self._shards[number], check=self.check)
        return self._mapped[number]

    def _places_of(self, view: int) -> "_Places":
        if view not in self._places:
            if not 0 <= view < self.views:
                raise InputError(f"view is {view}; the record '{self.folder}' has views 0 to {self.views - 1}")
            numbers = [number for number, shard in enumerate(self._shards) if shard.view == view]
            self._places[view] = _Places(self.folder, view, numbers, [self._shard(n).ids() for n in numbers])
        return self._places[view]

    def _rows(self, names: Sequence[str], ids: Tensor, view: int) -> dict[str, Tensor]:
        """The rows of some samples in some arrays."""
        places = self._places_of(view)
        shards, rows = places.find(ids)
        first = self._shard(places.numbers[0])
        used = np.unique(shards) if len(places.numbers) > 1 else shards[:1]
        found = {}
        for name in names:
            if len(used) <= 1:
                array = self._shard(places.numbers[used[0] if len(used) else 0]).arrays[name][0]
                found[name] = first.tensor(name, array.take(rows, axis=0))
                continue
            array = first.arrays[name][0]
            every = np.empty((len(rows), *array.shape[1:]), array.dtype)
            for number in used:
                here = np.flatnonzero(shards == number)
                every[here] = self._shard(places.numbers[number]).arrays[name][0].take(rows[here], axis=0)
            found[name] = first.tensor(name, every)
        return found


def _opened(folder: Path, check: bool) -> Record:
    return Record(folder, check=check)


class _Places:
    """Where the samples of a view lie."""

    def __init__(self, folder: Path, view: int, numbers: list[int], ids: list[np.ndarray]) -> None:
        self.folder, self.view, self.numbers = folder, view, numbers
        every = np.concatenate(ids) if ids else np.zeros(0, np.int64)
        order = np.argsort(every, kind="stable")
        self.ids: np.ndarray = every[order]
        twice = np.flatnonzero(self.ids[1:] == self.ids[:-1])
        if len(twice):
            raise InputError(
                f"sample {self.ids[twice[0]]} is in view {view} of the record '{folder}' twice, from two writers; "
                "remove the folder of one"
            )
        self.shards: np.ndarray = np.repeat(np.arange(len(ids)), [len(each) for each in ids])[order]
        self.rows: np.ndarray = np.concatenate([np.arange(len(each)) for each in ids] or [every])[order]

    def find(self, ids: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """For each id the shard, counted within the view, and the row."""
        if ids.ndim != 1 or ids.dtype != torch.int64:
            raise InputError(f"ids are {ids.dtype} {tuple(ids.shape)}; give int64 (B,)")
        wanted = ids.cpu().numpy()
        places = np.minimum(np.searchsorted(self.ids, wanted), len(self.ids) - 1)
        missing = np.flatnonzero(self.ids[places] != wanted) if len(self.ids) else np.arange(1)
        if len(missing):
            what = f"sample {wanted[missing[0]]} is not" if len(wanted) else "no sample is"
            raise InputError(
                f"{what} in view {self.view} of the record '{self.folder}', which has {len(self.ids)} samples; record "
                "it, or leave it out"
            )
        return self.shards[places], self.rows[places]
