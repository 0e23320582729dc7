"""The proxy teacher against direct minimisation, its bounds of validity, and its derivatives."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import softmax

from preceptor.errors import InputError
from preceptor.losses import ptloss
from preceptor.outputs.perturbation import curvature_margin, is_mild
from preceptor.outputs.proxy import proxy_teacher

FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None)


def random_logits(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_coefficients(*shape: int, seed: int = 0, low: float = -0.2, high: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (low + (high - low) * draws) / torch.arange(1, shape[-1] + 1)


def loss_at(log_q: torch.Tensor, teacher: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    return ptloss(log_q, teacher, coefficients=eps)


def direct_minimum(p: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Minimise PTLoss over the student's logits by quasi-Newton with an exact gradient, from the teacher."""
    powers = np.arange(1, eps.shape[-1] + 1)

    def loss_and_grad(z):
        q = softmax(z)
        rest = (1 - q)[:, None]
        loss = -(p * np.log(q)).sum() + (p * (eps * rest**powers).sum(-1)).sum()
        a = p * (1 + q * (powers * eps * rest ** (powers - 1)).sum(-1))
        return loss, a.sum() * q - a

    options = {"gtol": 1e-12, "ftol": 0.0, "maxiter": 5000, "maxcor": 30}
    return softmax(minimize(loss_and_grad, np.log(p), jac=True, method="L-BFGS-B", options=options).x)


