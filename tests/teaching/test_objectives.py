"""What every objective that is a pure function keeps: its formula, masks, shapes, dtypes, transforms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import grad, vmap

from preceptor import teaching
from preceptor.errors import InputError

B, C = 6, 7


def top_score_difference(logits, labels, *, mask=None):
    return teaching.top_score_difference(logits, k=3, mask=mask)


OBJECTIVES = {
    "cross_entropy": (teaching.cross_entropy, {}),
    "label_smoothing": (teaching.label_smoothing, {"smoothing": 0.2}),
    "confidence_penalty": (teaching.confidence_penalty, {"weight": 0.3}),
    "mse": (teaching.mse, {}),
    "mse softmax mean": (teaching.mse, {"reduction": "mean"}),
    "mse logit sum": (teaching.mse, {"on": "logit"}),
    "mse logit mean": (teaching.mse, {"on": "logit", "reduction": "mean", "scale": 3.0}),
    "top_score_difference": (top_score_difference, {}),
    "tolerant": (teaching.tolerant, {"eta": 0.45}),
}
every_objective = pytest.mark.parametrize(("objective", "options"), OBJECTIVES.values(), ids=OBJECTIVES.keys())


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def difference(p, k):
    top = sorted(p, reverse=True)
    return top[0] - sum(top[1:k]) / (k - 1)


FORMULAS = {
    "cross_entropy": lambda z, p, y: -np.log(p[y]),
    "label_smoothing": lambda z, p, y: -np.log(p) @ (0.8 * np.eye(C)[y] + 0.2 / C),
    "confidence_penalty": lambda z, p, y: -np.log(p[y]) + 0.3 * p @ np.log(p),
    "mse": lambda z, p, y: C / 2 * ((p - np.eye(C)[y]) ** 2).sum(),
    "mse softmax mean": lambda z, p, y: ((p - np.eye(C)[y]) ** 2).mean(),
    "mse logit sum": lambda z, p, y: ((z - np.eye(C)[y]) ** 2).sum(),
    "mse logit mean": lambda z, p, y: 3 * ((z - np.eye(C)[y]) ** 2).mean(),
    "top_score_difference": lambda z, p, y: difference(p, 3),
    "tolerant": lambda z, p, y: -0.45 * np.log(p[y]) + 0.55 * difference(p, 5),
}


@pytest.fixture
def logits():
    return torch.randn(B, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels():
    return torch.tensor([0, 3, 6, 2, 2, 5])


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(0.01, 20))
def test_formula(name, seed, spread):
    generator = np.random.default_rng(seed)
    z, y = generator.normal(0, spread, (B, C)), generator.integers(0, C, B)
    expected = [FORMULAS[name](row, softmax(row), label) for row, label in zip(z, y, strict=True)]
    objective, options = OBJECTIVES[name]
    value = objective(torch.tensor(z), torch.tensor(y), **options)
    assert value.dtype == torch.float64
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-10, atol=1e-12)


@every_objective
def test_gradient(objective, options, logits, labels):
    logits = logits.requires_grad_()
    torch.autograd.gradcheck(lambda z: objective(z, labels, **options), (logits,))


@every_objective
def test_any_leading_shape(objective, options, logits, labels):
    flat = objective(logits, labels, **options)
    stacked = objective(logits.view(2, 3, C), labels.view(2, 3), **options)
    assert stacked.shape == (2, 3)
    torch.testing.assert_close(stacked.flatten(), flat)
    torch.testing.assert_close(objective(logits[0], labels[0], **options), flat[0])


@every_objective
def test_mask_is_removal(objective, options, logits, labels):
    mask = torch.tensor([True, False, True, True, False, False])
    dirty, foreign = logits.clone(), labels.clone()
    dirty[1], dirty[4, 2], dirty[5] = torch.nan, torch.inf, -torch.inf
    foreign[~mask] = torch.tensor([-100, C, 10**9])
    dirty.requires_grad_()
    masked = objective(dirty, foreign, mask=mask, **options)
    masked.sum().backward()

    clean = logits[mask].requires_grad_()
    removed = objective(clean, labels[mask], **options)
    removed.sum().backward()
    assert dirty.grad is not None
    assert masked[~mask].tolist() == [0.0, 0.0, 0.0]
    assert not dirty.grad[~mask].any()
    torch.testing.assert_close(masked[mask], removed)
    torch.testing.assert_close(dirty.grad[mask], clean.grad)


@every_objective
def test_all_masked(objective, options, labels):
    logits = torch.full((B, C), torch.nan, requires_grad=True)
    objective(logits, labels, mask=torch.zeros(B, dtype=torch.bool), **options).sum().backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@every_objective
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_are_finite_in_float32(objective, options, dtype, labels):
    logits = torch.full((B, C), -1e4, dtype=dtype)
    logits[:, 2] = 1e4
    logits.requires_grad_()
    value = objective(logits, labels, **options)
    value.sum().backward()
    assert logits.grad is not None
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert logits.grad.isfinite().all()


@every_objective
def test_under_vmap_and_grad(objective, options, logits, labels):
    def total(z, y, keep):
        return objective(z, y, mask=keep, **options).sum()

    stacked = torch.stack([logits, 2 * logits])
    ys, masks = torch.stack([labels, labels.flip(0)]), torch.tensor([[True] * B, [True, False] * 3])
    together = vmap(grad(total))(stacked, ys, masks)
    for i in range(2):
        torch.testing.assert_close(together[i], grad(total)(stacked[i], ys[i], masks[i]))


@every_objective
def test_under_compile(objective, options, logits, labels):
    compiled = torch.compile(objective, backend="eager", fullgraph=True)
    mask = torch.tensor([True] * 5 + [False])
    torch.testing.assert_close(
        compiled(logits, labels, mask=mask, **options), objective(logits, labels, mask=mask, **options)
    )


@pytest.mark.parametrize("name", ["cross_entropy", "label_smoothing", "confidence_penalty", "mse", "tolerant"])
def test_bad_labels_are_refused(name, logits, labels):
    objective, options = OBJECTIVES[name]
    with pytest.raises(InputError, match=r"\(5,\).*\(6, 7\)"):
        objective(logits, labels[:5], **options)
    with pytest.raises(InputError, match=r"float32.*labels\.long"):
        objective(logits, labels.float(), **options)
    with pytest.raises(InputError, match=r"labels reach from 7 to 13; give class numbers from 0 to 6"):
        objective(logits, labels + C, **options)
    with pytest.raises(InputError, match=r"labels reach from -1 to 5"):
        objective(logits, labels - 1, **options)


@every_objective
def test_bad_masks_and_logits_are_refused(objective, options, logits, labels):
    with pytest.raises(InputError, match=r"mask has shape \(1,\); give one flag per example, \(6,\)"):
        objective(logits, labels, mask=torch.tensor([False]), **options)
    with pytest.raises(InputError, match=r"mask is torch.float32; give a boolean one"):
        objective(logits, labels, mask=torch.ones(B), **options)
    with pytest.raises(InputError, match=r"logits are torch.int64; give floating-point logits"):
        objective(logits.long(), labels, **options)


@every_objective
def test_labels_on_a_device_are_not_waited_for(objective, options, logits, labels):
    """The meta device has no values: whoever looked at one would fail."""
    assert objective(logits.to("meta"), labels.to("meta"), **options).shape == (B,)
