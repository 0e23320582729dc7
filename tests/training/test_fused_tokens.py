"""Language models from hidden states and heads: the same runs as from all logits, to rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import preceptor
from preceptor.data.dataset import Data
from preceptor.data.tokens import TokenDataset
from preceptor.errors import InputError
from preceptor.losses import kd, linear
from preceptor.models.causal_lm import causal_lm
from preceptor.recipe import TeachRecipe
from preceptor.records import Hidden, TokenRecordTeacher
from preceptor.runs.weights import read_weights
from preceptor.tasks.criterion import of_loss, of_objective
from preceptor.tasks.fused import FusedDistillTask
from preceptor.tasks.teacher import Function, Teacher
from preceptor.teaching import cross_entropy
from preceptor.training.engine.compiling import compile_task
from preceptor.training.objects import fusing
from preceptor.training.objects.models import new_model
from training.test_tokens import V, data

MODEL = {"name": "causal_lm", "width": 8, "depth": 1, "heads": 2}
GIVEN: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 20,
    "optimizer": {"name": "sgd", "lr": 0.5},
    "select": "nll",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fused") / "teacher"
    more = {"model": MODEL | {"width": 16}, "objective": "cross_entropy", "calibrate": True}
    preceptor.teach(data=data(), folder=folder, **(GIVEN | more | {"optimizer": {"name": "adamw", "lr": 0.02}}))
    return folder


def weights(folder: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in read_weights(folder / "last.safetensors").tensors.values()])


def moved(folder: Path, fused: bool, verb: Any, **given: Any) -> torch.Tensor:
    """How far a run's weights go from where they began, in steps that are proportional to the gradients."""
    place = folder / str(fused)
    verb(data=data(), model=MODEL, folder=place, fused=fused, **(GIVEN | given))
    begin = torch.cat([tensor.flatten() for tensor in _begin().values()])
    return weights(place) - begin


def _begin() -> dict[str, torch.Tensor]:
    recipe = TeachRecipe.model_validate({"model": MODEL, "objective": "cross_entropy"})
    return new_model(recipe, data(), 0).state_dict()


LOSSES: list[Any] = [
    "kd",
    {"name": "wttm", "temperature": 1.5},
    {"name": "ptloss", "coefficients": [0.2]},
    {"name": "jsd", "beta": 0.3},
    ["reverse_kl", {"name": "ttm", "weight": 0.5}],
]


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_students_are_those_of_all_logits(loss: Any, teacher: Path, tmp_path: Path) -> None:
    given = {"verb": preceptor.distill, "teacher": str(teacher), "loss": loss, "ce_weight": 0.3, "distill_weight": 0.7}
    one, other = (moved(tmp_path, fused, **given) for fused in (False, True))
    assert (one - other).norm() <= 1e-5 * one.norm()
    assert one.norm() > 1e-3


FORMS: dict[str, dict[str, Any]] = {"sampled": {"k": 6}, "hidden": {}}


