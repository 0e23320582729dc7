"""Gradients in closed form: right wherever autograd and torch.func may take them, and where their memory is used up."""

import importlib
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from losses import oracles
from losses.oracles import EPS, LOSSES, random_batch, value_and_grad
from preceptor.losses import _closed, _common, dist, dkd, kd, ptloss, ttm, wttm
from preceptor.outputs import transformed
from preceptor.schema import VectorScaling
from preceptor.training.teachers.preprocessing import conversion

CLOSED = ["kd", "ttm", "wttm", "ptloss", "reverse_kl", "jsd", "skew_kl", "tvd"]
every_loss = pytest.mark.parametrize("name", CLOSED)


def by_hand(name, student, teacher):
    """The gradient that the papers give, in float64, at the temperature 3 of `LOSSES`."""
    z, v = student.double(), teacher.double()
    if name in ("kd", "reverse_kl", "jsd", "skew_kl", "tvd"):
        return divergence_by_hand(name, (z / 3).softmax(-1), (v / 3).softmax(-1))
    q, p = z.softmax(-1), v.softmax(-1)
    if name == "ttm":
        return q - (v / 3).softmax(-1)
    if name == "wttm":
        return (p ** (1 / 3)).sum(-1, keepdim=True) * q - p ** (1 / 3)
    a = p * (1 + q * sum(m * e * (1 - q) ** (m - 1) for m, e in enumerate(EPS, 1)))
    return a.sum(-1, keepdim=True) * q - a


def divergence_by_hand(name, q, p):
    """The same of those with one temperature for both sides: 3, which divides all but KD."""
    if name == "kd":
        return 3 * (q - p)
    mixture = {"reverse_kl": p, "jsd": 0.3 * p + 0.7 * q, "skew_kl": 0.1 * p + 0.9 * q, "tvd": p}[name]
    if name == "skew_kl":
        r = 0.9 * p * q / mixture
        return (q * r.sum(-1, keepdim=True) - r) / 3
    share, of = {"reverse_kl": (1.0, (q / p).log()), "jsd": (0.7, (q / mixture).log()), "tvd": (0.5, (q - p).sign())}[
        name
    ]
    return share * q * (of - (q * of).sum(-1, keepdim=True)) / 3


@pytest.fixture
def small_blocks(monkeypatch):
    """Three rows a block, in float32 as large inputs are."""
    monkeypatch.setattr(_closed, "_BLOCK_ENTRIES", 35)
    monkeypatch.setattr(_closed, "_SMALL_ENTRIES", 0)


@every_loss
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize("distance", [0.0, 1e-3, 0.1, 3.0])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_in_single_precision_against_the_oracle(name, rows, distance):
    noise, teacher, labels = random_batch(rows, 10, dtype=torch.float32)
    student = teacher + distance * noise
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels)
    expected = oracles.ORACLES[name](student.double().numpy(), teacher.double().numpy())
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grad.double(), by_hand(name, student, teacher), rtol=1e-5, atol=1e-6)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("small_blocks")
def test_blocks_in_half_precision(name, dtype):
    student, teacher, labels = random_batch(7, 10, dtype=dtype)
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels)
    expected = oracles.ORACLES[name](student.double().numpy(), teacher.double().numpy())
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grad.double(), by_hand(name, student, teacher), rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("loss", [ttm, wttm])
@pytest.mark.parametrize("compiled", [False, True])
def test_at_temperature_one_near_its_teacher(loss, compiled, monkeypatch):
    if compiled:  # the plain formula, which a compiler is given
        monkeypatch.setattr(_closed, "_must_be_plain", lambda *_: True)
    noise, teacher, _ = random_batch(8, 100, dtype=torch.float32)
    student = teacher + 1e-3 * noise
    expected = oracles.ttm(student.double().numpy(), teacher.double().numpy(), temperature=1.0)
    np.testing.assert_allclose(loss(student, teacher, temperature=1.0), expected, rtol=1e-3)


