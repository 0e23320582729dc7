"""Identity by content: other data, or another teacher, under the same name are not taken for those of the run."""

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

import preceptor
from preceptor.data import digits, listing
from preceptor.data.listing import paths_in
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeacherRef, parse
from preceptor.runs.contents import contents_of, weights_digest
from preceptor.runs.files import digest
from preceptor.runs.folder import read_contents, read_objects
from preceptor.study.generations import run_generations
from preceptor.study.grid import run_study
from preceptor.study.recipe import Generations, Study
from preceptor.study.teachers import assess_teachers, choose_teacher, keep_teaching, read_candidates
from preceptor.training.data.samples import load_data
from training.toys import assert_close, weights

QUICK: dict[str, Any] = {
    "split": {"heldout": 10, "test": 10},
    "training": {"epochs": 1, "batch_size": 30, "device": "cpu"},
    "model": {"name": "mlp", "hidden": [4]},
}
OUTSIDER = """
import numpy as np
import torch
from torch.utils.data import TensorDataset

from contents_toys import Lazy


def in_memory(where):
    inputs = torch.from_numpy(np.load(where)["inputs"])
    return TensorDataset(inputs, torch.arange(len(inputs)) % 2)


def lazy(root):
    return Lazy(root)
"""


class Lazy(Dataset[Any]):
    """Reads each sample when it is asked for."""

    def __init__(self, root: str) -> None:
        self.samples = [
            (os.path.join(root, name), position % 2) for position, name in enumerate(sorted(os.listdir(root)))
        ]
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        path, label = self.samples[index]
        return torch.from_numpy(np.load(path)), label


class Rooted(Lazy):
    """Knows its files by a folder and names in it."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.root, self.names = root, sorted(os.listdir(root))

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(np.load(os.path.join(self.root, self.names[index]))), self.targets[index]


class Rows(Lazy):
    """Knows its files by rows, as tables are read."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.rows = [{"image": Path(path), "label": label} for path, label in self.samples]
        del self.samples

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return torch.from_numpy(np.load(self.rows[index]["image"])), self.rows[index]["label"]


def rows(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(40, 3)).astype(np.float32)


def write_npz(path: Path) -> None:
    np.savez(path, inputs=rows(0), labels=np.arange(40) % 2)


def write_texts(path: Path) -> None:
    lines = [json.dumps({"text": f"sentence {n}", "label": n % 2}) for n in range(40)]
    path.write_text("\n".join(lines))


def write_tree(path: Path) -> None:
    path.mkdir()
    for number, row in enumerate(rows(0)):
        np.save(path / f"{number:02d}.npy", row)


TEXTS = {"name": "text", "path": "x.jsonl"}
BAG = {"model": {"name": "ngram_bag", "buckets": 50, "width": 3}}
# What writes the data to a path, and how they are then given: by name, or as an object.
SOURCES: dict[str, tuple[Callable[[Path], None], str, Callable[[], Any], dict[str, Any]]] = {
    "npz": (write_npz, "x.npz", lambda: {"name": "npz", "path": "x.npz"}, {}),
    "text": (write_texts, "x.jsonl", lambda: TEXTS, BAG),
    "test texts": (write_texts, "t.jsonl", lambda: {**TEXTS, "test_path": "t.jsonl"}, BAG | {"split": {"heldout": 10}}),
    "function": (write_npz, "x.npz", lambda: {"name": "outsider:in_memory", "where": "x.npz"}, {}),
    "lazy function": (write_tree, "tree", lambda: {"name": "outsider:lazy", "root": "tree"}, {}),
    "files": (write_tree, "tree", lambda: Lazy("tree"), {}),
    "folder": (write_tree, "tree", lambda: Rooted("tree"), {}),
    "rows": (write_tree, "tree", lambda: Rows("tree"), {}),
    "subset": (write_tree, "tree", lambda: Subset(Lazy("tree"), range(40)), {}),
    "parts": (write_tree, "tree", lambda: ConcatDataset([Subset(Lazy("tree"), range(20)), Lazy("tree")]), {}),
    "pair": (write_tree, "tree", lambda: (Lazy("tree"), Lazy("tree")), {"split": {"heldout": 10}}),
}


def change(path: Path) -> None:
    """One bit of the contents, and neither the size nor the time."""
    path = sorted(path.iterdir())[7] if path.is_dir() else path
    about = path.stat()
    content = bytearray(path.read_bytes())
    if path.suffix == ".npz":
        write_npz_changed(path)
        content = bytearray(path.read_bytes())
    elif path.suffix == ".jsonl":
        content = bytearray(path.read_bytes().replace(b"sentence 9", b"sentense 9"))
    else:
        content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def write_npz_changed(path: Path) -> None:
    inputs = rows(0)
    inputs[7, 1] += 1e-6
    np.savez(path, inputs=inputs, labels=np.arange(40) % 2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "contents_toys", sys.modules[__name__])
    monkeypatch.delitem(sys.modules, "outsider", raising=False)
    (tmp_path / "outsider.py").write_text(OUTSIDER)
    return tmp_path


