"""Labels and columns as they stand in files that others have written: read as meant, or refused with their row."""

import json
from pathlib import Path
from typing import Any

import pytest

from preceptor.data import text
from preceptor.data.class_names import numbered
from preceptor.errors import InputError
from preceptor.notices import notes_kept


def csv_file(path: Path, *labels: Any) -> Path:
    path.write_text("text,label\n" + "".join(f"some text,{label}\n" for label in labels))
    return path


def jsonl_file(path: Path, *labels: Any) -> Path:
    path.write_text("".join(json.dumps({"text": "some text", "label": label}) + "\n" for label in labels))
    return path


def parquet_file(path: Path, *labels: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": ["some text"] * len(labels), "label": list(labels)})
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    return path


WRITE = {".csv": csv_file, ".jsonl": jsonl_file, ".parquet": parquet_file}


def labels(path: Path, **options: Any) -> tuple[tuple[str, ...], list[int]]:
    data: Any = text(path=path, **options)
    return data.class_names, data.train.labels.tolist()


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (".csv", ["0", "10", "2"]),
        (".csv", ["0.0", "10.0", "2.0"]),
        (".csv", ["0.", "1e1", "+2"]),
        (".csv", ["00", "10", "02"]),
        (".jsonl", [0, 10, 2]),
        (".jsonl", [0.0, 10.0, 2.0]),
        (".jsonl", ["0", 10.0, 2]),
        (".parquet", [0.0, 10.0, 2.0]),
        (".parquet", ["0", "10.0", "2"]),
        (".parquet", [b"0", b"10", b"2"]),
    ],
)
def test_numbers_are_numbers_however_they_are_written(kind: str, written: list[Any], tmp_path: Path) -> None:
    path = WRITE[kind](tmp_path / f"a{kind}", *written)
    assert labels(path) == (tuple(map(str, range(11))), [0, 10, 2])
    assert labels(path, class_names=["10", "2.0", "0"])[1] == [2, 0, 1]
    assert labels(path, class_names=list(range(12)))[1] == [0, 10, 2]


@pytest.mark.parametrize("other", sorted(WRITE))
@pytest.mark.parametrize("kind", sorted(WRITE))
def test_parts_compare_numbers_as_numbers(kind: str, other: str, tmp_path: Path) -> None:
    train = WRITE[kind](tmp_path / f"train{kind}", "0", "1", "2")
    test = WRITE[other](tmp_path / f"test{other}", *(["2.0", "0.0"] if other == ".csv" else [2.0, 0.0]))
    data: Any = text(path=train, test_path=test)
    assert (data.num_classes, data.test.labels.tolist()) == (3, [2, 0])


def test_blanks_round_labels_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = csv_file(tmp_path / "a.csv", "pos", " neg", "neg", "pos\t")
    with notes_kept() as notes:
        assert labels(path) == (("neg", "pos"), [1, 0, 0, 1])
    assert notes == [f"{path}: the blanks round 2 labels are left out (the first: row 2, ' neg')"]
    test = jsonl_file(tmp_path / "b.jsonl", "pos ", "neg")
    data: Any = text(path=path, test_path=test, class_names=["pos", "neg "])
    assert (data.class_names, data.test.labels.tolist()) == (("pos", "neg"), [0, 1])
    path.write_text(" text , label\nx, 1\ny,0\n")
    assert labels(path)[1] == [1, 0]


def test_names_that_look_alike_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert labels(csv_file(tmp_path / "a.csv", "Yes", "no", "yes"))[0] == ("Yes", "no", "yes")
    assert "the labels 'Yes' and 'yes' are two classes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "written", "sentence"),
    [
        (".csv", ["1", "nan", "0"], "row 2: the label is 'nan'"),
        (".csv", ["pos", "NaN", "neg"], "row 2: the label is 'NaN'"),
        (".csv", ["1", "", "0"], "row 2: there is no label"),
        (".csv", ["1", "  ", "0"], "row 2: there is no label"),
        (".jsonl", [1, float("nan")], "row 2: the label is nan"),
        (".jsonl", [1, float("inf")], "row 2: the label is inf"),
        (".jsonl", [1, None], "row 2: there is no label"),
        (".jsonl", [1, True], "row 2: the label is True"),
        (".jsonl", [[1, 0], [0, 1]], r"row 1: the label is \[1, 0\]"),
        (".parquet", [1.0, float("nan")], "row 2: the label is nan"),
        (".parquet", [1.0, None], "row 2: there is no label"),
        (".csv", ["0", "1.5"], r"row 2: the label is 1\.5"),
        (".csv", ["0", "9" * 30], "row 2: the label is 9{30}; class numbers are whole numbers from 0 to 999999"),
        (".csv", ["0", "neg"], "row 2: the label is the name 'neg', and that of row 1 the number 0; give one kind"),
        (".csv", ["neg", "0"], "row 2: the label is the number 0, and that of row 1 the name 'neg'"),
        (".jsonl", ["neg", 0], "row 2: the label is the number 0, and that of row 1 the name 'neg'"),
        (".csv", ["0", "255", "1"], "the label of sample 1 is 255 and none is 254"),
    ],
)
def test_labels_that_cannot_be_meant(kind: str, written: list[Any], sentence: str, tmp_path: Path) -> None:
    path = WRITE[kind](tmp_path / f"a{kind}", *written)
    with pytest.raises(InputError, match=sentence) as caught:
        text(path=path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("train", "test", "sentence"),
    [
        (["neg", "pos"], ["pos", "neutral"], "row 2: the label is 'neutral', which no training row of .*train.csv has"),
        (["0", "1"], ["2.0", "0"], "row 1: the label is 2, which no training row"),
        (["0", "2"], ["1"], "row 1: the label is 1, which no training row"),
        (["0", "1"], ["neg"], "row 1: the label is the name 'neg', and that of row 1 of .*train.csv the number 0"),
        (["neg", "pos"], ["0"], "row 1: the label is the number 0, and that of row 1 of .*train.csv the name 'neg'"),
        (["neg", "pos"], ["nan"], "row 1: the label is 'nan'"),
    ],
)
def test_labels_that_only_another_part_has(train: list[str], test: list[str], sentence: str, tmp_path: Path) -> None:
    path, other = csv_file(tmp_path / "train.csv", *train), csv_file(tmp_path / "test.csv", *test)
    with pytest.raises(InputError, match=rf"test\.csv: {sentence}"):
        text(path=path, test_path=other)
    both = tmp_path / "both.csv"  # one file, its parts by a column
    rows = [f"x,{label},a" for label in train] + [f"x,{label},b" for label in test]
    both.write_text("text,label,part\n" + "\n".join(rows))
    with pytest.raises(InputError, match=r"both\.csv: row \d: the label is"):
        text(path=both, where={"part": "a"}, test_where={"part": "b"})


