"""A run's model in the formats of others says what the run has stored, for raw numbers and batches of any size."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import preceptor
from preceptor.errors import InputError
from preceptor.serving import formats
from training.toys import RECIPE

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "run"
    preceptor.teach(RECIPE, folder, calibrate=True)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small convolutional network with batch norm on files of images."""
    tree = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tree / "data" / name).mkdir(parents=True)
        for i in range(30):
            pixels = np.clip(rng.normal(90 + 70 * label, 40, (12, 12, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tree / "data" / name / f"{i:02}.png")
    data = {"name": "image_folder", "folder": str(tree / "data")}
    model = {"name": "cnn", "widths": [4, 8]}
    preceptor.teach(data=data, model=model, split={"test": 10, "heldout": 20}, folder=tree / "run", **QUICK)
    return tree / "run"


def heldout(run: Path, kind: str = "last") -> tuple[list[int], np.ndarray]:
    """The positions of a run's held-out samples, and the softmax of what is stored for them, by NumPy."""
    places = json.loads((run / "splits.json").read_text())["parts"]["heldout"]
    logits = load_file(run / "predictions.safetensors")[f"heldout/{kind}"].astype(np.float64)
    return places, softmax(logits)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_onnx_of_digits_takes_the_numbers_of_the_data_set(digits: Path, tmp_path: Path) -> None:
    done = preceptor.export(digits, to="onnx", path=tmp_path / "digits.onnx")
    places, expected = heldout(digits)
    raw = load_digits().images.astype(np.float32)[places, None]
    for size in (1, 2, len(raw)):
        logits, probabilities = session(done.path).run(None, {"input": raw[:size]})
        np.testing.assert_allclose(probabilities, expected[:size], atol=1e-5)
        np.testing.assert_allclose(softmax(logits), expected[:size], atol=1e-5)
    assert done.difference is not None
    assert done.difference < 1e-5
    assert done.samples == len(expected)
    assert f"from the run's stored predictions is {done.difference:.1e}" in str(done)


def test_onnx_of_images_takes_bytes_and_names_its_classes(photos: Path, tmp_path: Path) -> None:
    path = preceptor.export(f"{photos}:best", to="onnx", path=tmp_path / "photos.onnx").path
    places, expected = heldout(photos, "best")
    files = sorted((photos.parent / "data").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(files[i])).transpose(2, 0, 1) for i in places])
    ran = session(path)
    np.testing.assert_allclose(ran.run(["probabilities"], {"input": pixels})[0], expected, atol=1e-5)
    known = ran.get_modelmeta().custom_metadata_map
    assert json.loads(known["class_names"]) == ["cat", "dog"]
    assert json.loads(known["names"]) == {"0": "cat", "1": "dog"}
    assert ran.get_inputs()[0].type == "tensor(uint8)"
    assert ran.get_inputs()[0].shape[1:] == [3, 12, 12]
    assert isinstance(ran.get_inputs()[0].shape[0], str), "the batch has any size"


def test_without_preprocessing_a_graph_takes_what_the_model_takes(photos: Path, tmp_path: Path) -> None:
    path = preceptor.export(photos, to="onnx", path=tmp_path / "p.onnx", preprocessing=False).path
    assert session(path).get_inputs()[0].type == "tensor(float)"


def test_the_fitted_temperature_goes_with_it(digits: Path, tmp_path: Path) -> None:
    fitted = json.loads((digits / "result.json").read_text())["temperature"]["last"]
    assert abs(fitted - 1) > 0.01, "else this tests nothing"
    path = preceptor.export(f"{digits}:calibrated", to="onnx", path=tmp_path / "c.onnx").path
    places, _ = heldout(digits)
    stored = load_file(digits / "predictions.safetensors")["heldout/last"].astype(np.float64)
    raw = load_digits().images.astype(np.float32)[places, None]
    found = session(path).run(["probabilities"], {"input": raw})[0]
    np.testing.assert_allclose(found, softmax(stored / fitted), atol=1e-5)
    assert np.abs(found - softmax(stored)).max() > 1e-3


def test_clipped_outputs_are_read_as_the_run_reads_them(tmp_path: Path) -> None:
    preceptor.teach(RECIPE, tmp_path / "mse", objective="mse", distribution="clip")
    path = preceptor.export(tmp_path / "mse", to="onnx").path
    places, expected = heldout(tmp_path / "mse")
    raw = load_digits().images.astype(np.float32)[places, None]
    np.testing.assert_allclose(session(path).run(["probabilities"], {"input": raw})[0], expected, atol=1e-5)


def test_pt2_is_a_program_with_json_in_it(photos: Path, tmp_path: Path) -> None:
    path = preceptor.export(photos, to="pt2", path=tmp_path / "photos.pt2").path
    extra = {"preceptor.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["preceptor.json"])["class_names"] == ["cat", "dog"]
    for size in (1, 5):
        logits, probabilities = program(torch.zeros(size, 3, 12, 12, dtype=torch.uint8))
        assert probabilities.shape == (size, 2)
        assert torch.allclose(logits.softmax(-1), probabilities)


def test_safetensors_is_a_run_less_its_folder(digits: Path, tmp_path: Path) -> None:
    path = preceptor.export(f"{digits}:best", to="safetensors", path=tmp_path / "m.safetensors").path
    model = preceptor.load(path)
    assert model.class_names == tuple("0123456789")
    for name, tensor in load_file(digits / "best.safetensors").items():
        assert np.array_equal(model.state_dict()[name].numpy(), tensor)


def test_a_folder_of_our_own_model(photos: Path, tmp_path: Path) -> None:
    folder = preceptor.export(photos, to="pretrained", path=tmp_path / "photos").path
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "cat", "1": "dog"}
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == [0.485, 0.456, 0.406]
    assert preceptor.load(folder / "model.safetensors").class_names == ("cat", "dog")


