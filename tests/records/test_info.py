"""What `preceptor record info` and `record verify` say of a record."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from preceptor.cli import app
from preceptor.records import Dense, Record, Sampled, TopK, scores
from records.test_folder import C, N, manifest, write

run = CliRunner()


@pytest.mark.parametrize(
    ("form", "promise"),
    [
        (Dense("float16"), "exact up to float16, at any temperature"),
        (TopK(3), "bounded from below, at temperatures 4, 2, 1.6, 1.25, 1, 0.8, 0.625, 0.5"),
        (Sampled(3), "unbiased, at temperatures 4, 2, 1.6, 1.25, 1, 0.8, 0.625, 0.5 (wttm: any)"),
    ],
    ids=str,
)
def test_info_says_what_is_held_and_what_it_is_good_for(tmp_path: Path, form, promise: str) -> None:
    write(tmp_path, manifest(form, num_samples=N))
    said = run.invoke(app, ["record", "info", str(tmp_path), "--json"])
    assert said.exit_code == 0, said.output
    told = json.loads(said.stdout)
    assert (told["samples"], told["classes"], told["views"], told["complete"]) == (N, C, 1, True)
    assert told["losses"] == promise
    expected = {name: round(float(each.mean()), 4) for name, each in scores(Record(tmp_path)).items()}
    assert told["teacher's scores"] == expected
    assert promise in run.invoke(app, ["record", "info", str(tmp_path)]).stdout


def test_verify_ends_with_1_where_something_is_wrong(tmp_path: Path) -> None:
    write(tmp_path, manifest(num_samples=N), torch.arange(20))
    said = run.invoke(app, ["record", "verify", str(tmp_path)])
    assert said.exit_code == 1
    assert "has 20 of 50 samples" in said.stdout
    write(tmp_path, manifest(num_samples=N))
    assert run.invoke(app, ["record", "verify", str(tmp_path)]).stdout == "50 samples of 1 view(s), 0 problem(s)\n"
    path = tmp_path / "writer-0" / "view-0-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    said = run.invoke(app, ["record", "verify", str(tmp_path), "--json"])
    assert said.exit_code == 1
    assert "view-0-00000.safetensors' is damaged" in json.loads(said.stdout)["problems"][0]


def test_no_record_is_one_sentence(tmp_path: Path) -> None:
    said = run.invoke(app, ["record", "info", str(tmp_path)])
    assert said.exit_code == 2
    assert "holds no record" in said.output
