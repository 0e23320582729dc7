"""Lightning: a teacher in a `training_step` that is in no checkpoint, and checkpoints as teachers."""

import logging
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from integrations.toys import kd_formula
from preceptor.errors import InputError
from preceptor.integrations.lightning import Distillation, load_teacher

# Lightning's own advice, and what it asks of torch that torch has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
]
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
PACKAGES = pytest.mark.parametrize("package", [lightning, pytorch_lightning], ids=lambda package: package.__name__)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.0), nn.Linear(5, 3))


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def student_of(package: Any, teacher: Any, *, lr: float = 0.1) -> Any:
    class Student(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"lr": lr})
            self.model = nn.Sequential(nn.Linear(6, 3))
            self.distillation = Distillation(teacher, temperature=4.0, ce_weight=0.3, distill_weight=0.7)
            self.gradients: list[list[Tensor]] = []

        def training_step(self, batch: Any, _: int) -> Any:
            images, labels = batch
            parts = self.distillation(images, self.model(images), labels)
            self.log_dict({name: parts[name] for name in ("ce", "distill")})
            return parts["loss"]

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.gradients.append([each.grad.clone() for each in self.parameters() if each.grad is not None])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=lr, momentum=0.9)

    torch.manual_seed(0)
    return Student()


def fitted(
    package: Any, module: Any, folder: Path, *, batch_size: int = 4, path: str | None = None, **options: Any
) -> Any:
    trainer = package.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, "log_every_n_steps": 1, **options},
    )
    trainer.fit(module, DataLoader(TensorDataset(*inputs()), batch_size=batch_size), ckpt_path=path)
    return trainer


@PACKAGES
@pytest.mark.parametrize(("batch_size", "accumulate"), [(16, 1), (4, 4), (2, 8)])
def test_the_gradient_is_that_of_the_whole_batch(
    package: Any, batch_size: int, accumulate: int, tmp_path: Path
) -> None:
    teacher = net(1).train()
    module = student_of(package, teacher)
    images, labels = inputs()
    logits = student_of(package, teacher).model
    answer = net(1).eval()(images).detach()
    said = logits(images)
    (0.3 * nn.functional.cross_entropy(said, labels) + 0.7 * kd_formula(said, answer, 4.0).mean()).backward()
    fitted(package, module, tmp_path, batch_size=batch_size, accumulate_grad_batches=accumulate)
    for found, expected in zip(module.gradients[0], logits.parameters(), strict=True):
        torch.testing.assert_close(found, expected.grad, rtol=1e-5, atol=1e-7)
    assert len(module.gradients) == 1
    assert all(each.training for each in teacher.modules())
    assert all(each.grad is None for each in teacher.parameters())


@PACKAGES
def test_the_teacher_is_in_no_checkpoint_and_training_resumes_from_it(package: Any, tmp_path: Path) -> None:
    whole = student_of(package, net(1))
    fitted(package, whole, tmp_path / "whole", max_epochs=4)
    cut = student_of(package, net(1))
    trainer = fitted(package, cut, tmp_path / "cut", max_epochs=2)
    path = trainer.checkpoint_callback.best_model_path
    held = torch.load(path, weights_only=True)
    assert held["state_dict"].keys() == {"model.0.weight", "model.0.bias"}
    assert len(held["optimizer_states"][0]["state"]) == 2
    resumed = student_of(package, net(1))
    fitted(package, resumed, tmp_path / "cut", max_epochs=4, path=path)
    for found, expected in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected)


def module_of(package: Any, **models: nn.Module) -> Any:
    module = package.LightningModule()
    for name, model in models.items():
        setattr(module, name, model)
    module.training_step = lambda batch: sum(each.sum() for each in module.parameters()) * 0
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    return module


def checkpoint_of(module: Any, path: Path, hyper: Any = None) -> Path:
    trained = {"state_dict": module.state_dict(), "epoch": 3, "hyper_parameters": hyper or {"lr": 0.1}}
    torch.save(trained, path)
    return path


@PACKAGES
def test_a_checkpoint_is_a_teacher(package: Any, tmp_path: Path) -> None:
    taught = net(7)
    trainer = fitted(package, module_of(package, model=taught), tmp_path)
    path = trainer.checkpoint_callback.best_model_path
    images, _ = inputs()
    for model in (net(0), lambda: net(0)):
        teacher = load_teacher(path, model)
        assert not teacher.training
        assert torch.equal(teacher(images), taught.eval()(images))
    assert torch.equal(load_teacher(path, net(0), prefix="model.")(images), taught(images))


