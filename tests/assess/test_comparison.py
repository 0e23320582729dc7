import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.special import softmax

import preceptor.assess as assess
from preceptor.assess import compare
from preceptor.errors import InputError


@pytest.fixture(scope="module")
def drawn():
    """Four teachers of falling worth, labels from the truth, and three raters a sample."""
    rng = np.random.default_rng(0)
    truth = 1.5 * rng.normal(size=(1500, 5))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(-1)
    counts = rng.multinomial(3, assess.forecast(truth).probs)
    teachers = {
        "noisy": truth + 1.5 * rng.normal(size=truth.shape),
        "true": truth,
        "overconfident": 2.5 * truth,
        "shaky": 2.5 * truth + 0.3 * rng.normal(size=truth.shape),
    }
    return teachers, labels, counts


@pytest.fixture(scope="module")
def comparison(drawn):
    teachers, labels, _ = drawn
    return compare(teachers, labels, class_names=list("abcde"), temperature=4.0)


def test_ranks_by_brier_score(drawn, comparison):
    teachers, labels, _ = drawn
    expected = sorted(teachers, key=lambda name: assess.brier(teachers[name], labels).mean())
    assert comparison.ranking == expected
    assert comparison.best == "true"
    assert comparison.criterion == "brier"
    assert [teacher.rank for teacher in comparison.teachers] == [1, 2, 2, 4]
    assert comparison.tie_groups == [["true"], ["overconfident", "shaky"], ["noisy"]]


def test_scores_are_those_of_the_functions(drawn, comparison):
    teachers, labels, _ = drawn
    logits, scores = teachers["shaky"], comparison.teachers[2].scores
    parts = assess.brier_decomposition(logits, labels)
    expected = {
        "accuracy": assess.accuracy(logits, labels).mean(),
        "brier": assess.brier(logits, labels).mean(),
        "brier_calibration": parts.calibration,
        "brier_refinement": parts.refinement,
        "brier_recalibrated": min(assess.brier(logits / t, labels).mean() for t in np.linspace(0.2, 8, 800)),
        "nll": assess.nll(logits, labels).mean(),
        "calibration_error": assess.calibration_error(logits, labels),
        "debiased_calibration_error": assess.debiased_calibration_error(logits, labels),
        "classwise_calibration_error": assess.classwise_calibration_error(logits, labels),
        "sharpness": assess.sharpness(logits).mean(),
        "entropy": assess.entropy(logits).mean(),
        "top_k_mass": assess.top_k_mass(logits, k=2).mean(),
        "renyi_entropy": assess.renyi_entropy(logits, temperature=4.0).mean(),
        "power_sum": assess.power_sum(logits, temperature=4.0).mean(),
    }
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected, rel=1e-5)
    assert all(score.low <= score.value <= score.high for score in scores.values())


def test_differences_are_paired_and_point_from_better_to_worse(drawn, comparison):
    teachers, labels, _ = drawn
    assert len(comparison.differences) == 6
    for difference in comparison.differences:
        paired = assess.brier(teachers[difference.first], labels) - assess.brier(teachers[difference.second], labels)
        assert difference.estimate.value == pytest.approx(paired.mean())
        assert difference.estimate.value <= 0
        assert difference.tie == (difference.first == "overconfident" and difference.second == "shaky")


def test_raters_rank_by_distance(drawn):
    teachers, labels, counts = drawn
    comparison = compare(teachers, labels, counts=counts)
    assert comparison.criterion == "distance"
    assert comparison.best == "true"
    for teacher in comparison.teachers:
        probs = assess.forecast(teachers[teacher.name]).probs
        assert teacher.scores["distance"].value == pytest.approx(assess.rater_distance(probs, counts).mean())
    first = comparison.differences[0]
    expected = assess.rater_distance_difference(
        *(assess.forecast(teachers[name]).probs for name in (first.first, first.second)), counts
    )
    assert first.estimate.value == pytest.approx(expected.mean())


def test_one_rater_ranks_as_labels_do_and_gives_no_distance(drawn, comparison):
    teachers, labels, _ = drawn
    single = compare(teachers, labels, counts=np.eye(5, dtype=int)[labels])
    assert single.ranking == comparison.ranking
    assert "distance" not in single.teachers[0].scores
    for ours, theirs in zip(single.differences, comparison.differences, strict=True):
        assert ours.estimate.low == pytest.approx(theirs.estimate.low)


