"""What every model promises, and the sizes of the literature."""

import copy
import inspect

import pytest
import torch
from torch import nn

from preceptor import models
from preceptor.errors import InputError
from preceptor.models.mobilenet import InvertedResidual
from preceptor.models.resnet import BasicBlock
from preceptor.models.resnet50 import Bottleneck
from preceptor.models.shufflenet import ShuffleBlockV1, ShuffleBlockV2, shuffle
from preceptor.models.wrn import WideBlock
from preceptor.tasks import Stack

TEXT = ["ngram_bag", "text_encoder"]
PRETRAINED = ["image_classifier", "text_classifier"]  # which need a folder
TOKENS = ["causal_lm"]
LIGHT = ["mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "vgg8"]
SMALL = ["cnn", "mlp", "resnet8", "resnet14", "resnet8x4", "wrn_16_1", "wrn_16_2", *LIGHT]


def build(name, num_classes=100, input_shape=(3, 32, 32)):
    torch.manual_seed(0)
    return getattr(models, name)(num_classes=num_classes, input_shape=input_shape)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet8", 83_892),
        ("resnet14", 181_108),
        ("resnet20", 278_324),
        ("resnet32", 472_756),
        ("resnet44", 667_188),
        ("resnet56", 861_620),
        ("resnet110", 1_736_564),
        ("resnet8x4", 1_233_540),
        ("resnet32x4", 7_433_860),
        ("wrn_16_1", 180_916),
        ("wrn_16_2", 703_284),
        ("wrn_40_1", 569_780),
        ("wrn_40_2", 2_255_156),
        ("resnet50", 23_705_252),
        ("mobilenet_v2", 812_836),
        ("shufflenet_v1", 949_258),
        ("shufflenet_v2", 1_355_528),
        ("vgg8", 3_965_028),
        ("vgg11", 9_277_284),
        ("vgg13", 9_462_180),
        ("vgg16", 14_774_436),
        ("vgg19", 20_086_692),
    ],
)
def test_parameters_with_100_classes(name, parameters):
    with torch.device("meta"):
        model = getattr(models, name)(num_classes=100)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize("name", models.__all__)
def test_every_factory_takes_the_two_common_arguments(name):
    parameters = inspect.signature(getattr(models, name)).parameters
    assert {"num_classes", "input_shape"} <= parameters.keys()
    by_keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    assert all(parameter.kind in by_keyword for parameter in parameters.values())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("input_shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8)])
def test_logits_of_any_image_size(name, input_shape):
    logits = build(name, 7, input_shape)(torch.randn(2, *input_shape))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name):
    model = build(name, 7)
    model(torch.randn(4, 3, 32, 32)).logsumexp(-1).sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_dropout_of_a_resnet_is_of_what_its_classifier_reads():
    torch.manual_seed(0)
    model, plain = models.resnet8(num_classes=7, dropout=0.25), models.resnet8(num_classes=7)
    plain.load_state_dict(model.state_dict())
    images, read = torch.randn(500, 3, 4, 4), []
    for network in (plain, model):
        network.fc.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        network.train()(images)
    kept = read[1] != 0
    torch.testing.assert_close(read[1][kept], read[0][kept] / 0.75)
    assert 0.74 < kept[read[0] != 0].double().mean() < 0.76
    assert torch.equal(model.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_the_weights(name):
    first, second = build(name), build(name)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize("name", SMALL)
def test_weights_travel_as_plain_tensors(name, tmp_path):
    from safetensors.torch import load_file, save_file

    model, other = build(name), build(name)
    nn.init.zeros_(next(other.parameters()))
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / "w.safetensors")
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    inputs = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.eval()(inputs), other.eval()(inputs))


@pytest.mark.parametrize(
    "name", [name for name in models.__all__ if name not in ("mlp", "reused_head", *TEXT, *PRETRAINED, *TOKENS)]
)
def test_image_models_refuse_other_inputs(name):
    with pytest.raises(InputError, match=r"inputs have shape \(64,\).*'mlp'"):
        build(name, 7, (64,))


@pytest.mark.parametrize("name", ["cnn", "resnet20", "wrn_16_1", *LIGHT])
def test_images_with_their_channels_last_are_refused(name):
    with pytest.raises(InputError, match=r"shape \(32, 32, 3\), which looks like \(height, width, channels\)"):
        build(name, 7, (32, 32, 3))


@pytest.mark.parametrize("name", ["vgg8", "vgg11", "vgg13", "vgg16", "vgg19"])
def test_vgg_refuses_images_too_small_for_its_pools(name):
    with torch.device("meta"), pytest.raises(InputError, match=f"images of 7x32 pixels are too small .*'{name}'.*8x8"):
        getattr(models, name)(num_classes=7, input_shape=(3, 7, 32))


