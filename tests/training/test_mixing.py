"""Mixed samples: their loss, partners that are a function of seed, epoch and sample, and what is refused."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import preceptor
from preceptor.data.dataset import ArrayDataset, Indexed
from preceptor.data.mixing import OWN_SHARE, PARTNER, PARTNER_LABEL, cutmix, mixup, partners
from preceptor.errors import InputError
from preceptor.tasks import DistillTask, Lookup, TeachTask
from preceptor.teaching import confidence_penalty, cross_entropy, label_smoothing, mse, tolerant
from preceptor.training.data.batches import Batches, Shard
from preceptor.training.data.streams import Streams
from preceptor.training.scoring.evaluate import refuse_input_not_finite
from training.toys import distill_recipe, snapshot, stopped_at, teach_recipe


def batches(batch_size: int = 8, **options: Any) -> Batches:
    images = torch.arange(40.0)[:, None, None, None].expand(40, 1, 4, 4).clone()
    data = Indexed(ArrayDataset(images, torch.arange(40) % 3))
    return Batches(data, torch.arange(0, 40, 2), batch_size, Streams(1), mixing=mixup(alpha=1.0), **options)


def by_sample(source: Batches, epoch: int, **options: Any) -> dict[int, tuple[float, int, int, float]]:
    """Each sample's mixed value, partner, partner's label and share."""
    found = {}
    for micro_batches in source.epoch(epoch, **options):
        for batch in micro_batches:
            rows = zip(*(batch[n].tolist() for n in ("index", PARTNER, PARTNER_LABEL, OWN_SHARE)), strict=True)
            for (index, partner, label, share), image, seen in zip(rows, batch["input"], batch["mask"], strict=True):
                if seen:
                    found[index] = (float(image[0, 0, 0]), partner, label, share)
    return found


def test_an_input_is_the_mean_of_its_sample_and_its_partner() -> None:
    found = by_sample(batches(), 3)
    assert sorted(found) == list(range(0, 40, 2))
    assert sorted(partner for _, partner, _, _ in found.values()) == list(range(0, 40, 2))
    for index, (value, partner, label, share) in found.items():
        assert value == pytest.approx(share * index + (1 - share) * partner, abs=1e-4)
        assert label == partner % 3


def test_what_happens_to_a_sample_depends_on_seed_and_epoch_alone() -> None:
    one = by_sample(batches(), 3)
    assert by_sample(batches(5), 3) == one
    assert by_sample(batches(num_workers=1), 3) == one
    assert by_sample(batches(), 3, shard=Shard(accumulate=3)) == one
    assert by_sample(batches(), 4) != one


def test_shares_of_mixup_are_beta_distributed() -> None:
    draws = mixup(alpha=0.5).draw(20_000, torch.Generator().manual_seed(0))[:, 0].double()
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(draws.var()) == pytest.approx(1 / (4 * (2 * 0.5 + 1)), abs=0.01)


def test_the_share_of_cutmix_is_that_of_the_pixels() -> None:
    own, partner = torch.zeros(500, 3, 32, 24), torch.ones(500, 3, 32, 24)
    rows = cutmix().draw(500, torch.Generator().manual_seed(0))
    mixed, share = cutmix().mix(own, partner, rows)
    torch.testing.assert_close(share, 1 - mixed.mean((1, 2, 3)))
    for image in mixed[:50, 0]:  # what is cut is a box
        down, across = image.any(1), image.any(0)
        assert torch.equal(image.bool(), down[:, None] & across[None])
    assert 0.4 < float(share.mean()) < 0.75


def test_an_objective_of_mixed_labels() -> None:
    torch.manual_seed(0)
    model, share = nn.Linear(4, 3), torch.tensor([0.25, 1.0])
    batch = {"input": torch.rand(2, 4), "label": torch.tensor([0, 1]), "index": torch.arange(2)}
    more = {PARTNER: torch.tensor([1, 0]), PARTNER_LABEL: torch.tensor([1, 0]), OWN_SHARE: share}
    soft = torch.tensor([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]])  # the mixed label
    expected = F.cross_entropy(model(batch["input"]), soft)
    torch.testing.assert_close(TeachTask(model, cross_entropy)(batch | more)["loss"], expected)
    student = DistillTask(model, nn.Linear(4, 3), preceptor.losses.kd, ce_weight=1.0, distill_weight=0.0)
    torch.testing.assert_close(student(batch | more)["loss"], expected)
    half = DistillTask(
        model, nn.Linear(4, 3), preceptor.losses.kd, ce_weight=1.0, distill_weight=0.0,
        labelled=torch.tensor([True, False]),
    )  # fmt: skip
    log_q = model(batch["input"]).log_softmax(-1)
    torch.testing.assert_close(half(batch | more)["loss"], -0.25 * log_q[0, 0] / 2)


@pytest.mark.parametrize("mixing", ["mixup", "{name: cutmix, alpha: 0.5}"])
def test_a_mixed_run_is_resumed_to_the_bit(mixing: str, tmp_path: Path) -> None:
    recipe = distill_recipe("augmentation=crop_flip", f"mixing={mixing}", "loss=wttm")
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    preceptor.distill(recipe, tmp_path / "whole", teacher=teacher)
    with stopped_at(4):
        preceptor.distill(recipe, tmp_path / "stopped", teacher=teacher)
    preceptor.distill(recipe, tmp_path / "stopped", teacher=teacher)
    assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "whole")


def test_a_stack_mixes_as_each_of_its_models_alone(tmp_path: Path) -> None:
    recipe = teach_recipe("mixing=mixup")
    stack = preceptor.teach(recipe, seeds=[0, 1])
    alone = [preceptor.teach(recipe, seed=seed) for seed in (0, 1)]
    for place, one in enumerate(alone):
        assert stack["heldout"]["last"]["nll"][place] == pytest.approx(one["heldout"]["last"]["nll"], abs=1e-4)


def test_a_teacher_is_asked_for_what_is_mixed() -> None:
    seen: list[Tensor] = []

    def teacher(batch: Any) -> Tensor:
        if OWN_SHARE in batch:
            seen.append(batch["input"])
        return batch["input"].flatten(1)[:, :10]

    preceptor.distill(distill_recipe("mixing=mixup"), teacher=teacher)
    assert len(seen) == 6  # every step


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: preceptor.teach(teach_recipe("mixing=mixup", "objective=SoTeacher")), "'SoTeacher' remembers each"),
        (
            lambda: preceptor.distill(distill_recipe("mixing=mixup", "loss=dkd"), teacher=nn.Linear(64, 10)),
            "the loss 'dkd' asks for the label, and a mixed sample has two",
        ),
        (
            lambda: preceptor.distill(distill_recipe("mixing=mixup"), teacher=Lookup(torch.zeros(1797, 10))),
            "the teacher's answers stand in a table",
        ),
        (
            lambda: preceptor.teach(teach_recipe("mixing={name: mixup, alpha: 0}")),
            "mixup has alpha 0.* positive",
        ),
        (
            lambda: preceptor.teach(
                teach_recipe("mixing=mixup"),
                data=[(torch.randint(255, (64,)), label % 3) for label in range(300)],
                model=lambda num_classes: nn.Sequential(nn.Embedding(255, 1), nn.Flatten(), nn.Linear(64, num_classes)),
            ),
            "mixing needs inputs of floats",
        ),
    ],
)  # fmt: skip
def test_where_nothing_can_be_mixed(call: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        call()


class Masked(torch.utils.data.Dataset[Any]):
    """Samples of which every third does not count, and has no label."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Any:
        counts = index % 3 > 0
        return {"input": torch.full((2,), float(index)), "label": index % 2 if counts else -100, "mask": counts}