def test_class_names_say_which_classes_there_are(tmp_path: Path) -> None:
    path, test = csv_file(tmp_path / "a.csv", "0", "2"), csv_file(tmp_path / "b.csv", "1.0")
    for names in (["0", "1", "2"], ["x", "y", "z"]):
        data: Any = text(path=path, test_path=test, class_names=names)
        assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 2], [1])
    with pytest.raises(InputError, match=r"a\.csv: row 2: the label is 2, which is no class; known: 0, 1, 4"):
        text(path=path, test_path=test, class_names=["0", "1", "4"])
    with pytest.raises(InputError, match=r"class_names: '1' and '1\.0' are one class"):
        text(path=path, class_names=["0", "1", "1.0"])
    with pytest.raises(InputError, match="class_names: the label is 'nan'"):
        text(path=path, class_names=["0", "nan"])
    mixed = csv_file(tmp_path / "c.csv", "60", "18-25")
    assert labels(mixed, class_names=["18-25", "60"])[1] == [1, 0]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text,label\nx,1\ntext,label\ny,0\n", "row 2 repeats the header"),
        ("a.csv", "text,label\ntext, label\nx,1\n", "row 1 repeats the header"),
        ("a.csv", "text,label,label\nx,0,1\n", "'label' is there 2 times; leave one, or rename the others"),
        ("a.csv", "label,text, label\nx,0,1\n", "'label' is there 2 times"),
        ("a.jsonl", '{"text": "x", "label": 0}\n{"text": "x", "label": 0, "label": 1}\n', "row 2: 'label' is there 2"),
        ("a.csv", "text;label\nx;1\n", "row 1: there is no column 'text'; known: text;label"),
        ("a.csv", "\n", "the file holds no rows"),
    ],
)
def test_columns_and_headers_that_are_repeated(name: str, content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name}: {sentence}"):
        text(path=tmp_path / name)


def test_columns_without_names_may_be_several(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n,text,label,\n\n0,x,1,\n1,y,0,\n\n")
    assert labels(path)[1] == [1, 0]


def test_repeated_columns_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_arrays(
        [pyarrow.array(["x"]), pyarrow.array([0]), pyarrow.array([1])], ["text", *["label"] * 2]
    )
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: 'label' is there 2 times"):
        text(path=tmp_path / "a.parquet")


def test_long_cells_are_read_and_the_limit_of_others_stays(tmp_path: Path) -> None:
    import csv

    path, before = tmp_path / "a.csv", csv.field_size_limit()
    path.write_text('text,label\n"' + "word " * 300_000 + '",1\nb,0\n')
    data: Any = text(path=path, max_bytes=2_000_000)
    assert data.input_shape == (1_500_000,)
    assert csv.field_size_limit() == before
    path.write_text('text,label\n"unclosed,1\nb,0\n')
    with pytest.raises(InputError, match="row 1 is not valid CSV"):
        text(path=path)
    assert csv.field_size_limit() == before


def test_rows_are_kept_by_the_number_of_a_column(tmp_path: Path) -> None:
    path = parquet_file(tmp_path / "a.parquet", 1.0, 0.0, 1.0)
    assert labels(path, where={"label": 1}) == (("0", "1"), [1, 1])


def test_counts_may_be_whole_floats(tmp_path: Path) -> None:
    path = jsonl_file(tmp_path / "a.jsonl", [1.0, 2.0], [0, 4])
    data: Any = text(path=path, counts_column="label")
    assert data.train.counts.tolist() == [[1, 2], [0, 4]]
    for wrong in ([1.0, float("nan")], [1.5, 1], [1, True], [float("inf"), 1]):
        with pytest.raises(InputError, match=r"row 1: the counts are \["):
            text(path=jsonl_file(tmp_path / "b.jsonl", wrong), counts_column="label")


def test_numbers_that_identify_something_else_are_no_classes() -> None:
    import torch

    with pytest.raises(InputError, match="the label of sample 1 is 123456789, which would make as many classes"):
        numbered(torch.tensor([0, 123_456_789]))
