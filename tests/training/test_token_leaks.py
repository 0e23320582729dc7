"""A language model that has learned what its student is scored on, under another split, order, cut or file."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import preceptor
from preceptor.data.token_rows import rows_of
from preceptor.data.tokenizers import tokenizer_of
from preceptor.data.tokens import TokenDataset
from preceptor.errors import InputError
from preceptor.training.checks.token_leaks import passages


class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(num_classes, num_classes)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.rows(input_ids)


def sentences(seed: int, count: int = 40) -> list[str]:
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghijklm", k=draw.randint(2, 7))) for _ in range(80)]
    return [" ".join(draw.choices(words, k=draw.choice((3, 5, 20)))) for _ in range(count)]


def written(path: Path, documents: list[str]) -> dict[str, Any]:
    path.write_text("\n\n".join(documents))
    return {"name": "tokens", "path": str(path), "separator": "\n\n", "length": 16, "heldout": 0.2, "test": 0.15}


GIVEN: dict[str, Any] = {"model": Net, "epochs": 1, "batch_size": 64, "device": "cpu"}


def taught(folder: Path, data: Any) -> Path:
    preceptor.teach(data=data, objective="cross_entropy", folder=folder, **GIVEN)
    return folder


def started(first: Path, data: Any, folder: Path | None = None) -> list[str]:
    found = preceptor.teach(data=data, objective="cross_entropy", start=str(first), folder=folder, **GIVEN)
    return [each for each in found["notes"] if "nothing is known" in each]


def distilled(teacher: Path, data: Any, **more: Any) -> list[str]:
    found = preceptor.distill(teacher=str(teacher), data=data, loss="kd", teacher_model=Net, **GIVEN, **more)
    return [each for each in found["notes"] if "nothing is known" in each]


def pair(place: Path, how: str, packed: bool) -> tuple[Path, Any]:
    """A run that has learned what another's data hold out, and these data."""
    documents = sentences(0)
    ours = written(place / "text.txt", documents) | {"packed": packed}
    shuffled = random.Random(1).sample(documents, len(documents))
    theirs = {
        "split": ours | {"heldout": 0.05, "test": 0.05},
        "order": written(place / "order.txt", shuffled),
        "cut": ours | {"separator": None, "document_bytes": 100, "heldout": 0.12, "test": 0.12},
        "file": written(place / "file.txt", documents) | {"heldout": 0.05, "test": 0.05},
    }[how]
    return taught(place / "first", theirs | {"packed": packed}), ours


@pytest.mark.parametrize(("how", "packed"), [("split", True), ("order", False), ("cut", True), ("file", False)])
def test_a_teacher_of_held_out_documents_is_refused(tmp_path: Path, how: str, packed: bool) -> None:
    teacher, ours = pair(tmp_path, how, packed)
    with pytest.raises(InputError, match=r"was trained on \d+ of the student's \d+ heldout documents \(the first: "):
        distilled(teacher, ours)


@pytest.mark.parametrize(("how", "packed"), [("split", True), ("order", False), ("cut", True), ("file", False)])
def test_a_start_from_held_out_documents_is_refused(tmp_path: Path, how: str, packed: bool) -> None:
    first, ours = pair(tmp_path, how, packed)
    sentence = (
        r"start is '.*first', which was trained on \d+ of the \d+ heldout documents \(the first: document \d+\); "
    )
    for place in (None, tmp_path / "next"):
        with pytest.raises(InputError, match=sentence + "give the data options of that run"):
            started(first, ours, place)
    assert not (tmp_path / "next").exists()
    with pytest.raises(InputError, match=sentence):
        distilled(taught(tmp_path / "teacher", ours), ours, start=str(first))


def test_a_start_from_the_same_split_or_other_text_passes(tmp_path: Path) -> None:
    ours = written(tmp_path / "text.txt", sentences(0))
    again = written(tmp_path / "again.txt", sentences(0))
    other = written(tmp_path / "other.txt", sentences(3))
    for name, data in {"same": ours, "again": again, "other": other}.items():
        assert started(taught(tmp_path / name, data), ours) == []
    (tmp_path / "other.txt").unlink()
    [said] = started(tmp_path / "other", ours)
    assert "the data of the start" in said
    assert "other.txt cannot be read" in said
    assert said.endswith("it may be what this run is scored on")


def test_documents_of_the_test_set_count_too(tmp_path: Path) -> None:
    documents = sentences(0)
    ours = written(tmp_path / "text.txt", documents)
    teacher = taught(tmp_path / "teacher", written(tmp_path / "turned.txt", documents[36:] + sentences(2)))
    with pytest.raises(InputError, match=r"of the student's \d+ test documents"):
        distilled(teacher, ours)


def test_a_teacher_of_the_same_split_or_of_other_text_passes(tmp_path: Path) -> None:
    ours = written(tmp_path / "text.txt", sentences(0))
    assert distilled(taught(tmp_path / "same", ours), ours) == []
    assert distilled(taught(tmp_path / "other", written(tmp_path / "other.txt", sentences(3))), ours) == []
    again = written(tmp_path / "again.txt", sentences(0))
    assert distilled(taught(tmp_path / "again", again), ours) == []


def test_what_the_student_learns_itself_is_no_leak(tmp_path: Path) -> None:
    """Text that repeats itself is in every part."""
    few = sentences(0, 6)
    documents = [few[number % 6] for number in range(60)]
    teacher = taught(tmp_path / "teacher", written(tmp_path / "t.txt", documents) | {"heldout": 0.05, "test": 0.05})
    assert distilled(teacher, written(tmp_path / "s.txt", documents)) == []


@pytest.mark.parametrize("alike", [True, False])
def test_text_that_has_changed_or_gone_is_noted(tmp_path: Path, alike: bool) -> None:
    theirs = written(tmp_path / "theirs.txt", sentences(0))
    teacher = taught(tmp_path / "teacher", theirs)
    (tmp_path / "theirs.txt").write_text("\n\n".join(sentences(5)))
    ours = theirs if alike else written(tmp_path / "ours.txt", sentences(0))
    [said] = distilled(teacher, ours)
    assert "have changed since, so that nothing is known of what it was trained on" in said
    if not alike:
        (tmp_path / "theirs.txt").unlink()
        [said] = distilled(teacher, ours)
        assert "theirs.txt cannot be read" in said


def test_passages_are_those_of_the_text() -> None:
    """Against a set of tuples of tokens, each document as it was before it was cut into rows."""
    documents = [text.encode() for text in [*sentences(0, 12), "a", "bb", "bb", "x" * 31, "x" * 32, "x" * 40, "last"]]
    found = rows_of(tokenizer_of("bytes", []).encode(documents), 8, packed=True, pad=256, first=5)
    made, where = passages(TokenDataset(**found._asdict()), torch.arange(len(found.ids)))
    expected, places = [], []
    for number, document in enumerate(documents):
        whole = (*document, 256)
        for start in range(max(1, len(whole) - 31)):
            expected.append(whole[start : start + 32])
            places.append(number + 5)
    assert where.tolist() == places
    known: dict[int, tuple[int, ...]] = {}
    for one, other in zip(made.tolist(), expected, strict=True):
        assert known.setdefault(one, other) == other
    assert len(known) == len(set(expected)) < len(expected)
    assert made.dtype == np.uint64
