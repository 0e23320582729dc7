import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from preceptor.assess import (
    brier,
    brier_decomposition,
    calibration_error,
    classwise_calibration_error,
    debiased_calibration_error,
    forecast,
    reliability,
)
from preceptor.errors import InputError

ALL = [calibration_error, debiased_calibration_error, classwise_calibration_error]


def draw(seed, num_samples, num_classes=4, temperature=1.0):
    """Logits at a temperature, labels from the distribution of the logits at temperature 1."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(num_samples, num_classes))
    return logits / temperature, (logits + rng.gumbel(size=logits.shape)).argmax(-1)


def quantile_bins(confidence, bins):
    """Equally filled bins by sorting: an oracle where confidences are distinct."""
    return np.argsort(confidence).reshape(bins, -1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.0])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_equal_width_against_torchmetrics(temperature, bins):
    logits, labels = draw(0, 500, temperature=temperature)
    expected = multiclass_calibration_error(
        torch.tensor(forecast(logits).probs), torch.tensor(labels), num_classes=4, n_bins=bins
    )
    found = calibration_error(logits, labels, bins=bins, binning="width")
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_equal_mass_against_sorting():
    logits, labels = draw(1, 600)
    probs = forecast(logits).probs
    groups = quantile_bins(probs.max(-1), 15)
    right = probs.argmax(-1) == labels
    expected = np.mean([abs(probs.max(-1)[g].mean() - right[g].mean()) for g in groups])
    assert calibration_error(logits, labels) == pytest.approx(expected)


def test_classwise_against_sorting():
    logits, labels = draw(2, 600)
    probs = forecast(logits).probs
    gaps = [abs(probs[g, c].mean() - (labels[g] == c).mean()) for c in range(4) for g in quantile_bins(probs[:, c], 15)]
    assert classwise_calibration_error(logits, labels) == pytest.approx(np.mean(gaps))


def test_classwise_equal_width_against_torchmetrics():
    logits, labels = draw(3, 500)
    probs = forecast(logits).probs
    per_class = [
        binary_calibration_error(torch.tensor(probs[:, c].copy()), torch.tensor(labels == c).int(), n_bins=15)
        for c in range(4)
    ]
    found = classwise_calibration_error(logits, labels, binning="width")
    assert found == pytest.approx(np.mean(per_class), abs=1e-6)


def test_debiased_against_the_formula_of_kumar():
    """With one confidence a bin, the variance of the gap is the paper's accuracy (1 - accuracy) / (n - 1)."""
    confidence = np.repeat([0.6, 0.8, 0.9], [30, 50, 20])
    right = np.random.default_rng(4).random(100) < confidence - 0.2
    probs = np.stack([confidence, 1 - confidence], -1)
    squared = 0.0
    for value in (0.6, 0.8, 0.9):
        here = right[confidence == value]
        noise = here.mean() * (1 - here.mean()) / (len(here) - 1)
        squared += len(here) / 100 * ((value - here.mean()) ** 2 - noise)
    found = debiased_calibration_error(forecast(probs, probabilities=True), 1 - right.astype(int), bins=100)
    assert found == pytest.approx(np.sqrt(squared))


def test_calibration_part_is_unbiased():
    """For given bins: drawn labels against the gap that the known posterior leaves in these bins."""
    temperature, num_samples = 0.6, 300
    logits, _ = draw(5, num_samples, temperature=temperature)
    truth = forecast(logits * temperature).probs
    probs = forecast(logits).probs
    expected = 0.0
    for c in range(4):
        groups = quantile_bins(probs[:, c], 15)
        expected += np.mean([(probs[g, c].mean() - truth[g, c].mean()) ** 2 for g in groups])
    rng = np.random.default_rng(6)
    labels = [(np.log(truth) + rng.gumbel(size=truth.shape)).argmax(-1) for _ in range(600)]
    found = np.array([brier_decomposition(logits, y).calibration for y in labels])
    # The plug-in estimate is off by the labels' variance over the 20 samples of a bin.
    plug_in_bias = (1 - (truth**2).sum(-1)).mean() / 20
    standard_error = found.std(ddof=1) / np.sqrt(len(found))
    assert plug_in_bias > 15 * standard_error
    assert abs(found.mean() - expected) < 4 * standard_error


