"""Parts of a split with a pool of their own: a validation set, samples without labels, a test set within the data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from preceptor.data import digits
from preceptor.data.dataset import ArrayDataset, Data, as_data, labels_of, require_index, with_heldout
from preceptor.errors import InputError
from preceptor.recipe import DistillRecipe, TeachRecipe, parse
from preceptor.runs import parts_of
from preceptor.runs.files import load_tensors
from preceptor.study.teachers import read_candidates
from preceptor.training import distill, teach
from preceptor.training.data.samples import cut
from training.test_streams_of_samples import Digits
from training.toys import RECIPE, snapshot, stopped_at

SIZE = 1797


def recipe(split: dict[str, Any], kind: type = TeachRecipe, **others: Any) -> Any:
    return parse(kind, RECIPE | {"split": split} | others)


def arrays(start: int, stop: int) -> ArrayDataset:
    """Some of the digits, as a data set of its own."""
    whole: Any = digits().train
    return ArrayDataset(whole.inputs[start:stop], whole.labels[start:stop], transform=whole.transform)


def parts(split: dict[str, Any], seed: int = 0, **pools: torch.Tensor) -> dict[str, torch.Tensor]:
    return cut(recipe(split), replace(digits(), pools=pools), seed).parts


def test_a_pool_of_ones_own_is_the_whole_part() -> None:
    heldout = torch.arange(1000, 1100)
    found = parts({"test": 500}, heldout=heldout)
    assert torch.equal(found["heldout"], heldout)
    assert {name: len(index) for name, index in found.items()} == {"heldout": 100, "test": 500, "train": SIZE - 600}
    assert len(torch.cat(list(found.values())).unique()) == SIZE


def test_a_size_is_taken_from_the_pool() -> None:
    found = parts({"train": 300, "heldout": 0.5, "test": 100}, heldout=torch.arange(1000, 1100))
    assert len(found["heldout"]) == 50
    assert found["heldout"].min() >= 1000
    assert found["heldout"].max() < 1100


def test_two_parts_of_one_pool_are_drawn_anew_by_each_seed() -> None:
    pool = torch.arange(1000, 1400)
    one, other = (parts({"heldout": 100, "test": "rest"}, seed, heldout=pool, test=pool) for seed in (0, 1))
    for found in (one, other):
        assert torch.equal(torch.cat([found["heldout"], found["test"]]).sort().values, pool)
        assert len(found["train"]) == SIZE - 400
    assert not torch.equal(one["heldout"], other["heldout"])


def test_a_test_set_of_all_the_rest_needs_a_training_size_only_where_both_share_samples() -> None:
    with pytest.raises(InputError, match=r"split\.train needs a size"):
        parts({"test": "rest"}, heldout=torch.arange(100))
    assert len(parts({"test": "rest"}, train=torch.arange(500))["train"]) == 500


def test_students_see_a_pool_for_transfer_without_its_labels() -> None:
    pool = torch.arange(1500, SIZE)
    data = replace(digits(), pools={"transfer": pool})
    samples = cut(recipe({"heldout": 100, "test": 100}), data, 0)
    assert torch.equal(samples.for_students[-len(pool) :], pool)
    assert samples.labelled is not None
    assert not samples.labelled[pool].any()
    assert samples.labelled.sum() == 1500 - 200


@pytest.mark.parametrize("as_tensors", [False, True])
def test_training_validation_and_test_set(as_tensors: bool, tmp_path: Path) -> None:
    """As arrays under one transform, or as any data sets: what is held out is the validation set, in its order."""
    sets: Any = arrays(0, 600), arrays(600, 800), arrays(800, 1000)
    if as_tensors:
        sets = tuple(TensorDataset(*part.fetch(range(len(part)))) for part in sets)
    teach(recipe({}), tmp_path / "run", data=sets)
    predictions, _ = load_tensors(tmp_path / "run" / "predictions.safetensors")
    assert torch.equal(predictions["heldout/labels"], labels_of(sets[1]))
    assert torch.equal(predictions["test/labels"], labels_of(sets[2]))
    assert torch.equal(parts_of(tmp_path / "run")["train"], torch.arange(600))


def test_the_forms_of_data() -> None:
    train, heldout = arrays(0, 60), arrays(60, 80)
    data = as_data((train, heldout, None))
    assert (len(data.train), data.test, len(data.class_names)) == (80, None, 10)  # type: ignore[arg-type]
    assert torch.equal(data.train[70][0], heldout[10][0])
    mixed = with_heldout(Data(train, None, data.class_names), Subset(heldout, [3, 4]))
    assert isinstance(mixed.train, ConcatDataset)
    assert labels_of(mixed.train).tolist() == [*train.labels.tolist(), *heldout.labels[3:5].tolist()]
    with pytest.raises(InputError, match="have a pool for the part 'heldout' already"):
        with_heldout(mixed, heldout)
    with pytest.raises(InputError, match="the held-out set is empty"):
        as_data((train, [], None))
    with pytest.raises(InputError, match="a int is no data set"):
        as_data((train, 3, None))


def test_a_stream_within_is_still_one() -> None:
    data = as_data((Digits(indexed=False), arrays(0, 60), None))
    with pytest.raises(InputError, match="this objective needs to know each sample again"):
        require_index(data.train)


def test_a_stopped_run_goes_on_and_another_pool_is_noticed(tmp_path: Path) -> None:
    def data(last: int) -> Data:
        return replace(digits(), pools={"heldout": torch.arange(1000, last)})

    split = {"train": 150, "test": 100}
    teach(recipe(split), tmp_path / "whole", data=data(1100))
    with stopped_at(4):
        teach(recipe(split), tmp_path / "stopped", data=data(1100))
    with pytest.raises(InputError, match="was made with another data"):
        teach(recipe(split), tmp_path / "stopped", data=data(1101))
    teach(recipe(split), tmp_path / "stopped", data=data(1100))
    assert snapshot(tmp_path / "stopped") == snapshot(tmp_path / "whole")


def test_a_file_with_a_validation_set_through_all_verbs(tmp_path: Path) -> None:
    inputs, labels = arrays(0, 500).inputs.numpy(), arrays(0, 500).labels.numpy()
    named = {"inputs": inputs[:400], "labels": labels[:400]}
    named |= {"heldout_inputs": inputs[400:], "heldout_labels": labels[400:]}
    np.savez(tmp_path / "a.npz", **named)
    data = {"name": "npz", "path": str(tmp_path / "a.npz"), "divide_by": 16.0}
    teach(recipe({"test": 100}, data=data), tmp_path / "teacher")
    [candidate] = read_candidates([tmp_path / "teacher:last"], transfer=True)
    assert candidate.ids is not None
    assert candidate.ids.tolist() == list(range(400, 500))
    assert candidate.labels is not None
    assert candidate.labels.tolist() == labels[400:].tolist()
    student = recipe({"test": 100}, DistillRecipe, data=data, teacher=str(tmp_path / "teacher"))
    distill(student, tmp_path / "student")
    assert torch.equal(parts_of(tmp_path / "student")["heldout"], torch.arange(400, 500))
    with pytest.raises(InputError, match=r"was trained on .* of the student's test samples"):
        distill(student.model_copy(update={"seed": 1}))


def test_a_file_whose_validation_set_has_changed(tmp_path: Path) -> None:
    inputs, labels = arrays(0, 500).inputs.numpy(), arrays(0, 500).labels.numpy()
    chosen = recipe({"test": 100}, data={"name": "npz", "path": str(tmp_path / "a.npz")})

    def write(last: int) -> None:
        heldout = {"heldout_inputs": inputs[400:last], "heldout_labels": labels[400:last]}
        np.savez(tmp_path / "a.npz", inputs=inputs[:400], labels=labels[:400], **heldout)

    write(500)
    with stopped_at(4):
        teach(chosen, tmp_path / "run")
    write(499)
    with pytest.raises(InputError, match="with other data under the name 'npz': their values have changed since"):
        teach(chosen, tmp_path / "run")
    (tmp_path / "run" / "objects.json").unlink()  # as of the earliest versions
    with pytest.raises(InputError, match="records another split than the data set gives now"):
        teach(chosen, tmp_path / "run")
