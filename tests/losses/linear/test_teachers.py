"""Teachers in their forms: hidden states, logits, records; what is refused and what is said."""

from dataclasses import replace

import pytest
import torch

from losses.linear.cases import DIVERGENCES, OPTIONS, fused, gradients, normal, pair, plain, trained
from preceptor import losses
from preceptor.errors import InputError
from preceptor.losses import linear
from preceptor.losses.targets import Targets, TopKTargets
from preceptor.notices import _said, notes_kept
from preceptor.records.forms import GRID, Dense, Form, Sampled, TopK, scalars_of
from preceptor.records.sampling import uniforms

every_loss = pytest.mark.parametrize("name", OPTIONS)
both_modes = pytest.mark.parametrize("per_token", [False, True])
WEIGHT = torch.tensor([[0.5, 0.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 0.25, 3.0]])


def stored(form: Form, logits: torch.Tensor) -> Targets:
    """The targets of a record that holds these logits (B, C)."""
    log_probs, labels = logits.log_softmax(-1), torch.zeros(len(logits), dtype=torch.int64)
    scalars = scalars_of(log_probs, labels, GRID)
    drawn = uniforms(0, torch.arange(len(logits)), 0)
    return form.unpack(form.pack(log_probs, drawn, scalars), scalars, logits.shape[-1])


def shaped(targets: Targets, *lead: int) -> Targets:
    """With another leading shape."""
    held = {name: value for name, value in vars(targets).items() if isinstance(value, torch.Tensor)}
    return replace(targets, **{name: value.reshape(*lead, *value.shape[1:]) for name, value in held.items()})


@every_loss
@both_modes
def test_logits_hidden_states_and_a_dense_record_are_one_teacher(name, per_token):
    (hidden, head), (states, teacher) = pair()
    hidden, head = trained(hidden, head)
    logits = states @ teacher.t()
    given = [(states, teacher), (states, linear.Head(teacher)), logits, logits.log_softmax(-1)]
    found = [fused(name, hidden, head, each, per_token=per_token, chunk=3) for each in given]
    found.append(fused(name, hidden, head, shaped(stored(Dense(), logits.flatten(0, 1).float()), 2, 5)))
    grads = [gradients(loss, hidden, head) for loss in found]
    for loss, grad in zip(found[1:4], grads[1:4], strict=True):
        torch.testing.assert_close((loss, grad), (found[0], grads[0]))
    torch.testing.assert_close(found[4], found[0].sum(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(grads[4], grads[0], rtol=5e-3, atol=5e-3)


CASES = [("kd", 2.0), ("ttm", 2.0), ("wttm", 1.25), ("wttm", 3.0)]
RECORDS = [(name, t, form) for name, t in CASES for form in (TopK(3, "float32"), Sampled(4)) if t != 3 or form.k == 4]


@pytest.mark.parametrize(("name", "temperature", "form"), RECORDS, ids=str)
@both_modes
def test_some_classes_of_a_record(name, temperature, form, per_token):
    (hidden, head), (states, teacher) = pair()
    targets = shaped(stored(form, (states @ teacher.t()).flatten(0, 1).float()), 2, 5)
    hidden, head = trained(hidden, head)
    options = {"temperature": temperature, "weight": WEIGHT, "per_token": per_token, "chunk": 3}
    loss = getattr(linear, name)(hidden, linear.Head(head, softcap=4.0), targets, **options)
    logits = 4 * (hidden @ head.t() / 4).tanh()
    expected = getattr(losses, name)(logits, targets, temperature=temperature) * WEIGHT
    torch.testing.assert_close(loss.sum(), expected.sum())
    torch.testing.assert_close(gradients(loss, hidden, head), gradients(expected, hidden, head))


def test_ptloss_of_a_sample():
    (hidden, head), (states, teacher) = pair((6,))
    targets = stored(Sampled(4), (states @ teacher.t()).float())
    loss, expected = fused("ptloss", hidden, head, targets), plain("ptloss", hidden @ head.t(), targets)
    torch.testing.assert_close(loss, expected.sum())
    with pytest.raises(InputError, match="ptloss perturbs"):
        fused("ptloss", hidden, head, stored(TopK(4), (states @ teacher.t()).float()))


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("form", [TopK(4), Sampled(4)], ids=str)
def test_divergences_want_all_classes(name, form):
    (hidden, head), (states, teacher) = pair((6,))
    with pytest.raises(InputError, match=f"^{name} weighs .* record the form 'dense'"):
        fused(name, hidden, head, stored(form, (states @ teacher.t()).float()))


def test_a_record_of_fewer_tokens_than_the_padded_head_has_entries():
    (hidden, head), (states, teacher) = pair((6,))
    targets = stored(TopK(3, "float32"), (states @ teacher.t())[:, :9].float())
    found = linear.kd(hidden, head, targets, vocabulary=9)
    torch.testing.assert_close(found, losses.kd((hidden @ head.t())[:, :9], targets, temperature=1.0).sum())
    with pytest.raises(InputError, match="has 11 entries and the teacher's 9"):
        linear.kd(hidden, head, targets)


@pytest.mark.parametrize("of_logits", [False, True])
@pytest.mark.parametrize("name", ["kd", "ttm", "wttm"])
def test_a_top_k_without_tail_is_no_divergence(name, of_logits):
    """As served log-probabilities come: below 0 where the student knows as much of these classes."""
    (hidden, head), (states, teacher) = pair((6,))
    targets = stored(TopK(3, "float32"), (states @ teacher.t()).float())
    assert isinstance(targets, TopKTargets)
    cut = replace(targets, log_tail=torch.full_like(targets.log_tail, -torch.inf))
    arguments = (hidden @ head.t(), cut) if of_logits else (hidden, head, cut)
    with pytest.raises(InputError, match=r"have a probability of 0\.\d+ together and no tail"):
        getattr(losses if of_logits else linear, name)(*arguments, temperature=1.0)


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "size", "says"), [(4.0, 6000, True), (2.0, 6000, False), (4.0, 5000, False)])
def test_a_hot_teacher_of_a_large_vocabulary_is_noted(temperature, size, says):
    hidden, head = normal(2, 4), normal(size, 4, seed=1)
    with notes_kept() as notes:
        for _ in range(2):
            linear.wttm(hidden, head, (hidden, head), temperature=temperature)
    assert len(notes) == says
    if says:
        assert notes[0].startswith("wttm at temperature 4 over 6000 tokens: most of what so soft a teacher says")


