"""What is exact, bounded and unbiased, of each form and each loss."""

import math

import pytest
import torch
from torch import Tensor

from losses import oracles
from losses.oracles import EPS, random_batch, value_and_grad
from preceptor import losses
from preceptor.errors import InputError
from preceptor.losses.targets import SampledTargets, Targets
from preceptor.records.forms import GRID, Dense, Form, Sampled, TopK, scalars_of
from preceptor.records.sampling import draw, sizes_of, uniforms

C = 12
TEMPERATURES = [4.0, 2.0, 1.6, 1.25, 1.0, 0.8]
LOSSES = {
    "kd": lambda s, t, y, T, mask=None: losses.kd(s, t, temperature=T, mask=mask),
    "ttm": lambda s, t, y, T, mask=None: losses.ttm(s, t, temperature=T, mask=mask),
    "wttm": lambda s, t, y, T, mask=None: losses.wttm(s, t, temperature=T, mask=mask),
    "dkd": lambda s, t, y, T, mask=None: losses.dkd(s, t, y, temperature=T, mask=mask),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def stored(form: Form, log_probs: Tensor, labels: Tensor, uniform: Tensor | None = None) -> Targets:
    """Log-probabilities (B, C) as they come back from a record."""
    scalars = scalars_of(log_probs, labels, GRID)
    uniform = uniforms(0, torch.arange(len(log_probs)), 0) if uniform is None else uniform
    return form.unpack(form.pack(log_probs, uniform, scalars), scalars, log_probs.shape[-1])


def batch(rows: int = 6, classes: int = C) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher, labels = random_batch(rows, classes)
    return student, teacher.log_softmax(-1), labels


# -- dense: exact up to the dtype --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0.0), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)])
def test_dense_is_exact_up_to_its_dtype(dtype, error):
    _, teacher, labels = batch()
    teacher = teacher.float()
    teacher[0, 3] = -torch.inf
    found = stored(Dense(dtype), teacher, labels)
    finite = ~teacher.isneginf()
    assert found.shape == teacher.shape
    assert ((found.log_probs - teacher)[finite].abs() <= error * teacher[finite].abs()).all()
    assert found.log_probs[0, 3] == -torch.inf


@every_loss
def test_every_loss_of_dense_targets_is_that_of_the_logits(name):
    student, teacher, labels = batch()
    found = stored(Dense(), teacher.float(), labels)
    assert torch.equal(LOSSES[name](student, found, labels, 3.0), LOSSES[name](student, teacher.float(), labels, 3.0))


# -- top k: bounded ----------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_from_the_top_k_a_loss_is_never_above_the_true_one(name, temperature, k):
    student, teacher, labels = batch(40)
    truth = torch.as_tensor(
        getattr(oracles, name)(student.numpy(), teacher.numpy(), labels.numpy(), temperature=temperature)
    )
    found = LOSSES[name](student, stored(TopK(k, "float32"), teacher, labels), labels, temperature)
    assert (found <= truth + 1e-5).all()
    assert (found >= -1e-6).all()
    assert (found < 0.999 * truth).any()  # what is lost is lost


@every_loss
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_tail_of_one_class_loses_nothing(name, temperature):
    student, teacher, labels = batch()
    truth = value_and_grad(LOSSES[name], student, teacher, labels, temperature)
    found = value_and_grad(LOSSES[name], student, stored(TopK(C - 1, "float32"), teacher, labels), labels, temperature)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_gradient_from_the_top_k_is_right_for_these_and_for_the_others_together(temperature):
    student, teacher, labels = batch()
    targets = stored(TopK(4, "float32"), teacher, labels)
    _, truth = value_and_grad(LOSSES["kd"], student, teacher, labels, temperature)
    _, found = value_and_grad(LOSSES["kd"], student, targets, labels, temperature)
    torch.testing.assert_close(found.gather(-1, targets.ids), truth.gather(-1, targets.ids), rtol=1e-4, atol=1e-5)
    rest = torch.ones_like(truth).scatter(-1, targets.ids, 0.0)
    torch.testing.assert_close((rest * found).sum(-1), (rest * truth).sum(-1), rtol=1e-4, atol=1e-5)


def test_log_probabilities_in_8_bits_are_off_by_half_a_step_of_their_row():
    _, teacher, labels = batch(100)
    teacher[0, 3:] = -torch.inf
    teacher = teacher.log_softmax(-1)
    found = stored(TopK(8, "uint8"), teacher, labels)
    true = teacher.gather(-1, found.ids)
    finite = ~true.isneginf()
    step = (true.amax(-1) - torch.where(finite, true, torch.inf).amin(-1)) / 254
    assert ((found.log_probs - true).abs() <= 0.51 * step[:, None] + 1e-5)[finite].all()
    assert (found.log_probs == -torch.inf).eq(~finite).all()
    kept = torch.zeros_like(teacher, dtype=torch.bool).scatter(-1, found.ids, True)
    assert torch.equal(kept, torch.zeros_like(kept).scatter(-1, teacher.topk(8).indices, True))


def test_a_head_in_half_precision_that_sums_to_more_than_1_gives_no_negative_tail():
    student, teacher, labels = random_batch(200, C, scale=8.0)
    teacher = teacher.log_softmax(-1)
    targets = stored(TopK(8), teacher, labels)
    over = targets.log_probs.exp().sum(-1) > 1 + 1e-5
    assert over.sum() > 10
    for name, temperature in (("kd", 1.0), ("wttm", 2.0), ("dkd", 4.0)):
        value, gradient = value_and_grad(LOSSES[name], student, targets, labels, temperature)
        assert (value[over] >= 0).all()
        assert gradient.isfinite().all()


# -- sampled: unbiased -------------------------------------------------------------------------------------------------


def every_sample(form: Sampled, log_probs: Tensor, label: int) -> tuple[SampledTargets, Tensor]:
    """Of one row all samples that there are, with their probabilities: the lengths of u between which one changes."""
    scalars = scalars_of(log_probs[None], torch.tensor([label]), GRID)
    sizes = sizes_of(log_probs[None].double(), form.sizes, GRID, scalars.log_powers)
    _, tau = draw(sizes, form.k, torch.tensor([0.5]))
    chance = torch.where(sizes >= tau, 0.0, sizes / tau)[0].cumsum(-1)
    edges = torch.cat([torch.tensor([0.0, 1.0]), chance.frac().double()]).sort().values
    middles, lengths = (edges[1:] + edges[:-1]) / 2, edges.diff()
    middles, lengths = middles[lengths > 1e-12], lengths[lengths > 1e-12]
    rows = log_probs.expand(len(middles), -1)
    return stored(form, rows, torch.full((len(middles),), label), middles), lengths  # type: ignore[return-value]


FORMS = [Sampled(3, (1.0,), "float32"), Sampled(5, (1.0, 0.25), "float32")]


@every_loss
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_expectation_over_all_samples_is_the_true_value_and_gradient(name, form, temperature):
    student, teacher, labels = batch(4)
    for row in range(4):
        targets, chances = every_sample(form, teacher[row], int(labels[row]))
        here = student[row].expand(len(chances), -1)
        same = labels[row].expand(len(chances))
        truth = value_and_grad(
            LOSSES[name], student[row : row + 1], teacher[row : row + 1], labels[row : row + 1], temperature
        )
        found = value_and_grad(LOSSES[name], here, targets, same, temperature)
        mean = chances @ found[0], chances @ found[1]
        torch.testing.assert_close(mean[0], truth[0][0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mean[1], truth[1][0], rtol=1e-4, atol=1e-5)
        assert len(chances) > 2


@pytest.mark.parametrize("temperature", [3.0, 7.0])
def test_the_gradient_of_wttm_is_unbiased_at_every_temperature(temperature):
    student, teacher, labels = batch(4)
    for row in range(4):
        targets, chances = every_sample(FORMS[0], teacher[row], int(labels[row]))
        _, gradient = value_and_grad(LOSSES["wttm"], student[row].expand(len(chances), -1), targets, None, temperature)
        _, truth = value_and_grad(LOSSES["wttm"], student[row], teacher[row], None, temperature)
        torch.testing.assert_close(chances @ gradient, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coefficients", [EPS, [[0.1 * c, -0.2] for c in range(C)]])
def test_ptloss_is_unbiased(coefficients):
    student, teacher, labels = batch(4)
    loss = lambda s, t: losses.ptloss(s, t, coefficients=coefficients)  # noqa: E731
    for row in range(4):
        targets, chances = every_sample(FORMS[0], teacher[row], int(labels[row]))
        value, gradient = value_and_grad(loss, student[row].expand(len(chances), -1), targets)
        truth = value_and_grad(loss, student[row], teacher[row])
        torch.testing.assert_close(chances @ value, truth[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(chances @ gradient, truth[1], rtol=1e-4, atol=1e-5)


@every_loss
@pytest.mark.parametrize("form", [Sampled(4), Sampled(4, (1.0, 0.5), "float32")], ids=str)
def test_the_mean_over_samples_lies_within_its_standard_error(name, form):
    """The draws of ids, not of our choosing; in half precision the head's rounding is below the error of the mean."""
    student, teacher, labels = batch(1)
    rows = 4000
    targets = stored(form, teacher.expand(rows, -1), labels.expand(rows))
    value, gradient = value_and_grad(LOSSES[name], student.expand(rows, -1), targets, labels.expand(rows), 2.0)
    truth = value_and_grad(LOSSES[name], student, teacher, labels, 2.0)
    for found, true in zip((value[:, None], gradient), truth, strict=True):
        error = found.std(0) / math.sqrt(rows)
        assert ((found.mean(0) - true.flatten()).abs() <= 4 * error + 2e-3 * true.abs().max()).all()


def test_what_the_student_says_itself_costs_it_nothing():
    student, _, labels = batch()
    for form in (TopK(3, "float32"), FORMS[0]):
        targets = stored(form, student.log_softmax(-1), labels)
        value, _ = value_and_grad(LOSSES["kd"], student, targets, labels, 2.0)
        torch.testing.assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-5)


# -- contracts ---------------------------------------------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("form", [TopK(3), Sampled(3)], ids=str)
def test_masked_examples_are_exactly_0_whatever_they_hold(name, form):
    student, teacher, labels = batch(4)
    mask = torch.tensor([True, False, True, False])
    targets = stored(form, teacher, labels)
    expected = value_and_grad(LOSSES[name], student[mask], targets[mask], labels[mask], 2.0)
    for tensor in (targets.log_probs, targets.log_powers, targets.label_log_probs, student):
        tensor[~mask] = torch.nan
    labels[~mask] = -100
    value, gradient = value_and_grad(LOSSES[name], student, targets, labels, 2.0, mask)
    assert value[~mask].eq(0).all()
    assert gradient[~mask].eq(0).all()
    torch.testing.assert_close((value[mask], gradient[mask]), expected)


@every_loss
@pytest.mark.parametrize("form", [TopK(8), Sampled(8)], ids=str)
def test_a_certain_teacher_gives_finite_losses(name, form):
    teacher = torch.full((2, C), -torch.inf)
    teacher[:, 5] = 0
    student, _, labels = batch(2)
    labels[:] = 5
    targets = stored(form, teacher, labels)
    truth = value_and_grad(LOSSES[name], student, teacher.double(), labels, 2.0)
    torch.testing.assert_close(value_and_grad(LOSSES[name], student, targets, labels, 2.0), truth, rtol=1e-5, atol=1e-5)


@every_loss
def test_a_label_that_the_teacher_excludes_outside_of_the_top_k_gives_the_true_loss(name):
    student, teacher, labels = batch(2)
    teacher[:, 5:] = -torch.inf
    teacher, form = teacher.log_softmax(-1), TopK(C - 1, "float32")
    labels = sum(range(C)) - stored(form, teacher.float(), labels).ids.sum(-1)  # the one that is left out
    targets = stored(form, teacher.float(), labels)
    assert teacher.gather(-1, labels[:, None]).isneginf().all()
    truth = value_and_grad(LOSSES[name], student, teacher.double(), labels, 2.0)
    torch.testing.assert_close(value_and_grad(LOSSES[name], student, targets, labels, 2.0), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", [TopK(3), Sampled(3)], ids=str)
def test_what_some_classes_cannot_say_is_refused(form):
    student, teacher, labels = batch()
    targets = stored(form, teacher, labels)
    every = ("dist", "standardized_kd", "mft", "mlkd", "nkd", "wsld", "CTKD", "reverse_kl", "jsd", "skew_kl", "tvd")
    for name in every:
        loss = losses.CTKD() if name == "CTKD" else getattr(losses, name)
        given = (student, targets, labels) if name in ("mft", "nkd", "wsld") else (student, targets)
        with pytest.raises(InputError, match=f"^{name} .* record the form 'dense'"):
            loss(*given)
    with pytest.raises(InputError, match=r"kd at temperature 3 .* has for 4, 2, 1.6, 1.25, 1, 0.8"):
        losses.kd(student, targets, temperature=3.0)
    with pytest.raises(InputError, match="label 7 of an example that was recorded with 6"):
        losses.dkd(student, stored(form, teacher, torch.full_like(labels, 6)), torch.full_like(labels, 7))
    with pytest.raises(InputError, match="recorded with -1"):
        losses.dkd(student, stored(form, teacher, torch.full_like(labels, -1)), labels)
    with pytest.raises(InputError, match="stand for"):
        losses.kd(student[:, :-1], targets)


def test_ptloss_needs_the_classes_outside_the_top_k():
    student, teacher, labels = batch()
    with pytest.raises(InputError, match=r"ptloss perturbs .* 'sampled'"):
        losses.ptloss(student, stored(TopK(3), teacher, labels), coefficients=EPS)
