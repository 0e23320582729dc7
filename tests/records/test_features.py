"""Features on record: a student that learns from them without the teacher is the one that learns from the teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import preceptor
from preceptor.cli import app
from preceptor.errors import InputError
from preceptor.losses.features import FitNet
from preceptor.models import resnet8
from preceptor.records import Record, RecordTeacher, RecordWriter
from preceptor.tasks import DistillTask
from preceptor.tasks.building import Remembers
from preceptor.tasks.taps import Taps
from training.toys import RECIPE, assert_close, metrics, stopped_at, weights

SHOWN: dict[str, Any] = {name: RECIPE[name] for name in ("data", "split")}
AUGMENTED: dict[str, Any] = {"augmentation": {"name": "crop_flip", "padding": 1}, "mixing": "mixup"}


def net(num_classes: int = 10, width: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(9 * width, num_classes),
    )  # fmt: skip


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    return net(width=5)


def recorded(teacher: Any, folder: Path, *features: str, **more: Any) -> Record:
    options = {"features_dtype": "float32", "device": "cpu", **SHOWN, **more}
    return preceptor.record(teacher, folder, features=features, **options)


def student(teacher: Any, folder: Path, loss: Any, **more: Any) -> None:
    options: dict[str, Any] = {"epochs": 2, "batch_size": 64, "device": "cpu", "lr": 0.05, **SHOWN, **more}
    preceptor.distill(model=net, teacher=teacher, loss=loss, folder=folder, cache=False, **options)


@pytest.mark.parametrize(
    ("features", "loss"),
    [
        (["2"], {"name": "FitNet", "student": "2", "teacher": "2"}),
        (["last", "penultimate"], ["kd", {"name": "SP", "weight": 100.0}, {"name": "CRD", "negatives": 40, "dim": 8}]),
    ],
)
def test_a_student_of_the_record_is_the_one_of_the_teacher(
    features: list[str], loss: Any, teacher: nn.Module, tmp_path: Path
) -> None:
    recorded(teacher, tmp_path / "record", *features)
    student(teacher, tmp_path / "live", loss)
    student(str(tmp_path / "record"), tmp_path / "recorded", loss)
    assert_close(weights(tmp_path / "recorded"), weights(tmp_path / "live"), 1e-5)
    assert metrics(tmp_path / "live")[0]["train"]["distill"] > 0


def test_of_replayed_inputs_too(teacher: nn.Module, tmp_path: Path) -> None:
    """A student's epoch replays a view; shown live with the record's draws, the teacher says the same of it."""
    recorded(teacher, tmp_path / "record", "2", views=2, **AUGMENTED)
    loss = {"name": "FitNet", "student": "2", "teacher": "2"}
    student(str(tmp_path / "record"), tmp_path / "recorded", loss, **AUGMENTED)
    student(teacher, tmp_path / "live", loss, **AUGMENTED)
    assert_close(weights(tmp_path / "recorded"), weights(tmp_path / "live"), 1e-5)


def test_words_that_stand_for_several(tmp_path: Path) -> None:
    torch.manual_seed(0)
    large = resnet8(num_classes=10, input_shape=(1, 8, 8))
    record = recorded(large, tmp_path / "record", "stages", "penultimate", "layer2.0.conv1")
    assert record.manifest.features == ("stages.0", "stages.1", "stages.2", "penultimate", "layer2.0.conv1")
    assert record.manifest.identity.features["penultimate"] == "fc:input as float32"
    train = preceptor.data.digits().train
    inputs = torch.stack([train[int(index)][0] for index in record.ids[:4]])
    with torch.no_grad(), Taps(large.eval(), ["layer3"], "teacher") as features:
        large(inputs)
    torch.testing.assert_close(record.features("stages.2", record.ids[:4]), features["layer3"], atol=1e-5, rtol=1e-4)
    student(str(tmp_path / "record"), tmp_path / "hint", {"name": "AT"}, epochs=1)
    student(large, tmp_path / "live", {"name": "AT"}, epochs=1)
    assert_close(weights(tmp_path / "hint"), weights(tmp_path / "live"), 1e-4)


def test_half_precision_by_default(teacher: nn.Module, tmp_path: Path) -> None:
    record = preceptor.record(teacher, tmp_path / "record", features="2", device="cpu", **SHOWN)
    assert record.features("2", record.ids[:2]).dtype == torch.float16
    found = RecordTeacher(record).features(["2"], {"index": record.ids[:2]})["2"]
    assert found.dtype == torch.float32
    exact = recorded(teacher, tmp_path / "exact", "2").features("2", record.ids[:2])
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-4)
    held = Record(tmp_path / "record" / "heldout")
    assert held.manifest.features == ()


def test_a_stopped_recording_goes_on_to_the_same_bytes(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preceptor.training import recording

    monkeypatch.setattr(recording, "_BATCH", 32)
    monkeypatch.setattr(recording, "_SHARD_BYTES", 1)

    def files(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.safetensors")}

    recorded(teacher, tmp_path / "whole", "2")

    class Stopped(Exception):
        pass

    write, calls = RecordWriter.write, []

    def stopping(self: Any, *arguments: Any, **more: Any) -> None:
        calls.append(1)
        if len(calls) == 4:
            raise Stopped
        write(self, *arguments, **more)

    monkeypatch.setattr(RecordWriter, "write", stopping)
    with pytest.raises(Stopped):
        recorded(teacher, tmp_path / "record", "2")
    assert 0 < len(files(tmp_path / "record")) < len(files(tmp_path / "whole"))
    with pytest.raises(InputError, match=r"is another: 'identity\.features\.2'"):
        recorded(teacher, tmp_path / "record", "2", features_dtype="float16")
    recorded(teacher, tmp_path / "record", "2")
    assert files(tmp_path / "record") == files(tmp_path / "whole")


def test_a_loop_of_ones_own(teacher: nn.Module, tmp_path: Path) -> None:
    record = recorded(teacher, tmp_path / "record", "2")
    source = RecordTeacher(record)
    assert isinstance(source, Remembers)
    train = preceptor.data.digits().train
    index = record.ids[:5]
    batch = {
        "input": torch.stack([train[int(i)][0] for i in index]),
        "label": torch.tensor([int(train[int(i)][1]) for i in index]),
        "index": index,
    }

    def losses(given: Any) -> Tensor:
        torch.manual_seed(1)
        return DistillTask(net(), given, FitNet(student="2"), example=batch, num_classes=10)(batch)["distill"]

    torch.testing.assert_close(losses(source), losses(teacher), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("features", "more", "said"),
    [
        (["nope"], {}, "the teacher has no module 'nope' to tap"),
        (["2", "2"], {}, "the features '2' are asked for twice"),
        (["2"], {"features_dtype": "float8"}, "the features' dtype is 'float8'; did you mean"),
        (["stages"], {}, "'stages' stands for nothing"),
    ],
)
def test_what_cannot_be_recorded(features: list[str], more: Any, said: str, tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10)) if "stages" in features else net()
    with pytest.raises(InputError, match=said):
        recorded(flat, tmp_path / "record", *features, **more)
    assert not (tmp_path / "record").exists()


def test_an_ensemble_has_no_features(teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="features are recorded of one live model"):
        recorded([teacher, net()], tmp_path / "record", "2")


def test_features_too_large_for_half_precision(tmp_path: Path) -> None:
    class Loud(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud, self.head = nn.Identity(), nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.loud(1e6 * x.flatten(1)) / 1e6)

    with pytest.raises(InputError, match=r"'loud' reach 1e\+06, more than float16 holds; record them in bfloat16 or"):
        recorded(Loud(), tmp_path / "record", "loud", features_dtype="float16")
    recorded(Loud(), tmp_path / "record", "loud", features_dtype="bfloat16")


def test_a_record_without_what_a_loss_asks_for(teacher: nn.Module, tmp_path: Path) -> None:
    recorded(teacher, tmp_path / "bare")
    recorded(teacher, tmp_path / "last", "last")
    loss = {"name": "FitNet", "student": "2", "teacher": "2"}
    with pytest.raises(InputError, match="record has no features of '2'; record it with preceptor record --features 2"):
        student(str(tmp_path / "bare"), tmp_path / "s", loss)
    with pytest.raises(InputError, match="the record has no features of '2'; give one of last"):
        student(str(tmp_path / "last"), tmp_path / "s", loss)
    with pytest.raises(InputError, match="the record has no features of 'lasst'; give one of last"):
        student(str(tmp_path / "last"), tmp_path / "s", loss | {"teacher": "lasst"})


def test_a_stopped_student_of_a_record_goes_on(teacher: nn.Module, tmp_path: Path) -> None:
    recorded(teacher, tmp_path / "record", "2", features_dtype="float16")
    loss = {"name": "FitNet", "student": "2", "teacher": "2"}
    student(str(tmp_path / "record"), tmp_path / "whole", loss)
    with stopped_at(4):
        student(str(tmp_path / "record"), tmp_path / "run", loss)
    student(str(tmp_path / "record"), tmp_path / "run", loss)
    assert_close(weights(tmp_path / "run"), weights(tmp_path / "whole"), 0)


def test_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def typed(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments], prog_name="preceptor")
        assert done.exit_code == 0, done.stderr
        return done.stdout

    quick = ("training.epochs=1", "training.device=cpu")
    typed("teach", "teach-digits", *quick, "model={name: cnn, widths: [4, 6]}", "--out", "t")
    typed("record", "t", "--out", "r", "--features", "last", "--features", "penultimate", "--features-dtype", "float32")
    assert "last, penultimate" in typed("record", "info", "r")
    typed("record", "verify", "r")
    typed("distill", "distill-digits", *quick, "model={name: cnn, widths: [3]}", "--teacher", "r", "loss=SP", "-o", "s")
