"""Inputs that are several arrays by name: tokens with their mask, pixels with an extra, padded to their batch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import preceptor
from preceptor.data.dataset import as_data
from preceptor.errors import InputError
from preceptor.losses import kd
from preceptor.tasks import DistillTask

LENGTHS = (3, 7, 5, 4, 6)


class Bag(nn.Module):
    """Mean of the embeddings of the tokens that are there, then a linear layer."""

    def __init__(self, num_classes: int = 3, width: int = 8) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, width), nn.Linear(width, num_classes)

    def forward(self, input_ids, attention_mask=None):
        there = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        found = self.embedding(input_ids) * there[..., None]
        return {"logits": self.head(found.sum(1) / there.sum(1, keepdim=True)), "length": there.sum(1)}


class Padded(Bag):
    """The same, for a student that reads no mask: padding is token 0."""

    def forward(self, input_ids):
        return super().forward(input_ids, (input_ids != 0).long())


def tokens(count: int, *, seed: int = 0) -> list[dict]:
    draws = np.random.default_rng(seed)
    return [
        {
            "input_ids": draws.integers(1 + 6 * (i % 3), 7 + 6 * (i % 3), LENGTHS[i % 5]).tolist(),
            "attention_mask": [1] * LENGTHS[i % 5],
            "text": "left out",
            "idx": i,
            "label": i % 3,
        }
        for i in range(count)
    ]


def pad(samples: list[dict]) -> dict:
    longest = max(len(sample["input_ids"]) for sample in samples)
    padded = {
        name: torch.tensor([sample[name] + [0] * (longest - len(sample[name])) for sample in samples])
        for name in ("input_ids", "attention_mask")
    }
    return padded | {"labels": torch.tensor([sample["label"] for sample in samples])}


SETS = (tokens(60), tokens(30, seed=1), tokens(30, seed=2))
OPTIONS = {"data": SETS, "collate_fn": pad, "epochs": 3, "batch_size": 8, "device": "cpu", "lr": 0.5}


def test_a_student_learns_from_a_teacher_on_padded_sequences(tmp_path):
    preceptor.teach(model=lambda num_classes: Bag(num_classes), folder=tmp_path / "t", **OPTIONS)
    teacher = preceptor.load(tmp_path / "t", model=Bag)
    result = preceptor.distill(teacher=teacher, model=Padded, folder=tmp_path / "s", **OPTIONS)
    assert result["test"]["last"]["accuracy"] > 0.9
    assert result["heldout"]["last"]["accuracy"] > 0.9
    # The run's teacher is found by its folder, too, and a repeated command returns the same.
    again = preceptor.distill(teacher=str(tmp_path / "t"), teacher_model=Bag, model=Padded, **OPTIONS)
    assert again["test"]["last"] == pytest.approx(result["test"]["last"])


def test_a_resumed_run_is_the_same(tmp_path):
    class Stop(KeyboardInterrupt):
        pass

    def run(folder, **options):
        return preceptor.teach(model=Bag, folder=folder, **(OPTIONS | {"checkpoint_every": 2} | options))

    whole = run(tmp_path / "whole")
    calls = 0

    def interrupting(samples):
        nonlocal calls
        calls += 1
        if calls == 12:
            raise Stop
        return pad(samples)

    # The collate function is part of what a run is; here it is the same but for the interruption.
    interrupting.__qualname__, interrupting.__module__ = pad.__qualname__, pad.__module__
    with pytest.raises(Stop):
        run(tmp_path / "cut", collate_fn=interrupting)
    resumed = run(tmp_path / "cut")
    assert resumed["test"] == whole["test"]
    one, other = (preceptor.load(tmp_path / name, model=Bag).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_padding_changes_nothing_that_is_computed(tmp_path):
    """What is scored in batches of several lengths equals each sample alone, as the model itself answers."""
    result = preceptor.teach(model=Bag, folder=tmp_path / "t", **OPTIONS)
    model = preceptor.load(tmp_path / "t", model=Bag)
    with torch.no_grad():
        rows = [model(torch.tensor([each["input_ids"]]))["logits"][0] for each in SETS[2]]
    labels = torch.tensor([each["label"] for each in SETS[2]])
    assert result["test"]["last"]["nll"] == pytest.approx(F.cross_entropy(torch.stack(rows), labels).item(), rel=1e-5)


def test_a_task_calls_its_models_by_keyword_with_what_they_take():
    torch.manual_seed(0)
    student, teacher = Padded(), Bag()
    batch = pad(tokens(5))
    labels = batch.pop("labels")
    task = DistillTask(student, teacher, kd, ce_weight=0.5, distill_weight=2.0)
    found = task({"input": batch, "label": labels})
    with torch.no_grad():
        expected = teacher(**batch)["logits"]
    logits = student(batch["input_ids"])["logits"]
    p, q = ((each / 4).log_softmax(-1) for each in (expected, logits))
    soft = 16 * (p.exp() * (p - q)).sum(-1).mean()
    assert torch.allclose(found["loss"], 0.5 * F.cross_entropy(logits, labels) + 2 * soft, rtol=1e-5)


def test_a_function_that_teaches_gets_the_whole_batch():
    teacher = Bag()
    result = preceptor.distill(
        teacher=lambda batch: teacher(batch["input"]["input_ids"], batch["input"]["attention_mask"])["logits"],
        model=Padded,
        **OPTIONS,
    )
    assert math.isfinite(result["heldout"]["last"]["nll"])


def test_several_students_of_one_teacher():
    students = {"kd": {"loss": "kd"}, "wttm": {"loss": "wttm"}}
    teacher = Bag()
    results = preceptor.distill_together(None, students, teacher=teacher, model=Padded, **OPTIONS)
    alone = preceptor.distill(teacher=teacher, model=Padded, loss="wttm", **OPTIONS)
    assert results["wttm"]["test"]["last"] == alone["test"]["last"]


def test_a_student_of_the_recorded_teacher_is_that_of_the_live_one(tmp_path):
    teacher, options = Bag(), {key: value for key, value in OPTIONS.items() if key not in ("data", "collate_fn")}
    data = replace(as_data(SETS), collate_fn=pad)
    preceptor.record(teacher, tmp_path / "record", data=data, device="cpu")
    live = preceptor.distill(teacher=teacher, model=Padded, data=data, cache=False, **options)
    recorded = preceptor.distill(teacher=str(tmp_path / "record"), model=Padded, data=data, **options)
    assert recorded["test"]["last"]["nll"] == pytest.approx(live["test"]["last"]["nll"], rel=1e-5)


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_a_graph_of_inputs_by_name_is_refused(tmp_path, to):
    preceptor.teach(model=Bag, folder=tmp_path / "t", **(OPTIONS | {"epochs": 1}))
    data = replace(as_data(SETS), collate_fn=pad)
    with pytest.raises(InputError, match=r"inputs go by name, .*; export it to safetensors") as caught:
        preceptor.export(tmp_path / "t", to=to, path=tmp_path / "out", data=data, model=Bag)
    assert "\n" not in str(caught.value)
    preceptor.export(tmp_path / "t", to="safetensors", path=tmp_path / "out", data=data, model=Bag)


def test_samples_may_be_pairs_or_have_an_input_of_arrays():
    arrays = [{"pixels": torch.full((2, 2), float(i % 2)), "extra": np.ones(1, np.float32)} for i in range(40)]

    class Net(nn.Module):
        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.layer = nn.Linear(4, num_classes)

        def forward(self, pixels, **others):
            assert not others
            return self.layer(pixels.flatten(1))

    pairs = [(each, i % 2) for i, each in enumerate(arrays)]
    named = [{"input": each, "label": i % 2} for i, each in enumerate(arrays)]
    options = {"model": Net, "epochs": 1, "batch_size": 8, "device": "cpu"}
    one, other = (preceptor.teach(data=each, **options)["heldout"] for each in (pairs, named))
    assert one == other


class Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, images):
        return self.layer(images)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"collate_fn": None}, r"cannot be stacked .*give a collate_fn that pads them"),
        ({"collate_fn": lambda samples: pad(samples[:-1])}, r"makes a batch of .* labels of \d+ samples; give one row"),
        ({"collate_fn": lambda samples: samples[0]["nothing"]}, "collate_fn cannot make a batch of samples .*KeyError"),
        ({"collate_fn": lambda samples: {"input_ids": [1]}}, "collate_fn cannot make a batch .*must be"),
        ({"collate_fn": "pad"}, "collate_fn is a str; give a function from a list of samples"),
        (
            {"model": lambda num_classes: Other()},
            "takes none of the inputs, which are called input_ids, attention_mask",
        ),
        ({"augmentation": "crop_flip"}, "augmentation changes inputs of one tensor"),
        ({"mixing": "mixup"}, "mixing changes inputs of one tensor"),
        ({"seeds": [0, 1]}, "cannot be trained as a stack, as its inputs go by name"),
        ({"data": "digits"}, "give data= a data set"),
        ({"compile": True}, "cannot be compiled .*by name.*set training.compile to false"),
    ],
)
def test_what_cannot_be_is_one_sentence(changes, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        preceptor.teach(**({"model": Bag} | OPTIONS | changes))
    assert "\n" not in str(caught.value)


def test_an_input_that_is_not_finite_is_named():
    bad = [({"x": torch.full((2,), torch.nan if i == 7 else 1.0)}, i % 2) for i in range(40)]

    class Net(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    with pytest.raises(InputError, match="the input of sample 7 holds nan"):
        preceptor.teach(data=bad, model=lambda: Net(2, 2), epochs=1, batch_size=8, device="cpu")


def test_what_a_model_does_not_take_is_noted():
    result = preceptor.teach(model=Padded, **OPTIONS)
    assert any("takes no attention_mask of the inputs" in note for note in result["notes"])
