"""ReviewKD: oracle of the loss and of the fusion, and the warm-up."""

import numpy as np
import pytest
import torch
from torch import nn

from losses.features.maps import built, features, pooled, value
from preceptor.errors import InputError
from preceptor.losses.features import ReviewKD
from preceptor.losses.features.reviewkd import hcl


def oracle(student, teacher):
    height = student.shape[2]
    weights = {height: 1.0} | dict(
        zip([cells for cells in (4, 2, 1) if cells < height], (1 / 2, 1 / 4, 1 / 8), strict=False)
    )
    found = 0
    for cells, weight in weights.items():
        size = student.shape[2:] if cells == height else (cells, cells)
        found = found + weight * ((pooled(student, *size) - pooled(teacher, *size)) ** 2).mean((1, 2, 3))
    return found / sum(weights.values())


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (4, 4), (8, 8), (5, 7)])
def test_oracle_of_the_context_loss(size):
    student, teacher = features((3, 2, *size))["layer0"], features((3, 2, *size), seed=1)["layer0"]
    np.testing.assert_allclose(hcl(student, teacher), oracle(student.numpy(), teacher.numpy()))


def conv(weight, x):
    """A 3x3 convolution with a border of zeros, or a 1x1 one."""
    if weight.shape[-1] == 1:
        return np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], x)
    framed = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    return sum(
        np.einsum("oc,bchw->bohw", weight[:, :, i, j], framed[:, :, i : i + height, j : j + width])
        for i in range(3)
        for j in range(3)
    )


def nearest(x, height, width):
    rows = [i * x.shape[2] // height for i in range(height)]
    columns = [j * x.shape[3] // width for j in range(width)]
    return x[:, :, rows][:, :, :, columns]


def test_the_review_from_the_top_down():
    """Two stages and a pooled feature; the teacher's stages are of another size."""
    student, teacher = (
        features((2, 2, 6, 6), (2, 3, 3, 3), (2, 4)),
        features((2, 3, 4, 4), (2, 2, 3, 3), (2, 5), seed=1),
    )
    loss = built(ReviewKD(), student, teacher).eval()
    assert [fusion.enter[0].weight.shape for fusion in loss.fusions] == [(4, 2, 1, 1), (4, 3, 1, 1), (4, 4, 1, 1)]
    shrink = 1 / np.sqrt(1 + 1e-5)  # batch norm that has seen nothing
    above, expected = None, 0
    for level in (2, 1, 0):
        fusion, own = (
            loss.fusions[level],
            student[f"layer{level}"].numpy().reshape(2, -1, *((6, 6), (3, 3), (1, 1))[level]),
        )
        wanted = teacher[f"layer{level}"].numpy().reshape(2, -1, *((4, 4), (3, 3), (1, 1))[level])
        fused = shrink * conv(fusion.enter[0].weight.detach().numpy(), own)
        if above is not None:
            above = nearest(above, *own.shape[2:])
            gates = conv(fusion.gates.weight.detach().numpy(), np.concatenate([fused, above], 1))
            gates = 1 / (1 + np.exp(-gates - fusion.gates.bias.detach().numpy()[:, None, None]))
            fused = fused * gates[:, [0]] + above * gates[:, [1]]
        above = nearest(fused, *wanted.shape[2:])
        found = shrink * conv(fusion.leave[0].weight.detach().numpy(), above)
        expected = expected + oracle(found, wanted)
    np.testing.assert_allclose(value(loss, student, teacher).detach(), expected)


def test_the_loss_grows_over_the_first_epochs():
    student, teacher = features((2, 2, 6, 6)), features((2, 2, 6, 6), seed=1)
    loss = built(ReviewKD(warmup_epochs=4), student, teacher).eval()
    full, shares = value(loss, student, teacher), []
    for epoch in range(6):
        loss.start_epoch(epoch, 6)
        shares.append((value(loss, student, teacher) / full).mean().item())
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    loss = built(ReviewKD(warmup_epochs=0), student, teacher).eval()
    loss.start_epoch(0, 6)
    assert loss.share == 1
    with pytest.raises(InputError, match="warmup_epochs is -1; give a whole number of at least 0"):
        ReviewKD(warmup_epochs=-1)


def test_where_it_looks():
    assert ReviewKD().student_taps == ("stages", "penultimate")
    assert ReviewKD().teacher_taps == ("preactivations", "penultimate")
    assert ReviewKD(student=["a", "b"]).teacher_taps == ("a", "b")


def test_what_goes_down_is_512_wide_at_most():
    student, teacher = features((2, 2, 2, 2), (2, 600)), features((2, 2, 2, 2), (2, 5), seed=1)
    loss = built(ReviewKD(), student, teacher)
    assert {fusion.enter[0].out_channels for fusion in loss.fusions} == {512}
    assert isinstance(loss.fusions[0].gates, nn.Conv2d)
    assert loss.fusions[1].gates is None
    assert torch.is_tensor(value(loss, student, teacher))


def test_of_unlike_numbers_of_stages_the_uppermost_are_compared():
    student = features((2, 2, 6, 6), (2, 3, 3, 3), (2, 4))
    teacher = features((2, 2, 9, 9), (2, 3, 6, 6), (2, 2, 3, 3), (2, 5), seed=1)
    found = value(built(ReviewKD(), student, teacher), student, teacher)
    upper = dict(list(teacher.items())[1:])
    torch.testing.assert_close(found, value(built(ReviewKD(), student, upper), student, upper))
    with pytest.raises(InputError, match="compares 3 features"):
        built(ReviewKD(student=["a", "b", "c"]), student, teacher)
