"""FT: oracle, the two phases, and who learns in them."""

import numpy as np
import pytest
import torch
from torch import nn

from losses.features.maps import built, features, gradients, pooled, value
from preceptor.errors import InputError
from preceptor.losses.features import FT
from preceptor.losses.features.ft import ft


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (8, 9)])
def test_oracle(size):
    student, teacher = features((3, 2, 4, 5))["layer0"], features((3, 4, *size), seed=1)["layer0"]
    height, width = min(4, size[0]), min(5, size[1])
    expected = []
    for s, t in zip(pooled(student, height, width), pooled(teacher, height, width), strict=True):
        a, b = (sum(channel.ravel() ** 2 for channel in x) for x in (s, t))
        expected.append(np.abs(a / np.linalg.norm(a) - b / np.linalg.norm(b)).mean())
    np.testing.assert_allclose(ft(student, teacher), expected)


def test_the_shapes_of_its_parts():
    loss = built(FT(), features((3, 5, 4, 4)), features((3, 8, 4, 4), seed=1))
    convolutions = (nn.Conv2d, nn.ConvTranspose2d)

    def channels(net):
        return [(x.in_channels, x.out_channels) for x in net if isinstance(x, convolutions)]

    assert channels(loss.paraphrasers[0]) == [(8, 8), (8, 4), (4, 4)]
    assert channels(loss.decoders[0]) == [(4, 4), (4, 8), (8, 8)]
    assert channels(loss.translators[0]) == [(5, 5), (5, 4), (4, 4)]
    kinds = [sum(isinstance(x, nn.BatchNorm2d) for x in net[0]) for net in (loss.paraphrasers, loss.translators)]
    assert kinds == [0, 3]
    assert [x.negative_slope for x in loss.decoders[0] if isinstance(x, nn.LeakyReLU)] == [0.1] * 3


def test_first_the_paraphraser_learns_to_give_the_teacher_s_feature_again():
    student, teacher = features((8, 5, 4, 4), dtype=torch.float32), features((8, 6, 4, 4), seed=1, dtype=torch.float32)
    loss = built(FT(init_epochs=1), student, teacher)
    loss.start_epoch(0, 2)
    assert loss.alone
    first, grads = gradients(loss, student, teacher)
    again = loss.decoders[0](loss.paraphrasers[0](teacher["layer0"]))
    expected = (again - teacher["layer0"]).square().mean((1, 2, 3)).detach()
    torch.testing.assert_close(FT.published.distill_weight * first, expected)
    assert (grads[0] == 0).all()
    assert loss.translators[0][0].weight.grad is None
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        value(loss, student, teacher).mean().backward()
        optimizer.step()
    assert value(loss, student, teacher).mean() < 0.8 * first.mean()


def test_then_it_stays_as_it_is_and_the_student_learns():
    student, teacher = features((3, 5, 4, 4)), features((3, 6, 4, 4), seed=1)
    loss = built(FT(init_epochs=1), student, teacher)
    loss.start_epoch(1, 2)
    assert not loss.alone
    found, grads = gradients(loss, student, teacher)
    expected = ft(loss.translators[0](student["layer0"]), loss.paraphrasers[0](teacher["layer0"]))
    torch.testing.assert_close(found, expected.detach())
    assert (grads[0] != 0).any()
    value(loss, student, teacher).sum().backward()
    assert all(x.grad is None for x in (*loss.paraphrasers.parameters(), *loss.decoders.parameters()))
    assert all(x.grad is not None for x in loss.translators.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"), [({"init_epochs": 0}, "a whole number of at least 1"), ({"rate": 0}, "a positive")]
)
def test_options(options, sentence):
    with pytest.raises(InputError, match=f"{next(iter(options))} is 0; give {sentence}"):
        FT(**options)
