"""VID: scipy's normal density, sizes and forms that differ, layers summed."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from losses.features import relations
from losses.features.relations import SETTING, built, call, normal
from preceptor.errors import InputError
from preceptor.losses.features import VID

STUDENT, TEACHER = normal(3, 4, 6, 6), normal(3, 5, 3, 3, seed=1)


def make(student=STUDENT, teacher=TEACHER, **options):
    loss = built(VID(**options), student, teacher)
    with torch.no_grad():  # variances of their own
        for layer in loss.layers:
            layer.scale.add_(torch.linspace(-4, 0, len(layer.scale)))
    return loss


def oracle(layer, student, teacher):
    """Minus the mean log-density of all values, less its constant log(2 pi) / 2; maps of the same size."""
    regressed = np.moveaxis(student.numpy(), 1, -1)
    for n in (0, 2, 4):
        regressed = regressed @ layer.mean[n].weight.detach().numpy()[:, :, 0, 0].T
        regressed = regressed if n == 4 else np.maximum(regressed, 0)
    deviation = np.sqrt(np.log1p(np.exp(layer.scale.detach().numpy())) + 1e-5)
    density = norm.logpdf(np.moveaxis(teacher.numpy(), 1, -1), regressed, deviation)
    return -density.mean((1, 2, 3)) - np.log(2 * np.pi) / 2


def pooled(x):
    return x.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))


@pytest.mark.parametrize(
    ("student", "teacher", "seen"),
    [
        (STUDENT, TEACHER, (pooled(STUDENT), TEACHER)),
        (normal(3, 4, 3, 3), normal(3, 5, 6, 6, seed=1), (normal(3, 4, 3, 3), pooled(normal(3, 5, 6, 6, seed=1)))),
        (normal(3, 4), normal(3, 5, seed=1), (normal(3, 4, 1, 1), normal(3, 5, 1, 1, seed=1))),
        (
            STUDENT,
            normal(3, 10, 5, seed=1),  # a class token and 3 x 3 others
            (pooled(STUDENT), normal(3, 10, 5, seed=1)[:, 1:].mT.reshape(3, 5, 3, 3)),
        ),
    ],
)
def test_oracle(student, teacher, seen):
    loss = make(student, teacher)
    [layer] = loss.layers
    np.testing.assert_allclose(call(loss, student, teacher).detach().numpy(), oracle(layer, *seen), rtol=1e-9)


def test_variances_start_where_they_are_told_to():
    loss = built(VID(variance=0.3), STUDENT, TEACHER)
    found = np.log1p(np.exp(loss.layers[0].scale.detach().numpy())) + 1e-5
    np.testing.assert_allclose(found, 0.3, rtol=1e-5)
    with pytest.raises(InputError, match=r"variance is 0.0; give a number above 1e-05"):
        VID(variance=0.0)


def test_gradcheck():
    loss = make()
    torch.autograd.gradcheck(lambda x: call(loss, x, TEACHER), STUDENT.clone().requires_grad_())


def test_layers_are_summed_and_each_has_parts_of_its_own():
    student, teacher = {"a": STUDENT, "b": normal(3, 2, 3, 3)}, {"c": TEACHER, "d": normal(3, 7, 3, 3)}
    loss = VID().double()
    loss.build(student, teacher, SETTING)
    loss.double()
    found = loss(None, None, student_features=student, teacher_features=teacher)
    pairs = zip(loss.layers, [(pooled(STUDENT), TEACHER), (student["b"], teacher["d"])], strict=True)
    np.testing.assert_allclose(found.detach().numpy(), sum(oracle(layer, *pair) for layer, pair in pairs), rtol=1e-9)
    with pytest.raises(InputError, match=r"'VID' compares 2 features"):
        loss.build(student, {"c": TEACHER}, SETTING)


def test_odd_batches_and_what_is_saved():
    loss = make()
    assert call(loss, STUDENT[:1], TEACHER[:1]).shape == (1,)
    relations.check_dead_features(lambda s, t: call(loss, s, t), STUDENT, TEACHER)
    relations.check_no_gradient_to_the_teacher(lambda s, t: call(loss, s, t), STUDENT, TEACHER)
    half = make(STUDENT.float(), TEACHER.float())
    for dtype in (torch.bfloat16, torch.float16):
        relations.check_half_precision(lambda s, t: call(half, s, t), STUDENT, TEACHER, dtype)
    again = built(VID(), STUDENT, TEACHER)
    assert not call(again, STUDENT, TEACHER).equal(call(loss, STUDENT, TEACHER))
    again.load_state_dict(loss.state_dict())
    assert call(again, STUDENT, TEACHER).equal(call(loss, STUDENT, TEACHER))


def test_a_variance_far_below_zero_before_softplus_stays_finite():
    loss = make()
    with torch.no_grad():
        loss.layers[0].scale.fill_(-1000)
    assert call(loss, STUDENT, TEACHER).isfinite().all()
    with torch.no_grad():
        loss.layers[0].scale.fill_(1000)
    assert call(loss, STUDENT, TEACHER).isfinite().all()
