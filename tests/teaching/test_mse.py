import pytest
import torch

from preceptor.errors import InputError
from preceptor.outputs import clip_distribution
from preceptor.teaching import cross_entropy, mse


def gradient(objective, logits, labels, **options):
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(objective(logits, labels, **options).sum(), logits)[0]


@pytest.mark.parametrize(
    ("on", "reduction", "expected"),
    [  # (0.5, 0.25, 0.25) against class 1; the scale is C/2 for the sum alone
        ("softmax", "sum", 1.5 * (0.25 + 0.5625 + 0.0625)),
        ("softmax", "mean", (0.25 + 0.5625 + 0.0625) / 3),
    ],
)
def test_softmax_by_hand(on, reduction, expected):
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    assert mse(logits, torch.tensor(1), on=on, reduction=reduction).item() == pytest.approx(expected)


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 4 + 1 + 9.0), ("mean", 14 / 3)])
def test_logit_by_hand(reduction, expected):
    logits = torch.tensor([2.0, 2.0, -3.0])
    assert mse(logits, torch.tensor(1), on="logit", reduction=reduction).item() == pytest.approx(expected)


def test_scale_replaces_the_default():
    logits, labels = torch.randn(4, 10), torch.arange(4)
    torch.testing.assert_close(mse(logits, labels, scale=1.0) * 5, mse(logits, labels))
    torch.testing.assert_close(mse(logits, labels, on="logit", scale=2.0), 2 * mse(logits, labels, on="logit"))


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_gradient_is_cross_entropys_at_uniform_output(classes):
    logits = torch.full((2, classes), 0.7, dtype=torch.float64)
    labels = torch.tensor([0, classes - 1])
    torch.testing.assert_close(gradient(mse, logits, labels), gradient(cross_entropy, logits, labels))


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_gradient_is_not_cross_entropys_elsewhere(classes):
    logits = torch.linspace(-2, 2, classes, dtype=torch.float64).unsqueeze(0)
    labels = torch.tensor([1])
    ours, theirs = gradient(mse, logits, labels), gradient(cross_entropy, logits, labels)
    assert (ours - theirs).norm() > 0.05 * theirs.norm()


def test_away_from_uniform_the_gradient_is_much_larger():
    logits = torch.full((1, 100), -20.0, dtype=torch.float64)
    logits[0, :2] = 0.0  # undecided between two of a hundred classes
    labels = torch.tensor([0])
    ratio = gradient(mse, logits, labels).norm() / gradient(cross_entropy, logits, labels).norm()
    assert ratio.item() == pytest.approx(50, rel=1e-3)


def test_unknown_variants_are_refused():
    logits, labels = torch.zeros(1, 3), torch.tensor([0])
    with pytest.raises(InputError, match=r"'logits'.*'softmax' or 'logit'"):
        mse(logits, labels, on="logits")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"'none'.*'sum' or 'mean'"):
        mse(logits, labels, reduction="none")  # pyright: ignore[reportArgumentType]


def test_clip_distribution_by_hand():
    logits = torch.tensor([[0.2, 0.6, -5.0], [3.0, 0.5, 0.0], [-1.0, 0.0, -2.0], [1.0, 0.0, -0.1]])
    log_p = clip_distribution(logits)
    expected = torch.tensor([[0.25, 0.75, 0], [2 / 3, 1 / 3, 0], [1 / 3] * 3, [1, 0, 0]])
    torch.testing.assert_close(log_p.exp(), expected)
    assert (log_p[expected == 0] == -torch.inf).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_clip_distribution_of_extremes(dtype):
    logits = torch.tensor([[[1e4, -1e4, 1e-4], [-1e4, -1e4, -1e4]]], dtype=dtype)
    log_p = clip_distribution(logits)
    assert log_p.shape == (1, 2, 3)
    assert log_p.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(1, 2, dtype=log_p.dtype))


def test_a_tiny_positive_logit_takes_the_whole_row():
    assert clip_distribution(torch.tensor([1e-38, -1.0])).exp().tolist() == [1.0, 0.0]
