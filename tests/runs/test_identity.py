"""A run folder knows the Python objects that it was made with, and weights know whose model they are."""

import copy
import functools
import inspect
import json
import logging
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, TensorDataset

from preceptor.data import digits
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.errors import InputError
from preceptor.losses import kd, ttm
from preceptor.recipe import Component, Proxy, TeacherRef, Temperature
from preceptor.runs import read_objects
from preceptor.runs.identity import criterion_fingerprint, fingerprint
from preceptor.tasks import teacher as teacher_module
from preceptor.tasks.teacher import Function, Mixture, Teacher, Transformed
from preceptor.teaching import cross_entropy, mse
from preceptor.teaching.soteacher import SoTeacher
from preceptor.training import Lookup, Student, distill, distill_stack, load_model, load_teacher, teach
from preceptor.training.loop.loop import Loop
from training.toys import distill_recipe, stopped_at, teach_recipe, weights

QUICK = "training.epochs=1"
HOT, COLD = Temperature(temperature=2.0), Temperature(temperature=0.5)


def small(num_classes: int, width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, num_classes))


def flat(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def ask(batch: Any) -> Tensor:
    return batch["input"].flatten(1)[:, :10]


def ask_otherwise(batch: Any) -> Tensor:
    return batch["input"].flatten(1)[:, 10:20]


def net(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return flat(10)


def table(seed: int) -> Tensor:
    return torch.randn(1, 1797, 10, generator=torch.Generator().manual_seed(seed))


def pixels(factor: float) -> ArrayDataset:
    data = digits()
    return ArrayDataset(data.train.inputs * factor, data.train.labels)  # type: ignore[attr-defined]


def pooled(first: int) -> Data:
    return replace(digits(), pools={"heldout": torch.arange(first, first + 200)})


def taught(**given: Any) -> Callable[[Path], Any]:
    return lambda folder: teach(teach_recipe(QUICK), folder, **given)


def learned(**given: Any) -> Callable[[Path], Any]:
    return lambda folder: distill(distill_recipe(QUICK), folder, **{"teacher": ask, **given})


def stacked(seed: int) -> Callable[[Path], Any]:
    students = [Student(0, 0, Component(name="kd"))]
    return lambda folder: distill_stack(distill_recipe(QUICK), students, table(seed), folder)


@pytest.mark.parametrize(
    ("first", "second", "role"),
    [
        (taught(), taught(model=flat), "model"),
        (taught(model=flat), taught(), "model"),
        (taught(model=small), taught(model=functools.partial(small, width=6)), "model"),
        (taught(objective=cross_entropy), taught(objective=mse), "objective"),
        (taught(objective=mse), taught(objective=functools.partial(mse, on="logit")), "objective"),
        (taught(), taught(objective=SoTeacher()), "objective"),
        (taught(data=pixels(1.0)), taught(data=pixels(0.5)), "data"),
        (taught(), taught(data=pixels(1.0)), "data"),
        (taught(data=pooled(0)), taught(data=pooled(1)), "data"),
        (taught(data=digits()), taught(data=pooled(0)), "data"),
        (learned(), learned(teacher=ask_otherwise), "teacher"),
        (learned(teacher=net(0)), learned(teacher=net(1)), "teacher"),
        (learned(teacher=net(0)), learned(teacher=Teacher(net(0), temperature=2.0)), "teacher"),
        (learned(teacher=Teacher(net(0))), learned(teacher=Teacher(net(0), transform=COLD)), "teacher"),
        (learned(teacher=[net(0), net(1)]), learned(teacher=[net(0), (net(1), 2.0)]), "teacher"),
        (learned(teacher=Lookup(table(0)[0])), learned(teacher=Lookup(table(1)[0])), "teacher"),
        (learned(loss=kd), learned(loss=functools.partial(ttm, temperature=1.0)), "loss"),
        (stacked(0), stacked(1), "table"),
    ],
)
def test_a_folder_made_with_other_objects(
    first: Callable[[Path], Any],
    second: Callable[[Path], Any],
    role: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused whether the run is complete or not; with the same objects, made again, it is found."""
    found = first(tmp_path / "run")
    monkeypatch.setattr(Loop, "run", lambda self: pytest.fail("trained again"))
    assert first(tmp_path / "run") == found
    for _ in ("complete", "not complete"):
        with pytest.raises(InputError, match=f"was made with another {role}: .* there and .* here; give the same"):
            second(tmp_path / "run")
        (tmp_path / "run" / "result.json").unlink(missing_ok=True)


def test_an_objective_with_history_goes_on(tmp_path: Path) -> None:
    """What it has seen is no identity: the same object, or a new one of its class, is taken."""
    objective = SoTeacher()
    with stopped_at(4):
        teach(teach_recipe(), tmp_path / "run", objective=objective)
    result = teach(teach_recipe(), tmp_path / "run", objective=objective)
    assert teach(teach_recipe(), tmp_path / "run", objective=SoTeacher()) == result


def test_an_older_folder_is_not_checked(tmp_path: Path) -> None:
    teach(teach_recipe(QUICK), tmp_path / "run", model=flat)
    for name in ("objects.json", "result.json"):
        (tmp_path / "run" / name).unlink()
    assert read_objects(tmp_path / "run") is None
    teach(teach_recipe(QUICK), tmp_path / "run", model=flat)


def test_what_the_recipe_loads_itself_is_no_object(tmp_path: Path) -> None:
    teach(teach_recipe(QUICK), tmp_path / "run", seeds=[0, 1])
    assert read_objects(tmp_path / "run") == {}


# -- weights of one's own factory ----------------------------------------------------------------------------


def test_weights_of_ones_own_factory_say_so(tmp_path: Path) -> None:
    teach(teach_recipe(QUICK), tmp_path / "run", model=flat)
    path = tmp_path / "run" / "last.safetensors"
    name = f"{__name__}:flat"
    sentence = re.escape(f"names code, the model '{name}', which is not imported unasked; give model='{name}'")
    with pytest.raises(InputError, match=sentence):
        load_model(path)
    with pytest.raises(InputError, match=sentence):
        load_teacher(TeacherRef(run=tmp_path / "run"))
    assert load_teacher(TeacherRef(run=tmp_path / "run"), model=flat)({"input": torch.zeros(6, 1, 8, 8)}).shape == (
        6,
        10,
    )
    model, found = load_model(path, model=flat)
    assert found.model == {"factory": name}
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights(tmp_path / "run")[key])
    with pytest.raises(InputError, match="another architecture"):
        load_model(path, model=small)


def test_errors_name_ones_own_factory() -> None:
    with pytest.raises(InputError, match="the model 'flat' has 9 outputs"):
        teach(teach_recipe(), model=functools.wraps(flat)(lambda num_classes: flat(9)))


# -- fingerprints --------------------------------------------------------------------------------------------


class Files(Dataset[Any]):
    """Samples that are somewhere else."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(2), index % 2


class Attribute:
    """A teacher as an object to be called."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __call__(self, batch: Any) -> Any:
        return self.held

    method = __call__


class Slots:
    __slots__ = ("held",)

    def __init__(self, held: Any) -> None:
        self.held = held

    def __call__(self, batch: Any) -> Any:
        return self.held


class Lazy(Files):
    """A data set that keeps what it has by a name of its own."""

    def __init__(self, held: Any) -> None:
        super().__init__(3)
        self.kept = held


def named(held: Any) -> Any:
    """A function that uses a global name."""
    return FunctionType(ask_global.__code__, {"held": held}, "ask")


def ask_global(batch: Any) -> Any:
    return held  # type: ignore[name-defined]


# Whatever holds a tensor, an array or a module.
HOLDERS: list[Callable[[Any], Any]] = [
    *(Attribute, Slots, Lazy, named, lambda held: Attribute(held).method, lambda held: Attribute({"a": [held]})),
    *(lambda held: lambda batch: held, lambda held: lambda batch, by=held: by),
    *(lambda held: functools.partial(ask, held), lambda held: functools.partial(lambda batch: held, 1)),
    *(lambda held: functools.partial(ask, by=held), lambda held: [Attribute(held), ask]),
    lambda held: Made(lambda index: held),
]


class Made(Files):
    """A data set of what a function gives."""

    def __init__(self, function: Any) -> None:
        super().__init__(3)
        self.function = function


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.ones(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.bfloat16)),
        (np.zeros(2), np.ones(2)),
        ([1, 2], [12]),
        (["1"], [1]),
        (nn.BatchNorm1d(3), nn.BatchNorm1d(3, eps=1e-3, affine=False)),
        (TensorDataset(torch.zeros(3)), TensorDataset(torch.ones(3))),
        ([(torch.zeros(2), 0)], [(torch.zeros(2), 1)]),
        (Files(3), Files(4)),
        (ConcatDataset([pixels(1.0), pixels(2.0)]), ConcatDataset([pixels(1.0), pixels(3.0)])),
        (nn.Identity, nn.Flatten),
        (Lookup(torch.zeros(2, 3, 2), [0, 1]), Lookup(torch.zeros(2, 3, 2), [1, 0])),
        *((hold(torch.zeros(2)), hold(torch.ones(2))) for hold in HOLDERS),
        *((hold(np.zeros(2)), hold(np.ones(2))) for hold in HOLDERS),
        *((hold(net(0)), hold(net(1))) for hold in HOLDERS),
    ],
)
def test_fingerprints_tell_apart(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert json.loads(json.dumps(fingerprint(one))) == fingerprint(one)


TEACHERS: dict[type, tuple[dict[str, Any], dict[str, Any]]] = {
    Teacher: (
        {"model": net(0), "distribution": "softmax", "temperature": 1.0, "class_names": ["a", "b"], "transform": HOT}
        | {"preprocessing": {}, "input_shape": (2,)},
        {"model": net(1), "distribution": "clip", "temperature": 2.0, "class_names": ["b", "a"], "transform": COLD}
        | {"preprocessing": {"divide_by": 2.0}, "input_shape": (3,)},
    ),
    Mixture: (
        {"teachers": [ask, net(0)], "weights": [1.0, 2.0]},
        {"teachers": [net(0), ask], "weights": [2.0, 1.0]},
    ),
    Transformed: (
        {"teacher": ask, "transform": HOT},
        {"teacher": ask_otherwise, "transform": Proxy(coefficients=(0.5,))},
    ),
    Function: (
        {"function": ask, "distribution": "softmax"},
        {"function": ask_otherwise, "distribution": "probabilities"},
    ),
    Lookup: (
        {"table": torch.zeros(2, 3, 2), "row_of": [0, 1], "distribution": "softmax"},
        {"table": torch.ones(2, 3, 2), "row_of": None, "distribution": "probabilities"},
    ),
}


def test_every_argument_of_every_teacher_is_in_its_fingerprint() -> None:
    ours = inspect.getmembers(teacher_module, inspect.isclass)
    assert {kind for _, kind in ours if kind.__module__ == teacher_module.__name__} == TEACHERS.keys()
    for kind, (arguments, others) in TEACHERS.items():
        assert arguments.keys() == others.keys() == inspect.signature(kind).parameters.keys()
        known = fingerprint(kind(**arguments))
        assert fingerprint(kind(**arguments)) == known
        for name, other in others.items():
            assert fingerprint(kind(**{**arguments, name: other})) != known, (kind, name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.arange(6.0).view(2, 3).T, torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])),
        (np.arange(6).reshape(2, 3).T, np.ascontiguousarray(np.arange(6).reshape(2, 3).T)),
        (np.array([{}]), np.array([{1: 2}])),  # objects are no numbers
        (net(3), net(3)),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (Files(3), Files(3)),
        *((hold(torch.ones(2)), hold(torch.ones(2))) for hold in HOLDERS),
        *((hold(net(0)), hold(net(0))) for hold in HOLDERS),
    ],
)
def test_fingerprints_that_are_equal(one: Any, other: Any) -> None:
    assert fingerprint(one) == fingerprint(other)


def test_a_very_large_array_is_read_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preceptor.runs.identity._MOST_BYTES", 8)
    assert fingerprint(torch.tensor([1.0, 2.0, 3.0])) == fingerprint(torch.tensor([1.0, 2.0, 4.0]))
    assert fingerprint(torch.tensor([1.0, 2.0])) != fingerprint(torch.tensor([1.0, 3.0]))


# -- losses as objects -------------------------------------------------------------------------------------------------


class Gap(nn.Module):
    """A loss with an option, a tensor of its own, and one that is made and trained in a run."""

    def __init__(self, power: float = 2.0, scale: float = 1.0, names: tuple[str, ...] = ("a",)) -> None:
        super().__init__()
        self.power, self.names, self.student_taps, self.teacher_taps = power, names, ("1",), ("1",)
        self.register_buffer("scale", torch.tensor(scale))
        self.inner = nn.HuberLoss(delta=scale, reduction="none")
        self.alone = False

    def build(self, student: Any, teacher: Any, setting: Any) -> None:
        self.map = nn.Linear(student["1"].shape[1], 10)
        self.register_buffer("seen", torch.zeros(()))

    def start_epoch(self, epoch: int, epochs: int) -> None:
        self.epoch = epoch

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Any, mask: Tensor) -> Tensor:
        self.seen += 1
        values = (self.map(student_features["1"]) - teacher_logits).abs() ** self.power * self.scale
        return values.mean(-1).masked_fill(~mask, 0)


UNLIKE: list[Callable[[], Any]] = [
    lambda: Gap(power=1.0),
    lambda: Gap(names=("a", "b")),
    lambda: Gap(scale=2.0),
]


def sum_of(loss: Any) -> list[Any]:
    return [("wttm", 1.0), (loss, 0.5)]


@pytest.mark.parametrize("wrapped", [lambda loss: loss, sum_of], ids=["alone", "in a sum"])
@pytest.mark.parametrize("other", UNLIKE)
def test_two_losses_of_a_class_are_told_apart(
    other: Callable[[], Any], wrapped: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = lambda loss: learned(loss=wrapped(loss))(tmp_path / "run")  # noqa: E731
    found = run(Gap())
    monkeypatch.setattr(Loop, "run", lambda self: pytest.fail("trained again"))
    assert run(Gap()) == found
    for _ in ("complete", "not complete"):
        with pytest.raises(InputError, match=r"was made with another loss: .* there and .* here; give the same"):
            run(other())
        (tmp_path / "run" / "result.json").unlink(missing_ok=True)


def test_the_object_that_a_run_has_trained_goes_on_until_somebody_changes_it(tmp_path: Path) -> None:
    """What it has built, learned and counted is no identity; an option that is set later is."""
    loss, quick = Gap(), distill_recipe("training.epochs=2", "training.checkpoint_every=1")
    with stopped_at(2):
        distill(quick, tmp_path / "run", teacher=ask, loss=loss)
    assert loss.seen > 0
    result = distill(quick, tmp_path / "run", teacher=ask, loss=loss)
    assert distill(quick, tmp_path / "run", teacher=ask, loss=loss) == result
    assert distill(quick, tmp_path / "run", teacher=ask, loss=Gap()) == result
    distill(quick, tmp_path / "whole", teacher=ask, loss=Gap())
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "run")[name])
    loss.power = 1.0
    with pytest.raises(InputError, match="made with another loss"):
        distill(quick, tmp_path / "run", teacher=ask, loss=loss)


def test_objectives_and_losses_to_the_labels_too(tmp_path: Path) -> None:
    teach(teach_recipe(QUICK), tmp_path / "teacher", objective=SoTeacher())
    with pytest.raises(InputError, match="made with another objective"):
        teach(teach_recipe(QUICK), tmp_path / "teacher", objective=SoTeacher(consistency=0.5))
    learned(label_loss=Labels(0.1))(tmp_path / "student")
    learned(label_loss=Labels(0.1))(tmp_path / "student")
    with pytest.raises(InputError, match="made with another label_loss"):
        learned(label_loss=Labels(0.2))(tmp_path / "student")


class Labels(nn.Module):
    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.HuberLoss(delta=1.0), nn.HuberLoss(delta=2.0)),
        (nn.CrossEntropyLoss(weight=torch.ones(2)), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))),
        (nn.Sequential(nn.HuberLoss(delta=1.0)), nn.Sequential(nn.HuberLoss(delta=2.0))),
        (nn.MSELoss(), nn.L1Loss()),
    ],
)
def test_fingerprints_of_criteria_tell_apart(one: nn.Module, other: nn.Module) -> None:
    assert criterion_fingerprint(one) != criterion_fingerprint(other)
    assert criterion_fingerprint(one) == criterion_fingerprint(copy.deepcopy(one).eval())


class Unregistered(nn.Module):
    """What it multiplies by is in no state dict."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale), persistent=False)


class Holder(nn.Module):
    def __init__(self, option: Any) -> None:
        super().__init__()
        self.option = option


class Settings:
    def __init__(self, power: float) -> None:
        self.power = power


@dataclass
class Options:
    power: float


@pytest.mark.parametrize(
    "make",
    [
        lambda number: [np.float32(number)],
        lambda number: {"dtype": [torch.float16, torch.float32, torch.float64][number]},
        lambda number: {"a", number},
        lambda number: deque([number]),
        lambda number: Path(str(number)),
        lambda number: range(number),
        lambda number: complex(0, number),
        lambda number: Options(number),
        lambda number: SimpleNamespace(inner=[Options(number)]),
        lambda number: Settings(number),
        lambda number: [nn.HuberLoss(delta=number)],
        lambda number: Options(number).__eq__,
        lambda number: Unregistered(number),
    ],
)
def test_options_of_a_criterion_are_seen_wherever_they_lie(make: Callable[[int], Any]) -> None:
    one, again, other = (criterion_fingerprint(Holder(make(number))) for number in (1, 1, 2))
    assert one == again != other


def test_what_differs_in_each_process_is_no_option() -> None:
    loss = Holder([])
    loss.option.append(loss.option)  # and a circle comes to an end
    loss.log, loss.call = logging.getLogger("one"), lambda: None
    known = criterion_fingerprint(loss)
    loss.log = logging.getLogger("other")
    loss.compile()
    assert criterion_fingerprint(loss) == known


def test_a_run_of_an_earlier_version_knows_a_loss_by_its_class(tmp_path: Path) -> None:
    by_class = lambda thing: type(thing) if isinstance(thing, nn.Module) else thing  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("preceptor.training.resolve.known_by", by_class)
        found = learned(loss=Gap())(tmp_path / "run")
    assert "sha256" not in (read_objects(tmp_path / "run") or {})["loss"]
    assert learned(loss=Gap())(tmp_path / "run") == found
    with pytest.raises(InputError, match="made with another loss"):
        learned(loss=nn.HuberLoss())(tmp_path / "run")
