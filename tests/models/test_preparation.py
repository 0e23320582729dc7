"""Models of others: what they need before training, and that they are left as they were found."""

import pytest
import torch
from torch import Tensor, nn

from preceptor.models.preparation import finish_, own_memory_, to_channels_last_, trains_on_one


class Viewed(nn.Module):
    """Takes its activations apart by `view`: always, in training alone, or in the backward pass alone."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 2)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.convolution(images))
        if self.where == "backward":
            return self.head(Flat.apply(hidden))
        viewed = self.where == "always" or (self.where == "training" and self.training)
        return self.head(hidden.view(len(hidden), -1) if viewed else hidden.flatten(1))


class Flat(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor) -> Tensor:
        ctx.save_for_backward(hidden)
        return hidden.flatten(1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (hidden,) = ctx.saved_tensors
        return (hidden.view(len(hidden), -1) * 0 + gradient).view(hidden.shape)


@pytest.mark.parametrize("where", ["never", "always", "training", "backward"])
def test_channels_last_only_where_the_model_can_take_it(where: str) -> None:
    model = Viewed(where)
    inputs = torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    to_channels_last_(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.convolution.weight.is_contiguous() == (where != "never")
    model(inputs).sum().backward()


def test_a_model_that_fails_in_either_layout_gets_the_fast_one() -> None:
    """Its own error is told elsewhere."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(17, 2))
    to_channels_last_(model, torch.randn(2, 3, 8, 8))
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


class Replacing(nn.Module):
    """Puts a new tensor in the place of its buffer in each forward pass."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.count = self.count + 1
        return inputs


@pytest.mark.parametrize(
    ("model", "shape", "one"),
    [
        (nn.BatchNorm1d(3), (3,), False),
        (nn.BatchNorm2d(3), (3, 1, 1), False),
        (nn.BatchNorm2d(3), (3, 2, 2), True),
        (nn.BatchNorm1d(3).requires_grad_(False), (3,), False),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.LayerNorm(3)), (3,), True),
        (nn.InstanceNorm2d(3), (3, 1, 1), True),  # two samples are no remedy
        (Replacing(), (3,), True),
    ],
)
def test_trains_on_one(model: nn.Module, shape: tuple[int, ...], one: bool) -> None:
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert trains_on_one(model, torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))) is one
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "shared",
    [
        torch.ones(1).expand(5),
        torch.ones(1, 2).expand(3, 2),
        torch.arange(6.0).unfold(0, 3, 1),
        torch.arange(2).expand(3, 2),
    ],
)
def test_tensors_that_overlap_are_copied(shared: Tensor) -> None:
    model = nn.Module()
    expected = shared.clone() + 1
    model.register_buffer("shared", shared)
    own = torch.arange(6.0).view(2, 3).t()
    model.register_buffer("own", own)
    model.register_buffer("none", None)
    own_memory_(model)
    assert model.get_buffer("own").data_ptr() == own.data_ptr()
    assert model.get_buffer("own").stride() == (1, 3)
    assert torch.equal(model.get_buffer("shared").add_(1), expected)


class Late(nn.Module):
    """Makes its head when it sees its first input."""

    def __init__(self) -> None:
        super().__init__()
        self.head: nn.Linear | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.head is None:
            self.head = nn.Linear(inputs.shape[1], 2)
        return self.head(inputs)


@pytest.mark.parametrize(
    ("make", "trained", "shape"),
    [
        (lambda: nn.LazyLinear(2), lambda: nn.Linear(5, 2), (5,)),
        (
            lambda: nn.Sequential(nn.LazyConv2d(2, 3), nn.LazyBatchNorm2d()),
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),
            (1, 4, 4),
        ),
        (
            lambda: nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.LazyLinear(2)),
            lambda: nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 2)),
            (4,),
        ),
    ],
)
def test_lazy_layers_are_finished_before_weights_are_loaded(make, trained, shape: tuple[int, ...]) -> None:
    model, tensors = make(), trained().state_dict()
    finish_(model, list(tensors), shape)
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    model.load_state_dict(tensors)


def test_layers_of_the_first_forward_pass_are_made() -> None:
    model = Late()
    finish_(model, ["head.weight", "head.bias"], (5,))
    assert model.head is not None
    untouched = Late()
    finish_(untouched, [], (5,))
    assert untouched.head is None
