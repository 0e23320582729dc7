"""Heads as language models have them: bias, scale, soft cap, tied, frozen, a function of parameters, padded."""

import math

import pytest
import torch
from torch import nn

from losses.linear.cases import OPTIONS, bent_head, fused, gradients, normal, pair, plain, trained
from preceptor.errors import InputError
from preceptor.losses import linear
from preceptor.losses.linear import Head, engine

every_loss = pytest.mark.parametrize("name", OPTIONS)
both_modes = pytest.mark.parametrize("per_token", [False, True])


def by_hand(hidden, weight, bias, scale, cap):
    """In the order of Gemma's code: the matrix, the scale, the soft cap."""
    logits = scale * (hidden @ weight.t() + bias)
    return cap * torch.tanh(logits / cap)


def test_logits_of_a_head():
    head = bent_head(5, 4, 0)
    hidden = normal(3, 4, seed=5)
    torch.testing.assert_close(head.logits(hidden), by_hand(hidden, head.weight, head.bias, 0.7, 2.5))
    linear_layer = nn.Linear(4, 5).double()
    plain_head = Head(linear_layer.weight, linear_layer.bias)
    torch.testing.assert_close(plain_head.logits(hidden), linear_layer(hidden))


@every_loss
@both_modes
def test_bias_scale_and_soft_cap_on_both_sides(name, per_token):
    hidden, states = normal(6, 4, seed=5), normal(6, 3, seed=6)
    student, teacher = bent_head(9, 4, 0), bent_head(9, 3, 2)
    inputs = trained(hidden, student.weight, student.bias)
    head = Head(inputs[1], inputs[2], student.scale, student.softcap)
    loss = fused(name, inputs[0], head, (states, teacher), per_token=per_token, chunk=4)
    expected = plain(name, by_hand(*inputs, 0.7, 2.5), by_hand(states, teacher.weight, teacher.bias, 0.7, 2.5))
    torch.testing.assert_close(loss.sum(), expected.sum())
    torch.testing.assert_close(gradients(loss, *inputs), gradients(expected, *inputs))


@both_modes
def test_small_losses_through_a_soft_cap_have_their_digits(per_token):
    """Those are computed once more in float64, from what the matrix gave."""
    hidden, weight = normal(6, 4, dtype=torch.float32), normal(3000, 4, seed=1, dtype=torch.float32)
    head, near = Head(weight, softcap=5.0), Head(weight + 1e-3 * normal(3000, 4, seed=2).float(), softcap=5.0)
    loss = fused("kd", hidden, head, (hidden, near), per_token=per_token)
    truth = plain("kd", *(Head(each.weight.double(), softcap=5.0).logits(hidden.double()) for each in (head, near)))
    assert truth.max() < 1e-3
    torch.testing.assert_close(loss.sum().double(), truth.sum(), rtol=1e-2, atol=0)


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self, vocabulary=13, width=4):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(vocabulary, width).double()
        self.body = nn.Linear(width, width).double()

    def forward(self, tokens):
        return self.body(self.embedding(tokens)).tanh()


@both_modes
def test_a_head_that_is_tied_to_the_embedding(per_token):
    tokens, teacher = torch.tensor([[1, 2, 3], [3, 3, 12]]), normal(2, 3, 13)
    grads = []
    for loss in (
        lambda model: fused("kd", model(tokens), model.embedding.weight, teacher, per_token=per_token),
        lambda model: plain("kd", model(tokens) @ model.embedding.weight.t(), teacher),
    ):
        model = Tied()
        loss(model).sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*grads)


@both_modes
def test_a_head_that_is_a_function_of_parameters(per_token):
    """LoRA: the weight itself is frozen."""
    (hidden, base), teacher = pair((7,))
    up, down, hidden = trained(normal(11, 2, seed=5), normal(2, 4, seed=6), hidden)
    loss = fused("wttm", hidden, base + 0.5 * up @ down, teacher, per_token=per_token)
    expected = plain("wttm", hidden @ (base + 0.5 * up @ down).t(), teacher[0] @ teacher[1].t())
    torch.testing.assert_close(gradients(loss, up, down, hidden), gradients(expected, up, down, hidden))


@both_modes
@pytest.mark.parametrize("frozen", ["head", "states"])
def test_what_is_frozen_has_no_gradient_and_costs_none(per_token, frozen, monkeypatch):
    (hidden, head), teacher = pair((7,))
    both = trained(hidden, head)
    expected = gradients(fused("kd", *both, teacher), *both)
    made = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda *args: made.append(run(*args)) or made[-1])
    inputs = (both[0], head) if frozen == "head" else (hidden, both[1])
    kept = 0 if frozen == "head" else 1
    (grad,) = gradients(fused("kd", *inputs, teacher, per_token=per_token), inputs[kept])
    torch.testing.assert_close(grad, expected[kept])
    assert made[-1].gradients[1 - kept] is None


# -- padding -----------------------------------------------------------------------------------------------------------


@every_loss
@both_modes
@pytest.mark.parametrize("of_teacher", ["hidden", "logits"])
def test_padded_entries_are_as_good_as_ruled_out(name, per_token, of_teacher):
    (hidden, _), _ = pair((6,))
    student, teacher = bent_head(16, 4, 0), bent_head(13, 3, 2)  # of which 11 are tokens
    states, inputs = normal(6, 3, seed=6), trained(hidden, student.weight, student.bias)
    head = Head(inputs[1], inputs[2], student.scale, student.softcap)
    given = (states, teacher) if of_teacher == "hidden" else teacher.logits(states)
    loss = fused(name, inputs[0], head, given, per_token=per_token, vocabulary=11)
    padded = torch.arange(16) >= 11
    logits = by_hand(*inputs, 0.7, 2.5).masked_fill(padded, -torch.inf)
    other = nn.functional.pad(teacher.logits(states)[:, :11], (0, 5), value=-torch.inf)
    expected = plain(name, logits, other)
    torch.testing.assert_close(loss.sum(), expected.sum())
    found = gradients(loss, *inputs)
    torch.testing.assert_close(found, gradients(expected, *inputs))
    assert (found[1][11:] == 0).all()


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (None, "^the student's vocabulary has 16 entries and the teacher's 13; if .* as vocabulary"),
        (14, r"^vocabulary is 14; .* student \(16 entries\) and teacher \(13\) have both"),
        (1, "vocabulary is 1"),
    ],
)
def test_vocabularies_that_do_not_fit(size, message):
    (hidden, _), _ = pair((6,))
    with pytest.raises(InputError, match=message):
        linear.kd(hidden, normal(16, 4), normal(6, 13), vocabulary=size)


# -- wrong ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": torch.ones(5)}, r"weight has shape \(5,\); .* \(V, H\)"),
        ({"weight": torch.ones(5, 3).long()}, "weight are torch.int64"),
        ({"bias": torch.ones(3)}, r"bias has shape \(3,\)"),
        ({"scale": 0.0}, "scale is 0.0"),
        ({"scale": math.nan}, "scale is nan"),
        ({"softcap": 0.0}, "softcap is 0.0"),
        ({"softcap": math.inf}, "softcap is inf"),
    ],
)
def test_heads_that_are_none(options, message):
    with pytest.raises(InputError, match=message):
        Head(**{"weight": torch.ones(5, 3), **options})


@pytest.mark.parametrize("layer", [nn.Linear(4, 11), None])
def test_a_layer_is_no_head(layer):
    """Its forward may be more than its weight."""
    with pytest.raises(InputError, match=r"a head is given as \w+; give its weight"):
        linear.kd(normal(3, 4), layer, normal(3, 11))
