"""`preceptor taps`: where a loss can look into models by name, of somebody's own, of runs and of transformers."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from typer.testing import CliRunner, Result

import preceptor
from preceptor import models
from preceptor.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["taps", *map(str, arguments)], prog_name="preceptor")


def told(*arguments: object) -> dict[str, Any]:
    outcome = run(*arguments, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads(outcome.stdout)


def modules(*arguments: object) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in told(*arguments)["modules"]}


def refused(*arguments: object) -> str:
    outcome = run(*arguments)
    assert outcome.exit_code == 2, outcome.output
    return outcome.stderr.strip().splitlines()[-1]


def test_a_model_by_name() -> None:
    found = told("resnet8", "--input-shape", "3,16,24", "--num-classes", 7)
    assert found["words"] == {
        "penultimate": ["fc:input"],
        "last": ["layer3"],
        "stages": ["layer1", "layer2", "layer3"],
        "preactivations": [f"layer{n}.0.act2:input" for n in (1, 2, 3)],
    }
    named = {each["name"]: each for each in found["modules"]}
    assert named["layer2"] == {
        "name": "layer2", "kind": "Sequential", "calls": 1, "given": ["B", 16, 16, 24], "gave": ["B", 32, 8, 12],
        "given_channels": "first", "gave_channels": "first",
    }  # fmt: skip
    assert named["fc"]["gave"] == ["B", 7]
    model = models.resnet8(num_classes=7, input_shape=(3, 16, 24))
    assert named.keys() == {name for name, _ in model.named_modules() if name}


def test_a_table_for_people() -> None:
    shown = run("mlp", "hidden=[3]", "--input-shape", "4").stdout
    row = next(line for line in shown.splitlines() if line.startswith("│ 1 "))
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["1", "Linear", "1", "B, 4", "B, 3", ""]
    assert "penultimate: 3:input\n" in shown
    assert "stages: nothing in this model" in shown


class Last(nn.Module):
    """Maps with their channels last, (B, 4, 4, 6), and of no layer that would tell, (B, 4, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.open, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        maps = self.inner(self.embed(x).movedim(1, -1))
        return self.fc((maps + self.open(x.mean(1, keepdim=True).expand(-1, 4, 4, 4)).mean()).mean((1, 2)))


def test_which_axis_the_channels_are_is_told() -> None:
    arguments = (f"{__name__}:Last", "--input-shape", "3,4,4")
    found = modules(*arguments)
    told_of = {name: (each["given_channels"], each["gave_channels"]) for name, each in found.items()}
    assert told_of == {
        "embed": ("first", "first"), "inner": ("last", "last"), "open": ("unknown", "unknown"), "fc": (None, None),
    }  # fmt: skip
    row = next(line for line in run(*arguments).stdout.splitlines() if line.startswith("│ inner "))
    assert row.strip("│ ").endswith("B, 4, 4, 6 │ last")


class Twice(nn.Module):
    """A ReLU that is called twice, a layer whose first axis is not the batch, one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.turned, self.idle, self.fc = nn.ReLU(), nn.Identity(), nn.Linear(2, 2), nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(self.turned(self.act(self.act(x)).t()).t())


def test_what_cannot_be_tapped_is_told_apart() -> None:
    found = modules(f"{__name__}:Twice", "--input-shape", "5")
    assert found["act"]["calls"] == 2
    assert found["turned"]["gave"] == [5, 3]
    assert "idle" not in found
    assert "│ 2: no tap │" in run(f"{__name__}:Twice", "--input-shape", "5").stdout


def test_a_model_of_torchvision() -> None:
    pytest.importorskip("torchvision")
    found = modules("torchvision.models:resnet18", "--input-shape", "3,32,32", "--num-classes", 6)
    assert (found["layer1.0.relu"]["calls"], found["fc"]["gave"]) == (2, ["B", 6])


def test_a_run_knows_its_own(tmp_path: Path) -> None:
    preceptor.teach(data="digits", model="mlp", epochs=1, device="cpu", folder=tmp_path / "run", select="brier")
    for name in ("run", "run:best"):
        assert modules(tmp_path / name)["0"]["given"] == ["B", 1, 8, 8]
    said = refused(tmp_path / "run", "--num-classes", 3)
    assert "is made already, with its classes; leave num_classes and options out" in said
    assert "there is no run folder or file" in refused(tmp_path / "nothing")


def test_texts_are_shown_where_noise_is_refused(tmp_path: Path) -> None:
    assert modules("ngram_bag", "buckets=64", "--input-shape", 40)["head"]["gave"] == ["B", 10]
    rows = [json.dumps({"text": f"{'good' if i % 2 else 'bad'} {i}", "label": i % 2}) for i in range(40)]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    preceptor.teach(
        data={"name": "text", "path": tmp_path / "texts.jsonl"}, model={"name": "ngram_bag", "buckets": 64},
        folder=tmp_path / "run", epochs=1, device="cpu", split={"heldout": 8, "test": 8},
    )  # fmt: skip
    assert modules(tmp_path / "run")["head"]["gave"] == ["B", 2]


def test_folders_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from models.test_classifiers import save_classifier

    save_classifier(tmp_path / "text", labels={0: "neg", 1: "pos"})
    found = told(tmp_path / "text")
    assert found["words"]["penultimate"] == ["model.classifier:input"]
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8
    )
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "image")
    assert modules(tmp_path / "image")["model.classifier"]["gave"] == ["B", 2]


def test_several_inputs_by_name_are_refused() -> None:
    said = refused(f"{__name__}:ByName", "--input-shape", "5")
    assert "cannot take inputs of shape (5,)" in said
    assert said.endswith("(on the command line: --input-shape)")


class ByName(nn.Module):
    """A model with two inputs."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, ids: Any, mask: Any) -> Any:
        return ids + mask


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet2"], "did you mean 'resnet32'?"),
        (["resnet8"], "give the shape of one input as input_shape, such as 3,32,32"),
        (["resnet8", "--input-shape", "3,x"], "--input-shape is '3,x'; give whole numbers such as 3,32,32"),
        (["resnet8", "--input-shape", "0,4,4"], "give the shape of one input as input_shape, such as 3,32,32"),
        (["mlp", "hiddne=[3]", "--input-shape", "4"], "did you mean 'hidden'?"),
        (["resnet8", "--input-shape", "7"], "this model reads images (channels, height, width)"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)
