"""The statistics of a study, against scipy and by hand."""

import copy
import math

import numpy as np
import pytest
from scipy import stats

from preceptor.assess import Estimate
from preceptor.errors import InputError
from preceptor.study.grid.statistics import check, ranks, summarize
from preceptor.study.statistics import differs
from study.fake import LOSSES, TEACHERS, fake_study


@pytest.fixture(scope="module")
def study():
    return fake_study()


@pytest.fixture(scope="module")
def summary(study):
    return summarize(study)


def accuracy(study, loss, teacher):
    return np.array(study["students"][loss][teacher]["test"]["accuracy"])


def hand_made(brier, students, baseline):
    """One loss, ``kd``; rows of `brier` and `students` are teachers a, b, ..., columns are seeds."""
    names = tuple("abcdef"[: len(brier)])
    study = fake_study(names, ("kd",), len(baseline))
    study["baseline"]["test"]["accuracy"] = baseline
    for name, scores, accurate in zip(names, brier, students, strict=True):
        study["teachers"][name]["brier_recalibrated"] = scores
        study["teachers"][name]["optimum_brier_recalibrated"]["kd"] = scores
        study["students"]["kd"][name]["test"]["accuracy"] = accurate
    return study


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("teacher", TEACHERS)
def test_difference_is_the_paired_t_interval_in_points(study, summary, loss, teacher):
    cell = summary.cells[teacher, loss]
    found, baseline = accuracy(study, loss, teacher), study["baseline"]["test"]["accuracy"]
    low, high = stats.ttest_rel(found, baseline).confidence_interval(0.95)
    np.testing.assert_allclose((cell.difference.low, cell.difference.high), (100 * low, 100 * high), rtol=1e-9)
    assert cell.difference.value == pytest.approx(100 * (found.mean() - np.mean(baseline)))
    assert cell.accuracy.value == pytest.approx(found.mean())


@pytest.mark.parametrize("score", ["accuracy", "brier", "nll", "calibration_error"])
def test_teacher_scores_are_means_in_t_intervals(study, summary, score):
    for teacher in summary.teachers:
        values = study["teachers"][teacher.name]["heldout"][score]
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        found = teacher.scores[score]
        np.testing.assert_allclose((found.value, found.low, found.high), (np.mean(values), low, high), rtol=1e-9)


def test_a_teachers_students_are_averaged_over_losses(study, summary):
    for teacher in summary.teachers:
        values = np.mean([accuracy(study, loss, teacher.name) for loss in LOSSES], 0)
        assert teacher.students.value == pytest.approx(values.mean())
        assert teacher.students.high - teacher.students.value == pytest.approx(
            stats.t.ppf(0.975, 9) * values.std(ddof=1) / math.sqrt(10)
        )


def test_teachers_come_in_the_order_of_their_brier_score_at_the_best_temperature(study, summary):
    order = sorted(TEACHERS, key=lambda name: np.mean(study["teachers"][name]["brier_recalibrated"]))
    assert [teacher.name for teacher in summary.teachers] == order
    assert [teacher.rank for teacher in summary.teachers] == [1, 2, 3, 4, 5, 6]
    for teacher in summary.teachers:
        values = study["teachers"][teacher.name]["brier_recalibrated"]
        assert teacher.scores["brier_recalibrated"].value == pytest.approx(np.mean(values))


PREDICTIONS = {"accuracy": ("optimum_brier_recalibrated", -1), "brier": ("optimum_brier", 1)}


def foretold(summary, realised):
    return {"accuracy": summary.accuracy, "brier": summary.distance}[realised]


def means(study, realised):
    """What was predicted and what became, (losses, teachers) each."""
    key, _ = PREDICTIONS[realised]
    predicted = [[np.mean(study["teachers"][name][key][loss]) for name in TEACHERS] for loss in LOSSES]
    became = [[np.mean(study["students"][loss][name]["test"][realised]) for name in TEACHERS] for loss in LOSSES]
    return np.array(predicted), np.array(became)


