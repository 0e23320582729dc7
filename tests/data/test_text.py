"""Texts from files that the tests write."""

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from preceptor.data import text
from preceptor.errors import InputError
from preceptor.models.texts import to_texts

ROWS = [
    {"text": 'He said: "fine, thanks"\nand left', "label": 2, "part": "a"},
    {"text": "naïve — 日本語", "label": 0, "part": "b"},
    {"text": "LINE\u2028SEPARATOR", "label": 1, "part": "a"},
]


def write(path: Path, rows: Any) -> Path:
    """Rows in the format that the file's name stands for."""
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(write(path.with_suffix(""), rows).read_bytes()))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    return path


KINDS = [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same(kind: str, tmp_path: Path) -> None:
    data: Any = text(path=write(tmp_path / f"a{kind}", ROWS))
    assert to_texts(data.train.inputs) == [row["text"] for row in ROWS]
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.labels.tolist() == [2, 0, 1]
    assert (data.class_names, data.test, data.train.counts) == (("0", "1", "2"), None, None)
    assert data.input_shape == (max(len(row["text"].encode()) for row in ROWS),)
    inputs, labels = data.train.fetch([2, 1])
    assert (to_texts(inputs), labels.tolist()) == ([ROWS[2]["text"], ROWS[1]["text"]], [1, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_counts_in_every_format(kind: str, tmp_path: Path) -> None:
    counts = [[0, 0, 5], [1, 0, 0], [0, 2, 0]]
    rows = [{"text": "x", "n": json.dumps(each) if "csv" in kind else each} for each in counts]
    data: Any = text(path=write(tmp_path / f"a{kind}", rows), counts_column="n", class_names=["a", "b", "c"])
    assert data.train.counts.tolist() == counts
    assert data.train.counts.dtype == torch.int64
    assert data.train.labels.tolist() == [2, 0, 1]
    assert data.class_names == ("a", "b", "c")


def test_the_label_is_one_rater_s(tmp_path: Path) -> None:
    """Over many rows the share of each label is the raters', also where classes or rows have none."""
    rows = [{"text": "x", "n": [0, 3, 0, 6, 1]}] * 4000 + [{"text": "y", "n": [0, 0, 0, 0, 9]}] * 100
    path = write(tmp_path / "a.jsonl", rows)
    data: Any = text(path=path, counts_column="n")
    share = data.train.labels[:4000].bincount(minlength=5) / 4000
    torch.testing.assert_close(share, torch.tensor([0, 0.3, 0, 0.6, 0.1]), atol=0.03, rtol=0)  # four standard errors
    assert (data.train.labels[4000:] == 4).all()
    again, other = text(path=path, counts_column="n"), text(path=path, counts_column="n", draw_seed=1)
    assert torch.equal(again.train.labels, data.train.labels)  # type: ignore[attr-defined]
    assert 0.3 < (other.train.labels != data.train.labels)[:4000].float().mean() < 0.8  # type: ignore[attr-defined]


def test_groups_add_up(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x", "n": [1, 2, 3, 4]}])
    data: Any = text(path=path, counts_column="n", groups=[[3], [0, 2], [1]])
    assert data.train.counts.tolist() == [[4, 4, 2]]


def test_names_are_sorted_and_those_of_the_training_rows(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", [{"text": "x", "label": "pos"}, {"text": "y", "label": "meh"}])
    test = write(tmp_path / "b.jsonl", [{"text": "longer than that", "label": "pos"}])
    data: Any = text(path=train, test_path=test)
    assert (data.class_names, data.train.labels.tolist(), data.test.labels.tolist()) == (("meh", "pos"), [1, 0], [1])
    assert data.train.inputs.shape[1] == data.test.inputs.shape[1] == 16
    data = text(path=train, test_path=test, class_names=["neg", "meh", "pos", "great"])
    assert (data.train.labels.tolist(), data.num_classes) == ([2, 1], 4)


def test_numbers_as_text_are_numbers_unless_they_are_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"text": "x", "label": 3}, {"text": "y", "label": 1}])
    numbers, named = text(path=path), text(path=path, class_names=["1", "2", "3"])
    assert (numbers.num_classes, numbers.train.labels.tolist()) == (4, [3, 1])  # type: ignore[attr-defined]
    assert named.train.labels.tolist() == [2, 0]  # type: ignore[attr-defined]


def test_rows_that_match(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    data: Any = text(path=path, where={"part": "a"}, test_where={"part": "b"}, class_names=["x", "y", "z"])
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([2, 1], [0])
    assert len(text(path=path, where={"part": "a", "label": 1}).train) == 1  # type: ignore[arg-type]


def test_long_texts_are_cut_between_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "abé日", "label": 0}, {"text": "b", "label": 1}])
    cut = [to_texts(text(path=path, max_bytes=most).train.inputs)[0] for most in range(1, 9)]  # type: ignore[attr-defined]
    assert cut == ["a", "ab", "ab", "abé", "abé", "abé", "abé日", "abé日"]
    assert text(path=path, max_bytes=3).preprocessing["max_bytes"] == 3


