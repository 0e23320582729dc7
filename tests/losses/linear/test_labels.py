"""The fused loss to the labels against torch's cross-entropy of all logits; labels shifted, once."""

import pytest
import torch
from torch.nn import functional as F

from losses.linear.cases import gradients, normal, trained
from preceptor.errors import InputError
from preceptor.losses import linear
from preceptor.losses.linear import Head
from preceptor.losses.tokens import shifted

both_modes = pytest.mark.parametrize("per_token", [False, True])
LABELS = torch.tensor([[3, 0, -100, 8], [-100, 5, 5, -100]])


@both_modes
def test_it_is_the_cross_entropy_of_the_logits(per_token):
    inputs = trained(normal(2, 4, 3), normal(9, 3, seed=1), normal(9, seed=2))
    weight = normal(2, 4, seed=3).abs()
    loss = linear.cross_entropy(inputs[0], Head(*inputs[1:]), LABELS, weight=weight, per_token=per_token, chunk=3)
    each = F.cross_entropy((inputs[0] @ inputs[1].t() + inputs[2]).flatten(0, 1), LABELS.flatten(), reduction="none")
    torch.testing.assert_close(loss.sum(), (each * weight.flatten()).sum())
    torch.testing.assert_close(gradients(loss, *inputs), gradients(each * weight.flatten(), *inputs))
    if per_token:
        torch.testing.assert_close(loss, (each * weight.flatten()).view(2, 4))


def test_scale_and_soft_cap():
    inputs = trained(normal(2, 4, 3), normal(9, 3, seed=1))
    loss = linear.cross_entropy(inputs[0], Head(inputs[1], scale=1.7, softcap=2.0), LABELS)
    logits = 2.0 * torch.tanh(1.7 * (inputs[0] @ inputs[1].t()) / 2.0)
    expected = F.cross_entropy(logits.flatten(0, 1), LABELS.flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradients(loss, *inputs), gradients(expected, *inputs))


def test_padding_of_the_vocabulary_has_no_share_and_no_gradient():
    hidden, weight = trained(normal(2, 4, 3), normal(12, 3, seed=1))
    loss = linear.cross_entropy(hidden, weight, LABELS, vocabulary=9)
    expected = F.cross_entropy((hidden @ weight[:9].t()).flatten(0, 1), LABELS.flatten(), reduction="sum")
    torch.testing.assert_close(loss, expected)
    assert not gradients(loss, weight)[0][9:].any()


def test_half_precision_is_near():
    hidden, weight = normal(2, 4, 16), normal(500, 16, seed=1, scale=0.2)
    truth = F.cross_entropy((hidden @ weight.t()).flatten(0, 1), LABELS.flatten(), reduction="sum")
    half = trained(hidden.bfloat16(), weight.bfloat16())
    loss = linear.cross_entropy(*half, LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), truth, rtol=1e-2, atol=0)
    full = trained(hidden, weight)
    expected = gradients(
        F.cross_entropy((full[0] @ full[1].t()).flatten(0, 1), LABELS.flatten(), reduction="sum"), *full
    )
    for found, right in zip(gradients(loss, *half), expected, strict=True):
        assert (found.double() - right).norm() / right.norm() < 0.02


def test_nothing_that_counts_is_nothing_lost():
    hidden, weight = trained(torch.full((3, 4), torch.nan), normal(5, 4, dtype=torch.float32))
    loss = linear.cross_entropy(hidden, weight, torch.full((3,), -100))
    assert loss == 0
    assert not any(each.any() for each in gradients(loss, hidden, weight))


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        (torch.tensor([1, 9]), {}, r"labels reach from 1 to 9; give class numbers from 0 to 4"),
        (torch.tensor([1, 4]), {"vocabulary": 4}, r"from 0 to 3"),
        (torch.tensor([1.0, 2.0]), {}, r"give integer class indices"),
        (torch.tensor([1]), {}, r"give one per example, \(2,\)"),
        (torch.tensor([1, 2]), {"weight": torch.ones(1)}, r"weight has shape \(1,\)"),
    ],
)
def test_what_cannot_be_is_refused(labels, options, said):
    with pytest.raises(InputError, match=said):
        linear.cross_entropy(normal(2, 3), normal(5, 3), labels, **options)


# --- shifted ----------------------------------------------------------------------------------------------------------


def test_a_position_has_the_token_after_it():
    labels = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0))
    labels[0, :3] = -100
    found = shifted(labels)
    for row in range(3):
        assert found[row].tolist() == [*labels[row, 1:].tolist(), -100]
    assert shifted(labels[:, :1]).tolist() == [[-100]] * 3
    assert shifted(labels[0]).tolist() == found[0].tolist()


def test_no_document_tells_the_first_token_of_the_next():
    documents = [[4, 5, 6], [7], [8, 9]]
    packed = torch.tensor([[token for document in documents for token in document]])
    positions = torch.tensor([[place for document in documents for place in range(len(document))]])
    alone = [label for document in documents for label in shifted(torch.tensor(document)).tolist()]
    assert shifted(packed, positions)[0].tolist() == alone


def test_labels_that_cannot_be_shifted_are_refused():
    with pytest.raises(InputError, match=r"labels are torch\.float32"):
        shifted(torch.ones(2, 3))
    with pytest.raises(InputError, match="position_ids are of 2 tokens and labels of 3"):
        shifted(torch.ones(2, 3, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))
