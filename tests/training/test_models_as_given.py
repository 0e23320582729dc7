"""Models of others in a run: lazy, flattened by `view`, batch-normalised, with tensors that share their memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import preceptor
from preceptor.errors import InputError
from training.toys import metrics, weights

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 0.05, "device": "cpu"}


def points(count: int = 75, shape: tuple[int, ...] = (5,)) -> list[tuple[Tensor, int]]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=generator) + n % 3, n % 3) for n in range(count)]


# -- lazy layers ---------------------------------------------------------------------------------------------


def eager(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, num_classes))


def lazy(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(num_classes))


class Late(nn.Module):
    """Makes its layers by hand when it sees its first input."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.layers: nn.Module | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.layers is None:
            self.layers = nn.Sequential(nn.Linear(inputs.shape[1], 8), nn.ReLU(), nn.Linear(8, self.num_classes))
        return self.layers(inputs)


@pytest.mark.parametrize("factory", [eager, lazy, Late])
def test_weights_are_drawn_by_the_seed_whenever_layers_are_made(factory: Any, tmp_path: Path) -> None:
    """The three draw the same layers in the same order, and so the same numbers, whatever the global generator is."""
    torch.manual_seed(len(factory.__name__))
    preceptor.teach(folder=tmp_path / "run", data=points(), model=factory, seed=3, **QUICK)
    torch.manual_seed(0)
    preceptor.teach(folder=tmp_path / "eager", data=points(), model=eager, seed=3, **QUICK)
    expected = weights(tmp_path / "eager")
    for name, tensor in weights(tmp_path / "run").items():
        assert torch.equal(tensor, expected[name.removeprefix("layers.")])


@pytest.mark.parametrize("factory", [lazy, Late])
def test_a_lazy_model_is_loaded_and_stacked(factory: Any, tmp_path: Path) -> None:
    data = points()
    preceptor.teach(folder=tmp_path / "run", data=data, model=factory, **QUICK)
    loaded = preceptor.load(tmp_path / "run", model=factory)
    reference = eager(3)
    reference.load_state_dict({k.removeprefix("layers."): v for k, v in weights(tmp_path / "run").items()})
    inputs = torch.stack([value for value, _ in data])
    assert torch.equal(loaded(inputs), reference(inputs))
    preceptor.distill(data=data, model=eager, teacher=loaded, **QUICK)
    preceptor.teach(folder=tmp_path / "stack", data=data, model=factory, seeds=[0, 1], **QUICK)
    assert torch.isfinite(preceptor.load(tmp_path / "stack", member=1, model=factory)(inputs)).all()


# -- activations taken apart by view -------------------------------------------------------------------------


class Viewing(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.convolution(images).relu().view(-1, 4 * 36))


def test_a_model_that_flattens_by_view(tmp_path: Path) -> None:
    data = points(shape=(3, 8, 8))
    preceptor.teach(folder=tmp_path / "run", data=data, model=Viewing, average={"kind": "ema"}, **QUICK)
    loaded = preceptor.load(tmp_path / "run", model=Viewing)
    inputs = torch.stack([value for value, _ in data])
    reference = Viewing(3)
    reference.load_state_dict(weights(tmp_path / "run"))
    torch.testing.assert_close(loaded(inputs), reference(inputs))
    preceptor.distill(data=data, model=Viewing, teacher=loaded, **QUICK)
    preceptor.teach(data=data, model=Viewing, seeds=[0, 1], **QUICK)


def test_convolutions_over_volumes_are_loaded(tmp_path: Path) -> None:
    def volumes(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten(), nn.Linear(54, num_classes))

    preceptor.teach(folder=tmp_path / "run", data=points(shape=(1, 4, 4, 4)), model=volumes, **QUICK)
    preceptor.load(tmp_path / "run", model=volumes)


# -- batch normalisation and a batch of one ------------------------------------------------------------------


def normed(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes))


def test_a_last_batch_of_one_joins_the_batch_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = QUICK | {"split": {"heldout": 10}}  # 65 samples for training: 16, 16, 16, 17
    result = preceptor.teach(folder=tmp_path / "run", data=points(), model=normed, **options)
    assert "the last 1 sample(s) of each epoch join the batch before them" in capsys.readouterr().err
    assert result["best_epoch"] in (0, 1)
    assert [line["step"] for line in metrics(tmp_path / "run")] == [4, 8]
    with pytest.warns(UserWarning, match="batch normalisation sees one micro-batch"):  # 16, 16, 16, 15 + 2 of 2 parts
        preceptor.teach(data=points(76), model=normed, accumulate=2, **options)
    preceptor.distill(data=points(), model=normed, teacher=nn.Linear(5, 3), **options)
    preceptor.teach(data=points(), model=normed, seeds=[0, 1], **options)


