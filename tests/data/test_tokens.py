"""Rows of tokens from files that the tests write; what a row must be is told here position by position."""

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.test_text import write
from torch.utils.data import ConcatDataset, Subset

from preceptor.data import tokens
from preceptor.data.dataset import labels_of
from preceptor.data.documents import cut, split_documents
from preceptor.data.ids import ids_of
from preceptor.data.indexed import Indexed, is_vectorised
from preceptor.data.token_rows import rows_of
from preceptor.data.tokenizers import Encoded, tokenizer_of
from preceptor.data.tokens import TokenDataset
from preceptor.errors import InputError
from preceptor.notices import notes_kept
from preceptor.runs.contents import contents_of, samples_digests

EOS = 256
TEXTS = ["to be", "naïve — 日本語 🙂", "or\nnot", "a" * 23, "x", "the end of it all"] * 5


def lines(path: Path, texts: Any = TEXTS, kind: str = ".jsonl") -> Path:
    return write(path / f"a{kind}", [{"text": each} for each in texts])


# -- rows, position by position ----------------------------------------------------------------------------------------


def expected(documents: list[list[tuple[int, int]]], length: int, packed: bool, first: int) -> list[list[Any]]:
    """Rows of (id, position, label, document, bytes of the label), from documents of (id, bytes), by loops."""
    runs = [[(token, size, number) for token, size in each] for number, each in enumerate(documents, first)]
    runs = [[each for run in runs for each in run]] if packed else runs
    rows = [run[start : start + length] for run in runs for start in range(0, len(run), length)]
    found = []
    for row in rows:
        made, position = [], -1
        for at in range(length):
            here, after = (row[k] if k < len(row) else None for k in (at, at + 1))
            starts = here is not None and (at == 0 or row[at - 1][2] != here[2])
            position = 0 if starts else position + 1
            follows = here is not None and after is not None and here[2] == after[2]
            label, size = (after[0], after[1]) if follows and after else (-100, 0)
            made.append((here[0] if here else EOS, position, label, here[2] if here else -1, size))
        if any(each[2] != -100 for each in made):
            found.append(made)
    return found


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_rows(seed: int, packed: bool) -> None:
    drawn = random.Random(seed)
    length = drawn.randint(2, 7)
    documents = [
        [*((drawn.randint(0, 255), drawn.randint(1, 4)) for _ in range(drawn.randint(1, 15))), (EOS, 0)]
        for _ in range(drawn.randint(1, 9))
    ]
    flat = np.array([pair for each in documents for pair in each])
    encoded = Encoded(flat[:, 0], flat[:, 1], np.array([len(each) for each in documents]))
    rows = rows_of(encoded, length, packed=packed, pad=EOS, first=3)
    assert torch.stack(list(rows), -1).tolist() == [
        [list(each) for each in row] for row in expected(documents, length, packed, 3)
    ]
    assert {each.dtype for each in rows} == {torch.int64}


def test_whole_data_set(tmp_path: Path) -> None:
    """Each part in rows of its own, the documents numbered through, and the bytes as they stand in the file."""
    data: Any = tokens(path=lines(tmp_path), length=16, heldout=0.2, test=0.1)
    encoded = [text.encode() for text in TEXTS]
    parts = split_documents(encoded, {"heldout": 0.2, "test": 0.1})
    first, rows = 0, []
    for part in parts.values():
        pairs = [[*((byte, 1) for byte in each), (EOS, 0)] for each in part]
        rows.append(expected(pairs, 16, True, first))
        first += len(part)
    for dataset, wanted in ((data.train, rows[0] + rows[1]), (data.test, rows[2])):
        columns = [dataset.ids, dataset.positions, dataset.labels, dataset.documents, dataset.byte_counts]
        assert torch.stack(columns, -1).tolist() == [[list(each) for each in row] for row in wanted]
    assert data.pools["heldout"].tolist() == list(range(len(rows[0]), len(rows[0]) + len(rows[1])))
    assert (data.train.num_documents, data.test.num_documents) == (len(TEXTS) - len(parts["test"]), len(parts["test"]))
    assert (data.num_classes, data.class_names[:1], data.class_names[256], data.input_shape) == (
        257,
        ("<0x00>",),
        "<eos>",
        (),
    )
    assert data.preprocessing["context"].keys() == {"tokenizer", "vocabulary", "end", "length", "packed"}
    json.dumps(data.preprocessing)


# -- a data set like any other -----------------------------------------------------------------------------------------