def test_tensors_lists_and_probabilities_give_the_same(drawn):
    teachers, labels, _ = drawn
    teachers, labels = {name: logits[:100] for name, logits in teachers.items()}, labels[:100]
    expected = compare(teachers, labels, resamples=50).to_dict()
    tensors = {name: torch.tensor(logits) for name, logits in teachers.items()}
    assert compare(tensors, torch.tensor(labels), resamples=50).to_dict() == expected
    lists = {name: logits.tolist() for name, logits in teachers.items()}
    assert compare(lists, labels.tolist(), resamples=50).to_dict() == expected
    probabilities = {name: assess.forecast(logits).probs for name, logits in teachers.items()}
    found = compare(probabilities, labels, probabilities=True, resamples=50)
    assert found.teachers[0].scores["nll"].value == pytest.approx(expected["teachers"][0]["scores"]["nll"]["value"])


def test_order_of_samples_and_of_teachers_does_not_matter(drawn, comparison):
    teachers, labels, _ = drawn
    order = np.random.default_rng(1).permutation(len(labels))
    found = compare({name: teachers[name][order] for name in reversed(teachers)}, labels[order], temperature=4.0)
    assert found.ranking == comparison.ranking
    assert found.tie_groups == comparison.tie_groups
    for ours, theirs in zip(found.teachers, comparison.teachers, strict=True):
        assert {k: s.value for k, s in ours.scores.items()} == pytest.approx(
            {k: s.value for k, s in theirs.scores.items()}
        )


def test_same_seed_same_intervals(drawn):
    teachers, labels, _ = drawn
    first, second, other = (compare(teachers, labels, resamples=50, seed=seed) for seed in (1, 1, 2))
    assert first == second
    assert first.teachers[0].scores["sharpness"] != other.teachers[0].scores["sharpness"]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_coverage_of_calibration_intervals(temperature):
    """Conservative by design, calibrated or not; the truth is read off a large sample."""
    rng = np.random.default_rng(2)

    def draw(num_samples):
        logits = 1.5 * rng.normal(size=(num_samples, 3))
        return logits / temperature, (logits + rng.gumbel(size=logits.shape)).argmax(-1)

    logits, labels = draw(300_000)
    truth = {
        "calibration_error": assess.calibration_error(logits, labels),
        "debiased_calibration_error": assess.debiased_calibration_error(logits, labels),
        "classwise_calibration_error": assess.classwise_calibration_error(logits, labels),
        "brier_calibration": assess.brier_decomposition(logits, labels).calibration,
    }
    covered = dict.fromkeys(truth, 0)
    for seed in range(100):
        logits, labels = draw(400)
        scores = compare({"it": logits}, labels, resamples=200, seed=seed).teachers[0].scores
        for name in truth:
            # The large sample has noise of its own.
            covered[name] += scores[name].low - 0.002 <= truth[name] <= scores[name].high + 0.002
    assert min(covered.values()) >= 90


def test_equally_good_teachers_are_tied():
    """Under the null, with correlated teachers, a false verdict is rare."""
    rng = np.random.default_rng(3)
    verdicts = 0
    for seed in range(60):
        truth = rng.normal(size=(200, 3))
        labels = (truth + rng.gumbel(size=truth.shape)).argmax(-1)
        teachers = {str(i): truth + 0.7 * rng.normal(size=truth.shape) for i in range(5)}
        verdicts += len(compare(teachers, labels, resamples=300, seed=seed).tie_groups) > 1
    assert verdicts <= 6