@every_loss
@pytest.mark.usefixtures("small_blocks")
def test_masked_rows_of_nan_in_any_block(name):
    student, teacher, labels = random_batch(7, 10, dtype=torch.float32)
    mask = torch.tensor([True, False, True, True, False, False, True])
    expected, expected_grad = value_and_grad(LOSSES[name], student, teacher, labels)
    student[~mask] = teacher[~mask] = torch.nan
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels, mask=mask)
    torch.testing.assert_close(value, expected.where(mask, 0.0))
    torch.testing.assert_close(grad, expected_grad.where(mask[:, None], 0.0))


@every_loss
@pytest.mark.parametrize("transposed", ["student", "teacher"])
def test_logits_that_are_not_contiguous(name, transposed):
    student, teacher, labels = random_batch(4, 5)
    expected, expected_grad = value_and_grad(LOSSES[name], student, teacher, labels)
    if transposed == "student":
        student = student.t().contiguous().t()
    else:
        teacher = teacher.t().contiguous().t()
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad)


@every_loss
@pytest.mark.parametrize("lead", [(), (2, 3), (0,)])
def test_backward_twice_with_different_weights(name, lead):
    student, teacher, labels = random_batch(*lead, 5)
    student.requires_grad_()
    loss = LOSSES[name](student, teacher, labels)
    first = torch.autograd.grad(loss.sum(), student, retain_graph=True)[0].clone()
    torch.testing.assert_close(first, by_hand(name, student.detach(), teacher))
    for factor in (0.0, -2.0, 1.0):
        again = torch.autograd.grad(factor * loss.sum(), student, retain_graph=True)[0]
        torch.testing.assert_close(again, factor * first)


@every_loss
@pytest.mark.filterwarnings("ignore")  # forward-mode torch warns of what it uses itself
def test_second_derivatives(name):
    student, teacher, labels = random_batch(3, 4)
    mask = torch.tensor([True, False, True])
    student.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda s: LOSSES[name](s, teacher, labels, mask), student)

    def total(logits):
        return by_hand(name, logits, teacher).where(mask[:, None], 0.0)

    expected = torch.autograd.functional.jacobian(total, student.detach())
    forward_over_reverse = torch.func.hessian(lambda s: LOSSES[name](s, teacher, labels, mask).sum())
    torch.testing.assert_close(forward_over_reverse(student.detach()), expected)
    reverse_twice = torch.func.jacrev(torch.func.grad(lambda s: LOSSES[name](s, teacher, labels, mask).sum()))
    torch.testing.assert_close(reverse_twice(student.detach()), expected)


@every_loss
@pytest.mark.filterwarnings("ignore")
def test_forward_derivatives(name):
    student, teacher, labels = random_batch(3, 4)
    direction, _, _ = random_batch(3, 4, seed=1)
    _, along = torch.func.jvp(lambda s: LOSSES[name](s, teacher, labels), (student,), (direction,))
    torch.testing.assert_close(along, (by_hand(name, student, teacher) * direction).sum(-1))


@every_loss
def test_vmap_over_what_is_shared(name):
    student, teacher, labels = random_batch(3, 4, 5)
    expected = LOSSES[name](student, teacher[:1].expand(3, 4, 5), labels)
    together = torch.vmap(lambda s, t: LOSSES[name](s, t, labels[0]), (1, None))(student.movedim(0, 1), teacher[0])
    torch.testing.assert_close(together, expected)
    student.requires_grad_()
    loss = torch.vmap(lambda s: LOSSES[name](s, teacher[0], labels[0]))(student)
    grad = torch.autograd.grad(loss.sum(), student)[0]
    torch.testing.assert_close(grad, by_hand(name, student.detach(), teacher[:1].expand(3, 4, 5)))


def test_vmap_over_coefficients():
    student, teacher, _ = random_batch(4, 5)
    coefficients = torch.tensor([[0.3, 0.1], [-0.2, 0.5]], dtype=torch.float64)
    together = torch.vmap(lambda eps: ptloss(student, teacher, coefficients=eps))(coefficients)
    torch.testing.assert_close(together, torch.stack([ptloss(student, teacher, coefficients=e) for e in coefficients]))