@pytest.mark.parametrize("realised", PREDICTIONS)
def test_what_is_foretold_and_what_became_in_the_order_of_the_teachers(study, summary, realised):
    predicted, became = means(study, realised)
    order = [TEACHERS.index(teacher.name) for teacher in summary.teachers]
    found = foretold(summary, realised)
    np.testing.assert_allclose(found.predicted, predicted[:, order])
    np.testing.assert_allclose(found.realised, became[:, order])


@pytest.mark.parametrize("realised", PREDICTIONS)
def test_correlation_is_spearmans(study, summary, realised):
    predicted, became = means(study, realised)
    became *= PREDICTIONS[realised][1]
    found = foretold(summary, realised)
    for loss, x, y in zip(LOSSES, predicted, became, strict=True):
        assert found.correlation[loss].value == pytest.approx(stats.spearmanr(x, y).statistic)
    pooled = stats.pearsonr(*(np.ravel(stats.rankdata(side, axis=1)) for side in (predicted, became)))
    assert found.pooled.value == pytest.approx(pooled.statistic)


def test_an_older_study_has_no_prediction_of_the_accuracy(study, summary):
    older = copy.deepcopy(study)
    for teacher in older["teachers"].values():
        del teacher["brier_recalibrated"], teacher["optimum_brier_recalibrated"]
    found = summarize(older)
    assert found.accuracy is None
    assert found.distance.pooled == summary.distance.pooled
    order = sorted(TEACHERS, key=lambda name: np.mean(study["teachers"][name]["heldout"]["brier"]))
    assert [teacher.name for teacher in found.teachers] == order
    assert all(math.isnan(teacher.scores["brier_recalibrated"].value) for teacher in found.teachers)


def test_correlation_interval_is_the_bootstrap_over_seeds():
    """A slow reference: draw seeds, average, correlate, one resample at a time."""
    study = fake_study(losses=("kd",), num_seeds=6, seed=3)
    predicted = np.array([study["teachers"][name]["optimum_brier_recalibrated"]["kd"] for name in TEACHERS])
    realised = np.array([accuracy(study, "kd", name) for name in TEACHERS])
    rng, found = np.random.default_rng(5), []
    for counts in rng.multinomial(6, [1 / 6] * 6, size=300):
        seeds = np.repeat(np.arange(6), counts)
        found.append(stats.spearmanr(predicted[:, seeds].mean(-1), -realised[:, seeds].mean(-1)).statistic)
    summary = summarize(study, resamples=300, seed=5)
    interval = summary.accuracy.correlation["kd"]
    np.testing.assert_allclose((interval.low, interval.high), np.quantile(found, [0.025, 0.975]), rtol=1e-9)
    assert summary.accuracy.pooled == interval


def test_bootstrap_is_seeded(study, summary):
    assert summarize(study).accuracy.pooled == summary.accuracy.pooled
    assert summarize(study, seed=1, resamples=50).accuracy.pooled.value == summary.accuracy.pooled.value


def test_by_hand():
    study = hand_made(
        brier=[[0.1, 0.3], [0.3, 0.3], [0.2, 0.2]],
        students=[[0.80, 0.90], [0.70, 0.70], [0.90, 0.84]],
        baseline=[0.80, 0.80],
    )
    summary = summarize(study)
    assert [(teacher.name, teacher.rank) for teacher in summary.teachers] == [("a", 1), ("c", 1), ("b", 3)]
    cells = [summary.cells[name, "kd"] for name in "abc"]
    assert [cell.difference.value for cell in cells] == pytest.approx([5, -10, 7])
    assert differs(cells[1].difference)
    assert not differs(cells[0].difference)
    # Ranks 1.5, 3, 1.5 against 2, 3, 1: covariance 1.5, variances 1.5 and 2.
    assert summary.accuracy.correlation["kd"].value == pytest.approx(1.5 / math.sqrt(3))
    assert summary.predicted_lead.value == pytest.approx(0)
    assert summary.realised_lead.value == pytest.approx(2)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((0.1, 2.0), True), ((-2.0, -0.1), True), ((-1.0, 1.0), False), ((0.0, 1.0), False), ((math.nan,) * 2, False)],
)
def test_differs_only_where_the_interval_excludes_0(interval, expected):
    assert differs(Estimate(1.0, *interval)) is expected


