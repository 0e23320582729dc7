"""WCoRD: exact transport by scipy, the critic in a slow loop and its Lipschitz bound, what is saved."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from losses.features import relations
from losses.features.relations import built, call, normal
from preceptor.errors import InputError
from preceptor.losses.features import WCoRD
from preceptor.losses.features.base import Setting
from preceptor.losses.features.wcord import _cut, transport_cost

STUDENT, TEACHER = normal(6, 5), normal(6, 9, seed=1)
INDEX = torch.tensor([3, 0, 39, 17, 8, 21])


def make(student=STUDENT, teacher=TEACHER, **options):
    return built(WCoRD(**{"dim": 8, "negatives": 12, **options}), student, teacher).eval()


def at(loss, student=STUDENT, teacher=TEACHER, index=INDEX, seed=7):
    torch.manual_seed(seed)
    return call(loss, student, teacher, index=index)


# --- the distance in the batch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_with_little_entropy_it_is_the_cheapest_assignment(seed):
    cost = normal(7, 7, seed=seed).abs()
    rows, columns = linear_sum_assignment(cost.numpy())
    found = transport_cost(cost, entropy=0.002, iterations=5000)
    assert found.item() == pytest.approx(cost.numpy()[rows, columns].mean(), rel=1e-2)


def test_with_much_entropy_it_is_the_mean():
    cost = normal(4, 9).abs()
    assert transport_cost(cost, entropy=1e6).item() == pytest.approx(cost.mean().item(), rel=1e-5)


def test_its_gradient_is_a_plan_between_uniform_distributions():
    cost = normal(4, 6).abs().requires_grad_()
    [plan] = torch.autograd.grad(transport_cost(cost, entropy=0.5), cost)
    np.testing.assert_allclose(plan.sum(1).numpy(), [1 / 4] * 4, rtol=1e-6)
    np.testing.assert_allclose(plan.sum(0).numpy(), [1 / 6] * 6, rtol=1e-6)
    # Of an entropic plan, no other two by two swap is cheaper: log plan + cost / entropy is a sum of two margins.
    rest = plan.log() + cost.detach() / 0.5
    np.testing.assert_allclose((rest - rest[:1] - rest[:, :1] + rest[0, 0]).numpy(), 0, atol=1e-9)


# --- the loss -----------------------------------------------------------------------------------------------------


def oracle(loss, places):
    def embed(layer, x):
        weight = layer.parametrizations.weight.original.detach().numpy()
        x = x.numpy() @ (weight / np.linalg.svd(weight)[1][0]).T + layer.bias.detach().numpy()
        return x / np.maximum(1, np.sqrt((x**2).sum(1, keepdims=True)))

    s, t = embed(loss.embed_student, STUDENT), embed(loss.embed_teacher, TEACHER)
    apart = 0.0
    for mine, bank in ((s, loss.memory.teacher.numpy()), (t, loss.memory.student.numpy())):
        for b, (own, *others) in enumerate(places):
            apart += np.mean([mine[b] @ bank[n] for n in others]) - mine[b] @ bank[own]
    unit = [x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (s, t)]
    cost = 1 - unit[0] @ unit[1].T
    plan = np.exp(-cost / loss.entropy)
    for _ in range(2000):
        plan /= len(s) * plan.sum(1, keepdims=True)
        plan /= len(s) * plan.sum(0, keepdims=True)
    return loss.global_weight * apart / len(s) + loss.local_weight * (plan * cost).sum()


@pytest.mark.parametrize("weights", [(0.8, 0.05), (0.0, 2.0), (1.0, 0.0)])
def test_oracle(weights):
    """With spectral norms that have settled."""
    loss = make(global_weight=weights[0], local_weight=weights[1], entropy=0.2).train()
    for _ in range(50):
        at(loss)
    loss.eval()
    torch.manual_seed(7)
    places = torch.cat([INDEX.unsqueeze(1), loss.others(INDEX, 12)], 1).tolist()
    assert at(loss).item() == pytest.approx(oracle(loss, places), rel=1e-3)


def test_the_critic_is_1_lipschitz_in_the_features():
    loss = make()
    loss.global_weight, loss.local_weight = 1.0, 0.0
    bank = torch.nn.functional.normalize(loss.memory.teacher)
    one, other = 0.05 * normal(200, 5, seed=2), 0.05 * normal(200, 5, seed=3)
    one[100:], other[100:] = one[100:] * 100, other[100:] * 100
    critic = [_cut(loss.embed_student(x)) @ bank.T for x in (one, other)]
    slope = (critic[0] - critic[1]).abs().amax(1) / (one - other).norm(dim=1)
    assert 0.2 < slope.max() < 1.001


def test_gradcheck():
    """Of all but the plan, which is held for the gradient as it is at the optimum."""
    loss = make(local_weight=0.0)
    torch.autograd.gradcheck(lambda x: at(loss, x), STUDENT.clone().requires_grad_())


def test_odd_batches():
    loss = make()
    assert at(loss, STUDENT[:1], TEACHER[:1], INDEX[:1]).isfinite()
    assert at(loss, STUDENT[:0], TEACHER[:0], INDEX[:0]) == 0
    check = lambda s, t: at(loss, s, t)  # noqa: E731
    relations.check_dead_features(check, STUDENT, TEACHER)
    relations.check_no_gradient_to_the_teacher(check, STUDENT, TEACHER)
    half = make(STUDENT.float(), TEACHER.float())
    for dtype in (torch.bfloat16, torch.float16):
        relations.check_half_precision(lambda s, t: at(half, s, t), STUDENT, TEACHER, dtype)


def test_a_run_continued_goes_on_as_if_nothing_had_been():
    loss = make().train()
    at(loss).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.parameters())
    before = loss.memory.student.clone()
    loss.end_step(lambda tensor: tensor)
    changed = (loss.memory.student != before).any(1).nonzero().flatten()
    assert changed.tolist() == sorted(INDEX.tolist())
    again = make().train()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(1)
    again.load_state_dict(loss.state_dict())
    for each in (loss, again):
        at(each, seed=9)
        each.end_step(lambda tensor: tensor)
    assert at(again, seed=10).equal(at(loss, seed=10))


def test_what_is_refused():
    for options in ({"entropy": 0}, {"negatives": 0}, {"global_weight": -1}, {"momentum": 1.0}):
        with pytest.raises(InputError, match=f"{next(iter(options))} is {next(iter(options.values()))}; give a"):
            WCoRD(**options)
    with pytest.raises(InputError, match=r"index reaches from 0 to 40"):
        at(make(), index=torch.tensor([0, 1, 2, 3, 4, 40]))
    one = Setting(num_samples=40, num_classes=4, labels=torch.zeros(40, dtype=torch.int64))
    with pytest.raises(InputError, match=r"all 40 labelled samples are of class 0"):
        built(WCoRD(), STUDENT, TEACHER, one)
