"""Independent oracles in float64 numpy and scipy, and what the tests of the losses share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from torch import Tensor

from preceptor import losses

FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None)
EPS = [0.7, -0.4, 0.2]


def kd(student, teacher, labels=None, temperature=3.0):
    return temperature**2 * _kl(softmax(teacher / temperature, -1), softmax(student / temperature, -1))


def ttm(student, teacher, labels=None, temperature=3.0):
    return _kl(softmax(teacher / temperature, -1), softmax(student, -1))


def wttm(student, teacher, labels=None, temperature=3.0):
    power = softmax(teacher, -1) ** (1 / temperature)
    return power.sum(-1) * _kl(power / power.sum(-1, keepdims=True), softmax(student, -1))


def ptloss(student, teacher, labels=None, coefficients=EPS):
    p, q = softmax(teacher, -1), softmax(student, -1)
    eps = np.broadcast_to(np.asarray(coefficients), (p.shape[-1], np.shape(coefficients)[-1]))
    extra = sum(eps[:, m - 1] * (1 - q) ** m for m in range(1, eps.shape[-1] + 1))
    return _kl(p, q) + (p * extra).sum(-1)


def dkd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=3.0):
    return np.array(
        [
            temperature**2 * (alpha * target + beta * others)
            for target, others in (
                _decoupled(softmax(t / temperature), softmax(s / temperature), y)
                for s, t, y in zip(student, teacher, labels, strict=True)
            )
        ]
    )


def dist(student, teacher, labels=None, beta=1.0, gamma=1.0, temperature=3.0):
    q, p = softmax(student / temperature, -1), softmax(teacher / temperature, -1)
    inter = np.mean([1 - _pearson(a, b) for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - _pearson(a, b) for a, b in zip(q.T, p.T, strict=True)])
    return temperature**2 * (beta * inter + gamma * intra)


def standardized_kd(student, teacher, labels=None, temperature=3.0):
    def z_score(x):
        return (x - x.mean(-1, keepdims=True)) / (x.std(-1, ddof=1, keepdims=True) + 1e-7)

    return kd(z_score(student), z_score(teacher), temperature=temperature)


def nkd(student, teacher, labels, gamma=1.5, temperature=3.0):
    values = []
    for z, v, y in zip(student, teacher, labels, strict=True):
        others = [softmax(np.delete(x, y) / temperature) for x in (z, v)]
        of_others = -sum(p * np.log(q) for q, p in zip(*others, strict=True))
        values.append(-softmax(v)[y] * np.log(softmax(z)[y]) + gamma * temperature**2 * of_others)
    return np.array(values)


def wsld(student, teacher, labels, temperature=3.0):
    values = []
    for z, v, y in zip(student, teacher, labels, strict=True):
        ratio = np.log(softmax(z)[y]) / (np.log(softmax(v)[y]) - 1e-7)
        soft = -(softmax(v / temperature) * np.log(softmax(z / temperature))).sum()
        values.append((1 - np.exp(-ratio)) * temperature**2 * soft)
    return np.array(values)


def mlkd(student, teacher, labels=None, temperatures=(4.0, 3.0, 5.0, 2.0, 6.0), twice=(2.0, 6.0)):
    rows, classes = student.shape
    sure = softmax(teacher, -1)
    no_surer = np.mean([p.max() <= np.percentile(sure.max(-1), 50) for p in sure])
    no_more = np.mean([p.sum() <= np.percentile(sure.sum(0), 50) for p in sure.T])
    loss = sum(kd(student, teacher, temperature=t).mean() for t in twice)
    for t in temperatures:
        q, p = softmax(student / t, -1), softmax(teacher / t, -1)
        of_rows = [((p[i] * p[j]).sum() - (q[i] * q[j]).sum()) ** 2 for i in range(rows) for j in range(rows)]
        pairs = [(i, j) for i in range(classes) for j in range(classes)]
        of_classes = [((p[:, i] * p[:, j]).sum() - (q[:, i] * q[:, j]).sum()) ** 2 for i, j in pairs]
        loss += no_surer * (kd(student, teacher, temperature=t).mean() + sum(of_rows) / rows)
        loss += no_more * sum(of_classes) / classes
    return loss


def reverse_kl(student, teacher, labels=None, temperature=3.0):
    return _kl(softmax(student / temperature, -1), softmax(teacher / temperature, -1))


def jsd(student, teacher, labels=None, beta=0.3, normalize=False, temperature=3.0):
    q, p = softmax(student / temperature, -1), softmax(teacher / temperature, -1)
    if beta in (0, 1):
        return _kl(q, p) if beta else _kl(p, q)
    m = beta * p + (1 - beta) * q
    return (beta * _kl(p, m) + (1 - beta) * _kl(q, m)) / (beta * (1 - beta) if normalize else 1)


def skew_kl(student, teacher, labels=None, skew=0.1, temperature=3.0):
    q, p = softmax(student / temperature, -1), softmax(teacher / temperature, -1)
    return _kl(p, skew * p + (1 - skew) * q)


def tvd(student, teacher, labels=None, temperature=3.0):
    return np.abs(softmax(student / temperature, -1) - softmax(teacher / temperature, -1)).sum(-1) / 2


def _kl(p, q):
    return rel_entr(p, q).sum(-1)


def _decoupled(p, q, y):
    """TCKD and NCKD of one example, by deleting the target class."""
    target = _kl(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]]))
    p, q = np.delete(p, y), np.delete(q, y)
    return target, _kl(p / p.sum(), q / q.sum())


def _pearson(a, b):
    def constant(x):
        return np.ptp(x) <= 1e-13 * np.abs(x).max()

    return 0.0 if constant(a) or constant(b) else np.corrcoef(a, b)[0, 1]


Loss = Callable[..., Tensor]

# Every loss as f(student, teacher, labels, mask=None), with the hyper-parameters the oracles assume.
LOSSES: dict[str, Loss] = {
    "kd": lambda s, t, y, mask=None: losses.kd(s, t, temperature=3.0, mask=mask),
    "ttm": lambda s, t, y, mask=None: losses.ttm(s, t, temperature=3.0, mask=mask),
    "wttm": lambda s, t, y, mask=None: losses.wttm(s, t, temperature=3.0, mask=mask),
    "ptloss": lambda s, t, y, mask=None: losses.ptloss(s, t, coefficients=EPS, mask=mask),
    "dkd": lambda s, t, y, mask=None: losses.dkd(s, t, y, temperature=3.0, mask=mask),
    "nkd": lambda s, t, y, mask=None: losses.nkd(s, t, y, temperature=3.0, mask=mask),
    "wsld": lambda s, t, y, mask=None: losses.wsld(s, t, y, temperature=3.0, mask=mask),
    "mlkd": lambda s, t, y, mask=None: losses.mlkd(s, t, mask=mask),
    "dist": lambda s, t, y, mask=None: losses.dist(s, t, temperature=3.0, mask=mask),
    "standardized_kd": lambda s, t, y, mask=None: losses.standardized_kd(s, t, temperature=3.0, mask=mask),
    "reverse_kl": lambda s, t, y, mask=None: losses.reverse_kl(s, t, temperature=3.0, mask=mask),
    "jsd": lambda s, t, y, mask=None: losses.jsd(s, t, beta=0.3, temperature=3.0, mask=mask),
    "skew_kl": lambda s, t, y, mask=None: losses.skew_kl(s, t, temperature=3.0, mask=mask),
    "tvd": lambda s, t, y, mask=None: losses.tvd(s, t, temperature=3.0, mask=mask),
}
ORACLES: dict[str, Callable[..., Any]] = {name: globals()[name] for name in LOSSES}
PER_EXAMPLE = [name for name in LOSSES if name not in ("dist", "mlkd")]


@st.composite
def batches(draw, min_rows=1, max_rows=5, max_classes=6):
    """Student and teacher logits (rows, classes) in float64, and labels; ties and constant rows included."""
    rows, classes = draw(st.integers(min_rows, max_rows)), draw(st.integers(2, max_classes))
    numbers = st.integers(-480, 480).map(lambda n: n / 32)
    flat = draw(st.lists(numbers, min_size=2 * rows * classes, max_size=2 * rows * classes))
    student, teacher = torch.tensor(flat, dtype=torch.float64).view(2, rows, classes)
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    return student, teacher, torch.tensor(labels)


def random_batch(*shape: int, seed: int = 0, scale: float = 2.0, dtype: torch.dtype = torch.float64):
    """Student logits, teacher logits and labels, normally distributed."""
    generator = torch.Generator().manual_seed(seed)
    student = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    teacher = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(shape[-1], shape[:-1], generator=generator)
    return student.to(dtype), teacher.to(dtype), labels


def value_and_grad(loss: Loss, student: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of its sum in the student's logits."""
    student = student.detach().clone().requires_grad_()
    value = loss(student, *args, **options)
    return value.detach(), torch.autograd.grad(value.sum(), student)[0]