def test_brier_parts_add_up():
    logits, labels = draw(7, 500)
    parts = brier_decomposition(logits, labels)
    assert parts.calibration + parts.refinement == pytest.approx(brier(logits, labels).mean())


def test_recalibration_moves_only_the_calibration_part():
    logits, labels = draw(8, 20_000, temperature=0.4)
    before, after = brier_decomposition(logits, labels), brier_decomposition(0.4 * logits, labels)
    assert before.calibration > 0.05
    assert after.calibration == pytest.approx(0, abs=2e-3)
    assert after.refinement == pytest.approx(before.refinement, abs=0.01)


def test_hand_computed():
    # Two confidences, 0.9 (right 1 in 2) and 0.6 (right 2 in 2): gaps 0.4 and 0.4.
    probs = forecast([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], probabilities=True)
    labels = [0, 1, 0, 0]
    assert calibration_error(probs, labels) == pytest.approx(0.4)
    # Squares 0.16 each; noise 0.5 * 0.5 / (2 - 1) in the first bin, none in the second.
    assert debiased_calibration_error(probs, labels) == pytest.approx(np.sqrt((0.16 - 0.25 + 0.16) / 2))
    assert debiased_calibration_error(probs, [0, 1, 0, 1]) == 0


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize("binning", ["mass", "width"])
def test_invariant_to_the_order_of_samples_even_with_equal_confidences(error, binning):
    logits, labels = draw(9, 300)
    logits = np.round(logits)
    order = np.random.default_rng(0).permutation(300)
    found = error(logits[order], labels[order], binning=binning)
    assert found == pytest.approx(error(logits, labels, binning=binning), abs=1e-12)


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_confidences_that_differ_by_rounding_share_a_bin(error, dtype):
    """A teacher of one confidence is as often right as it says; a constant in its logits changes nothing but digits."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(np.arange(1500) >= 1050).astype(int)
    logits = (np.log([0.7, 0.3]) + generator.normal(0, 10, (1500, 1))).astype(dtype)
    assert len(set(forecast(logits).probs.max(-1))) > 1
    assert error(logits, labels) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("error", ALL)
def test_a_stack_is_scored_as_its_members(error):
    members = [draw(seed, 200) for seed in range(3)]
    stack, labels = (np.stack(part) for part in zip(*members, strict=True))
    np.testing.assert_allclose(error(stack, labels), [error(*member) for member in members])


def test_reliability_diagram():
    logits, labels = draw(10, 600)
    diagram = reliability(logits, labels)
    probs = forecast(logits).probs
    groups = quantile_bins(probs.max(-1), 15)
    assert diagram.count.tolist() == [40] * 15
    np.testing.assert_allclose(diagram.confidence, probs.max(-1)[groups].mean(-1))
    np.testing.assert_allclose(diagram.accuracy, (probs.argmax(-1) == labels)[groups].mean(-1), atol=1e-12)


def test_reliability_of_an_empty_bin_is_nan():
    diagram = reliability([[0.0, 0.0]], [0], bins=2, binning="width")
    assert np.isnan(diagram.accuracy).tolist() == [False, True]


def test_a_bin_of_one_sample_counts_as_calibrated():
    assert debiased_calibration_error([[3.0, 0.0], [2.0, 0.0]], [1, 1], bins=2) == 0


@pytest.mark.parametrize(("options", "message"), [({"bins": 0}, "bins is 0"), ({"binning": "depth"}, "'depth'")])
def test_bad_binning(options, message):
    with pytest.raises(InputError, match=message):
        calibration_error(np.zeros((3, 2)), [0, 1, 0], **options)
