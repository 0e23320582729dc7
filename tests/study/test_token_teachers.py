"""`preceptor assess` for language models: runs by their stored scores, records by their scalars, what is refused."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from preceptor.assess import TokenScores, compare_tokens
from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.records import Dense, Manifest, Record, RecordWriter
from preceptor.records.beside import write_beside
from preceptor.records.token_scores import token_scores
from preceptor.runs import integrity, read_predictions, read_token_scores, write_token_scores
from preceptor.runs.files import save_tensors
from preceptor.study.teachers import assess_teachers, read_candidates

N, V, LENGTH, DOCUMENTS = 600, 11, 16, 30
GRID = (0.8, 1.0, 1.25)


def text() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = 2 * torch.randn(N, V, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(truth.softmax(-1), 1, generator=generator)[:, 0]
    return {"truth": truth, "labels": labels, "documents": torch.arange(N) // (N // DOCUMENTS), "bytes": labels % 4}


def logits(noise: float, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return text()["truth"] + noise * torch.randn(N, V, generator=generator, dtype=torch.float64)


def scored(outputs: torch.Tensor) -> TokenScores:
    """By the definitions."""
    known, rows = text(), torch.arange(N)
    log_probs = outputs.log_softmax(-1)
    probs, labels = log_probs.exp(), known["labels"]
    return TokenScores(
        documents=known["documents"],
        labels=labels,
        bytes=known["bytes"],
        nll=-log_probs[rows, labels],
        brier=((probs - torch.nn.functional.one_hot(labels, V)) ** 2).sum(-1),
        entropy=-(probs * log_probs).sum(-1),
        confidence=probs.amax(-1),
        correct=(probs.argmax(-1) == labels).double(),
        nll_at=torch.stack([-(outputs / t).log_softmax(-1)[rows, labels] for t in GRID], -1),
        temperatures=GRID,
    )


def a_run(folder: Path, **kinds: TokenScores) -> Path:
    """The folder of a run of tokens, of which nothing but the scores is real."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text("data: digits\nmodel: mlp\n")
    write_token_scores(folder, {"heldout": kinds})
    for place, kind in enumerate(kinds):
        save_tensors(
            folder / f"{kind}.safetensors", {"weight": torch.full((1,), float(len(folder.name) + 100 * place))}
        )
    result = {"schema_version": integrity.SCHEMA, "verb": "teach", "heldout": {}, "test": None}
    integrity.write_sealed(folder / "result.json", result | {"files": integrity.manifest(folder)})
    return folder


def a_record(folder: Path, outputs: torch.Tensor, labels: torch.Tensor | None = None) -> Path:
    """A record of tokens, whose held-out part is that of the text; ids leave out positions without a label."""
    known, ids = text(), torch.arange(N) // (LENGTH - 1) * LENGTH + torch.arange(N) % (LENGTH - 1)
    for where in (folder, folder / "heldout"):
        with RecordWriter(where, Manifest(form=Dense(), num_classes=V, num_samples=N)) as writer:
            writer.write(ids, 0, outputs.log_softmax(-1), known["labels"] if labels is None else labels)
        order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
        columns = {"ids": ids, "documents": known["documents"].int(), "bytes": known["bytes"].int()}
        write_beside(where, "tokens", {name: each[order] for name, each in columns.items()}, {})
    return folder


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    good, better, bad = (scored(logits(noise)) for noise in (0.3, 0.29, 2.0))
    a_run(folder / "good", last=good, best=better)
    a_run(folder / "bad", last=bad)
    a_record(folder / "record", logits(1.0))
    np.savez(folder / "file.npz", logits=np.zeros((20, 3)), labels=np.arange(20) % 3)
    return folder


