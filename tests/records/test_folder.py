"""A record's folder: written whole, by several, gone on with after any stop, read in any order, and checked."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.records import (
    Dense,
    DenseTargets,
    Identity,
    Manifest,
    Record,
    RecordWriter,
    Sampled,
    SampledTargets,
    TopK,
    TopKTargets,
)
from preceptor.records.reader import _Places
from preceptor.runs.verify import verify

N, C = 50, 10
FORMS = [Dense(), Dense("bfloat16"), TopK(3), Sampled(3)]


def outputs(view: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(view)
    return (3 * torch.randn(N, C, generator=generator)).log_softmax(-1)


def manifest(form: Any = None, **options: Any) -> Manifest:
    return Manifest(form=form or Dense(), num_classes=C, **options)


def write(folder: Path, said: Manifest, ids: Tensor | None = None, *, batch: int = 7, **options: Any) -> None:
    with RecordWriter(folder, said, shard_size=16, **options) as writer:
        for view in range(said.views):
            for rows in (torch.arange(N) if ids is None else ids).split(batch):
                writer.write(rows, view, outputs(view)[rows], rows % C)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


# -- written and read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_any_rows_are_read_in_any_order(tmp_path, form):
    write(tmp_path, manifest(form, views=2))
    record = Record(tmp_path)
    assert (len(record), record.views, record.num_classes) == (N, 2, C)
    assert torch.equal(record.ids, torch.arange(N))
    ids = torch.tensor([41, 3, 3, 17, 0])
    for view in range(2):
        found, expected = record.read(ids, view), outputs(view)[ids]
        assert found.shape == (5, C)
        if isinstance(found, DenseTargets):
            torch.testing.assert_close(found.log_probs, expected, rtol=0 if form.dtype == "float32" else 2**-8, atol=0)
        else:
            assert isinstance(found, TopKTargets | SampledTargets)
            torch.testing.assert_close(found.log_probs, expected.gather(-1, found.ids), rtol=2**-11, atol=0)
            assert torch.equal(found.labels, ids % C)
        numbers = record.scalars(ids, view)
        torch.testing.assert_close(numbers.entropy, torch.distributions.Categorical(logits=expected).entropy())
        torch.testing.assert_close(numbers.label_log_probs, expected[torch.arange(5), ids % C])
        assert torch.equal(numbers.log_max, expected.amax(-1))
        torch.testing.assert_close(
            numbers.log_powers, torch.stack([(g * expected).logsumexp(-1) for g in numbers.powers], -1)
        )
    assert record.read(torch.zeros(0, dtype=torch.int64)).shape == (0, C)


def test_the_top_k_are_the_largest_and_a_sample_is_of_id_and_view_alone(tmp_path):
    write(tmp_path / "top", manifest(TopK(3)))
    found = Record(tmp_path / "top").read(torch.arange(N))
    assert torch.equal(found.ids, outputs().topk(3).indices.sort(-1).values)
    write(tmp_path / "a", manifest(Sampled(3), seed=5))
    write(tmp_path / "b", manifest(Sampled(3), seed=5), torch.arange(N).flip(0), batch=3)
    write(tmp_path / "c", manifest(Sampled(3), seed=6))
    a, b, c = (Record(tmp_path / name).read(torch.arange(N)) for name in "abc")
    assert torch.equal(a.ids, b.ids)
    assert not torch.equal(a.ids, c.ids)


def test_rows_are_mapped_not_loaded_and_a_record_can_be_sent_to_another_process(tmp_path):
    write(tmp_path, manifest())
    record = Record(tmp_path)
    record.read(torch.tensor([20]))
    assert all(isinstance(array, np.memmap) for shard in record._mapped.values() for array, _ in shard.arrays.values())
    assert len(pickle.dumps(record)) < 500
    assert torch.equal(pickle.loads(pickle.dumps(record)).log_probs(torch.tensor([20])), outputs()[20:21])


def test_features_are_stored_in_their_own_dtype(tmp_path):
    features = torch.randn(N, 2, 3).bfloat16()
    with RecordWriter(tmp_path, manifest(features=("stem",)), shard_size=16) as writer:
        for rows in torch.arange(N).split(7):
            writer.write(rows, 0, outputs()[rows], features={"stem": features[rows]})
    record, ids = Record(tmp_path), torch.tensor([49, 1])
    assert torch.equal(record.features("stem", ids), features[ids])
    with pytest.raises(InputError, match="no features of 'head'; it has those of stem"):
        record.features("head", ids)


# -- several, and one after another ------------------------------------------------------------------------------------


def test_several_writers_and_one_that_comes_later(tmp_path):
    thirds = torch.arange(N).split(20)
    first, second = (RecordWriter(tmp_path, manifest(), shard_size=16, name=name) for name in ("a", "b"))
    for writer, rows in ((first, thirds[0]), (second, thirds[1])):
        writer.write(rows, 0, outputs()[rows])
    first.close()
    second.close()
    write(tmp_path, manifest(), name="a")  # all of them: those that are there are left out
    record = Record(tmp_path)
    assert torch.equal(record.log_probs(torch.arange(N)), outputs())
    assert record.verify() == ()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "b"]


def test_two_cannot_write_under_one_name_and_no_sample_is_stored_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("preceptor.runs.files._PATIENCE", 0.2)
    one = RecordWriter(tmp_path, manifest(), shard_size=16)
    with pytest.raises(InputError, match="another process is at work"):
        RecordWriter(tmp_path, manifest())
    rows = torch.arange(3)
    one.write(rows, 0, outputs()[rows])
    with pytest.raises(InputError, match="sample 2 is written twice into view 0"):
        one.write(torch.tensor([2, 8]), 0, outputs()[:2])
    with pytest.raises(InputError, match="sample 9 is written twice into view 0"):
        one.write(torch.tensor([9, 9]), 0, outputs()[:2])
    other = RecordWriter(tmp_path, manifest(), name="other")
    other.write(rows, 0, outputs()[rows])
    one.close()
    other.close()
    with pytest.raises(InputError, match=r"sample 0 is in view 0 .* twice"):
        Record(tmp_path).read(rows)


def test_another_manifest_is_refused_by_the_first_field_that_differs(tmp_path):
    write(tmp_path, manifest(identity=Identity(teacher={"net": "sha256:1"})))
    with pytest.raises(
        InputError, match=r"'identity.teacher.net' is 'sha256:1' in the one and 'sha256:2' in the other"
    ):
        RecordWriter(tmp_path, manifest(identity=Identity(teacher={"net": "sha256:2"})))
    with pytest.raises(InputError, match=r"'form.dtype' is 'float32' in the one and 'float16' in the other"):
        RecordWriter(tmp_path, manifest(Dense("float16"), identity=Identity(teacher={"net": "sha256:1"})))


MOMENTS = [
    ("preceptor.records.shards.files.save_tensors", 2, "before"),
    ("preceptor.records.shards.files.save_tensors", 2, "half"),
    ("preceptor.records.shards.files.save_tensors", 2, "after"),
    ("preceptor.runs.files.os.replace", 4, "before"),  # record.json, a shard, its index, a shard
    ("preceptor.runs.files.os.replace", 4, "after"),
    ("preceptor.records.writer.write_index", 3, "before"),
    ("preceptor.records.writer.write_index", 4, "after"),
    ("preceptor.runs.files.os.replace", 1, "before"),
]


def test_killed_at_any_moment_a_record_is_completed_to_the_same_bytes(tmp_path):
    """One process kills its children: a death costs a fork."""
    write(tmp_path / "whole", manifest(FORMS[2], views=2))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    deaths = json.loads(ran.stdout)
    assert deaths == [-signal.SIGKILL] * len(MOMENTS)
    for number, moment in enumerate(MOMENTS):
        assert contents(tmp_path / str(number)) == contents(tmp_path / "whole"), moment


def die_in(child: Callable[[], None]) -> int:
    """What becomes of a forked process."""
    number = os.fork()
    if number == 0:
        try:
            child()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def patched(place: str, nth: int, how: str) -> None:
    """Let the process be killed at the n-th call of a function."""
    parts = place.split(".")
    holder: Any = sys.modules[".".join(parts[:3])]
    for name in parts[3:-1]:
        holder = getattr(holder, name)
    function, calls = getattr(holder, parts[-1]), 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and how == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if calls == nth:
            if how == "half":
                os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, parts[-1], call)


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"log_probs": torch.randn(2, C)}, "sum to .*; give log-probabilities, logits.log_softmax"),
        ({"log_probs": torch.full((2, C), torch.nan)}, "sum to nan"),
        ({"log_probs": outputs()[:2, :-1]}, r"log_probs have shape \(2, 9\); give one row for each id, \(2, 10\)"),
        ({"ids": torch.tensor([0, -1])}, "none of them negative"),
        ({"ids": torch.tensor([0.0, 1.0])}, "ids are torch.float32"),
        ({"view": 1}, "view is 1; the record has views 0 to 0"),
        ({"labels": torch.tensor([0, 10])}, "labels reach from 0 to 10"),
        ({"features": {"stem": torch.zeros(2, 1)}}, "features of stem are given where the manifest names none"),
    ],
)
def test_what_is_not_a_row_of_outputs_is_refused(tmp_path, given, sentence):
    right: dict[str, Any] = {"ids": torch.arange(2), "view": 0, "log_probs": outputs()[:2]}
    with RecordWriter(tmp_path, manifest()) as writer, pytest.raises(InputError, match=sentence):
        writer.write(**(right | given))


def test_what_is_not_there_is_refused(tmp_path):
    write(tmp_path, manifest(TopK(3)), torch.arange(20))
    record = Record(tmp_path)
    with pytest.raises(InputError, match=r"sample 20 is not in view 0 of the record .*, which has 20 samples"):
        record.read(torch.tensor([3, 20]))
    with pytest.raises(InputError, match="view is 1"):
        record.read(torch.tensor([3]), 1)
    with pytest.raises(InputError, match="of the form 'top_k', which has not all classes"):
        record.log_probs(torch.tensor([3]))
    with pytest.raises(InputError, match="holds no record"):
        Record(tmp_path / "nowhere")
    with pytest.raises(InputError, match="k is 10 of 10 classes; give one from 1 to 9"):
        RecordWriter(tmp_path / "new", manifest(TopK(10)))


def test_every_flipped_byte_is_found_and_named(tmp_path):
    write(tmp_path, manifest(TopK(3), num_samples=N))
    assert Record(tmp_path).verify() == ()
    assert verify(tmp_path).problems == verify(tmp_path).unchecked == ()
    for name, whole in contents(tmp_path).items():
        for place in (3, len(whole) // 2, len(whole) - 3):
            damaged = bytearray(whole)
            damaged[place] ^= 4
            (tmp_path / name).write_bytes(damaged)
            assert any(Path(name).name in problem for problem in verify(tmp_path).problems)
            with pytest.raises(InputError, match=Path(name).name):
                Record(tmp_path).read(torch.arange(N))
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "writer-0" / "view-0-00001.safetensors").unlink()
    assert "is missing" in Record(tmp_path).verify()[0]


def test_a_record_that_lacks_samples_says_so(tmp_path):
    write(tmp_path, manifest(num_samples=N), torch.arange(20))
    assert "view 0 of the record" in Record(tmp_path).verify()[0]
    assert "has 20 of 50 samples" in Record(tmp_path).verify()[0]


def test_a_shard_cut_short_is_refused_without_the_checksum_too(tmp_path):
    write(tmp_path, manifest())
    path = tmp_path / "writer-0" / "view-0-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"view-0-00000.safetensors' is damaged"):
        Record(tmp_path, check=False).read(torch.arange(3))


def test_ids_need_not_be_positions(tmp_path):
    ids = torch.tensor([10**12, 7, 3_000_000_000])
    with RecordWriter(tmp_path, manifest()) as writer:
        writer.write(ids, 0, outputs()[:3])
    record = Record(tmp_path)
    assert torch.equal(record.log_probs(ids), outputs()[:3])
    assert isinstance(record._places[0], _Places)


if __name__ == "__main__":
    work, deaths = Path(sys.argv[1]), []
    for number, moment in enumerate(MOMENTS):
        folder, said = work / str(number), manifest(FORMS[2], views=2)

        def child(folder: Path = folder, said: Manifest = said, moment: Any = moment) -> None:
            patched(*moment)
            write(folder, said)

        deaths.append(die_in(child))
        write(folder, said)
    print(json.dumps(deaths))


@pytest.mark.parametrize("swapped", ["record.json", "writer-0"])
def test_parts_of_two_records_do_not_make_one(tmp_path, swapped):
    """Of one form and of the same samples: only the teacher is another."""
    for name in ("one", "other"):
        write(tmp_path / name, manifest(identity=Identity(teacher={name: "sha256:" + name})))
    there, taken = tmp_path / "one" / swapped, tmp_path / "other" / swapped
    shutil.rmtree(there) if there.is_dir() else there.unlink()
    taken.rename(there)
    with pytest.raises(InputError, match=r"of another record than the record\.json above it"):
        Record(tmp_path / "one")
    assert verify(tmp_path / "one").problems
