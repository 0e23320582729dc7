"""Fused losses equal the losses of logits, in value and gradient, in both modes and every dtype, with less memory."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from losses import oracles
from losses.linear.cases import OPTIONS, fused, gradients, normal, pair, plain, trained
from preceptor.errors import InputError
from preceptor.losses import _closed, linear
from preceptor.losses.linear import Head
from preceptor.losses.linear import teacher as teacher_rows
from preceptor.losses.targets import TopKTargets

every_loss = pytest.mark.parametrize("name", OPTIONS)
both_modes = pytest.mark.parametrize("per_token", [False, True])
WEIGHT = torch.tensor([[0.5, 0.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 0.25, 3.0]])


@every_loss
@both_modes
@pytest.mark.parametrize("chunk", [1, 3, None])
@pytest.mark.parametrize("weight", [None, WEIGHT, WEIGHT > 0], ids=["none", "numbers", "mask"])
def test_value_and_gradient_are_those_of_the_logits(name, per_token, chunk, weight):
    (hidden, head), (states, teacher) = pair()
    hidden, head = trained(hidden, head)
    factors = torch.ones(2, 5) if weight is None else weight
    expected = plain(name, hidden @ head.t(), states @ teacher.t()) * factors.double()
    loss = fused(name, hidden, head, (states, teacher), weight=weight, per_token=per_token, chunk=chunk)
    torch.testing.assert_close(loss, expected if per_token else expected.sum())
    upstream = normal(2, 5, seed=9) if per_token else torch.tensor(-1.7, dtype=torch.float64)
    found = gradients(loss * upstream, hidden, head)
    torch.testing.assert_close(found, gradients(expected * upstream, hidden, head))


@every_loss
def test_value_against_the_oracle(name):
    (hidden, head), (states, teacher) = pair((7,))
    logits, of_teacher = hidden.numpy() @ head.numpy().T, states.numpy() @ teacher.numpy().T
    expected = getattr(oracles, name)(logits, of_teacher, **OPTIONS[name])
    np.testing.assert_allclose(fused(name, hidden, head, (states, teacher), per_token=True), expected, rtol=1e-9)


@every_loss
@both_modes
def test_gradcheck(name, per_token):
    (hidden, weight), (states, teacher) = pair((3,), 5)
    inputs = trained(hidden, weight, normal(5, seed=7))

    def loss(hidden, weight, bias):
        head = Head(weight, bias, scale=0.8, softcap=3.0)
        return fused(name, hidden, head, (states, teacher), per_token=per_token, chunk=2)

    assert torch.autograd.gradcheck(loss, inputs)


@every_loss
@both_modes
def test_tokens_of_weight_zero_may_hold_anything(name, per_token):
    (hidden, head), (states, teacher) = pair()
    dropped = WEIGHT == 0
    clean = trained(hidden, head)
    expected = fused(name, *clean, (states, teacher), weight=WEIGHT, per_token=per_token)
    dirty = trained(hidden.masked_fill(dropped[..., None], torch.nan), head)
    states = states.masked_fill(dropped[..., None], torch.inf)
    loss = fused(name, *dirty, (states, teacher), weight=WEIGHT, per_token=per_token)
    torch.testing.assert_close(loss, expected)
    found = gradients(loss, *dirty)
    torch.testing.assert_close(found, gradients(expected, *clean))
    assert (found[0][dropped] == 0).all()
    if per_token:
        assert (loss[dropped] == 0).all()


@every_loss
@both_modes
def test_no_token_at_all(name, per_token):
    (hidden, head), teacher = pair()
    hidden, head = trained(hidden * torch.nan, head)
    loss = fused(name, hidden, head, teacher, weight=torch.zeros(2, 5), per_token=per_token)
    assert (loss == 0).all()
    assert all((grad == 0).all() for grad in gradients(loss, hidden, head))


@both_modes
def test_batches_of_any_cut_add_up(per_token):
    (hidden, head), (states, teacher) = pair((8, 6), dtype=torch.float32)
    weight = (torch.arange(6) < torch.tensor([[6], [2], [5], [1], [6], [3], [4], [2]])).float()
    weight /= weight.sum()
    found = []
    for size in (8, 4, 1):
        h, w = trained(hidden, head)
        for part in torch.arange(8).split(size):
            options = {"weight": weight[part], "per_token": per_token}
            linear.kd(h[part], w, (states[part], teacher), **options).sum().backward()
        found.append((h.grad, w.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-7)


# -- dtypes ------------------------------------------------------------------------------------------------------------


def distance(found, exact):
    return max(((f.double() - e.double()).norm() / e.double().norm()).item() for f, e in zip(found, exact, strict=True))


@every_loss
@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_near_to_the_truth_as_the_loss_of_logits(name, per_token, dtype):
    """On a wide vocabulary, the states and heads rounded to the dtype before anything is computed."""
    (hidden, head), (states, teacher) = pair((40,), 3000, dtype=dtype)
    exact = trained(hidden.double(), head.double())
    truth = plain(name, exact[0] @ exact[1].t(), states.double() @ teacher.double().t()).sum() / 40
    rounded = trained(hidden, head)
    logits = plain(name, rounded[0] @ rounded[1].t(), states @ teacher.t()).sum() / 40
    ours = trained(hidden, head)
    weight = torch.full((40,), 1 / 40)
    loss = fused(name, *ours, (states, teacher), weight=weight, per_token=per_token, chunk=16).sum()
    assert loss.dtype == torch.float32
    expected, found = gradients(logits, *rounded), gradients(loss, *ours)
    assert [grad.dtype for grad in found] == [dtype, dtype]
    of_truth = gradients(truth, *exact)
    small = 1e-6 if dtype == torch.float32 else 2e-3
    assert distance([loss], [truth]) <= 1.5 * distance([logits], [truth]) + small
    assert distance(found, of_truth) <= 1.5 * distance(expected, of_truth) + small


def test_the_sum_over_chunks_is_kept_in_float32():
    """Added up in bfloat16, 512 chunks would stop to count."""
    (hidden, head), (states, teacher) = pair((1,), 50, dtype=torch.bfloat16)
    hidden, states = hidden.expand(512, -1), states.expand(512, -1)
    one, many = trained(head)[0], trained(head)[0]
    linear.kd(hidden[:1], one, (states[:1], teacher)).backward()
    linear.kd(hidden, many, (states, teacher), chunk=1).backward()
    torch.testing.assert_close(many.grad.float(), 512 * one.grad.float(), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("name", ["kd", "jsd", "tvd"])
def test_identical_logits_of_a_large_vocabulary_in_bfloat16_give_zero(name):
    hidden, weight = normal(4, 16, dtype=torch.bfloat16), normal(128_256, 16, seed=1, dtype=torch.bfloat16)
    hidden, weight = trained(hidden, weight)
    loss = fused(name, hidden, weight, (hidden, weight))
    assert abs(loss.item()) < 1e-4
    assert all(grad.abs().max() < 1e-3 for grad in gradients(loss, hidden, weight))


@pytest.mark.parametrize(
    ("student", "weight", "teacher", "expected"),
    [
        (torch.float16, torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float32, torch.float64, torch.float32),
        (torch.float64, torch.float32, torch.float16, torch.float64),
    ],
)
@both_modes
def test_dtypes_mix(student, weight, teacher, expected, per_token):
    (hidden, head), (states, of_teacher) = pair()
    hidden, head = trained(hidden.to(student), head.to(weight))
    loss = fused("kd", hidden, head, (states.to(teacher), of_teacher.to(teacher)), per_token=per_token)
    assert loss.dtype == expected
    truth = plain("kd", hidden.double() @ head.double().t(), states @ of_teacher.t())
    torch.testing.assert_close(loss.sum().double(), truth.sum(), rtol=0.02, atol=0)
    found = gradients(loss, hidden, head)
    assert [grad.dtype for grad in found] == [student, weight]


@both_modes
def test_under_autocast(per_token):
    (hidden, head), (states, teacher) = pair((30,), 200, dtype=torch.float32)
    hidden, head = trained(hidden, head)
    with torch.autocast("cpu", torch.bfloat16):
        expected = plain("kd", torch.nn.functional.linear(hidden, head), torch.nn.functional.linear(states, teacher))
        loss = fused("kd", hidden, head, (states, teacher), per_token=per_token)
        expected_grad, grad = (gradients(each, hidden, head) for each in (expected, loss))
    torch.testing.assert_close(loss.sum(), expected.sum(), rtol=1e-5, atol=0)
    assert [each.dtype for each in grad] == [torch.float32] * 2
    assert distance(grad, expected_grad) < 0.02


# -- autograd ----------------------------------------------------------------------------------------------------------


@both_modes
def test_backward_twice(per_token):
    (hidden, head), teacher = pair()
    inputs = trained(hidden, head)
    loss = fused("jsd", *inputs, teacher, per_token=per_token).sum()
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    for factor in (0.0, -2.0, 1.0):
        again = torch.autograd.grad(factor * loss, inputs, retain_graph=True)
        torch.testing.assert_close(again, tuple(factor * grad for grad in first))


@both_modes
def test_a_second_derivative_is_refused(per_token):
    (hidden, head), teacher = pair()
    inputs = trained(hidden, head)
    loss = fused("kd", *inputs, teacher, per_token=per_token).sum()
    with pytest.raises(InputError, match="no second derivative"):
        torch.autograd.grad(loss, inputs, create_graph=True)


def test_a_weight_that_is_learnt_is_so_per_token_alone():
    (hidden, head), (states, teacher) = pair()
    (weight,) = trained(WEIGHT)
    losses = fused("kd", hidden, head, (states, teacher), weight=weight, per_token=True)
    values = plain("kd", hidden @ head.t(), states @ teacher.t()).float()
    torch.testing.assert_close(gradients(losses, weight)[0], values.where(WEIGHT > 0, 0.0))
    with pytest.raises(InputError, match="weight wants a gradient"):
        fused("kd", hidden, head, (states, teacher), weight=weight)


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@both_modes
def test_within_a_compiled_step(per_token):
    (hidden, head), (states, teacher) = pair()

    def step(hidden, head):
        return 2 * fused("kd", hidden * 1.5, head, (states, teacher), per_token=per_token, weight=WEIGHT).sum()

    inputs, others = trained(hidden, head), trained(hidden, head)
    loss, expected = torch.compile(step, backend="aot_eager")(*inputs), step(*others)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, *inputs), gradients(expected, *others))
    torch.compiler.reset()


@both_modes
@pytest.mark.parametrize("form", ["hidden", "logits", "some classes"])
def test_what_was_made_under_inference_mode(per_token, form):
    (hidden, head), (states, teacher) = pair((6,))
    with torch.inference_mode():
        logits = states @ teacher.t()
        given = {"hidden": (states.clone(), teacher.clone()), "logits": logits, "some classes": top_two(logits)}[form]
        frozen = hidden.clone()
    usual = {"hidden": (states, teacher), "logits": states @ teacher.t(), "some classes": top_two(states @ teacher.t())}
    (head,) = trained(head)
    loss = linear.kd(frozen, head, given, per_token=per_token)
    expected = linear.kd(hidden, head, usual[form])
    torch.testing.assert_close(gradients(loss, head), gradients(expected, head))


def top_two(logits):
    log_probs, ids = logits.log_softmax(-1).topk(2)
    tail = (1 - log_probs.exp().sum(-1)).log()
    nothing = log_probs.new_zeros(len(logits), 0)
    return TopKTargets(log_probs, ids, logits.shape[-1], (), nothing, log_tail=tail, log_tail_powers=nothing)


# -- memory ------------------------------------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """The most numbers of any tensor that an operation gives."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        sizes = [
            each.untyped_storage().nbytes() // each.element_size()
            for each in tree_leaves(found)
            if isinstance(each, torch.Tensor)
        ]
        self.numbers = max([self.numbers, *sizes])
        return found


