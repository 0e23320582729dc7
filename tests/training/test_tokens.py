"""Language models in the trainer: rows of tokens taught, scored a token each, resumed, and distilled."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import preceptor
from preceptor import runs
from preceptor.data.dataset import Data
from preceptor.data.tokens import TokenDataset
from preceptor.errors import InputError
from preceptor.losses.tokens import shifted
from preceptor.notices import notes_kept
from preceptor.outputs import fit_temperature
from preceptor.recipe import DistillRecipe, parse
from preceptor.runs.weights import read_weights
from preceptor.training.posterior import posterior
from preceptor.training.resolve import distill_job
from training.toys import stopped_at

V, L = 13, 8


class Net(nn.Module):
    """Logits of each position from the token there, its place and the mean of those before."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(num_classes, 12), nn.Embedding(L, 12)
        self.dropout, self.head = nn.Dropout(0.1), nn.Linear(12, num_classes)

    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        found = self.tokens(input_ids)
        before = found.cumsum(1) / torch.arange(1, input_ids.shape[1] + 1)[:, None]
        return self.head(self.dropout((found + before + self.places(position_ids)).tanh()))


def rows(n: int, seed: int, first_document: int) -> TokenDataset:
    """Documents of a row each, some shorter than the row: a token is often three times the one before."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (n, L), generator=draw)
    for place in range(1, L):
        follows = torch.rand(n, generator=draw) < 0.7
        ids[:, place] = torch.where(follows, ids[:, place - 1] * 3 % V, ids[:, place])
    there = torch.arange(L) < torch.randint(3, L + 1, (n, 1), generator=draw)
    labels = shifted(ids.masked_fill(~there, -100))
    documents = (first_document + torch.arange(n))[:, None].expand(n, L).masked_fill(~there, -1)
    sizes = torch.where(labels >= 0, 1 + labels % 3, 0)
    return TokenDataset(
        ids=ids.masked_fill(~there, 0),
        positions=torch.arange(L).expand(n, L).contiguous(),
        labels=labels,
        documents=documents,
        byte_counts=sizes,
    )


def data(**context: Any) -> Data:
    names = tuple(f"t{number}" for number in range(V))
    pools = {"heldout": torch.arange(60, 80)}
    return Data(rows(80, 0, 0), rows(20, 1, 80), names, {"context": {"length": L, **context}}, pools=pools)


GIVEN: dict[str, Any] = {
    "model": Net,
    "epochs": 3,
    "batch_size": 16,
    "optimizer": {"name": "adamw", "lr": 0.02},
    "select": "nll",
    "device": "cpu",
}


def taught(folder: Path | None = None, **more: Any) -> dict[str, Any]:
    return preceptor.teach(**({"data": data(), "objective": "cross_entropy", "folder": folder} | GIVEN | more))


def distilled(teacher: Any, folder: Path | None = None, **more: Any) -> dict[str, Any]:
    return preceptor.distill(teacher=teacher, folder=folder, **({"data": data(), "teacher_model": Net} | GIVEN | more))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens") / "teacher"
    taught(folder, calibrate=True, epochs=6)
    return folder


def asked(folder: Path, part: str, kind: str = "last") -> tuple[Tensor, Tensor, TokenDataset]:
    """A run's logits for the tokens of a part that count, and these, by a forward pass of all rows."""
    model = preceptor.load(f"{folder}:{kind}" if kind != "last" else folder, model=Net)
    whole = data()
    dataset = whole.train if part == "heldout" else whole.test
    assert isinstance(dataset, TokenDataset)
    index = whole.pools["heldout"] if part == "heldout" else torch.arange(20)  # type: ignore[index]
    with torch.no_grad():
        said = model(dataset.ids[index], dataset.positions[index])
    labels = dataset.labels[index]
    return said[labels >= 0], labels[labels >= 0], dataset


