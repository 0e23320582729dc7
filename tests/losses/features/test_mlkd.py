"""MLKD: the released code's terms one by one, the strong view by torchvision, runs that resume, what is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

import preceptor
from losses.features.relations import SETTING, normal
from losses.oracles import value_and_grad
from preceptor import models
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.normalize import Normalize
from preceptor.errors import InputError
from preceptor.losses.features import MLKD
from preceptor.notices import notes_kept
from preceptor.recipe.published import published_weights
from preceptor.tasks import DistillTask
from preceptor.training import distill
from preceptor.training.engine.compiling import why_not_captured
from training.toys import distill_recipe, metrics, snapshot, stopped_at

BATCH, CLASSES = 6, 4
STUDENT, TEACHER = 2 * normal(2, BATCH, CLASSES, seed=2), 2 * normal(2, BATCH, CLASSES, seed=3)  # weak, strong
LABELS = torch.tensor([0, 1, 2, 3, 0, 2])
NORMALIZE = Normalize(255.0, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def at(loss: MLKD, student: Tensor = STUDENT, teacher: Tensor = TEACHER, labels: Tensor = LABELS) -> Tensor:
    return loss(student[0], teacher[0], labels=labels, student_views=student[1:], teacher_views=teacher[1:])


# -- the loss ----------------------------------------------------------------------------------------------------------


def soft(row: Any, temperature: float) -> list[float]:
    powers = [math.exp(float(value) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def instance(student: Any, teacher: Any, temperature: float) -> float:
    """T² KL, the mean over the batch."""
    total = 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        q, p = soft(ours, temperature), soft(theirs, temperature)
        total += sum(p[c] * (math.log(p[c]) - math.log(q[c])) for c in range(len(p)))
    return temperature**2 * total / len(student)


def grams(student: Any, teacher: Any, temperature: float) -> tuple[float, float]:
    """Squared distances of P Pᵀ over B, and of Pᵀ P over K, from those of Q."""
    q, p = ([soft(row, temperature) for row in x] for x in (student, teacher))
    rows, classes = range(len(p)), range(len(p[0]))
    along_batch, along_classes = 0.0, 0.0
    for i in rows:
        for j in rows:
            along_batch += (sum(p[i][c] * p[j][c] for c in classes) - sum(q[i][c] * q[j][c] for c in classes)) ** 2
    for c in classes:
        for d in classes:
            along_classes += (sum(p[i][c] * p[i][d] for i in rows) - sum(q[i][c] * q[i][d] for i in rows)) ** 2
    return along_batch / len(p), along_classes / len(p[0])


def ce(logits: Any, labels: Any) -> float:
    return -sum(math.log(soft(row, 1.0)[label]) for row, label in zip(logits, labels, strict=True)) / len(labels)


def released(student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    """The released code's sum: masks of weak views only scale, of strong ones there is KD alone, at 2 and 6 of weak."""
    weak, strong, weak_t, strong_t = (x.tolist() for x in (student[0], student[1], teacher[0], teacher[1]))
    sure = [soft(row, 1.0) for row in weak_t]
    confidence = [max(row) for row in sure]
    of_classes = [sum(row[c] for row in sure) for c in range(CLASSES)]
    no_surer = np.mean([value <= np.percentile(confidence, 50) for value in confidence])
    no_more = np.mean([value <= np.percentile(of_classes, 50) for value in of_classes])
    total = 0.1 * (ce(weak, labels) + ce(strong, labels))
    for temperature in (4, 2, 3, 5, 6):
        along_batch, along_classes = grams(weak, weak_t, temperature)
        total += 0.9 * no_surer * (instance(weak, weak_t, temperature) + along_batch) + 0.9 * no_more * along_classes
        seen = (weak, weak_t) if temperature in (2, 6) else (strong, strong_t)
        total += 0.9 * instance(*seen, temperature)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_with_the_recipe_s_cross_entropy_it_is_the_released_code_s(seed: int) -> None:
    student, teacher = (3 * normal(2, BATCH, CLASSES, seed=2 * seed + n) for n in range(2))
    expected = released(student, teacher, LABELS)
    ours = at(MLKD(), student, teacher) + published_weights("MLKD")["ce_weight"] * ce(student[0].tolist(), LABELS)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=ours.dtype))
    assert published_weights("MLKD") == {"ce_weight": 0.1, "distill_weight": 1.0}


