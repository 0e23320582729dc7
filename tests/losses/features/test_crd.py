"""CRD: slow oracle on the negatives drawn, the memory through steps, what is saved, memory."""

import numpy as np
import pytest
import torch

from losses.features import relations
from losses.features.relations import built, call, normal
from losses.oracles import value_and_grad
from preceptor.errors import InputError
from preceptor.losses.features import CRD
from preceptor.losses.features.base import Setting
from preceptor.losses.features.crd import noise_contrast

STUDENT, TEACHER = normal(6, 5), normal(6, 9, seed=1)
INDEX = torch.tensor([3, 0, 39, 17, 8, 21])


def make(**options):
    return built(CRD(**{"dim": 8, "negatives": 12, **options}), STUDENT, TEACHER)


def at(loss, student=STUDENT, teacher=TEACHER, index=INDEX, seed=7):
    """The loss with the draws of this seed."""
    torch.manual_seed(seed)
    return call(loss, student, teacher, index=index)


def drawn(loss, index=INDEX, seed=7):
    torch.manual_seed(seed)
    return torch.cat([index.unsqueeze(1), loss.others(index, loss.negatives)], 1).tolist()


def oracle(loss, places, constants, student=STUDENT, teacher=TEACHER, eps=1e-7):
    """Scores one by one, and the loss of each sample; of Z unset, N times the mean of the scores."""
    banks = {"s": loss.memory.student.numpy(), "t": loss.memory.teacher.numpy()}

    def embed(layer, x):
        x = x.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        return x / np.sqrt((x**2).sum(1, keepdims=True))

    v = {"s": embed(loss.embed_student, student), "t": embed(loss.embed_teacher, teacher)}
    total, used, many = np.zeros(len(student)), [], len(banks["s"])
    for side, other, constant in (("s", "t", constants[0]), ("t", "s", constants[1])):
        scores = [
            [np.exp(v[side][b] @ banks[other][n] / loss.temperature) for n in row] for b, row in enumerate(places)
        ]
        constant = np.mean(scores) * many if constant is None else constant
        used.append(constant)
        noise = (len(places[0]) - 1) / many
        for b, row in enumerate(scores / constant):
            total[b] -= np.log(row[0] / (row[0] + noise + eps))
            total[b] -= sum(np.log(noise / (h + noise + eps)) for h in row[1:])
    return total, used


def test_oracle_through_two_steps():
    loss = make()
    expected, constants = oracle(loss, drawn(loss), (None, None))
    np.testing.assert_allclose(at(loss).detach().numpy(), expected, rtol=1e-9)
    loss.end_step(lambda tensor: tensor)
    np.testing.assert_allclose(loss.log_constants.exp().numpy(), constants, rtol=1e-9)
    other = normal(6, 5, seed=4)  # another batch, Z stays
    expected, _ = oracle(loss, drawn(loss, seed=8), constants, student=other)
    np.testing.assert_allclose(at(loss, other, seed=8).detach().numpy(), expected, rtol=1e-9)


def test_the_sharpest_temperature_stays_finite():
    value, grad = value_and_grad(lambda x: at(make(temperature=0.001), x), STUDENT)
    assert value.isfinite().all()
    assert grad.isfinite().all()


def test_noise_contrast_of_equal_scores():
    """h = m / N says that positive and negatives are as likely to be the data's as to be noise: log 2 each."""
    level = torch.tensor(3 / 10, dtype=torch.float64).log()
    found = noise_contrast(level.expand(2), level.expand(2, 3), num_samples=10)
    np.testing.assert_allclose(found.numpy(), [4 * np.log(2)] * 2, rtol=1e-5)


def test_gradcheck():
    loss = make().eval()
    loss.log_constants.fill_(3.0)
    torch.autograd.gradcheck(lambda x: at(loss, x), STUDENT.clone().requires_grad_())


def test_all_parts_are_trained_and_the_teacher_is_not():
    loss = make()
    teacher = TEACHER.clone().requires_grad_()
    at(loss, teacher=teacher).sum().backward()
    assert teacher.grad is None
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.parameters())