# What a stage gives, channels and side, as published: on 32 pixels all but mobilenet_v2 begin at full size.
STAGES = {
    "vgg8": {"block0": (64, 32), "block1": (128, 16), "block2": (256, 8), "block3": (512, 4), "block4": (512, 4)},
    "resnet50": {"layer1": (256, 32), "layer2": (512, 16), "layer3": (1024, 8), "layer4": (2048, 4)},
    "shufflenet_v1": {"layer1": (240, 16), "layer2": (480, 8), "layer3": (960, 4)},
    "shufflenet_v2": {"layer1": (116, 16), "layer2": (232, 8), "layer3": (464, 4), "conv2": (1024, 4)},
    "mobilenet_v2": {"conv1": (16, 16), "blocks.1": (12, 16), "blocks.4": (48, 4), "blocks.6": (160, 2)},
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_the_published_ones(name):
    with torch.device("meta"):
        model, found = getattr(models, name)(num_classes=3), {}
        for stage in STAGES[name]:
            model.get_submodule(stage).register_forward_hook(lambda _m, _i, out, key=stage: found.update({key: out}))
        model(torch.zeros(2, 3, 32, 32))
    assert {stage: (out.shape[1], out.shape[2]) for stage, out in found.items()} == STAGES[name]


@pytest.mark.parametrize(("side", "expected"), [(32, 4), (64, 4), (96, 6)])
def test_vgg_halves_large_images_once_more(side, expected):
    sides = []
    with torch.device("meta"):
        model = models.vgg8(num_classes=3, input_shape=(3, side, side))
        model.block4.register_forward_hook(lambda _m, _i, out: sides.append(out.shape[-1]))
        model(torch.zeros(2, 3, side, side))
    assert sides == [expected]


@pytest.mark.parametrize("name", LIGHT)
def test_a_stack_answers_as_its_models_do(name):
    members = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        members.append(getattr(models, name)(num_classes=5, input_shape=(3, 16, 16)))
    images = torch.randn(4, 3, 16, 16)
    alone = torch.stack([copy.deepcopy(member)(images) for member in members])
    stack = Stack(members, source_of=[0, 0]).train()
    torch.testing.assert_close(stack(images[None]), alone, rtol=1e-4, atol=1e-5)


def test_cnn_as_documented():
    model = build("cnn", 10, (1, 28, 28))
    assert sum(parameter.numel() for parameter in model.parameters()) == 207_098
    tapped = []
    model.get_submodule("4").register_forward_hook(lambda _module, _inputs, output: tapped.append(output))
    model(torch.zeros(2, 1, 28, 28))
    assert tapped[0].is_contiguous(memory_format=torch.channels_last)  # without it, half the speed on a CPU


def test_cnn_refuses_images_too_small_for_its_pools():
    with pytest.raises(InputError, match="images of 8x3 pixels cannot be halved 2 times"):
        build("cnn", 7, (1, 8, 3))
    assert models.cnn(num_classes=7, input_shape=(1, 8, 3), widths=(16,))(torch.zeros(2, 1, 8, 3)).shape == (2, 7)


def test_convolutions_start_from_kaiming_fan_out():
    for name in ("cnn", "resnet20", "wrn_40_1", "vgg8", "mobilenet_v2"):
        for module in build(name).modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 5000:
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_basic_block_is_the_paper_s():
    block = BasicBlock(4, 8, stride=2).eval()
    x = torch.randn(2, 4, 6, 6)
    inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), torch.relu(inner + block.downsample(x)))
    assert len(BasicBlock(4, 4, stride=1).downsample) == 0


def test_wide_block_activates_before_it_convolves():
    x = torch.randn(2, 4, 6, 6)
    same = WideBlock(4, 4, stride=1, dropout=0.0).eval()
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(x), x)  # the identity is not touched
    changed = WideBlock(4, 8, stride=2, dropout=0.0).eval()
    nn.init.zeros_(changed.conv2.weight)
    assert changed.shortcut is not None
    assert torch.equal(changed(x), changed.shortcut(torch.relu(changed.bn1(x))))


def test_bottleneck_is_the_paper_s():
    block, x = Bottleneck(8, 2, stride=1).eval(), torch.randn(2, 8, 6, 6)
    inner = torch.relu(block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x))))))
    assert torch.equal(block(x), torch.relu(x + block.bn3(block.conv3(inner))))
    assert Bottleneck(8, 4, stride=2)(x).shape == (2, 16, 3, 3)


def test_inverted_residuals_end_without_activation():
    block, x = InvertedResidual(4, 4, stride=1, expansion=6).eval(), torch.randn(2, 4, 6, 6)
    nn.init.zeros_(block.conv[-2].weight)
    assert torch.equal(block(x), x)
    changed = InvertedResidual(4, 8, stride=2, expansion=6)(x)
    assert changed.shape == (2, 8, 3, 3)
    assert (changed < 0).any()


def test_shuffle_deals_channels_as_two_loops_do():
    x = torch.randn(2, 12, 3, 2)
    expected = torch.stack([x[:, group * 4 + place] for place in range(4) for group in range(3)], 1)
    assert torch.equal(shuffle(x, 3), expected)


def test_shuffle_blocks_keep_what_they_do_not_change():
    x = torch.randn(2, 24, 6, 6).relu()
    first = ShuffleBlockV1(48, 48, stride=1, groups=3).eval()
    nn.init.zeros_(first.conv3.weight)
    assert torch.equal(first(torch.cat([x, x], 1)), torch.cat([x, x], 1))
    down = ShuffleBlockV1(24, 12, stride=2, groups=3).eval()
    nn.init.zeros_(down.conv3.weight)
    assert torch.equal(down(x)[:, 12:], nn.functional.avg_pool2d(x, 3, 2, 1))
    second = ShuffleBlockV2(24).eval()
    assert torch.equal(second(x)[:, ::2], x[:, :12])


def test_wrn_dropout():
    model = models.wrn_16_1(num_classes=3, input_shape=(1, 8, 8), dropout=0.5)
    inputs = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(inputs), model(inputs))


def test_features_can_be_tapped_by_name():
    """Hooks see what a layer gave: nothing is overwritten in place later."""
    model = build("resnet8", 7).eval()
    taps = {}
    for name in ("layer1", "layer2", "layer3", "bn1"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: taps.update({name: out}))
    model(torch.randn(2, 3, 32, 32))
    assert [tuple(taps[f"layer{i}"].shape[1:]) for i in (1, 2, 3)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert (taps["bn1"] < 0).any()
