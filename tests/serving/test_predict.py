"""New inputs are prepared as a run's own data were: files of images, of arrays and of text lines."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import preceptor
from preceptor.cli import app
from preceptor.errors import InputError
from training.toys import RECIPE

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "run"
    preceptor.teach(RECIPE, folder, calibrate=True)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("photos")
    for label, name in enumerate(("cat", "dog")):
        (tree / "data" / name).mkdir(parents=True)
        for i in range(20):
            Image.new("RGB", (12, 10), (9 * i, 100 * label, 50)).save(tree / "data" / name / f"{i:02}.png")
    data, model = {"name": "image_folder", "folder": str(tree / "data")}, {"name": "cnn", "widths": [4]}
    preceptor.teach(data=data, model=model, split={"test": 10, "heldout": 10}, folder=tree / "run", **QUICK)
    return tree / "run"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("texts")
    rows = [json.dumps({"text": f"{'so gööd' if i % 2 else 'so bad'} {i}", "label": i % 2}) for i in range(40)]
    (tree / "texts.jsonl").write_text("\n".join(rows))
    data, model = {"name": "text", "path": str(tree / "texts.jsonl")}, {"name": "ngram_bag", "buckets": 64}
    preceptor.teach(data=data, model=model, split={"test": 8, "heldout": 8}, folder=tree / "run", **QUICK)
    return tree / "run"


def heldout(run: Path) -> tuple[list[int], np.ndarray]:
    places = json.loads((run / "splits.json").read_text())["parts"]["heldout"]
    logits = load_file(run / "predictions.safetensors")["heldout/last"].astype(np.float64)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return places, powers / powers.sum(-1, keepdims=True)


def said(*arguments: object) -> str:
    outcome = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_arrays_are_the_numbers_of_the_data_set(digits: Path, tmp_path: Path) -> None:
    places, expected = heldout(digits)
    raw = load_digits().images[places, None]
    np.save(tmp_path / "a.npy", raw[:5])
    np.savez(tmp_path / "b.npz", inputs=raw[5:])
    found = preceptor.predict(digits, [tmp_path / "a.npy", tmp_path / "b.npz"])
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert found.rows[:6] == (0, 1, 2, 3, 4, 0)
    assert Path(found.sources[5]).name == "b.npz"
    np.testing.assert_allclose(preceptor.predict(digits, raw).probabilities, expected, atol=1e-5)
    assert (found.labels == expected.argmax(-1)).all()


def test_images_are_read_as_the_run_read_them(photos: Path) -> None:
    places, expected = heldout(photos)
    files = sorted((photos.parent / "data").rglob("*.png"))
    found = preceptor.predict(photos, [files[place] for place in places])
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert set(found.columns()["class"]) <= {"cat", "dog"}


def test_text_lines_are_read_as_the_run_read_them(texts: Path, tmp_path: Path) -> None:
    places, expected = heldout(texts)
    lines = [json.loads(line)["text"] for line in (texts.parent / "texts.jsonl").read_text().splitlines()]
    wanted = [lines[place] for place in places]
    (tmp_path / "new.txt").write_text("\n".join(wanted) + "\n")
    np.testing.assert_allclose(preceptor.predict(texts, tmp_path / "new.txt").probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(preceptor.predict(texts, wanted).probabilities, expected, atol=1e-5)


def test_tables(digits: Path, tmp_path: Path) -> None:
    raw = load_digits().images[:3, None]
    np.save(tmp_path / "a.npy", raw)
    answers = preceptor.predict(digits, raw)
    arguments = ["predict", digits, tmp_path / "a.npy"]
    rows = list(csv.DictReader(said(*arguments, "--out", "-", "--top", 2, "--all").splitlines()))
    assert [row["class"] for row in rows] == [str(label) for label in answers.labels]
    for row, probabilities in zip(rows, answers.probabilities, strict=True):
        assert [float(row[f"p({c})"]) for c in range(10)] == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert float(row["probability_2"]) == pytest.approx(sorted(probabilities)[-2], abs=1e-6)
    said(*arguments, "--out", tmp_path / "t.csv")
    said(*arguments, "--out", tmp_path / "t.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert table["class"] == [row["class"] for row in csv.DictReader((tmp_path / "t.csv").read_text().splitlines())]
    assert table["row"] == [0, 1, 2]
    assert "probability" in said(*arguments)
    assert json.loads(said(*arguments, "--json"))["row"] == [0, 1, 2]


def test_another_size_is_scaled_if_asked_for(photos: Path, tmp_path: Path) -> None:
    Image.new("RGB", (24, 20), (90, 100, 50)).save(tmp_path / "large.png")
    Image.new("RGB", (12, 10), (90, 100, 50)).save(tmp_path / "own.png")
    with pytest.raises(InputError, match=r"large.png' has 20x24 pixels .* was trained on 10x12; scale and crop it"):
        preceptor.predict(photos, tmp_path / "large.png")
    found = preceptor.predict(photos, [tmp_path / "large.png", tmp_path / "own.png"], resize=True).probabilities
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)  # of one colour, whatever its size


def test_refused(digits: Path, photos: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    (tmp_path / "latin.txt").write_bytes("schön".encode("latin-1"))
    (tmp_path / "gap.txt").write_text("good\n\nbad\n")
    Image.new("RGB", (12, 10)).save(tmp_path / "image.png")
    np.save(tmp_path / "flat.npy", np.zeros((3, 64)))
    np.save(tmp_path / "nan.npy", np.full((2, 1, 8, 8), np.nan))
    np.savez(tmp_path / "other.npz", x=np.zeros((1, 1, 8, 8)))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    np.savez(tmp_path / "words.npz", inputs=np.array(["a", "b"]))
    np.save(tmp_path / "complex.npy", np.zeros((1, 1, 8, 8), np.complex64))
    cases: list[tuple[Path, str, str]] = [
        (photos, "broken.png", "broken.png is no image"),
        (photos, "absent.png", "there is no file"),
        (photos, "latin.txt", "is no file that"),
        (digits, "broken.npz", "broken.npz"),
        (digits, "image.png", "is an image, and .* was trained on numbers of shape"),
        (digits, "flat.npy", r"the array has shape \(3, 64\), .* shape \(1, 8, 8\); give \(N, 1, 8, 8\)"),
        (digits, "nan.npy", "row 0 of the array is not finite"),
        (digits, "words.npy", "array that torch cannot read"),
        (digits, "words.npz", "array that torch cannot read"),
        (digits, "complex.npy", "is of torch.complex64; give real numbers"),
        (digits, "other.npz", "there is no array 'inputs', only x"),
        (texts, "latin.txt", "is not text in UTF-8"),
        (texts, "gap.txt", "line 1: the text is empty"),
        (texts, "image.png", "is an image, and .* was trained on texts"),
    ]
    for run, name, sentence in cases:
        with pytest.raises(InputError, match=sentence) as refused:
            preceptor.predict(run, tmp_path / name)
        assert name in str(refused.value)
    for nothing in ([], [3], np.zeros((0, 1, 8, 8)), np.array(["a"])):
        with pytest.raises(InputError):
            preceptor.predict(digits, nothing)
    with pytest.raises(InputError, match="top is 11; give 1 to 10"):
        preceptor.predict(digits, np.zeros((1, 1, 8, 8))).columns(top=11)
    outcome = CliRunner().invoke(app, ["predict", str(digits), str(tmp_path / "flat.npy"), "--out", "t.xls"])
    assert (outcome.exit_code, "give a .csv or .parquet file" in outcome.stderr) == (2, True)
