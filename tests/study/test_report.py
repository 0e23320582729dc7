"""The table, the page and the picture of a study."""

import copy
import json
import re
import struct
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from preceptor.assess import Estimate
from preceptor.errors import InputError
from preceptor.study import generations
from preceptor.study.grid.report import markdown, table, write_picture, write_report
from preceptor.study.text import difference, plus_minus
from study.fake import LOSSES, TEACHERS, fake_generations, fake_study
from study.html_page import Page, assert_no_network


def page_of(study, folder):
    return write_report(study, folder / "report.html").read_text(encoding="utf-8")


def text_of(rendered, width=120):
    console = Console(width=width, record=True, file=StringIO())
    console.print(rendered)
    return console.export_text()


def with_nulls():
    study = fake_study()
    study["teachers"]["mse"]["heldout"]["nll"][3] = None
    study["teachers"]["tolerant"]["brier_recalibrated"][3] = None
    study["teachers"]["tolerant"]["optimum_brier"]["kd"][3] = None
    study["teachers"]["tolerant"]["optimum_brier_recalibrated"]["kd"][3] = None
    study["students"]["kd"]["mse"]["test"]["accuracy"][2] = None
    study["recipe"]["limit"] = float("inf")
    study["circumstances"]["commit"] = None
    return study


def one_loss_softens():
    """Its scores are far from all others: axes are logarithmic."""
    study = fake_study()
    for teacher in study["teachers"].values():
        teacher["optimum_brier"]["wttm"] = [5 * value for value in teacher["optimum_brier"]["wttm"]]
    return study


def all_null():
    study = fake_study(num_seeds=3)
    for scores in (*study["teachers"].values(), study["baseline"], *study["students"]["kd"].values()):
        for part in ("heldout", "test"):
            scores[part] = dict.fromkeys(scores[part], [None] * 3)
    return study


CASES = {
    "usual": fake_study(),
    "nulls": with_nulls(),
    "all null": all_null(),
    "one loss softens": one_loss_softens(),
    "two seeds": fake_study(num_seeds=2),
    "one seed": fake_study(num_seeds=1),
    "one teacher, one loss": fake_study(("mse",), ("kd",)),
    "one of everything": fake_study(("mse",), ("kd",), 1),
    "strange names": fake_study(("<b>&", "$x_1$ | *y*", '"q"'), ("<script>", "a.b:Loss"), 3),
}


@pytest.mark.parametrize("study", CASES.values(), ids=CASES.keys())
def test_whatever_the_study_it_can_be_shown(study, tmp_path):
    text = page_of(study, tmp_path)
    page = Page(text)
    for name in (*study["teachers"], *study["students"]):
        assert name in page.text
    assert_no_network(text)
    assert "nan" not in text.lower()
    assert page.tags.count("svg") == len(page.labels) == 1 + 2 + len(study["teachers"])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    terminal = text_of(table(study))
    assert all(name in terminal and name in page.text for name in study["teachers"])
    assert "nan" not in (terminal + markdown(study)).lower()


def test_names_are_escaped(tmp_path):
    text = page_of(CASES["strange names"], tmp_path)
    page = Page(text)
    assert not {"b", "script"} & set(page.tags)
    assert "&lt;b&gt;&amp;" in text
    assert any("<b>&" in label and '"q"' in label for label in page.labels)


def test_an_address_stays_text_in_the_recipe(tmp_path):
    study = fake_study(("mse",), ("kd",), 2)
    study["recipe"]["source"] = "https://example.org/<a>"
    text = page_of(study, tmp_path)
    assert text.count("https://") == 1
    assert "source: https://example.org/&lt;a&gt;" in text[text.index("<details>") :]


def test_the_page_says_what_it_is_and_how_it_was_made(tmp_path):
    text = page_of(CASES["usual"], tmp_path)
    page = Page(text)
    assert '<html lang="en">' in text
    assert "<title>quickstart – Preceptor report</title>" in text
    assert "prefers-color-scheme: dark" in text
    for words in ("preceptor quickstart", "10 (0 to 9)", "torch 2.7.1", "4f7f8c4", "cpu", "71 s", "heldout: 200"):
        assert words in page.text


def test_the_pictures_follow_the_page(tmp_path):
    text = page_of(CASES["usual"], tmp_path)
    pictures = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert "var(--ink)" in pictures
    assert "#ffffff" not in pictures
    assert "xlink" not in pictures


def findings(study, folder):
    text = page_of(study, folder)
    start, end = text.index('<ul class="findings">'), text.index("</ul>")
    return Page(text[start:end] + "</ul>").text


