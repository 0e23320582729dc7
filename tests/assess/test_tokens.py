"""Language models compared by document: against a bootstrap and sums by hand, and by how often intervals cover."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from preceptor.assess import TokenScores, compare_tokens
from preceptor.errors import InputError

GRID = (0.8, 1.0, 1.25)


def corpus(documents: int = 40, seed: int = 0, size: float = 4.0) -> dict[str, np.ndarray]:
    """Documents of unlike lengths, each harder or easier than the others."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(2, rng.lognormal(size, 0.6, documents)).astype(int)
    place = np.repeat(np.arange(documents), lengths)
    hard = np.exp(rng.normal(0, 0.3, documents))[place]
    nll = rng.gamma(1.0, 3.0, place.size) * hard / np.exp(0.045)
    return {
        "place": place,
        "nll": nll,
        "bytes": rng.integers(0, 9, place.size),
        "labels": rng.integers(0, 99, place.size),
    }


def scored(text: dict[str, np.ndarray], shift: Any = 0.0, **changed: Any) -> TokenScores:
    nll = torch.from_numpy(text["nll"] + shift)
    rng = np.random.default_rng(1)
    confidence = torch.from_numpy(rng.uniform(0.2, 1.0, len(nll)))
    return replace(
        TokenScores(
            documents=torch.from_numpy(text["place"] + 7),
            labels=torch.from_numpy(text["labels"]),
            bytes=torch.from_numpy(text["bytes"]),
            nll=nll,
            brier=torch.from_numpy(rng.uniform(0, 2, len(nll))),
            entropy=nll / 2,
            confidence=confidence,
            correct=(torch.from_numpy(rng.uniform(size=len(nll))) < confidence).double(),
            nll_at=torch.stack([nll + (math.log(t) - 0.1) ** 2 for t in GRID], -1),
            temperatures=GRID,
        ),
        **changed,
    )


def test_scores_are_means_over_tokens_and_quotients_of_sums() -> None:
    text = corpus()
    scores = scored(text)
    comparison = compare_tokens({"one": scores})
    [teacher] = comparison.teachers
    found = {name: each.value for name, each in teacher.scores.items()}
    assert found["nll"] == pytest.approx(text["nll"].mean())
    assert found["perplexity"] == pytest.approx(math.exp(text["nll"].mean()))
    assert found["bits_per_byte"] == pytest.approx(text["nll"].sum() / math.log(2) / text["bytes"].sum())
    assert found["accuracy"] == pytest.approx(float(scores.correct.mean()))
    assert found["brier"] == pytest.approx(float(scores.brier.mean()))
    assert found["entropy"] == pytest.approx(text["nll"].mean() / 2)
    assert found["calibration_error"] == pytest.approx(scores.means()["calibration_error"])
    assert found["best_temperature"] == pytest.approx(math.exp(0.1))
    assert found["nll_at_best_temperature"] == pytest.approx(text["nll"].mean())
    assert teacher.rank is None
    assert (comparison.num_samples, comparison.num_documents) == (len(text["nll"]), 40)
    assert comparison.num_bytes == text["bytes"].sum()


def by_hand(values: np.ndarray, sizes: np.ndarray, place: np.ndarray, resamples: int = 4000) -> float:
    """The spread of a quotient of sums where documents are drawn again."""
    rng, count = np.random.default_rng(5), place.max() + 1
    sums, held = (np.array([each[place == d].sum() for d in range(count)]) for each in (values, sizes))
    drawn = rng.integers(count, size=(resamples, count))
    return float((sums[drawn].sum(1) / held[drawn].sum(1)).std())


@pytest.mark.parametrize("name", ["nll", "bits_per_byte", "accuracy", "calibration_error"])
def test_intervals_are_as_wide_as_a_bootstrap_of_documents_says(name: str) -> None:
    text = corpus(200)
    scores = scored(text)
    values, sizes = {
        "nll": (text["nll"], np.ones(len(scores))),
        "bits_per_byte": (text["nll"] / math.log(2), text["bytes"]),
        "accuracy": (scores.correct.numpy(), np.ones(len(scores))),
        "calibration_error": (scores.bins().absolute().values, np.ones(len(scores))),
    }[name]
    spread = by_hand(values, sizes, text["place"])
    found = compare_tokens({"one": scores}).teachers[0].scores[name]
    assert found.value in found
    # 1.96 of these, and something for what was not seen: most where a few long and hard documents decide.
    assert 1.85 * spread < found.high - found.value < 3 * spread
    # By token they would be much too narrow for what documents share.
    if name == "nll":
        assert found.high - found.value > 1.2 * 1.96 * text["nll"].std() / math.sqrt(len(text["nll"]))


def test_differences_are_paired_and_ties_declared() -> None:
    text, rng = corpus(60), np.random.default_rng(3)
    noise = rng.normal(0, 0.3, len(text["nll"]))
    comparison = compare_tokens(
        {"twin": scored(text, 0.003 * noise), "worse": scored(text, 0.1 + noise), "good": scored(text)}
    )
    assert comparison.ranking[-1] == "worse"
    assert comparison.tie_groups == [["good", "twin"], ["worse"]] or comparison.tie_groups == [
        ["twin", "good"],
        ["worse"],
    ]
    behind = {(d.first, d.second): d for d in comparison.differences}
    found = behind[comparison.best, "worse"]
    assert not found.tie
    means = {"good": text["nll"].mean(), "worse": (text["nll"] + 0.1 + noise).mean()}
    by_pair = behind.get(("good", "worse")) or behind["twin", "worse"]
    assert by_pair.estimate.value == pytest.approx(means["good"] - means["worse"], abs=1e-3)
    # What documents have in common is in no difference: much narrower than the intervals of the scores.
    alone = comparison.teachers[0].scores["nll"]
    assert found.estimate.high - found.estimate.low < (alone.high - alone.low) / 3


