"""What a user brings or asks for beside the loss: label loss, class weights, samplers, metrics, patience."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import preceptor
from preceptor import assess, runs
from preceptor.data.dataset import Indexed
from preceptor.errors import InputError
from preceptor.tasks import DistillTask
from preceptor.teaching import class_weights, cross_entropy, focal, label_smoothing
from preceptor.training.data.batches import Batches, Shard
from preceptor.training.data.sampling import Sampler
from preceptor.training.data.streams import Streams
from training.toys import metrics, snapshot, stopped_at, weights

COUNTS = (60, 25, 11)


def uneven(counts: tuple[int, ...], seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return TensorDataset(torch.randn(len(labels), 4, generator=generator) + labels[:, None], labels)


DATA = uneven(COUNTS, 0), uneven((20, 8, 5), 1), uneven((20, 8, 5), 2)
TEACHER = nn.Linear(4, 3)
QUICK: dict[str, Any] = {"data": DATA, "epochs": 2, "batch_size": 32, "device": "cpu", "lr": 0.1}


def make_student(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, num_classes))


def distill(folder: Path | None = None, **keywords: Any) -> Any:
    return preceptor.distill(folder=folder, **{"teacher": TEACHER, "model": make_student, **QUICK, **keywords})


def refused(call: Any, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert "\n" not in str(caught.value)


def assert_same(*folders: Path) -> None:
    first, *others = (weights(folder) for folder in folders)
    for other in others:
        assert all(torch.equal(tensor, other[name]) for name, tensor in first.items())


# -- objectives and weights --------------------------------------------------------------------------------------------


def test_weighted_cross_entropy_is_torchs_but_for_the_mean() -> None:
    logits, labels, w = torch.randn(9, 3), torch.arange(9) % 3, torch.tensor([0.5, 2.0, 3.0])
    for smoothing in (0.0, 0.3):
        expected = F.cross_entropy(logits, labels, weight=w, reduction="none", label_smoothing=smoothing)
        found = label_smoothing(logits, labels, smoothing=smoothing, class_weights=w)
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        cross_entropy(logits, labels, class_weights=[0.5, 2.0, 3.0]),
        nn.CrossEntropyLoss(weight=w, reduction="none")(logits, labels),
    )


def test_focal_by_its_formula() -> None:
    logits, labels, w = torch.randn(9, 3, dtype=torch.float64), torch.arange(9) % 3, torch.tensor([0.5, 2.0, 3.0])
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    for gamma in (0.0, 0.5, 2.0):
        expected = torch.stack([-w[y] * (1 - row[y]) ** gamma * row[y].log() for row, y in zip(p, labels, strict=True)])
        torch.testing.assert_close(focal(logits, labels, gamma=gamma, class_weights=w), expected)
    certain = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    focal(certain, torch.tensor([0]), gamma=0.5).sum().backward()
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_masked_examples_of_weighted_objectives_are_zero() -> None:
    logits = torch.tensor([[0.0, 1.0], [torch.nan, 0.0]], requires_grad=True)
    mask = torch.tensor([True, False])
    for objective in (cross_entropy, focal, label_smoothing):
        values = objective(logits, torch.tensor([1, 7]), class_weights=[1.0, 2.0], mask=mask)
        assert values[0] > 0
        assert values[1] == 0
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        assert gradient[0].isfinite().all()
        assert (gradient[1] == 0).all()


def test_class_weights_are_scikit_learns_and_cuis() -> None:
    labels = DATA[0].tensors[1].numpy()
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    torch.testing.assert_close(class_weights(COUNTS), torch.tensor(expected, dtype=torch.float32))
    beta = 0.9
    inverse = [1 / sum(beta**i for i in range(n)) for n in COUNTS]  # the effective number of samples as a sum
    expected = torch.tensor([3 * x / sum(inverse) for x in inverse])
    torch.testing.assert_close(class_weights(COUNTS, "effective", beta=beta), expected)
    refused(lambda: class_weights([3, 0]), "class 1 has no sample", "as a list")
    refused(lambda: class_weights([3, 1], "even"), "'balanced' or 'effective'")  # type: ignore[arg-type]
    refused(lambda: cross_entropy(torch.zeros(1, 2), torch.tensor([0]), class_weights=[1.0]), "one for each class")
    refused(lambda: focal(torch.zeros(1, 2), torch.tensor([0]), class_weights=[1.0, -1.0]), "at least 0")
    refused(lambda: focal(torch.zeros(1, 2), torch.tensor([0]), gamma=-1), "gamma")


def test_words_for_class_weights_count_the_training_part_alone(tmp_path: Path) -> None:
    counted = class_weights(COUNTS).tolist()  # the held-out part has other shares
    for name, said in {"words": "balanced", "list": counted}.items():
        preceptor.teach(folder=tmp_path / name, model=make_student, **QUICK,
                        objective={"name": "cross_entropy", "class_weights": said})  # fmt: skip
    assert_same(tmp_path / "words", tmp_path / "list")
    said = {"name": "focal", "class_weights": {"name": "effective", "beta": 0.9}}
    distill(tmp_path / "student", label_loss=said)
    as_list = {"name": "focal", "class_weights": class_weights(COUNTS, "effective", beta=0.9).tolist()}
    distill(tmp_path / "as list", label_loss=as_list)
    assert_same(tmp_path / "student", tmp_path / "as list")


@pytest.mark.parametrize(
    ("said", "part"),
    [
        ("even", "choose 'balanced' or 'effective'"),
        ({"name": "balanced", "beta": 0.5}, "give balanced, {name: effective, beta: 0.999}, or a list"),
        ({"name": "effective", "beta": 2}, "in [0, 1)"),
        ([1.0], "one for each class"),
    ],
)
def test_class_weights_that_cannot_be(said: Any, part: str) -> None:
    refused(lambda: distill(label_loss={"name": "focal", "class_weights": said}), part)


# -- label_loss --------------------------------------------------------------------------------------------------------


def own_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """It takes no mask."""
    return F.cross_entropy(logits, labels, reduction="none")


def test_a_label_loss_of_ones_own_is_the_cross_entropy_if_it_is(tmp_path: Path) -> None:
    """With masked, unlabelled and mixed samples, and steps in uneven parts."""
    more = {"split": {"transfer": 20}, "accumulate": 3, "mixing": "mixup"}
    distill(tmp_path / "default", **more)
    distill(tmp_path / "own", **more, label_loss=own_label_loss)
    distill(tmp_path / "torch", **more, label_loss=nn.CrossEntropyLoss(reduction="none"))
    distill(tmp_path / "named", **more, label_loss=f"{__name__}:own_label_loss")
    for name in ("own", "torch", "named"):
        for a, b in zip(*(weights(tmp_path / n).values() for n in ("default", name)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert {"label", "distill"} <= metrics(tmp_path / "own")[0]["train"].keys()
    assert runs.read_objects(tmp_path / "own")["label_loss"] == f"{__name__}:own_label_loss"  # type: ignore[index]


def test_the_label_loss_decides_the_gradient() -> None:
    student = nn.Linear(4, 3)
    inputs, labels = DATA[0].tensors[0][:8], torch.arange(8) % 3
    zero = partial(lambda s, t, mask=None: (s - t).sum(-1) * 0)
    task = DistillTask(student, TEACHER, zero, ce_weight=2.0, label_loss=partial(focal, gamma=1.0))
    loss = task({"input": inputs, "label": labels})["loss"]
    torch.testing.assert_close(loss, 2 * focal(student(inputs), labels, gamma=1.0).mean())


def test_a_label_loss_with_a_memory_resumes(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    keywords = {"label_loss": "SoTeacher", "training": {"checkpoint_every": 2}}
    distill(whole, **keywords)
    with stopped_at(4):
        distill(broken, **keywords)
    distill(broken, **keywords)
    assert snapshot(broken) == snapshot(whole)


@pytest.mark.parametrize(
    ("keywords", "parts"),
    [
        ({"label_loss": "focall"}, ["there is no label_loss called 'focall'", "'focal'"]),
        ({"label_loss": {"name": "focal", "gama": 2}}, ["unknown key 'label_loss.gama'", "gamma"]),
        ({"label_loss": lambda logits, labels: logits.sum()}, ["gives shape ()", "one value per example"]),
        ({"label_loss": lambda logits, labels, weight: logits}, ["also needs 'weight'", "functools.partial"]),
        ({"label_loss": lambda logits: logits}, ["refuses what it is called with", "logits and labels"]),
        ({"label_loss": lambda q, y, teacher_features: q}, ["'teacher_features'", "as a loss"]),
        ({"label_loss": "focal", "ce_weight": 0.0}, ["ce_weight, its weight, is 0"]),
        ({"label_loss": nn.CrossEntropyLoss}, ["is the class CrossEntropyLoss", "CrossEntropyLoss(...)"]),
        ({"label_loss": 3}, ["3", "give a function"]),
        ({"label_loss": "SoTeacher", "mixing": "mixup"}, ["remembers each sample"]),
        ({"label_loss": lambda q, y: (q.argmax(-1) != y).float()}, ["label_loss '<lambda>' has no gradient"]),
        ({"loss": lambda s, t: (s - t).abs().mean(-1).detach()}, ["loss '<lambda>' has no gradient", ".detach()"]),
    ],
)
def test_a_label_loss_that_cannot_be(keywords: dict[str, Any], parts: list[str]) -> None:
    refused(lambda: distill(**keywords), *parts)


# -- losses in whatever form -------------------------------------------------------------------------------------------


def per_example(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean(-1)


def with_any(student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
    assert options["mask"].all()
    return per_example(student, teacher)


def heedless(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    return per_example(student, teacher)


def heedful(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    values = per_example(student, teacher)
    return values if mask is None else values.masked_fill(~mask, 0)


class Called:
    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        return per_example(student, teacher)


class Module(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return per_example(student, teacher)


def late_labels(student: Tensor, teacher: Tensor, scale: float = 1.0, labels: Tensor | None = None) -> Tensor:
    assert scale == 1.0
    assert labels is not None
    return per_example(student, teacher)


@pytest.fixture(scope="module")
def with_a_mask(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in uneven, padded parts, whose loss heeds its mask."""
    folder = tmp_path_factory.mktemp("mask")
    distill(folder, accumulate=5, loss=heedful)
    return folder


