"""The memory of contrastive losses, and what negatives are drawn."""

import threading

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from losses.features.relations import normal
from preceptor.errors import InputError
from preceptor.losses.features._memory import Memory, OtherClasses

LABELS = torch.tensor([2, 0, -1, 0, 1, 1, 0, -1, 2, 0, 1, 0])
WHOLE = np.arange(12)


def alone(tensor):
    return tensor


def memory(num_samples=6, dim=4, momentum=0.5):
    torch.manual_seed(0)
    return Memory(num_samples, dim, momentum).double()


# --- the memory ---------------------------------------------------------------------------------------------------


def test_it_starts_uniform_with_mean_square_of_one_in_dim():
    torch.manual_seed(1)
    start = Memory(5000, 16, 0.5).student
    assert start.abs().max() <= 1 / np.sqrt(16 / 3)
    assert start.square().mean().item() == pytest.approx(1 / 16, rel=0.02)


def test_it_moves_by_momentum_and_stays_of_unit_length():
    bank = memory(momentum=0.25)
    before = bank.student.numpy().copy(), bank.teacher.numpy().copy()
    index, new = torch.tensor([4, 1]), (normal(2, 4), normal(2, 4, seed=1))
    bank.hold(index, *new)
    assert (bank.student.numpy() == before[0]).all()  # a step sees it as the step before left it
    bank.merge(alone)
    for found, old, embedded in zip((bank.student, bank.teacher), before, new, strict=True):
        expected = old.copy()
        for row, place in enumerate(index.tolist()):
            mixed = 0.25 * old[place] + 0.75 * embedded[row].numpy()
            expected[place] = mixed / np.sqrt((mixed**2).sum())
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_micro_batches_and_processes_leave_what_one_batch_leaves():
    index, student, teacher = torch.tensor([5, 0, 3, 2, 1]), normal(5, 4), normal(5, 4, seed=1)
    whole = memory()
    whole.hold(index, student, teacher)
    whole.merge(alone)
    several = memory()
    for some in (slice(0, 2), slice(2, 5)):
        several.hold(index[some], student[some], teacher[some])
    several.merge(alone)
    torch.testing.assert_close(several.state_dict(), whole.state_dict(), rtol=0, atol=0)
    for found in run_processes([memory(), memory()], [slice(0, 4), slice(4, 5)], index, student, teacher):
        torch.testing.assert_close(found.state_dict(), whole.state_dict(), rtol=0, atol=0)
    for found in run_processes([memory(), memory()], [slice(0, 5), slice(5, 5)], index, student, teacher):
        torch.testing.assert_close(found.state_dict(), whole.state_dict(), rtol=0, atol=0)


def run_processes(banks, parts, index, student, teacher):
    """Each memory in a thread that gathers as processes do: all get the rows of all."""
    barrier, given = threading.Barrier(len(banks)), [None] * len(banks)

    def run(rank):
        def gather(tensor):
            given[rank] = tensor
            barrier.wait(10)
            assert len({(each.dtype, each.shape[1:]) for each in given}) == 1
            together = torch.cat(given)
            barrier.wait(10)
            return together

        if len(index[parts[rank]]):
            banks[rank].hold(index[parts[rank]], student[parts[rank]], teacher[parts[rank]])
        banks[rank].merge(gather)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(banks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return banks


def test_of_a_sample_seen_twice_the_last_counts():
    once, twice = memory(), memory()
    student, teacher = normal(3, 4), normal(3, 4, seed=1)
    once.hold(torch.tensor([2, 4]), student[1:], teacher[1:])
    twice.hold(torch.tensor([4, 2, 4]), student, teacher)
    once.merge(alone)
    twice.merge(alone)
    torch.testing.assert_close(twice.state_dict(), once.state_dict(), rtol=0, atol=0)


def test_a_step_in_which_nothing_counted_changes_nothing():
    bank = memory()
    before = bank.student.clone()
    bank.merge(alone)
    assert bank.student.equal(before)


def test_saved_and_loaded_and_refused_for_other_data():
    saved, new = memory(), Memory(6, 4, 0.5).double()
    new.load_state_dict(saved.state_dict())
    assert new.teacher.equal(saved.teacher)
    with pytest.raises(InputError, match=r"of 6 samples but the data are of 7; continue with the data"):
        Memory(7, 4, 0.5).load_state_dict(saved.state_dict())


def test_a_sample_that_it_has_no_place_for():
    for index in ([0, 6], [-1, 2]):
        with pytest.raises(InputError, match=r"index reaches from .* the memory is of 6 samples"):
            memory().check(torch.tensor(index))
    memory().check(torch.tensor([], dtype=torch.int64))


# --- negatives ----------------------------------------------------------------------------------------------------


def draws(count, index, times=200, labels=LABELS):
    torch.manual_seed(0)
    other = OtherClasses(labels, len(labels))
    return np.stack([other(torch.tensor(index), count).numpy() for _ in range(times)])


@pytest.mark.parametrize("count", [1, 4, 5, 7, 8, 30])
def test_they_are_labelled_and_of_another_class(count):
    found = draws(count, [0, 1, 4, 3])
    assert found.shape[1:] == (4, count)
    for row, label in enumerate([2, 0, 1, 0]):
        assert not np.isin(LABELS[found[:, row]], [label, -1]).any()


@pytest.mark.parametrize("count", [4, 5, 7, 8])
def test_they_are_all_different_where_there_are_enough(count):
    """8, 5 and 7 samples are of another class than 2, 0 and 1."""
    found = draws(count, [0, 1, 4], times=50)
    for row, others in enumerate([8, 5, 7]):
        all_different = {len(set(each)) == count for each in found[:, row].tolist()}
        assert all_different == {True} if others >= count else False in all_different


@pytest.mark.parametrize("count", [1, 3, 5, 20])
def test_each_has_the_same_chance(count):
    found = draws(count, [1, 4], times=2000)
    for row, label in enumerate([0, 1]):
        others = [place for place in range(12) if LABELS[place] not in (label, -1)]
        seen = [(found[:, row] == place).sum() for place in others]
        assert sum(seen) == 2000 * count
        assert chisquare(seen).pvalue > 1e-4


def test_pairs_of_different_negatives_have_the_same_chance():
    found = draws(2, [1], times=4000)[:, 0]
    others = [place for place in range(12) if LABELS[place] in (1, 2)]
    pairs = [(found == (a, b)).all(1).sum() for a in others for b in others if a != b]
    assert sum(pairs) == 4000
    assert chisquare(pairs).pvalue > 1e-4


def test_a_sample_without_a_label_gets_any():
    for labels, index in ((LABELS, [2]), (torch.full((12,), -1), [2])):
        found = draws(6, index, times=500, labels=labels)
        assert chisquare(np.bincount(found.ravel(), minlength=12)).pvalue > 1e-4
    assert OtherClasses(None, 12)(torch.tensor([1, 2]), 5).shape == (2, 5)


def test_the_same_seed_draws_the_same_and_they_are_not_saved():
    assert (draws(5, [0, 1]) == draws(5, [0, 1])).all()
    assert not OtherClasses(LABELS, 12).state_dict()


def test_a_class_of_all_is_refused():
    with pytest.raises(InputError, match=r"all 3 labelled samples are of class 1; .* data of two or more"):
        OtherClasses(torch.tensor([1, -1, 1, 1]), 4)