@pytest.mark.parametrize("part", ["heldout", "test"])
@pytest.mark.parametrize("kind", ["last", "best"])
def test_scores_are_means_over_the_tokens_that_count(teacher: Path, part: str, kind: str) -> None:
    said, labels, _ = asked(teacher, part, kind)
    found = runs.read_result(teacher)[part][kind]
    nll = F.cross_entropy(said, labels).item()
    one_hot = F.one_hot(labels, V)
    assert found["nll"] == pytest.approx(nll, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(
        nll * len(labels) / math.log(2) / int((1 + labels % 3).sum()), rel=1e-5
    )
    assert found["brier"] == pytest.approx((said.softmax(-1) - one_hot).square().sum(-1).mean().item(), rel=1e-5)
    assert found["accuracy"] == pytest.approx((said.argmax(-1) == labels).double().mean().item())


def test_every_token_has_its_scores_on_file_and_no_outputs_are(teacher: Path) -> None:
    said, labels, dataset = asked(teacher, "heldout")
    found = runs.read_token_scores(teacher, "heldout", "last")
    torch.testing.assert_close(found.nll, F.cross_entropy(said, labels, reduction="none"))
    torch.testing.assert_close(
        found.nll_at[:, found.temperatures.index(2.0)], F.cross_entropy(said / 2, labels, reduction="none")
    )
    assert torch.equal(found.labels.long(), labels)
    held = slice(60, 80)
    assert torch.equal(found.documents.long(), dataset.documents[held][dataset.labels[held] >= 0])
    assert not (teacher / "predictions.safetensors").exists()


def test_the_temperature_is_that_of_the_lowest_held_out_nll(teacher: Path) -> None:
    said, labels, _ = asked(teacher, "heldout")
    assert runs.read_result(teacher)["temperature"]["last"] == pytest.approx(fit_temperature(said, labels), rel=0.03)
    assert read_weights(teacher / "last.safetensors").class_names[3] == "t3"


@pytest.mark.parametrize("parts", [{}, {"accumulate": 4}])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(parts: dict[str, int], tmp_path: Path) -> None:
    whole = taught(tmp_path / "whole", **parts)
    with stopped_at(5):
        taught(tmp_path / "stopped", checkpoint_every=1, **parts)
    again = taught(tmp_path / "stopped", checkpoint_every=1, **parts)
    assert again["heldout"] == whole["heldout"]
    one, other = (read_weights(tmp_path / name / "last.safetensors").tensors for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_micro_batches_make_one_step(tmp_path: Path) -> None:
    given = {"epochs": 1, "model": lambda num_classes: _still(num_classes), "optimizer": {"name": "sgd", "lr": 0.5}}
    one, other = (taught(tmp_path / str(n), accumulate=n, **given)["heldout"]["last"]["nll"] for n in (1, 8))
    assert one == pytest.approx(other, rel=1e-6)


def _still(num_classes: int) -> nn.Module:
    net = Net(num_classes)
    net.dropout.p = 0.0
    return net


@pytest.mark.parametrize("loss", ["kd", "wttm", {"name": "ptloss", "coefficients": [0.2]}, "reverse_kl", "jsd"])
def test_a_student_learns_from_a_run(teacher: Path, loss: Any) -> None:
    found = distilled(str(teacher), loss=loss, epochs=1)
    scored = runs.read_result(teacher)["heldout"]["last"]
    assert found["teacher"]["nll"] == pytest.approx(scored["nll"], rel=1e-5)
    assert found["heldout"]["last"]["nll"] < math.log(V)


def test_a_student_learns_from_an_ensemble_at_fitted_temperature(teacher: Path, tmp_path: Path) -> None:
    taught(tmp_path / "other", seed=1, epochs=1)
    found = distilled([f"{teacher}:best", str(tmp_path / "other")], loss="kd", epochs=1)
    assert len(found["teacher"]["teachers"]) == 2
    calibrated = distilled(f"{teacher}:calibrated", loss="kd", epochs=1)
    said, labels, _ = asked(teacher, "heldout")
    softened = said / runs.read_result(teacher)["temperature"]["last"]
    assert calibrated["teacher"]["nll"] == pytest.approx(F.cross_entropy(softened, labels).item(), rel=1e-5)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"split": {"heldout": 0.2}}, "split.heldout is 0.2, but the data set .* give data.heldout in its place"),
    ({"split": {"transfer": 0.2}}, "split.transfer is 0.2, but the data set .* leave split.transfer out"),
    ({"select": "macro_f1"}, "training.select is 'macro_f1', which is no score of tokens; give nll, brier or accuracy"),
    ({"objective": "SoTeacher"}, "the objective 'SoTeacher' remembers what it saw of each sample"),
    ({"sampler": "balanced"}, "leave out the key 'sampler'"),
    ({"seeds": [0, 1]}, "cannot be trained as a stack"),
    ({"data": replace(data(), pools=None)}, "no held-out ones"),
]