GOOD = {"text": "x", "label": 0, "n": [1, 2]}


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
    [
        ({"txt": "y", "label": 0}, {}, "row 2: there is no column 'text'; did you mean 'txt'"),
        ({"text": "y"}, {}, "row 2: there is no column 'label'"),
        (GOOD, {"text_column": "sentence"}, "row 1: there is no column 'sentence'; known: label, n, text"),
        ({"text": " \t", "label": 0}, {}, "row 2: the text is empty"),
        ({"text": 5, "label": 0}, {}, "row 2: the text is a int"),
        ({"text": "a\0b", "label": 0}, {}, r"row 2: the text holds the character U\+0000"),
        ({"text": "a\ud800", "label": 0}, {}, r"row 2: the text holds '\\ud800', half a character"),
        ({"text": "y", "label": None}, {}, "row 2: there is no label; labels are class numbers or class names"),
        ({"text": "y", "label": 0.5}, {}, r"row 2: the label is 0\.5"),
        ({"text": "y", "label": True}, {}, "row 2: the label is True"),
        ({"text": "y", "label": -1}, {}, "row 2: the label is -1; class numbers are whole numbers from 0"),
        ({"text": "y", "label": 2}, {"class_names": ["a", "b"]}, "row 2: the label is 2; with 2 classes"),
        (
            {"text": "y", "label": "pos"},
            {},
            "row 2: the label is the name 'pos', and that of row 1 the number 0; give one kind",
        ),
        ({"text": "y", "label": 0}, {"groups": [[0]]}, "groups are given without counts"),
        ({"text": "y", "n": [1, -2]}, {"counts_column": "n"}, r"row 2: the counts are \[1, -2\]"),
        ({"text": "y", "n": [0, 0]}, {"counts_column": "n"}, r"row 2: the counts are \[0, 0\]; .* at least one rater"),
        ({"text": "y", "n": []}, {"counts_column": "n"}, r"row 2: the counts are \[\]"),
        ({"text": "y", "n": [0.5, 1]}, {"counts_column": "n"}, r"row 2: the counts are \[0\.5, 1\]"),
        ({"text": "y", "n": "many"}, {"counts_column": "n"}, "row 2: the counts are 'many'; write them as a list"),
        ({"text": "y", "n": [1, 2, 3]}, {"counts_column": "n"}, "row 2: there are 3 counts, but 2 in row 1"),
        (GOOD, {"counts_column": "n", "groups": [[0]]}, r"groups is \[\[0\]\]; put each of the positions 0 to 1"),
        (GOOD, {"counts_column": "n", "groups": [[0, 1], [1]]}, "into one group"),
        (GOOD, {"counts_column": "n", "groups": [[0, 1], []]}, "into one group"),
        (GOOD, {"counts_column": "n", "class_names": ["a"]}, r"class_names has 1 names \(a\) for 2 classes"),
        (GOOD, {"where": {"text": "z"}}, "no row has the text 'z'; known: x"),
        (GOOD, {"where": {"part": "z"}}, "row 1: there is no column 'part'"),
        (GOOD, {"counts_column": "n", "groups": [0, 1]}, r"groups is \[0, 1\]; put each of the positions 0 to 1"),
        (GOOD, {"counts_column": "n", "groups": [["a"], [0]]}, "into one group"),
        (GOOD, {"where": ["part"]}, r"the condition \(where\) is \['part'\]; give \{column: value\}"),
        (GOOD, {"draw_seed": 0.5}, "draw_seed is 0.5"),
        (
            {"text": "y", "n": [2**70, 1]},
            {"counts_column": "n"},
            r"row 2: the counts are \[1180591620717411303424, 1\]",
        ),
        (GOOD, {"max_bytes": 0}, "max_bytes is 0"),
    ],
)
def test_refused_rows(row: Any, options: Any, sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD, row])
    with pytest.raises(InputError, match=sentence) as caught:
        text(path=path, **options)
    assert "row" not in sentence.split(":")[0] or str(caught.value).startswith(str(path))


def test_a_label_that_is_no_class_is_named_with_its_file(tmp_path: Path) -> None:
    train = write(tmp_path / "a.jsonl", [{"text": "x", "label": "pos"}, {"text": "x", "label": "neg"}])
    test = write(tmp_path / "b.jsonl", [{"text": "x", "label": "neg"}, {"text": "x", "label": "posi"}])
    with pytest.raises(
        InputError, match=r"b\.jsonl: row 2: the label is 'posi', which is no class; did you mean 'pos'"
    ):
        text(path=train, test_path=test, class_names=["neg", "pos"])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"text": "x", "label": 0}\n{"text": "y"', "row 2 is not valid JSON"),
        ("a.jsonl", b'{"text": "x", "label": 0}\n\n[1]\n', "row 3 is a list; write one object a line"),
        ("a.jsonl", b"\n", "the file holds no rows"),
        ("a.jsonl", b'{"text": "\xff", "label": 0}', "byte 10 is not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "row 1 is not valid JSON"),
        ("a.csv", b"text,label\na,b,c\n", "row 1 has 3 cells, the header 2"),
        ("a.csv", b"text,label\na,0\nb\n", "row 2 has 1 cells, the header 2"),
        ("a.csv", b'text,label\n"a"b,0\n', "row 1 is not valid CSV"),
        ("a.csv", b"text,label\n", "the file holds no rows"),
        ("a.txt", b"hello", r"the name ends in '\.txt'; give a file that ends in \.jsonl"),
        ("a", b"hello", "the name ends in ''"),
        ("a.jsonl.gz", b"hello", "truncated or damaged"),
        ("a.parquet", b"hello", "cannot be read as Parquet"),
    ],
)
def test_refused_files(name: str, content: bytes, sentence: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        text(path=path)
    assert str(caught.value).count(str(path)) == 1
    path.unlink()
    with pytest.raises(InputError, match=r"cannot be read|name ends in"):
        text(path=path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        InputError, match=r"a\.parquet: Parquet files need pyarrow; run pip install 'preceptor\[parquet\]'"
    ):
        text(path=tmp_path / "a.parquet")
