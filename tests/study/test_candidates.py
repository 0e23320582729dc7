"""Teachers by name: runs, their epochs and members, files, ensembles; and what is refused."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.tables import read_table
from preceptor.errors import InputError
from preceptor.recipe import TeacherRef
from preceptor.runs.files import load_tensors
from preceptor.runs.references import teacher_references
from preceptor.study.teachers import Candidate, read_candidates, reading
from preceptor.training import as_teacher, load_teacher, teach
from preceptor.training.data.samples import cut, load_data
from training.toys import teach_recipe

KEPT = ["training.epochs=3", "training.keep=all", "split.transfer=40"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two single runs that share a split, and a stack of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    teach(teach_recipe(*KEPT, "average.decay=0.5", "calibrate=true"), folder / "a")
    teach(teach_recipe(*KEPT, "objective=mse", "distribution=clip", "streams.initialization=1"), folder / "b")
    teach(teach_recipe(*KEPT), folder / "stack", seeds=[0, 7])
    return folder


def read(*names: object, **options: Any) -> list[Candidate]:
    return read_candidates([str(name) for name in names], **options)


def refused(*names: object, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(*names, **options)
    return str(caught.value)


def says(reference: TeacherRef, part: str) -> np.ndarray:
    """The live teacher's log-probabilities for a part of the data, through another door than `read_candidates`."""
    recipe = teach_recipe(*KEPT, f"seed={7 if reference.member else 0}")
    samples = cut(recipe, load_data(recipe), recipe.seed)
    output = load_teacher(reference)(samples.train[samples.parts[part].tolist()])
    return output.double().log_softmax(-1).numpy()


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selectors", "reference"),
    [
        ("", {}),
        (":last", {}),
        (":best", {"weights": "best"}),
        (":average", {"weights": "average"}),
        (":epoch-2", {"epoch": 2}),
        (":calibrated", {"calibrated": True}),
        (":best:calibrated", {"weights": "best", "calibrated": True}),
    ],
)
def test_a_run_says_what_its_live_teacher_says(selectors: str, reference: dict[str, Any], folder: Path) -> None:
    [found] = read(f"{folder / 'a'}{selectors}", transfer=True)
    [live] = found.references
    assert live == TeacherRef(run=folder / "a", **reference)
    assert found.name == f"{folder / 'a'}{'' if selectors == ':last' else selectors}"
    np.testing.assert_allclose(found.logits, says(live, "heldout"), atol=1e-5)
    assert {part: len(seen.ids) for part, seen in found.students_see.items()} == {"train": 150, "transfer": 40}
    for part, seen in found.students_see.items():
        np.testing.assert_allclose(seen.logits, says(live, part), atol=1e-5)
    assert found.ids is not None
    assert not np.intersect1d(found.ids, found.students_see["transfer"].ids).size
    assert np.array_equal(found.trained_on, found.students_see["train"].ids)  # type: ignore[arg-type]


def test_what_is_not_asked_for_is_not_computed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "load_data", None)
    [found] = read(folder / "a")
    assert found.students_see == {}
    assert found.unseen is None


def test_every_kept_epoch(folder: Path) -> None:
    found = read(f"{folder / 'a'}:epochs")
    assert [candidate.name for candidate in found] == [f"{folder / 'a'}:epoch-{n}" for n in (1, 2, 3)]
    assert [candidate.references[0].epoch for candidate in found] == [1, 2, 3]
    stored, _ = load_tensors(folder / "a" / "predictions.safetensors")
    np.testing.assert_allclose(found[2].logits, stored["heldout/last"].double().log_softmax(-1), atol=1e-5)


def test_snapshots_are_the_mean_of_what_a_run_has_kept(folder: Path) -> None:
    [found] = read(f"{folder / 'a'}:snapshots")
    each = read(f"{folder / 'a'}:epochs")
    mean = np.mean([softmax(candidate.logits, -1) for candidate in each], 0)
    np.testing.assert_allclose(np.exp(found.logits), mean, atol=1e-9)
    assert found.name == f"{folder / 'a'}:snapshots"
    assert [reference.epoch for reference in found.references] == [1, 2, 3]


def test_snapshots_of_cycles_are_their_ends(tmp_path: Path) -> None:
    cyclic = ["schedule={name: cyclic, cycles: 2, warmup_epochs: 1}", "training.epochs=5"]
    teach(teach_recipe(*cyclic, "training.keep=all"), tmp_path / "a")
    assert [reference.epoch for reference in teacher_references(f"{tmp_path / 'a'}:snapshots")] == [3, 5]
    assert len(read(f"{tmp_path / 'a'}:epochs")) == 5
    weights = [
        reference.weight for reference in teacher_references(f"{tmp_path / 'a'}:snapshots:0.8+{tmp_path / 'a'}:0.2")
    ]
    assert weights == pytest.approx([0.4, 0.4, 0.2])
    teach(teach_recipe(*cyclic, "training.keep=all", "training.checkpoint_epochs=2"), tmp_path / "b")
    assert "has not kept epoch 3, in which a cycle of its schedule ends" in refused(f"{tmp_path / 'b'}:snapshots")
    teach(teach_recipe(*cyclic), tmp_path / "c")
    assert "has kept 1 of its epochs; train with training.keep=all" in refused(f"{tmp_path / 'c'}:snapshots")