def clear_winner(num_seeds=5):
    """Teacher `good` beats `bad`, which harms, in every seed."""
    study = fake_study(("good", "bad"), ("kd",), num_seeds)
    study["baseline"]["test"]["accuracy"] = [0.90, 0.91, 0.92, 0.91, 0.90][:num_seeds]
    for name, gain, brier in (("good", 0.02, 0.1), ("bad", -0.03, 0.3)):
        wiggle = [0.001, -0.001, 0.0, 0.002, -0.002][:num_seeds]
        pairs = zip(study["baseline"]["test"]["accuracy"], wiggle, strict=True)
        study["students"]["kd"][name]["test"]["accuracy"] = [a + gain + w for a, w in pairs]
        study["teachers"][name]["brier_recalibrated"] = [brier + w for w in wiggle]
        study["teachers"][name]["optimum_brier_recalibrated"]["kd"] = [brier + w for w in wiggle]
        study["teachers"][name]["optimum_brier"]["kd"] = [brier + w for w in wiggle]
        study["students"]["kd"][name]["test"]["brier"] = [brier + 0.01 + w for w in wiggle]
    return study


def test_findings_of_a_clear_case(tmp_path):
    text = findings(clear_winner(), tmp_path)
    assert "Predicted best: good , with the lowest Brier score at the best temperature on held-out labels, " in text
    assert "labels, 0.100 (0.098 to 0.102)." in text
    assert "Realised best: good , whose students reach 92.80 %" in text
    assert "Its lead over the next, bad , is 5.00 points" in text
    assert "came from good with kd : 92.80 %, which is +2.00 points (+1.80 to +2.20) against labels alone" in text
    assert "best of 2 picked after the fact" in text
    assert "1 of 2 did better than labels alone, 1 did worse, and the other 0 cannot be told" in text
    assert text.count("ρ = 1.00 (1.00 to 1.00)") == text.count("of these 2 teachers only") == 2
    assert text.index("students' accuracy, by the Brier score at the best") < text.index("near to the truth their")
    assert "contains 0" not in text


def test_findings_do_not_overclaim(tmp_path):
    study = clear_winner()
    study["teachers"]["bad"]["brier_recalibrated"] = [0.11, 0.09, 0.12, 0.08, 0.11]
    study["teachers"]["bad"]["optimum_brier_recalibrated"]["kd"] = [0.11, 0.09, 0.12, 0.08, 0.11]
    study["students"]["kd"]["good"]["test"]["accuracy"] = [0.80, 0.97, 0.86, 0.95, 0.91]
    study["students"]["kd"]["bad"]["test"]["accuracy"] = [0.88, 0.90, 0.91, 0.93, 0.86]
    text = findings(study, tmp_path)
    assert text.count("an interval that contains 0: the two cannot be told apart") == 2
    assert "0 of 2 did better than labels alone, 0 did worse" in text
    assert "does not show that held-out labels foretell it" in text


def test_one_seed_is_said_to_be_one_seed(tmp_path):
    study = clear_winner(1)
    text = findings(study, tmp_path)
    assert "Only one seed was run" in text
    assert "excludes 0" not in text
    assert "(" not in text
    terminal = text_of(table(study))
    assert "One seed: no interval" in " ".join(terminal.split())
    assert "±" not in terminal
    assert "**" not in markdown(study)


def test_table_fits_a_terminal():
    lines = text_of(table(CASES["usual"]), width=100).splitlines()
    assert max(map(len, lines)) <= 100
    rows = [line for line in lines if re.match(r"\d  ", line)]
    assert len(rows) == len(TEACHERS)
    assert all(len(re.findall(r"[+-]\d\.\d\d ± \d\.\d\d", row)) == len(LOSSES) for row in rows)


def test_table_marks_only_what_differs():
    columns = table(clear_winner()).columns
    better, worse, *_ = columns[-1].cells
    assert (str(better), better.style) == ("+2.00 ± 0.20", "bold green")
    assert (str(worse), worse.style) == ("-3.00 ± 0.20", "bold red")
    unclear = clear_winner()
    unclear["students"]["kd"]["good"] = unclear["baseline"]
    assert [(str(cell), cell.style) for cell in list(table(unclear).columns[-1].cells)[:1]] == [("+0.00 ± 0.00", "")]


def test_narrow_terminal_loses_nothing():
    text = " ".join(text_of(table(CASES["usual"]), width=80).split())
    assert "…" not in text
    assert text.count("±") == len(TEACHERS) * len(LOSSES) + 2  # and twice in the caption


def test_markdown_is_a_table():
    text = markdown(CASES["usual"])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(TEACHERS) + 2
    assert {row.count("|") for row in rows} == {1 + 7 + len(LOSSES)}
    for row, label in zip(rows[-2:], ("ρ accuracy", "ρ distance"), strict=True):
        assert re.match(rf"\|  \| {label} \|( +\|){{5}}( -?\d\.\d\d \[-?\d\.\d\d, -?\d\.\d\d\] \|){{4}}$", row)
    assert re.search(r"\*\*\+\d\.\d\d ± \d\.\d\d\*\*", text)
    for words in ("`preceptor quickstart`", "torch 2.7.1", "2026-08-01", "95 % Student-t interval over 10 seeds"):
        assert words in text


