"""MGD: oracle, what is left out, and its draws."""

import numpy as np
import pytest
import torch

from losses.features.maps import built, features, value
from losses.features.test_reviewkd import conv
from preceptor.errors import InputError
from preceptor.losses.features import MGD
from preceptor.losses.features.mgd import kept


def generated(loss, level, feature):
    first, _, last = loss.generators[level]
    for layer in (first, last):
        feature = conv(layer.weight.detach().numpy(), feature) + layer.bias.detach().numpy()[:, None, None]
        feature = feature if layer is last else np.maximum(feature, 0)
    return feature


@pytest.mark.parametrize("masked", ["channels", "positions"])
def test_oracle(masked):
    student, teacher = features((3, 2, 4, 4)), features((3, 3, 4, 4), seed=1)
    loss = built(MGD(rate=0.5, masked=masked), student, teacher)
    torch.manual_seed(5)
    found = value(loss, student, teacher).detach()
    torch.manual_seed(5)
    drawn = torch.rand((3, 3, 1, 1) if masked == "channels" else (3, 1, 4, 4)).numpy()
    weight, bias = (x.detach().numpy() for x in loss.widen[0].parameters())
    mapped = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], student["layer0"].numpy()) + bias[:, None, None]
    made = generated(loss, 0, np.where(drawn < 0.5, 0, mapped))
    np.testing.assert_allclose(found, ((made - teacher["layer0"].numpy()) ** 2).sum((1, 2, 3)))


@pytest.mark.parametrize(("masked", "shape"), [("channels", (50, 40, 1, 1)), ("positions", (50, 1, 6, 6))])
def test_a_share_of_whole_channels_or_positions_is_left_out(masked, shape):
    torch.manual_seed(0)
    mask = kept(torch.zeros(50, 40, 6, 6), 0.15, masked)
    assert mask.shape == shape
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.85, abs=0.02)
    assert (kept(torch.zeros(50, 40, 6, 6), 0.0, masked) == 1).all()


def test_each_forward_draws_anew():
    student, teacher = features((3, 3, 4, 4)), features((3, 3, 4, 4), seed=1)
    loss = built(MGD(rate=0.5), student, teacher)
    assert (value(loss, student, teacher) != value(loss, student, teacher)).any()


@pytest.mark.parametrize("options", [{"rate": 1.0}, {"rate": -0.1}, {"rate": float("nan")}, {"masked": "pixels"}])
def test_options(options):
    with pytest.raises(InputError, match=rf"{next(iter(options))} is .*; give"):
        MGD(**options)