def test_all_members_of_a_stack_are_one_teacher(folder: Path, tmp_path: Path) -> None:
    references = teacher_references(f"{folder / 'stack'}:best:members")
    assert [(each.weights, each.member) for each in references] == [("best", 0), ("best", 1)]
    assert "the run holds a single one" in refused(f"{folder / 'a'}:members")
    teach(teach_recipe("training.epochs=1"), tmp_path / "s", seeds=[0, 1])
    said = refused(f"{tmp_path / 's'}:members")  # of seeds, which draw splits of their own
    assert "was trained on" in said


def test_a_member_of_a_stack(folder: Path) -> None:
    first, second = read(*(f"{folder / 'stack'}:best:member-{n}" for n in (0, 1)), transfer=True)
    for candidate, member in ((first, 0), (second, 1)):
        [reference] = candidate.references
        assert (reference.weights, reference.member) == ("best", member)
        np.testing.assert_allclose(candidate.logits, says(reference, "heldout"), atol=1e-5)
        np.testing.assert_allclose(candidate.students_see["transfer"].logits, says(reference, "transfer"), atol=1e-5)
    assert not np.array_equal(first.ids, second.ids)  # type: ignore[arg-type]


def test_your_own_data_stand_in_for_the_recipes(folder: Path) -> None:
    recipe = teach_recipe()
    whole = load_data(recipe)
    inputs, labels = whole.train.fetch(torch.arange(len(whole.train)))
    same = Data(ArrayDataset(inputs, labels), None, whole.class_names)
    [ours], [theirs] = (read(folder / "a", data=data, transfer=True) for data in (same, None))
    np.testing.assert_allclose(ours.students_see["train"].logits, theirs.students_see["train"].logits, atol=1e-6)
    other = Data(ArrayDataset(inputs, labels.roll(1)), None, whole.class_names)
    assert "gives other labels for the held-out samples than the run" in refused(
        folder / "a", data=other, transfer=True
    )
    shorter = Data(ArrayDataset(inputs[:20], labels[:20]), None, whole.class_names)
    [noted] = read(folder / "a", data=shorter, transfer=None)
    assert noted.unseen is not None
    assert noted.students_see == {}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("a:bst", "did you mean 'best'"),
        ("a:epoch-9", "has not kept epoch 9; it has: 1, 2, 3; train with training.keep=all"),
        ("a:best:epoch-1", "names two moments or members of the run; give one"),
        ("a:epochs:last", "names two moments or members of the run; give one"),
        ("b:average", "has no 'average' weights; it has: last, best"),
        ("a:member-0", "holds a single model, not a stack"),
        ("stack", "holds a stack of 2 models; say which member, e.g. member=0"),
        ("stack:member-2", "holds members 0 to 1"),
        ("none", "there is no run folder or file"),
        ("a+none", "there is no run folder or file"),
    ],
)
def test_names_that_stand_for_nothing(name: str, sentence: str, folder: Path) -> None:
    terms = [str(folder / term) for term in name.split("+")]
    assert sentence in refused("+".join(terms))


def test_a_run_that_kept_only_its_last_epoch(tmp_path: Path) -> None:
    teach(teach_recipe(), tmp_path / "run")
    assert "has kept 1 of its epochs; train with training.keep=all" in refused(f"{tmp_path / 'run'}:epochs")


def test_given_twice(folder: Path) -> None:
    assert "is given twice; give each teacher once" in refused(folder / "a", f"{folder / 'a'}:last")


# -- ensembles --------------------------------------------------------------------------------------------------------


def test_an_ensemble_averages_probabilities(folder: Path) -> None:
    name = f"{folder / 'a'}:best+{folder / 'b'}"
    [both], [first], [second] = (read(n, transfer=True) for n in (name, f"{folder / 'a'}:best", folder / "b"))
    np.testing.assert_allclose(np.exp(both.logits), (np.exp(first.logits) + np.exp(second.logits)) / 2, atol=1e-12)
    live = as_teacher([load_teacher(reference) for reference in both.references])
    recipe = teach_recipe(*KEPT)
    samples = cut(recipe, load_data(recipe), 0)
    for part, seen in both.students_see.items():
        batch = samples.train[samples.parts[part].tolist()]
        np.testing.assert_allclose(np.exp(seen.logits), live(batch).exp().numpy(), atol=1e-5)
    assert both.students_see.keys() == {"train", "transfer"}
    assert np.array_equal(both.trained_on, np.sort(first.trained_on))  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [(0.7, 0.3), (7, 3), (1, 4)])