def test_equal_teachers_are_tied_at_nothing() -> None:
    comparison = compare_tokens({"one": scored(corpus()), "same": scored(corpus())})
    assert comparison.tie_groups == [["one", "same"]]
    assert str(comparison.differences[0].estimate) == "0.000 [0.000, 0.000]"


def test_intervals_cover_on_simulated_corpora() -> None:
    """Of 100 corpora of 12 documents: of a mean NLL of 3, and of a difference of 0.05 that differs by document."""
    held = difference = 0
    for seed in range(100):
        text = corpus(12, seed, size=3.0)
        rng = np.random.default_rng(1000 + seed)
        shift = 0.05 + rng.normal(0, 0.05, 12)[text["place"]] + rng.normal(0, 0.2, len(text["nll"]))
        found = compare_tokens({"good": scored(text), "worse": scored(text, shift)}, resamples=50, seed=seed)
        [pair] = found.differences
        sign = -1 if pair.first == "good" else 1
        difference += 0.05 * sign in pair.estimate
        held += 3.0 in next(t for t in found.teachers if t.name == "good").scores["nll"]
    assert held >= 90
    assert difference >= 90


def test_a_single_document_has_no_interval_and_all_tie() -> None:
    text = corpus(1)
    comparison = compare_tokens({"good": scored(text), "worse": scored(text, 0.5)})
    assert comparison.ranking == ["good", "worse"]
    assert comparison.tie_groups == [["good", "worse"]]
    assert math.isnan(comparison.teachers[0].scores["nll"].low)
    assert comparison.notes[0].startswith("All tokens are of one document")
    assert "nan" not in str(comparison)
    assert comparison.to_dict()["teachers"][0]["scores"]["nll"]["low"] is None


def test_few_documents_are_noted() -> None:
    assert "There are 12 documents" in compare_tokens({"one": scored(corpus(12))}).notes[0]
    assert not any("rough" in note for note in compare_tokens({"one": scored(corpus(30))}).notes)


def test_an_unknown_brier_score_is_left_out() -> None:
    text = corpus()
    comparison = compare_tokens({"one": scored(text, brier=torch.full((len(text["nll"]),), math.nan))})
    assert "brier" not in comparison.teachers[0].scores
    assert "Brier" not in str(comparison)


def halved(text: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same text in tokens of half the size: twice as many, of the same bytes and nats."""
    first = text["bytes"] // 2
    return {
        "place": text["place"].repeat(2),
        "nll": text["nll"].repeat(2) / 2,
        "bytes": np.stack([first, text["bytes"] - first], 1).ravel(),
        "labels": text["labels"].repeat(2),
    }


def test_unlike_tokens_are_compared_in_bits_per_byte_alone() -> None:
    text = corpus(60)
    fine = halved(text)
    comparison = compare_tokens({"coarse": scored(text), "fine": scored(fine, 0.05)})
    assert comparison.criterion == "bits_per_byte"
    assert comparison.ranking == ["coarse", "fine"]
    assert set(comparison.teachers[1].scores) == {"bits_per_byte"}
    [difference] = comparison.differences
    extra = 0.05 * len(fine["nll"]) / math.log(2) / text["bytes"].sum()
    assert difference.estimate.value == pytest.approx(-extra)
    assert not difference.tie
    assert "only bits per byte can be compared" in comparison.notes[0]
    assert "All but" not in comparison.notes[0]
    assert "tokens," not in comparison.caption


def test_bytes_that_begin_a_row_may_be_missing_and_are_noted() -> None:
    text = corpus(60)
    fine = halved(text)
    starts = np.flatnonzero(np.diff(fine["place"], prepend=-1))
    kept = np.setdiff1d(np.arange(len(fine["nll"])), starts)
    cut = {name: each[kept] for name, each in fine.items()}
    share = (fine["bytes"].sum() - cut["bytes"].sum()) / fine["bytes"].sum()
    assert f"all but {share:.2%} of the bytes" in compare_tokens({"coarse": scored(text), "fine": scored(cut)}).notes[0]


def test_other_documents_are_refused() -> None:
    text = corpus(60)
    with pytest.raises(InputError, match="not on the same documents"):
        compare_tokens({"one": scored(text), "other": scored(corpus(60, seed=1))})
    shuffled = text | {"place": text["place"][::-1].copy()}
    with pytest.raises(InputError, match="of document"):
        compare_tokens({"one": scored(text), "other": scored(shuffled)})


def test_what_cannot_be_compared_is_refused() -> None:
    text = corpus()
    with pytest.raises(InputError, match="no teacher"):
        compare_tokens({})
    with pytest.raises(InputError, match="level is 2"):
        compare_tokens({"one": scored(text)}, level=2)
    broken = scored(text)
    broken.nll[5] = math.inf
    with pytest.raises(InputError, match="NLL of teacher 'b' for label 5 is inf"):
        compare_tokens({"a": scored(text), "b": broken})
    with pytest.raises(InputError, match="the nll in the scores of teacher 'one' have shape"):
        compare_tokens({"one": scored(text, nll=torch.zeros(3))})


def test_table_and_plain_data() -> None:
    text = corpus()
    comparison = compare_tokens({"good": scored(text), "[worse]": scored(text, 0.5)})
    shown = str(comparison)
    for part in ("[worse]", "bits per byte ↓", "perplexity ↓", "best T", "NLL there", "40 documents", "by NLL"):
        assert part in shown
    content = comparison.to_dict()
    assert content["criterion"] == "nll"
    assert content["num_documents"] == 40
    assert "num_classes" not in content
    assert content["teachers"][0]["scores"]["best_temperature"]["low"] is None
