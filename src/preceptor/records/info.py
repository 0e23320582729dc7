"""What a record holds, for people and programs."""

from pathlib import Path
from typing import Any

from preceptor.records.forms import Dense, Hidden, Sampled, TopK
from preceptor.records.hidden import HEAD
from preceptor.records.manifest import Manifest
from preceptor.records.reader import Record
from preceptor.records.scores import scores
from preceptor.records.teacher import heldout_of
from preceptor.records.token_scores import token_scores
from preceptor.records.tokens import is_of_tokens, read_tokens


def describe(folder: Path | str) -> dict[str, Any]:
    """A record in plain values: of whom, for which samples, in which form, how exact, and what its teacher is worth.

    ``teacher's scores`` are means over the recorded samples that have a label, ``held-out scores`` over the held-out
    samples where these were recorded, too.

    Raises:
        InputError: there is no record, or it is damaged.
    """
    record = Record(folder)
    manifest = record.manifest
    rows = sum(len(record.ids_of(view)) for view in range(record.views))
    found: dict[str, Any] = {
        "record": str(folder),
        "teacher": manifest.identity.teacher or "not said",
        "samples": len(record),
        "complete": manifest.num_samples is None or not record.verify(),
        "views": record.views,
        "classes": record.num_classes,
        "form": _form(manifest),
        "losses": _promise(manifest),
        "bytes": record.num_bytes,
        "bytes a row": round(record.num_bytes / max(rows, 1), 1),
        "dense float32": 4 * record.num_classes,
    }
    if is_of_tokens(record.folder):
        found["rows of tokens"] = len(read_tokens(record.folder).rows)
    if isinstance(manifest.form, Hidden):
        found["bytes of the head"] = (record.folder / f"{HEAD}.safetensors").stat().st_size
    if manifest.features:
        found["features"] = ", ".join(manifest.features)
    if rows:
        found["teacher's scores"] = _scores(record)
    heldout = heldout_of(record)
    if heldout is not None and len(heldout):
        # The scores above are of samples that the teacher may have learned from: too good to go by.
        found["held-out scores"] = _scores(heldout)
    return found


def _form(manifest: Manifest) -> str:
    match manifest.form:
        case Dense(dtype=dtype):
            return f"dense, {dtype}"
        case TopK(k=k, dtype=dtype):
            return f"top {k} and the others' mass, {dtype}"
        case Hidden(dtype=dtype):
            return f"hidden states and their head, {dtype}"
        case Sampled(k=k, sizes=sizes, dtype=dtype):
            return f"{k} sampled, sizes of exponents {', '.join(f'{g:g}' for g in sizes)}, {dtype}"


def _promise(manifest: Manifest) -> str:
    grid = ", ".join(f"{1 / g:.4g}" for g in sorted({1.0, *manifest.grid}))
    match manifest.form:
        case Dense(dtype=dtype) | Hidden(dtype=dtype):
            return f"exact up to {dtype}, at any temperature"
        case TopK():
            return f"bounded from below, at temperatures {grid}"
        case Sampled():
            return f"unbiased, at temperatures {grid} (wttm: any)"


def _scores(record: Record) -> dict[str, float]:
    """Of the samples with a label, and the entropy of all."""
    ids = record.ids
    known = record.scalars(ids)
    if is_of_tokens(record.folder):
        return {name: round(value, 4) for name, value in token_scores(record).means().items()}
    means = {"entropy": float(known.entropy.mean())}
    labelled = ids[known.labels >= 0]
    if len(labelled):
        means |= {name: float(each.mean()) for name, each in scores(record, ids=labelled).items() if name != "entropy"}
    return {name: round(value, 4) for name, value in means.items()}