@every_loss
@pytest.mark.parametrize("twice", [False, True])
def test_a_teacher_of_inference_mode(name, twice):
    student, teacher, labels = random_batch(4, 5)
    with torch.inference_mode():
        remembered = teacher.clone()
    student.requires_grad_()
    loss = LOSSES[name](student, remembered, labels).sum()
    (grad,) = torch.autograd.grad(loss, student, create_graph=twice)
    torch.testing.assert_close(grad.detach(), by_hand(name, student.detach(), teacher))


@every_loss
def test_under_autocast(name):
    student, teacher, labels = random_batch(16, 10, dtype=torch.bfloat16)
    expected, expected_grad = value_and_grad(LOSSES[name], student, teacher, labels)
    with torch.autocast("cpu", torch.bfloat16):
        value, grad = value_and_grad(LOSSES[name], student, teacher, labels)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad)


@every_loss
def test_one_tensor_is_kept_and_none_without_gradient(name, monkeypatch):
    solve, made = _closed._solve, []
    monkeypatch.setattr(_closed, "_solve", lambda *args, **options: made.append(solve(*args, **options)) or made[-1])
    student, teacher, labels = random_batch(4, 5000, dtype=torch.bfloat16)
    layer = nn.Parameter(torch.ones((), dtype=torch.bfloat16))
    LOSSES[name](student * layer, teacher, labels)
    assert made[-1][1].dtype == torch.bfloat16
    with torch.no_grad():
        LOSSES[name](student * layer, teacher, labels)
    assert made[-1][1] is None


@pytest.mark.parametrize("name", ["kd", "ttm", "wttm", "ptloss"])
@pytest.mark.parametrize("classes", [50, 20_000])
def test_a_loss_scaler_can_lift_what_float16_cannot_hold(name, classes):
    student, teacher, labels = random_batch(4, classes, dtype=torch.float32)
    small, scale = (student / 8).half().requires_grad_(), 2.0**12
    (LOSSES[name](small, (teacher / 8).half(), labels) * scale).sum().backward()
    reference = small.detach().double().requires_grad_()
    (LOSSES[name](reference, (teacher / 8).half().double(), labels) * scale).sum().backward()
    torch.testing.assert_close(small.grad.double(), reference.grad, rtol=2e-3, atol=2e-5)


def test_dist_near_its_teacher_at_a_low_temperature():
    noise, teacher, _ = random_batch(8, 10, dtype=torch.float32)
    student = teacher + 1e-3 * noise
    expected = oracles.dist(student.double().numpy(), teacher.double().numpy(), temperature=0.05)
    np.testing.assert_allclose(dist(student, teacher, temperature=0.05), expected, rtol=1e-3)


@pytest.mark.parametrize("temperature", [4.0, 50.0])
def test_dkd_of_a_student_that_rules_out_all_but_the_target(temperature):
    student = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    value, grad = value_and_grad(dkd, student, torch.zeros(1, 3), torch.tensor([0]), temperature=temperature)
    assert value.item() == torch.inf
    assert not grad.isnan().any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(name, dtype):
    student, teacher, labels = (tensor.cuda() for tensor in random_batch(64, 1000, dtype=dtype))
    mask = torch.arange(64, device="cuda") % 5 > 0
    student[~mask] = torch.nan
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels, mask=mask)
    z, v = student.cpu()[mask.cpu()], teacher.cpu()[mask.cpu()]
    expected = oracles.ORACLES[name](z.double().numpy(), v.double().numpy())
    np.testing.assert_allclose(value[mask].cpu(), expected, rtol=2e-6, atol=1e-6)
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.01, "atol": 1e-3}
    torch.testing.assert_close(grad.cpu()[mask.cpu()].double(), by_hand(name, z, v), **tolerance)
    assert (grad[~mask] == 0).all()