def test_what_is_scored_is_what_the_loss_makes_the_students_optimum(drawn):
    teachers, labels, _ = drawn
    for loss in ("ttm", "wttm"):
        found = compare(teachers, labels, loss=loss, temperature=4.0)
        for teacher in found.teachers:
            softened, own = (softmax(teachers[teacher.name] / t, axis=-1) for t in (4.0, 1.0))
            brier = ((softened - np.eye(5)[labels]) ** 2).sum(-1).mean()
            assert teacher.scores["brier"].value == pytest.approx(brier)
            # WTTM's weight and what TTM adds to KD are powers of the teacher itself, which is not softened before.
            power_sum = (own**0.25).sum(-1)
            assert teacher.scores["power_sum"].value == pytest.approx(power_sum.mean())
            assert teacher.scores["renyi_entropy"].value == pytest.approx((np.log(power_sum) / 0.75).mean())
        assert found.ranking != compare(teachers, labels).ranking
        assert f"at temperature 4, which {loss} makes" in found.scored
    found = compare(teachers, labels, loss="ptloss", coefficients=[0.5, 0.1])
    proxy = assess.proxy_teacher(torch.tensor(teachers["shaky"]), [0.5, 0.1]).log_probs
    [shaky] = [teacher for teacher in found.teachers if teacher.name == "shaky"]
    assert shaky.scores["brier"].value == pytest.approx(assess.brier(proxy, labels).mean())
    assert found.to_dict()["coefficients"] == [0.5, 0.1]
    assert "[0.5, 0.1]" in found.scored
    assert compare(teachers, labels, loss="ptloss", coefficients=[[0.1]] * 5).scored.endswith("per class")


def test_single_teacher_is_scored_and_not_ranked(drawn):
    teachers, labels, _ = drawn
    alone = compare({"true": teachers["true"]}, labels)
    assert alone.ranking == []
    assert alone.tie_groups == []
    assert alone.differences == ()
    assert alone.best == "true"
    assert alone.teachers[0].rank is None
    assert "-" in rendered(alone)


def test_whom_nobody_beats_is_in_the_first_group_wherever_it_is_ranked(comparison):
    """A rough comparison may leave the third in doubt where a fine one has settled the second."""
    a, b, c, d = comparison.ranking
    teachers = [dataclasses.replace(t, rank=rank) for t, rank in zip(comparison.teachers, (1, 2, 1, 4), strict=True)]
    assert dataclasses.replace(comparison, teachers=tuple(teachers)).tie_groups == [[a, c], [b], [d]]


def test_identical_teachers_are_tied(drawn):
    teachers, labels, _ = drawn
    twins = compare({"a": teachers["true"], "b": teachers["true"].copy()}, labels)
    assert twins.tie_groups == [["a", "b"]]


def test_to_dict_is_json(comparison):
    found = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert found["schema_version"] == 2
    assert (found["loss"], found["temperature"], found["coefficients"]) == ("kd", 4.0, None)
    assert found["ranking"] == comparison.ranking
    assert found["class_names"] == list("abcde")
    assert found["teachers"][0]["scores"]["brier"].keys() == {"value", "low", "high"}
    assert len(found["differences"]) == 6
    assert (found["bins"], found["binning"], found["top_k"]) == (15, "mass", 2)


def test_infinite_nll_is_reported_and_is_null_in_json():
    comparison = compare({"sure": [[0.0, -np.inf], [0.0, -np.inf]]}, [0, 1])
    assert comparison.teachers[0].scores["nll"].value == math.inf
    scores = comparison.to_dict()["teachers"][0]["scores"]
    assert scores["nll"]["value"] is None
    assert scores["brier"]["value"] == 1.0


def rendered(comparison):
    console = Console(width=200, file=None, record=True, quiet=False)
    with console.capture() as capture:
        console.print(comparison.table())
    return capture.get()


def test_table(comparison):
    text = rendered(comparison)
    for part in (
        "Brier ↓",
        "1500 samples",
        "95% intervals",
        "Ranked by brier",
        *comparison.ranking,
        "Assessed for kd",
        "power sum",
    ):
        assert part in " ".join(text.split())
    gap = -comparison.differences[0].estimate
    assert gap.low <= gap.value <= gap.high
    assert str(gap) in text


