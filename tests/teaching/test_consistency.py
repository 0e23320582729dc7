"""SoTeacher's history against references that are slow, independent and obvious."""

import copy
import io

import numpy as np
import pytest
import torch

from preceptor.errors import InputError
from preceptor.teaching import Consistency, SoTeacher, cross_entropy

N, C, EPOCHS, BATCH = 13, 4, 3, 4


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


class Authors:
    """The authors' rule, simulated with its global epoch counter: 0 in the first epoch, then t in epoch t."""

    def __init__(self, epochs):
        self.epochs = epochs
        self.memory = [np.zeros(C) for _ in range(N)]
        self.counter = 0

    def start_epoch(self, epoch):
        self.t = epoch + 1
        self.counter = 0 if self.t == 1 else self.t

    def cost(self, i, z):
        return 0.0 if self.t == 1 else self.t / self.epochs * sum((softmax(z) - self.memory[i]) ** 2)

    def visit(self, i, z):
        tau = 1 / (1 + self.counter)
        self.memory[i] = (1 - tau) * self.memory[i] + tau * softmax(z)


class Reference:
    """Every prediction of every sample is kept, and averaged anew whenever it is asked for."""

    def __init__(self, epochs, average, decay=0.9):
        self.epochs, self.average, self.decay = epochs, average, decay
        self.past = [[] for _ in range(N)]

    def start_epoch(self, epoch):
        self.t = epoch + 1

    def target(self, i):
        past = self.past[i]
        if self.average == "authors":
            return sum(past, start=past[0]) / (len(past) + 1) if len(past) > 1 else past[0]
        if self.average == "mean":
            return sum(past) / len(past)
        weights = [self.decay ** (len(past) - 1)]
        weights += [(1 - self.decay) * self.decay ** (len(past) - 1 - j) for j in range(1, len(past))]
        return sum(w * p for w, p in zip(weights, past, strict=True))

    def cost(self, i, z):
        if self.t == 1 or not self.past[i]:
            return 0.0
        return self.t / self.epochs * sum((softmax(z) - self.target(i)) ** 2)

    def visit(self, i, z):
        self.past[i].append(softmax(z))


def prediction(epoch, index):
    """The logits of some samples in some epoch: any fixed function of both."""
    return np.stack([2 * np.random.default_rng([epoch, i]).normal(size=C) for i in index])


def bound(**options):
    consistency = Consistency(**options)
    consistency.bind(num_samples=N, num_classes=C)
    return consistency


def shuffled(epoch, drop_last=False):
    order = np.random.default_rng(epoch + 100).permutation(N)
    batches = [order[i : i + BATCH] for i in range(0, N, BATCH)]
    return batches[:-1] if drop_last else batches


def run(consistency, reference, epochs, batches_of):
    """Train both side by side; every cost is compared on the way."""
    for epoch in epochs:
        consistency.start_epoch(epoch, EPOCHS)
        reference.start_epoch(epoch)
        for index in batches_of(epoch):
            z = prediction(epoch, index)
            logits, rows = torch.tensor(z), torch.tensor(index)
            costs = consistency(logits, torch.zeros_like(rows), index=rows)
            expected = [reference.cost(i, row) for i, row in zip(index, z, strict=True)]
            np.testing.assert_allclose(costs.numpy(), expected, rtol=1e-5, atol=1e-7)
            consistency.observe(logits, rows, torch.ones_like(rows, dtype=torch.bool))
            for i, row in zip(index, z, strict=True):
                reference.visit(i, row)


def test_default_is_the_authors_code():
    consistency, authors = bound(), Authors(EPOCHS)
    run(consistency, authors, range(EPOCHS), shuffled)
    np.testing.assert_allclose(consistency.history.numpy(), authors.memory, rtol=1e-5, atol=1e-7)
    assert consistency.visits.tolist() == [EPOCHS] * N


@pytest.mark.parametrize("average", ["authors", "mean", "ema"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_three_shuffled_epochs(average, drop_last):
    consistency, reference = bound(average=average, decay=0.7), Reference(EPOCHS, average, 0.7)
    run(consistency, reference, range(EPOCHS), lambda epoch: shuffled(epoch, drop_last))
    assert consistency.visits.tolist() == [len(past) for past in reference.past]
    for i in range(N):
        expected = reference.target(i) if reference.past[i] else np.zeros(C)
        np.testing.assert_allclose(consistency.history[i].numpy(), expected, rtol=1e-5, atol=1e-7)


def test_authors_average_by_hand():
    consistency = bound()
    q = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])
    for row in q:
        consistency.observe(row.log().unsqueeze(0), torch.tensor([5]), torch.tensor([True]))
    torch.testing.assert_close(consistency.history[5], (2 * q[0] + q[1] + q[2]) / 4)