def test_an_ensemble_with_weights(weights: tuple[float, float], folder: Path) -> None:
    a, b = (softmax(candidate.logits, -1) for candidate in read(f"{folder}/a:best", f"{folder}/b"))
    name = f"{folder}/a:best:{weights[0]}+{folder}/b:{weights[1]}"
    [both] = read(name)
    share = weights[0] / sum(weights)
    np.testing.assert_allclose(softmax(both.logits, -1), share * a + (1 - share) * b, atol=1e-9)
    assert [reference.weight for reference in both.references] == pytest.approx([share, 1 - share])
    references = teacher_references(name)
    assert [(r.run.name, r.weights, r.weight) for r in references] == [
        ("a", "best", pytest.approx(share)),
        ("b", "last", pytest.approx(1 - share)),
    ]


def test_weights_of_files_of_epochs_and_of_paths_that_end_so(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 9, 3))
    np.save(tmp_path / "first.npy", first)
    np.save(tmp_path / "second.npy", second)
    [both] = read(f"{tmp_path}/first.npy:3+{tmp_path}/second.npy:1")
    expected = 0.75 * softmax(first, -1) + 0.25 * softmax(second, -1)
    np.testing.assert_allclose(softmax(both.logits, -1), expected, atol=1e-9)
    [epochs] = read(f"{folder}/a:epochs:0.5+{folder}/b:0.5")
    assert [reference.weight for reference in epochs.references] == pytest.approx([1 / 6] * 3 + [0.5])
    shutil.copytree(folder / "a", tmp_path / "run:0.7")
    assert [reference.weight for reference in teacher_references(f"{tmp_path}/run:0.7+{folder}/b")] == [1.0, 1.0]
    one, other = f"{folder}/a:0.7+{folder}/b:0.3", f"{folder}/a:0.3+{folder}/b:0.7"
    assert [candidate.name for candidate in read(one, other)] == [one, other], "unlike weights are unlike teachers"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("{0}/a:0+{0}/b:1", "the weight of '{0}/a:0' is 0; give a number above 0"),
        ("{0}/a:-0.5+{0}/b:1", "is -0.5; give a number above 0"),
        ("{0}/a:1e999+{0}/b:1", "is 1e999; give a number above 0"),
        ("{0}/a:0.5+{0}/b", "gives some of its teachers a weight and others none; write such as A:0.7+B:0.3"),
        ("{0}/a:0.5", "is one teacher with a weight; leave the weight out"),
        ("{0}/a:0.5:0.5+{0}/b:1", "has two weights, 0.5 and 0.5; give one"),
        ("{0}/a:nan+{0}/b:1", "names no weights of the run"),
    ],
)
def test_weights_that_cannot_be(name: str, sentence: str, folder: Path) -> None:
    assert sentence.format(folder) in refused(name.format(folder))


def test_the_epochs_of_a_run_as_an_ensemble_with_another(folder: Path) -> None:
    [found] = read(f"{folder / 'a'}:epochs+{folder / 'b'}")
    assert [reference.epoch for reference in found.references] == [1, 2, 3, None]


def test_members_of_an_ensemble_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    first, second = (f"{folder / 'stack'}:member-{n}" for n in (0, 1))
    assert "was trained on" in refused(f"{first}+{second}")
    np.save(tmp_path / "short.npy", np.zeros((7, 10)))
    assert "have unlike shapes: 'short' (7, 10)" in refused(f"{folder / 'a'}+{tmp_path / 'short.npy'}")
    [mixed] = read(f"{folder / 'a'}+{save(tmp_path / 'x.npz', logits=np.zeros((50, 10)))}")
    assert mixed.references == ()
    other = save(tmp_path / "y.npz", logits=np.zeros((50, 10)), ids=np.arange(50))
    assert "The ids of teacher 'y' have 0 in place 0" in refused(f"{folder / 'a'}+{other}")


# -- files ------------------------------------------------------------------------------------------------------------


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


LOGITS = np.random.default_rng(0).normal(size=(6, 3))
LABELS, IDS, COUNTS = np.arange(6) % 3, np.arange(6) + 40, np.ones((6, 3), dtype=np.int64)


