"""Samples that belong together, samples with weights, answers in place of labels, and what is said of bad ones."""

from typing import Any

import numpy as np
import pytest
import torch

from preceptor.assess import choose, compare, crossfitted, forecast, search_transform
from preceptor.assess.distance import draw_labels
from preceptor.assess.sampling import Sampling
from preceptor.errors import InputError
from preceptor.outputs import transformed


def drawn(samples: int, seed: int, classes: int = 3, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the truth, and labels drawn from it."""
    logits = spread * np.random.default_rng(seed).normal(size=(samples, classes))
    return logits, draw_labels(forecast(logits).probs, seed + 1)


def test_units_are_the_linearised_ratio_of_survey_statistics() -> None:
    generator = np.random.default_rng(0)
    values, weights = generator.normal(size=(2, 60)), generator.uniform(0.5, 2, 60)
    groups = generator.integers(0, 9, 60)
    sampling = Sampling.of(60, groups, weights)
    units = sampling.units(values)
    wanted = np.average(values, axis=1, weights=weights)
    np.testing.assert_allclose(units.mean(-1), wanted)
    # The delta method, by hand: residuals of each group's total, over the mean size.
    residuals = [
        [(weights * (row - mean))[groups == g].sum() for g in range(9)]
        for row, mean in zip(values, wanted, strict=True)
    ]
    np.testing.assert_allclose(units - wanted[:, None], np.array(residuals) / (weights.sum() / 9))


def test_whole_weights_are_repeats() -> None:
    logits, labels = drawn(120, 1)
    times = np.random.default_rng(2).integers(1, 4, 120)
    weighted = compare({"a": logits}, labels, weights=times).teachers[0].scores
    repeated = compare({"a": logits.repeat(times, axis=0)}, labels.repeat(times)).teachers[0].scores
    for name in ("accuracy", "brier", "nll", "entropy", "brier_recalibrated"):
        assert weighted[name].value == pytest.approx(repeated[name].value, rel=1e-5)


def test_intervals_of_repeated_items_cover_by_group() -> None:
    """60 items, 10 ratings of each: without groups the intervals are far too narrow."""
    flips = 0.3  # of each item, so that a's expected difference to b is known from many items
    covered, expected = {True: 0, False: 0}, _expected(flips)
    for seed in range(60):
        generator = np.random.default_rng(seed)
        logits = generator.normal(size=(60, 2)) * 2
        other = logits + generator.normal(size=(60, 2))
        teachers = {"a": logits.repeat(10, 0), "b": other.repeat(10, 0)}
        # The truth of an item is one class, whatever the teachers say: its ratings are alike.
        labels = (logits.argmax(-1) ^ (generator.random(60) < flips)).repeat(10)
        for grouped in covered:
            groups = np.arange(60).repeat(10) if grouped else None
            [difference] = compare(teachers, labels, groups=groups, resamples=200).differences
            value = difference.estimate if difference.first == "a" else -difference.estimate
            covered[grouped] += expected in value
    assert covered[True] >= 52
    assert covered[False] <= 40


def _expected(flips: float) -> float:
    """The difference of the two Brier scores over very many items."""
    generator = np.random.default_rng(99)
    logits = generator.normal(size=(400_000, 2)) * 2
    other = logits + generator.normal(size=(400_000, 2))
    top = logits.argmax(-1)
    truth = np.where(np.arange(2) == top[:, None], 1 - flips, flips)
    a, b = (forecast(each).probs for each in (logits, other))
    return float(((a**2 - 2 * a * truth) - (b**2 - 2 * b * truth)).sum(-1).mean())


def test_folds_never_split_a_group() -> None:
    groups = np.random.default_rng(3).integers(0, 20, 200)
    parts = Sampling.of(200, groups).folds(200, 5, 0)
    assert sorted(np.concatenate(parts)) == list(range(200))
    assert all(len(set(groups[one]) & set(groups[other])) == 0 for one in parts for other in parts if one is not other)
    with pytest.raises(InputError, match="20 groups"):
        Sampling.of(200, groups).folds(200, 30, 0)


def test_crossfitted_outputs_do_not_see_their_own_group() -> None:
    logits, labels = drawn(200, 4)
    groups = np.arange(200) // 10
    outputs = crossfitted(logits, labels, "vector", groups=groups)
    other = labels.copy()
    other[:10] = (other[:10] + 1) % 3
    np.testing.assert_array_equal(crossfitted(logits, other, "vector", groups=groups)[:10], outputs[:10])


def test_a_transform_of_copies_is_not_worthwhile_by_group() -> None:
    """Ratings of one item sit in all folds otherwise, and a transform of many parameters learns the items."""
    logits, labels = drawn(30, 5, classes=6)
    rows, answers = logits.repeat(20, 0), labels.repeat(20)
    alone = search_transform(rows, answers, "vector")
    grouped = search_transform(rows, answers, "vector", groups=np.arange(30).repeat(20))
    assert alone.worthwhile
    assert not grouped.worthwhile
    assert any("repeat another's logits" in note for note in alone.notes)
    assert not any("repeat another's logits" in note for note in grouped.notes)


def test_repeated_rows_are_noticed_up_to_rounding_and_others_are_not() -> None:
    logits, labels = drawn(300, 6)
    twice = np.concatenate([logits, logits[:30] + 7.0]).astype(np.float32)
    found = compare({"a": twice, "b": 2 * twice}, np.concatenate([labels, labels[:30]]))
    assert any(note.startswith("30 of 330 samples repeat another's logits") for note in found.notes)
    assert not any("repeat" in note for note in compare({"a": logits, "b": 2 * logits}, labels).notes)


def test_teachers_that_give_few_outputs_are_not_taken_for_copies() -> None:
    generator = np.random.default_rng(3)
    few, logits = generator.normal(size=(12, 3)), generator.normal(size=(400, 3))
    some = generator.integers(12, size=400)
    labels = draw_labels(forecast(few[some]).probs, 4)
    for teachers in ({"tree": few[some]}, {"tree": few[some], "net": logits}):
        assert not any("repeat another's" in note for note in compare(teachers, labels).notes)
    assert not any("repeat another's" in note for note in search_transform(few[some], labels, "temperature").notes)
    items = np.arange(400) % 10  # ten items of forty ratings
    assert any("390 of 400 samples repeat" in note for note in compare({"a": few[items]}, labels).notes)


def test_weights_are_said_by_what_they_are_worth() -> None:
    logits, labels = drawn(200, 7)
    weights = np.where(np.arange(200) < 100, 1.0, 1e-9)
    notes = compare({"a": logits}, labels, weights=weights).notes
    assert any("200 samples tell as much as 100 alike" in note for note in notes)


def test_counts_or_truth_are_enough() -> None:
    logits, _ = drawn(600, 8, spread=2.0)
    truth = forecast(logits).probs
    counts = np.array([np.random.default_rng(i).multinomial(20, p) for i, p in enumerate(truth)])
    teachers = {"sure": 4 * logits, "noise": np.random.default_rng(9).normal(size=logits.shape)}
    for known in ({"counts": counts}, {"truth": truth}):
        assert compare(teachers, **known).best == "sure"
        assert choose(teachers, **known, families=["temperature"]).single == "sure"
        found = search_transform(4 * logits, None, "temperature", **known)
        assert found.transform.temperature == pytest.approx(4, rel=0.05)
        assert found.worthwhile


def test_labels_that_the_counts_contradict_are_refused() -> None:
    logits, _ = drawn(300, 10, classes=5, spread=4.0)
    truth = forecast(logits).probs
    counts = np.array([np.random.default_rng(i).multinomial(30, p) for i, p in enumerate(truth)])
    wrong = (counts.argmax(-1) + 1) % 5
    for call in (
        lambda labels: compare({"a": logits}, labels, counts=counts),
        lambda labels: choose({"a": logits}, labels, counts=counts, families=["temperature"]),
        lambda labels: search_transform(logits, labels, "temperature", counts=counts),
    ):
        call(counts.argmax(-1))
        with pytest.raises(InputError, match=r"contradict the counts: in .* none of the raters gave"):
            call(wrong)


def test_labels_beside_few_raters_who_agree_in_nothing_are_taken() -> None:
    generator = np.random.default_rng(11)
    counts = np.array([generator.multinomial(2, np.full(10, 0.1)) for _ in range(200)])
    compare({"a": generator.normal(size=(200, 10))}, generator.integers(0, 10, 200), counts=counts)


def test_a_teacher_of_other_class_order_is_told_so_and_others_are_not() -> None:
    logits, labels = drawn(400, 12, classes=5, spread=3.0)
    swapped = logits[:, [0, 2, 1, 3, 4]]
    poor = np.random.default_rng(13).normal(size=logits.shape)
    notes = compare({"right": logits, "swapped": swapped, "poor": poor}, labels).notes
    [note] = [note for note in notes if "another order" in note]
    assert note.startswith("The teacher 'swapped'")
    assert "its class 2 is what the labels call 1" in note
    assert any("'swapped'" in note for note in choose({"swapped": swapped}, labels, families=["temperature"]).notes)


def test_too_few_samples_are_said() -> None:
    logits, labels = drawn(50, 14, spread=6.0)
    notes = compare({"a": logits, "b": 1.01 * logits}, labels).notes
    assert any("50 samples are too few to say anything" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"groups": np.zeros(60)}, "All samples are of one group"),
        ({"groups": np.arange(59)}, r"The groups have shape \(59,\)"),
        ({"groups": np.where(np.arange(60) == 7, np.nan, 1.0)}, "The group at row 7 is nan"),
        ({"weights": np.arange(60) - 1.0}, "The weight at row 0 is -1"),
        ({"weights": np.zeros(60)}, "not 0 to all"),
        ({"weights": np.ones((60, 1))}, r"The weights have shape \(60, 1\)"),
    ],
)
def test_groups_and_weights_that_cannot_be(options, sentence) -> None:
    logits, labels = drawn(60, 15)
    with pytest.raises(InputError, match=sentence):
        compare({"a": logits}, labels, **options)


def test_a_choice_of_nothing_still_gives_log_probabilities() -> None:
    import torch

    logits, labels = drawn(400, 16)
    choice = choose({"a": logits + 5}, labels, families=[])
    found = choice.log_probs({"a": torch.tensor(logits + 5)})
    np.testing.assert_allclose(found.exp().sum(-1), 1)


def test_what_weighs_nothing_tells_nothing() -> None:
    """Of 400 samples 20 count: an interval of accuracy, too, is one of 20."""
    rng, hits = np.random.default_rng(0), []
    weights = np.zeros(400)
    weights[:20] = 1.0
    for _ in range(200):
        labels = rng.integers(0, 3, 400)
        wrong = rng.random(400) < 0.05
        logits = 4.0 * np.eye(3)[np.where(wrong, (labels + 1) % 3, labels)] + 0.1 * rng.normal(size=(400, 3))
        found = compare({"a": logits}, labels, weights=weights, resamples=50).teachers[0].scores["accuracy"]
        hits.append(found.low <= 0.95 <= found.high)
    assert np.mean(hits) >= 0.9


def test_names_of_teachers_are_their_own() -> None:
    logits = np.eye(3)[[0, 1, 2] * 5]
    with pytest.raises(InputError, match="Two teachers have one name"):
        compare({1: logits, "1": logits + 1}, np.array([0, 1, 2] * 5))  # type: ignore[dict-item]


def test_more_folds_than_samples_that_weigh_anything_are_refused() -> None:
    logits, labels = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3
    weights = np.zeros(60)
    weights[:2] = 1e-320
    with pytest.raises(InputError, match="folds is 5 for 2 samples of weight above 0"):
        choose({"a": logits, "b": -logits}, labels, weights=weights)
    assert 0 <= compare({"a": logits}, labels, weights=weights).teachers[0].scores["brier"].value <= 2


@pytest.mark.parametrize("grouped", [False, True])
def test_samples_that_weigh_nothing_are_not_there(grouped: bool) -> None:
    logits, labels = drawn(90, 5)
    other = logits + np.random.default_rng(6).normal(size=logits.shape)
    weights = np.random.default_rng(7).uniform(0.5, 2, 90) * (np.arange(90) % 3 > 0)
    groups = np.arange(90) // 3 * 2 + (np.arange(90) % 3 == 0) if grouped else None
    there = weights > 0

    def found(rows: np.ndarray) -> list[float]:
        known = {"weights": weights[rows], "groups": None if groups is None else groups[rows]}
        comparison = compare({"a": logits[rows], "b": other[rows]}, labels[rows], resamples=100, **known)  # type: ignore[arg-type]
        estimates = [each for teacher in comparison.teachers for each in teacher.scores.values()]
        estimates += [difference.estimate for difference in comparison.differences]
        return [end for each in estimates for end in (each.value, each.low, each.high)]

    assert found(np.full(90, True)) == pytest.approx(found(there), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_a_choice_and_a_search_do_without_them_too(grouped: bool) -> None:
    logits, labels = drawn(120, 5, spread=2.0)
    teachers = {"sure": 4 * logits, "other": logits + np.random.default_rng(6).normal(size=logits.shape)}
    weights = np.random.default_rng(7).uniform(0.5, 2, 120) * (np.arange(120) % 4 > 0)
    groups = np.arange(120) // 4 * 2 + (np.arange(120) % 4 == 0) if grouped else None
    there, absurd = weights > 0, labels.copy()
    absurd[~there] = (absurd[~there] + 1) % 3

    def known(rows: np.ndarray | slice) -> dict[str, Any]:
        return {"weights": weights[rows], "groups": None if groups is None else groups[rows]}

    def chosen(rows: np.ndarray | slice, labels: np.ndarray) -> list[float]:
        given = {name: each[rows] for name, each in teachers.items()}
        found = choose(given, labels[rows], families=["temperature"], **known(rows))
        return [*found.weights.values(), *(end for step in found.steps for end in (step.gain.value, step.gain.low))]

    assert chosen(slice(None), absurd) == pytest.approx(chosen(there, labels), rel=1e-9)
    sure = teachers["sure"]
    found, expected = (
        search_transform(sure[rows], answers[rows], "vector", **known(rows))
        for rows, answers in ((slice(None), absurd), (there, labels))
    )
    assert found.transform == expected.transform
    assert [found.gain.value, found.gain.low] == pytest.approx([expected.gain.value, expected.gain.low], rel=1e-9)
    outputs = crossfitted(sure, absurd, "vector", **known(slice(None)))
    np.testing.assert_allclose(outputs[there], crossfitted(sure[there], labels[there], "vector", **known(there)))
    assert outputs[~there] == pytest.approx(transformed(torch.tensor(sure[~there]), expected.transform).numpy())


def test_few_that_weigh_most_have_wide_intervals() -> None:
    """By Student's t and what was not seen, of Kish's effective number: 10 of 200 samples weigh all but nothing."""
    logits, labels = drawn(200, 8)
    other = logits + np.random.default_rng(9).normal(size=logits.shape)
    weights = np.where(np.arange(200) < 10, 1.0, 1e-9)

    def width(rows: slice, **known: object) -> float:
        [found] = compare({"a": logits[rows], "b": other[rows]}, labels[rows], resamples=400, **known).differences  # type: ignore[arg-type]
        return found.estimate.high - found.estimate.low

    alone = width(slice(10))
    assert width(slice(200), weights=weights) > 0.8 * alone