def test_a_first_visit_costs_nothing_even_late():
    consistency = bound()
    consistency.start_epoch(2, EPOCHS)
    logits, index = torch.randn(2, C), torch.tensor([3, 4])
    consistency.observe(logits[:1], index[:1], None)
    cost = consistency(torch.zeros(2, C), index=index)
    assert cost[0] > 0
    assert cost[1] == 0


@pytest.mark.parametrize(("schedule", "expected"), [("linear", [0, 1.0, 1.5, 2.0]), ("constant", [0, 2.0, 2.0, 2.0])])
def test_weight_of_each_epoch(schedule, expected):
    consistency = bound(weight=2.0, schedule=schedule)
    index = torch.tensor([0])
    consistency.observe(torch.zeros(1, C), index, None)
    certain = torch.tensor([[1e4, 0, 0, 0]])
    distance = 0.75**2 + 3 * 0.25**2
    for epoch, weight in enumerate(expected):
        consistency.start_epoch(epoch, 4)
        assert consistency(certain, index=index).item() == pytest.approx(weight * distance)


def test_gradient_flows_through_the_prediction_only():
    consistency = bound()
    first = torch.randn(2, C, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([1, 7])
    consistency.observe(first, index, None)
    consistency.start_epoch(1, 2)
    assert not consistency.history.requires_grad
    logits = torch.randn(2, C, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda z: consistency(z, index=index), (logits,))
    q = logits.detach().softmax(-1)
    distance = 2 * (q - first.detach().softmax(-1))
    consistency(logits, index=index).sum().backward()
    expected = q * (distance - (q * distance).sum(-1, keepdim=True))
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-7)


def test_masked_examples_leave_no_trace():
    consistency, clean = bound(), bound()
    logits = torch.randn(4, C)
    index, mask = torch.tensor([2, 9, 2, 10**6]), torch.tensor([True, True, False, False])
    dirty = logits.clone()
    dirty[2:] = torch.nan
    for epoch in range(2):
        consistency.start_epoch(epoch, 2)
        consistency.observe(dirty, index, mask)
        clean.observe(logits[:2], index[:2], None)
    torch.testing.assert_close(consistency.history, clean.history, rtol=0, atol=0)
    assert consistency.visits.tolist() == clean.visits.tolist()

    dirty[:2] = torch.randn(2, C)
    dirty.requires_grad_()
    costs = consistency(dirty, index=index, mask=mask)
    costs.sum().backward()
    assert dirty.grad is not None
    assert (costs[:2] > 0).all()
    assert costs[2:].tolist() == [0, 0]
    assert not dirty.grad[2:].any()


def test_a_mask_of_another_shape_is_refused():
    consistency, one = bound(), torch.tensor([True])
    logits, index = torch.randn(3, C), torch.tensor([4, 8, 2])
    for call in (consistency, consistency.observe):
        with pytest.raises(InputError, match=r"mask has shape \(1,\); give one flag per example, \(3,\)"):
            call(logits, index=index, mask=one)


def test_an_all_masked_batch():
    consistency = bound()
    before = copy.deepcopy(consistency.state_dict())
    consistency.observe(torch.full((2, C), torch.nan), torch.tensor([0, 1]), torch.tensor([False, False]))
    torch.testing.assert_close(consistency.state_dict(), before, rtol=0, atol=0)


def shards(index):
    """What two processes see of a batch: every second sample, the shorter shard padded by a repeat."""
    parts = [index[0::2], index[1::2]]
    longest = max(map(len, parts))
    padded = [np.concatenate([part, np.repeat(index[:1], longest - len(part))]) for part in parts]
    masks = [np.arange(longest) < len(part) for part in parts]
    return padded, masks


