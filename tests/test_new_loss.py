"""A loss with an optimum of its own is one file and two lines: the whole house knows it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

import preceptor

SOURCE = Path(preceptor.__file__).parent

LOSS = """
from torch.nn import functional as F


def sharpened(student_logits, teacher_logits, *, sharpness=2.0, mask=None):
    \"\"\"KL to the teacher whose log-probabilities are multiplied by `sharpness`.\"\"\"
    teacher = (sharpness * teacher_logits.detach()).log_softmax(-1)
    values = F.kl_div(student_logits.log_softmax(-1), teacher, reduction="none", log_target=True).sum(-1)
    return values if mask is None else values.where(mask, 0.0)


def sharp(log_probs, *, sharpness):
    \"\"\"Its optimum.\"\"\"
    return (sharpness * log_probs).log_softmax(-1)
"""
IMPORTED = "from preceptor.losses.sharpened import sharp, sharpened"
LINE = 'OPTIMA["sharpened"] = Optimum(sharp, "the teacher {sharpness} times as sharp", {"sharpness": 2.0})'

# What somebody does with it: from Python and on the command line. It prints what came of it.
USE = """
import json, sys
import numpy as np
from typer.testing import CliRunner
from preceptor.assess import choose, compare, optimum, search_transform
from preceptor.cli import app
from preceptor.recipe import parse, DistillRecipe
from preceptor.study.teachers import choose_teacher
from preceptor.training import distill, teach
from training.toys import RECIPE, teach_recipe

rng = np.random.default_rng(0)
logits = 2 * rng.normal(size=(2000, 4))
labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
loss = {"name": "sharpened", "sharpness": 2.0}
comparison = compare({"half": logits / 2, "true": logits}, labels, loss=loss)
print_of = str(comparison)
choices = [
    choose({"half": logits / 2, "true": logits}, labels, loss=loss, families=families)
    for families in (["proxy"], ["temperature"])
]
search = search_transform(logits, labels, "temperature", loss=loss)

teach(teach_recipe("training.epochs=30", "training.keep=all", "training.checkpoint_epochs=10"), "teacher")
def run(*arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output
    return result.output
written = run("assess", "teacher", "--loss", "{name: sharpened, sharpness: 2}", "--page", "page.html", "--json")
training = RECIPE["training"] | {"epochs": 30}
student = parse(DistillRecipe, RECIPE | {"teacher": "teacher", "loss": loss, "training": training})
resolved, chosen = choose_teacher(student, ["teacher"])
result = distill(resolved, "student")
print("RESULT" + json.dumps({
    "optimum": optimum([[1.0, 0.0, 0.5]], loss).tolist(),
    "best": comparison.best, "scored": comparison.scored, "printed": print_of,
    "choices": [(choice.single, choice.transform and choice.transform.kind) for choice in choices],
    "searched": search.transform.temperature, "worthwhile": search.worthwhile,
    "assessed": json.loads(written[written.index("{"):written.rindex("}") + 1]),
    "page": open("page.html").read(),
    "chosen": chosen.loss, "loss": resolved.loss.model_dump(),
    "accuracy": result["test"]["last"]["accuracy"],
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes of the loss in a copy of the package that has it."""
    place = tmp_path_factory.mktemp("copy")
    package = shutil.copytree(SOURCE, place / "preceptor", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "losses" / "sharpened.py").write_text(LOSS)
    losses, optima = package / "losses" / "__init__.py", package / "assess" / "optimum.py"
    losses.write_text(losses.read_text().replace("__all__ = [", f'{IMPORTED}\n\n__all__ = ["sharpened", '))
    line = LINE.replace("OPTIMA[", "from preceptor.losses import sharp\nOPTIMA[")
    optima.write_text(optima.read_text().replace("\n\n\ndef optimum(", f"\n{line}\n\n\ndef optimum(", 1))
    paths = os.pathsep.join([str(place), str(Path(__file__).parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", USE], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.partition("RESULT")[2])


def test_its_optimum_is_what_is_scored_and_shown(found: dict[str, Any]) -> None:
    np.testing.assert_allclose(np.exp(found["optimum"]), softmax([[2.0, 0.0, 1.0]], -1), atol=1e-12)
    # Twice as sharp, the teacher that is half as sure as the truth is the truth.
    assert (found["best"], found["scored"]) == ("half", "the teacher 2 times as sharp")
    assert "Assessed for sharpened: the teacher 2 times as sharp" in found["printed"]
    [ranking] = found["assessed"]["rankings"]
    assert ranking["loss"] == "sharpened"
    assert "the teacher 2 times as sharp" in found["page"]


def test_a_transform_is_searched_under_it_and_a_teacher_chosen(found: dict[str, Any]) -> None:
    # Of the true teacher, two is the temperature that undoes the loss's sharpness.
    assert found["searched"] == pytest.approx(2, abs=0.2)
    assert found["worthwhile"]
    assert found["choices"] == [["half", None], ["true", "temperature"]]


def test_distill_knows_it(found: dict[str, Any]) -> None:
    assert found["chosen"] == "sharpened"
    assert found["loss"] == {"name": "sharpened", "sharpness": 2.0}
    assert found["accuracy"] > 0.3
