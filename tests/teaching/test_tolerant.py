import math
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from preceptor.errors import InputError
from preceptor.teaching import check_tolerance, cross_entropy, tolerant, top_score_difference
from preceptor.teaching.tolerant import _advise


@pytest.fixture(autouse=True)
def _nothing_advised_yet():
    _advise.cache_clear()


def test_difference_by_hand():
    logits = torch.tensor([[0.1, 0.5, 0.1, 0.3], [0.25, 0.25, 0.25, 0.25]]).log()
    assert top_score_difference(logits, k=2).tolist() == pytest.approx([0.5 - 0.3, 0.0])
    assert top_score_difference(logits, k=3).tolist() == pytest.approx([0.5 - (0.3 + 0.1) / 2, 0.0])
    assert top_score_difference(logits, k=4).tolist() == pytest.approx([0.5 - (0.3 + 0.1 + 0.1) / 3, 0.0])


def test_only_the_top_k_carry_gradient_in_probability():
    # d TSD / d f is 1, -1/(K-1), ..., 0; through the softmax: f_c (g_c - sum_j f_j g_j).
    f = torch.tensor([0.1, 0.4, 0.2, 0.3], dtype=torch.float64)
    g = torch.tensor([0.0, 1.0, -0.5, -0.5], dtype=torch.float64)
    logits = f.log().requires_grad_()
    top_score_difference(logits, k=3).backward()
    torch.testing.assert_close(logits.grad, f * (g - (f * g).sum()))


def test_tolerant_by_hand():
    logits = torch.tensor([0.1, 0.5, 0.1, 0.3], dtype=torch.float64).log()
    value = tolerant(logits, torch.tensor(3), eta=0.4, k=3)
    assert value.item() == pytest.approx(0.4 * -math.log(0.3) + 0.6 * (0.5 - 0.2))


@pytest.mark.parametrize(("classes", "k"), [(2, 2), (4, 4), (10, 5)])
def test_default_k_is_five_or_all(classes, k):
    logits, labels = torch.randn(3, classes), torch.arange(3) % 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eta = 1/2 = 1/K for two classes
        torch.testing.assert_close(tolerant(logits, labels), tolerant(logits, labels, k=k))


@pytest.mark.parametrize("k", [2, 3, 5, 10])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_top_score_of_a_fitted_teacher(k, share):
    """Minimise one example's objective over its top score, the rest of the top K being equal."""
    low, high = 1 / k, k / (2 * k - 1)
    eta = low + share * (high - low)

    def objective(p):
        f = torch.full((k + 2,), 1e-300, dtype=torch.float64)
        f[0], f[1:k] = p, (1 - p) / (k - 1)
        return tolerant(f.log(), torch.tensor(0), eta=eta, k=k).item()

    found = minimize_scalar(objective, bounds=(1 / k, 1), method="bounded", options={"xatol": 1e-10})
    assert found.x == pytest.approx(eta * (k - 1) / ((1 - eta) * k), abs=1e-5)


@pytest.mark.parametrize(("k", "eta"), [(2, 0.6), (3, 0.5), (5, 0.4), (5, 0.5)])
def test_gradient_descent_ends_at_that_score(k, eta):
    """The same without assuming how the rest is shared, from a random start with the label on top."""
    logits = torch.randn(k, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.1
    logits[1] = 1.0
    logits.requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        optimizer.zero_grad()
        loss = tolerant(logits, torch.tensor(1), eta=eta, k=k)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits.softmax(-1)[1].item() == pytest.approx(eta * (k - 1) / ((1 - eta) * k), abs=1e-4)


@pytest.mark.parametrize(("k", "eta"), [(2, 0.67), (3, 0.61), (5, 0.56), (5, 0.8)])
@pytest.mark.filterwarnings("ignore:eta")
def test_above_the_threshold_nothing_is_softened(k, eta):
    p = np.linspace(1 / k, 1 - 1e-9, 10001)
    f = np.concatenate([p[:, None], np.repeat((1 - p[:, None]) / (k - 1), k - 1, axis=1)], axis=1)
    values = tolerant(torch.tensor(f).log(), torch.zeros(len(p), dtype=torch.int64), eta=eta, k=k)
    assert p[values.argmin()] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("k", [1, 0, -2, 5])
def test_k_out_of_range(k):
    logits = torch.zeros(2, 4)
    with pytest.raises(InputError, match=rf"k is {k}: .*2"):
        top_score_difference(logits, k=k)
    with pytest.raises(InputError, match=rf"k is {k}: .*2"):
        tolerant(logits, torch.tensor([0, 1]), k=k)


def test_one_class_has_no_difference():
    with pytest.raises(InputError, match=r"k is 1"):
        tolerant(torch.zeros(2, 1), torch.tensor([0, 0]))


@pytest.mark.parametrize("eta", [0.0, -0.5, 1.1, math.nan])
def test_eta_out_of_range(eta):
    with pytest.raises(InputError, match=rf"eta is {eta}: choose it in \(0, 1\]"):
        tolerant(torch.zeros(2, 4), torch.tensor([0, 1]), eta=eta)


@pytest.mark.parametrize(("eta", "k"), [(5 / 9, 5), (0.6, 3), (0.9, 2), (1.0, 5)])
def test_warns_that_it_cannot_soften(eta, k):
    with pytest.warns(UserWarning, match=r"cannot soften.*K/\(2K-1\)"):
        check_tolerance(eta, k)


@pytest.mark.parametrize(("eta", "k"), [(0.2, 5), (0.1, 5), (0.5, 2), (0.3, 3)])
def test_warns_that_it_ends_uniform(eta, k):
    with pytest.warns(UserWarning, match=rf"uniform over its top K = {k}.*1/K"):
        check_tolerance(eta, k)


@pytest.mark.parametrize(("eta", "k"), [(0.55, 5), (0.21, 5), (0.5, 5), (0.59, 3), (0.6, 2)])
def test_no_warning_between(eta, k):
    check_tolerance(eta, k)  # warnings are errors here


def test_warns_once_for_each_pair_however_often_it_is_called():
    logits, labels = torch.randn(3, 10), torch.arange(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            tolerant(logits, labels, eta=0.7)
            tolerant(logits, labels, eta=0.8)
    assert len(caught) == 2


def test_compiles_and_maps_where_it_would_warn():
    logits, labels = torch.randn(2, 3, 10), torch.zeros(2, 3, dtype=torch.int64)

    def objective(z, y):
        return tolerant(z, y, eta=0.7)

    compiled = torch.compile(objective, backend="eager", fullgraph=True)(logits, labels)
    with pytest.warns(UserWarning, match=r"cannot soften"):
        mapped = torch.func.vmap(objective)(logits, labels)
    torch.testing.assert_close(compiled, mapped)


def test_eta_one_is_cross_entropy():
    logits, labels = torch.randn(3, 10), torch.arange(3)
    with pytest.warns(UserWarning, match=r"cannot soften"):
        value = tolerant(logits, labels, eta=1.0)
    torch.testing.assert_close(value, cross_entropy(logits, labels))
