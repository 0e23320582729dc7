"""Records of language models: each position that counts, found again by what it saw, whatever the form."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import preceptor
from preceptor import losses
from preceptor.assess import brier
from preceptor.cli import app
from preceptor.data import tokens
from preceptor.data.dataset import ArrayDataset, Data, Indexed
from preceptor.data.tokens import TokenDataset
from preceptor.errors import InputError
from preceptor.losses.linear import Head
from preceptor.recipe import DistillRecipe, parse
from preceptor.records import Dense, Hidden, Record, RecordTeacher, Sampled, TokenRecordTeacher, TopK, token_scores
from preceptor.records.info import describe
from preceptor.records.tokens import read_tokens
from preceptor.runs import integrity
from preceptor.runs.verify import verify
from preceptor.tasks import DistillTask
from preceptor.training.resolve import distill_job
from preceptor.training.teachers import recorded_tokens

V, L = 257, 10
TEXT = "to be|or not to be, that is|the question|whether it is nobler|in the mind|to bear|slings and arrows|of fortune"
FORMS = [Dense(), TopK(16), Sampled(16), Hidden("float32")]
NEAR = [Dense(), TopK(V - 1, "float32"), Sampled(V - 1, (1.0,), "float32"), Hidden("float32")]


class Net(nn.Module):
    """A language model of five numbers a token: each position sees its token and all before it in the row."""

    def __init__(self, seed: int = 0, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens, self.places = nn.Embedding(V, 5), nn.Embedding(64, 5)
        self.out = nn.Linear(5, V, bias=bias)

    def states(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return (self.tokens(input_ids) + self.places(position_ids)).cumsum(-2).tanh()

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return 3 * self.out(self.states(input_ids, position_ids))

    def hidden_and_head(self, input_ids: Tensor, position_ids: Tensor) -> tuple[Tensor, Head]:
        return self.states(input_ids, position_ids), Head(self.out.weight, self.out.bias, scale=3.0)


def data(folder: Path, *, packed: bool = True, text: str = TEXT, **options: Any) -> Data:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text.txt").write_text(text)
    said: dict[str, Any] = {"length": L, "heldout": 0.2, "test": 0, "separator": "|", "packed": packed}
    return tokens(path=folder / "text.txt", **{**said, **options})


def recorded(folder: Path, found: Data, net: nn.Module | None = None, **options: Any) -> Record:
    return preceptor.record(net or Net(), folder, data=found, device="cpu", **options)


def batch_of(found: Data, rows: Any = None) -> dict[str, Any]:
    dataset = found.train
    return Indexed(dataset)[list(range(len(dataset))) if rows is None else rows]  # type: ignore[arg-type]


def training_rows(found: Data) -> list[int]:
    return sorted({*range(len(found.train))} - {*found.pools["heldout"].tolist()})  # type: ignore[arg-type, index]


def reordered(found: Data, rows: Tensor, heldout: Tensor) -> Data:
    """The same rows at other places."""
    old: Any = found.train
    names = ("ids", "positions", "labels", "documents", "byte_counts")
    dataset = TokenDataset(**{name: getattr(old, name)[rows] for name in names})
    return Data(dataset, None, found.class_names, dict(found.preprocessing), {"heldout": heldout})


def job(record: Path, found: Data, **options: Any) -> Any:
    said = {"model": "mlp", "loss": "kd", "teacher": [{"run": str(record)}], "training": {"epochs": 1, "device": "cpu"}}
    return distill_job(parse(DistillRecipe, said | options), None, data=found, model=lambda **_: Net(1))


def refused(record: Path, found: Data) -> str:
    with pytest.raises(InputError) as caught:
        job(record, found)
    return str(caught.value)


# -- what is stored ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_each_position_that_counts_is_there_and_no_other(tmp_path: Path, packed: bool) -> None:
    found, net = data(tmp_path, packed=packed), Net()
    record = recorded(tmp_path / "r", found, net)
    wanted = {}
    for row in training_rows(found):
        sample: Any = found.train[row]
        said = net(**{name: each[None] for name, each in sample["input"].items()})[0].log_softmax(-1)
        for place in range(L):
            if sample["label"][place] >= 0:
                wanted[row * L + place] = (said[place], int(sample["label"][place]))
    assert record.ids.tolist() == sorted(wanted)
    read, known = record.log_probs(record.ids), record.scalars(record.ids)
    for number, each, label in zip(record.ids.tolist(), read, known.labels.tolist(), strict=True):
        torch.testing.assert_close(each, wanted[number][0].detach(), atol=1e-5, rtol=0)
        assert label == wanted[number][1]


def test_the_sidecar_tells_documents_and_bytes(tmp_path: Path) -> None:
    found = data(tmp_path)
    record = recorded(tmp_path / "r", found)
    dataset: Any = found.train
    for folder, rows in ((tmp_path / "r", training_rows(found)), (tmp_path / "r" / "heldout", found.pools["heldout"])):  # type: ignore[index]
        said = read_tokens(folder)
        assert said.rows.tolist() == list(rows)
        assert torch.equal(said.ids, Record(folder).ids)
        place = [divmod(number, L) for number in said.ids.tolist()]
        assert said.documents.tolist() == [int(dataset.documents[at]) for at in place]
        assert said.bytes.tolist() == [int(dataset.byte_counts[at]) for at in place]
        assert (said.length, said.context) == (L, found.preprocessing["context"])
    assert record.manifest.num_samples == len(record)
    assert not verify(tmp_path / "r").problems
    assert not verify(tmp_path / "r").unchecked


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_teacher_is_scored_on_held_out_tokens_from_its_record(tmp_path: Path, form: Any) -> None:
    found, net = data(tmp_path), Net()
    recorded(tmp_path / "r", found, net, form=form)
    batch = batch_of(found, found.pools["heldout"].tolist())  # type: ignore[index]
    logits, labels = net(**batch["input"])[batch["mask"]].detach().double(), batch["label"][batch["mask"]]
    scores = token_scores(Record(tmp_path / "r" / "heldout"))
    nll = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(scores.nll.double(), nll, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores.brier.double(), torch.from_numpy(brier(logits, labels)), atol=1e-5, rtol=1e-5)
    at_two = torch.nn.functional.cross_entropy(logits / 2, labels, reduction="none")
    torch.testing.assert_close(scores.nll_at[:, scores.temperatures.index(2.0)].double(), at_two, atol=1e-5, rtol=1e-5)
    assert torch.equal(scores.correct.bool(), logits.argmax(-1) == labels)
    assert describe(tmp_path / "r")["held-out scores"]["nll"] == pytest.approx(float(nll.mean()), abs=1e-3)


# -- a student of it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("form", NEAR, ids=str)
def test_a_record_of_the_student_itself_costs_nothing_at_any_position(tmp_path: Path, form: Any, packed: bool) -> None:
    found, net = data(tmp_path, packed=packed), Net()
    recorded(tmp_path / "r", found, net, form=form)
    batch = batch_of(found, training_rows(found))
    logits = net(**batch["input"])[batch["mask"]].detach().requires_grad_()
    loss = losses.kd(logits, TokenRecordTeacher(tmp_path / "r")(batch), temperature=1.0)
    loss.sum().backward()
    assert loss.shape == (int(batch["mask"].sum()),)
    assert loss.abs().max() < 1e-5
    left_out = 1e-3 if isinstance(form, Sampled) else 0  # the one class of a sample that is not there
    assert logits.grad.abs().max() < 1e-5 + left_out  # type: ignore[union-attr]
    # A place too far is another answer.
    shifted = logits.detach().roll(1, 0)
    assert (losses.kd(shifted, TokenRecordTeacher(tmp_path / "r")(batch), temperature=1.0) > 1e-2).float().mean() > 0.5


@pytest.mark.parametrize("form", NEAR, ids=str)
def test_a_student_s_step_is_that_of_the_live_teacher(tmp_path: Path, form: Any) -> None:
    found, net = data(tmp_path), Net()
    recorded(tmp_path / "r", found, net, form=form)
    batch = batch_of(found, training_rows(found)[::-1])
    gradients = []
    for teacher in (net, TokenRecordTeacher(tmp_path / "r")):
        student = Net(1)
        task = DistillTask(student, teacher, partial(losses.kd, temperature=1.0), ce_weight=0.5, distill_weight=2.0)
        task(batch)["loss"].backward()
        gradients.append(torch.cat([each.grad.flatten() for each in student.parameters()]))  # type: ignore[union-attr]
    left_out = 1e-3 if isinstance(form, Sampled) else 1e-6
    assert (gradients[0] - gradients[1]).norm() < left_out * gradients[0].norm()


def test_rows_are_found_by_what_they_hold(tmp_path: Path) -> None:
    found, net = data(tmp_path), Net()
    recorded(tmp_path / "r", found, net, form=Hidden("float32"))
    rows = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    places = torch.isin(rows, found.pools["heldout"]).nonzero()[:, 0]  # type: ignore[index]
    other = reordered(found, rows, places)
    batch = batch_of(other, training_rows(other))
    said = TokenRecordTeacher(tmp_path / "r")({**batch, "view": torch.zeros_like(batch["index"])})
    torch.testing.assert_close(said, net(**batch["input"])[batch["mask"]].log_softmax(-1), atol=1e-5, rtol=0)
    [shown, *_] = job(tmp_path / "r", other).batches.epoch(0)
    assert set(shown[0]["index"].tolist()) <= set(training_rows(other))
    # Some of the rows, one of them twice: all are there.
    few = torch.cat([rows[[training_rows(other)[0]] * 2], found.pools["heldout"]])  # type: ignore[index]
    job(tmp_path / "r", reordered(found, few, torch.arange(2, len(few))))
    # Held-out rows are found in their own record.
    held = batch_of(other, places.tolist())
    torch.testing.assert_close(
        TokenRecordTeacher(tmp_path / "r")(held), net(**held["input"])[held["mask"]].log_softmax(-1), atol=1e-5, rtol=0
    )


def test_what_is_not_on_record_is_refused_by_name(tmp_path: Path) -> None:
    found = data(tmp_path)
    recorded(tmp_path / "r", found)
    longer = data(tmp_path / "longer", text=TEXT + "|a new document, and a last one|and another", heldout=0.1)
    said = refused(tmp_path / "r", longer)
    assert "lacks" in said
    assert "of tokens that the student learns from (the first: row " in said
    row = int(said.split("row ")[1].split(")")[0])
    kept: Any = found.train
    ours: Any = longer.train
    assert not any(torch.equal(ours.ids[row], each) for each in kept.ids[training_rows(found)])
    with pytest.raises(InputError, match=f"row {row} of the data is none of the "):
        TokenRecordTeacher(tmp_path / "r")(batch_of(longer, [row]))
    other = data(tmp_path / "length", length=12)
    assert "'preprocessing.context.length' is 10 in the record and 12 for the student" in refused(tmp_path / "r", other)
    other = data(tmp_path / "padded", packed=False)
    assert "'preprocessing.context.packed' is True in the record and False" in refused(tmp_path / "r", other)
    context = {"context": {**found.preprocessing["context"], "vocabulary": "another"}}  # type: ignore[dict-item]
    other = Data(found.train, None, found.class_names, context, found.pools)  # type: ignore[arg-type]
    assert "'preprocessing.context.vocabulary' is" in refused(tmp_path / "r", other)


def test_a_teacher_that_learned_what_the_student_is_scored_on_is_refused(tmp_path: Path) -> None:
    found = data(tmp_path)
    recorded(tmp_path / "r", found)
    index = json.loads((tmp_path / "r" / "samples.json").read_text())
    integrity.write_sealed(tmp_path / "r" / "samples.json", {**index, "trained_on": training_rows(found), "files": {}})
    job(tmp_path / "r", found)
    rows = torch.arange(len(found.train))  # type: ignore[arg-type]
    own = training_rows(found)
    swapped = reordered(found, rows[own], torch.tensor([2]))
    said = refused(tmp_path / "r", swapped)
    assert "was trained on 1 of the student's heldout rows (the first: row 2)" in said


def plain() -> Data:
    """Samples with one label each."""
    labels = torch.arange(60) % 3
    return Data(ArrayDataset(torch.randn(60, 4) + labels[:, None], labels), None, ("a", "b", "c"))


def test_kinds_of_records_and_data_are_not_mixed_up(tmp_path: Path) -> None:
    found = data(tmp_path)
    recorded(tmp_path / "r", found)
    with pytest.raises(InputError, match="is of rows of tokens and the data are samples with one label each"):
        preceptor.distill(teacher=str(tmp_path / "r"), data=plain(), model="mlp", device="cpu")
    layer = nn.Linear(4, 3)
    preceptor.record(layer, tmp_path / "d", data=plain(), device="cpu")
    assert "is of samples with one label each and the data are rows of tokens" in refused(tmp_path / "d", found)
    with pytest.raises(InputError, match="'hidden' is for rows of tokens"):
        preceptor.record(layer, tmp_path / "h", data=plain(), form="hidden", device="cpu")
    with pytest.raises(InputError, match="these are rows of tokens; leave features out"):
        recorded(tmp_path / "f", found, features="out")
    with pytest.raises(InputError, match="needs a causal language model with hidden_and_head, and the teacher is a"):
        preceptor.record([Net(), Net(1)], tmp_path / "m", data=found, form="hidden", device="cpu")
    with pytest.raises(InputError, match="is of samples with one label each; give one that"):
        TokenRecordTeacher(tmp_path / "d")
    assert type(RecordTeacher(tmp_path / "d")) is RecordTeacher


# -- gone on with ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "at"), [(Dense(), 0), (Hidden(), 2), (Dense(), 5)], ids=str)
def test_a_recording_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any, at: int
) -> None:
    found, net = data(tmp_path), Net()
    monkeypatch.setattr(recorded_tokens, "_NUMBERS", 2 * L * V)  # two rows a batch
    monkeypatch.setattr(recorded_tokens, "_LEAST", 13)
    monkeypatch.setattr(recorded_tokens, "_SHARD_BYTES", 0)
    recorded(tmp_path / "whole", found, net, form=form)
    write, calls = recorded_tokens.TokenRows.write, []

    def stopping(self: Any, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > at:
            raise KeyboardInterrupt
        write(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(recorded_tokens.TokenRows, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            recorded(tmp_path / "r", found, net, form=form)
    recorded(tmp_path / "r", found, net, form=form)
    assert content(tmp_path / "r") == content(tmp_path / "whole")
    assert len([name for name in content(tmp_path / "r") if "view-0" in name]) > 4


def content(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_another_text_is_another_record(tmp_path: Path) -> None:
    found, net = data(tmp_path), Net()
    recorded(tmp_path / "r", found, net)
    with pytest.raises(InputError, match=r"'identity\.data\.rows of tokens' is"):
        recorded(tmp_path / "r", data(tmp_path / "b", text=TEXT.replace("question", "Question")), net)


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_verbs_from_a_text_to_a_student_of_a_record(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "text.txt").write_text(TEXT)
    said = {"name": "tokens", "path": str(tmp_path / "text.txt"), "separator": "|", "length": L, "heldout": 0.2}
    model = {"name": "causal_lm", "width": 8, "depth": 1, "heads": 2}
    shared: dict[str, Any] = {"data": {**said, "test": 0}, "model": model, "epochs": 1, "device": "cpu"}
    preceptor.teach(folder=tmp_path / "t", **shared)
    command = ["record", str(tmp_path / "t"), "--out", str(tmp_path / "r"), "--form", "hidden", "--dtype", "float32"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "tokens x 1 views, hidden" in done.output
    for run in ("one", "two"):
        teacher = tmp_path / ("r" if run == "one" else "t")
        preceptor.distill(teacher=str(teacher), loss="kd", folder=tmp_path / run, **shared)
    one, two = (json.loads((tmp_path / run / "result.json").read_text()) for run in ("one", "two"))
    assert one["record"][0]["form"] == "hidden"
    assert one["heldout"]["last"]["nll"] == pytest.approx(two["heldout"]["last"]["nll"], abs=1e-4)
    assert one["teacher"]["nll"] == pytest.approx(two["teacher"]["nll"], abs=1e-4)
