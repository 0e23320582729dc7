"""Outputs that people have stored, as teachers: matched by ids, by labels, or by position where it is said."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Subset
from typer.testing import CliRunner

from preceptor.cli import app
from preceptor.data.dataset import ArrayDataset, Data
from preceptor.data.ids import ids_of
from preceptor.errors import InputError
from preceptor.training import Lookup, distill
from preceptor.training.data.samples import cut, load_data
from training.toys import distill_recipe, snapshot, weights

N, C = 60, 3
CLASSES = ("cat", "dog", "eel")
OPTIONS: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [4]},
    "split": {"train": 30, "heldout": 15, "test": 15},
    "epochs": 1,
    "batch_size": 16,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(C, (N,), generator=generator)
    inputs = torch.randn(N, 4, generator=generator) + 3 * nn.functional.one_hot(labels, 4)
    return Data(ArrayDataset(inputs, labels, ids=[f"img-{i}" for i in range(N)]), None, CLASSES)


@pytest.fixture(scope="module")
def logits(data: Data) -> Tensor:
    return data.train.inputs[:, :C] @ torch.tensor([[2.0, 0.1, 0], [0, 2.0, 0.3], [0.2, 0, 2.0]])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def expected(data: Data, logits: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The student of the same outputs in a table by position, which needs no matching."""
    folder = tmp_path_factory.mktemp("table") / "run"
    distill(teacher=Lookup(logits), data=data, folder=folder, **OPTIONS)
    return weights(folder)


def student(data: Data, teacher: Any, folder: Path, **options: Any) -> dict[str, Tensor]:
    distill(teacher=teacher, data=data, folder=folder / "run", **(OPTIONS | options))
    return weights(folder / "run")


