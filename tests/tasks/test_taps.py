"""Taps: whose module, called how often, with what in it, and what is refused in one sentence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from preceptor import models
from preceptor.errors import InputError
from preceptor.losses import kd
from preceptor.losses.features import AB, AT, CRD, OFD, PKT, RKD, SP, FeatureLoss, FitNet, ReviewKD
from preceptor.schema import Temperature
from preceptor.tasks import DistillTask, Transformed, of_loss
from preceptor.tasks.looking import Look
from preceptor.tasks.stack import Stack
from preceptor.tasks.taps import Taps
from preceptor.tasks.teacher import as_teacher

QUANTIZED = pytest.mark.filterwarnings("ignore:.*quantiz")
SHAPE: dict[str, Any] = {"num_classes": 3, "input_shape": (3, 8, 8)}


def batch(size: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(size, 3, 8, 8, generator=generator)
    return {"input": inputs, "label": torch.arange(size) % 3, "index": torch.arange(size)}


def net(width: int = 4) -> nn.Sequential:
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(width * 16, 3),
    )  # fmt: skip


def task(student: nn.Module, teacher: Any, loss: Any, **more: Any) -> DistillTask:
    return DistillTask(student, teacher, loss, example=batch(2), num_samples=6, num_classes=3, **more)


def hint(student: str = "0", teacher: str | None = None) -> FitNet:
    return FitNet(student=student, teacher=teacher)


def refused(student: nn.Module, teacher: Any, loss: Any, said: str, **more: Any) -> None:
    with pytest.raises(InputError, match=said):
        task(student, teacher, loss, **more)(batch())


# -- which module, and how often ---------------------------------------------------------------------------------------


def test_a_module_that_is_called_several_times() -> None:
    resnet18 = pytest.importorskip("torchvision").models.resnet18
    refused(
        resnet18(num_classes=3), net(), hint("layer1.0.relu", "1"), "'layer1.0.relu' of the student is called 2 times"
    )
    refused(
        net(), resnet18(num_classes=3), hint("1", "layer1.0.relu"), "'layer1.0.relu' of the teacher is called 2 times"
    )


class Sometimes(nn.Module):
    """Calls its branch in training alone."""

    def __init__(self, *, branch_when_training: bool) -> None:
        super().__init__()
        self.body, self.branch, self.when = net(), nn.Identity(), branch_when_training

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.branch(x) if self.training == self.when else x)


def test_a_module_that_is_not_called() -> None:
    refused(
        Sometimes(branch_when_training=True), net(), hint("branch", "0"), "'branch' of the student is not called in a"
    )
    student = Sometimes(branch_when_training=False)
    made = task(student, net(), hint("branch", "0"))
    with pytest.raises(InputError, match=r"'branch' of the student was not called .*\(preceptor taps lists them\)"):
        made(batch())
    assert not student.branch._forward_hooks  # also where it failed


def test_a_name_that_there_is_not() -> None:
    refused(net(), net(), hint("00"), "the student has no module '00' to tap; did you mean '0'")
    refused(models.resnet8(**SHAPE), net(), hint("layer9.*", "0"), r"no module 'layer9\.\*' to tap")


def test_nothing_is_left_on_a_model_whose_pass_fails() -> None:
    model = net()
    with pytest.raises(RuntimeError), Taps(model, ["0"], "student"):
        model(torch.zeros(2, 7, 8, 8))
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


# -- what is in them ---------------------------------------------------------------------------------------------------


class Turned(nn.Module):
    """Its features have the batch as second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.fc = nn.Identity(), nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.turn(x.flatten(1).t()).t())


def test_features_whose_first_axis_is_not_the_batch() -> None:
    refused(
        Turned(), net(), SP(student="turn", teacher="0"), r"'turn' of the student has shape \(192, 2\) for 2 samples"
    )
    refused(
        net(), Turned(), SP(student="0", teacher="turn"), r"'turn' of the teacher has shape \(192, 2\) for 2 samples"
    )


def test_a_frozen_layer() -> None:
    student = net()
    student[0].requires_grad_(False)
    refused(student, net(), hint("0"), "'0' of the student carries no gradient, .* behind its frozen layers")
    task(student, net(), hint("2"))(batch())["loss"].backward()
    with torch.no_grad():
        assert task(student, net(), hint("0"))(batch())["loss"].isfinite()  # an evaluation learns nothing anyway