def test_outside_of_a_run_it_is_said_once(capsys):
    _said.clear()
    hidden, head = normal(2, 4), normal(6000, 4, seed=1)
    for _ in range(3):
        linear.kd(hidden, head, (hidden, head), temperature=3.0)
    assert capsys.readouterr().err.count("kd at temperature 3 over 6000 tokens") == 1
    _said.clear()


# -- wrong ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        (normal(3, 11), {}, r"hidden states of \(2, 5\) tokens and the teacher stands for \(3,\)"),
        ((normal(2, 5, 3), normal(11, 6)), {}, "hidden states have width 3 and its head 6"),
        ((normal(2, 4, 6), normal(11, 6)), {}, r"stands for \(2, 4\)"),
        ((normal(2, 5, 6).long(), normal(11, 6)), {}, "the teacher's hidden states are torch.int64"),
        (normal(2, 5, 11).long(), {}, "the teacher's logits are torch.int64"),
        ("gpt", {}, "the teacher is a str; give a pair"),
        ((normal(2, 5, 6),), {}, "the teacher is a tuple; give a pair"),
        (normal(2, 5, 11), {"weight": torch.ones(2)}, r"weight has shape \(2,\); give one number per token, \(2, 5\)"),
        (normal(2, 5, 11), {"weight": torch.ones(2, 5).long()}, "weight is torch.int64"),
        (normal(2, 5, 11), {"chunk": 0}, "chunk is 0"),
        (normal(2, 5, 11), {"temperature": 0.0}, "temperature is 0.0"),
    ],
)
def test_what_does_not_fit(teacher, options, message):
    (hidden, head), _ = pair()
    with pytest.raises(InputError, match=message) as caught:
        linear.kd(hidden, head, teacher, **options)
    assert str(caught.value).endswith(".")


def test_students_that_do_not_fit():
    with pytest.raises(InputError, match=r"student_hidden has shape \(2, 3\) and its head is of width 4"):
        linear.kd(normal(2, 3), normal(11, 4), normal(2, 11))
    with pytest.raises(InputError, match="student_hidden are"):
        linear.kd(normal(2, 4).long(), normal(11, 4), normal(2, 11))
    with pytest.raises(InputError, match="coefficients want a gradient"):
        linear.ptloss(normal(2, 4), normal(11, 4), normal(2, 11), coefficients=torch.ones(1, requires_grad=True))
    with pytest.raises(InputError, match="coefficients have shape"):
        linear.ptloss(normal(2, 4), normal(11, 4), normal(2, 11), coefficients=torch.ones(5, 2))


def test_jsd_at_a_small_beta_against_the_end():
    (hidden, head), teacher = pair((40,), 50)
    at, near, continued = (
        linear.jsd(hidden, head, teacher, beta=beta, normalize=normalize).item()
        for beta, normalize in ((0.0, False), (0.01, False), (0.01, True))
    )
    assert near == pytest.approx(0.01 * at, rel=0.25)
    assert continued == pytest.approx(at, rel=0.25)
    torch.testing.assert_close(continued, near / (0.01 * 0.99))
    assert linear.jsd(hidden, head, teacher, beta=1e-6, normalize=True).item() == pytest.approx(at, rel=1e-3)