@pytest.mark.parametrize("unfinished", [True, False])
@pytest.mark.parametrize("source", SOURCES)
def test_other_data_under_the_same_name_are_refused(source: str, unfinished: bool, place: Path) -> None:
    write, name, given, more = SOURCES[source]
    if "x.jsonl" not in name and "text" in source:
        write_texts(place / "x.jsonl")
    write(place / name)

    def teach() -> Any:
        return preceptor.teach({**QUICK, **more}, "run", data=given())

    result = teach()
    if unfinished:
        (place / "run" / "result.json").unlink()
        shutil.rmtree(place / "run" / "checkpoints")
    else:
        assert teach() == result
    shutil.copytree(place / name, place / "kept") if (place / name).is_dir() else shutil.copy(place / name, "kept")
    change(place / name)
    with pytest.raises(InputError, match=r"was made with other data under the name '.*': their (values|files) have"):
        teach()
    shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink()
    shutil.move("kept", name)
    assert teach()["heldout"] == result["heldout"]


def grid(stacked: bool) -> tuple[Any, Any, str]:
    part = {**QUICK, "data": {"name": "npz", "path": "x.npz"}}
    raw = {"name": "s", "seeds": [0, 1], "teach": part, "distill": part, "baseline": part, "stack_teachers": stacked}
    raw |= {"teachers": {"ce": {"objective": "cross_entropy"}}, "losses": {"kd": {"loss": "kd"}}}
    return run_study, parse(Study, raw), "study.json"


def chains() -> tuple[Any, Any, str]:
    part = {**QUICK, "data": {"name": "npz", "path": "x.npz"}}
    raw = {"seeds": [0], "generations": 2, "teach": part, "distill": part}
    return (
        run_generations,
        parse(Generations, raw | {"starts": {"ce": {"objective": "cross_entropy"}}}),
        "generations.json",
    )


@pytest.mark.parametrize("unfinished", [True, False])
@pytest.mark.parametrize(
    "kind", [lambda: grid(True), lambda: grid(False), chains], ids=["stacks", "runs", "generations"]
)
def test_a_study_is_not_repeated_with_other_data(kind: Any, unfinished: bool, place: Path) -> None:
    write_npz(place / "x.npz")
    run, study, name = kind()
    result = run(study, place / "out", command="")
    assert run(study, place / "out", command="") == result
    if unfinished:
        (place / "out" / name).unlink()
    change(place / "x.npz")
    with pytest.raises(InputError, match="with other data under the name 'npz': their values have changed since"):
        run(study, place / "out", command="")


def test_the_values_count_and_not_the_file_they_come_in(place: Path) -> None:
    write_npz(place / "x.npz")
    data = {"name": "npz", "path": "x.npz"}
    result = preceptor.teach(QUICK, "run", data=data)
    np.savez_compressed("x.npz", labels=np.arange(40) % 2, inputs=rows(0), more=np.zeros(2))
    assert preceptor.teach(QUICK, "run", data=data) == result


def test_what_is_made_and_not_read_has_no_contents() -> None:
    recipe = parse(DistillRecipe, {"data": "digits"})
    assert contents_of(load_data(recipe)) == {}
    assert contents_of(load_data(recipe, digits())) == {}


def test_all_values_are_in_the_digest(place: Path) -> None:
    write_npz(place / "x.npz")
    data = load_data(parse(DistillRecipe, {"data": {"name": "npz", "path": "x.npz"}}))
    train: Any = data.train
    before = contents_of(data)
    inputs = train.inputs.clone()
    inputs[-1, -1] = -inputs[-1, -1]
    others = [
        dataclasses.replace(data, class_names=("b", "a")),
        dataclasses.replace(data, train=type(train)(inputs, train.labels)),
        dataclasses.replace(data, train=type(train)(train.inputs, train.labels.flip(0))),
        dataclasses.replace(data, train=type(train)(train.inputs.double(), train.labels)),
        dataclasses.replace(data, test=data.train),
        dataclasses.replace(data, pools={"heldout": torch.arange(4)}),
    ]
    assert len({str(contents_of(each)) for each in others} | {str(before)}) == len(others) + 1
    inputs, labels = train.inputs.clone(), train.labels.clone()
    again = dataclasses.replace(data, train=type(train)(inputs, labels, transform=train.transform))
    assert contents_of(again) == before


