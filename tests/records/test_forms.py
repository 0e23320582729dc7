"""The sample that a form draws, and the numbers beside every form."""

import numpy as np
import pytest
import torch

from preceptor import assess
from preceptor.errors import InputError
from preceptor.records import Dense, Manifest, Record, RecordWriter, Sampled, TopK
from preceptor.records.sampling import draw, threshold, uniforms
from preceptor.records.scores import scores


def sizes(rows: int = 30, classes: int = 20, scale: float = 3.0) -> torch.Tensor:
    return torch.softmax(scale * torch.randn(rows, classes, dtype=torch.float64), -1)


# -- samples -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 60.0])
@pytest.mark.parametrize("k", [1, 4, 19])
def test_the_threshold_makes_chances_that_sum_to_k(k, scale):
    found = sizes(scale=scale)
    tau = threshold(found, k)[:, None]
    expected = torch.full((30,), float(k), dtype=torch.float64)
    torch.testing.assert_close((found / tau).clamp(max=1.0).sum(-1), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 60.0])
def test_each_class_is_there_as_often_as_its_chance_says(scale):
    """Over a fine grid of u, of one row each."""
    grid = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    for row in sizes(rows=3, scale=scale):
        ids, tau = draw(row.expand(4000, -1), 5, grid)
        assert (ids.diff(dim=-1) > 0).all()  # five that differ
        often = torch.bincount(ids.flatten(), minlength=20) / 4000
        assert (often - (row / tau[0]).clamp(max=1.0)).abs().max() <= 2 / 4000
        # What they weigh sums to what there is, whatever was drawn.
        weights = torch.maximum(row[ids], tau[:, None]).sum(-1)
        torch.testing.assert_close(weights, torch.ones_like(weights))


def test_a_row_with_few_classes_is_filled_up_and_those_are_certain():
    row = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0, 0.0]], dtype=torch.float64)
    ids, tau = draw(row, 4, torch.tensor([0.3], dtype=torch.float64))
    assert tau == 0
    assert {1, 3} < {*ids[0].tolist()}
    assert len({*ids[0].tolist()}) == 4


def test_uniforms_are_of_seed_id_and_view_and_uniform():
    ids = torch.arange(100_000)
    found = uniforms(0, ids, 0)
    assert torch.equal(uniforms(0, ids.flip(0), 0).flip(0), found)
    assert ((found > 0) & (found < 1)).all()
    counts = torch.histc(found, 100, 0, 1).double()
    assert ((counts - 1000).square() / 1000).sum() < 160  # of chi-squared with 99 degrees of freedom, 1 in 10,000
    for other in (uniforms(1, ids, 0), uniforms(0, ids, 1), found.roll(1)):
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.015


# -- scores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [Dense("bfloat16"), TopK(2), Sampled(2)], ids=str)
def test_a_teacher_is_scored_from_its_record_whatever_the_form(tmp_path, form):
    generator = torch.Generator().manual_seed(0)
    log_probs = (2 * torch.randn(40, 6, generator=generator)).log_softmax(-1)
    labels = torch.randint(6, (40,), generator=generator)
    with RecordWriter(tmp_path, Manifest(form=form, num_classes=6)) as writer:
        writer.write(torch.arange(40), 0, log_probs, labels)
        writer.write(torch.tensor([99]), 0, log_probs[:1])
    record = Record(tmp_path)
    for temperature in (1.0, 2.0, 4.0, 1.25, 1.6):
        found = scores(record, temperature=temperature, ids=torch.arange(40))
        for name in ("nll", "accuracy", "brier"):
            expected = getattr(assess, name)(log_probs.double() / temperature, labels)
            np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores(record, ids=torch.arange(40))["entropy"], assess.entropy(log_probs), rtol=1e-5)
    assert "brier" not in scores(record, temperature=0.8, ids=torch.arange(40))  # of 2.5 no power sum is stored
    with pytest.raises(InputError, match="temperature is 3; the record has what scores need at 4, 2, "):
        scores(record, temperature=3.0, ids=torch.arange(40))
    with pytest.raises(InputError, match="sample 99 was recorded without a label"):
        scores(record)