def test_a_sample_whose_partner_does_not_count_stays_as_it_is() -> None:
    source = Batches(Indexed(Masked(), num_classes=2), torch.arange(30), 30, Streams(1), mixing=mixup(alpha=1.0))
    [[batch]] = source.epoch(0)
    counts = batch[PARTNER] % 3 > 0
    own = batch["index"].float()
    assert 0 < int(counts.sum()) < 30
    assert torch.equal(batch["input"][~counts, 0], own[~counts])
    assert batch[OWN_SHARE][~counts].eq(1).all()
    assert batch[PARTNER_LABEL].ge(0).all()
    assert (batch["input"][counts, 0] - own[counts]).abs().max() > 1
    loss = TeachTask(nn.Linear(2, 2), cross_entropy)(batch)["loss"]
    assert loss.isfinite()


def test_an_input_that_is_not_finite_may_be_the_partners() -> None:
    batch = {"input": torch.tensor([[0.0], [torch.inf]]), "index": torch.tensor([3, 5]), PARTNER: torch.tensor([3, 41])}
    with pytest.raises(InputError, match="the input of sample 5, or of 41, mixed with it, holds inf"):
        refuse_input_not_finite(batch)


def cross_entropy_to(z: Tensor, soft: Tensor, **options: Any) -> Tensor:
    return F.cross_entropy(z, soft, reduction="none", **options)


def certainty(z: Tensor) -> Tensor:
    return (z.softmax(-1) * z.log_softmax(-1)).sum(-1)


def top_gap(z: Tensor) -> Tensor:
    first, *others = z.softmax(-1).topk(3).values.unbind(-1)
    return first - sum(others) / 2


@pytest.mark.parametrize(
    ("objective", "of_soft"),
    [
        (mse, lambda z, soft: 2.5 * (z.softmax(-1) - soft).square().sum(-1)),
        (partial(mse, on="logit", reduction="mean"), lambda z, soft: (z - soft).square().mean(-1)),
        (partial(label_smoothing, smoothing=0.2), partial(cross_entropy_to, label_smoothing=0.2)),
        (partial(confidence_penalty, weight=0.3), lambda z, soft: cross_entropy_to(z, soft) + 0.3 * certainty(z)),
        (partial(tolerant, eta=0.55, k=3), lambda z, soft: 0.55 * cross_entropy_to(z, soft) + 0.45 * top_gap(z)),
    ],
)
def test_gradients_are_those_of_the_mixed_label(objective: Any, of_soft: Any) -> None:
    torch.manual_seed(0)
    logits, own, other = torch.randn(7, 5, requires_grad=True), torch.arange(7) % 5, torch.arange(7) * 2 % 5
    share = torch.rand(7)
    batch = {"input": torch.zeros(7), "label": own, PARTNER_LABEL: other, OWN_SHARE: share, PARTNER: own}
    loss = TeachTask(Given(logits), objective)(batch)["loss"]
    soft = share[:, None] * F.one_hot(own, 5) + (1 - share[:, None]) * F.one_hot(other, 5)
    [found], [expected] = (torch.autograd.grad(x, logits) for x in (loss, of_soft(logits, soft).mean()))
    torch.testing.assert_close(found, expected)


class Given(nn.Module):
    """A model that says the same to everybody."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, input: Tensor) -> Tensor:
        return self.logits


def test_those_that_are_not_trained_on_are_nobodys_partner() -> None:
    found = partners(torch.tensor([1, 3, 5]), 7, torch.Generator().manual_seed(0))
    assert found[[0, 2, 4, 6]].tolist() == [0, 2, 4, 6]
    assert sorted(found[[1, 3, 5]].tolist()) == [1, 3, 5]
