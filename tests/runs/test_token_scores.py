"""The scores of a run of token data: written, read back, refused; their means, and the best temperature."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy.optimize import minimize_scalar

from preceptor.errors import InputError
from preceptor.runs import TokenScores, has_token_scores, integrity, read_token_scores, write_token_scores
from preceptor.runs.files import load_tensors

GRID = (0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)


def scored(logits, labels, documents, sizes, temperatures=GRID) -> TokenScores:
    """By the definitions, in float64."""
    log_probs = logits.double().log_softmax(-1)
    probs, rows = log_probs.exp(), torch.arange(len(labels))
    at = [-(logits.double() / t).log_softmax(-1)[rows, labels] for t in temperatures]
    return TokenScores(
        documents=documents,
        labels=labels,
        bytes=sizes,
        nll=-log_probs[rows, labels],
        brier=((probs - torch.nn.functional.one_hot(labels, logits.shape[1])) ** 2).sum(-1),
        entropy=-(probs * log_probs).sum(-1),
        confidence=probs.max(-1).values,
        correct=(probs.argmax(-1) == labels).double(),
        nll_at=torch.stack(at, -1),
        temperatures=temperatures,
    )


def made(n=200, classes=7, sharp=1.0, seed=0) -> TokenScores:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator)
    labels = torch.distributions.Categorical(logits=logits)
    torch.manual_seed(seed)
    return scored(sharp * logits, labels.sample(), torch.arange(n) // 20, torch.arange(n) % 4)


def test_what_is_written_is_read(tmp_path):
    parts = {"heldout": {"last": made(), "best": replace(made(), nll=made().nll / 2)}, "test": {"last": made(50)}}
    assert not has_token_scores(tmp_path)
    write_token_scores(tmp_path, parts)
    assert has_token_scores(tmp_path)
    for part, kinds in parts.items():
        for kind, expected in kinds.items():
            found = read_token_scores(tmp_path, part, kind)
            assert found.temperatures == GRID
            assert len(found) == len(expected)
            for field in ("documents", "labels", "bytes"):
                assert getattr(found, field).dtype == torch.int32
                assert torch.equal(getattr(found, field).long(), getattr(expected, field))
            for field in ("nll", "brier", "entropy", "confidence", "correct", "nll_at"):
                assert getattr(found, field).dtype == torch.float32
                torch.testing.assert_close(getattr(found, field), getattr(expected, field).float(), rtol=0, atol=0)


def test_names_and_types_in_the_file(tmp_path):
    write_token_scores(tmp_path, {"heldout": {"last": made()}})
    with safe_open(tmp_path / "scores.safetensors", "pt") as file:
        names = set(file.keys())
        metadata = json.loads(file.metadata()["preceptor"])
    values = {f"heldout/last/{name}" for name in ("nll", "brier", "entropy", "confidence", "correct", "nll_at")}
    assert names == {"heldout/documents", "heldout/labels", "heldout/bytes"} | values
    assert metadata["temperatures"] == list(GRID)


def test_means_are_those_of_the_definitions():
    scores = made()
    found = scores.means()
    assert found["nll"] == pytest.approx(float(np.mean(scores.nll.numpy())))
    assert found["accuracy"] == pytest.approx(float(np.mean(scores.correct.numpy())))
    bits = float(scores.nll.sum()) / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits / int(scores.bytes.sum()))
    assert set(found) == {"accuracy", "brier", "nll", "bits_per_byte", "calibration_error", "entropy"}
    # Half of those that are 90 % sure are right: off by 0.4, whatever the bins.
    sure = replace(scores, confidence=torch.full((200,), 0.9), correct=(torch.arange(200) % 2).double())
    assert sure.means()["calibration_error"] == pytest.approx(0.4)


def test_bits_of_tokens_without_bytes_are_unknown():
    assert math.isnan(replace(made(), bytes=torch.zeros(200, dtype=torch.int64)).means()["bits_per_byte"])


@pytest.mark.parametrize("sharp", [0.8, 1.0, 1.3])
def test_best_temperature_is_near_the_optimum(sharp):
    scores = made(2000, sharp=sharp)
    torch.manual_seed(0)
    logits = sharp * torch.randn(2000, 7, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(2000)

    def nll(log_t):
        return -float((logits.double() / math.exp(log_t)).log_softmax(-1)[rows, scores.labels].mean())

    best = math.exp(minimize_scalar(nll, bounds=(-1, 1), method="bounded").x)
    assert scores.best_temperature() == pytest.approx(best, rel=0.02)
    assert nll(math.log(scores.best_temperature())) == pytest.approx(nll(math.log(best)), abs=2e-4)
    assert scores.best_temperature() == pytest.approx(sharp, rel=0.1)


def test_best_temperature_of_a_parabola_is_exact_and_at_an_end_is_the_end():
    log_t = torch.tensor(GRID, dtype=torch.float64).log()
    parabola = replace(made(), nll_at=((log_t - 0.1) ** 2 + 3).expand(200, -1))
    assert parabola.best_temperature() == pytest.approx(math.exp(0.1))
    assert parabola.nll_at_best_temperature() == pytest.approx(3)
    assert replace(made(), nll_at=log_t.expand(200, -1)).best_temperature() == 0.5
    assert replace(made(), nll_at=-log_t.expand(200, -1)).best_temperature() == 2.0
    one = replace(made(), nll_at=made().nll[:, None], temperatures=(1.0,))
    assert one.best_temperature() == 1.0


def test_best_temperature_beside_an_infinity_is_on_the_grid():
    nll = torch.tensor([math.inf, math.inf, 3.0, 4.0, 5.0, 6.0, 7.0]).expand(200, -1)
    assert replace(made(), nll_at=nll).best_temperature() == 0.85


@pytest.mark.parametrize(
    ("part", "kind", "sentence"),
    [
        ("tset", "last", "no scores of its part 'tset'; did you mean 'test'?"),
        ("heldout", "averge", "no scores of its weights 'averge'; did you mean 'average'?"),
        ("test", "average", "no scores of its weights 'average'; known: last."),
    ],
)
def test_what_is_not_there_is_said(tmp_path, part, kind, sentence):
    write_token_scores(tmp_path, {"heldout": {"last": made(), "average": made()}, "test": {"last": made()}})
    with pytest.raises(InputError) as error:
        read_token_scores(tmp_path, part, kind)
    assert sentence in str(error.value)


def test_a_run_without_scores_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no scores\.safetensors"):
        read_token_scores(tmp_path)


def test_a_changed_file_is_refused(tmp_path):
    write_token_scores(tmp_path, {"heldout": {"last": made()}})
    content = {"schema_version": integrity.SCHEMA, "files": integrity.manifest(tmp_path)}
    integrity.write_sealed(tmp_path / "result.json", content)
    read_token_scores(tmp_path)
    write_token_scores(tmp_path, {"heldout": {"last": made(seed=1)}})
    with pytest.raises(InputError, match="SHA-256"):
        read_token_scores(tmp_path)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"nll": torch.zeros(3)}, "the nll in the scores of 'heldout/best' have shape (3,); give (200,)"),
        ({"nll_at": torch.zeros(200, 3)}, "the nll_at in the scores of 'heldout/best' have shape (200, 3)"),
        ({"temperatures": (*GRID[:-1], 3.0)}, "at other temperatures"),
        ({"labels": torch.zeros(200, dtype=torch.int64)}, "the labels of 'heldout/best' are not those"),
        ({"labels": torch.zeros(0, dtype=torch.int64)}, "of no label"),
    ],
)
def test_scores_that_do_not_fit_are_not_written(tmp_path, changed, sentence):
    with pytest.raises(InputError) as error:
        write_token_scores(tmp_path, {"heldout": {"last": made(), "best": replace(made(), **changed)}})
    assert sentence in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_no_scores_and_temperatures_out_of_order_are_refused(tmp_path):
    with pytest.raises(InputError, match="no scores to write"):
        write_token_scores(tmp_path, {})
    with pytest.raises(InputError, match="ascending"):
        write_token_scores(tmp_path, {"heldout": {"last": replace(made(), temperatures=GRID[::-1])}})


def test_a_file_that_lacks_an_array_is_refused(tmp_path):
    from preceptor.runs.files import save_tensors

    write_token_scores(tmp_path, {"heldout": {"last": made()}})
    path = tmp_path / "scores.safetensors"
    tensors, metadata = load_tensors(path)
    del tensors["heldout/last/brier"]
    save_tensors(path, tensors, metadata)
    with pytest.raises(InputError, match="lacks 'heldout/last/brier'"):
        read_token_scores(tmp_path)