def test_markdown_escapes_names():
    rows = [line for line in markdown(CASES["strange names"]).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {1 + 7 + 2}
    assert not any("<" in row for row in rows)


@pytest.mark.parametrize("case", ["usual", "nulls", "one loss softens", "one of everything", "strange names"])
def test_picture_is_1600_pixels_wide(case, tmp_path):
    path = write_picture(CASES[case], tmp_path / "new" / "picture.png")
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert struct.unpack(">I", head[16:20]) == (1600,)
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]


def test_many_teachers_and_losses(tmp_path):
    study = fake_study(tuple(f"teacher_{i}" for i in range(9)), tuple(f"loss_{i}" for i in range(5)), 3)
    write_picture(study, tmp_path / "picture.png")
    assert Page(page_of(study, tmp_path)).tags.count("svg") == 1 + 2 + 9


def test_each_loss_has_its_dots_and_its_correlation(tmp_path):
    """In both panels: a path with a marker for each teacher, and a line of the legend."""
    text = page_of(fake_study(), tmp_path)
    for panel in re.findall(r"<svg.*?</svg>", text, re.DOTALL)[1:3]:
        words = Page(panel).text
        assert all(re.search(rf"{loss} +ρ = −?\d\.\d\d \[", words) for loss in LOSSES)
        assert "labels alone" in words
        assert panel.count("<use ") >= len(LOSSES) * len(TEACHERS)


def test_a_study_of_an_older_version_is_shown(tmp_path):
    study = json.loads((Path(__file__).parents[1] / "fixtures" / "schema1" / "study" / "study.json").read_text())
    page = Page(page_of(study, tmp_path))
    assert "which an older version has made" in page.text
    assert page.tags.count("svg") == 1 + 1 + len(study["teachers"])
    text = markdown(study)
    assert "| ρ distance |" in text
    assert "ρ accuracy" not in text + text_of(table(study))
    assert write_picture(study, tmp_path / "picture.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("estimate", "shown"),
    [
        (Estimate(1.234, 0.734, 1.734), "**+1.23 ± 0.50**"),
        (Estimate(-0.001, -0.501, 0.499), "+0.00 ± 0.50"),
        (Estimate(1.0, float("nan"), float("nan")), "+1.00"),
        (Estimate(float("nan"), float("nan"), float("nan")), "–"),
        (Estimate(float("inf"), float("nan"), float("nan")), "–"),
    ],
)
def test_a_value_and_its_margin(estimate, shown):
    assert difference(estimate) == shown
    assert plus_minus(estimate, sign=True) == shown.strip("*")
    assert plus_minus(estimate, 1) in ("1.2 ± 0.5", "0.0 ± 0.5", "1.0", "–")


def test_generations_are_a_table():
    lines = generations.markdown(fake_generations()).splitlines()
    assert lines[1] == "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    assert lines[2] == "| strict | 0 | 80.00 ± 0.00 |  | 0.500 | 0.500 | 0.500 | 0.500 |  |"
    assert lines[3].startswith("| strict | 1 | 81.00 ± 2.48 | +1.00 ± 2.48 | 0.500 |")
    assert lines[3].endswith("| 90.00 ± 0.00 |")
    assert lines[-1].startswith("Made by `preceptor quickstart`; seeds 3 (0 to 2); data digits; preceptor ")
    shown = text_of(generations.table(fake_generations()), width=160)
    assert shown.count("81.00 ± 2.48") == 2


def test_generations_with_nulls_can_be_shown():
    result = fake_generations()
    result["chains"]["strict"][1]["test"] |= {"brier": [0.5, None, 0.5], "accuracy": [None, 0.8, 0.8]}
    row = generations.markdown(result).splitlines()[3]
    assert row == "| strict | 1 | – | – | 0.500 | 0.500 | 0.500 | – | 90.00 ± 0.00 |"


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda r: [r.pop(key) for key in list(r)] and r.update(schema_version=99), "the study has format 99, newer"),
        (lambda r: r.pop("schema_version"), "the study lacks 'schema_version'"),
        (lambda r: r.pop("chains"), "the study lacks 'chains'"),
        (lambda r: r["chains"]["tolerant"][1].pop("test"), "the study lacks 'test'"),
        (lambda r: r["chains"]["tolerant"][1]["test"]["nll"].pop(), "chains.tolerant.1.test.nll has 2 values for 3"),
    ],
)
@pytest.mark.parametrize("show", [generations.markdown, generations.table])
def test_generations_that_cannot_be_read(show, break_it, sentence):
    result = copy.deepcopy(fake_generations())
    break_it(result)
    with pytest.raises(InputError, match=sentence):
        show(result)


def test_matplotlib_comes_late_and_leaves_no_trace(tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(__file__).removesuffix("/study/test_report.py")!r})
from preceptor.study.grid import report
assert not {{"matplotlib", "jinja2", "rich"}} & set(sys.modules)
from study.fake import fake_study
import matplotlib
# To ask for the backend is to choose one, which imports pyplot.
settings = lambda: {{key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}}
before = settings()
report.write_report(fake_study(("mse",), ("kd",), 2), {str(tmp_path / "report.html")!r})
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)
