"""SFTN against sums by hand over branches that are run by hand; runs whose teacher is a plain one afterwards."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from preceptor import models, teaching
from preceptor.errors import InputError
from preceptor.losses.features.base import Setting
from preceptor.runs.checkpoint import within
from preceptor.runs.load import load
from preceptor.study.teachers import read_candidates
from preceptor.training import distill, teach
from training.toys import distill_recipe, snapshot, state_tensors, stopped_at, teach_recipe, weights

SETTING = Setting(num_samples=4, num_classes=5)
FRIENDLY = ["model=resnet8", "objective={name: SFTN, student: {name: resnet8}}", "training.epochs=1"]


def maps(*widths: int, rows: int = 4) -> dict[str, torch.Tensor]:
    sides = [8 // 2**place for place in range(len(widths))]
    generator = torch.Generator().manual_seed(1)
    return {
        f"layer{n}": torch.randn(rows, width, side, side, generator=generator)
        for n, (width, side) in enumerate(zip(widths, sides, strict=True), 1)
    }


def built(student: Any, features: dict[str, torch.Tensor], **options: Any) -> teaching.SFTN:
    torch.manual_seed(0)
    sftn = teaching.SFTN(student, **options)
    sftn.build(features, {}, SETTING)
    return sftn


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_sum_by_hand(temperature: float) -> None:
    features, labels = maps(24, 40, 48), torch.tensor([0, 4, 2, 2])
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(2))
    sftn = built("resnet8", features, kd_weight=2.0, ce_weight=0.5, temperature=temperature)
    found = sftn.eval()(logits, labels, student_features=features)
    softened = lambda row: [math.exp(v / temperature) for v in row]  # noqa: E731
    for row in range(4):
        expected = -math.log(math.exp(logits[row, labels[row]]) / sum(math.exp(v) for v in logits[row].tolist()))
        for branch, feature in zip(sftn.branches, list(features.values())[:2], strict=True):
            said = branch(feature)[row].tolist()
            expected -= 0.5 / 2 * math.log(math.exp(said[labels[row]]) / sum(map(math.exp, said)))
            p, q = softened(logits[row].tolist()), softened(said)
            p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
            kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            expected += 2.0 / 2 * temperature**2 * kl
        assert found[row].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("student", ["resnet14", "wrn_16_1"])
def test_a_branch_is_the_rest_of_a_student(student: str) -> None:
    """Where the adapter is taken away, a branch on the student's own maps says what the student says."""
    features = maps(16, 32, 64)
    sftn = built(student, features)
    whole = getattr(models, student)(num_classes=5, input_shape=(3, 32, 32)).eval()
    images = torch.randn(3, 3, 32, 32)
    caught: dict[str, torch.Tensor] = {}
    for number, branch in enumerate(sftn.branches.eval(), 1):
        branch.adapter = nn.Identity()
        later = list(dict(whole.named_children()).items())
        place = [name for name, _ in later].index(f"layer{number}")
        for mine, (_, theirs) in zip(branch.stages, later[place + 1 : -1], strict=True):
            mine.load_state_dict(theirs.state_dict())
        branch.head.load_state_dict(whole.fc.state_dict())
        handle = getattr(whole, f"layer{number}").register_forward_hook(
            lambda _module, _given, gave, number=number: caught.__setitem__(str(number), gave)
        )
        expected = whole(images)
        handle.remove()
        torch.testing.assert_close(branch(caught[str(number)]), expected)


def test_branches_are_not_alike_and_have_other_weights() -> None:
    sftn = built("resnet8", maps(16, 32, 64))
    first, second = sftn.branches
    assert sum(p.numel() for p in first.parameters()) > sum(p.numel() for p in second.parameters())
    assert not torch.equal(first.head.weight, second.head.weight)
    assert len(built("resnet8", maps(16, 32)).branches) == 1
    assert len(built("resnet8", maps(8, 16, 32, 64)).branches) == 2  # of the student's three stages


def test_the_teacher_learns_from_both_sides_of_the_divergence() -> None:
    features = {name: each.requires_grad_() for name, each in maps(16, 32, 64).items()}
    logits = torch.randn(4, 5, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3])
    built("resnet8", features)(logits, labels, student_features=features).sum().backward()
    assert all(bool(features[name].grad.abs().sum() > 0) for name in ("layer1", "layer2"))  # type: ignore[union-attr]
    assert features["layer3"].grad is None
    plain = torch.autograd.grad(teaching.cross_entropy(logits, labels).sum(), logits)[0]
    assert logits.grad is not None
    assert not torch.allclose(logits.grad, plain)
    torch.testing.assert_close(logits.grad.sum(-1), torch.zeros(4), atol=1e-5, rtol=0)  # shifts change nothing