class Checkpointed(nn.Module):
    """Recomputes its body in the backward pass."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.body, self.reentrant = net(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        given = x if not self.reentrant else x.requires_grad_()
        middle: Any = checkpoint(self.body[:4], given, use_reentrant=self.reentrant)
        return self.body[4:](middle)


def test_activation_checkpointing() -> None:
    refused(Checkpointed(reentrant=True), net(), hint("body.2", "2"), "use checkpointing with use_reentrant=False")
    grads = []
    for student in (Checkpointed(reentrant=False), nn.ModuleDict({"body": net()})):
        if isinstance(student, nn.ModuleDict):
            student.forward = lambda x, body=student["body"]: body(x)  # type: ignore[method-assign]
        made = task(student, net(5), hint("body.2", "2"))
        made(batch())["loss"].backward()
        grads.append([parameter.grad for parameter in student.parameters()])
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("tap", ["1", "2:input"])
def test_what_follows_in_place_does_not_change_it(tap: str) -> None:
    def model(inplace: bool) -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(144, 3)
        )

    values, gradients = [], []
    for inplace in (True, False):
        student = model(inplace)
        output = task(student, model(inplace), SP(student=tap))(batch())
        output["loss"].backward()
        with torch.no_grad(), Taps(student, [tap], "student") as features:
            student(batch()["input"])
        assert features[tap].min() < 0  # before the ReLU
        values.append(output["loss"].detach())
        gradients.append([each.grad for each in student.parameters()])
    torch.testing.assert_close(*values, rtol=0, atol=0)
    torch.testing.assert_close(*gradients)


# -- compiled, quantized, in bfloat16 ----------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["student", "teacher"])
@pytest.mark.parametrize("way", ["compile", "method", "inner"])
def test_a_compiled_model(way: str, whose: str) -> None:
    model: Any = net()
    if way == "compile":
        model = torch.compile(model)
    elif way == "method":
        model.compile()
    else:
        model[2].compile()
    pair = (model, net()) if whose == "student" else (net(), model)
    refused(
        *pair, hint("0"), f"the {whose} cannot be looked into, as .* compiled.* hand over the model as it was before"
    )
    assert task(*pair, kd).teacher is not None  # without taps there is nothing to refuse


@QUANTIZED
def test_a_dynamically_quantized_teacher_gives_floats() -> None:
    teacher = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
    made = task(net(), teacher, FitNet(student="0"))
    made(batch())["loss"].backward()
    made = task(net(), teacher, SP(student="5", teacher="5"))
    assert made(batch())["loss"].isfinite()


@QUANTIZED
def test_a_statically_quantized_teacher() -> None:
    from torch.ao import quantization

    engine = next((each for each in torch.backends.quantized.supported_engines if each != "none"), None)
    if engine is None:
        pytest.skip("torch has no engine for quantized layers here")
    torch.backends.quantized.engine = engine
    teacher = nn.Sequential(quantization.QuantStub(), *net(), quantization.DeQuantStub()).eval()
    teacher.qconfig = quantization.get_default_qconfig(engine)  # type: ignore[assignment]
    quantization.prepare(teacher, inplace=True)
    teacher(batch()["input"])
    quantization.convert(teacher, inplace=True)
    refused(
        net(), teacher, SP(student="0", teacher="1"), "'1' of the teacher is quantized, .* behind its dequantization"
    )
    assert task(net(), teacher, SP(student="5", teacher="7"))(batch())["loss"].isfinite()


@pytest.mark.parametrize("loss", [lambda: hint("2"), lambda: SP(student="2"), lambda: AT(student="2")])
def test_autocast(loss: Callable[[], FeatureLoss]) -> None:
    student = net()
    made = task(student, net(5), loss(), ce_weight=0.0)
    exact = made(batch())["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = made(batch())["loss"]
    rounded.backward()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=1e-3)
    assert student[0].weight.grad.isfinite().all()  # type: ignore[union-attr]


# -- batches, teachers, sums -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [SP, RKD, PKT])
def test_a_batch_of_one_says_nothing_of_relations(loss: Callable[..., FeatureLoss]) -> None:
    student = net()
    made = task(student, net(5), loss(student="2"), ce_weight=0.0)
    value = made(batch(1))["loss"]
    value.backward()
    assert value == 0
    assert all(not each.grad.any() for each in student.parameters() if each.grad is not None)


def test_rows_that_do_not_count_are_not_seen() -> None:
    made = task(net(), net(5), SP(student="2"), ce_weight=0.0)
    masked = batch() | {"mask": torch.tensor([True] * 4 + [False] * 2)}
    masked["input"][4:] = torch.nan
    few = {name: each[:4] for name, each in batch().items()}
    torch.testing.assert_close(made(masked)["loss"], made(few)["loss"])


def test_a_transformed_teacher_is_looked_into_and_a_mixture_is_not() -> None:
    teacher = net(5)
    plain, transformed = (
        task(net(), each, hint("2"), distill_weight=1.0)(batch())["distill"]
        for each in (teacher, Transformed(as_teacher(teacher), Temperature(temperature=4.0)))
    )
    torch.testing.assert_close(plain, transformed)
    mixture = as_teacher([net(5), net(6)])
    refused(net(), mixture, hint("2"), "needs features of the teacher, which only one live model can give")
    refused(net(), lambda batch: torch.zeros(len(batch["label"]), 3), hint("2"), "only one live model can give")


def test_a_stack_has_no_single_model() -> None:
    pair = Stack([net(), net()])
    refused(pair, net(), [([0, 1], of_loss(hint("2")))], "'FitNet' looks into a model, which a stack has no")


def test_without_an_example() -> None:
    with pytest.raises(InputError, match="give the task example=batch, a batch of two samples or so"):
        DistillTask(net(), net(), hint("2"))


def test_a_memory_of_another_data_set() -> None:
    made = DistillTask(net(), net(), CRD(negatives=2), example=batch(2), num_samples=6, num_classes=3)
    other = DistillTask(net(), net(), CRD(negatives=2), example=batch(2), num_samples=9, num_classes=3)
    assert made.state is not None
    assert other.state is not None
    with pytest.raises(InputError, match="6 samples"):
        other.state.load_state_dict(made.state.state_dict())
    with pytest.raises(InputError, match="index"):
        made(batch() | {"index": torch.arange(6) + 1})


# -- losses of somebody else's with parts of their own -----------------------------------------------------------------


class Scaled(nn.Module):
    """It looks nowhere, and makes a part all the same."""

    def build(self, student: Any, teacher: Any, setting: Any) -> None:
        assert (dict(student), dict(teacher)) == ({}, {})
        self.scale = nn.Parameter(torch.tensor(float(setting.num_classes)))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return self.scale * (student_logits - teacher_logits).square().mean(-1)


class Hinted(nn.Module):
    """It looks into both models, and is no `FeatureLoss`."""

    student_taps, teacher_taps = ("2",), ("2",)

    def build(self, student: Any, teacher: Any, setting: Any) -> None:
        self.regressor = nn.Conv2d(student["2"].shape[1], teacher["2"].shape[1], 1)

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, *, student_features: Any, teacher_features: Any
    ) -> Tensor:
        gap = self.regressor(student_features["2"]) - teacher_features["2"]
        return gap.square().flatten(1).mean(1)


class Broken(Hinted):
    """Its part is of no size."""

    def build(self, student: Any, teacher: Any, setting: Any) -> None:
        self.regressor = nn.Conv2d(1.5, 3, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Scaled, Hinted])
def test_a_module_of_ones_own_makes_its_parts(kind: type[nn.Module]) -> None:
    loss = kind()
    output = task(net(4), net(6), loss)(batch())
    output["loss"].backward()
    assert output["distill"] > 0
    assert all(part.grad is not None and part.grad.any() for part in loss.parameters())


def test_parts_that_cannot_be_made_are_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="the loss 'Broken' cannot make its parts for these models: "):
        task(net(4), net(6), Broken())


@pytest.mark.parametrize(
    ("word", "lacks"),
    [("penultimate", "no classifier;"), ("preactivations", "no activation at the end of '0' that is a module")],
)
def test_a_word_that_stands_for_nothing_says_what_is_missing(word: str, lacks: str) -> None:
    convolutions = [nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(2)]
    maps = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model: nn.Module = maps if word == "penultimate" else nn.Sequential(*maps, nn.Linear(3, 3))
    inputs = torch.zeros(2, 3, 8, 8)
    look = Look(model, lambda: model(inputs).unsqueeze(0)[0], "student")
    with pytest.raises(InputError, match=f"'{word}' stands for nothing in the student, as it has {lacks}"):
        look.resolve([word])


@pytest.mark.parametrize("kind", [AB, OFD, ReviewKD])
def test_preactivations_of_torchvision_name_taps_that_work(kind: type[FeatureLoss]) -> None:
    """One ReLU of a block is called twice, and no module gives the sum that the second call is given."""
    vision = pytest.importorskip("torchvision").models.resnet
    torch.manual_seed(0)
    student, teacher = (vision.ResNet(vision.BasicBlock, [1, 1, 1, 1], num_classes=3, width_per_group=64) for _ in "st")
    images = torch.randn(2, 3, 32, 32)
    shown = {"input": images, "label": torch.arange(2)}
    with pytest.raises(
        InputError, match=r"no activation at the end of 'layer1' .* such as the last layers, \["
    ) as said:
        DistillTask(student, teacher, kind(student="preactivations"), example=shown, num_samples=2, num_classes=3)
    taps = str(said.value).partition("[")[2].partition("]")[0].split(", ")
    assert taps == [f"layer{stage}.0.bn2" for stage in (1, 2, 3)]  # the last has one position
    made = DistillTask(student, teacher, kind(student=taps), example=shown, num_samples=2, num_classes=3)
    made.start_epoch(0, 100)
    made(shown)["loss"].backward()
    assert student.layer3[0].bn2.weight.grad.abs().sum() > 0