@pytest.mark.parametrize("begins", [0, 100])
def test_an_average_that_has_not_begun_is_no_teacher(
    begins: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = student_of(lightning, net(1))
    untrained = module.model[0].weight.detach().clone()
    average = EMAWeightAveraging(decay=0.9, update_starting_at_step=begins)
    saved = ModelCheckpoint(tmp_path)
    fitted(lightning, module, tmp_path, max_epochs=2, callbacks=[average, saved])
    held = torch.load(saved.best_model_path, weights_only=True)
    assert torch.equal(held["state_dict"]["model.0.weight"], untrained) == (begins == 100)
    found = load_teacher(saved.best_model_path, lambda: nn.Sequential(nn.Linear(6, 3)))
    kept = held["current_model_state" if begins else "state_dict"]
    assert torch.equal(found[0].weight, kept["model.0.weight"])  # type: ignore[index]
    assert not torch.equal(found[0].weight, untrained)  # type: ignore[index]
    assert ("had not begun" in capsys.readouterr().err) == (begins == 100)


def test_the_prefix_is_found_where_only_one_fits(tmp_path: Path) -> None:
    module = module_of(lightning, body=nn.ModuleDict({"inner": net(7), "other": nn.Linear(2, 2)}))
    path = checkpoint_of(module, tmp_path / "a.ckpt")
    assert torch.equal(load_teacher(path, net(0))[0].weight, module.body["inner"][0].weight)  # type: ignore[index]
    whole = module_of(lightning, body=net(7))
    path = checkpoint_of(whole, tmp_path / "b.ckpt")
    assert torch.equal(load_teacher(path, module_of(lightning, body=net(0))).body[0].weight, whole.body[0].weight)  # type: ignore[index]


class Hyper:
    """Something that only unpickling could bring back."""


def test_what_cannot_be_is_said_in_one_sentence(tmp_path: Path) -> None:
    two = checkpoint_of(module_of(lightning, first=net(1), second=net(2)), tmp_path / "two.ckpt")
    with pytest.raises(InputError, match=r"several models that it could be; give prefix, one of 'first\.', 'second\.'"):
        load_teacher(two, net(0))
    assert torch.equal(load_teacher(two, net(0), prefix="second.")[0].weight, net(2)[0].weight)  # type: ignore[index]
    with pytest.raises(InputError, match=r"no weights with the prefix 'third\.'; it has 'first\.0\.weight'"):
        load_teacher(two, net(0), prefix="third.")
    one = checkpoint_of(module_of(lightning, model=net(1)), tmp_path / "one.ckpt")
    with pytest.raises(InputError, match=r"under 'model\.' is of another architecture: it lacks '5\.bias'"):
        load_teacher(one, nn.Sequential(*net(0), nn.Linear(3, 3)))
    with pytest.raises(InputError, match=r"under 'model\.' is of another architecture: it has '4\.bias', which the"):
        load_teacher(one, nn.Sequential(*list(net(0))[:2]))
    with pytest.raises(InputError, match=r"'4\.bias' has shape \(3,\)|'4\.weight' has shape \(3, 5\)"):
        load_teacher(one, nn.Sequential(*list(net(0))[:4], nn.Linear(5, 9)))
    with pytest.raises(
        InputError, match=r"of another architecture: it has 'model\.0\.weight', .* and 5 more, and the model 'weight_ih"
    ):
        load_teacher(one, nn.LSTM(2, 2))
    pickled = checkpoint_of(module_of(lightning, model=net(1)), tmp_path / "pickled.ckpt", {"lr": Hyper()})
    with pytest.raises(InputError, match=r"holds more than weights and plain values \(.*Hyper\), and is not unpickled"):
        load_teacher(pickled, net(0))
    with pytest.raises(InputError, match="there is no file"):
        load_teacher(tmp_path / "none.ckpt", net(0))
    (tmp_path / "torn.ckpt").write_bytes(one.read_bytes()[:300])
    with pytest.raises(InputError, match=r"cannot be read|is not unpickled"):
        load_teacher(tmp_path / "torn.ckpt", net(0))
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="has no weights under 'state_dict'"):
        load_teacher(tmp_path / "other.ckpt", net(0))
    with pytest.raises(InputError, match="the model is a int; give a torch"):
        load_teacher(one, lambda: 3)  # type: ignore[arg-type, return-value]


def test_lightning_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint_of(module_of(lightning, model=net(1)), tmp_path / "one.ckpt")
    for name in ("lightning", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    assert torch.equal(load_teacher(path, net(0))[0].weight, net(1)[0].weight)  # type: ignore[index]