def test_two_processes_with_a_padded_shard_are_one():
    alone, processes = bound(), [bound(), bound()]
    for epoch in range(EPOCHS):
        for consistency in (alone, *processes):
            consistency.start_epoch(epoch, EPOCHS)
        for index in shuffled(epoch):
            cost = alone(torch.tensor(prediction(epoch, index)), index=torch.tensor(index)).sum()
            alone.observe(torch.tensor(prediction(epoch, index)), torch.tensor(index), None)

            padded, masks = shards(index)
            logits = [torch.tensor(prediction(epoch, part)) for part in padded]
            costs = [
                consistency(z, index=torch.tensor(part), mask=torch.tensor(mask)).sum()
                for consistency, z, part, mask in zip(processes, logits, padded, masks, strict=True)
            ]
            torch.testing.assert_close(sum(costs), cost)
            gathered = (
                torch.cat(logits),
                torch.tensor(np.concatenate(padded)),
                torch.tensor(np.concatenate(masks)),
            )
            for consistency in processes:
                consistency.observe(*gathered)
    for consistency in processes:
        torch.testing.assert_close(consistency.state_dict(), alone.state_dict(), rtol=0, atol=0)


def test_micro_batches_are_one_batch():
    """Forward sees parts of the step; observe sees the whole of it."""
    consistency = bound()
    index = torch.arange(6)
    consistency.observe(torch.randn(6, C), index, None)
    consistency.start_epoch(1, 2)
    logits = torch.randn(6, C)
    parts = [consistency(logits[s], index=index[s]) for s in (slice(0, 4), slice(4, 6))]
    torch.testing.assert_close(torch.cat(parts), consistency(logits, index=index))


@pytest.mark.parametrize("stack", [(3,), (2, 3)])
def test_a_stack_is_models_alone(stack):
    models = int(np.prod(stack))
    together = Consistency()
    together.bind(num_samples=N, num_classes=C, stack=stack)
    alone = [bound() for _ in range(models)]
    generator = torch.Generator().manual_seed(0)
    for epoch in range(EPOCHS):
        together.start_epoch(epoch, EPOCHS)
        logits = torch.randn(*stack, BATCH, C, generator=generator)
        orders = [torch.randperm(N, generator=generator)[:BATCH] for _ in range(models)]  # each its own data order
        index = torch.stack(orders).view(*stack, BATCH)
        mask = torch.rand(*stack, BATCH, generator=generator) < 0.7
        costs = together(logits, index=index, mask=mask).view(models, BATCH)
        together.observe(logits, index, mask)
        parts = zip(alone, logits.view(-1, BATCH, C), index.view(-1, BATCH), mask.view(-1, BATCH), strict=True)
        for i, (consistency, z, rows, keep) in enumerate(parts):
            consistency.start_epoch(epoch, EPOCHS)
            torch.testing.assert_close(costs[i], consistency(z, index=rows, mask=keep))
            consistency.observe(z, rows, keep)
    history = torch.stack([consistency.history for consistency in alone])
    torch.testing.assert_close(together.history, history.view(*stack, N, C), rtol=0, atol=0)
    visits = torch.stack([consistency.visits for consistency in alone])
    assert torch.equal(together.visits, visits.view(*stack, N))


def test_a_sample_met_twice_in_a_step_is_one_visit_with_the_mean():
    consistency = bound()
    q = torch.tensor([[0.7, 0.1, 0.1, 0.1], [0.1, 0.3, 0.3, 0.3], [0.25] * 4])
    consistency.observe(q.log(), torch.tensor([3, 3, 0]), torch.tensor([True] * 3))
    torch.testing.assert_close(consistency.history[3], (q[0] + q[1]) / 2)
    assert consistency.visits.tolist() == [1, 0, 0, 1] + [0] * (N - 4)


