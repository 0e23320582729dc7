"""Rows of tokens in a task: a mean over the positions that count, however rows and micro-batches are cut."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preceptor.errors import InputError
from preceptor.losses import dist, kd, ptloss, ttm, wttm
from preceptor.losses.features import SP, FeatureLoss
from preceptor.losses.features.base import Features, Setting, only
from preceptor.losses.features.sp import sp
from preceptor.losses.targets import DenseTargets
from preceptor.losses.tokens import shifted
from preceptor.tasks import DistillTask, TeachTask
from preceptor.teaching import cross_entropy

V, B, L = 11, 8, 6
LENGTHS = torch.tensor([6, 2, 5, 3, 6, 1, 4, 6])


class Net(nn.Module):
    """Logits of each position from the token there and its place."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tokens, self.places, self.head = nn.Embedding(V, 7), nn.Embedding(L, 7), nn.Linear(7, V)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.head((self.tokens(input_ids) + self.places(position_ids)).tanh())


def batch(rows: slice = slice(None)) -> dict:
    ids = torch.randint(V, (B, L), generator=torch.Generator().manual_seed(3))
    labels = shifted(ids.masked_fill(torch.arange(L) >= LENGTHS[:, None], -100))
    inputs = {"input_ids": ids[rows], "position_ids": torch.arange(L).expand(B, L)[rows]}
    return {"input": inputs, "label": labels[rows], "mask": labels[rows] != -100, "index": torch.arange(B)[rows]}


def by_hand(student: nn.Module, teacher: nn.Module, loss) -> Tensor:
    """The mean over tokens, one by one."""
    whole = batch()
    said, taught = student(**whole["input"]), teacher(**whole["input"]).detach()
    values = [
        loss(said[row, place], taught[row, place], whole["label"][row, place])
        for row in range(B)
        for place in range(L)
        if whole["label"][row, place] >= 0
    ]
    assert len(values) == int((LENGTHS - 1).sum())
    return torch.stack(values).mean()


def gradient(task, parts) -> tuple[float, Tensor]:
    """Of a step in micro-batches of these rows."""
    count = batch()["mask"].sum()
    outputs = [task(batch(rows), count) for rows in parts]
    total = torch.stack([output["loss"] for output in outputs]).sum()
    task.model.zero_grad()
    total.backward()
    return total.item(), torch.cat([p.grad.flatten() for p in task.model.parameters()])


WAYS = [[slice(None)], [slice(0, 4), slice(4, 8)], [slice(n, n + 1) for n in range(B)]]


@pytest.mark.parametrize("parts", WAYS, ids=["1x8", "2x4", "8x1"])
def test_a_teacher_is_taught_by_the_mean_over_tokens(parts: list[slice]) -> None:
    net = Net(0)
    loss, found = gradient(TeachTask(net, cross_entropy), parts)
    whole = batch()
    expected = F.cross_entropy(net(**whole["input"]).flatten(0, 1), whole["label"].flatten(), ignore_index=-100)
    net.zero_grad()
    expected.backward()
    wanted = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    assert (found - wanted).norm() <= 1e-6 * wanted.norm()


@pytest.mark.parametrize("parts", WAYS, ids=["1x8", "2x4", "8x1"])
def test_a_student_is_taught_by_the_mean_over_tokens(parts: list[slice]) -> None:
    student, teacher = Net(0), Net(1)
    task = DistillTask(student, teacher, kd, ce_weight=0.3, distill_weight=0.7)

    def value(said: Tensor, taught: Tensor, label: Tensor) -> Tensor:
        softened = F.kl_div((said / 4).log_softmax(-1), (taught / 4).softmax(-1), reduction="sum") * 16
        return 0.3 * F.cross_entropy(said, label) + 0.7 * softened

    expected = by_hand(student, teacher, value)
    loss, found = gradient(task, parts)
    student.zero_grad()
    expected.backward()
    wanted = torch.cat([p.grad.flatten() for p in student.parameters()])
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("loss", [kd, ttm, wttm, lambda s, t, *, mask: ptloss(s, t, coefficients=[0.3], mask=mask)])
def test_a_teacher_may_answer_for_the_positions_that_count_alone(loss) -> None:
    student, teacher = Net(0), Net(1)

    def counted(given: dict) -> Tensor:
        return teacher(**given["input"])[given["mask"]]

    def recorded(given: dict) -> DenseTargets:
        return DenseTargets(counted(given).log_softmax(-1))

    teachers = [teacher, counted] + ([recorded] if loss in (kd, ttm, wttm) else [])
    found = [DistillTask(student, each, loss)(batch())["loss"].item() for each in teachers]
    assert found == pytest.approx([found[0]] * len(found), rel=1e-5)


