"""FSP: oracle, and what it cannot compare."""

import numpy as np
import pytest

from losses.features.maps import SETTING, built, features, pooled, value
from preceptor.errors import InputError
from preceptor.losses.features import FSP


def flow(bottom, top):
    height, width = (min(a, b) for a, b in zip(bottom.shape[2:], top.shape[2:], strict=True))
    bottom, top = pooled(bottom, height, width), pooled(top, height, width)
    found = np.zeros((len(bottom), top.shape[1], bottom.shape[1]))
    for place in np.ndindex(height, width):
        for b in range(len(bottom)):
            found[b] += np.outer(top[b][:, *place], bottom[b][:, *place]) / (height * width)
    return found


@pytest.mark.parametrize("last", [(3, 3), (4, 5), (12, 8)])
def test_oracle(last):
    shapes = [(3, 2, 6, 6), (3, 4, 6, 6), (3, 3, *last)]
    student, teacher = features(*shapes), features(*shapes, seed=1)
    expected = 0
    for n in range(2):
        of_student, of_teacher = (flow(side[f"layer{n}"], side[f"layer{n + 1}"]) for side in (student, teacher))
        expected = expected + ((of_student - of_teacher) ** 2).mean((1, 2))
    np.testing.assert_allclose(value(built(FSP(), student, teacher), student, teacher), expected)


def test_the_order_of_positions_does_not_matter():
    student, teacher = features(*[(3, 2, 4, 4)] * 2), features(*[(3, 2, 4, 4)] * 2, seed=1)
    loss = built(FSP(), student, teacher)
    turned = {name: feature.flip(2).mT for name, feature in student.items()}
    np.testing.assert_allclose(value(loss, turned, teacher), value(loss, student, teacher))
    np.testing.assert_allclose(value(loss, student, turned), np.zeros(3), atol=1e-12)


def test_other_widths_are_refused():
    student, teacher = features((3, 2, 4, 4), (3, 4, 2, 2)), features((3, 2, 4, 4), (3, 5, 2, 2))
    with pytest.raises(InputError, match=r"the student's features have \[2, 4\] of them, the teacher's \[2, 5\]"):
        FSP().build(student, teacher, SETTING)


def test_one_feature_has_no_step():
    with pytest.raises(InputError, match="steps from one feature to the next; name two or more"):
        FSP().build(features((3, 2, 4, 4)), features((3, 2, 4, 4)), SETTING)