def test_batches_are_fetched_at_once(tmp_path: Path) -> None:
    data: Any = tokens(path=lines(tmp_path), length=8, packed=False, test=0)
    assert data.test is None
    assert is_vectorised(data.train)
    whole, one_by_one = Indexed(data.train, num_classes=257), Indexed(Subset(data.train, range(len(data.train))))
    assert (whole.is_vectorised, one_by_one.is_vectorised) == (True, False)
    batch, other = whole[[4, 0, 5]], one_by_one[[4, 0, 5]]
    assert batch["input"].keys() == {"input_ids", "position_ids"}
    assert torch.equal(batch["input"]["input_ids"], data.train.ids[[4, 0, 5]])
    assert torch.equal(batch["mask"], data.train.labels[[4, 0, 5]] >= 0)
    assert not batch["mask"].all()
    for name in ("label", "mask", "index"):
        assert torch.equal(batch[name], other[name]), name
    assert torch.equal(batch["input"]["position_ids"], other["input"]["position_ids"])
    with pytest.raises(InputError, match="with 100 classes labels are integers from 0 to 99"):
        Indexed(data.train, num_classes=100)[[0, 1]]
    with pytest.raises(IndexError, match="sample 999"):
        data.train[999]


def test_labels_are_had_without_reading_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data: Any = tokens(path=lines(tmp_path), length=8)

    def unread(*_: Any) -> None:
        raise AssertionError("a sample is read")

    whole = Indexed(data.train)
    monkeypatch.setattr(TokenDataset, "__getitem__", unread)
    for dataset in (data.train, whole):
        assert torch.equal(labels_of(dataset, 257), data.train.labels)
    assert torch.equal(labels_of(Subset(data.train, [3, 1])), data.train.labels[[3, 1]])
    both = torch.cat([data.train.labels, data.test.labels])
    assert torch.equal(labels_of(ConcatDataset([data.train, data.test])), both)
    with pytest.raises(InputError, match="with 100 classes"):
        labels_of(data.train, 100)
    assert ids_of(data.train) is None  # its ids are of tokens


def test_content_is_digested(tmp_path: Path) -> None:
    data: Any = tokens(path=lines(tmp_path), length=8)
    before = samples_digests(data.train)
    for name in ("ids", "positions", "labels", "documents", "byte_counts"):
        changed = getattr(data.train, name).clone()
        setattr(data.train, name, changed)
        assert samples_digests(data.train) == before
        changed[3, 2] += 1
        assert samples_digests(data.train) != before, name
        changed[3, 2] -= 1
    origin = {"name": "tokens", "path": str(tmp_path / "a.jsonl")}
    assert contents_of(replace(data, origin=origin))["data"].keys() == {"values"}


@pytest.mark.parametrize(
    "change",
    [{"ids": torch.zeros(2, 3, dtype=torch.int32)}, {"labels": torch.zeros(2, 4).long()}, {"documents": torch.ones(6)}],
)
def test_rows_that_do_not_fit(change: dict[str, torch.Tensor]) -> None:
    names = ("ids", "positions", "labels", "documents", "byte_counts")
    with pytest.raises(InputError, match=r"give all five as int64 of one shape \(N, L\)"):
        TokenDataset(**{**{name: torch.zeros(2, 3, dtype=torch.int64) for name in names}, **change})


# -- documents ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".parquet"])
def test_every_format_gives_the_same(kind: str, tmp_path: Path) -> None:
    texts = "|".join(TEXTS)
    (tmp_path / "b.txt").write_text(texts, encoding="utf-8")
    one: Any = tokens(path=lines(tmp_path, kind=kind), length=16)
    other: Any = tokens(path=tmp_path / "b.txt", separator="|", length=16)
    assert torch.equal(one.train.ids, other.train.ids)
    assert torch.equal(one.test.documents, other.test.documents)


def test_a_text_is_cut_at_blank_lines() -> None:
    text = ("one\ntwo\n\n" * 40 + "long line, " * 30 + "\n" + "é" * 200 + "\r\n\r\nlast").encode()
    found = cut(text, 50)
    assert b"".join(found) == text
    assert all(50 <= len(each) <= 101 for each in found[:-1])
    assert found[0].endswith(b"\n\n")
    assert [each.decode() for each in found]  # no character is torn
    assert sum(each.endswith(b"\n\n") for each in found) > 5


@pytest.mark.parametrize("count", [3, 4, 14, 19])
def test_of_few_documents_each_part_has_one(count: int) -> None:
    parts = split_documents([b"text"] * count, {"heldout": 0.05, "test": 0.05})
    assert {name: len(part) for name, part in parts.items()} == {"train": count - 2, "heldout": 1, "test": 1}
    assert not split_documents([b"text"] * count, {"heldout": 0.05, "test": 0})["test"]


