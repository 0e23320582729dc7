"""What every loss of maps promises, tested on every one."""

import inspect

import pytest
import torch

from losses.features.maps import SETTING, built, features, gradients, value
from preceptor.errors import InputError
from preceptor.losses import features as all_losses
from preceptor.losses.features import AB, AT, CWD, FSP, FT, MGD, NST, OFD, PKD, FitNet, ReviewKD
from preceptor.losses.features._maps import MapLoss

LOSSES = {
    "AB": AB,
    "AT": AT,
    "CWD": CWD,
    "FSP": FSP,
    "FT": lambda: second_phase(FT(init_epochs=1)),
    "FitNet": FitNet,
    "MGD": MGD,
    "NST": NST,
    "OFD": OFD,
    "PKD": PKD,
    "ReviewKD": ReviewKD,
}
SMALL = [(4, 2, 6, 6), (4, 3, 3, 3)]
WIDE = [(4, 3, 6, 6), (4, 5, 3, 3)]
EQUAL = SMALL

every_loss = pytest.mark.parametrize("name", LOSSES)


def test_this_file_tests_every_loss_of_maps():
    found = {name for name, loss in vars(all_losses).items() if inspect.isclass(loss) and issubclass(loss, MapLoss)}
    assert found == set(LOSSES)


def second_phase(loss):
    loss.start_epoch(1, 2)
    return loss


def shapes(name):
    return (EQUAL, EQUAL) if name == "FSP" else (SMALL, WIDE)


def example(name, dtype=torch.float64):
    small, wide = shapes(name)
    student, teacher = features(*small, dtype=dtype), features(*wide, seed=1, dtype=dtype)
    return built(LOSSES[name](), student, teacher), student, teacher


@every_loss
def test_gradcheck(name):
    loss, student, teacher = example(name)
    leaves = [feature.requires_grad_() for feature in student.values()]
    redrawn = torch.random.get_rng_state()

    def of(*inputs):
        torch.random.set_rng_state(redrawn)
        return value(loss, dict(zip(student, inputs, strict=True)), teacher)

    assert torch.autograd.gradcheck(of, leaves)


@every_loss
def test_one_value_a_sample_or_one_for_the_batch_and_a_gradient(name):
    loss, student, teacher = example(name, torch.float32)
    found, grads = gradients(loss, student, teacher)
    assert found.shape == (() if name == "PKD" else (4,))
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert any((grad != 0).any() for grad in grads)


@every_loss
def test_half_precision_is_computed_in_single(name):
    loss, student, teacher = example(name, torch.bfloat16)
    torch.manual_seed(3)
    found, grads = gradients(loss, student, teacher)
    torch.manual_seed(3)
    expected = value(loss, *({n: x.float() for n, x in side.items()} for side in (student, teacher)))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.detach())
    assert all(grad.dtype == torch.bfloat16 for grad in grads)


@every_loss
def test_autocast_rounds_adapters_alone(name):
    """Losses without parts are as exact as ever, those with some nearly so."""
    loss, student, teacher = example(name, torch.float32)
    torch.manual_seed(3)
    expected = value(loss, student, teacher)
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16):
        found = value(loss, student, teacher)
    assert found.dtype == torch.float32
    parts = any(True for _ in loss.parameters())
    tolerance = 0.1 if parts else 1e-5
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


@every_loss
@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_dead_features_give_finite_values_and_gradients(name, zero):
    loss, student, teacher = example(name, torch.float32)
    sides = {"student": [student], "teacher": [teacher], "both": [student, teacher]}[zero]
    for side in sides:
        for feature in side.values():
            feature.zero_()
    found, grads = gradients(loss, student, teacher)
    assert found.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)


@every_loss
def test_no_gradient_flows_to_the_teacher(name):
    loss, student, teacher = example(name)
    for feature in (*student.values(), *teacher.values()):
        feature.requires_grad_()
    value(loss, student, teacher).sum().backward()
    assert all(feature.grad is None for feature in teacher.values())


@every_loss
@pytest.mark.parametrize(
    ("small", "wide"),
    [
        ([(4, 2, 8, 8), (4, 3, 4, 4)], [(4, 2, 3, 3), (4, 3, 7, 5)]),  # no size fits another
        ([(4, 2, 9, 6), (4, 3, 1, 1)], [(4, 2, 4, 3), (4, 3, 3, 3)]),
        ([(4, 2, 6, 6), (4, 3, 3, 3)], [(4, 10, 2), (4, 10, 3)]),  # tokens, the first a class token
        ([(4, 10, 2), (4, 10, 3)], [(4, 2, 14, 14), (4, 3, 14, 14)]),
    ],
)
def test_unlike_shapes(name, small, wide):
    student, teacher = features(*small, dtype=torch.float32), features(*wide, seed=1, dtype=torch.float32)
    loss = built(LOSSES[name](), student, teacher)
    found, grads = gradients(loss, student, teacher)
    assert found.isfinite().all()
    assert any((grad != 0).any() for grad in grads)


@every_loss
def test_a_batch_of_one(name):
    loss, student, teacher = example(name, torch.float32)
    one = [{n: x[:1] for n, x in side.items()} for side in (student, teacher)]
    found, grads = gradients(loss, *one)
    assert found.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads)


@every_loss
def test_state_dict_round_trip(name):
    loss, student, teacher = example(name, torch.float32)
    other = LOSSES[name]()
    other.build(student, teacher, SETTING)
    for parameter in other.parameters():
        parameter.data.add_(1)
    other.load_state_dict(loss.state_dict())
    values = []
    for each in (loss, other):
        torch.manual_seed(1)
        values.append(value(each, student, teacher))
    torch.testing.assert_close(*values, rtol=0, atol=0)


@every_loss
def test_as_many_features_of_each(name):
    if name != "ReviewKD":  # which takes the uppermost stages
        with pytest.raises(InputError, match=f"the loss '{name}' compares 1 features of the student .* with 2 of the"):
            LOSSES[name]().build(features((4, 2, 3, 3)), features(*WIDE), SETTING)


@every_loss
def test_maps_of_one_position_are_refused_where_they_would_teach_nothing(name):
    vectors = features((4, 5), (4, 5)), features((4, 5), (4, 5), seed=1)
    loss = LOSSES[name]()
    if loss.over_space:
        with pytest.raises(InputError, match=f"the loss '{name}' compares where maps are large, and layer0, layer1"):
            built(loss, *vectors)
    else:
        _, grads = gradients(built(loss, *vectors), *vectors)
        assert (grads[1] != 0).any()