@pytest.mark.parametrize(
    ("whose", "loss"),
    [
        ("{}:calibrated", "kd"),
        ("{}:calibrated", {"name": "wttm", "temperature": 1.5}),
        ("sampled", "kd"),
        ("hidden", "kd"),
        ("hidden", {"name": "wttm", "temperature": 1.5}),
        ("hidden", ["jsd", {"name": "reverse_kl", "weight": 0.5}]),
    ],
    ids=str,
)
def test_students_of_other_teachers_too(
    whose: str, loss: Any, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if whose in FORMS:
        preceptor.record(str(teacher), tmp_path / "record", data=data(), form=whose, **FORMS[whose])
    given = {"verb": preceptor.distill, "loss": loss, "accumulate": 2}
    given["teacher"] = str(tmp_path / "record") if whose in FORMS else whose.format(teacher)
    asked: list[int] = []
    states_of = TokenRecordTeacher.states_and_head
    monkeypatch.setattr(TokenRecordTeacher, "states_and_head", lambda *given: asked.append(1) or states_of(*given))
    one, other = (moved(tmp_path, fused, **given) for fused in (False, True))
    assert (one - other).norm() <= 1e-5 * one.norm()
    assert bool(asked) == (whose in FORMS)  # which says that it has none, if it has none


def test_teachers_are_those_of_all_logits(tmp_path: Path) -> None:
    given = {"verb": preceptor.teach, "objective": "cross_entropy"}
    one, other = (moved(tmp_path, fused, **given) for fused in (False, True))
    assert (one - other).norm() <= 1e-5 * one.norm()


@pytest.mark.parametrize("whose", ["live", "record"])
def test_the_logits_of_a_step_never_all_exist(whose: str, tmp_path: Path) -> None:
    """No tensor of all tokens by all classes is made of student or teacher."""
    made: list[tuple[int, ...]] = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                made.append(tuple(found.shape))
            return found

    torch.manual_seed(0)
    student, other = (causal_lm(num_classes=600, input_shape=(), width=8, depth=1, heads=2) for _ in range(2))
    ids, places = torch.randint(600, (4, 256)), torch.arange(256).repeat(4, 1)
    inputs = {"input_ids": ids, "position_ids": places}
    asked = Teacher(other) if whose == "live" else Function(_record(tmp_path, other.eval(), ids, places))
    task = FusedDistillTask(
        student,
        asked,
        [(of_loss(kd), 1.0)],
        label_loss=of_objective(cross_entropy),
        fused=[(linear.kd, 1.0)],
    )
    with Watched():
        task({"input": inputs, "label": ids, "mask": torch.ones_like(ids, dtype=torch.bool)})["loss"].backward()
    tokens = max((shape[-2] for shape in made if len(shape) > 1 and shape[-1] == 600), default=0)
    assert 4 < tokens <= 512  # of 1024


def _record(folder: Path, model: torch.nn.Module, ids: torch.Tensor, places: torch.Tensor) -> TokenRecordTeacher:
    """What a model of 600 tokens says to rows whose labels are themselves, as hidden states."""
    ids, places = torch.cat([ids, ids[:1].flip(1)]), torch.cat([places, places[:1]])  # the last is held out
    sizes = torch.ones_like(ids)
    rows = TokenDataset(ids=ids, positions=places, labels=ids, documents=sizes.cumsum(0), byte_counts=sizes)
    whole = Data(rows, None, tuple(map(str, range(600))), pools={"heldout": torch.tensor([4])})
    preceptor.record(model, folder, data=whole, form=Hidden("float32"), device="cpu")
    return TokenRecordTeacher(folder)


def test_auto_is_for_large_vocabularies(monkeypatch: pytest.MonkeyPatch, teacher: Path) -> None:
    kinds: list[str] = []
    plain = fusing.FusedTeachTask.__init__

    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        kinds.append("fused")
        plain(self, *arguments, **options)

    monkeypatch.setattr(fusing.FusedTeachTask, "__init__", counted)
    given = GIVEN | {"data": data(), "model": MODEL, "objective": "cross_entropy"}
    preceptor.teach(**given)
    assert not kinds
    monkeypatch.setattr(fusing, "LARGE", V)
    preceptor.teach(**given)
    assert kinds == ["fused"]
    said = preceptor.teach(**(given | {"objective": {"name": "label_smoothing", "smoothing": 0.1}}))["notes"]
    assert any("all 13 logits of each token are made, as the objective is another" in note for note in said)


def test_what_is_compiled_where_it_can_be_is_fused_here(teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A language model is left as it is, its teacher, too, so that both tell their hidden states."""
    given = GIVEN | {"data": data(), "model": MODEL, "fused": True, "compile": "auto"}
    assert preceptor.distill(teacher=str(teacher), loss="kd", **given)["heldout"]["last"]["nll"] > 0
    model, other = (causal_lm(num_classes=V, input_shape=(), width=8, depth=1, heads=2) for _ in range(2))
    task = FusedDistillTask(
        model, Teacher(other), [(of_loss(kd), 1.0)], label_loss=of_objective(cross_entropy), fused=[]
    )
    compile_task(task, 4, required=False)
    assert task.model is model
    assert isinstance(task.teacher, Teacher)
    assert task.teacher.model is other
    assert "nothing is compiled, as the inputs of a language model go by name" in capsys.readouterr().err


@pytest.mark.parametrize("given", [{"data": {"name": "tokens", "path": "nowhere.txt"}}, {"model": MODEL}, {}], ids=str)
def test_a_compiled_language_model_is_refused_before_training(given: dict[str, Any]) -> None:
    """By its recipe alone where that says enough: there is no such file."""
    if not given:
        given = {"model": lambda num_classes: causal_lm(num_classes=num_classes, input_shape=(), width=8, heads=2)}
    sentence = r"training.compile is true.*cannot be compiled for inputs that go by name; set training.compile to false"
    with pytest.raises(InputError, match=sentence):
        preceptor.teach(**({"data": data(), "model": MODEL, "objective": "cross_entropy", "compile": True} | given))


def test_what_cannot_be_is_refused(teacher: Path) -> None:
    given = GIVEN | {"data": data(), "model": MODEL, "fused": True}
    with pytest.raises(InputError, match="the loss 'dkd' has no form from hidden states; give training"):
        preceptor.distill(teacher=str(teacher), loss="dkd", **given)
    with pytest.raises(InputError, match="fused is true, but the data are no tokens"):
        preceptor.teach(**(given | {"data": "digits", "model": "mlp", "objective": "cross_entropy", "select": "brier"}))
    assert isinstance(data().train, TokenDataset)
