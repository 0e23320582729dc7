import numpy as np
import pytest
from scipy import stats

from preceptor.assess import (
    Estimate,
    bootstrap_interval,
    bootstrap_means,
    compare,
    mean_interval,
    proportion_interval,
    simultaneous_differences,
)
from preceptor.assess.intervals import ranks, studentised_intervals
from preceptor.errors import InputError


def test_mean_interval_against_scipy():
    values = np.random.default_rng(0).normal(size=7)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = mean_interval(values, level=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.value == pytest.approx(values.mean())


def test_mean_of_one_seed_has_no_interval():
    found = mean_interval([0.5])
    assert found.value == 0.5
    assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("values", [[], [[1.0, 2.0]]])
def test_mean_interval_of_no_list(values):
    with pytest.raises(InputError, match="list of numbers"):
        mean_interval(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_bad_level(level):
    with pytest.raises(InputError, match="between 0 and 1"):
        mean_interval([1.0, 2.0], level=level)


def test_bootstrap_interval_against_scipy():
    values = np.random.default_rng(1).exponential(size=300)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    found = bootstrap_interval(values, resamples=20_000)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.005)


def test_bootstrap_means_have_the_moments_of_resampling():
    values = np.random.default_rng(3).normal(size=(3, 50))
    means = bootstrap_means(values, resamples=20_000)
    np.testing.assert_allclose(means.mean(0), values.mean(-1), atol=0.005)
    np.testing.assert_allclose(np.cov(means.T) * 50, np.cov(values, ddof=0), atol=0.05)


def test_rows_share_their_resamples():
    values = np.random.default_rng(4).normal(size=40)
    means = bootstrap_means(np.stack([values, values + 1, -values]))
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 1)
    np.testing.assert_allclose(means[:, 2], -means[:, 0])


def test_blocks_do_not_change_the_means(monkeypatch):
    values = np.random.default_rng(5).normal(size=(2, 30))
    whole = bootstrap_means(values, resamples=100)
    monkeypatch.setattr("preceptor.assess.intervals._BLOCK", 100)
    np.testing.assert_allclose(bootstrap_means(values, resamples=100), whole)


def test_infinite_value_leaves_other_rows_alone():
    values = np.stack([np.arange(4.0), [0.0, 1.0, 2.0, np.inf]])
    means = bootstrap_means(values)
    assert np.isfinite(means[:, 0]).all()
    assert (means[:, 1] == np.inf).all()


def test_coverage_of_the_bootstrap_interval():
    rng = np.random.default_rng(6)
    draws = rng.beta(0.5, 2.0, size=(400, 200))
    covered = [0.2 in bootstrap_interval(values, seed=i, resamples=400) for i, values in enumerate(draws)]
    assert 0.90 <= np.mean(covered) <= 0.99


def test_simultaneous_intervals_under_the_null():
    """Six teachers of equal worth: all fifteen intervals hold 0 in about 95 % of the draws."""
    rng = np.random.default_rng(7)
    all_tied = []
    for i in range(400):
        values = rng.normal(size=200) + rng.normal(size=(6, 200)) * np.arange(1, 7)[:, None]
        differences = simultaneous_differences(values, bootstrap_means(values, resamples=400, seed=i))
        all_tied.append(all(0 in d for d in differences.values()))
    assert 0.92 <= np.mean(all_tied) <= 0.98


def test_simultaneous_factor_for_one_pair_is_that_of_the_normal():
    values = np.random.default_rng(8).normal(size=(2, 4000))
    difference = simultaneous_differences(values, bootstrap_means(values, resamples=4000))[0, 1]
    error = (values[0] - values[1]).std() / np.sqrt(4000)
    assert (difference.high - difference.value) / error == pytest.approx(1.96, abs=0.08)


def test_simultaneous_intervals_are_wider_for_more_pairs():
    values = np.random.default_rng(9).normal(size=(8, 300))
    means = bootstrap_means(values)
    few = simultaneous_differences(values[:2], means[:, :2])[0, 1]
    many = simultaneous_differences(values, means)[0, 1]
    assert many.low < few.low
    assert few.high < many.high


def test_equal_rows_are_tied_without_a_warning():
    values = np.random.default_rng(10).normal(size=20)
    rows = np.stack([values, values, values + 5])
    differences = simultaneous_differences(rows, bootstrap_means(rows))
    assert differences[0, 1].value == 0
    assert 0 in differences[0, 1]
    assert ranks(differences, 3) == [1, 1, 3]


def test_ranks_count_who_is_better_beyond_doubt():
    # Row 0 < row 1 < row 2 in mean; neighbours are not told apart, the ends are.
    differences = {(0, 1): Estimate(-1, -3, 1), (1, 2): Estimate(-1, -3, 1), (0, 2): Estimate(-2, -3, -1)}
    assert ranks(differences, 3) == [1, 1, 2]