def test_ids_in_a_set_are_refused_as_they_have_no_order(data: Data, logits: Tensor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ids in a set, which has no order"):
        student(data, {"logits": logits, "ids": set(ids_of(data.train) or ())}, tmp_path)


def test_lists_of_numbers_are_outputs(data: Data, logits: Tensor, expected: dict[str, Tensor], tmp_path: Path) -> None:
    found = student(data, {"logits": logits.tolist(), "ids": ids_of(data.train)}, tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def refused(data: Data, teacher: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        distill(teacher=teacher, data=data, **(OPTIONS | options))
    return str(caught.value)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def training_part(data: Data) -> Tensor:
    recipe = distill_recipe("split={train: 30, heldout: 15, test: 15}", "data=null")
    return cut(recipe, load_data(recipe, data), 0).parts["train"]


# -- matched -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npz", "parquet", "mapping"])
def test_rows_in_any_order_are_found_by_their_ids(
    kind: str, data: Data, logits: Tensor, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    ids = [f"img-{i}" for i in order.tolist()]
    rows, labels = logits[order].numpy(), data.train.labels[order].numpy()  # type: ignore[attr-defined]
    teacher: Any = {"logits": rows, "ids": ids, "labels": labels}
    if kind == "npz":
        np.savez(tmp_path / "x.npz", logits=rows, ids=np.array(ids), labels=labels)
        teacher = tmp_path / "x.npz"
    if kind == "parquet":
        pq.write_table(pa.table({"id": ids, "logits": list(rows), "label": labels}), tmp_path / "x.parquet")
        teacher = str(tmp_path / "x.parquet")
    assert same(student(data, teacher, tmp_path), expected)


def test_rows_of_the_training_part_alone_are_enough(
    data: Data, logits: Tensor, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    part = training_part(data)
    teacher = {"logits": logits[part], "ids": [f"img-{i}" for i in part.tolist()]}
    assert same(student(data, teacher, tmp_path), expected)


@pytest.mark.parametrize("whole", [True, False])
def test_labels_in_the_order_of_the_data_match_rows_without_ids(
    whole: bool, data: Data, logits: Tensor, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    index = torch.arange(N) if whole else training_part(data)
    labels = data.train.labels[index]  # type: ignore[attr-defined]
    np.savez(tmp_path / "x.npz", logits=logits[index].numpy(), labels=labels.numpy())
    assert same(student(data, tmp_path / "x.npz", tmp_path), expected)


def test_a_position_is_an_id_where_it_is_said(
    data: Data, logits: Tensor, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", logits.numpy())
    assert "teacher_rows=position" in refused(data, tmp_path / "x.npy")
    assert "teacher_rows=position" in refused(data, logits)
    assert same(student(data, tmp_path / "x.npy", tmp_path, teacher_rows="position"), expected)
    shuffled = torch.arange(N).flip(0)
    teacher = {"logits": logits[shuffled], "ids": shuffled}
    assert same(student(data, teacher, tmp_path / "ids", teacher_rows="position"), expected)
    assert "have 59 rows and the training set 60" in refused(data, logits[1:], teacher_rows="position")


def test_held_out_samples_of_the_data_s_own_need_no_row_to_a_position(
    data: Data, logits: Tensor, tmp_path: Path
) -> None:
    arrays = data.train.inputs, data.train.labels  # type: ignore[attr-defined]
    parts = tuple(ArrayDataset(*(each[part] for each in arrays)) for part in (slice(40), slice(40, 50), slice(50, N)))
    options = {name: value for name, value in OPTIONS.items() if name != "split"}
    for name, rows in {"all": logits[:50], "training": logits[:40]}.items():
        distill(teacher=rows, teacher_rows="position", data=parts, folder=tmp_path / name, **options)
    assert same(weights(tmp_path / "all"), weights(tmp_path / "training"))


def test_columns_are_put_in_order_by_their_names(
    data: Data, logits: Tensor, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    order = [2, 0, 1]
    labels = torch.tensor([1, 2, 0])[data.train.labels]  # type: ignore[attr-defined]
    names = [CLASSES[i] for i in order]
    table = pa.table(
        {"id": [f"img-{i}" for i in range(N)], "logits": list(logits[:, order].numpy()), "label": labels.numpy()}
    )
    pq.write_table(table.replace_schema_metadata({"class_names": json.dumps(names)}), tmp_path / "x.parquet")
    assert same(student(data, tmp_path / "x.parquet", tmp_path), expected)
    said = {"logits": logits, "ids": [f"img-{i}" for i in range(N)], "class_names": ["cat", "dog", "fox"]}
    assert "the class 'fox', which the data set has not" in refused(data, said)


def test_probabilities_are_said_to_be_some(data: Data, logits: Tensor, tmp_path: Path) -> None:
    ids = [f"img-{i}" for i in range(N)]
    probabilities = {"logits": logits.softmax(-1), "ids": ids}
    assert "look like probabilities" in refused(data, probabilities)
    found = student(data, probabilities, tmp_path, probabilities=True)
    wanted = student(data, Lookup(logits.softmax(-1)), tmp_path / "table", probabilities=True)
    assert same(found, wanted)
    broken = logits.softmax(-1)
    broken[training_part(data)[7]] *= 1.2
    said = refused(data, {"logits": broken, "ids": ids}, probabilities=True)
    assert "1 of the 30 rows of the stored outputs for training samples are no probabilities: that of sample" in said
    assert f"sample {int(training_part(data)[7])} has the sum 1.2" in said


def test_in_an_ensemble_with_a_model(data: Data, logits: Tensor, tmp_path: Path) -> None:
    net = nn.Linear(4, C)
    ours: Any = {"logits": logits, "ids": [f"img-{i}" for i in range(N)]}
    found = student(data, [(ours, 2.0), (net, 1.0)], tmp_path)
    assert same(found, student(data, [(Lookup(logits), 2.0), (net, 1.0)], tmp_path / "table"))


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(C, (N,), generator=generator)
    inputs = torch.randn(N, 4, generator=generator)
    ids = np.array([f"img-{i}" for i in range(N)])
    np.savez("data.npz", inputs=inputs.numpy(), labels=labels.numpy(), ids=ids)
    probabilities = torch.randn(N, C, generator=generator).softmax(-1).numpy()
    np.savez("p.npz", logits=probabilities[::-1], ids=ids[::-1])
    Path("r.yaml").write_text("data: {name: npz, path: data.npz}\nmodel: {name: mlp, hidden: [4]}\n")
    command = ["distill", "r.yaml", "--teacher", "p.npz", "training.epochs=1", "training.device=cpu", "--out"]
    done = CliRunner().invoke(app, [*command, "runs/a", "split.test=15", "--probabilities", "--json"])
    assert done.exit_code == 0, done.output
    before = snapshot(tmp_path / "runs/a")
    again = CliRunner().invoke(app, [*command, "runs/a", "split.test=15", "--probabilities", "--json"])
    assert again.exit_code == 0
    assert snapshot(tmp_path / "runs/a") == before
    np.savez("p.npz", logits=probabilities, ids=ids)  # another teacher under the name
    missing = CliRunner().invoke(app, ["distill", "r.yaml", "--teacher", "q.npz", "split.test=15"])
    assert "there is no file 'q.npz'" in missing.output
    changed = CliRunner().invoke(app, [*command, "runs/a", "split.test=15", "--probabilities"])
    assert changed.exit_code == 2
    assert "another teacher under the name 'p.npz'" in changed.output


def test_another_assignment_of_rows_is_another_run(data: Data, logits: Tensor, tmp_path: Path) -> None:
    ids = [f"img-{i}" for i in range(N)]
    student(data, {"logits": logits, "ids": ids}, tmp_path)
    said = refused(data, {"logits": logits, "ids": ids[::-1]}, folder=tmp_path / "run")
    assert "was made with another teacher" in said


# -- refused -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_known_is_refused(data: Data, logits: Tensor) -> None:
    ids = [f"img-{i}" for i in range(N)]
    first = int(training_part(data)[0])
    rest = [i for i in range(N) if i not in training_part(data)[:2].tolist()]
    lacking = refused(data, {"logits": logits[rest], "ids": [ids[i] for i in rest]})
    assert f"no row for 2 of the 30 training samples (the first: sample {first}, id 'img-{first}')" in lacking
    assert "the id 'img-3' 2 times" in refused(data, {"logits": logits, "ids": ["img-3", *ids[1:]]})
    bare = Data(ArrayDataset(data.train.inputs, data.train.labels), None, CLASSES)  # type: ignore[attr-defined]
    assert "the data set has none to match them by" in refused(bare, {"logits": logits, "ids": ids})
    assert "60 rows and 59 ids" in refused(data, {"logits": logits, "ids": ids[1:]})
    assert "2 columns and the data set 3 classes" in refused(data, {"logits": logits[:, :2], "ids": ids})
    assert "did you mean 'labels'" in refused(data, {"logits": logits, "label": ids})
    assert "have shape (3,); give (N, C)" in refused(data, {"logits": logits[0], "ids": ids})


def test_a_broken_row_is_named(data: Data, logits: Tensor) -> None:
    ids, broken = [f"img-{i}" for i in range(N)], logits.clone()
    sample = int(training_part(data)[11])
    broken[sample, 1] = torch.nan
    assert f"output for sample {sample} holds nan" in refused(data, {"logits": broken, "ids": ids})
    broken[sample] = torch.tensor([1.0, torch.inf, 0])
    assert f"output for sample {sample} holds inf" in refused(data, {"logits": broken, "ids": ids})


def test_labels_beside_them_must_be_the_data_s(data: Data, logits: Tensor) -> None:
    ids, labels = [f"img-{i}" for i in range(N)], data.train.labels.clone()  # type: ignore[attr-defined]
    labels[5] = (labels[5] + 1) % C
    said = refused(data, {"logits": logits, "ids": ids, "labels": labels})
    assert "differ from the data's for 1 of 60 samples: that of sample 5 (id 'img-5')" in said
    assert "row 5 has" in refused(data, {"logits": logits, "labels": labels})
    order = labels.argsort()
    assert "labels beside the stored outputs are sorted" in refused(
        data, {"logits": logits[order], "labels": labels[order]}
    )


def test_other_inputs_than_those_that_were_stored_are_refused(data: Data, logits: Tensor) -> None:
    pictures = Data(
        ArrayDataset(torch.randn(N, 1, 4, 4), data.train.labels, ids=data.train.ids),  # type: ignore[attr-defined]
        None,
        CLASSES,
    )
    teacher = {"logits": logits, "ids": [f"img-{i}" for i in range(N)]}
    assert "augmentation 'crop_flip' changes them" in refused(pictures, teacher, augmentation="crop_flip")
    assert "knows nothing of mixed samples" in refused(pictures, teacher, mixing="mixup", augmentation="crop_flip")
    said = OPTIONS | {"augmentation": "crop_flip", "teacher_unaugmented": True}
    distill(teacher=teacher, data=pictures, **said)
    drawn = Data(Drawn(pictures.train), None, CLASSES)
    assert "changes them at random" in refused(drawn, teacher)


class Drawn:
    """A data set that crops at random, as torchvision's transforms do."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.ids = dataset, dataset.ids

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        value, label = self.dataset[index]
        return value.roll(int(torch.randint(4, ())), -1), label


def test_ids_of_data_sets(tmp_path: Path, data: Data) -> None:
    torchvision = pytest.importorskip("torchvision.datasets")
    image = pytest.importorskip("PIL.Image")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    assert ids_of(torchvision.ImageFolder(str(tmp_path))) == ["cat/0.png", "dog/0.png"]
    from preceptor.data import image_folder, text

    for in_memory in (True, False):
        assert ids_of(image_folder(folder=tmp_path, in_memory=in_memory).train) == ["cat/0.png", "dog/0.png"]
    (tmp_path / "t.jsonl").write_text('{"text": "a", "label": 0, "id": 7}\n{"text": "b", "label": 1, "id": 9}\n')
    assert ids_of(text(path=tmp_path / "t.jsonl").train) == ["7", "9"]
    parts = ConcatDataset([Subset(data.train, [3, 1]), data.train])  # type: ignore[list-item]
    assert (ids_of(parts) or [])[:3] == ["img-3", "img-1", "img-0"]
