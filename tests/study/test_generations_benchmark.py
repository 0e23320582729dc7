"""The quick form of the benchmark of generations: its tables are of its runs, and it goes on."""

import json
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import generations
from generations import features, main

QUICK = ["--quick", "--device", "cpu", "--parts", "cifar10/0"]


def test_the_tables_are_of_the_runs_and_a_second_call_trains_nothing(tmp_path: Path) -> None:
    main([*QUICK, "--out", str(tmp_path)])
    ends = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    assert len(ends) == 6  # three chains of two generations
    main([*QUICK, "--out", str(tmp_path)])
    assert {path: path.stat().st_mtime_ns for path in ends} == ends
    found = json.loads((tmp_path / "generations.json").read_text())
    chain = found["sources"]["cifar10"]["chains"]["tolerant"]
    for number, link in enumerate(chain):
        run = tmp_path / "cifar10" / "seed-0" / "tolerant" / f"generation-{number}"
        result = json.loads((run / "result.json").read_text())
        assert link["accuracy"] == [result["test"]["last"]["accuracy"]]
        assert link["probe"] == [json.loads((run / "probe.json").read_text())["accuracy"]]
    assert chain[0]["ensemble"] == chain[0]["accuracy"]
    assert "| tolerant | 1 |" in (tmp_path / "generations.md").read_text()


def test_a_spent_budget_starts_nothing(tmp_path: Path) -> None:
    main([*QUICK, "--out", str(tmp_path), "--budget", "-1"])
    assert not list(tmp_path.rglob("result.json"))
    assert json.loads((tmp_path / "generations.json").read_text())["sources"] == {}


def test_features_are_what_the_classifier_is_given() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    images = torch.randn(700, 3, 2, 2)
    found = features(model, images)
    torch.testing.assert_close(model[3](found), model(images))
    labels = np.arange(700) % 3
    assert LogisticRegression().fit(found.numpy(), labels).score(found.numpy(), labels) > 1 / 3


def test_the_first_images_are_spread_over_a_sorted_data_set() -> None:
    part = generations.tiny(Path(), Path()).train
    few = generations._spread(part, 30)
    assert len(few.labels) == 30
    torch.testing.assert_close(few.inputs[-1], part.inputs[-1])