def test_equal_ranks_are_always_ties():
    rng = np.random.default_rng(11)
    for seed in range(50):
        values = rng.normal(size=(6, 40)) * rng.uniform(0.1, 2, size=(6, 1)) + rng.normal(size=(6, 1)) * 0.4
        differences = simultaneous_differences(values, bootstrap_means(values, resamples=100, seed=seed))
        rank = ranks(differences, 6)
        assert all(0 in d for (i, j), d in differences.items() if rank[i] == rank[j])


@pytest.mark.parametrize(("successes", "n"), [(0, 12), (3, 12), (150, 200), (200, 200)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_of_a_proportion_is_scipys(successes: int, n: int, level: float) -> None:
    found = proportion_interval((np.arange(n) < successes).astype(float), level)
    wanted = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.value == successes / n


def test_what_was_not_seen_widens_and_does_not_move() -> None:
    values = np.zeros((2, 50))
    values[1] = 1e-4
    plain, wide = (
        simultaneous_differences(values, unseen=np.full((2, 50), worst), best=np.zeros((2, 50)))[0, 1]
        for worst in (0.0, 2.0)
    )
    assert 0 not in plain
    assert 0 in wide
    assert plain.value == wide.value
    # Two samples that were not seen, of 2 each: nothing else has any spread.
    assert wide.high - wide.value == pytest.approx(stats.t.ppf(0.975, 49) * np.sqrt(2) * 2 / 50)


def test_studentised_intervals_against_scipy_where_nothing_is_unseen() -> None:
    """The bootstrap-t of a skewed sample, with each resample's own error."""
    values = np.random.default_rng(12).exponential(size=60)
    [found] = studentised_intervals(values[None], np.zeros(1), resamples=4000)
    rng = np.random.default_rng(13)
    drawn = rng.choice(values, (20_000, 60))
    t = np.abs(drawn.mean(-1) - values.mean()) / (drawn.std(-1, ddof=1) / np.sqrt(60))
    wanted = np.quantile(t, 0.95) * values.std(ddof=1) / np.sqrt(60)
    assert found.high - found.value == pytest.approx(wanted, rel=0.05)
    assert found.value - found.low == pytest.approx(found.high - found.value)


@pytest.mark.parametrize("samples", [50, 200])
def test_differences_on_few_samples_are_covered(samples: int) -> None:
    """Two classifiers that differ on 3 % of the samples, where the one is right in 3 of 4: a difference of 0.015."""
    rng = np.random.default_rng(samples)
    covered = []
    for _ in range(400):
        differ = rng.random(samples) < 0.03
        first_right = np.where(differ, rng.random(samples) < 0.75, True)
        rows = np.stack([first_right, np.where(differ, ~first_right, True)]).astype(float)
        covered.append(0.015 in simultaneous_differences(rows, resamples=200)[0, 1])
    assert np.mean(covered) >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 400)


def test_two_samples_decide_nothing() -> None:
    values = np.array([[0.1, 0.2], [0.8, 0.4]])
    assert 0 in simultaneous_differences(values, bootstrap_means(values))[0, 1]


def test_whole_numbers_of_resamples_of_something() -> None:
    with pytest.raises(InputError, match=r"resamples is 10.5"):
        bootstrap_means(np.zeros((1, 3)), resamples=10.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one"):
        bootstrap_interval(np.array([]))


@pytest.mark.parametrize("groups", [2, 3, 5, 20, None])
def test_wilsons_ends_are_the_rates_that_the_mean_is_just_not_too_far_from(groups: int | None) -> None:
    values = np.repeat([1.0, 0.0], [60, 20])
    found = proportion_interval(values, alike=30.0, groups=groups)
    quantile = stats.norm.ppf(0.975) if groups is None else stats.t.ppf(0.975, groups - 1)
    for end in (found.low, found.high):
        assert abs(0.75 - end) == pytest.approx(quantile * np.sqrt(end * (1 - end) / 30))


def test_the_accuracy_of_few_groups_is_covered() -> None:
    """Groups in which all are right or wrong together, as often as not: three of them."""
    generator, covered = np.random.default_rng(0), []
    for _ in range(200):
        rates = generator.beta(1.5, 1.5, size=3)
        labels = np.zeros(90, np.int64)
        right = generator.random(90) < rates.repeat(30)
        logits = np.where(right[:, None], [2.0, 0.0], [0.0, 2.0]) + 0.01 * generator.random((90, 1))
        found = compare({"a": logits}, labels, groups=np.arange(3).repeat(30), resamples=20)
        covered.append(0.5 in found.teachers[0].scores["accuracy"])
    assert np.mean(covered) >= 0.93 - 2 * np.sqrt(0.93 * 0.07 / 200)
