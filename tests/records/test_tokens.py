"""What a record says of its tokens, the form of hidden states, and the sums that all forms share."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from preceptor import losses
from preceptor.errors import InputError
from preceptor.losses import linear
from preceptor.losses.linear import Head
from preceptor.records import Dense, Hidden, Manifest, Record, RecordTeacher, RecordWriter, TopK, to_parquet
from preceptor.records.beside import read_beside, write_beside
from preceptor.records.hidden import write_head
from preceptor.records.powers import blocks_of, log_power_sums
from preceptor.records.tokens import Tokens, digests_of, read_tokens, token_ids, write_tokens
from preceptor.runs.verify import verify

N, V, H = 30, 12, 4


def states() -> Tensor:
    return 3 * torch.randn(N, H, generator=torch.Generator().manual_seed(0))


def head(**options: Any) -> Head:
    generator = torch.Generator().manual_seed(1)
    return Head(torch.randn(V, H, generator=generator), torch.randn(V, generator=generator), **options)


def recorded(folder: Path, form: Hidden, made: Head) -> Record:
    hidden = states()
    log_probs = made.logits(hidden).log_softmax(-1)
    with RecordWriter(folder, Manifest(form=form, num_classes=V), shard_size=8) as writer:
        write_head(folder, made)
        for rows in torch.arange(N).split(7):
            writer.write(rows, 0, log_probs[rows], rows % V, hidden=hidden[rows])
    return Record(folder)


# -- hidden states -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"scale": 0.5}, {"scale": 2.0, "softcap": 3.0}], ids=str)
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("float16", 2e-2), ("bfloat16", 0.2)])
def test_targets_are_what_the_head_makes_of_the_states(tmp_path: Path, options: Any, dtype: Any, error: float) -> None:
    made = head(**options)
    record = recorded(tmp_path, Hidden(dtype), made)
    ids = torch.tensor([11, 3, 29, 3])
    raw = states()[ids].double() @ made.weight.double().T + made.bias.double()  # type: ignore[union-attr]
    logits = made.scale * raw
    logits = logits if made.softcap is None else made.softcap * (logits / made.softcap).tanh()
    expected = logits.log_softmax(-1)
    torch.testing.assert_close(record.read(ids).log_probs.double(), expected, atol=error, rtol=0)
    torch.testing.assert_close(RecordTeacher(tmp_path)({"index": ids}).double(), expected, atol=error, rtol=0)  # type: ignore[union-attr]
    tempered = RecordTeacher(tmp_path, temperature=2.0)({"index": ids})
    torch.testing.assert_close(tempered.double(), expected / 2, atol=error, rtol=0)  # type: ignore[union-attr]
    assert record.hidden(ids).dtype == getattr(torch, dtype)
    assert record.rows(ids)["hidden"].shape == (4, H)
    # The numbers beside are those of the states as they were.
    torch.testing.assert_close(record.scalars(ids).log_max.double(), expected.amax(-1), atol=1e-5, rtol=0)
    assert not record.verify()
    assert not verify(tmp_path).unchecked


def test_a_fused_loss_takes_hidden_states_and_head_of_a_record(tmp_path: Path) -> None:
    record = recorded(tmp_path, Hidden("float32"), head(softcap=5.0))
    weight, student = torch.randn(V, 6), torch.randn(N, 6)
    found = linear.kd(student, weight, (record.hidden(record.ids), record.head), temperature=2.0)
    expected = losses.kd(student @ weight.T, record.read(record.ids), temperature=2.0)
    torch.testing.assert_close(found, expected.sum() if found.ndim == 0 else expected, atol=1e-4, rtol=1e-4)


def test_what_is_wrong_with_hidden_states_is_said(tmp_path: Path) -> None:
    record = recorded(tmp_path / "r", Hidden(), head())
    log_probs = torch.zeros(2, V).log_softmax(-1)
    ids = torch.arange(2)
    with RecordWriter(tmp_path / "x", Manifest(form=Hidden(), num_classes=V)) as writer:
        with pytest.raises(InputError, match="the form is 'hidden' and no hidden states are given"):
            writer.write(ids, 0, log_probs)
        with pytest.raises(InputError, match=r"hidden states are torch.float32 \(3, 4\)"):
            writer.write(ids, 0, log_probs, hidden=torch.zeros(3, H))
        with pytest.raises(InputError, match="hidden states reach 1e\\+05, which float16 cannot hold"):
            writer.write(ids, 0, log_probs, hidden=torch.full((2, H), 1e5))
    with (
        RecordWriter(tmp_path / "y", Manifest(form=Dense(), num_classes=V)) as writer,
        pytest.raises(InputError, match="the form is 'dense' and hidden states are given; leave them out"),
    ):
        writer.write(ids, 0, log_probs, hidden=torch.zeros(2, H))
    with RecordWriter(tmp_path / "z", Manifest(form=TopK(3), num_classes=V)) as writer:
        writer.write(ids, 0, log_probs)
    with pytest.raises(
        InputError, match="is of the form 'top_k', which has no hidden states; record the form 'hidden'"
    ):
        Record(tmp_path / "z").hidden(ids)
    with pytest.raises(InputError, match="of hidden states, whose head a table has no room for; copy its folder"):
        to_parquet(record, tmp_path / "r.parquet")
    with pytest.raises(InputError, match=r"head\.safetensors' is of another recording; give another folder"):
        write_head(tmp_path / "r", head(scale=3.0))
    path = tmp_path / "r" / "head.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"head\.safetensors' is damaged"):
        Record(tmp_path / "r").read(ids)
    assert any("head.safetensors" in problem for problem in Record(tmp_path / "r").verify())


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_a_digest_is_of_what_a_position_sees_and_is_asked() -> None:
    ids, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, -100]])
    inputs = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2]])}
    found = digests_of(inputs, labels)
    assert found.shape == (1, 16)
    assert torch.equal(digests_of({"input_ids": ids}, labels.masked_fill(labels < 0, -1)), found)
    for changed, other in (
        ({**inputs, "input_ids": torch.tensor([[1, 2, 4]])}, labels),
        ({**inputs, "position_ids": torch.tensor([[0, 1, 0]])}, labels),
        (inputs, torch.tensor([[2, -100, -100]])),
    ):
        assert not torch.equal(digests_of(changed, other), found)


def test_rows_are_found_by_digest_and_the_sidecar_comes_back(tmp_path: Path) -> None:
    ids = torch.randint(9, (40, 5), generator=torch.Generator().manual_seed(0))
    ids[7] = ids[31]
    rows = torch.arange(40) * 3
    digests = digests_of({"input_ids": ids}, ids)
    counted = token_ids(rows, torch.ones(40, 5, dtype=torch.bool))
    numbers = torch.zeros(200, dtype=torch.int32)
    write_tokens(tmp_path, Tokens(counted, numbers, numbers, rows, digests, 5, {"length": 5}))
    said = read_tokens(tmp_path)
    order = torch.randperm(40)
    assert said.find(digests[order]).tolist() == [21 if row in (7, 31) else 3 * row for row in order.tolist()]
    assert said.find(torch.zeros(2, 16, dtype=torch.uint8)).tolist() == [-1, -1]
    assert (said.length, said.context) == (5, {"length": 5})
    assert torch.equal(said.ids, counted)
    with pytest.raises(InputError, match="of samples with one label each"):
        read_tokens(tmp_path / "none")


def test_what_lies_beside_is_written_once(tmp_path: Path) -> None:
    assert read_beside(tmp_path, "more") is None
    write_beside(tmp_path, "more", {"a": torch.arange(3)}, {"b": 1})
    stamp = (tmp_path / "more.safetensors").stat().st_mtime_ns
    write_beside(tmp_path, "more", {"a": torch.arange(3)}, {"b": 1})
    assert (tmp_path / "more.safetensors").stat().st_mtime_ns == stamp
    for tensors, metadata in (({"a": torch.arange(4)}, {"b": 1}), ({"a": torch.arange(3)}, {"b": 2})):
        with pytest.raises(InputError, match="is of another recording"):
            write_beside(tmp_path, "more", tensors, metadata)


# -- sums --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0])
def test_sums_of_powers_are_those_of_double_precision(scale: float) -> None:
    exponents = (0.25, 0.5, 0.625, 0.8, 1.0, 1.25, 1.6, 2.0, 3.0)
    log_probs = (scale * torch.randn(20, 3000, generator=torch.Generator().manual_seed(0))).log_softmax(-1)
    log_probs[0, 7:] = -torch.inf
    expected = torch.stack([(g * log_probs.double()).logsumexp(-1) for g in exponents], -1)
    torch.testing.assert_close(log_power_sums(log_probs, exponents).double(), expected, atol=1e-6, rtol=1e-6)
    nothing = torch.full((1, 5), -torch.inf)
    assert log_power_sums(nothing, exponents).isneginf().all()


def test_blocks_are_of_all_rows_in_order() -> None:
    for rows, size in ((0, 10), (1, 2**20), (7, 2**17), (5, 10)):
        found = blocks_of(torch.zeros(1, 1).expand(rows, size))
        assert [row for block in found for row in range(rows)[block]] == list(range(rows))