def test_print_shows_the_table_and_the_notes(drawn, comparison, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    shown = str(comparison)
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert len(rows) == 4
    assert all(str(teacher.scores["brier"]) in row for teacher, row in zip(comparison.teachers, rows, strict=True))
    assert "\x1b" not in shown
    teachers, _, counts = drawn
    unlabelled = compare({"true": teachers["true"]}, counts=counts)
    assert str(unlabelled).splitlines()[-1].startswith("note: No labels were given: one a sample was drawn from the c")


def test_counts_are_enough(drawn):
    teachers, labels, counts = drawn
    alone, beside = compare(teachers, counts=counts), compare(teachers, labels, counts=counts)
    assert alone.differences == beside.differences
    assert alone.notes
    assert not beside.notes


def test_comparison_is_frozen(comparison):
    with pytest.raises(dataclasses.FrozenInstanceError):
        comparison.criterion = "accuracy"


def small():
    rng = np.random.default_rng(4)
    return {"a": rng.normal(size=(6, 3)), "b": rng.normal(size=(6, 3))}, [0, 1, 2, 0, 1, 2]


def test_agreeing_ids_and_class_names_pass():
    teachers, labels = small()
    ids = [f"sample-{i}" for i in range(6)]
    names = ("cat", "dog", "owl")
    shared = compare(teachers, labels, ids=ids, class_names=names)
    each = compare(teachers, labels, ids={"a": ids, "b": np.array(ids)}, class_names={"b": names, "a": names})
    assert shared == each
    assert each.class_names == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"ids": {"a": range(6), "b": [0, 2, 1, 3, 4, 5]}},
            "ids of teacher 'b' have 2 in place 1 where 'a' has 1",
        ),
        ({"ids": {"a": range(6), "b": list("012345")}}, "teacher 'b'"),
        ({"ids": range(5)}, r"shape \(5,\): hand in 6"),
        ({"ids": [0, 1, 2, 1, 4, 1]}, "ids of teacher 'a' have 1 3 times: list each once"),
        ({"ids": {"a": range(6)}}, "name the same teachers"),
        (
            {"class_names": {"a": list("xyz"), "b": list("yxz")}},
            "class_names of teacher 'b' have y in place 0",
        ),
        ({"class_names": ["x", "y"]}, "hand in 3"),
        ({"counts": np.zeros((6, 3), int)}, "Row 0 of the counts is empty"),
        ({"counts": np.ones((5, 3), int)}, "counts have shape"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"loss": "wttm", "temperature": 0.0}, "temperature is 0.0"),
        ({"loss": "wttm"}, "'wttm' has no optimum without its temperature: pass temperature"),
        ({"loss": "ptloss"}, "'ptloss' has no optimum without its coefficients"),
        ({"coefficients": [0.1]}, "'kd' takes no coefficients"),
        ({"loss": "dist"}, "'dist' has no known optimum"),
        ({"level": 95}, "level is 95"),
        ({"resamples": 0}, "resamples is 0"),
    ],
)
def test_bad_options(options, message):
    teachers, labels = small()
    with pytest.raises(InputError, match=message):
        compare(teachers, labels, **options)


def test_no_teacher():
    with pytest.raises(InputError, match="no teacher"):
        compare({}, [0, 1])


def test_unlike_shapes():
    teachers, labels = small()
    for rows, columns in [(5, 3), (6, 2)]:
        cut = teachers["b"][:rows, :columns]
        with pytest.raises(InputError, match=rf"'b' have shape \({rows}, {columns}\) but those of 'a' \(6, 3\)"):
            compare({"a": teachers["a"], "b": cut}, labels)
    with pytest.raises(InputError, match="'a' have shape"):
        compare({"a": np.zeros((2, 6, 3))}, labels)


@pytest.mark.parametrize("labels", [None, [0, 1, 2, 0, 1], [0, 1, 2, 0, 1, 3], [0, 1, 2, 0, 1, -1], [0.5] * 6])
def test_bad_labels(labels):
    with pytest.raises(InputError, match="label"):
        compare(small()[0], labels)


def test_fewer_samples_than_classes():
    with pytest.raises(InputError, match="2 samples for 3 classes"):
        compare({"a": np.zeros((2, 3))}, [0, 1])


def test_broken_row_names_teacher_and_row():
    teachers, labels = small()
    teachers["b"][3, 1] = np.nan
    with pytest.raises(InputError, match="teacher 'b' are not finite in row 3"):
        compare(teachers, labels)


def test_probabilities_as_logits_name_the_teacher_and_the_flag():
    teachers, labels = small()
    teachers["b"] = assess.forecast(teachers["b"]).probs
    with pytest.raises(InputError, match=r"teacher 'b' look like probabilities.*probabilities=True"):
        compare(teachers, labels)