def run(house: Path, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(house)
    return CliRunner().invoke(app, ["assess", *arguments], catch_exceptions=False)


def test_runs_are_ranked_by_nll_from_their_scores(house: Path) -> None:
    [comparison] = found = assess_teachers([house / "bad", house / "good", f"{house}/good:best"])
    assert comparison.criterion == "nll"
    assert comparison.ranking[-1] == str(house / "bad")
    expected = compare_tokens({"x": read_token_scores(house / "bad")}).teachers[0]
    bad = comparison.teachers[-1]
    assert bad.scores == expected.scores
    assert bad.references[0].run == house / "bad"
    assert f"The weights or the temperature of '{house}/good:best' were selected" in found.notes[0]
    content = found.to_dict()
    assert content["candidates"][f"{house}/good:best"][0]["weights"] == "best"
    json.dumps(content, allow_nan=False)


def test_a_record_is_scored_from_its_scalars_alone(house: Path) -> None:
    found = token_scores(Record(house / "record" / "heldout"))
    expected = scored(logits(1.0))
    for name in ("nll", "brier", "entropy", "confidence", "correct"):
        torch.testing.assert_close(getattr(found, name).double(), getattr(expected, name), rtol=1e-3, atol=1e-3)
    for name in ("labels", "documents", "bytes"):
        assert torch.equal(getattr(found, name).long(), getattr(expected, name))
    assert found.temperatures == (0.5, 0.625, 0.8, 1.0, 1.25, 1.6, 2.0, 4.0)
    for place, temperature in enumerate(found.temperatures):
        at = -(logits(1.0) / temperature).log_softmax(-1)[torch.arange(N), text()["labels"]]
        torch.testing.assert_close(found.nll_at[:, place].double(), at, rtol=2e-3, atol=2e-3)


def test_a_record_and_a_run_of_one_text_are_compared(house: Path) -> None:
    [comparison] = assess_teachers([house / "record", house / "bad", house / "good"])
    assert comparison.ranking == [str(house / name) for name in ("good", "record", "bad")]
    assert len(comparison.tie_groups) == 3


def test_on_the_command_line(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = run(house, "good", "bad", "record", monkeypatch=monkeypatch)
    assert shown.exit_code == 0
    for part in ("bits per byte", "perplexity", "30 documents", "best T"):
        assert part in shown.stdout
    content = json.loads(run(house, "good", "bad", "--json", monkeypatch=monkeypatch).stdout)
    assert content["rankings"][0]["ranking"] == ["good", "bad"]
    assert content["rankings"][0]["num_documents"] == DOCUMENTS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("good file.npz", "'good' is a teacher of tokens and 'file.npz' is not; assess them apart"),
        ("good+bad", "'good+bad' is an ensemble"),
        ("good+bad", "preceptor record 'good+bad' --out FOLDER"),
        ("good:0.7+bad:0.3", "is an ensemble"),
        ("good good", "'good' is given twice"),
        ("good --counts x.npy", "leave counts out (on the command line: --counts)"),
        ("good --truth x.npy", "leave truth out"),
        ("good --labels x.npy", "leave labels out"),
        ("good --groups x.npy", "leave groups out"),
        ("good --data x.npz", "(on the command line: --data)"),
        ("good --transfer", "leave transfer out"),
        ("good --criterion brier_recalibrated", "leave criterion out"),
        ("good --loss wttm", "error: the loss is 'wttm', and the scores of teachers of tokens tell of kd alone"),
        ("good --loss '{name: kd, temperature: 2}'", "the loss is 'kd', and the scores of teachers of tokens"),
        ("good --loss dkd", "the loss is 'dkd', and the scores of teachers of tokens"),
        ("good --loss wttm --temperature 2", "leave the loss out (on the command line: --loss)"),
        ("good --temperature 2", "temperature is given, and teachers of tokens are scored"),
        ("good --page page.html", "leave page out"),
        ("good:average", "no scores of its weights 'average'; known: best, last."),
        ("bad:calibrated", "preceptor record 'bad:calibrated' --out FOLDER"),
        ("bad:member-0", "'bad:member-0' is none of these"),
        ("nowhere", "there is no run folder or file 'nowhere'"),
    ],
)
def test_what_makes_no_sense_is_refused(
    house: Path, arguments: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run(house, *shlex.split(arguments), monkeypatch=monkeypatch)
    assert refused.exit_code != 0
    assert sentence in " ".join(refused.output.split())


def test_the_same_run_under_another_path_counts_once(house: Path) -> None:
    [comparison] = assess_teachers([house / "good", house / "bad" / ".." / "good"])
    assert len(comparison.teachers) == 1


def test_a_changed_run_is_refused(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", last=scored(logits(1.0)))
    write_token_scores(folder, {"heldout": {"last": scored(logits(0.5))}})
    with pytest.raises(InputError, match="SHA-256"):
        assess_teachers([folder])


def test_records_that_lack_something_are_refused(tmp_path: Path) -> None:
    record = a_record(tmp_path / "unlabelled", logits(1.0), torch.full((N,), -1))
    with pytest.raises(InputError, match="was recorded without a label"):
        assess_teachers([record])
    part = a_record(tmp_path / "part", logits(1.0))
    columns = {"ids": torch.arange(5), "documents": torch.zeros(5).int(), "bytes": torch.zeros(5).int()}
    (part / "heldout" / "tokens.json").unlink()
    write_beside(part / "heldout", "tokens", columns, {})
    with pytest.raises(InputError, match="does not tell of the row 5 of its record"):
        assess_teachers([part])
    (part / "heldout" / "tokens.json").unlink()
    write_beside(part / "heldout", "tokens", {"ids": columns["ids"]}, {})
    with pytest.raises(InputError, match="lacks 'bytes'"):
        assess_teachers([part])
    (part / "heldout" / "record.json").unlink()
    with pytest.raises(InputError, match="has no held-out documents"):
        assess_teachers([part])


def test_where_predictions_are_wanted_it_says_that_there_are_scores(house: Path) -> None:
    with pytest.raises(InputError, match=r"is of tokens.*preceptor assess"):
        read_predictions(house / "good", "heldout/last")
    with pytest.raises(InputError):
        read_candidates([house / "good"])


def test_teachers_of_other_documents_are_refused(tmp_path: Path) -> None:
    one = a_run(tmp_path / "one", last=scored(logits(1.0)))
    moved = replace(scored(logits(1.0)), documents=text()["documents"] + 100)
    other = a_run(tmp_path / "other", last=moved)
    with pytest.raises(InputError, match="not on the same documents"):
        assess_teachers([one, other])