def test_a_text_without_separator_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + b"to be or not\n\n" * 4100)
    with notes_kept() as notes:
        data: Any = tokens(path=path, length=8)
    assert data.train.num_documents + data.test.num_documents == 14
    assert data.train.ids[0, :2].tolist() == list(b"to")
    assert len(notes) == 1
    assert notes[0].endswith("cut into 14 documents of about 4096 bytes, at the next blank line or line end")
    with notes_kept() as notes:  # who says how long they are knows it
        tokens(path=path, length=8, document_bytes=100)
    assert not notes


def test_empty_documents_are_left_out(tmp_path: Path) -> None:
    texts = ["a b c d", "", *TEXTS, " \n"]
    with notes_kept() as notes:
        data: Any = tokens(path=lines(tmp_path, texts), length=8)
    assert notes == [f"{tmp_path / 'a.jsonl'}: 2 of {len(texts)} documents are empty and left out"]
    assert data.test.documents.max() == len(TEXTS)  # the first is one more, from 0


def test_split_by_bytes() -> None:
    drawn = np.random.default_rng(0)
    documents = [b"x" * size for size in drawn.integers(1, 100, 400)]
    parts = split_documents(documents, {"heldout": 0.1, "test": 0.25})
    assert [each for part in parts.values() for each in part] == documents
    total = sum(map(len, documents))
    shares = {name: sum(map(len, part)) / total for name, part in parts.items()}
    assert shares == pytest.approx({"train": 0.65, "heldout": 0.1, "test": 0.25}, abs=100 / total)


def test_parts_from_files_of_their_own(tmp_path: Path) -> None:
    for name in ("h", "t"):
        (tmp_path / name).mkdir()
    held, test = lines(tmp_path / "h", ["held out"]), lines(tmp_path / "t", ["test it", "again"])
    data: Any = tokens(path=lines(tmp_path), length=16, heldout_path=held, test_path=test)
    rows = data.train.ids[data.pools["heldout"]]
    assert bytes(rows.flatten().tolist()[:8]) == b"held out"
    assert data.train.documents.max() == len(TEXTS)
    assert data.test.documents[0, [0, 8]].tolist() == [len(TEXTS) + 1, len(TEXTS) + 2]


# -- tokenizers --------------------------------------------------------------------------------------------------------


def byte_level(folder: Path, *, eos: bool = True, hole: bool = False) -> Path:
    """A small byte-level BPE as transformers saves it."""
    library, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number + 2 * hole for number, letter in enumerate(alphabet)}
    vocabulary |= {"to": len(vocabulary) + 2 * hole, "</s>": len(vocabulary) + 2 * hole + 1}
    if not eos:
        vocabulary.pop("</s>")
    inner = library.Tokenizer(library.models.BPE(vocabulary, [("t", "o")]))
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()
    more = {"eos_token": "</s>"} if eos else {}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **more).save_pretrained(folder)
    return folder


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "small", hole=True)
    data: Any = tokens(path=lines(tmp_path), tokenizer=str(folder), length=12, packed=False)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = TEXTS[1]
    ids = theirs(text, add_special_tokens=False)["input_ids"]
    rows = data.train.documents[: len(data.train) - len(data.pools["heldout"])] == 1
    kept = data.train.ids[: len(rows)][rows]
    assert kept.tolist() == [*ids, theirs.eos_token_id]
    assert theirs.decode(kept[:-1]) == text
    assert data.class_names[:2] == ("<unused 0>", "<unused 1>")
    assert data.class_names[theirs.eos_token_id] == "</s>"
    assert data.num_classes == theirs.eos_token_id + 1 == 260
    assert data.preprocessing["context"]["tokenizer"] == "small"


def test_a_tokenizer_file_is_its_folder(tmp_path: Path) -> None:
    folder = byte_level(tmp_path / "small")
    one, other = tokenizer_of(str(folder), []), tokenizer_of(folder / "tokenizer.json", [])
    assert (one.names, one.eos, one.digest) == (other.names, other.eos, other.digest)
    assert tokenizer_of(str(byte_level(tmp_path / "holes", hole=True)), []).digest != one.digest