def test_its_gradient_flows_to_both_views_and_not_to_the_teacher() -> None:
    _, gradient = value_and_grad(lambda student: at(MLKD(), student), STUDENT)
    numeric = torch.zeros_like(gradient)
    for place in np.ndindex(*STUDENT.shape):
        step = torch.zeros_like(STUDENT)
        step[place] = 1e-6
        numeric[place] = (at(MLKD(), STUDENT + step) - at(MLKD(), STUDENT - step)) / 2e-6
    torch.testing.assert_close(gradient, numeric, rtol=1e-4, atol=1e-6)
    teacher = TEACHER.clone().requires_grad_()
    assert not at(MLKD(), teacher=teacher).requires_grad


def test_options_that_cannot_be() -> None:
    for options, sentence in (
        ({"kd_weight": -1.0}, "kd_weight of MLKD is -1.0; give a weight"),
        ({"cutout": 2.0}, "cutout of MLKD is 2.0; give a share"),
        ({"strong_temperatures": [0.0]}, "temperature is 0"),
        ({"magnitude": 31}, "magnitude 31; give a whole number from 0 to 30"),
        ({"mean": 0.5}, "'MLKD' has mean 0.5 and std None; give both"),
    ):
        with pytest.raises(InputError, match=sentence):
            MLKD(**options)


# -- the strong view ---------------------------------------------------------------------------------------------------


def pictures(count: int = 10, channels: int = 3, side: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(0)).byte()


def test_a_strong_view_is_torchvision_s_of_the_pixels() -> None:
    loss, images = MLKD(cutout=0.0, mean=NORMALIZE.mean, std=NORMALIZE.std), pictures()
    torch.manual_seed(4)
    strong = loss.views(NORMALIZE(images))
    after = torch.rand(2)
    torch.manual_seed(4)
    seeds, expected = torch.randint(2**24, (10, 2)).tolist(), []
    torch.rand(10, 3)  # squares
    assert torch.equal(torch.rand(2), after)
    for image, (high, low) in zip(images, seeds, strict=True):
        torch.manual_seed(high * 2**24 + low)
        expected.append(v2.RandAugment(2, 10)(image))
    assert torch.equal(strong, NORMALIZE(torch.stack(expected)))


def test_a_square_of_it_is_the_mean_pixel() -> None:
    """Of images of one colour, which nothing but the square makes another."""
    loss = MLKD(num_ops=1, magnitude=0, cutout=0.5, mean=0.0, std=1.0)
    loss._change = lambda image: image
    images = torch.ones(400, 1, 12, 20)
    boxes = loss.views(images) == 0
    sides = []
    for [box] in boxes:
        rows, columns = box.any(1).nonzero().flatten(), box.any(0).nonzero().flatten()
        if len(rows):
            assert box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            sides.append((len(rows), len(columns)))
            within = rows[0] > 0 and columns[0] > 0 and rows[-1] < 11 and columns[-1] < 19
            assert not within or abs(len(rows) - len(columns)) <= 1
    assert max(max(side) for side in sides) == 10
    assert {1, 2, 4, 6, 8} <= {side[1] for side in sides}
    assert boxes.any(0)[0].all()  # anywhere


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_views_keep_dtype_and_layout(layout: torch.memory_format) -> None:
    loss = MLKD(mean=0.5, std=0.25)
    inputs = Normalize(255.0, (0.5,), (0.25,))(pictures(4)).contiguous(memory_format=layout)
    torch.manual_seed(0)
    views = loss.views(inputs)
    assert (views.dtype, views.stride()) == (inputs.dtype, inputs.stride())
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss.views(inputs), views)


def test_inputs_of_which_the_pixels_are_not_known_are_refused_and_the_remedy_helps() -> None:
    with pytest.raises(InputError, match="is not known; give it the options mean and std"):
        MLKD().build({}, {}, SETTING)
    with pytest.raises(InputError, match="is not known; give it the options mean and std"):
        MLKD().views(torch.zeros(2, 3, 8, 8))
    MLKD(mean=0.5, std=0.25).build({}, {}, SETTING)
    with pytest.raises(InputError, match=r"'MLKD' changes images .* of 1 or 3 channels"):
        MLKD(mean=0.5, std=0.25).views(torch.zeros(2, 5))
    with pytest.raises(InputError, match="they are -510 to 638; give it the mean and std"):
        MLKD(mean=0.0, std=1.0).views(torch.tensor([-2.0, 2.5]).expand(2, 3, 4, 2))


