"""A teacher looked at before a student learns from it: its worth, its scale, its inputs, its constancy, its tensors."""

import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

import preceptor
from preceptor.cli.output import score_table, show_table
from preceptor.data.dataset import ArrayDataset, Data, Indexed
from preceptor.data.readings import known_to_repeat
from preceptor.errors import InputError
from preceptor.outputs import logits_of
from preceptor.recipe import DistillRecipe, TeacherRef
from preceptor.recipe.keywords import make_recipe
from preceptor.schema import Component
from preceptor.tasks import Lookup, Mixture, Teacher, as_teacher
from preceptor.training import Student, distill, distill_stack, load_teacher, teach
from preceptor.training.checks.caching import same_every_epoch, steady
from preceptor.training.checks.callers import given_back, modules_in
from preceptor.training.resolve import distill_job
from preceptor.training.teachers.preprocessing import conversion, cut_texts

SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 32, "device": "cpu", "lr": 0.1}


def clouds(count: int = 150, classes: int = 3, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    centres = spread * torch.eye(classes, 5)
    return centres[labels] + torch.randn(count, 5, generator=draw), labels


X, Y = clouds()
DATA = TensorDataset(X, Y)
RIGHT = nn.Linear(5, 3)  # of a class, how far a sample reaches to its centre: nearly the best there is
with torch.no_grad():
    RIGHT.weight.copy_(3 * torch.eye(3, 5))
    RIGHT.bias.zero_()


def student(num_classes: int) -> nn.Module:
    return nn.Linear(5, num_classes)


def learn(teacher: Any, **more: Any) -> dict[str, Any]:
    return distill(teacher=teacher, **{"data": DATA, "model": student} | SMALL | more)


def asking(net: nn.Module) -> Any:
    """A module as a function of the batch."""
    return lambda batch: net(batch["input"])


def answers(reading: Any) -> Any:
    """RIGHT with something done to its logits, as a module."""

    class Answering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = RIGHT

        def forward(self, x: Tensor) -> Any:
            return reading(self.net(x))

    return Answering()


# -- its worth ---------------------------------------------------------------------------------------------------------


def test_a_teacher_is_scored_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = learn(RIGHT, folder=tmp_path / "run")
    index = torch.tensor(json.loads((tmp_path / "run" / "splits.json").read_text())["parts"]["heldout"])
    probs = RIGHT(X[index]).double().softmax(-1).detach()
    hit = probs.argmax(-1) == Y[index]
    truth = torch.eye(3, dtype=torch.float64)[Y[index]]
    found = json.loads((tmp_path / "run" / "result.json").read_text())["teacher"]
    assert found == result["teacher"]
    assert (found["part"], found["samples"]) == ("heldout", len(index))
    assert found["accuracy"] == pytest.approx(hit.double().mean().item())
    assert found["brier"] == pytest.approx((probs - truth).square().sum(-1).mean().item(), abs=1e-6)
    assert found["nll"] == pytest.approx(-probs[truth.bool()].log().mean().item(), abs=1e-6)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("the teacher: accuracy")]
    assert lines == [
        f"the teacher: accuracy {found['accuracy']:.4f}, Brier {found['brier']:.4f}, NLL {found['nll']:.4f} on "
        f"{len(index)} held-out labels"
    ]
    assert not any("chance" in note for note in result["notes"])


@pytest.mark.parametrize("cache", [True, False])
def test_a_teacher_at_chance_is_noted_with_both_numbers(cache: bool) -> None:
    shuffled = RIGHT(X).detach()[torch.randperm(len(X), generator=torch.Generator().manual_seed(1))]
    for teacher in (lambda batch: torch.zeros(len(batch["index"]), 3), Lookup(shuffled), answers(torch.neg)):
        result = learn(teacher, cache=cache)
        [note] = [note for note in result["notes"] if "chance" in note]
        assert f"is right in {result['teacher']['accuracy']:.3f} of 15 held-out samples" in note
        assert f"the commonest class has {result['teacher']['chance']:.3f}" in note


def test_a_table_may_contradict_its_training_labels_alone_or_know_nothing_else(tmp_path: Path) -> None:
    learn(RIGHT, folder=tmp_path / "run")
    parts = json.loads((tmp_path / "run" / "splits.json").read_text())["parts"]
    table = RIGHT(X).detach()
    moved = table.clone()
    moved[parts["train"]] = table[parts["train"]].roll(1, 0)
    [note] = [note for note in learn(Lookup(moved))["notes"] if "chance" in note]
    assert "of 135 training samples" in note
    table[parts["heldout"]] = torch.nan
    found = learn(Lookup(table))
    assert (found["teacher"]["part"], found["teacher"]["samples"]) == ("train", 135)


