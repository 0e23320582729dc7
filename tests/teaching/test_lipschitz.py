import numpy as np
import pytest
import torch
from torch import nn
from torch.func import stack_module_state, vmap

from preceptor.errors import InputError
from preceptor.teaching import Lipschitz
from preceptor.teaching.lipschitz import largest_singular_value


class Net(nn.Module):
    """Every kind of layer that counts, between some that do not."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2)
        self.ignored = nn.Sequential(nn.ReLU(), nn.LayerNorm(3), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.tensor(7.0))


def tensors_of(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def penalty_of(model, **options):
    lipschitz = Lipschitz(**options)
    lipschitz.bind(model=model)
    return lipschitz.penalty(tensors_of(model))


@pytest.fixture
def net():
    model = Net()
    with torch.no_grad():
        model.convolution.weight.copy_(torch.tensor([[[[1.0, -2], [3, -4]]], [[[0.5, 0], [0, -0.5]]]]))
        model.norm.weight.copy_(torch.tensor([-3.0, 2.0]))
        model.norm.running_var = torch.tensor([9.0, 1.0])
        model.norm.eps = 0.44  # 2 / sqrt(1.44) beats 3 / sqrt(9.44)
        model.head.weight.copy_(torch.tensor([[1.0, 2], [-1, 2], [1, -2]]))
    return model


def test_by_hand(net):
    assert penalty_of(net, weight=1.0).item() == pytest.approx(11 + 2 / 1.2 + 6)
    assert penalty_of(net).item() == pytest.approx(1e-5 * (11 + 2 / 1.2 + 6))


def test_depth_and_names_do_not_matter(net):
    nested = nn.ModuleDict({"inner": nn.Sequential(nn.Sequential(net))})
    torch.testing.assert_close(penalty_of(nested), penalty_of(net))


def test_gradient_by_hand(net):
    penalty_of(net, weight=1.0).backward()
    assert net.convolution.weight.grad.flatten().tolist() == [1, -1, 1, -1, 1, 0, 0, -1]
    assert net.norm.weight.grad.tolist() == pytest.approx([0, 1 / 1.2])  # through the arg-max gamma only
    assert net.head.weight.grad.tolist() == [[0, 1], [0, 1], [0, -1]]  # through the arg-max input only
    assert net.norm.bias.grad is None
    assert net.scale.grad is None


def test_negative_gamma_counts_by_its_size(net):
    net.norm.running_var[0] = 0.0
    penalty = penalty_of(net, weight=1.0)
    penalty.backward()
    assert penalty.item() == pytest.approx(11 + 3 / 0.44**0.5 + 6, rel=1e-6)
    assert net.norm.weight.grad.tolist() == pytest.approx([-1 / 0.44**0.5, 0])


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv1d(1, 2, 3), 6.0),
        (nn.Conv3d(1, 1, 2, bias=False), 8.0),
        (nn.Conv2d(4, 4, 1, groups=2), 8.0),
        (nn.Linear(3, 5), 5.0),
    ],
)
def test_a_bare_layer_of_ones_is_a_model_too(layer, expected):
    nn.init.ones_(layer.weight)
    assert penalty_of(layer, weight=1.0).item() == pytest.approx(expected)


def test_batch_norm_without_gamma_or_statistics_is_ignored():
    model = nn.Sequential(
        nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2, track_running_stats=False)
    )
    torch.testing.assert_close(penalty_of(model), penalty_of(model[0]))


def test_tied_weights_count_once_per_layer():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    torch.testing.assert_close(penalty_of(model), 2 * penalty_of(model[0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_summed_in_float32(dtype):
    layer = nn.Conv2d(64, 64, 3, dtype=dtype)
    nn.init.ones_(layer.weight)
    penalty = penalty_of(layer, weight=1.0)
    assert penalty.dtype == torch.float32
    assert penalty.item() == 64 * 64 * 9


@pytest.mark.parametrize("norm", ["l1", "spectral"])
def test_vmap_over_a_stack_is_a_loop(norm):
    models = [Net() for _ in range(4)]
    for i, model in enumerate(models):
        model.norm.running_var = torch.tensor([i + 1.0, 2.0])
    lipschitz = Lipschitz(weight=0.3, norm=norm)
    lipschitz.bind(model=models[0], num_samples=10, num_classes=3, stack=(4,))
    parameters, buffers = stack_module_state(models)
    together = vmap(lipschitz.penalty)({**parameters, **buffers})
    together.sum().backward()

    for i, model in enumerate(models):
        alone = lipschitz.penalty(tensors_of(model))
        alone.backward()
        torch.testing.assert_close(together[i], alone)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(parameters[name].grad[i], parameter.grad)


@pytest.mark.parametrize("shape", [(8, 8), (3, 20), (20, 3), (1, 5), (5, 1), (6, 4, 3, 3)])
def test_singular_value_is_numpys(shape):
    weight = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    u, s, v = np.linalg.svd(weight.detach().flatten(1).numpy(), full_matrices=False)
    value = largest_singular_value(weight, iterations=1000)
    value.backward()
    assert value.item() == pytest.approx(s[0], rel=1e-9)
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.flatten(1).numpy(), np.outer(u[:, 0], v[0]), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_default_iterations_come_close_from_below(seed):
    weight = torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(seed))
    exact = np.linalg.svd(weight.flatten(1).numpy(), compute_uv=False)[0]
    assert 0.97 * exact < largest_singular_value(weight).item() <= exact * (1 + 1e-6)


@pytest.mark.parametrize(
    "kernel", [[[1.0, -1.0]], [[1.0, 0.0, -1.0]], [[1.0, -2.0, 1.0]], [[0.0, 0.0, 5.0]], [[1, 1], [1, -1]]]
)
def test_no_simple_kernel_is_missed(kernel):
    weight = torch.tensor(kernel, dtype=torch.float32)
    expected = np.linalg.svd(weight.numpy(), compute_uv=False)[0]
    assert largest_singular_value(weight).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_holds_both_vectors_fixed_even_before_they_converge():
    weight = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    value = largest_singular_value(weight, iterations=1)
    value.backward()
    assert weight.grad is not None
    assert np.linalg.matrix_rank(weight.grad.numpy()) == 1
    assert torch.linalg.matrix_norm(weight.grad).item() == pytest.approx(1)
    assert (weight.detach() * weight.grad).sum().item() == pytest.approx(value.item())


def test_a_weight_of_zeros():
    weight = torch.zeros(3, 4, requires_grad=True)
    value = largest_singular_value(weight)
    value.backward()
    assert value.item() == 0
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_spectral_sum_by_numpy(net):
    expected = 2 / 1.2 + sum(
        np.linalg.svd(w.detach().flatten(1).numpy(), compute_uv=False)[0]
        for w in (net.convolution.weight, net.head.weight)
    )
    assert penalty_of(net, weight=2.0, norm="spectral").item() == pytest.approx(2 * expected, rel=1e-5)


def test_a_model_without_any_such_layer():
    model = nn.Sequential(nn.Embedding(3, 2), nn.ReLU())
    with pytest.raises(InputError, match=r"Sequential has no convolution.*weight of the Lipschitz penalty to 0"):
        penalty_of(model)
    assert penalty_of(model, weight=0.0).item() == 0


def test_a_computed_weight_is_refused():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(InputError, match=r"layer '0'.*parametrization"):
        penalty_of(model)


def test_bad_input():
    with pytest.raises(InputError, match=r"is -1"):
        Lipschitz(weight=-1)
    with pytest.raises(InputError, match=r"'l2'.*'l1' or 'spectral'"):
        Lipschitz(norm="l2")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"iterations.*0"):
        Lipschitz(iterations=0)
    with pytest.raises(InputError, match=r"call bind"):
        Lipschitz().penalty({})


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_penalty_is_where_the_model_is(net, weight):
    """Of weight 0, too: where several processes add it up, a number on the CPU cannot go."""
    lipschitz = Lipschitz(weight)
    lipschitz.bind(model=net)
    elsewhere = {name: tensor.to("meta") for name, tensor in tensors_of(net).items()}
    assert lipschitz.penalty(elsewhere).device.type == "meta"
    stacked = {name: torch.stack([tensor, tensor]) for name, tensor in elsewhere.items()}
    penalties = vmap(lipschitz.penalty)(stacked)
    assert (penalties.device.type, penalties.shape) == ("meta", (2,))