def test_parquet_holds_what_npz_holds(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    save(tmp_path / "x.npz", logits=LOGITS, labels=LABELS, ids=IDS, counts=COUNTS)
    fixed = arrow.FixedSizeListArray.from_arrays(arrow.array(LOGITS.ravel()), 3)
    for logits in (LOGITS.tolist(), fixed, arrow.array(LOGITS.tolist()).cast(arrow.large_list(arrow.float64()))):
        columns = {"logits": logits, "label": LABELS, "id": IDS, "counts": COUNTS.tolist(), "text": list("abcdef")}
        parquet.write_table(arrow.table(columns), tmp_path / "x.parquet", row_group_size=4)
        ours, theirs = read_table(tmp_path / "x.parquet"), read_table(tmp_path / "x.npz")
        for name in ("logits", "labels", "ids", "counts"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    parquet.write_table(arrow.table({"logits": LOGITS.tolist(), "id": list("abcdef")}), tmp_path / "y.parquet")
    [found] = read(tmp_path / "y.parquet")
    assert found.ids is not None
    assert found.ids.tolist() == list("abcdef")
    assert found.labels is None


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ({"logits": [[1.0, 2.0], [1.0]]}, "{path}: the column 'logits' has 1 numbers in row 1 and 2 in row 0"),
        ({"logits": [[1.0, 2.0], None]}, "{path}: the column 'logits' is empty in row 1"),
        ({"logits": [[1.0, 2.0]] * 2, "label": [0, None]}, "{path}: the column 'label' is empty in row 1"),
        ({"other": [1, 2]}, "{path}: there is no 'logits', 'labels', 'ids', 'counts' or 'truth', only other"),
        ({"label": [1, 2]}, "'{path}' has no 'logits', and is no teacher"),
    ],
)
def test_bad_parquet(column: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "bad.parquet"
    parquet.write_table(arrow.table(column), path)
    assert sentence.format(path=path) in refused(path)


def test_parquet_that_is_none_and_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 or not")
    pytest.importorskip("pyarrow")
    assert "cannot be read as Parquet" in refused(path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert "need pyarrow; run pip install 'preceptor[parquet]'" in refused(path)


def test_probabilities_in_files_beside_a_run(folder: Path, tmp_path: Path) -> None:
    logits = np.random.default_rng(1).normal(size=(50, 10))
    np.save(tmp_path / "x.npy", softmax(logits, -1))
    found, beside = read(tmp_path / "x.npy", folder / "a", probabilities=True)
    np.testing.assert_allclose(found.logits, log_softmax(logits, -1))
    np.testing.assert_allclose(np.exp(beside.logits).sum(-1), 1)
    np.save(tmp_path / "y.npy", logits)
    assert "The probabilities of teacher 'y' are no distribution in row 0" in refused(
        tmp_path / "y.npy", probabilities=True
    )


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz", logits=np.zeros((500, 3))).read_bytes()
    for name, content in (("text.npz", b"hello"), ("cut.npz", whole[:-50]), ("turned.npz", whole[:300] + whole[200:])):
        (tmp_path / name).write_bytes(content)
        assert "truncated, damaged or no .npz file" in refused(tmp_path / name)
    (tmp_path / "npy.npz").write_bytes(b"")
    refused(tmp_path / "npy.npz")
    np.save(tmp_path / "x.npy", np.zeros((5, 3)))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert "this is a single array (.npy)" in refused(tmp_path / "x.npz")
    (tmp_path / "whole.npz").rename(tmp_path / "y.npy")
    assert "holds several arrays; give a .npy file" in refused(tmp_path / "y.npy")
    shutil.copytree(folder / "a", tmp_path / "run")
    (tmp_path / "run" / "predictions.safetensors").unlink()
    assert "predictions.safetensors' is missing; copy the run anew" in refused(tmp_path / "run")


def test_files_of_one_stem_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", LOGITS)
    np.save(tmp_path / "z.npy", LOGITS)
    names = [c.name for c in read(tmp_path / "one" / "x.npy", tmp_path / "two" / "x.npy", tmp_path / "z.npy")]
    assert names == [str(tmp_path / "one" / "x.npy"), str(tmp_path / "two" / "x.npy"), "z"]
    assert "given twice" in refused(tmp_path / "z.npy", tmp_path / "z.npy")


def test_a_file_whose_name_has_a_plus(tmp_path: Path) -> None:
    np.save(tmp_path / "a+b.npy", LOGITS)
    assert read(tmp_path / "a+b.npy")[0].name == "a+b"


def test_a_file_without_rows_or_of_another_kind(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    nothing = pyarrow.array([], pyarrow.list_(pyarrow.float64()))
    parquet.write_table(pyarrow.table({"logits": nothing}), tmp_path / "n.parquet")
    assert "has no rows" in refused(tmp_path / "n.parquet")
    (tmp_path / "x.txt").write_text("0.1 0.2\n")
    assert "truncated, damaged or no .npz file" in refused(tmp_path / "x.txt")


def test_the_same_member_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(9, 3)))
    assert "has 'a' twice" in refused(f"{tmp_path / 'a.npy'}+{tmp_path / 'a.npy'}")
