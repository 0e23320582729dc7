"""The student of SimKD: a trunk, a projector, and a place for a teacher's classifier."""

import pytest
import torch
from torch import nn

from preceptor import models
from preceptor.errors import InputError
from preceptor.models import reused_head

FAMILIES = ["resnet8", "wrn_16_1", "vgg8", "mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "resnet50"]


@pytest.mark.parametrize("of", FAMILIES)
def test_the_trunk_is_that_of_the_model_without_its_classifier(of):
    torch.manual_seed(0)
    plain = getattr(models, of)(num_classes=7).eval()
    torch.manual_seed(0)
    model = reused_head(of=of, channels=6, num_classes=7).eval()
    images = torch.randn(2, 3, 32, 32)
    maps = plain.forward_features(images)
    torch.testing.assert_close(model.trunk.forward_features(images), maps)
    *_, classifier = [each for each in plain.modules() if isinstance(each, nn.Linear)]
    torch.testing.assert_close(plain(images), classifier(maps.mean((-2, -1))))
    assert not any(isinstance(each, nn.Linear) for each in model.trunk.modules())
    assert model(images).shape == (2, 7)


def test_the_projector_is_a_bottleneck_of_half_the_teachers_channels():
    model = reused_head(of="resnet8", channels=32, num_classes=5)
    convs = [each for each in model.projector if isinstance(each, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0]) for c in convs] == [(64, 16, 1), (16, 16, 3), (16, 32, 1)]
    assert [type(each).__name__ for each in model.projector] == ["Conv2d", "BatchNorm2d", "ReLU"] * 3


def test_larger_maps_are_averaged_before_the_projector():
    model = reused_head(of="resnet8", channels=4, size=2, num_classes=5)
    seen = {}
    model.projector.register_forward_hook(lambda _, given, gave: seen.update(given=given[0], gave=gave))
    images = torch.randn(3, 3, 32, 32)
    logits = model.eval()(images)
    maps = model.trunk.forward_features(images)
    torch.testing.assert_close(seen["given"], nn.functional.avg_pool2d(maps, 4))
    torch.testing.assert_close(logits, model.fc(seen["gave"].mean((-2, -1))))
    small = reused_head(of="resnet8", channels=4, size=2, num_classes=5, input_shape=(1, 4, 4))
    assert small(torch.randn(3, 1, 4, 4)).shape == (3, 5)


def test_options_go_to_the_model_that_it_is_made_of():
    assert reused_head(of="wrn_16_1", channels=4, num_classes=5, dropout=0.3).trunk.layer1[0].dropout.p == 0.3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"of": "resnet8x5"}, "did you mean 'resnet8x4'"),
        ({"of": "mlp"}, "no model called 'mlp' whose last maps could be projected; known: mobilenet_v2, "),
        ({"of": "resnet8", "channels": 0}, "channels of reused_head is 0"),
        ({"of": "resnet8", "size": 0}, "size of reused_head is 0"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(InputError, match=said):
        reused_head(num_classes=5, **{"channels": 4, **options})