@pytest.mark.parametrize("kind", ["bytes", "bpe", "folder"])
def test_byte_counts_are_those_of_the_texts(kind: str, tmp_path: Path) -> None:
    documents = [text.encode() for text in TEXTS]
    if kind != "bytes":
        pytest.importorskip("tokenizers")
    given: Any = {"bytes": "bytes", "bpe": {"bpe": 280}}.get(kind) or str(byte_level(tmp_path / "small"))
    made = tokenizer_of(given, documents)
    encoded = made.encode(documents)
    ends = np.cumsum(encoded.lengths)
    sums = [part.sum() for part in np.split(encoded.byte_counts, ends[:-1])]
    assert sums == [len(each) for each in documents]
    assert (encoded.ids[ends - 1] == made.eos).all()
    assert (encoded.byte_counts[ends - 1] == 0).all()
    assert (encoded.byte_counts >= 0).all()
    if kind != "bytes":  # of ASCII, each token's own characters
        letters = encoded.ids[: encoded.lengths[0] - 1]
        assert encoded.byte_counts[: len(letters)].tolist() == [len(made.names[number]) for number in letters]


def test_blanks_that_a_tokenizer_drops_count_with_the_next(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    inner = library.Tokenizer(library.models.WordLevel({"so": 0, "gut": 1, "[UNK]": 2, "</s>": 5}, unk_token="[UNK]"))
    inner.pre_tokenizer = library.pre_tokenizers.Whitespace()
    inner.add_special_tokens(["</s>"])
    inner.enable_truncation(2)
    inner.save(str(tmp_path / "tokenizer.json"))
    made = tokenizer_of(str(tmp_path / "tokenizer.json"), [])
    encoded = made.encode([" so  gut é \n".encode(), b"so</s>so"])
    assert encoded.ids.tolist() == [0, 1, 2, 5, 0, 5, 0, 5]
    assert encoded.byte_counts.tolist() == [3, 5, 5, 0, 2, 0, 2, 0]
    assert made.names == ("so", "gut", "[UNK]", "<unused 3>", "<unused 4>", "</s>")


def test_a_bpe_of_the_training_documents(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    texts = ["lorem ipsum dolor"] * 20 + ["zzzzzzzzzzzzzzzz"]
    data: Any = tokens(path=lines(tmp_path, texts), tokenizer={"bpe": 264}, length=8, heldout=0.05, test=0)
    assert (data.num_classes, data.class_names[263]) == (264, "<eos>")
    assert not any("zz" in name for name in data.class_names)  # which is held out
    assert data.preprocessing["context"]["tokenizer"] == "bpe 264"
    with notes_kept() as notes:
        few: Any = tokens(path=lines(tmp_path, texts), tokenizer={"bpe": 1000}, length=4, test=0)
    assert few.num_classes < 300
    assert notes == [
        f"the training documents have but {few.num_classes} of the 1000 tokens of the vocabulary asked for"
    ]


def test_a_bpe_depends_on_the_documents_alone() -> None:
    """Threads and hashes are others each time."""
    pytest.importorskip("tokenizers")
    drawn = random.Random(0)
    texts = [" ".join(drawn.choice("abcdefgh") * drawn.randint(1, 3) for _ in range(99)) for _ in range(99)]
    documents = [text.encode() for text in texts]
    assert len({tokenizer_of({"bpe": 400}, documents).digest for _ in range(5)}) == 1
    assert tokenizer_of({"bpe": 400}, documents[1:]).digest != tokenizer_of({"bpe": 400}, documents).digest


def test_names_are_unique_and_printable(tmp_path: Path) -> None:
    library = pytest.importorskip("tokenizers")
    vocabulary = {"\n": 0, "\\n": 1, "": 2, "<unused 2>": 3, "</s>": 4, "a": 6, "<unused 5>": 7, "é": 8}
    library.Tokenizer(library.models.WordLevel(vocabulary, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    names = tokenizer_of(str(tmp_path / "tokenizer.json"), []).names
    assert len(set(names)) == 9
    assert all(name and name.isprintable() for name in names)
    assert (names[0], names[4], names[6], names[8]) == ("\\n", "</s>", "a", "é")


# -- what is refused ---------------------------------------------------------------------------------------------------

TEXT = b"to be or not\n\n" * 50
REFUSED: dict[str, tuple[str, bytes, dict[str, Any], str]] = {
    "empty": ("a.txt", b"", {}, r"a\.txt: there is no text in it; give a file with at least one document"),
    "blank": ("a.txt", b" \n\n ", {}, "there is no text in it"),
    "empty and separated": ("a.txt", b"", {"separator": "|"}, "there is no text in it"),
    "no rows": ("a.jsonl", b"\n", {}, "the file holds no rows"),
    "not UTF-8": ("a.txt", b"abc\xff", {}, "byte 3 is not UTF-8; save the file as UTF-8"),
    "NUL": ("a.txt", b"ab\0c", {}, "byte 2 is NUL"),
    "NUL in a row": ("a.jsonl", b'{"text": "a\\u0000"}', {}, r"row 1: the text holds the character U\+0000"),
    "half": ("a.jsonl", b'{"text": "a\\ud800"}', {}, "half a character; remove it"),
    "number": ("a.jsonl", b'{"text": 3}', {}, "row 1: the text is a int, not text"),
    "column": ("a.jsonl", b'{"txt": "a"}', {}, "there is no column 'text'; did you mean 'txt'"),
    "extension": ("a.md", TEXT, {}, r"the name ends in '\.md'; give a file that ends in \.txt, \.jsonl"),
    "separator": ("a.txt", TEXT, {"separator": "###"}, "the separator '###' is not in it"),
    "no separator": ("a.txt", TEXT, {"separator": ""}, "separator is ''; give the text that stands between"),
    "both": ("a.txt", TEXT, {"separator": "o", "document_bytes": 9}, "leave one of the two out"),
    "rows": ("a.csv", b"text\nabc\n", {"separator": "b"}, "separator is for .txt files"),
    "size": ("a.txt", TEXT, {"document_bytes": 0}, "document_bytes is 0; give a whole number of at least 1"),
    "length": ("a.txt", TEXT, {"length": 1}, "length is 1; give a whole number of at least 2 tokens a row"),
    "short": ("a.txt", TEXT, {"document_bytes": 50, "length": 4096}, r"have \d+ tokens, fewer than one row of length"),
    "share": ("a.txt", TEXT, {"heldout": 1.0}, r"heldout is 1\.0; give the part of the text that it takes"),
    "bool": ("a.txt", TEXT, {"test": True}, "test is True; give the part"),
    "NaN": ("a.txt", TEXT, {"test": float("nan")}, "test is nan; give the part"),
    "no heldout": ("a.txt", TEXT, {"heldout": 0}, "heldout is 0; give the share"),
    "shares": ("a.txt", TEXT, {"heldout": 0.5, "test": 0.5}, r"heldout=0\.5, test=0\.5 leave nothing to train on"),
    "few": ("a.txt", TEXT, {}, "of 1 documents leave none for heldout; give a larger share, or heldout_path"),
    "few to train": ("a.txt", TEXT, {"heldout": 0.6, "test": 0}, "leave none for train; give smaller shares"),
    "bpe": ("a.txt", TEXT, {"document_bytes": 50, "tokenizer": {"bpe": 256}}, "bpe is 256; give a vocabulary of 257"),
    "vocabulary": ("a.txt", TEXT, {"document_bytes": 50, "tokenizer": {"bpe": 2**31}}, "bpe is 2147483648; give"),
    "kind": ("a.txt", TEXT, {"document_bytes": 50, "tokenizer": {"bp": 9}}, r"the tokenizer is \{'bp': 9\}; give"),
    "no tokenizer": ("a.txt", TEXT, {"document_bytes": 50, "tokenizer": 7}, "the tokenizer is 7; give bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input(name: str, tmp_path: Path) -> None:
    file, content, options, sentence = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=sentence) as error:
        tokens(path=tmp_path / file, **options)
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.txt cannot be read \(No such file"):
        tokens(path=tmp_path / "nothing.txt")


def test_tokenizers_that_cannot_be_used(tmp_path: Path) -> None:
    library, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    folder = byte_level(tmp_path / "endless", eos=False)
    with pytest.raises(InputError, match=r"no token that ends a document \(eos\); set its eos_token and save it again"):
        tokenizer_of(str(folder), [])
    with pytest.raises(InputError, match=r"\(eos\); give its folder, whose tokenizer_config.json says which"):
        tokenizer_of(folder / "tokenizer.json", [])
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match=r"a\.json: no tokenizer can be read \(.*\); give a tokenizer\.json"):
        tokenizer_of(tmp_path / "a.json", [])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"none' cannot be loaded .*; give a folder with tokenizer\.json"):
        tokenizer_of(str(tmp_path / "none"), [])
    inner = library.Tokenizer(library.models.WordLevel({"a": 0, "</s>": 12345}, unk_token="a"))
    (tmp_path / "tokenizer.json").write_text(inner.to_str().replace("12345", str(2**31)))
    with pytest.raises(InputError, match="largest token id is 2147483648, which would make as many classes"):
        tokenizer_of(str(tmp_path / "tokenizer.json"), [])
    slow = transformers.ByT5Tokenizer()
    slow.save_pretrained(tmp_path / "slow")
    with pytest.raises(InputError, match="slow' is a slow one, which does not tell where"):
        tokenizer_of(str(tmp_path / "slow"), [])


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"needs transformers; run pip install 'preceptor\[text\]'"):
        tokenizer_of({"bpe": 300}, [b"a"])
    assert tokenizer_of("bytes", []).eos == EOS
