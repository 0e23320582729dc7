import inspect

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, rel_entr, softmax

from preceptor import losses
from preceptor.assess import OPTIMA, optimum
from preceptor.errors import InputError
from preceptor.losses import dkd, mlkd, wsld

LOGITS = np.random.default_rng(0).normal(size=(3, 4))


def student_of(loss):
    """The student's probabilities that minimise a loss of its logits, found by a general optimiser."""
    return softmax(minimize(loss, np.zeros(4), tol=1e-12).x)


def test_kd_leads_to_the_teacher_at_any_temperature():
    found = np.exp(optimum(LOGITS, "kd", temperature=4.0))
    np.testing.assert_allclose(found, softmax(LOGITS, -1))
    teacher = softmax(LOGITS[0] / 4)
    expected = student_of(lambda z: 16 * rel_entr(teacher, softmax(z / 4)).sum())
    np.testing.assert_allclose(found[0], expected, atol=1e-3)


def test_dkd_leads_to_the_teacher_too():
    teacher, label = torch.tensor(LOGITS[:1]), torch.tensor([1])

    def of(student):
        return dkd(torch.tensor(student[None]), teacher, label, alpha=1.0, beta=8.0, temperature=4.0).item()

    found = np.exp(optimum(LOGITS, "dkd", temperature=4.0))
    np.testing.assert_allclose(found[0], student_of(of), atol=1e-3)


def test_mlkd_leads_to_the_teacher_too():
    teacher = torch.tensor(LOGITS)

    def of(student):
        return mlkd(torch.tensor(student).view(3, 4), teacher).item()

    expected = softmax(minimize(of, np.zeros(12), tol=1e-12).x.reshape(3, 4), -1)
    np.testing.assert_allclose(np.exp(optimum(LOGITS, "mlkd")), expected, atol=2e-3)


def test_wsld_moves_a_student_to_the_teacher_and_no_further():
    teacher, labels = torch.tensor(LOGITS), torch.tensor([1, 0, 3])
    student = torch.zeros_like(teacher).requires_grad_()
    for _ in range(3000):
        (grad,) = torch.autograd.grad(wsld(student, teacher, labels).sum(), student)
        student.data -= 0.2 * grad
    np.testing.assert_allclose(
        np.exp(optimum(LOGITS, "wsld", temperature=2.0)), student.detach().softmax(-1), atol=1e-6
    )


@pytest.mark.parametrize("loss", ["reverse_kl", "jsd", "skew_kl"])
def test_divergences_lead_to_the_teacher(loss):
    divergence = getattr(losses, loss)

    def of(student):
        return divergence(torch.tensor(student[None]), torch.tensor(LOGITS[:1]), temperature=2.0).item()

    found = np.exp(optimum(LOGITS, loss, temperature=2.0))
    np.testing.assert_allclose(found[0], student_of(of), atol=1e-3)


def test_total_variation_grows_along_every_way_from_the_teacher():
    [found], [teacher] = optimum(LOGITS[:1], "tvd"), torch.tensor(LOGITS[:1])
    directions = torch.tensor(np.random.default_rng(1).normal(size=(50, 4)))
    for direction in directions:
        values = [losses.tvd(torch.tensor(found) + step * direction, teacher) for step in (0, 0.1, 1.0)]
        assert values[0] < 1e-12 < values[1] < values[2]


@pytest.mark.parametrize("loss", ["ttm", "wttm"])
def test_ttm_and_wttm_lead_to_the_softened_teacher(loss):
    found = np.exp(optimum(torch.tensor(LOGITS), loss, temperature=2.5))
    teacher = softmax(LOGITS[0] / 2.5)
    weight = (softmax(LOGITS[0]) ** (1 / 2.5)).sum() if loss == "wttm" else 1
    expected = student_of(lambda z: weight * rel_entr(teacher, softmax(z)).sum())
    np.testing.assert_allclose(found[0], expected, atol=1e-3)


def test_ptloss_leads_to_the_proxy_teacher():
    epsilon, teacher = 1.5, softmax(LOGITS[0])

    def ptloss(z):
        return -(teacher * log_softmax(z)).sum() + epsilon * (teacher * (1 - softmax(z))).sum()

    found = np.exp(optimum(LOGITS, "ptloss", coefficients=[epsilon]))
    np.testing.assert_allclose(found[0], student_of(ptloss), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "wtm"}, "did you mean 'wttm'"),
        ({"loss": "ttm", "temperature": 0.0}, "above 0"),
        ({"loss": "ptloss"}, "no optimum without its coefficients"),
        ({"loss": {"nam": "kd"}}, "give its name, or its name and options"),
        ({"loss": {"name": "ttm", "sharpness": 2}}, "takes no sharpness"),
        ({"loss": "kd", "coefficients": [1.0]}, "takes no coefficients"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        optimum(LOGITS, **options)


def test_a_loss_with_its_options_as_in_a_recipe():
    found = optimum(LOGITS, {"name": "ttm", "temperature": 2.5})
    np.testing.assert_array_equal(found, optimum(LOGITS, "ttm", temperature=2.5))


def test_every_optimum_is_of_a_loss_of_ours_that_takes_its_options():
    for name, known in OPTIMA.items():
        options = inspect.signature(getattr(losses, name)).parameters
        assert known.needs.keys() <= options.keys()
        found = optimum(LOGITS, {"name": name, **known.needs})
        np.testing.assert_allclose(np.exp(found).sum(-1), 1)
        if known.own is not None:
            neutral = optimum(LOGITS, {"name": name, **known.own.model_dump(exclude={"kind"})})
            np.testing.assert_allclose(neutral, log_softmax(LOGITS, -1), atol=1e-12)