@pytest.mark.parametrize(
    "loss",
    [
        per_example,
        with_any,
        heedless,
        Called(),
        Module(),
        partial(per_example),
        late_labels,
        lambda s, t: per_example(s, t),
    ],
)
def test_a_loss_of_any_signature_is_the_one_with_a_mask(loss: Any, with_a_mask: Path, tmp_path: Path) -> None:
    distill(tmp_path, accumulate=5, loss=loss)
    for name, tensor in weights(with_a_mask).items():
        torch.testing.assert_close(weights(tmp_path)[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_scalar_mean_without_a_mask_is_the_mean_of_the_step(with_a_mask: Path, tmp_path: Path) -> None:
    """Uneven parts of a step count for as many examples as they have."""
    with pytest.warns(UserWarning, match="a batch-level loss sees one micro-batch"):
        distill(tmp_path, accumulate=5, loss=lambda s, t: per_example(s, t).mean())
    for name, tensor in weights(with_a_mask).items():
        torch.testing.assert_close(weights(tmp_path)[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        (lambda s, t, tau: s, ["also needs 'tau'", "functools.partial(..., tau=...)"]),
        (lambda s, *, t: s, ["also needs 't'"]),
        (lambda: 0, ["refuses what it is called with", "the student's logits and the teacher's logits"]),
        (nn.KLDivLoss, ["is the class KLDivLoss", "KLDivLoss(...)"]),
    ],
)
def test_a_signature_is_refused_before_data_are_read(loss: Any, parts: list[str]) -> None:
    class Unread:
        def __len__(self) -> int:
            raise AssertionError("the data were read")

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("the data were read")

    refused(lambda: distill(data=(Unread(), Unread()), loss=loss), *parts)


# -- selection and patience --------------------------------------------------------------------------------------------


def test_macro_f1_and_balanced_accuracy_are_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 3, 7):
        logits, labels = torch.randn(2, 20, classes, generator=generator), torch.arange(20) % max(2, classes - 2)
        said = logits.argmax(-1)
        f1, balanced = assess.macro_f1(logits, labels), assess.balanced_accuracy(logits, labels)
        for model in range(2):
            assert f1[model] == pytest.approx(f1_score(labels, said[model], average="macro"))
            known = said[model] < max(2, classes - 2)  # scikit-learn warns of predictions of classes without a label
            if known.all():
                assert balanced[model] == pytest.approx(balanced_accuracy_score(labels, said[model]))


def own_score(probabilities: Tensor, labels: Tensor) -> Tensor:
    assert (probabilities.sum(-1) - 1).abs().max() < 1e-5
    return (probabilities.argmax(-1) == labels).double().mean()


TORCHMETRICS = {
    "name": "torchmetrics.functional.classification:multiclass_f1_score",
    "maximize": True,
    "num_classes": 3,
    "average": "macro",
}
CLASS = {**TORCHMETRICS, "name": "torchmetrics.classification:MulticlassF1Score"}


@pytest.mark.parametrize(
    ("own", "ours"),
    [
        ({"select": own_score, "maximize": True}, "accuracy"),
        ({"select": {"name": f"{__name__}:own_score", "maximize": True}}, "accuracy"),
        ({"select": TORCHMETRICS}, "macro_f1"),
        ({"select": CLASS}, "macro_f1"),
    ],
)
def test_a_metric_of_ones_own_selects_the_epoch_that_ours_selects(own: Any, ours: str, tmp_path: Path) -> None:
    keywords = {"lr": 0.5, "epochs": 4}
    found = distill(tmp_path / "own", **keywords, **own)
    expected = distill(tmp_path / "ours", **keywords, select=ours)
    assert found["best_epoch"] == expected["best_epoch"]
    name = own["select"]["name"] if isinstance(own["select"], dict) else "own_score"
    assert found["heldout"]["best"][name] == pytest.approx(expected["heldout"]["best"][ours])
    values = [line["heldout"][name] for line in metrics(tmp_path / "own")]
    assert found["best_epoch"] == values.index(max(values))


@pytest.mark.parametrize(
    ("keywords", "parts"),
    [
        ({"select": own_score}, ["maximize=True or maximize=False"]),
        ({"maximize": True}, ["give that as select"]),
        ({"select": lambda p, y: p, "maximize": True}, ["gives no number"]),
        ({"select": lambda p, y: float("nan"), "maximize": True}, ["is NaN"]),
        ({"select": f"{__name__}:own_score"}, ["training.select.maximize"]),
        ({"select": {**TORCHMETRICS, "avrage": 1}}, ["training.select.avrage"]),
        ({"select": "f1"}, ["known: accuracy, balanced_accuracy, brier, macro_f1, nll"]),
    ],
)
def test_a_metric_that_cannot_be(keywords: dict[str, Any], parts: list[str]) -> None:
    refused(lambda: distill(**keywords), *parts)


def test_patience_stops_and_resumes_there(tmp_path: Path) -> None:
    falling = iter(range(1000))
    keywords: dict[str, Any] = {"epochs": 9, "patience": 2, "training": {"checkpoint_every": 2}}
    result = distill(tmp_path / "whole", **keywords, select=lambda p, y: -float(next(falling)), maximize=True)
    assert result["stopped"] == {"epochs": 3, "by": "patience"}
    assert result["best_epoch"] == 0
    assert len(metrics(tmp_path / "whole")) == 3
    unstopped = distill(tmp_path / "unstopped", epochs=9)  # the schedule is that of nine epochs
    assert "stopped" not in unstopped
    assert [line["lr"] for line in metrics(tmp_path / "unstopped")[:3]] == [
        line["lr"] for line in metrics(tmp_path / "whole")
    ]


def worse_and_worse(probabilities: Tensor, labels: Tensor) -> float:
    return 0.5


def test_patience_after_a_kill(tmp_path: Path) -> None:
    keywords: dict[str, Any] = {"epochs": 9, "patience": 3, "select": worse_and_worse, "maximize": True}
    distill(tmp_path / "whole", **keywords)
    for step in (2, 7, 11):
        with stopped_at(step):
            distill(tmp_path / "broken", **keywords)
    distill(tmp_path / "broken", **keywords)
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")
    assert metrics(tmp_path / "broken")[-1]["epoch"] == 3
    refused(lambda: preceptor.teach(model=make_student, seeds=[0, 1], **QUICK, patience=1), "one by one")


# -- samplers ----------------------------------------------------------------------------------------------------------


def test_a_balanced_sampler_draws_each_class_as_often() -> None:
    labels = DATA[0].tensors[1]
    counts = labels.bincount()
    sampler = Sampler(1 / counts[labels].double())
    drawn = torch.cat([labels[sampler.draw(torch.Generator().manual_seed(s))] for s in range(200)])
    share = drawn.bincount().double() / len(drawn)
    assert (share - 1 / 3).abs().max() < 4 * (2 / 9 / len(drawn)) ** 0.5  # four standard errors
    only = Sampler(torch.tensor([0.0, 1.0, 0.0])).draw(torch.Generator())
    assert only.tolist() == [1, 1, 1]


def samples_of(batches: Batches, *shards: Shard, start: int = 0) -> list[list[int]]:
    """The samples of each step, over all shards, in order."""
    steps: list[list[list[int]]] = []
    for shard in shards:
        found = [
            [int(i) for b in step for i in b["index"][b["mask"]]] for step in batches.epoch(1, start=start, shard=shard)
        ]
        steps.append(found)
    return [sorted(i for part in parts for i in part) for parts in zip(*steps, strict=True)]


def test_a_sampler_is_a_function_of_seed_and_epoch_whatever_the_parts() -> None:
    sampler = Sampler(1 / DATA[0].tensors[1].bincount()[DATA[0].tensors[1]].double())
    make = partial(Batches, Indexed(DATA[0]), torch.arange(96), 32, Streams(0), sampler=sampler)
    whole = samples_of(make(), Shard())
    assert sum(map(len, whole)) == 96
    assert len({i for step in whole for i in step}) < 96  # with replacement
    assert samples_of(make(), Shard(0, 2, 3), Shard(1, 2, 3)) == whole
    assert samples_of(make(), Shard(), start=1) == whole[1:]
    assert samples_of(make(num_workers=1), Shard()) == whole
    assert [
        list(s)
        for s in samples_of(Batches(Indexed(DATA[0]), torch.arange(96), 32, Streams(1), sampler=sampler), Shard())
    ] != whole


def test_repeats_are_augmented_each_by_itself() -> None:
    class Shift:
        def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
            return torch.rand(num_samples, 1, generator=generator)

        def apply(self, inputs: Tensor, parameters: Tensor) -> Tensor:
            return inputs + parameters

    batches = Batches(Indexed(DATA[0]), torch.arange(96), 96, Streams(0), sampler=Sampler(torch.eye(96)[3].double()),
                      augmentation=Shift())  # type: ignore[arg-type]  # fmt: skip
    [[batch]] = batches.epoch(0)
    assert batch["index"].unique().tolist() == [3]
    assert len(batch["input"][:, 0].unique()) == 96


def test_a_sampled_run_resumes(tmp_path: Path) -> None:
    keywords: dict[str, Any] = {"sampler": "balanced", "training": {"checkpoint_every": 1}, "augmentation": None}
    distill(tmp_path / "whole", **keywords)
    with stopped_at(4):
        distill(tmp_path / "broken", **keywords)
    distill(tmp_path / "broken", **keywords)
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")
    by_class = {"sampler": {"name": "weighted", "weights": [1 / n for n in COUNTS]}}
    distill(tmp_path / "by class", **by_class)
    distill(
        tmp_path / "by sample", sampler={"name": "weighted", "weights": [1 / COUNTS[y] for y in DATA[0].tensors[1]]}
    )
    assert_same(tmp_path / "by class", tmp_path / "by sample", tmp_path / "whole")


@pytest.mark.parametrize(
    ("keywords", "parts"),
    [
        ({"sampler": "balance"}, ["'sampler.name' is 'balance'", "'balanced'"]),
        ({"sampler": {"name": "balanced", "weights": [1]}}, ["leave sampler.weights out"]),
        ({"sampler": {"name": "balanced", "wieghts": [1]}}, ["unknown key 'sampler.wieghts'", "'weights'"]),
        ({"sampler": "weighted"}, ["needs 'weights'"]),
        ({"sampler": {"name": "weighted", "weights": [1, 2]}}, ["shape (2,)", "give 3 numbers", "or 96"]),
        ({"sampler": {"name": "weighted", "weights": [1, 2, -1]}}, ["'sampler.weights.2' is -1"]),
        ({"sampler": {"name": "weighted", "weights": [0, 0, 0]}}, ["is 0 for every training sample"]),
        ({"sampler": {"name": "weighted", "weights": ["a"]}}, ["'sampler.weights.0' is 'a'"]),
        ({"sampler": "balanced", "mixing": "mixup"}, ["leave one of the two out"]),
        ({"sampler": "balanced", "split": {"transfer": 10}}, ["samples without labels", "leave one out"]),
    ],
)
def test_a_sampler_that_cannot_be(keywords: dict[str, Any], parts: list[str]) -> None:
    refused(lambda: distill(**keywords), *parts)


def test_all_of_it_in_a_stack(tmp_path: Path) -> None:
    """A stack's members become what they become alone."""
    keywords = {**QUICK, "objective": {"name": "focal", "class_weights": "balanced"}, "sampler": "balanced",
                "select": "macro_f1", "optimizer": {"no_decay": ["norms"], "rates": {"3.*": 0.5}}}  # fmt: skip
    preceptor.teach(folder=tmp_path / "stack", model=make_student, seeds=[3, 4], **keywords)
    preceptor.teach(folder=tmp_path / "alone", model=make_student, seed=4, **keywords)
    for name, tensor in weights(tmp_path / "alone").items():
        torch.testing.assert_close(weights(tmp_path / "stack")[name.replace(".", "/")][1], tensor, rtol=1e-4, atol=1e-5)
