"""What files for assess say of samples: read as meant, or refused with the row and the file."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from preceptor.assess import compare
from preceptor.data.tables import read_table
from preceptor.errors import InputError
from preceptor.study.teachers import assess_teachers

LABELS = np.arange(60) % 3
LOGITS = 3 * np.eye(3)[LABELS] + np.random.default_rng(0).normal(size=(60, 3))
NAN, NAMES = np.arange(60.0), np.array([f"image {n}" for n in range(60)])
NAN[3] = np.nan


def npz(path: Path, **columns: Any) -> Path:
    np.savez(path, **({"logits": LOGITS, "labels": LABELS} | columns))
    return path


def parquet(path: Path, **columns: Any) -> Path:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table({"logits": LOGITS.tolist()} | columns)
    pytest.importorskip("pyarrow.parquet").write_table(table, path)
    return path


@pytest.mark.parametrize(
    "labels", [LABELS.astype(str), LABELS.astype(float).astype(str), LABELS.astype("S1"), LABELS[:, None], LABELS > 1]
)
def test_labels_of_npz_are_numbers(labels: np.ndarray, tmp_path: Path) -> None:
    found = read_table(npz(tmp_path / "a.npz", labels=labels)).labels
    assert found is not None
    assert found.tolist() == (LABELS.tolist() if labels.dtype != bool else labels.tolist())


@pytest.mark.parametrize("convert", [str, float, Decimal, lambda n: f" {n}.0", lambda n: str(n).encode()])
def test_labels_of_parquet_are_numbers(convert: Any, tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", label=[convert(n) for n in LABELS.tolist()])
    beside = npz(tmp_path / "b.npz")
    [comparison] = assess_teachers([path, beside])
    assert [teacher.scores["accuracy"].value for teacher in comparison.teachers] == [1.0, 1.0]


def test_bytes_are_text(tmp_path: Path) -> None:
    files = [
        npz(tmp_path / "a.npz", ids=NAMES.astype("S")),
        npz(tmp_path / "b.npz", ids=NAMES),
        parquet(tmp_path / "c.parquet", label=LABELS, id=[name.encode() for name in NAMES.tolist()]),
    ]
    for file in files:
        ids = read_table(file).ids
        assert ids is not None
        assert ids.tolist() == NAMES.tolist()
    assess_teachers(files)
    broken = read_table(npz(tmp_path / "d.npz", ids=np.array([b"\xff"] * 60))).ids
    assert broken is not None
    assert broken[0] == b"\xff"


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"labels": np.array(["cat", "dog", "fox"])[LABELS]}, "row 0: the label is 'cat'; number the classes"),
        ({"labels": np.where(LABELS == 1, "nan", LABELS.astype(str))}, "row 1: the label is 'nan'"),
        ({"labels": np.where(LABELS == 2, "1.5", LABELS.astype(str))}, "row 2: the label is 1.5"),
        ({"label": LABELS}, "there are 'labels' and 'label'; leave one, or rename the others"),
        ({"labels": NAN}, "The labels of teacher 'a' hold nan in place 3: give one for every sample"),
        ({"ids": NAN}, "The ids of teacher 'a' hold nan in place 3: give one for every sample"),
        ({"groups": NAN}, "The group at row 3 is nan: name a group for every sample"),
        ({"weights": NAN}, "The weight at row 3 is nan"),
        ({"weights": LABELS.astype(str)}, "The weights hold <U"),
        ({"counts": np.ones((60, 3)) * NAN[:, None]}, r"Row 3 of the counts is \[nan, nan, nan\]"),
        ({"counts": np.full((60, 3), "1")}, "The counts hold <U1 values"),
    ],
)
def test_what_cannot_be_meant(columns: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        assess_teachers([npz(tmp_path / "a.npz", **columns)])


def test_repeated_columns(tmp_path: Path) -> None:
    arrow, writer = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = [arrow.array(LOGITS.tolist()), arrow.array(LABELS), arrow.array(LABELS)]
    writer.write_table(arrow.Table.from_arrays(columns, ["logits", "label", "label"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: 'label' is there 2 times"):
        assess_teachers([tmp_path / "a.parquet"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"labels": ["a", *LABELS[1:]]}, "The label at row 0 is .*'a'.*: use class indices"),
        ({"labels": np.array([0, None, *LABELS[2:]], dtype=object)}, "The label at row 1 is None: use class indices"),
        ({"labels": NAN}, "The label at row 3 is nan: labels are whole numbers from 0 to 2"),
        ({"ids": NAN}, "The ids of teacher 'a' hold nan in place 3"),
        ({"ids": np.array([None, *range(59)], dtype=object)}, "The ids of teacher 'a' hold None in place 0"),
        ({"groups": np.array([0, None, *range(58)], dtype=object)}, "The group at row 1 is None: name a group"),
    ],
)
def test_arrays_that_lack_something(options: dict[str, Any], sentence: str) -> None:
    given = {"labels": LABELS, **options}
    with pytest.raises(InputError, match=sentence):
        compare({"a": LOGITS, "b": 2 * LOGITS}, given.pop("labels"), **given)
