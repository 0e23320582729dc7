"""Writing a record: rows into shards, several writers side by side, and on after whatever stopped one."""

import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.records.forms import scalars_of
from preceptor.records.hidden import Hidden
from preceptor.records.ids import Ids
from preceptor.records.manifest import MANIFEST, Manifest, difference, read_manifest, write_manifest
from preceptor.records.powers import blocks_of
from preceptor.records.sampling import uniforms
from preceptor.records.shards import Mapped, Shard, listed_shards, read_index, write_index, write_shard
from preceptor.runs import files

Rows = list[dict[str, Tensor]]


class RecordWriter:
    """Writes a teacher's outputs into a record, new or begun.

    A shard is on disk whole or not at all, and what is on disk is never written again: after a stop, however sudden,
    the same calls of `write` complete the record to the same bytes. Rows that do not fill a shard are written by
    `close`.

    Args:
        folder: of the record.
        manifest: of the record; one that is there must say the same.
        shard_size: rows of a shard.
        name: of this writer, and of its folder in the record: letters, digits, ``-`` and ``_``. Writers of other names
            may write at the same time, each its own samples.

    Raises:
        InputError: the record that is there is another, or somebody else writes under this name.
    """

    def __init__(
        self, folder: Path | str, manifest: Manifest, *, shard_size: int = 16_384, name: str = "writer-0"
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise InputError(f"a writer's name is {name!r}; give one of letters, digits, '-' and '_'")
        if shard_size < 1:
            raise InputError(f"shard_size is {shard_size}; give 1 or more")
        manifest.form.check(manifest.num_classes)
        self.folder: Path = Path(folder)
        self.manifest: Manifest = manifest
        self.shard_size: int = shard_size
        self.own: Path = self.folder / name
        files.make_folder(self.own)
        self._held = ExitStack()
        with files.locked(self.folder):
            files.remove_left_overs(self.folder)
            self._enter_manifest()
        self._held.enter_context(files.locked(self.own))
        files.remove_left_overs(self.own)
        self._shards: list[Shard] = read_index(self.own)
        self._there: dict[int, Ids] = _ids_there(self.folder, manifest.views)
        self._new: dict[int, Ids] = {view: Ids() for view in range(manifest.views)}
        self._rows: dict[int, Rows] = {view: [] for view in range(manifest.views)}

    def _enter_manifest(self) -> None:
        if not (self.folder / MANIFEST).is_file():
            write_manifest(self.folder, self.manifest)
            return
        problem = difference(read_manifest(self.folder), self.manifest)
        if problem:
            raise InputError(
                f"the record '{self.folder}' is another: {problem} (the one is there, the other is asked for); give "
                "another folder",
                argument="folder",
            )

    def done(self, view: int = 0) -> Ids:
        """The ids whose rows are on disk, of whatever writer, as of when this one was opened: a set that takes 16 bytes
        for each run of consecutive ones.
        """
        return self._there[view]

    def write(
        self,
        ids: Tensor,
        view: int,
        log_probs: Tensor,
        labels: Tensor | None = None,
        features: Mapping[str, Tensor] | None = None,
        hidden: Tensor | None = None,
    ) -> None:
        """Add rows. Those whose ids are `done` are left out, so that the same calls may be made again.

        Args:
            ids: of the samples, int64 (B,), not negative.
            view: from 0.
            log_probs: at T = 1, (B, C): -inf allowed.
            labels: int64 (B,), -1 where unknown.
            features: outputs (B, ...) of the modules that the manifest names.
            hidden: of the form `Hidden` the states (B, H) that `log_probs` were made of.

        Raises:
            InputError: another shape, logits, NaN, or a sample twice.
        """
        _check_hidden(hidden, ids, self.manifest)
        _check(ids, view, log_probs, labels, features or {}, self.manifest)
        ids, log_probs = ids.cpu(), log_probs.detach().float().cpu()
        labels = torch.full_like(ids, -1) if labels is None else labels.cpu()
        source = log_probs if hidden is None else hidden.detach().cpu()
        blocks = [
            self._packed(ids[rows], view, log_probs[rows], labels[rows], source[rows]) for rows in blocks_of(log_probs)
        ]
        if blocks:
            packed = {name: torch.cat([each[name] for each in blocks]) for name in blocks[0]}
            stored = {f"features/{name}": each.detach().cpu() for name, each in (features or {}).items()}
            self.add(view, packed | stored)

    def _packed(self, ids: Tensor, view: int, log_probs: Tensor, labels: Tensor, source: Tensor) -> dict[str, Tensor]:
        """Rows as they are stored, without features; `source` is what the form is made of."""
        scalars = scalars_of(log_probs, labels, self.manifest.grid)
        numbers = [scalars.entropy, scalars.log_max, scalars.label_log_probs]
        return {
            "ids": ids,
            "labels": labels.int(),
            "scalars": torch.cat([torch.stack(numbers, -1), scalars.log_powers], -1),
            **self.manifest.form.pack(source, uniforms(self.manifest.seed, ids, view), scalars),
        }

    def add(self, view: int, rows: Mapping[str, Tensor]) -> None:
        """Add rows as they are stored (`Record.rows`), but for those whose ids are `done`.

        Raises:
            InputError: a sample twice.
        """
        fresh = self._fresh(rows["ids"], view)
        if not fresh.any():
            return
        # Computed from the whole batch, and only then left out, so that the same batch gives the same bytes.
        self._rows[view].append({name: each[fresh] for name, each in rows.items()})
        while sum(len(each["ids"]) for each in self._rows[view]) >= self.shard_size:
            self._write_shard(view, self.shard_size)

    def _fresh(self, ids: Tensor, view: int) -> Tensor:
        numbers = ids.numpy()
        is_fresh = ~self._there[view].has(numbers)
        fresh = numbers[is_fresh]
        again = fresh[self._new[view].has(fresh)]
        values, counts = np.unique(fresh, return_counts=True)
        again = again if len(again) else values[counts > 1]
        if len(again):
            raise InputError(f"sample {again.min()} is written twice into view {view}; give each id once")
        self._new[view].add(fresh)
        return torch.from_numpy(is_fresh)

    def _write_shard(self, view: int, size: int) -> None:
        whole = {name: torch.cat([each[name] for each in self._rows[view]]) for name in self._rows[view][0]}
        self._rows[view] = [{name: each[size:] for name, each in whole.items()}] if len(whole["ids"]) > size else []
        number = sum(each.view == view for each in self._shards)
        shard = write_shard(self.own, view, number, {name: each[:size] for name, each in whole.items()})
        self._shards.append(shard)
        write_index(self.own, self._shards)

    def close(self) -> None:
        """Write what is left, and let others write under this name."""
        for view, rows in self._rows.items():
            if rows:
                self._write_shard(view, self.shard_size)
        self._held.close()

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:  # a shard that is short would not be where an uninterrupted writer has a full one
            self._held.close()


def _check_hidden(hidden: Tensor | None, ids: Tensor, manifest: Manifest) -> None:
    wanted = isinstance(manifest.form, Hidden)
    if wanted != (hidden is not None):
        what = "no hidden states are given; give them" if wanted else "hidden states are given; leave them out"
        raise InputError(f"the form is '{manifest.form.kind}' and {what}")
    if hidden is not None and (hidden.ndim != 2 or len(hidden) != len(ids) or not hidden.is_floating_point()):
        raise InputError(f"hidden states are {hidden.dtype} {tuple(hidden.shape)}; give floats (B, H), one row an id")


def _ids_there(folder: Path, views: int) -> dict[int, Ids]:
    found = {view: Ids() for view in range(views)}
    for shard in listed_shards(folder):
        found[shard.view].add(Mapped(shard).ids().astype(np.int64))
    return found


def _check(
    ids: Tensor,
    view: int,
    log_probs: Tensor,
    labels: Tensor | None,
    features: Mapping[str, Tensor],
    manifest: Manifest,
) -> None:
    if ids.dtype != torch.int64 or ids.ndim != 1 or (len(ids) and int(ids.min()) < 0):
        raise InputError(f"ids are {ids.dtype} {tuple(ids.shape)}; give int64 (B,), none of them negative")
    if not 0 <= view < manifest.views:
        raise InputError(f"view is {view}; the record has views 0 to {manifest.views - 1}")
    wanted = (len(ids), manifest.num_classes)
    if tuple(log_probs.shape) != wanted:
        raise InputError(f"log_probs have shape {tuple(log_probs.shape)}; give one row for each id, {wanted}")
    total = torch.cat([log_probs[rows].detach().float().logsumexp(-1) for rows in blocks_of(log_probs)] or [log_probs])
    wrong = ~(total.abs() < 1e-2)
    if wrong.any():
        row = int(wrong.int().argmax())
        raise InputError(
            f"the probabilities of sample {int(ids[row])} sum to {float(total[row].exp()):.4g}; give "
            "log-probabilities, logits.log_softmax(-1)"
        )
    if labels is not None and (labels.dtype != torch.int64 or labels.shape != ids.shape):
        raise InputError(f"labels are {labels.dtype} {tuple(labels.shape)}; give int64, one for each id")
    if labels is not None and len(labels) and not (-1 <= int(labels.min()) <= int(labels.max()) < manifest.num_classes):
        raise InputError(
            f"labels reach from {int(labels.min())} to {int(labels.max())}; give classes from 0 to "
            f"{manifest.num_classes - 1}, or -1 where unknown"
        )
    if {*features} != {*manifest.features}:
        raise InputError(
            f"features of {', '.join(sorted(features)) or 'no module'} are given where the manifest names "
            f"{', '.join(manifest.features) or 'none'}; give the same"
        )
    for name, each in features.items():
        if len(each) != len(ids):
            raise InputError(f"the features of '{name}' have shape {tuple(each.shape)}; give one row for each id")