@pytest.mark.parametrize("average", ["authors", "mean", "ema"])
def test_checkpoint_in_the_middle_of_an_epoch(average):
    steps = [(epoch, index) for epoch in range(EPOCHS) for index in shuffled(epoch)]
    costs = {"straight": [], "resumed": []}

    def train(name, consistency, steps, epoch=None):
        for step_epoch, index in steps:
            if step_epoch != epoch:
                epoch = step_epoch
                consistency.start_epoch(epoch, EPOCHS)
            z, rows = torch.tensor(prediction(epoch, index)), torch.tensor(index)
            costs[name].append(consistency(z, index=rows))
            consistency.observe(z, rows, torch.ones(len(index), dtype=torch.bool))

    straight = bound(average=average)
    train("straight", straight, steps)

    first = bound(average=average)
    cut = 6  # in the second epoch
    train("resumed", first, steps[:cut])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = bound(average=average)
    second.load_state_dict(torch.load(file, weights_only=True))
    train("resumed", second, steps[cut:], epoch=steps[cut - 1][0])  # the epoch is not started again

    torch.testing.assert_close(second.state_dict(), straight.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(costs["resumed"], costs["straight"], rtol=0, atol=0)


def test_history_takes_what_its_documentation_says():
    consistency = Consistency()
    consistency.bind(num_samples=50_000, num_classes=100)
    state = consistency.history, consistency.visits
    assert sum(t.numel() * t.element_size() for t in state) == 4 * 50_000 * 100 + 8 * 50_000


def test_bad_input():
    with pytest.raises(InputError, match=r"is -1"):
        Consistency(-1)
    with pytest.raises(InputError, match=r"'step'.*'linear' or 'constant'"):
        Consistency(schedule="step")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"'plain'.*'authors', 'mean' or 'ema'"):
        Consistency(average="plain")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"decay.*is 1.0"):
        Consistency(average="ema", decay=1.0)
    logits, index = torch.zeros(2, C), torch.tensor([0, 1])
    with pytest.raises(InputError, match=r"call bind"):
        Consistency()(logits, index=index)
    with pytest.raises(InputError, match=r"call bind"):
        Consistency().observe(logits, index, None)
    with pytest.raises(InputError, match=r"needs each sample's index"):
        bound()(logits, index=None)
    with pytest.raises(InputError, match=r"\(3,\) does not fit.*\(2, 4\)"):
        bound()(logits, index=torch.arange(3))
    with pytest.raises(InputError, match=r"\(2, 3\) do not fit the history of shape \(13, 4\)"):
        bound()(logits[:, :3], index=index)
    with pytest.raises(InputError, match=r"\(1, 2, 4\) do not fit the history"):
        bound().observe(logits[None], index[None], None)


@pytest.mark.parametrize("wrong", [N, -1])
def test_an_index_outside_the_data_set_is_never_wrapped(wrong):
    with pytest.raises(RuntimeError, match=r"out of bounds"):
        bound()(torch.zeros(2, C), index=torch.tensor([0, wrong]))


def soteacher(**options):
    model = torch.nn.Linear(2, C)
    objective = SoTeacher(**options)
    objective.bind(model=model, num_samples=N, num_classes=C)
    return objective, model


def test_soteacher_is_the_sum_of_its_parts():
    objective, model = soteacher(lipschitz=0.1, consistency=0.5, average="mean", norm="spectral")
    parts = bound(weight=0.5, average="mean")
    logits, labels, index = torch.randn(3, C), torch.tensor([0, 1, 3]), torch.tensor([4, 8, 2])
    mask = torch.tensor([True, False, True])
    for epoch in range(2):
        for each in (objective, parts):
            each.start_epoch(epoch, 2)
        expected = cross_entropy(logits, labels, mask=mask) + parts(logits, index=index, mask=mask)
        torch.testing.assert_close(objective(logits, labels, index=index, mask=mask), expected)
        for each in (objective, parts):
            each.observe(logits, index, mask)
        logits = logits + 1.0 * torch.arange(C)
    expected = 0.1 * torch.linalg.matrix_norm(model.weight, 2)
    torch.testing.assert_close(objective.penalty(dict(model.named_parameters())), expected, rtol=1e-3, atol=0)


def test_soteacher_without_penalties_is_cross_entropy():
    objective, model = soteacher(lipschitz=0, consistency=0)
    objective.start_epoch(1, 2)
    logits, labels, index = torch.randn(3, C), torch.tensor([0, 1, 3]), torch.tensor([4, 8, 2])
    objective.observe(torch.randn(3, C), index, None)
    torch.testing.assert_close(objective(logits, labels, index=index), cross_entropy(logits, labels))
    assert objective.penalty(dict(model.named_parameters())).item() == 0


def test_soteachers_state_is_tensors_by_name_and_no_parameters():
    objective, _ = soteacher()
    assert set(objective.state_dict()) == {
        "consistency.history",
        "consistency.visits",
        "consistency.current_weight",
    }
    assert not list(objective.parameters())