def test_with_a_known_truth_the_ranking_is_by_the_distance_to_it(drawn):
    teachers, labels, _ = drawn
    truth = assess.forecast(teachers["true"]).probs
    comparison = assess.compare(teachers, labels, truth=truth)
    assert comparison.criterion == "distance"
    for teacher in comparison.teachers:
        probs = assess.forecast(teachers[teacher.name]).probs
        assert teacher.scores["distance"].value == pytest.approx(assess.squared_distance(probs, truth).mean())
    with pytest.raises(InputError, match="counts and truth are both given"):
        assess.compare(teachers, labels, truth=truth, counts=np.ones_like(truth))


def test_ranked_at_the_best_temperature_over_confidence_costs_nothing(drawn):
    teachers, labels, _ = drawn
    comparison = assess.compare(teachers, labels, criterion="brier_recalibrated")
    assert comparison.criterion == "brier_recalibrated"
    assert {"true", "overconfident"} <= set(comparison.tie_groups[0])
    with pytest.raises(InputError, match="did you mean 'brier'"):
        assess.compare(teachers, labels, criterion="breir")


def test_a_surer_twin_is_not_better_beyond_doubt_where_no_error_was_seen():
    """Both are right throughout: that the surer one would pay more for an error no label shows."""
    first = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        wrong = rng.random(500) < 0.002 * rng.exponential(size=500)
        gap = np.log(0.998 / 0.002) + rng.normal(size=500)
        twins = {"calibrated": np.stack([gap, 0 * gap], 1), "surer": np.stack([2 * gap, 0 * gap], 1)}
        found = compare(twins, wrong.astype(int), resamples=200)
        first += found.tie_groups[0] == ["surer"]
    assert first <= 2


def test_accuracy_of_all_right_is_not_certain():
    accuracy = compare({"a": 5 * np.eye(2)[np.arange(200) % 2]}, np.arange(200) % 2).teachers[0].scores["accuracy"]
    assert (accuracy.value, accuracy.high) == (1.0, 1.0)
    assert accuracy.low == pytest.approx(200 / (200 + 1.959964**2))  # Wilson's, in closed form where all are right


def test_ids_of_another_type_are_named_as_such():
    logits = {"a": np.eye(3)[[0, 1, 2]] - 1, "b": np.eye(3)[[0, 1, 1]] - 1}
    with pytest.raises(InputError, match="give both as one type"):
        compare(logits, [0, 1, 2], ids={"a": np.array([1, 2, 3]), "b": np.array(["1", "2", "3"])})


def test_teachers_that_are_no_dictionary_of_names(drawn):
    teachers, labels, _ = drawn
    for wrong in (teachers["true"], [teachers["true"], teachers["noisy"]]):
        with pytest.raises(InputError, match=r"handed in as \w+: hand in a dictionary, \{name: logits\}"):
            compare(wrong, labels)
    ragged = [[1.0, 2.0], [1.0, 2.0, 3.0]]
    with pytest.raises(InputError, match="rows of a list are of unlike lengths"):
        compare({"ragged": ragged}, [0, 1])
    with pytest.raises(InputError, match=r"have shape \(3, 1\): hand in one column for each of at least two classes"):
        compare({"single": np.zeros((3, 1))}, [0, 0, 0])


def test_names_are_shown_as_they_are(drawn):
    teachers, labels, _ = drawn
    console = Console(width=200, record=True)
    console.print(
        compare({"m[v2]": teachers["true"], 3: teachers["noisy"], "a[/b]": teachers["shaky"]}, labels).table()
    )
    shown = console.export_text()
    assert all(name in shown for name in ("m[v2]", " 3 ", "a[/b]"))


def test_what_was_not_seen_suits_the_criterion(drawn):
    """5z and z are one forecast at their best temperatures; where the truth is known, no label is unseen."""
    _, labels, _ = drawn
    z = np.random.default_rng(1).normal(size=(1500, 5))
    [difference] = compare({"z": z, "5z": 5 * z}, labels, criterion="brier_recalibrated").differences
    assert difference.estimate.high - difference.estimate.low < 1e-3
    truth = assess.forecast(z).probs
    known = compare({"a": 1.1 * z, "b": 1.3 * z}, labels, truth=truth).differences[0].estimate
    from_labels = compare({"a": 1.1 * z, "b": 1.3 * z}, labels).differences[0].estimate
    assert known.high - known.low < (from_labels.high - from_labels.low) / 5
