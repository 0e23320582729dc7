"""Records to Parquet and back, and Parquet files that others have written."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from preceptor.errors import InputError
from preceptor.records import Dense, Manifest, Record, RecordWriter, Sampled, TopK
from preceptor.records.parquet import from_parquet, to_parquet
from preceptor.study.teachers import read_candidates
from records.test_folder import C, N, contents, manifest, outputs, write

FORMS = [Dense(), Dense("bfloat16"), TopK(3), TopK(4, "uint8"), TopK(1), Sampled(1), Sampled(3, (1.0, 0.25), "float32")]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_there_and_back_is_the_same_record_byte_for_byte(tmp_path: Path, form):
    write(tmp_path / "a", manifest(form, views=2))
    to_parquet(Record(tmp_path / "a"), tmp_path / "a.parquet")
    from_parquet(tmp_path / "a.parquet", tmp_path / "b", shard_size=16)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")
    with pytest.raises(InputError, match="is there; give the name of a new file"):
        to_parquet(Record(tmp_path / "a"), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="is a record already"):
        from_parquet(tmp_path / "a.parquet", tmp_path / "c", form=Dense())


def test_a_dense_record_as_parquet_is_a_file_that_assess_reads(tmp_path: Path):
    write(tmp_path / "a", manifest())
    to_parquet(Record(tmp_path / "a"), tmp_path / "a.parquet")
    [candidate] = read_candidates([tmp_path / "a.parquet"])
    np.testing.assert_allclose(candidate.logits, outputs(), rtol=1e-6)
    assert np.array_equal(candidate.labels, np.arange(N) % C)


def as_lists(logits: np.ndarray) -> pa.Array:
    return pa.array(logits.tolist())


def fixed(logits: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1)), logits.shape[1])


def objects(logits: np.ndarray) -> pa.Array:
    """What comes of a pandas or Ray column that holds an array in every cell."""
    cells = np.empty(len(logits), dtype=object)
    cells[:] = list(logits)
    return pa.array(cells)


def tensors(logits: np.ndarray) -> pa.Array:
    return pa.FixedShapeTensorArray.from_numpy_ndarray(logits)


@pytest.mark.parametrize("column", [as_lists, fixed, objects, tensors])
def test_what_others_write_is_read(tmp_path: Path, column):
    logits = np.random.default_rng(0).normal(size=(N, C)).astype(np.float32)
    ids = np.arange(N)[::-1].copy()
    pq.write_table(pa.table({"id": ids, "logits": column(logits), "label": ids % C}), tmp_path / "theirs.parquet")
    record = from_parquet(tmp_path / "theirs.parquet", tmp_path / "a")
    assert record.manifest.identity.ids == "given"
    found = record.log_probs(torch.from_numpy(ids))
    torch.testing.assert_close(found, torch.from_numpy(logits).log_softmax(-1), rtol=1e-5, atol=1e-6)
    assert torch.equal(record.scalars(torch.tensor([7])).labels, torch.tensor([7]))
    top = from_parquet(tmp_path / "theirs.parquet", tmp_path / "b", form=TopK(2))
    assert top.read(torch.tensor([N - 1])).ids.tolist() == [np.argsort(-logits[0])[:2].tolist()]


def test_probabilities_are_said_to_be_some(tmp_path: Path):
    probs = outputs().exp().numpy()
    pq.write_table(pa.table({"logits": fixed(probs)}), tmp_path / "p.parquet")
    record = from_parquet(tmp_path / "p.parquet", tmp_path / "a", probabilities=True)
    torch.testing.assert_close(record.log_probs(torch.arange(N)), outputs(), rtol=1e-4, atol=1e-5)
    pq.write_table(pa.table({"logits": fixed(3 * probs)}), tmp_path / "q.parquet")
    with pytest.raises(InputError, match="do not sum to 1"):
        from_parquet(tmp_path / "q.parquet", tmp_path / "b", probabilities=True)


def test_other_files_are_refused(tmp_path: Path):
    for name, table, sentence in [
        ("a", {"scores": [[0.0, 1.0]]}, "no 'logits'"),
        ("b", {"label": [1]}, "has no column 'logits'; rename"),
        ("c", {"logits": [[0.0, 1.0]], "id": ["x"]}, "the ids of .* are not whole numbers"),
        ("d", {"logits": [[0.0, 1.0], [0.0]]}, "has 1 numbers in row 1 and 2 in row 0"),
    ]:
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        with pytest.raises(InputError, match=sentence):
            from_parquet(tmp_path / f"{name}.parquet", tmp_path / name)
    with pytest.raises(InputError, match=r"nothing.parquet"):
        from_parquet(tmp_path / "nothing.parquet", tmp_path / "e")
    with RecordWriter(tmp_path / "f", Manifest(form=Dense(), num_classes=C)):
        pass
    with pytest.raises(InputError, match="has no samples"):
        to_parquet(Record(tmp_path / "f"), tmp_path / "f.parquet")
    assert not (tmp_path / "f.parquet").exists()