@every_loss
@both_modes
@pytest.mark.parametrize("grad", [True, False])
def test_no_tensor_is_as_large_as_the_logits(name, per_token, grad):
    tokens, vocabulary, chunk = 64, 500, 8
    (hidden, head), teacher = pair((tokens,), vocabulary, dtype=torch.float32)
    inputs = trained(hidden, head)
    with Largest() as largest, torch.set_grad_enabled(grad):
        loss = fused(name, *inputs, teacher, per_token=per_token, chunk=chunk).sum()
        if grad:
            loss.backward()
    assert largest.numbers == chunk * vocabulary


def test_without_gradient_none_is_made(monkeypatch):
    (hidden, head), teacher = pair()
    inputs = trained(hidden, head)
    with torch.no_grad():
        loss = fused("kd", *inputs, teacher)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, fused("kd", *inputs, teacher).detach())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_loss
@both_modes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(name, per_token, dtype):
    (hidden, head), (states, teacher) = pair((70,), 3000, dtype=dtype)
    exact = trained(hidden.double(), head.double())
    truth = plain(name, exact[0] @ exact[1].t(), states.double() @ teacher.double().t()).sum() / 70
    ours = trained(hidden.cuda(), head.cuda())
    weight = torch.full((70,), 1 / 70, device="cuda")
    loss = fused(name, *ours, (states.cuda(), teacher.cuda()), weight=weight, per_token=per_token, chunk=32).sum()
    found = [grad.cpu() for grad in gradients(loss, *ours)]
    small = 1e-4 if dtype == torch.float32 else 0.02
    assert distance([loss.cpu()], [truth]) < small
    assert distance(found, gradients(truth, *exact)) < small