def test_equal_means_share_a_rank_whatever_the_order_of_their_terms():
    assert ranks([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1, 0.1]) == [2, 2, 1]


def test_one_seed_has_no_interval():
    summary = summarize(fake_study(num_seeds=1))
    cell = summary.cells["mse", "kd"]
    assert math.isfinite(cell.difference.value)
    assert math.isnan(cell.difference.low)
    assert not differs(cell.difference)
    assert math.isfinite(summary.accuracy.pooled.value)
    assert math.isnan(summary.accuracy.pooled.low)


def test_one_teacher_has_nothing_to_correlate():
    summary = summarize(fake_study(("mse",), ("kd",), 3))
    assert math.isnan(summary.accuracy.pooled.value)
    assert math.isnan(summary.distance.pooled.value)
    assert summary.predicted_lead is None


def test_null_is_not_dropped_in_silence():
    study = fake_study()
    study["teachers"]["mse"]["brier_recalibrated"][0] = None
    study["students"]["kd"]["soteacher"]["test"]["accuracy"][1] = None
    summary = summarize(study)
    assert (summary.teachers[-1].name, summary.teachers[-1].rank) == ("mse", None)
    cell = summary.cells["soteacher", "kd"]
    assert math.isnan(cell.difference.value)
    others = [name for name in TEACHERS if name != "soteacher"]
    x = [np.mean(study["teachers"][name]["optimum_brier_recalibrated"]["kd"]) for name in others]
    y = [-accuracy(study, "kd", name).mean() for name in others]
    assert summary.accuracy.correlation["kd"].value == pytest.approx(stats.spearmanr(x, y).statistic)


def edited(path, value):
    """A study with one entry changed, or removed where `value` is ``...``."""
    study = fake_study(num_seeds=3)
    *parents, last = path.split(".")
    entry = study
    for key in parents:
        entry = entry[key]
    if value is ...:
        del entry[last]
    else:
        entry[last] = value
    return study


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema_version", ..., "lacks 'schema_version'"),
        ("schema_version", 2, "format 2, newer than this Preceptor's 1"),
        ("recipe", ..., "lacks 'recipe'"),
        ("seeds", [], "has no seeds"),
        ("teachers", {}, "has no teachers"),
        ("students", {}, "has no students"),
        ("baseline.test", ..., "lacks 'baseline.test'"),
        ("teachers.mse.heldout.nll", ..., r"lacks 'teachers\.mse\.heldout\.nll'"),
        ("teachers.mse.optimum_brier.ttm", ..., r"lacks 'teachers\.mse\.optimum_brier\.ttm'"),
        ("teachers.mse.brier_recalibrated", ..., r"lacks 'teachers\.mse\.brier_recalibrated'"),
        ("teachers.mse.optimum_brier_recalibrated.kd", ..., r"lacks 'teachers\.mse\.optimum_brier_recalibrated\.kd'"),
        ("students.kd.mse", ..., r"lacks 'students\.kd\.mse'"),
        ("students.kd.mse.test.accuracy", [0.5], r"students\.kd\.mse\.test\.accuracy has 1 values for 3 seeds"),
        ("baseline.heldout.nll", [0.5] * 4, r"baseline\.heldout\.nll has 4 values for 3 seeds"),
        ("baseline.test.accuracy", "good", r"baseline\.test\.accuracy is not a list of numbers"),
        ("baseline.test.accuracy", ["a", "b", "c"], "is not a list of numbers"),
        ("teachers.mse.reliability.count", [1, 2], r"mse\.reliability has lists of unequal length"),
    ],
)
def test_what_is_wrong_is_named(path, value, message):
    with pytest.raises(InputError, match=message):
        summarize(edited(path, value))


def test_what_is_right_passes(study):
    check(study)