def test_kd_at_a_large_temperature_near_its_teacher():
    noise, teacher, _ = random_batch(100, 200, dtype=torch.float32)  # more entries than are small
    student = teacher + 0.01 * noise
    for temperature in (16.0, 100.0, 1000.0):
        expected = oracles.kd(student.double().numpy(), teacher.double().numpy(), temperature=temperature)
        np.testing.assert_allclose(kd(student, teacher, temperature=temperature), expected, rtol=1e-6, atol=1e-7)


# -- the compiled kernel of a GPU, whose compiler is stood in for ------------------------------------------------------


@pytest.fixture
def compiler(monkeypatch):
    """What the kernel was compiled to, or an error that the next compilation raises."""
    made, whole = [], torch.compile

    def backend(graph, _):
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda function, **options: whole(function, backend=backend, **options))
    _closed._compiled.cache_clear()
    yield made
    _closed._compiled.cache_clear()
    torch.compiler.reset()


def on_gpu(name, dtype=torch.float32, *, masked=False):
    """The losses as they are computed on a GPU, their gradient, and what both should be."""
    module = {"kd": "kd", "ttm": "ttm", "wttm": "ttm"}[name]
    found = vars(importlib.import_module(f"preceptor.losses.{module}"))
    kernel, plain = (partial(found.get(f"_{name}{of}", found.get(of)), temperature=3.0) for of in ("_kernel", "_plain"))
    student, teacher, _ = random_batch(7, 10, dtype=torch.float32)
    student, mask, into = student.to(dtype), torch.arange(7) < 5 if masked else None, torch.empty(7, 10, dtype=dtype)
    return _closed._on_gpu(student, teacher, mask, None, kernel, plain, into), plain(student, teacher, mask, None)


@pytest.mark.filterwarnings("error")
def test_a_gpu_compiles_more_forms_of_the_losses_than_torch_would(compiler):
    for name in ("kd", "ttm", "wttm"):
        for dtype in (torch.float32, torch.bfloat16):
            for masked in (False, True):
                found, expected = on_gpu(name, dtype, masked=masked)
                torch.testing.assert_close(found, expected)
    assert len(compiler) == 12


def test_a_gpu_without_compiler_is_not_asked_to_compile_twice(monkeypatch):
    asked = []

    def refusing(*_):
        asked.append(1)
        raise RuntimeError("Cannot find a working triton installation")

    monkeypatch.setattr(torch, "compile", lambda function, **options: refusing)
    _closed._compiled.cache_clear()
    with pytest.warns(UserWarning, match="could not be compiled for this GPU .RuntimeError"):
        found, expected = on_gpu("kd")
    torch.testing.assert_close(found, expected)
    on_gpu("ttm")
    _closed._compiled.cache_clear()
    assert asked == [1]


def test_a_gpu_is_sent_a_constant_once(monkeypatch):
    """To send one waits for the GPU. The device "meta" stands in for it."""
    monkeypatch.setattr(_common, "_ARE_WAITED_FOR", {"meta"})
    _common._sent.cache_clear()
    logits = torch.zeros(2, 3, device="meta")
    scaling = VectorScaling(scale=(1.0, 2.0, 3.0), bias=(0.0, 0.0, 0.5))
    plain, other = ({"divide_by": 1.0, "mean": [0.0], "std": [std]} for std in (1.0, 2.0))
    convert = conversion(plain, (3,), other, (3,))
    for _ in range(3):
        ptloss(logits, logits, coefficients=[0.5, 0.25])
        transformed(logits, scaling)
        convert(logits)
    assert (_common._sent.cache_info().misses, _common._sent.cache_info().hits) == (5, 10)
    first, second = (_common._sent((1.0, 2.0), (2,), torch.float64, torch.device("cpu")) for _ in range(2))
    assert first is second
    assert torch.equal(first, torch.tensor([1.0, 2.0], dtype=torch.float64))
    _common._sent.cache_clear()