def root_by_brentq(log_p: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """M = 1, one row: the level by brentq, on its own bracket."""
    p = np.exp(log_p)

    def surplus(level):
        return (p / (level - eps * p)).sum() - 1

    low, high = (p * (1 + eps)).max(), 1 + (eps * p).max()
    if surplus(low) <= 0 or surplus(high) >= 0:  # The root is that end, up to rounding.
        level = low if surplus(low) <= 0 else high
    else:
        level = brentq(surplus, low, high, xtol=1e-300, rtol=1e-15)
    return p / (level - eps * p)


# --- the minimum ----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", range(2, 11))
@pytest.mark.parametrize("degree", range(1, 6))
def test_against_direct_minimisation(classes, degree):
    teacher = random_logits(2, classes, seed=classes)
    for shape in [(degree,), (classes, degree)]:
        eps = random_coefficients(*shape, seed=degree)
        proxy = proxy_teacher(teacher, eps).log_probs.exp()
        table = np.broadcast_to(eps.numpy(), (classes, degree))
        expected = np.stack([direct_minimum(p, table) for p in teacher.softmax(-1).numpy()])
        np.testing.assert_allclose(proxy, expected, rtol=0, atol=1e-6)


def test_against_constrained_minimisation():
    """SLSQP on the simplex itself shares neither the parametrisation nor the stationarity equation."""
    p = random_logits(4, seed=3).softmax(-1).numpy()
    eps = np.array([1.5, -0.3, 0.2])

    def loss(q):
        return (p * (-np.log(q) + sum(e * (1 - q) ** m for m, e in enumerate(eps, 1)))).sum()

    found = minimize(
        loss,
        np.full(4, 0.25),
        method="SLSQP",
        bounds=[(1e-12, 1)] * 4,
        constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    proxy = proxy_teacher(torch.from_numpy(np.log(p)), torch.from_numpy(eps)).log_probs.exp()
    np.testing.assert_allclose(proxy, found.x, rtol=0, atol=1e-6)


@FEW
@given(st.data())
def test_single_coefficient_against_brentq(data):
    """Teacher probabilities down to 1e-30 and coefficients from -1 to 10, in relative precision."""
    classes = data.draw(st.integers(2, 8))
    tens = data.draw(st.lists(st.floats(-30, 0), min_size=classes, max_size=classes))
    eps = np.array(data.draw(st.lists(st.floats(-0.9, 10), min_size=classes, max_size=classes)))
    log_p = torch.log_softmax(torch.tensor(tens, dtype=torch.float64) * np.log(10), -1)
    result = proxy_teacher(log_p, torch.from_numpy(eps)[:, None], tolerance=1e-12)
    np.testing.assert_allclose(result.log_probs.exp(), root_by_brentq(log_p.numpy(), eps), rtol=1e-9)


@pytest.mark.parametrize("tail", [1e-3, 1e-10, 3e-25, 1e-30])
def test_edge_of_the_permitted_coefficients(tail):
    """p = (1 - t, t) and eps = (-1, 0): the level solves (1 - t) / (level + 1 - t) + t / level = 1."""
    log_p = torch.tensor([np.log1p(-tail), np.log(tail)], dtype=torch.float64)
    q = proxy_teacher(log_p, torch.tensor([[-1.0], [0.0]])).log_probs.exp()
    level = (tail + np.sqrt(tail**2 + 4 * tail * (1 - tail))) / 2
    assert q[1].item() == pytest.approx(tail / level, rel=1e-8)
    assert q.sum().item() == pytest.approx(1, abs=1e-14)


@FEW
@given(seed=st.integers(0, 10_000), degree=st.integers(1, 5), scale=st.sampled_from([0.3, 2.0, 8.0]))
def test_no_distribution_nearby_is_better(seed, degree, scale):
    teacher = random_logits(4, 6, seed=seed, scale=scale)
    eps = random_coefficients(6, degree, seed=seed)
    proxy = proxy_teacher(teacher, eps).log_probs
    best = loss_at(proxy, teacher, eps)
    for size in (1e-3, 0.1, 1.0):
        moved = proxy + size * random_logits(4, 6, seed=seed + 1)
        assert (loss_at(moved, teacher, eps) >= best - 1e-12).all()


@pytest.mark.parametrize("degree", [1, 3])
def test_the_student_at_the_proxy_has_no_gradient(degree):
    teacher, eps = random_logits(5, 6), random_coefficients(6, degree)
    proxy = proxy_teacher(teacher, eps)
    student = proxy.log_probs.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss_at(student, teacher, eps).sum(), student)
    torch.testing.assert_close(grad.abs().amax(-1), proxy.residual, rtol=0, atol=1e-12)
    assert grad.abs().max() < 1e-12


def test_zero_coefficients_leave_the_teacher():
    teacher = random_logits(5, 6)
    for eps in ([0.0], [0.0, 0.0, 0.0]):
        torch.testing.assert_close(proxy_teacher(teacher, eps).log_probs, teacher.log_softmax(-1))


def test_shared_coefficients_sharpen_when_positive_and_leave_the_uniform_alone():
    p = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    sharp, smooth = (proxy_teacher(p.log(), [eps]).log_probs.exp() for eps in (2.0, -0.9))
    assert torch.special.entr(sharp).sum() < torch.special.entr(p).sum() < torch.special.entr(smooth).sum()
    uniform = torch.zeros(3, 7, dtype=torch.float64)
    torch.testing.assert_close(proxy_teacher(uniform, [3.0, 1.0]).log_probs, uniform.log_softmax(-1))


# --- shapes, support, extremes --------------------------------------------------------------------


@pytest.mark.parametrize("degree", [1, 3])
def test_leading_shape_and_shared_coefficients(degree):
    teacher, eps = random_logits(2, 3, 5), random_coefficients(degree)
    result = proxy_teacher(teacher, eps)
    assert (result.log_probs.shape, result.residual.shape, result.converged.shape) == (
        (2, 3, 5),
        (2, 3),
        (2, 3),
    )
    per_class = proxy_teacher(teacher, eps.expand(5, degree)).log_probs
    torch.testing.assert_close(result.log_probs, per_class)
    torch.testing.assert_close(result.log_probs[1, 2], proxy_teacher(teacher[1, 2], eps).log_probs)
    assert proxy_teacher(teacher[:0], eps).log_probs.shape == (0, 3, 5)


def test_many_blocks_are_one_batch():
    teacher = random_logits(1500, 100)
    whole = proxy_teacher(teacher, [1.0]).log_probs
    torch.testing.assert_close(whole[700:710], proxy_teacher(teacher[700:710], [1.0]).log_probs)


@pytest.mark.parametrize("eps", [[-1.0], [2.0], [0.5, 0.3], [1.0, -2.0]])
def test_zero_exactly_where_the_teacher_is(eps):
    teacher = random_logits(3, 5)
    teacher[0, 1:] = -torch.inf
    teacher[1, 2] = -torch.inf
    teacher.requires_grad_()
    coefficients = torch.tensor(eps, dtype=torch.float64, requires_grad=True)
    log_probs = proxy_teacher(teacher, coefficients, strict=False).log_probs
    assert torch.equal(log_probs.isneginf(), teacher.isneginf())
    grads = torch.autograd.grad(log_probs.exp().square().sum(), (teacher, coefficients))
    assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("eps", [[-1.0], [3.0], [0.5, 0.3, -0.1], [0.0, -2.0]])
def test_huge_logits_and_dtypes(dtype, eps):
    teacher = (1e4 * random_logits(6, 4).sign()).to(dtype)
    result = proxy_teacher(teacher, eps)
    assert result.log_probs.dtype == result.residual.dtype == torch.promote_types(dtype, torch.float32)
    assert result.log_probs.isfinite().all()
    assert result.converged.all()
    torch.testing.assert_close(result.log_probs.exp().sum(-1), torch.ones(6, dtype=result.log_probs.dtype))


# --- non-convex coefficients ----------------------------------------------------------------------


@pytest.mark.parametrize("eps", [[0.0, -2.0], [2.0, -2.0, 0.5], [4.0, -9.0, 6.0]])
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_non_convex_coefficients_descend_to_a_stationary_point(eps, scale):
    teacher, eps = random_logits(50, 5, scale=scale), torch.tensor(eps, dtype=torch.float64)
    assert curvature_margin(eps[None]) < 0
    result = proxy_teacher(teacher, eps)
    assert result.converged.all()
    best = loss_at(result.log_probs, teacher, eps)
    assert (best <= loss_at(teacher, teacher, eps) + 1e-12).all()
    for seed in range(5):
        moved = result.log_probs + 1e-2 * random_logits(50, 5, seed=seed)
        assert (loss_at(moved, teacher, eps) >= best - 1e-9).all()


def test_without_convergence_it_raises_unless_told_not_to():
    teacher, eps = random_logits(5, 4), [2.0, -2.0, 0.5]
    with pytest.raises(InputError, match=r"did not converge on 5 of 5 examples in 2 iterations .*strict=False"):
        proxy_teacher(teacher, eps, max_iterations=2)
    result = proxy_teacher(teacher, eps, max_iterations=2, strict=False)
    assert not result.converged.any()
    assert (result.residual > 1e-8).all()


def test_nan_is_not_convergence():
    teacher = random_logits(3, 4)
    teacher[1, 0] = torch.nan
    for eps in ([1.0], [0.5, 0.2], [2.0, -2.0, 0.5]):
        result = proxy_teacher(teacher, eps, strict=False, max_iterations=200)
        assert result.converged.tolist() == [True, False, True]
        with pytest.raises(InputError, match=r"teacher_logits are NaN in row 1 \(such rows: 1\)"):
            proxy_teacher(teacher, eps)


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1,), (4, 1), (3,), (4, 3)])
def test_gradcheck(shape):
    teacher, eps = random_logits(3, 4).requires_grad_(), random_coefficients(*shape).requires_grad_()

    def log_probs(teacher, eps):
        return proxy_teacher(teacher, eps).log_probs

    assert torch.autograd.gradcheck(log_probs, (teacher, eps))
    assert torch.autograd.gradgradcheck(log_probs, (teacher, eps))


