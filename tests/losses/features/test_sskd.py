"""SSKD: a slow oracle sample by sample, what is kept, the two stages, views, what is saved."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from losses.features.relations import SETTING, normal
from losses.oracles import value_and_grad
from preceptor.errors import InputError
from preceptor.losses.features import SSKD
from preceptor.losses.features.sskd import kept

BATCH, CLASSES = 5, 4
STUDENT, TEACHER = normal(4, BATCH, 6), normal(4, BATCH, 3, seed=1)  # features: plain, then three views
LOGITS, TAUGHT = 2 * normal(4, BATCH, CLASSES, seed=2), 2 * normal(4, BATCH, CLASSES, seed=3)
LABELS = torch.tensor([0, 1, 2, 3, 0])


def make(epoch=1, **options):
    torch.manual_seed(0)
    loss = SSKD(init_epochs=1, **options)
    loss.build({"s": STUDENT[0]}, {"t": TEACHER[0]}, SETTING)
    loss.start_epoch(epoch, 2)
    return loss.to(STUDENT.dtype)


def at(loss, student=STUDENT, teacher=TEACHER, logits=LOGITS, taught=TAUGHT, labels=LABELS):
    return loss(
        logits[0],
        taught[0],
        labels=labels,
        student_views=logits[1:],
        teacher_views=taught[1:],
        student_features={"s": student[0]},
        teacher_features={"t": teacher[0]},
        student_view_features={"s": student[1:]},
        teacher_view_features={"t": teacher[1:]},
    )


def cosines(head, x):
    """Of each view of each sample, as rows sample after sample, with all samples."""
    weights = [(head[n].weight.detach().numpy(), head[n].bias.detach().numpy()) for n in (0, 2)]

    def unit(row):
        hidden = np.maximum(weights[0][0] @ row + weights[0][1], 0)
        found = weights[1][0] @ hidden + weights[1][1]
        return found / np.linalg.norm(found)

    x = x.numpy()
    plain = [unit(row) for row in x[0]]
    return [[unit(x[view, b]) @ other for other in plain] for b in range(x.shape[1]) for view in (1, 2, 3)]


def chosen(rows, truth, ratio):
    """The rows by how often something beats the truth: all with none, and of the others so many as the ratio says."""
    rank = [sum(value > row[true] for value in row) for row, true in zip(rows, truth, strict=True)]
    wrong = sorted((n for n in range(len(rank)) if rank[n]), key=lambda n: rank[n])
    return [n for n in range(len(rank)) if not rank[n]] + wrong[: int(len(wrong) * ratio)]


def divergence(student, teacher, rows, temperature):
    total = 0.0
    for n in rows:
        log_p, log_q = (log_softmax(np.array(x[n]) / temperature) for x in (teacher, student))
        total += (np.exp(log_p) * (log_p - log_q)).sum()
    return temperature**2 * total / max(len(rows), 1)


def oracle(loss, weights=(0.9, 2.7, 10.0), ratios=(1.0, 0.75), temperatures=(4.0, 0.5)):
    views = [(b, view) for b in range(BATCH) for view in (1, 2, 3)]
    student, teacher = ([x[view, b].tolist() for b, view in views] for x in (LOGITS, TAUGHT))
    similar_s, similar_t = cosines(loss.head_student, STUDENT), cosines(loss.head_teacher, TEACHER)
    rows = chosen(teacher, [int(LABELS[b]) for b, _ in views], ratios[0])
    similar_rows = chosen(similar_t, [b for b, _ in views], ratios[1])
    return (
        weights[0] * divergence(LOGITS[0].tolist(), TAUGHT[0].tolist(), range(BATCH), temperatures[0])
        + weights[1] * divergence(student, teacher, rows, temperatures[0])
        + weights[2] * divergence(similar_s, similar_t, similar_rows, temperatures[1])
    )


def test_oracle():
    loss = make()
    assert at(loss).item() == pytest.approx(oracle(loss), rel=1e-9)
    loss = make(
        kd_weight=1.0, transform_weight=0.0, similarity_weight=3.0, keep_similar=0.0, similarity_temperature=2.0
    )
    assert at(loss).item() == pytest.approx(oracle(loss, (1.0, 0.0, 3.0), (1.0, 0.0), (4.0, 2.0)), rel=1e-9)


def test_what_is_kept_matters():
    """Ranks of these logits have no ties among the wrong ones but where the order of rows does not matter."""
    values = {ratio: at(make(similarity_weight=0.0, keep_transformed=ratio)).item() for ratio in (0.0, 1.0)}
    for ratio, value in values.items():
        assert value == pytest.approx(oracle(make(), (0.9, 2.7, 0.0), (ratio, 0.75)), rel=1e-9)
    assert values[0.0] != values[1.0]


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.7, 0.75, 1.0])
def test_of_the_wrong_ones_the_least_wrong_are_kept(ratio):
    rank = torch.tensor([4, 0, 2, 7, 1, 0, 5, 3, 9, 6, 8, 10])  # ten wrong ones
    expected = {0, *range(1, int(10 * ratio) + 1)}
    assert set(rank[kept(rank, ratio)].tolist()) == expected
    assert kept(rank, ratio)[[1, 5]].all()


def test_first_the_teachers_head_learns_to_find_the_own_image():
    loss = make(epoch=0)
    assert loss.alone
    rows = cosines(loss.head_teacher, TEACHER)
    expected = -np.mean([log_softmax(row)[n // 3] for n, row in enumerate(rows)])
    value = at(loss)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    value.backward()
    assert all(each.grad is not None and each.grad.any() for each in loss.head_teacher.parameters())
    assert all(each.grad is None for each in loss.head_student.parameters())


def test_then_it_stays_and_the_students_learns():
    loss = make()
    assert not loss.alone
    teacher = TEACHER.clone().requires_grad_()
    at(loss, teacher=teacher).backward()
    assert teacher.grad is None
    assert all(each.grad is None for each in loss.head_teacher.parameters())
    assert all(each.grad is not None and each.grad.any() for each in loss.head_student.parameters())


def test_gradcheck():
    loss = make()
    torch.autograd.gradcheck(lambda x: at(loss, x), STUDENT.clone().requires_grad_())
    torch.autograd.gradcheck(lambda x: at(loss, logits=x), LOGITS.clone().requires_grad_())


def test_views_are_quarter_turns():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = make().views(torch.cat([image, image + 9]))
    assert views.shape == (6, 1, 3, 3)
    assert views[0, 0].tolist() == np.rot90(image[0, 0].numpy()).tolist()
    assert views[3, 0].tolist() == (image[0, 0].flip(0, 1) + 9).tolist()
    assert views[4, 0].tolist() == np.rot90(image[0, 0].numpy(), 3).tolist()
    for shape in ((2, 3, 8, 4), (2, 8)):
        with pytest.raises(InputError, match=r"turns square images \(B, C, H, H\), and the inputs are of shape"):
            make().views(torch.zeros(shape))


@pytest.mark.parametrize("epoch", [0, 1])
def test_odd_batches(epoch):
    loss = make(epoch)
    one = lambda x: x[:, :1]  # noqa: E731
    assert at(loss, one(STUDENT), one(TEACHER), one(LOGITS), one(TAUGHT), LABELS[:1]).isfinite()
    value, grad = value_and_grad(lambda x: at(make(), x), STUDENT * 0)
    assert value.isfinite()
    assert grad.isfinite().all()
    assert at(loss, teacher=TEACHER * 0).isfinite()
    assert at(loss, normal(4, BATCH, 6, 2, 2), normal(4, BATCH, 5, 3)).isfinite()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    loss = make().float()
    half = [x.to(dtype) for x in (STUDENT, TEACHER, LOGITS, TAUGHT)]
    exact = at(loss, *(x.float() for x in half))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = at(loss, *half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_saved_and_loaded():
    loss, again = make(), make()
    for parameter in again.parameters():
        torch.nn.init.ones_(parameter)
    again.load_state_dict(loss.state_dict())
    assert at(again).equal(at(loss))


def test_what_is_refused():
    for options in ({"init_epochs": 0}, {"keep_similar": 1.5}, {"temperature": 0.0}, {"kd_weight": -1}):
        with pytest.raises(InputError, match=f"{next(iter(options))} is {next(iter(options.values()))}; give"):
            SSKD(**options)
    with pytest.raises(InputError, match=r"init_epochs of the loss 'SSKD' are 60 of the 20 epochs"):
        SSKD().start_epoch(0, 20)