@pytest.mark.parametrize("compiles", [True, False])
@pytest.mark.filterwarnings("ignore:the losses could not be compiled")
def test_as_on_a_gpu(compiles, monkeypatch):
    """Its way through a chunk, taken on the CPU, with and without a compiler, which is stood in for."""

    def backend(graph, _):
        if not compiles:
            raise RuntimeError("no compiler")
        return graph.forward

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: whole(function, backend=backend, **options))
    monkeypatch.setattr(teacher_rows, "_IN_BLOCKS", set())
    _closed._compiled.cache_clear()
    (hidden, weight), (states, teacher) = pair((7,), 40)
    inputs, factors = trained(hidden, weight), torch.arange(7) / 7
    for name in ("kd", "jsd"):
        expected = (plain(name, 3 * (hidden @ inputs[1].t() / 3).tanh(), states @ teacher.t()) * factors).sum()
        for per_token in (False, True):
            head = Head(inputs[1], softcap=3.0)
            options = {"weight": factors, "chunk": 4, "per_token": per_token}
            loss = fused(name, hidden, head, (states, teacher), **options).sum()
            torch.testing.assert_close(loss, expected)
            torch.testing.assert_close(
                gradients(loss, inputs[1]), torch.autograd.grad(expected, inputs[1], retain_graph=True)
            )
    _closed._compiled.cache_clear()
    torch.compiler.reset()