def test_a_model_that_is_its_own_teacher_learns_nothing_from_it() -> None:
    net = Net(0)
    task = DistillTask(net, net, kd, ce_weight=0.0, distill_weight=1.0)
    _, found = gradient(task, WAYS[0])
    assert found.abs().max() < 1e-6
    # A position earlier or later it would.
    late = DistillTask(net, lambda given: net(**given["input"]).roll(1, 1), kd, ce_weight=0.0, distill_weight=1.0)
    assert gradient(late, WAYS[0])[1].abs().max() > 1e-3


def test_what_padding_says_is_nobody_s_business() -> None:
    net = Net(0)
    loss, found = gradient(TeachTask(net, cross_entropy), WAYS[0])

    class Broken(Net):
        def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
            said = super().forward(input_ids, position_ids)
            return torch.where((batch()["label"] >= 0)[..., None], said, torch.nan)

    again, same = gradient(TeachTask(Broken(0), cross_entropy), WAYS[0])
    assert again == loss
    assert torch.equal(found, same)


def test_an_answer_to_other_positions_is_refused() -> None:
    with pytest.raises(InputError, match=r"the teacher answers with shape \(8, 11\) to rows of tokens \(8, 6\), 25 of"):
        DistillTask(Net(0), lambda given: torch.zeros(B, V), kd)(batch())


def test_features_are_of_the_positions_that_count() -> None:
    """A loss that looks into the models sees a row for each label, and padding is nobody's sample."""
    seen: dict[str, Tensor] = {}

    class Gap(FeatureLoss):
        default_taps = ("tokens",)

        def build(self, student: Features, teacher: Features, setting: Setting) -> None:
            seen["built"] = torch.cat([only(student), only(teacher)], -1)

        def forward(self, one, other, *, student_features, teacher_features) -> Tensor:
            return (only(student_features) - only(teacher_features)).square().sum(-1)

    student, teacher, whole = Net(0), Net(1), batch()
    task = DistillTask(student, teacher, Gap(), ce_weight=0.0, distill_weight=1.0, example=batch(slice(0, 2)))
    gaps = (student.tokens.weight - teacher.tokens.weight).square().sum(-1)
    expected = gaps[whole["input"]["input_ids"][whole["mask"]]].mean()
    torch.testing.assert_close(task(whole)["loss"], expected)
    assert seen["built"].shape == (int((LENGTHS[:2] - 1).sum()), 14)


def test_a_published_loss_of_features_weighs_a_token_as_a_sample() -> None:
    """Not a row of 6 tokens, nor, as 4 or 256 in a row would be, an image."""
    student, teacher, whole = Net(0), Net(1), batch()
    whole = {**whole, "input": {name: each[:, :4] for name, each in whole["input"].items()}}
    whole |= {"label": whole["label"][:, :4], "mask": whole["mask"][:, :4]}
    task = DistillTask(student, teacher, SP(student="tokens"), ce_weight=0.0, distill_weight=1.0, example=whole)
    ids = whole["input"]["input_ids"][whole["mask"]]
    expected = sp(student.tokens.weight[ids], teacher.tokens.weight[ids])
    torch.testing.assert_close(task(whole)["loss"], expected)


def test_a_tap_that_is_not_of_each_position_is_refused() -> None:
    class Pooled(Net):
        def __init__(self, seed: int) -> None:
            super().__init__(seed)
            self.pool = nn.Identity()

        def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
            found = self.tokens(input_ids)
            return self.head((found + self.pool(found.mean(1))[:, None]).tanh())

    with pytest.raises(InputError, match=r"the tap 'pool' of the student has shape \(8, 7\), which is not of each"):
        DistillTask(Pooled(0), Pooled(1), SP(student="pool"), example=batch())


@pytest.mark.parametrize("loss", [kd, partial(wttm, temperature=1.0), SP(student="tokens"), dist])
def test_a_micro_batch_in_which_nothing_counts_adds_nothing(loss) -> None:
    """As the last of a step may be, or another process's: rows of no token that follows."""
    whole = batch(slice(0, 2))
    none = {**whole, "label": torch.full_like(whole["label"], -100), "mask": torch.zeros_like(whole["mask"])}
    student = Net(0)
    task = DistillTask(student, Net(1), loss, ce_weight=1.0, distill_weight=1.0, example=whole)
    found = task(none, torch.tensor(7))["loss"]
    found.backward()
    assert found.item() == 0.0
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in student.parameters())