@pytest.mark.parametrize(("given", "sentence"), REFUSED, ids=lambda value: next(iter(value), ""))
def test_what_is_for_one_label_a_sample_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        taught(**given)


def test_a_teacher_of_another_context_or_vocabulary_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="whose packed is None, and the student's is True; give"):
        distilled(str(teacher), data=data(packed=True))
    other = replace(data(), class_names=("b", *data().class_names[1:]))
    with pytest.raises(InputError, match="class 0 is 't0' to the teacher and 'b' to the student"):
        distilled(str(teacher), data=other)
    with pytest.raises(InputError, match="no posterior"):
        posterior(teacher, tmp_path / "posterior")


def test_a_teacher_that_was_trained_on_what_is_held_out_is_refused(teacher: Path) -> None:
    moved = replace(data(), pools={"heldout": torch.arange(20)})
    with pytest.raises(InputError, match="was trained on 20 of the student's heldout samples"):
        distilled(str(teacher), data=moved)


LOSSES: dict[str, Any] = {
    "usual": "kd",
    "said": {"name": "kd", "temperature": 1.0},
    "four": {"name": "kd", "temperature": 4.0},
}


def test_the_temperature_of_a_loss_is_one_unless_another_is_given(teacher: Path, tmp_path: Path) -> None:
    found = {}
    for name, loss in LOSSES.items():
        distilled(str(teacher), tmp_path / name, loss=loss, epochs=1)
        found[name] = read_weights(tmp_path / name / "last.safetensors").tensors["head.weight"]
    assert torch.equal(found["usual"], found["said"])
    assert not torch.equal(found["usual"], found["four"])
    assert runs.read_recipe(tmp_path / "usual").loss.options == {"temperature": 1.0}  # type: ignore[union-attr]
    assert distilled(str(teacher), tmp_path / "usual", loss="kd", epochs=1)["verb"] == "distill"  # as it is complete


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        ({"name": "kd", "temperature": 3.0}, "kd at temperature 3 over 5001 tokens"),
        ("wttm", None),  # T = 1, as nobody says otherwise
        (["reverse_kl", {"name": "kd", "temperature": 2.5}], "kd at temperature 2.5 over 5001 tokens"),
        ({"name": "kd", "temperature": 2.0}, None),
        ("jsd", None),
    ],
)
def test_a_temperature_that_is_hot_for_a_vocabulary_is_noted(loss: Any, said: str | None) -> None:
    many = replace(data(), class_names=tuple(f"t{number}" for number in range(5001)))
    recipe = parse(DistillRecipe, {"loss": loss, "training": {"device": "cpu"}})
    with notes_kept() as notes:
        distill_job(recipe, None, teacher=Net(5001), data=many, model=lambda **_: Net(5001))
    hot = [each for each in notes if "at temperature" in each]
    assert hot == [] if said is None else hot[0].startswith(said)