# -- in training -------------------------------------------------------------------------------------------------------


def data() -> Data:
    images = pictures(60, side=8)
    arrays = ArrayDataset(images, torch.arange(60) % 3, transform=NORMALIZE)
    return Data(arrays, None, ("a", "b", "c"), NORMALIZE.as_json())


def network(name: str = "resnet8", **shape: Any) -> nn.Module:
    torch.manual_seed(1)
    return getattr(models, name)(**({"num_classes": 3, "input_shape": (3, 8, 8)} | shape))


def student(folder: Path | None, **changes: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "model": "resnet8",
        "split": {"train": 40, "heldout": 10, "test": 10},
        "augmentation": "crop_flip",
        "loss": "MLKD",
        "training": {"epochs": 2, "batch_size": 16, "device": "cpu", "checkpoint_every": 1},
    }
    return preceptor.distill(recipe | changes, folder, teacher=network("resnet14"), data=data())


def test_a_run_knows_the_pixels_of_its_data_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    student(tmp_path / "whole")
    for step in (1, 4):
        with stopped_at(step):
            student(tmp_path / "stopped")
    student(tmp_path / "stopped")
    assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "whole")
    assert "ce_weight: 0.1\ndistill_weight: 1.0" in (tmp_path / "whole" / "recipe.yaml").read_text()


def test_the_strong_view_is_another_in_each_step_and_reaches_both_models() -> None:
    shown: list[Tensor] = []
    student_net, teacher = network(), network("resnet14")
    teacher.register_forward_hook(lambda _, args, __: shown.append(args[0]))
    batch = {"input": NORMALIZE(pictures(6, side=8)), "label": torch.arange(6) % 3}
    loss = MLKD(mean=NORMALIZE.mean, std=NORMALIZE.std)
    task = DistillTask(student_net, teacher, loss, example=batch, num_classes=3)
    shown.clear()
    seen = []
    handle = student_net.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    for _ in range(2):
        assert task(batch)["loss"].isfinite()
    handle.remove()
    assert [each.shape for each in shown] == [(12, 3, 8, 8)] * 2
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(seen, shown, strict=True))
    assert torch.equal(shown[0][:6], shown[1][:6])
    assert not torch.equal(shown[0][6:], shown[1][6:])


def test_of_digits_the_options_say_what_a_pixel_is(tmp_path: Path) -> None:
    few = ["split.train=64", "split.heldout=10", "split.test=10", "model=resnet8", "loss.name=MLKD"]
    teacher = network("resnet14", num_classes=10, input_shape=(1, 8, 8))
    with pytest.raises(InputError, match="give it the options mean and std of inputs that are"):
        distill(distill_recipe(*few), None, teacher=teacher)
    distill(distill_recipe(*few, "loss.mean=0", "loss.std=1"), tmp_path / "run", teacher=teacher)
    assert metrics(tmp_path / "run")[-1]["train"]["distill"] > 0


def test_neither_compiled_nor_captured_and_that_is_said() -> None:
    training = {"epochs": 1, "batch_size": 16, "device": "cpu", "compile": True}
    with pytest.raises(InputError, match="compile is true, but 'MLKD' makes views of the inputs; set it to 'auto' or"):
        student(None, training=training)
    batch = {"input": NORMALIZE(pictures(6, side=8)), "label": torch.arange(6) % 3}
    loss = MLKD(mean=NORMALIZE.mean, std=NORMALIZE.std)
    task = DistillTask(network(), network("resnet14"), loss, example=batch, num_classes=3)
    assert why_not_captured(task, micro_batches=1, processes=1, scaled=False) == "'MLKD' makes views of the inputs"


def test_a_record_has_no_strong_views(tmp_path: Path) -> None:
    recipe = {"split": {"train": 40, "heldout": 10, "test": 10}}
    preceptor.record(network("resnet14"), tmp_path / "record", data=data(), recipe=recipe)
    with notes_kept(), pytest.raises(InputError, match=r"'MLKD' needs .* one live model"):
        preceptor.distill(
            {**recipe, "model": "resnet8", "loss": "MLKD", "training": {"epochs": 1, "device": "cpu"}},
            teacher=tmp_path / "record",
            data=data(),
        )