def test_dead_features_and_half_precision():
    loss = make().eval()
    relations.check_dead_features(lambda s, t: at(loss, s, t), STUDENT, TEACHER)
    half = built(CRD(dim=8, negatives=12), STUDENT.float(), TEACHER.float()).eval()
    for dtype in (torch.bfloat16, torch.float16):
        relations.check_half_precision(lambda s, t: at(half, s, t), STUDENT, TEACHER, dtype)


def test_each_sample_has_a_value_and_none_gives_none():
    loss = make()
    assert at(loss, STUDENT[:1], TEACHER[:1], INDEX[:1]).shape == (1,)
    assert at(loss, STUDENT[:0], TEACHER[:0], INDEX[:0]).shape == (0,)
    assert loss(
        None,
        None,
        index=INDEX[:2],
        student_features={"s": normal(2, 5, 4, 4)},
        teacher_features={"t": normal(2, 10, 9)},
    ).shape == (2,)


def test_negatives_more_than_samples_are_drawn_repeatedly():
    loss = make(negatives=100)
    expected, _ = oracle(loss, drawn(loss), (None, None))
    np.testing.assert_allclose(at(loss).detach().numpy(), expected, rtol=1e-9)


def test_evaluation_leaves_no_trace():
    loss = make().eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    at(loss)
    loss.end_step(lambda tensor: tensor)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)


def test_micro_batches_leave_the_memory_of_the_whole_batch_and_the_mean_of_their_z():
    whole, several, parts = make(), make(), (slice(0, 3), slice(3, 6))
    constants = [
        oracle(whole, drawn(whole, INDEX[some]), (None, None), STUDENT[some], TEACHER[some])[1] for some in parts
    ]
    at(whole)
    for some in parts:
        at(several, STUDENT[some], TEACHER[some], INDEX[some])
    assert several.log_constants.isinf().all()
    for loss in (whole, several):
        loss.end_step(lambda tensor: tensor)
    torch.testing.assert_close(several.memory.state_dict(), whole.memory.state_dict(), rtol=0, atol=1e-14)
    np.testing.assert_allclose(several.log_constants.exp().numpy(), np.mean(constants, 0), rtol=1e-9)


def test_a_run_continued_goes_on_as_if_nothing_had_been():
    loss = make()
    at(loss).sum().backward()
    loss.end_step(lambda tensor: tensor)
    again = make(momentum=0.5)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1)
    again.load_state_dict(loss.state_dict())
    for each in (loss, again):
        at(each, seed=9)
        each.end_step(lambda tensor: tensor)
    assert at(again, seed=10).equal(at(loss, seed=10))


def test_memory_grows_with_samples_and_not_with_negatives_times_dim():
    setting = Setting(num_samples=500, num_classes=4, labels=torch.arange(500) % 4)
    student, teacher = normal(16, 5, dtype=torch.float32), normal(16, 9, seed=1, dtype=torch.float32)
    loss = built(CRD(dim=64, negatives=300), student, teacher, setting)
    largest = relations.largest_tensor(lambda s, t: at(loss, s, t, torch.arange(16)), student, teacher)
    assert largest == 500 * 64 < 16 * 300 * 64  # that of the memory itself


def test_what_is_refused():
    for options in ({"dim": 0}, {"negatives": 0}, {"temperature": 0.0}, {"momentum": 1.0}):
        with pytest.raises(InputError, match=f"{next(iter(options))} is {next(iter(options.values()))}; give a"):
            CRD(**options)
    with pytest.raises(InputError, match=r"index reaches from 0 to 40"):
        at(make(), index=torch.tensor([0, 1, 2, 3, 4, 40]))
    one = Setting(num_samples=40, num_classes=4, labels=torch.zeros(40, dtype=torch.int64))
    with pytest.raises(InputError, match=r"all 40 labelled samples are of class 0"):
        built(CRD(), STUDENT, TEACHER, one)
    more = Setting(num_samples=41, num_classes=4, labels=torch.arange(41) % 4)
    with pytest.raises(InputError, match=r"the saved memory is of 40 samples but the data are of 41"):
        built(CRD(dim=8), STUDENT, TEACHER, more).load_state_dict(make().state_dict())
