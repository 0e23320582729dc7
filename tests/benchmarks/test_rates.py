"""The choice of learning rates: its quick form held to its runs; a run that diverges is a row, not an end."""

import json
from pathlib import Path

import pytest

import rates
from preceptor.runs import read_result


@pytest.fixture
def size(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = rates.SIZES["quick"]
    monkeypatch.setitem(rates.SIZES, "quick", quick._replace(networks={"resnet8": (0.1, 1e30)}))


@pytest.mark.usefixtures("size")
def test_every_rate_is_scored_on_held_out_images_and_a_diverged_one_is_0(tmp_path: Path) -> None:
    rates.main(["--quick", "--device", "cpu", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "rates.json").read_text())["networks"]["resnet8"]
    (run,) = (path.parent for path in tmp_path.glob("resnet8/*/result.json"))
    assert run.name == "rate-0.1"
    result = read_result(run)
    assert found == {"0.1": result["heldout"]["last"]["accuracy"], "1e+30": 0.0}
    assert f"| resnet8 | **{100 * found['0.1']:.1f}** | 0.0 | 0.4 |" in (tmp_path / "rates.md").read_text()
    written = run.stat().st_mtime_ns
    rates.main(["--quick", "--device", "cpu", "--out", str(tmp_path)])  # nothing is trained again
    assert run.stat().st_mtime_ns == written


def test_the_recipes_rate_is_on_the_grid() -> None:
    networks = rates.SIZES["gpu"].networks
    assert set(rates.LIGHT) < set(networks)
    for network, grid in networks.items():
        assert rates.rate_of(network, "fast") in grid
        assert len(grid) == 4