def test_a_teacher_that_knows_its_training_samples_alone_is_scored_on_these() -> None:
    def teacher(batch: Any) -> Tensor:
        if any(index >= 135 for index in batch["index"]):
            raise KeyError("sample")
        return RIGHT(batch["input"])

    data = Data(ArrayDataset(X, Y), None, ("0", "1", "2"), pools={"heldout": torch.arange(135, 150)})
    result = learn(teacher, data=data)
    assert result["teacher"]["part"] == "train"
    assert any("could not be scored on held-out labels" in note for note in result["notes"])


def test_common_classes_are_no_merit() -> None:
    """Always the commonest class is right in 0.9 and knows nothing; a teacher that is as often right may know more."""
    labels = (torch.arange(200) % 10 == 0).long()
    inputs = torch.randn(200, 5, generator=torch.Generator().manual_seed(2))
    inputs[:, 0] = labels.float()
    data = TensorDataset(inputs, labels)
    flat = lambda batch: torch.tensor([[5.0, 0.0]]).expand(len(batch["index"]), 2)  # noqa: E731
    assert any("chance" in note for note in learn(flat, data=data)["notes"])
    knows = lambda batch: torch.stack([torch.full((len(batch["index"]),), 0.9), 0.8 * batch["input"][:, 0]], -1)  # noqa: E731
    assert not any("chance" in note for note in learn(lambda b: 4 * knows(b), data=data)["notes"])


def test_each_teacher_of_a_mixture_and_of_a_stack_is_scored() -> None:
    result = learn([RIGHT, answers(torch.neg)])
    good, bad = result["teacher"]["teachers"]
    assert good["accuracy"] > 0.8 > 0.2 > bad["accuracy"]
    assert any(note.startswith("teacher 1 is right") for note in result["notes"])
    table = torch.stack([RIGHT(X), -RIGHT(X)]).detach()
    members = [Student(0, row, Component(name="kd")) for row in (0, 1, 0)]
    recipe = {"training": {"epochs": 1, "batch_size": 32, "device": "cpu"}}
    found = distill_stack(recipe, members, table, data=DATA, model=student)["teacher"]
    assert found["accuracy"][0] == found["accuracy"][2] > 0.8
    assert found["accuracy"][1] < 0.2


# -- its scale ---------------------------------------------------------------------------------------------------------