def test_gradcheck_off_the_convex_case():
    teacher = random_logits(3, 4).requires_grad_()
    eps = torch.tensor([2.0, -2.0, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t, e: proxy_teacher(t, e, tolerance=1e-13, strict=False).log_probs, (teacher, eps), atol=1e-4
    )


def test_closed_form_gradient_of_the_brier_score():
    """M = 1: dB/deps_c = p_c s_c (g_c - sum(s g) / sum(s)), with s = q² / p and g = dB/dq."""
    teacher, eps = random_logits(1, 6), random_coefficients(6, 1).requires_grad_()
    q = proxy_teacher(teacher, eps).log_probs.exp()
    truth = torch.nn.functional.one_hot(torch.tensor([2]), 6)
    (grad,) = torch.autograd.grad((q - truth).square().sum(), eps)
    p, q = teacher.softmax(-1)[0], q.detach()[0]
    s, g = q.square() / p, 2 * (q - truth[0])
    torch.testing.assert_close(grad[:, 0], p * s * (g - (s * g).sum() / s.sum()))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ([-1.01], r"coefficient m = 1 of every class is -1\.01; .*leave the teacher's support"),
        ([[0.0], [-3.0], [0.0]], r"coefficient m = 1 of class 1 is -3; .*falls to -2 at q = 1"),
        ([[0.0, 0.0], [0.0, 0.0], [0.5, -8.0]], r"coefficient m = 2 of class 2 is -8"),
        ([float("nan")], r"coefficient m = 1 of every class is nan; give finite numbers"),
        ([[0.0, 1.0], [0.0, float("inf")], [0.0, 0.0]], r"coefficient m = 2 of class 1 is inf"),
        ([[0.0]] * 4, r"coefficients have shape \(4, 1\); give \(M,\)"),
        ([], r"coefficients have shape \(0,\)"),
    ],
)
def test_bad_coefficients_are_refused_by_name(eps, message):
    with pytest.raises(InputError, match=message) as caught:
        proxy_teacher(random_logits(2, 3), eps)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_the_edge_of_the_permitted_set_is_permitted():
    teacher = random_logits(4, 3)
    proxy_teacher(teacher, [-1.0])
    proxy_teacher(teacher, [0.0, -2.0])  # 1 - 4 q (1 - q) touches 0 at q = 1/2.
    with pytest.raises(InputError, match="m = 2"):
        proxy_teacher(teacher, [0.0, -2.001])


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.zeros(2, 3).long(), "teacher_logits are torch.int64; give floating-point"),
        (torch.zeros(2, 1), r"shape \(2, 1\); .*at least 2 classes"),
        (torch.tensor(0.0), r"shape \(\); .*at least 2 classes"),
    ],
)
def test_bad_logits_are_refused(logits, message):
    with pytest.raises(InputError, match=message):
        proxy_teacher(logits, [1.0])


@pytest.mark.parametrize("degree", [1, 2, 5, 9])
def test_mild_coefficients_keep_the_support_and_the_convexity(degree: int) -> None:
    rng, powers = np.random.default_rng(degree), np.arange(1, degree + 1)
    q = np.linspace(0, 1, 2001)
    for _ in range(50):
        eps = rng.choice([-1.0, rng.uniform(-1, 10)], degree) / powers  # many of them at the bound
        s = np.polynomial.Polynomial(powers * eps)  # in 1 - q
        assert is_mild(torch.from_numpy(eps)[None])
        assert (1 + q * s(1 - q)).min() > -1e-12
        assert (1 + q**2 * s.deriv()(1 - q)).min() > -1e-12
    assert not is_mild(torch.full((1, degree), -1.001 / degree, dtype=torch.float64))