def test_a_last_batch_of_one_is_a_step_where_it_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preceptor.teach(folder=tmp_path / "run", data=points(), model=eager, **QUICK | {"split": {"heldout": 10}})
    assert [line["step"] for line in metrics(tmp_path / "run")] == [5, 10]
    assert "join" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"batch_size": 1}, ["training.batch_size is 1,", "at least 2"]),
        ({"batch_size": 8, "accumulate": 8}, ["training.batch_size is 8 and cut into 8 parts", "at least 9"]),
        ({"batch_size": 256, "accumulate": 128}, ["trained on 65 sample(s) in 128 part(s)", "more samples"]),
    ],
)
def test_batches_of_one_alone_are_refused_before_training(options: Any, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        preceptor.teach(
            folder=tmp_path / "run", data=points(), model=normed, **QUICK | {"split": {"heldout": 10}} | options
        )
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert not (tmp_path / "run").exists()


# -- tensors that share their memory -------------------------------------------------------------------------


class Shared(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(5, num_classes)
        self.register_buffer("scale", torch.ones(1).expand(5))
        self.bias = nn.Parameter(torch.zeros(1).expand(5))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(inputs * self.scale + self.bias)


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_a_buffer_made_by_expand_is_averaged(kind: str, tmp_path: Path) -> None:
    preceptor.teach(folder=tmp_path / "run", data=points(), model=Shared, average={"kind": kind}, **QUICK)
    loaded = preceptor.load(f"{tmp_path / 'run'}:average", model=Shared)
    assert loaded.get_buffer("scale").tolist() == [1.0] * 5
    assert len(set(loaded.get_parameter("bias").tolist())) > 1


# -- numbers that are not finite -----------------------------------------------------------------------------


def poisoned(position: int, value: float, count: int = 75) -> list[tuple[Tensor, int]]:
    data = points(count)
    data[position][0][2] = value
    return data


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("factory", [eager, normed])
def test_a_bad_input_is_named(value: float, factory: Any) -> None:
    for position in (7, 8, 9):  # in whichever part it is
        with pytest.raises(InputError, match=rf"the input of sample {position} holds {value}; mend it"):
            preceptor.teach(data=poisoned(position, value), model=factory, **QUICK)
    with pytest.raises(InputError, match=rf"the input of sample 7 holds {value}"):
        preceptor.teach(data=poisoned(7, value), model=factory, seeds=[0, 1], **QUICK)
    with pytest.raises(InputError, match=rf"the input of test sample 7 holds {value}"):
        preceptor.teach(data=(points(), poisoned(7, value)), model=factory, **QUICK)
    for cache in (True, False):
        with pytest.raises(InputError, match=rf"the input of sample 7 holds {value}"):
            preceptor.distill(data=poisoned(7, value), model=factory, teacher=nn.Linear(5, 3), cache=cache, **QUICK)


def test_inputs_too_large_are_no_fault_of_the_learning_rate() -> None:
    with pytest.raises(InputError, match=r"in epoch 0; the inputs reach \S+e\+37: scale them, or lower optimizer.lr"):
        preceptor.teach(data=[(value * 1e37, label) for value, label in points()], model=eager, **QUICK)


def test_initial_weights_too_large_are_no_fault_of_the_learning_rate() -> None:
    def model(num_classes: int) -> nn.Module:
        made = eager(num_classes)
        nn.init.constant_(made[0].weight, 3e38)  # pyright: ignore
        return made

    with pytest.raises(InputError, match=r"in epoch 0, before the first update; look at the initial weights"):
        preceptor.teach(data=points(), model=model, **QUICK)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_teacher_that_is_not_finite_is_named(value: float, cache: bool) -> None:
    data = points()

    def teacher(batch: Any) -> Tensor:
        logits = batch["input"][:, :3].clone()
        logits[batch["index"] % 40 == 39, 1] = value
        return logits

    with pytest.raises(InputError, match=rf"the teacher's output for sample (39|79) holds {value}"):
        preceptor.distill(data=data, model=eager, teacher=teacher, cache=cache, **QUICK)


def test_a_class_that_a_teacher_excludes_is_no_fault() -> None:
    def teacher(batch: Any) -> Tensor:
        logits = batch["input"][:, :3].log_softmax(-1)
        return logits.masked_fill(torch.arange(3) == 1, -torch.inf)

    result = preceptor.distill(data=points(), model=eager, teacher=teacher, loss="kd", **QUICK)
    assert result["best_epoch"] in (0, 1)


class Cut(nn.Module):
    """A linear model whose logits are cut off from its weights."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(5, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs).detach()


def frozen(num_classes: int) -> nn.Module:
    return nn.Linear(5, num_classes).requires_grad_(False)


@pytest.mark.parametrize("factory", [Cut, frozen])
def test_a_model_without_a_gradient_is_refused(factory: Any) -> None:
    with pytest.raises(InputError, match=r"gradient|requires_grad|nothing"):
        preceptor.distill(teacher=lambda batch: batch["input"][:, :3], data=points(), model=factory, **QUICK)


def test_inputs_in_float64_say_the_remedy() -> None:
    wide = [(value.double(), label) for value, label in points()]
    with pytest.raises(InputError, match=r"astype\('float32'\)$"):
        preceptor.teach(data=wide, model=eager, **QUICK)