# -- large trees -------------------------------------------------------------------------------------------------


@pytest.fixture
def large(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(listing, "MOST_BYTES", 100)
    write_tree(place / "tree")
    return place / "tree"


def test_a_large_tree_is_known_by_its_listing_and_a_sample(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = preceptor.teach(QUICK, "run", data=Lazy("tree"))
    said = "the data are known by names, sizes and times of 40 files (0.0 GB) and by the beginnings of 40 of them"
    assert said in capsys.readouterr().err
    assert said in result["notes"]
    assert preceptor.teach(QUICK, "run", data=Lazy("tree")) == result
    found = read_contents(Path("run"))
    assert found is not None
    assert found["data"].keys() == {"names and sizes", "times", "sampled contents"}


@pytest.mark.parametrize(
    ("key", "do"),
    [
        ("sampled contents", change),
        ("times", lambda tree: os.utime(tree / "03.npy", ns=(1, 1))),
        ("names and sizes", lambda tree: (tree / "03.npy").write_bytes((tree / "03.npy").read_bytes() + b" ")),
        ("names and sizes", lambda tree: (tree / "03.npy").rename(tree / "03b.npy")),
    ],
)
def test_each_part_of_the_listing_is_compared(key: str, do: Callable[[Path], Any], large: Path) -> None:
    preceptor.teach(QUICK, "run", data=Lazy("tree"))
    do(large)
    with pytest.raises(InputError, match=f"their {key} have changed since"):
        preceptor.teach(QUICK, "run", data=Lazy("tree"))


def test_a_tree_may_be_moved(large: Path) -> None:
    before = listing.listing([large])
    shutil.copytree(large, large.parent / "elsewhere" / "deep")
    assert listing.listing([large.parent / "elsewhere"]) == before | {
        "names and sizes": listing.listing([large.parent / "elsewhere" / "deep"])["names and sizes"]
    }


def test_runs_hidden_files_and_the_folder_at_work_are_no_data(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tree(place / "tree")
    before = listing.listing([place / "tree"])
    for name in ("run/recipe.yaml", "run/last.safetensors", ".cache/x", "__pycache__/y"):
        (place / "tree" / name).parent.mkdir(exist_ok=True)
        (place / "tree" / name).write_text("")
    assert listing.listing([place / "tree"]) == before
    assert listing.listing([place]) == {}
    assert "whether its files stay as they are is not known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        ({"root": "images"}, ["images"]),
        ({"image_dir": "images", "split": "train", "name": "x"}, ["images"]),
        ({"table": "tables/a.csv", "url": None}, ["a.csv"]),
        ({"inner": {"csv_file": "a.csv"}}, ["a.csv"]),
        ({"classes": ["a/b"] * 3, "texts": ["either/or"]}, []),
        ({"any": Path("x")}, ["x"]),
    ],
)
def test_paths_are_found(thing: Any, expected: list[str]) -> None:
    assert [path.name for path in paths_in(thing)] == expected


# -- teachers ----------------------------------------------------------------------------------------------------

TEACHER: dict[str, Any] = {
    "data": "digits",
    "model": {"name": "mlp", "hidden": [4]},
    "split": {"train": 100, "heldout": 50, "test": 50},
    "training": {"epochs": 2, "batch_size": 50, "device": "cpu", "keep": "all"},
    "average": {"kind": "swa"},
}
STUDENT: dict[str, Any] = {**TEACHER, "training": {**QUICK["training"]}, "average": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for name, lr in (("one", 0.1), ("other", 0.2)):
        preceptor.teach(TEACHER, folder / name, lr=lr)
        keep_teaching(folder / name)
        preceptor.teach({**TEACHER, "average": None}, folder / f"{name}-stack", lr=lr, seeds=[0, 0])
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("unfinished", [True, False])
@pytest.mark.parametrize("moment", ["", ":best", ":average", ":epoch-1", ":teaching", "-stack:member-1"])
def test_another_teacher_under_the_same_name_is_refused(moment: str, unfinished: bool, runs: Path) -> None:
    run = f"one{moment}".partition(":")[0]

    def distill() -> Any:
        return preceptor.distill(STUDENT, "student", teacher=f"one{moment}")

    result = distill()
    assert distill() == result
    if unfinished:
        (runs / "student" / "result.json").unlink()
    (runs / run).rename("kept")
    shutil.copytree(run.replace("one", "other"), run)
    with pytest.raises(InputError, match=rf"made with another teacher under the name 'one{moment}': its weights have"):
        distill()
    shutil.rmtree(runs / run)
    shutil.copytree("kept", run)  # a copy of the same weights is the same teacher
    assert distill()["heldout"] == result["heldout"]


def test_one_teacher_of_several_is_named(runs: Path) -> None:
    preceptor.distill(STUDENT, "student", teacher=["one", "other", "one:epoch-1"])
    shutil.rmtree("other")
    shutil.copytree("one", "other")
    with pytest.raises(InputError, match="another teacher under the name 'other'"):
        preceptor.distill(STUDENT, "student", teacher=["one", "other", "one:epoch-1"])


def test_a_digest_is_taken_from_the_result_where_it_stands(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = f"sha256:{digest(Path('one/best.safetensors'))}"
    monkeypatch.setattr("preceptor.runs.files.digest", None)
    assert weights_digest(parse(TeacherRef, {"run": "one", "weights": "best"})) == expected


def test_a_run_of_an_older_version_has_no_contents_recorded(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preceptor.distill(STUDENT, "student", teacher="one")
    (runs / "student" / "result.json").unlink()
    path = runs / "student" / "objects.json"
    content = json.loads(path.read_text())
    assert content.pop("contents").keys() == {"teacher"}
    path.write_text(json.dumps(content))
    shutil.rmtree("one")
    shutil.copytree("other", "one")
    preceptor.distill(STUDENT, "student", teacher="one")
    assert "has no contents recorded: whether its data and teachers are still the same is" in capsys.readouterr().err
    assert read_objects(Path("student")) == {}


# -- one run under two names -------------------------------------------------------------------------------------


@pytest.fixture(params=["link", "absolute", "relative", "copy"])
def alias(request: pytest.FixtureRequest, runs: Path) -> str:
    """Another name of the run 'one'."""
    if request.param == "link":
        os.symlink("one", "alias")
    if request.param == "copy":
        shutil.copytree("one", "alias")
    return {"absolute": str(runs / "one"), "relative": "other/../one"}.get(request.param, "alias")


def test_a_run_under_two_names_is_assessed_once(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    [comparison] = assess_teachers(["one", alias, "other", f"{alias}:best", "one:best"])
    assert [teacher.name for teacher in sorted(comparison.teachers, key=lambda each: each.name)] == sorted(
        ["one", "other", f"{alias}:best"]
    )
    assert f"'{alias}' is the teacher 'one' under another name, and counts once" in capsys.readouterr().err


def test_a_run_under_two_names_is_one_member(alias: str) -> None:
    [found] = read_candidates([f"one+{alias}"])
    assert [str(reference.run) for reference in found.references] == ["one"]
    [alone] = read_candidates(["one"])
    np.testing.assert_allclose(found.logits, alone.logits, atol=1e-12)
    assert len(read_candidates([f"one+other+{alias}", f"{alias}+other", "other+one", "one"])) == 2


def test_a_run_under_two_names_teaches_once(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its share in a mixture is not doubled."""
    preceptor.distill(STUDENT, "twice", teacher=["one", alias, "other"])
    assert "under another name, and counts once" in capsys.readouterr().err
    preceptor.distill(STUDENT, "once", teacher=["one", "other"])
    assert_close(weights(Path("twice")), weights(Path("once")), 0)
    preceptor.distill(STUDENT, "thrice", teacher=["one", "one", "other"])
    assert_close(weights(Path("thrice")), weights(Path("once")), 0)


def test_a_run_under_two_names_is_chosen_once(alias: str) -> None:
    recipe = parse(DistillRecipe, STUDENT)
    resolved, choice = choose_teacher(recipe, ["one", alias])
    alone, expected = choose_teacher(recipe, ["one"])
    assert (resolved, choice.weights) == (alone, expected.weights)


def test_what_differs_in_more_than_its_name_counts(runs: Path) -> None:
    names = ["one", "one:best", "one:average", "one:epoch-1", "one:epoch-2", "other", "one+other"]
    assert len(read_candidates(names)) == len(names)
    with pytest.raises(InputError, match="is given twice"):
        read_candidates(["one", "one:last"])


def test_a_file_under_two_paths_counts_once(runs: Path) -> None:
    np.savez("x.npz", logits=rows(0), labels=np.arange(40) % 3)
    os.symlink("x.npz", "y.npz")
    assert [found.name for found in read_candidates(["x.npz", "y.npz"])] == ["x"]


@pytest.mark.parametrize("key", ["p", "source", "data", "archive"])
def test_a_file_is_a_file_whatever_it_is_called(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.npy").write_bytes(b"")
    assert [path.name for path in paths_in({key: "x.npy", "split": "train", "kind": "y.npy"})] == ["x.npy"]