def sets() -> tuple[TensorDataset, TensorDataset]:
    rng = torch.Generator().manual_seed(0)
    first, second = (TensorDataset(torch.randn(n, 3, 32, 32, generator=rng), torch.arange(n) % 3) for n in (40, 12))
    return first, second


def a_resnet(num_classes: int) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], num_labels=num_classes)
    return ResNetForImageClassification(config)


def test_a_model_of_transformers_becomes_its_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForImageClassification

    preceptor.teach(data=sets(), model=a_resnet, folder=tmp_path / "run", **QUICK)
    done = preceptor.export(tmp_path / "run", to="pretrained", data=sets(), model=a_resnet)
    assert done.path == tmp_path / "run-pretrained"
    model = AutoModelForImageClassification.from_pretrained(done.path)
    assert model.config.id2label == {0: "0", 1: "1", 2: "2"}
    places, expected = heldout(tmp_path / "run")
    with torch.no_grad():
        found = model.eval()(sets()[0].tensors[0][places]).logits.softmax(-1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_model_of_timm_becomes_a_folder_that_timm_reads(tmp_path: Path) -> None:
    import timm

    model = {"name": "timm:create_model", "model_name": "test_resnet"}
    preceptor.teach(data=sets(), model=model, folder=tmp_path / "run", **QUICK)
    folder = preceptor.export(tmp_path / "run", to="pretrained", data=sets(), trust=True).path
    places, expected = heldout(tmp_path / "run")
    with torch.no_grad():
        found = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(sets()[0].tensors[0][places])
    np.testing.assert_allclose(found.softmax(-1).numpy(), expected, atol=1e-5)


class Stubborn(nn.Module):
    """A model whose way depends on its numbers."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        flat = self.head(input.flatten(1))
        return flat * 2 if input.sum().item() > 1e9 else flat


def test_what_is_no_graph_is_one_sentence_and_leaves_no_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    preceptor.teach(RECIPE, tmp_path / "run", model=Stubborn)
    capfd.readouterr()
    for to in ("onnx", "pt2"):
        with pytest.raises(InputError, match=f"cannot become {to}: torch cannot make a graph") as refused:
            preceptor.export(tmp_path / "run", to=to, model=Stubborn)
        assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert preceptor.export(tmp_path / "run", to="safetensors", model=Stubborn).difference == pytest.approx(0, abs=1e-6)


def test_a_model_of_texts_says_why(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"{'so good' if i % 2 else 'so bad'} {i}", "label": i % 2}) for i in range(40)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    data, model = {"name": "text", "path": str(tmp_path / "texts.jsonl")}, {"name": "ngram_bag", "buckets": 64}
    preceptor.teach(data=data, model=model, split={"test": 8, "heldout": 8}, folder=tmp_path / "run", **QUICK)
    with pytest.raises(InputError, match=r"steps that are no graph of tensors; export it to safetensors"):
        preceptor.export(tmp_path / "run", to="onnx")
    assert preceptor.export(tmp_path / "run", to="safetensors").samples == 8


def test_a_file_that_says_something_else_is_not_left(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(formats.Whole):
        def forward(self, input: Tensor) -> tuple[Tensor, Tensor]:
            logits, probabilities = super().forward(input)
            return logits, probabilities.roll(1, -1)

    monkeypatch.setattr(formats, "Whole", Other)
    with pytest.raises(InputError, match=r"was not written: a probability differs by 0\.\d+ from the run's own") as no:
        preceptor.export(digits, to="pt2", path=tmp_path / "wrong.pt2")
    assert str(no.value.argument).startswith("tolerance")
    assert not any(tmp_path.iterdir())
    assert preceptor.export(digits, to="pt2", path=tmp_path / "wrong.pt2", tolerance=1).path.is_file()


def test_a_run_that_holds_other_predictions_is_seen(digits: Path, tmp_path: Path) -> None:
    """The check is against the stored file and not against the model that is exported."""
    with pytest.raises(InputError, match="allow tolerance"):
        preceptor.export(digits, to="safetensors", path=tmp_path / "m.safetensors", tolerance=1e-12)
    assert preceptor.export(digits, to="safetensors", path=tmp_path / "m.safetensors", check=False).difference is None


def test_epochs_are_compared_with_the_model_in_torch(tmp_path: Path) -> None:
    preceptor.teach(RECIPE, tmp_path / "run", keep="all")
    done = preceptor.export(f"{tmp_path / 'run'}:epoch-1", to="pt2")
    assert done.against == "torch"
    assert done.difference is not None
    assert done.difference < 1e-5


def test_what_is_there_stays(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        preceptor.export(digits, to="onnx", path=tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_text() == "mine"
    with pytest.raises(InputError, match="did you mean 'onnx'"):
        preceptor.export(digits, to="onnxx")  # type: ignore


def test_a_missing_package_is_one_sentence(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.import_module

    def without(name: str, *rest: Any) -> Any:
        if name == "onnxscript":
            raise ImportError(name)
        return found(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(InputError, match=r"this needs onnxscript; run pip install 'preceptor\[onnx\]'"):
        preceptor.export(digits, to="onnx", path=tmp_path / "a.onnx")


def test_data_that_cannot_be_had_leave_the_check_to_the_caller(tmp_path: Path) -> None:
    preceptor.teach(data=sets(), model={"name": "cnn", "widths": [4]}, folder=tmp_path / "run", **QUICK)
    with pytest.raises(InputError, match="cannot be checked: there are no data") as refused:
        preceptor.export(tmp_path / "run", to="pt2")
    assert "check False" in (refused.value.argument or ())
    assert preceptor.export(tmp_path / "run", to="pt2", check=False).difference is None
