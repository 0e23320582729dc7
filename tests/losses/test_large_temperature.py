"""KL at any temperature of a student near its teacher: never negative, and right, as are the gradients."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from losses import oracles
from losses.oracles import random_batch, value_and_grad
from preceptor.losses import dkd, kd, standardized_kd

# Every loss as f(student, teacher, labels, *, temperature, mask=None).
LOSSES = {
    "kd": lambda s, t, y, **options: kd(s, t, **options),
    "standardized_kd": lambda s, t, y, **options: standardized_kd(s, t, **options),
    "dkd": dkd,
}
every_loss = pytest.mark.parametrize("name", LOSSES)
LARGE = 50.0


def near_batch(classes: int, distance: float, dtype: torch.dtype = torch.float32):
    """A student that differs from its teacher by `distance` in each logit."""
    noise, teacher, labels = random_batch(8, classes, dtype=dtype)
    return teacher + distance * noise, teacher, labels


def gradient(name: str, student: np.ndarray, teacher: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    """The losses' gradients in closed form."""
    if name == "standardized_kd":
        spread = student.std(-1, ddof=1, keepdims=True)
        z, v = ((x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True) for x in (student, teacher))
        grad = gradient("kd", z, v, labels, temperature)
        along = (grad * z).sum(-1, keepdims=True) / (z.shape[-1] - 1)
        return (grad - grad.mean(-1, keepdims=True) - along * z) / spread
    q, p = softmax(student / temperature, -1), softmax(teacher / temperature, -1)
    if name == "kd":
        return temperature * (q - p)
    target = np.eye(q.shape[-1])[labels]
    of_target = ((q - p) * target).sum(-1, keepdims=True)
    q, p = (x * (1 - target) / (x * (1 - target)).sum(-1, keepdims=True) for x in (q, p))
    return temperature * (of_target * (target - q) + 8.0 * (q - p))


@every_loss
@pytest.mark.parametrize("temperature", [1.0, 4.0, 16.0, 17.0, 100.0, 1000.0])
@pytest.mark.parametrize(("classes", "distance"), [(3, 0.01), (10, 0.0), (10, 0.01), (10, 0.5), (5000, 0.01)])
def test_value_and_gradient_of_a_student_near_its_teacher(name, temperature, classes, distance):
    student, teacher, labels = near_batch(classes, distance)
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels, temperature=temperature)
    exact = student.double().numpy(), teacher.double().numpy(), labels.numpy()
    expected = getattr(oracles, name)(*exact, temperature=temperature)
    assert (value >= 0).all()
    np.testing.assert_allclose(value, expected, rtol=0.01, atol=1e-9)
    expected_grad = gradient(name, *exact, temperature)
    error = np.linalg.norm(grad.numpy() - expected_grad, axis=-1)
    rounding = 1e-6 * min(temperature, 16)
    assert (error <= 0.01 * np.linalg.norm(expected_grad, axis=-1) + rounding).all()


@every_loss
def test_oracle_of_students_far_away_and_of_teachers_without_a_class(name):
    student, teacher, labels = random_batch(16, 5, scale=100.0)
    if name != "standardized_kd":  # whose oracle knows no -inf
        teacher[:4, 1] = -torch.inf
        teacher[4, labels[4]] = -torch.inf
        teacher[5, torch.arange(5) != labels[5]] = -torch.inf
    with np.errstate(invalid="ignore"):
        expected = getattr(oracles, name)(student.numpy(), teacher.numpy(), labels.numpy(), temperature=LARGE)
    rows = np.isfinite(expected)  # the oracle divides 0 by 0 where nothing is left beside the target
    assert rows.sum() >= 15
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels, temperature=LARGE)
    np.testing.assert_allclose(value[rows], expected[rows], rtol=1e-8)
    assert value.isfinite().all()
    assert grad.isfinite().all()


@every_loss
def test_gradcheck(name):
    student, teacher, labels = random_batch(4, 5, scale=20.0)
    teacher[0, 0] = -torch.inf
    mask = torch.tensor([True, True, False, True])
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, teacher, labels, temperature=LARGE, mask=mask), student)


@pytest.mark.parametrize("temperature", [4.0, LARGE])
@pytest.mark.parametrize("name", ["kd", "dkd"])
def test_classes_that_student_and_teacher_rule_out(name, temperature):
    student, teacher, labels = random_batch(8, 4)
    expected, expected_grad = value_and_grad(LOSSES[name], student, teacher, labels, temperature=temperature)
    student, teacher = (torch.nn.functional.pad(logits, (0, 2), value=-torch.inf) for logits in (student, teacher))
    value, grad = value_and_grad(LOSSES[name], student, teacher, labels, temperature=temperature)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, torch.nn.functional.pad(expected_grad, (0, 2)))


@pytest.mark.parametrize("temperature", [4.0, LARGE])
def test_a_student_without_a_class_of_its_teacher_is_infinitely_far(temperature):
    student = torch.tensor([[0.0, 0.0, -torch.inf]])
    value, grad = value_and_grad(kd, student, torch.zeros(1, 3), temperature=temperature)
    assert value.item() == torch.inf
    assert grad.isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("temperature", [4.0, LARGE])
def test_huge_logits_and_masked_dirt(name, dtype, temperature):
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [torch.nan, torch.inf, 0.0]], dtype=dtype)
    teacher = torch.tensor([[-1e4, 1e4, 1.0], [-1e4, 1e4, 1e4], [torch.nan, torch.inf, 0.0]], dtype=dtype)
    mask = torch.tensor([True, True, False])
    value, grad = value_and_grad(LOSSES[name], student, teacher, torch.arange(3), temperature=temperature, mask=mask)
    assert value[0] > 0
    assert (value[1:] == 0).all()
    assert grad.isfinite().all()
    assert (grad[2] == 0).all()


@every_loss
def test_vmap_is_a_loop(name):
    student, teacher, labels = random_batch(3, 4, 5)

    def grad(*args):
        return torch.func.grad(lambda *inputs: LOSSES[name](*inputs, temperature=LARGE).sum())(*args)

    looped = torch.stack([grad(*args) for args in zip(student, teacher, labels, strict=True)])
    torch.testing.assert_close(torch.func.vmap(grad)(student, teacher, labels), looped)