def test_a_mask_is_removal() -> None:
    features, labels = maps(16, 32, 64), torch.tensor([0, 99, 2, 3])
    mask = torch.tensor([True, False, True, True])
    logits = torch.randn(4, 5)
    logits[1] = torch.nan
    logits.requires_grad_()
    sftn = built("resnet8", features)  # in training: batch norm would see the others
    masked = sftn(logits, labels, student_features=features, mask=mask)
    rows = {name: each[mask] for name, each in features.items()}
    torch.testing.assert_close(masked[mask], sftn(logits[mask], labels[mask], student_features=rows))
    masked.sum().backward()
    assert masked[1] == 0
    assert logits.grad is not None
    assert not logits.grad[1].any()
    sftn(logits, labels, student_features=features, mask=~mask & mask).sum().backward()


def test_a_run_resumes_and_leaves_a_plain_teacher(tmp_path: Path) -> None:
    recipe = teach_recipe(*FRIENDLY, "training.checkpoint_every=1")
    teach(recipe, tmp_path / "whole")
    with stopped_at(2):
        teach(recipe, tmp_path / "broken")
    teach(recipe, tmp_path / "broken")
    assert snapshot(tmp_path / "broken") == snapshot(tmp_path / "whole")
    assert set(weights(tmp_path / "whole")) == set(models.resnet8(num_classes=10).state_dict())
    branches = within("objective", state_tensors(tmp_path / "whole"))
    assert "branches.0.adapter.0.weight" in branches
    load(tmp_path / "whole")
    assert read_candidates([tmp_path / "whole"])
    student = distill(distill_recipe("training.epochs=1"), tmp_path / "s", teacher=tmp_path / "whole")
    assert student["heldout"]["last"]["brier"] < 2


def test_branches_are_trained(tmp_path: Path) -> None:
    teach(teach_recipe(*FRIENDLY, "optimizer.lr=1e-6", "optimizer.weight_decay=0"), tmp_path / "still")
    teach(teach_recipe(*FRIENDLY, "optimizer.lr=0.1"), tmp_path / "moved")
    still, moved = (within("objective", state_tensors(tmp_path / name)) for name in ("still", "moved"))
    name = "branches.1.head.weight"
    assert (still[name] - moved[name]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("student", "features", "said"),
    [
        ("mlp", maps(16, 32, 64), "the student 'mlp' of SFTN cannot be taken apart"),
        ("vgg8", maps(16, 32, 64), "the student 'vgg8' of SFTN cannot be taken apart"),
        ("resnet9", maps(16, 32, 64), "did you mean"),
        ("resnet8", maps(16), "needs maps of two stages or more of the teacher, and sees 1"),
        ("resnet8", {"0": torch.zeros(4, 8), "1": torch.zeros(4, 8)}, "and sees 0"),
    ],
)
def test_refused(student: str, features: dict[str, torch.Tensor], said: str) -> None:
    with pytest.raises(InputError, match=said):
        built(student, features)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kd_weight": -1}, "kd_weight of SFTN is -1"),
        ({"ce_weight": -1}, "ce_weight of SFTN is -1"),
        ({"temperature": 0}, "temperature of SFTN is 0"),
    ],
)
def test_refused_options(options: dict[str, float], said: str) -> None:
    with pytest.raises(InputError, match=said):
        teaching.SFTN("resnet8", **options)  # type: ignore[arg-type]


def test_without_branches_it_says_so() -> None:
    with pytest.raises(InputError, match=r"has no branches: call build"):
        teaching.SFTN("resnet8")(torch.zeros(1, 5), torch.tensor([0]), student_features={})


def test_a_model_that_is_more_than_its_modules_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(models.resnet.ResNet):  # type: ignore[name-defined]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    def twice(num_classes: int) -> nn.Module:
        return Twice(8, (16, 16, 32, 64), num_classes=num_classes, input_shape=(3, 32, 32))

    monkeypatch.setattr("training.toys.twice", twice, raising=False)
    with pytest.raises(InputError, match="cannot be taken apart"):
        built("training.toys:twice", maps(16, 32, 64))