SCALES: dict[str, Any] = {
    "softmax": lambda z: z.softmax(-1),
    "half": lambda z: z.softmax(-1).half(),
    "percentages": lambda z: 100 * z.softmax(-1),
    "one-hot": lambda z: nn.functional.one_hot(z.argmax(-1), 3),
    "mapping": lambda z: {"logits": z.softmax(-1)},
}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: net,
        lambda net: lambda batch: net(batch["input"]),
        lambda net: [RIGHT, net],
        lambda net: [(net, 2.0), [RIGHT, net]],
        lambda net: Teacher(net, temperature=2.0),
        lambda net: Lookup(logits_of(net(X)).detach()),
        lambda net: Mixture([as_teacher(net)], [1.0]),
    ],
)
def test_probabilities_are_refused_where_logits_are_meant(name: str, wrap: Any, tmp_path: Path) -> None:
    found = "percentages" if name == "percentages" else "probabilities"
    for more in ({}, {"transform": {"kind": "temperature", "temperature": 2.0}}, {"cache": False}):
        with pytest.raises(InputError, match=f"look like {found}"):
            learn(wrap(answers(SCALES[name])), folder=tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_a_model_that_ends_in_softmax_is_refused_as_a_student_and_as_a_teacher_to_be() -> None:
    model = lambda num_classes: nn.Sequential(nn.Linear(5, num_classes), nn.Softmax(-1))  # noqa: E731
    for call in (lambda: learn(RIGHT, model=model), lambda: teach(data=DATA, model=model, **SMALL)):
        with pytest.raises(InputError, match=r"look like probabilities .*: leave its softmax out"):
            call()


@pytest.mark.parametrize("cache", [True, False])
def test_said_to_be_probabilities_they_teach_as_their_logits_do(cache: bool, tmp_path: Path) -> None:
    weights = []
    for name, teacher, said in (
        ("logits", RIGHT, False),
        ("module", answers(SCALES["softmax"]), True),
        ("function", lambda batch: RIGHT(batch["input"]).softmax(-1), True),
        ("table", Lookup(RIGHT(X).softmax(-1).detach()), True),
        ("list", [answers(SCALES["softmax"])], True),
    ):
        learn(teacher, probabilities=said, cache=cache, folder=tmp_path / name)
        weights.append(preceptor.load(tmp_path / name, model=student).weight)
    for each in weights[1:]:
        torch.testing.assert_close(each, weights[0], rtol=1e-4, atol=1e-5)


def test_said_to_be_probabilities_logits_are_refused() -> None:
    with pytest.raises(InputError, match="no distribution"):
        learn(RIGHT, probabilities=True)


Named = namedtuple("Named", "logits aux")


class Output:
    """As a library's own output object, which is no mapping."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("holder", [lambda z: {"logits": z, "x": z}, lambda z: (z,), lambda z: Named(z, z), Output])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: [net, RIGHT], lambda net: lambda b: net(b["input"])])
def test_logits_are_taken_out_of_what_a_teacher_returns(holder: Any, wrap: Any) -> None:
    for more in ({}, {"transform": {"kind": "temperature", "temperature": 2.0}}, {"cache": False}):
        assert learn(wrap(answers(holder)), **more)["teacher"]["accuracy"] > 0.8


@pytest.mark.parametrize("holder", [lambda z: (z, z), lambda z: {"a": z, "b": z}, lambda z: None, lambda z: [z, 1]])
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: [net, RIGHT], lambda net: lambda b: net(b["input"])])
def test_an_answer_that_does_not_say_which_are_its_logits(holder: Any, wrap: Any) -> None:
    with pytest.raises(InputError, match=r"the teacher returns a .* under the name 'logits'"):
        learn(wrap(answers(holder)))


class Auxiliary(nn.Module):
    """A head more in training mode."""

    def __init__(self, num_classes: int, named: bool = True) -> None:
        super().__init__()
        self.main, self.aux, self.named = nn.Linear(5, num_classes), nn.Linear(5, num_classes), named

    def forward(self, x: Tensor) -> Any:
        if not self.training:
            return self.main(x)
        both = Named(self.main(x), self.aux(x))
        return both if self.named else tuple(both)


def test_an_auxiliary_head_of_a_student_is_named_or_refused() -> None:
    result = learn(RIGHT, model=lambda num_classes: Auxiliary(num_classes))
    assert any("gives aux beside its logits in training" in note for note in result["notes"])
    for call in (
        lambda model: learn(RIGHT, model=model),
        lambda model: teach(data=DATA, model=model, **SMALL),
        lambda model: teach(data=DATA, model=model, seeds=[0, 1], **SMALL),
    ):
        with pytest.raises(InputError, match="in training mode returns a tuple of 2"):
            call(lambda num_classes: Auxiliary(num_classes, named=False))


def test_the_trial_in_training_mode_leaves_no_trace(tmp_path: Path) -> None:
    made: list[nn.Module] = []

    def model(num_classes: int) -> nn.Module:
        made.append(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, num_classes)))
        return made[-1]

    distill_job(make_recipe(DistillRecipe, None, SMALL), None, teacher=RIGHT, data=DATA, model=model)
    assert made[0][0].num_batches_tracked == 0
    assert torch.equal(made[0][0].running_mean, torch.zeros(5))


def test_a_teacher_in_half_precision_is_given_its_own() -> None:
    half = nn.Linear(5, 3).half()
    half.load_state_dict(RIGHT.state_dict())
    assert learn(half)["teacher"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    ("reading", "sentence"),
    [
        (lambda z: z[:, 0], r"gives one number for each sample, shape \(16,\)"),
        (lambda z: z[:, :1], r"gives one number for each sample, shape \(16, 1\)"),
        (lambda z: z[:, None, :2], r"has shape \(16, 1, 2\) for 16 samples; it must be \(16, 2\)"),
        (lambda z: z[:, :2, None], r"has shape \(16, 2, 1\) for 16 samples; it must be \(16, 2\)"),
    ],
)
def test_shapes_are_settled_before_the_first_step(reading: Any, sentence: str) -> None:
    two = TensorDataset(X, Y % 2)

    def model(num_classes: int) -> nn.Module:
        return answers(reading)

    for call in (
        lambda: learn(answers(reading), data=two),
        lambda: learn(lambda batch: reading(RIGHT(batch["input"])), data=two),
        lambda: learn(nn.Linear(5, 2), data=two, model=model),
        lambda: teach(data=two, model=model, **SMALL),
    ):
        with pytest.raises(InputError, match=sentence):
            call()


# -- its inputs --------------------------------------------------------------------------------------------------------

STD: dict[str, Any] = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize("ours", [{}, {"mean": 0.5, "std": 0.5}])
@pytest.mark.parametrize("by", ["recipe", "load"])
def test_a_teacher_reads_its_own_normalisation(ours: dict[str, Any], by: str, tmp_path: Path) -> None:
    labels = torch.arange(120) % 3
    pixels = (labels[:, None, None, None] * 80 + torch.randint(0, 60, (120, 3, 2, 2))).to(torch.uint8)
    np.savez(tmp_path / "a.npz", inputs=pixels.numpy(), labels=labels.numpy())
    source = {"name": "npz", "path": str(tmp_path / "a.npz")}
    teach(data=source | STD, model="mlp", folder=tmp_path / "t", **SMALL | {"epochs": 3})
    raw = pixels / 255.0
    own = (raw - torch.tensor(STD["mean"]).view(3, 1, 1)) / torch.tensor(STD["std"]).view(3, 1, 1)
    net, seen = preceptor.load(tmp_path / "t"), {}

    def spy(student_logits: Tensor, teacher_logits: Tensor, index: Tensor, *, mask: Tensor) -> Tensor:
        seen.update(zip(index.tolist(), teacher_logits.detach(), strict=True))
        return (student_logits - teacher_logits).square().sum(-1) * mask

    result = distill(
        teacher=str(tmp_path / "t") if by == "recipe" else net,
        data=source | ours,
        model="mlp",
        loss=spy,
        **SMALL | {"lr": 1e-9},  # on raw values a larger one goes astray
    )
    expected = net(own).detach()
    assert len(seen) > 100
    for index, logits in seen.items():
        torch.testing.assert_close(logits, expected[index], rtol=1e-3, atol=1e-3)
    assert sum("is given inputs as it was trained on" in note for note in result["notes"]) == 1


def test_what_cannot_be_computed_is_refused_with_both_stated() -> None:
    theirs = {"divide_by": 255.0, "mean": [0.1, 0.2], "std": [1.0, 1.0]}
    with pytest.raises(InputError, match=r"\[0\.1, 0\.2\].*\[0\.1, 0\.2, 0\.3\]"):
        conversion(theirs, (2, 2, 2), theirs | {"mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0]}, (2, 2, 2))
    with pytest.raises(InputError, match=r"resized 32.*resized 64"):
        conversion({"resized": 32}, (3,), {"resized": 64}, (3,))
    for divide_by in (1.0, 51.0):  # of the same pixels, or of others that were divided before?
        with pytest.raises(InputError, match=r"divide_by 255\.0.*cannot be known: give both one divide_by"):
            conversion(theirs, (2, 2, 2), theirs | {"divide_by": divide_by}, (2, 2, 2))
    assert conversion(theirs, (2, 2), dict(theirs), (2, 2)) is None
    assert conversion({**theirs, "divide_by": 1.0}, (2,), {**theirs, "divide_by": 1.0}, (2,)) is None


@pytest.mark.parametrize("hold", [nn.Sequential, lambda net: nn.Sequential(nn.Identity(), net), asking])
def test_a_loaded_teacher_within_another_is_given_its_own_or_refused(hold: Any, tmp_path: Path) -> None:
    pixels, labels = clouds(spread=40.0)

    def data(mean: float) -> Data:
        made = {"divide_by": 1.0, "mean": [mean], "std": [10.0]}
        return Data(ArrayDataset((pixels - mean) / 10, labels), None, ("a", "b", "c"), preprocessing=made)

    teach(data=data(20.0), model=student, folder=tmp_path / "t", **SMALL)
    loaded = preceptor.load(tmp_path / "t", model=student)
    learn(hold(loaded), data=data(20.0))
    learn(loaded, data=data(0.0))
    own = nn.Linear(5, 5)  # from the student's inputs to the teacher's
    with torch.no_grad():
        own.weight.copy_(torch.eye(5))
        own.bias.fill_(-2.0)
    learn(hold(nn.Sequential(own, loaded)), data=data(0.0))
    with pytest.raises(InputError, match=r"mean \[20.0\].*mean \[0.0\].*hand over the loaded model itself"):
        learn(hold(loaded), data=data(0.0))


def test_a_table_of_numbers_is_no_teacher_by_itself() -> None:
    with pytest.raises(InputError, match=r"not a table of numbers; give preceptor.tasks.Lookup"):
        learn([[0.0, 1.0, 2.0]] * 150)
    for table in (torch.zeros(150, 3), np.zeros((150, 3))):  # stored outputs, if one knows of which samples
        with pytest.raises(InputError, match=r"nothing says which sample each row .* is of; put ids beside them"):
            learn(table)


def test_another_spelling_of_one_normalisation_is_no_other() -> None:
    one = {"divide_by": 255.0, "mean": [0.5], "std": [0.25]}
    other = {"divide_by": 1.0, "mean": [127.5], "std": [63.75]}
    assert conversion(one, (1, 2), other, (1, 2)) is None


def test_texts_are_cut_as_the_teachers_were_or_refused(tmp_path: Path) -> None:
    rows = [{"text": f"{'äé'[i % 2] * 9} {i:03d}", "label": i % 2} for i in range(80)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")

    def source(most: int) -> dict[str, Any]:
        return {"name": "text", "path": str(tmp_path / "t.jsonl"), "max_bytes": most}

    net = {"name": "ngram_bag", "buckets": 64}
    teach(data=source(15), model=net, folder=tmp_path / "short", **SMALL)
    teach(data=source(100), model=net, folder=tmp_path / "long", **SMALL)
    with pytest.raises(InputError, match=r"max_bytes 100.*max_bytes 15"):
        distill(teacher=str(tmp_path / "long"), data=source(15), model=net, **SMALL)
    notes = distill(teacher=str(tmp_path / "short"), data=source(100), model=net, **SMALL)["notes"]
    assert any("is given texts cut at 15 bytes" in note for note in notes)
    same = distill(teacher=str(tmp_path / "long"), data=source(200), model=net, **SMALL)["notes"]
    assert not any("cut" in note for note in same)  # neither has cut a text


@pytest.mark.parametrize("most", range(1, 14))
def test_texts_are_cut_between_characters(most: int) -> None:
    texts = ["aéñ€𝄞", "𝄞𝄞𝄞", "abcdefghijklmn", "a"]
    rows = torch.zeros(len(texts), 14, dtype=torch.uint8)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text.encode())] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    for row, text in zip(cut_texts(rows, most), texts, strict=True):
        kept = text.encode()[:most].decode(errors="ignore").encode()
        assert bytes(row.tolist()) == kept.ljust(most, b"\0")


def test_a_clip_teacher_is_read_alike_however_it_is_named(tmp_path: Path) -> None:
    teach(data="digits", model="mlp", objective="mse", distribution="clip", folder=tmp_path / "t", **SMALL)
    loaded = as_teacher(preceptor.load(tmp_path / "t"))
    named = load_teacher(TeacherRef(run=tmp_path / "t"))
    batch = {"input": torch.randn(4, 1, 8, 8)}
    assert torch.equal(loaded(batch), named(batch))


# -- its constancy -----------------------------------------------------------------------------------------------------


class Noisy(Dataset[Any]):
    """Inputs that are changed with some probability."""

    def __init__(self, chance: float = 1.0, count: int = 60) -> None:
        self.chance, self.count = chance, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        noise = torch.randn(5) if torch.rand(()) < self.chance else torch.zeros(5)
        return X[index] + noise, Y[index]


class Masked(Noisy):
    """Always the same inputs, and another key of each sample that is not: a function may read it."""

    def __getitem__(self, index: int) -> Any:
        return {"input": X[index], "label": Y[index], "view": torch.rand(2)}


class Still(Noisy):
    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


@pytest.mark.parametrize(
    ("data", "same"),
    [
        (Noisy(), False),
        (Noisy(0.05, 150), False),
        (Masked(), False),
        (ConcatDataset([DATA, Noisy()]), False),
        (ConcatDataset([Noisy(), DATA]), False),
        (Subset(ConcatDataset([DATA, Noisy(0.3)]), range(100, 200)), False),
        (ArrayDataset(X, Y, transform=lambda x: x + torch.randn_like(x)), False),
        (Still(), True),
        (DATA, True),
        (Subset(ConcatDataset([DATA, Still()]), range(100, 200)), True),
        (ArrayDataset(X, Y, transform=lambda x: 2 * x), True),
    ],
)
def test_whether_every_sample_is_the_same_in_every_epoch(data: Any, same: bool) -> None:
    """With 256 readings a change of one in twenty is overlooked once in 5e5."""
    assert same_every_epoch(Indexed(data), torch.arange(len(data))) is same


def test_only_what_is_not_known_to_repeat_is_read_and_the_time_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert known_to_repeat(ConcatDataset([DATA, Subset(ArrayDataset(X, Y), range(3))]))
    assert same_every_epoch(Indexed(DATA), torch.arange(150))
    assert capsys.readouterr().err == ""
    assert same_every_epoch(Indexed(Still()), torch.arange(60))
    assert capsys.readouterr().err.startswith("read 60 training samples in 6 epochs, as they might have differed: 0.")


@pytest.mark.parametrize("data", [Noisy(), ConcatDataset([DATA, Noisy(0.5)])])
def test_a_student_learns_from_the_answer_to_the_input_that_it_sees(data: Any) -> None:
    last: list[Tensor] = []

    class Watching(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            last[:] = [input.detach().clone()]
            return super().forward(input)

    def loss(student_logits: Tensor, teacher_logits: Tensor, *, mask: Tensor) -> Tensor:
        if last and last[0].shape[0] == len(teacher_logits):
            torch.testing.assert_close(teacher_logits, RIGHT(last[0]).detach())
        return (student_logits - teacher_logits).square().sum(-1) * mask

    learn(RIGHT, data=data, model=lambda num_classes: Watching(5, num_classes), loss=loss, epochs=2)


def in_training(net: nn.Module) -> Any:
    net.train()
    return lambda batch: net(batch["input"])


@pytest.mark.parametrize(
    ("teacher", "same"),
    [
        (in_training(nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5))), False),
        (in_training(nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))), False),
        (lambda batch: RIGHT(batch["input"]) - RIGHT(batch["input"]).mean(0), False),
        (lambda batch: RIGHT(batch["input"]) + 2e-3 * len(batch["index"]) * RIGHT(batch["input"]), False),
        (in_training(nn.Sequential(nn.Linear(5, 3), nn.Identity())), True),
        (lambda batch: RIGHT(batch["input"]) * (1 + 2e-5 * len(batch["index"])), True),
        (lambda batch: (RIGHT(batch["input"]) * (1 + 5e-3 * len(batch["index"]))).bfloat16(), True),
        (lambda batch: torch.where(torch.eye(3).bool()[batch["label"]], 0.0, -torch.inf), True),
    ],
)
def test_a_teacher_must_say_the_same_alone_in_a_pair_and_again(teacher: Any, same: bool) -> None:
    assert steady(as_teacher(teacher), Indexed(DATA), torch.arange(150), "cpu") is same


# -- its tensors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
def test_shared_trainable_parameters_are_refused(cache: bool) -> None:
    net = nn.Linear(5, 3)
    before = net.weight.clone()
    for teacher in (net, [RIGHT, net], Teacher(net), nn.Sequential(net)):
        with pytest.raises(InputError, match=r"share '(0\.)?weight'"):
            learn(teacher, model=lambda num_classes: net, cache=cache)
    view = nn.Linear(5, 3)
    view.weight = nn.Parameter(net.weight.data)  # another parameter of the same memory
    with pytest.raises(InputError, match="share 'weight'"):
        learn(net, model=lambda num_classes: view, cache=cache)
    assert torch.equal(net.weight, before)


def test_frozen_parts_may_be_shared_and_statistics_that_move_may_not() -> None:
    body, norm = nn.Linear(5, 5).requires_grad_(False), nn.BatchNorm1d(5, affine=False)
    learn(nn.Sequential(body, RIGHT), model=lambda num_classes: nn.Sequential(body, nn.Linear(5, num_classes)))
    with pytest.raises(InputError, match=r"share '0\.running_mean'"):
        learn(nn.Sequential(norm, RIGHT), model=lambda num_classes: nn.Sequential(norm, nn.Linear(5, num_classes)))

    class Shifted(nn.Linear):
        def __init__(self, shift: Tensor) -> None:
            super().__init__(5, 3)
            self.register_buffer("shift", shift)

    constant = torch.ones(1)
    learn(Shifted(constant), model=lambda num_classes: Shifted(constant))  # a buffer that nobody writes to


def test_a_function_of_what_is_trained_is_asked_in_every_step() -> None:
    class Follows:
        def __init__(self) -> None:
            self.model: nn.Module = RIGHT
            self.calls = 0

        def __call__(self, batch: Any) -> Tensor:
            self.calls += len(batch["index"])
            return self.model(batch["input"]).detach()

    follows = Follows()

    def model(num_classes: int) -> nn.Module:
        follows.model = nn.Linear(5, num_classes)
        return follows.model

    result = learn(follows, model=model, epochs=3)
    assert follows.calls >= 3 * 135
    assert any("which is being trained; it is asked in every step" in note for note in result["notes"])


def test_modules_are_found_wherever_a_function_keeps_them() -> None:
    net = nn.Linear(5, 3)

    class Holder:
        def __init__(self) -> None:
            self.nets = {"a": [net]}

        def speak(self, batch: Any) -> Tensor:
            return self.nets["a"][0](batch["input"])

    def default(batch: Any, net: nn.Module = net) -> Tensor:
        return net(batch["input"])

    for function in (lambda b: net(b), Holder().speak, default, lambda b: [lambda: net(b)], lambda b: RIGHT(b)):
        assert modules_in(function) in ([net], [RIGHT])


def test_a_callers_module_goes_back_to_its_device() -> None:
    net = nn.Linear(5, 3, device="meta")
    with given_back([net, lambda batch: batch]):
        net.to_empty(device="cpu")
    assert net.weight.device.type == "meta"


def test_the_teachers_scores_stand_beside_the_students(capsys: pytest.CaptureFixture[str]) -> None:
    result = learn(RIGHT)
    show_table(score_table(result, "run"))
    [row] = [line for line in capsys.readouterr().out.splitlines() if "teacher" in line]
    assert f"{result['teacher']['accuracy']:.4f}" in row


# -- images of another size --------------------------------------------------------------------------------------------


def squares(size: int) -> Data:
    """Images whose class is how bright they are, the same at every size."""
    level = torch.arange(90) % 3
    images = level[:, None, None, None].float().expand(90, 3, size, size) / 2 - 0.5
    return Data(ArrayDataset(images.clone(), level), None, ("dark", "grey", "bright"))


def test_a_teacher_of_other_images_is_given_its_own_where_that_is_asked(tmp_path: Path) -> None:
    preceptor.teach(folder=tmp_path / "teacher", data=squares(16), model="mlp", **SMALL)
    teacher = preceptor.load(tmp_path / "teacher")

    given: list[tuple[int, ...]] = []
    teacher.register_forward_pre_hook(lambda _, args: given.append(tuple(args[0].shape[1:])))
    result = preceptor.distill(teacher=teacher, data=squares(8), model="mlp", resize=True, **SMALL)
    assert set(given) == {(3, 16, 16)}
    assert result["teacher"]["accuracy"] == 1.0
    assert not result["notes"]


def test_and_is_told_of_the_way_where_it_is_not(tmp_path: Path) -> None:
    preceptor.teach(folder=tmp_path / "teacher", data=squares(16), model="resnet8", epochs=1, device="cpu")
    result = preceptor.distill(teacher=tmp_path / "teacher", data=squares(8), model="mlp", **SMALL)
    (told,) = [note for note in result["notes"] if "of shape" in note]
    assert told.endswith("and is given (3, 8, 8); resize: true gives it images of its own size")


def test_a_teacher_whose_lazy_layers_were_never_called_is_refused() -> None:
    points = ArrayDataset(torch.randn(60, 5), torch.arange(60) % 3)
    lazy = nn.Sequential(nn.Linear(5, 4), nn.LazyLinear(3))
    run: dict[str, Any] = {"data": points, "model": lambda num_classes: nn.Linear(5, num_classes), "epochs": 1}
    for teacher in (lazy, [lazy, nn.Linear(5, 3)]):
        with pytest.raises(InputError, match=r"the teacher's parameter '1\.weight' has no values yet"):
            preceptor.distill(**run, teacher=teacher, device="cpu")
    lazy(torch.zeros(1, 5))
    preceptor.distill(**run, teacher=lazy, device="cpu")
