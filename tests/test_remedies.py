"""Remedies work when typed: a sentence that names a command, a flag or a key=value is provoked, and what it says done.

`CASES` are run; `test_every_remedy_has_a_case` finds in the source the sentences that no case provokes.
"""

import ast
import functools
import importlib
import inspect
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset
from typer.main import get_command
from typer.testing import CliRunner, Result

import preceptor
from preceptor.cli import app

SRC = Path(preceptor.__file__).parent
TEACH, DISTILL = "teach teach-digits training.epochs=1", "distill distill-digits training.epochs=1"

# What is refused, what the sentence says, and what is typed then ({} is what the sentence says between « and »).
CASES: list[tuple[str, str, str]] = [
    (f"{TEACH} --select best", "training.select=brier", f"{TEACH} training.select=brier -o c1"),
    (f"{DISTILL} t", "write runs to choose from after --teacher auto", f"{DISTILL} --teacher auto t -o c2"),
    (
        f"{TEACH} --select teaching",
        "train for two epochs or more",
        "teach teach-digits training.epochs=2 --select teaching -o c3",
    ),
    (f"{DISTILL} teacher=t --teacher auto t", "leave one of the two out", f"{DISTILL} teacher=t -o c4"),
    (f"{TEACH} optimizer.lr", "write it as key.key=value, e.g. «optimizer.lr=0.1»", f"{TEACH} {{}} -o c5"),
    (f"{TEACH} training.keep=all -o t", "leave training.keep=all out", f"{TEACH} -o t"),
    (
        f"{TEACH} seed=5 -o t",
        "give another folder, or remove that one (on the command line: «--out»)",
        f"{TEACH} seed=5 {{}} c6",
    ),
    (
        f"{DISTILL} --teacher kept:epochs",
        "(on the command line: «--teacher auto kept:epochs»)",
        f"{DISTILL} {{}} -o c7",
    ),
    (
        "assess t:epochs",
        "train with «training.keep=all»",
        "teach teach-digits training.epochs=2 {} -o c8; assess c8:epochs",
    ),
    (
        "assess t:epoch-7",
        "train with «training.keep=all» to keep every epoch",
        "teach teach-digits training.epochs=7 {} -o c9; assess c9:epoch-6",
    ),
    (
        f"{DISTILL} --teacher t:calibrated",
        "teach it with «calibrate=true»",
        f"{TEACH} {{}} -o c10; {DISTILL} --teacher c10:calibrated -o c11",
    ),
    (f"{DISTILL} --teacher t:calibrated", "or leave calibrated out", f"{DISTILL} --teacher t -o c12"),
    ("assess stack", "say which member, e.g. member=0, or by name RUN:«member-0»", "assess stack:{}"),
    ("assess t:member-0", "leave member=0 out", "assess t"),
    ("assess stack:member-7", "holds members 0 to «1»", "assess stack:member-{}"),
    ("report stack", "score each by preceptor «assess stack:member-0»", "{}"),
    (DISTILL, "give teacher=RUN_FOLDER", f"{DISTILL} teacher=t -o c13"),
    (
        "distill-together distill-digits two.yaml --teacher auto",
        "give the teacher that it says",
        "distill-together distill-digits two.yaml training.epochs=1 --teacher t -o c14",
    ),
    (
        "distill-together distill-digits seeds.yaml --teacher t",
        "give all of them «streams={{.*}}»",
        'distill-together distill-digits seeds.yaml training.epochs=1 --teacher t -o c15 "{}"',
    ),
    (
        "teach texts.yaml model.words=[] model.characters=[]",
        "e.g. «words=[1]»",
        "teach texts.yaml model.characters=[] model.{} -o c16",
    ),
    ("teach photos.yaml data.size=0", "pixels above 0, «size=32»", "teach photos.yaml data.{} -o c17"),
    ("teach photos.yaml data.size=0", "or height and width, «size=[32, 48]»", 'teach photos.yaml "data.{}" -o c18'),
    ("teach photos.yaml", "give one size for all, such as «size=10»", "teach photos.yaml data.{} -o c19"),
    ("teach ignored.yaml", "or give «num_classes=256»", "teach ignored.yaml {} -o c20"),
    ("teach arrays.yaml", "or give 256 class names", "teach arrays.yaml data.path=named.npz -o c28"),
    ("export t --to onxx", "did you mean '«onnx»'? (on the command line: --to)", "export t --to {} -o c21.onnx"),
    (
        "export t --to safetensors --tolerance 1e-15",
        "(on the command line: «--tolerance [^)]*»)",
        "export t --to safetensors {} -o c22",
    ),
    (
        "export t --to safetensors -o two.yaml",
        "give another path (on the command line: «--out»)",
        "export t --to safetensors {} c23",
    ),
    ("export reader --to onnx", "(on the command line: «--to safetensors»)", "export reader {} -o c24"),
    (
        "export own --to pt2",
        "or leave the check out (on the command line: «--no-check»)",
        "export own --to pt2 {} -o c25",
    ),
    (
        "predict seer data/cat/0.png",
        "with resize=True (on the command line: «--resize»)",
        "predict seer data/cat/0.png {}",
    ),
    ("predict t a.npy --out a.xls", "give a .csv or .parquet file, or «-»", "predict t a.npy --out {}"),
    ("predict t a.npy --top 11", "(on the command line: «--top»)", "predict t a.npy {} 10"),
    ("recipes copy teach-digits mine.txt", "give such as «teach-digits.yaml»", "recipes copy teach-digits {}"),
    ("assess a.npz --data a.npy", "(on the command line: «--labels»)", "assess a.npz {} labels.npy"),
    ("assess a.npz", "give labels, counts or truth", "assess a.npz --labels labels.npy"),
    ("assess probabilities.npz", "(on the command line: «--probabilities»)", "assess probabilities.npz {}"),
    (f"{DISTILL} --teacher t:0.7+kept", "write such as A:0.7+B:0.3", f"{DISTILL} --teacher t:0.7+kept:0.3 -o c26"),
    (f"{DISTILL} --teacher t:0+kept:1", "such as 0.3", f"{DISTILL} --teacher t:0.3+kept:1 -o c27"),
    ("record t", "give «--out» DIR", "record t {} c29"),
    ("posterior kept", "the samples need a folder; give «--out» DIR", "posterior kept --start-epoch 0 {} c33"),
    (
        "posterior t --out c34",
        "train with «training.keep=all», or begin earlier (on the command line: --start-epoch)",
        "teach teach-digits training.epochs=4 {} -o c35; posterior c35 -o c34",
    ),
    ("assess bare", "record it with them", "record t --out c30; assess c30"),
    (
        f"{DISTILL} --teacher digits.npy",
        "or say «teacher_rows=position» where row i",
        f"{DISTILL} --teacher digits.npy {{}} -o c31",
    ),
    (
        f"{DISTILL} --teacher digits.npy teacher_rows=position --probabilities",
        "or logits without probabilities=True",
        f"{DISTILL} --teacher digits.npy teacher_rows=position -o c32",
    ),
    (f"{DISTILL} --teacher t loss.name=sum", "give «loss=[kd, wttm]», say", f'{DISTILL} --teacher t "{{}}" -o c36'),
    (
        f"{TEACH} 'objective={{name: SFTN, at: \"1\"}}'",
        "name such modules by objective.at",
        f"{TEACH} 'objective={{name: SFTN, at: [layer1, layer2]}}' 'model={{name: resnet8}}' -o c37",
    ),
]

# Sentences of the source that are provoked, and their remedies tried, elsewhere or nowhere, and why.
ELSEWHERE = {
    ("cli/studies.py", "exists already; go on with it by --resume"): "a whole quickstart: study/test_quickstart.py",
    ("cli/studies.py", "generations have no pictures"): "a chain: test_commands.py",
    ("recipe/models.py", "as an object stood in for it"): "an object: training/test_sums_of_objects.py",
    ("tasks/building.py", "as it was written by an older Preceptor"): "an older record: records/test_features.py",
    ("training/objects/fusing.py", "training.fused is true, but"): "training/test_fused_tokens.py",
    ("records/tokens.py", "is of samples with one label each"): "records/test_tokens.py",
    (
        "training/data/samples.py",
        "the rows of tokens have no held-out ones",
    ): "data of one's own: training/test_tokens.py",
    ("data/fashion_mnist.py", "is in none of"): "needs a network",
    ("training/mutual.py", "start as the same network"): "two models: training/test_mutual.py",
    ("tasks/building.py", "the record has no features of"): "a record: records/test_features.py",
    ("integrations/distillation.py", "an option of a named one"): "integrations/test_distillation.py",
    ("integrations/distillation.py", "is not imported unasked"): "integrations/test_transformers_trainer.py",
    ("integrations/fused.py", "fused=True needs one of"): "integrations/test_language_models.py",
    ("integrations/fused.py", "fused=True has the cross-entropy"): "integrations/test_language_models.py",
    ("integrations/lightning.py", "is not unpickled"): "integrations/test_lightning.py",
    ("integrations/timm.py", "has no head"): "integrations/test_timm.py",
    ("integrations/transformers.py", "Distilled takes a class"): "integrations/test_transformers_trainer.py",
    ("integrations/transformers.py", "and no labels"): "integrations/test_transformers_trainer.py",
    ("models/classifiers.py", "draws a head for the data's classes"): "models/test_classifiers.py",
    ("models/causal_lm.py", "rows have"): "models/test_causal_lm.py",
    ("models/causal_lm.py", "leave config.vocab_size out"): "models/test_causal_lm.py",
    ("models/context.py", "does not keep the documents"): "training/test_language_teachers.py",
    ("models/encoder.py", "set training.precision=bf16"): "needs an encoder: models/test_encoder.py",
    ("outputs/proxy.py", "proxy_teacher did not converge"): "a function of Python: outputs/test_proxy.py",
    ("study/executors.py", "cannot be handed to another process"): "a function of Python: study/test_executors.py",
    ("runs/references.py", "has not kept epoch"): "a run that has kept some epochs: study/test_candidates.py",
    ("runs/splits.py", "of which scores are stored"): "a run of tokens: study/test_token_teachers.py",
    ("serving/predicting.py", "is a language model"): "a run of tokens: serving/test_taken_away.py",
    ("study/teachers/tokens.py", "is an ensemble"): "runs of tokens: study/test_token_teachers.py",
    ("study/teachers/tokens.py", "has no held-out documents"): "a record of tokens: study/test_token_teachers.py",
    ("study/teachers/tokens.py", "last, best and averaged weights alone"): "study/test_token_teachers.py",
    ("study/teachers/auto.py", "there is nothing to choose from"): "a function of Python: study/test_auto.py",
    ("study/teachers/reading.py", "is a model of transformers"): "needs a classifier: models/test_classifiers.py",
    ("teaching/lipschitz.py", "call bind(model=...)"): "a function of Python: teaching/test_lipschitz.py",
    ("cli/taps.py", "give whole numbers such as"): "cli/test_taps.py",
    ("tasks/taps.py", "carries no gradient"): "an object of Python: tasks/test_taps.py",
    ("tasks/building.py", "give the task"): "an object of Python: tasks/test_taps.py",
    ("tasks/building.py", "which only one live model can give"): "an object of Python: tasks/test_taps.py",
    ("tasks/looking.py", "preceptor taps lists them"): "cli/test_taps.py",
    ("tasks/taps.py", "preceptor taps lists them"): "cli/test_taps.py",
    ("training/teachers/matching.py", "are sorted"): "an object of Python: training/test_stored.py",
    ("training/teachers/matching.py", "the data set has none to match them by"): "training/test_stored.py",
    ("training/objects/own.py", "give maximize=True"): "an object of Python: training/test_students_side.py",
    ("training/loop/parent.py", "names code"): "a model of one's own: training/test_own_optimizer.py",
    ("training/teachers/replay.py", "lacks identity.data"): "a record of one's own: records/test_replay.py",
    ("training/teachers/replay.py", "training samples in view"): "records/test_replay.py",
    ("training/checks/vocabulary.py", "the data's tokenizer"): "training/test_language_teachers.py",
    ("training/verbs.py", "collate_fn makes batches"): "an object of Python: training/test_inputs_by_name.py",
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Small runs, data and files, in the folder that commands are typed in."""
    folder = tmp_path_factory.mktemp("house")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _runs()
        _files()
        yield folder


def _runs() -> None:
    typed(f"{TEACH} -o t")
    typed("teach teach-digits training.epochs=2 training.keep=all calibrate=true -o kept")
    typed("record t --no-heldout --out bare")
    preceptor.teach("teach-digits", "stack", seeds=[0, 1], epochs=1)
    rng = torch.Generator().manual_seed(0)
    sets = [TensorDataset(torch.randn(n, 3, generator=rng), torch.arange(n) % 2) for n in (40, 10)]
    preceptor.teach(data=tuple(sets), model="mlp", folder="own", epochs=1, device="cpu")


def _files() -> None:
    Path("two.yaml").write_text("{a: {}, b: {loss: wttm}}")
    Path("seeds.yaml").write_text("{a: {}, b: {seed: 1}}")
    rows = [json.dumps({"text": f"{'good' if i % 2 else 'bad'} {i}", "label": i % 2}) for i in range(40)]
    Path("texts.jsonl").write_text("\n".join(rows))
    quick = "split: {heldout: 8, test: 8}\ntraining: {epochs: 1, device: cpu}\n"
    model = "model: {name: ngram_bag, buckets: 64}\n"
    Path("texts.yaml").write_text(f"data: {{name: text, path: texts.jsonl}}\n{model}{quick}")
    typed("teach texts.yaml -o reader")
    for label, name in enumerate(("cat", "dog")):
        Path("data", name).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (12 + i % 2, 10), (9 * i, 90 * label, 0)).save(f"data/{name}/{i}.png")
    Path("photos.yaml").write_text(
        f"data: {{name: image_folder, folder: data}}\nmodel: {{name: cnn, widths: [4]}}\n{quick}"
    )
    typed("teach photos.yaml data.size=8 -o seer")
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    ignored = {"inputs": rng.normal(size=(40, 3)), "labels": np.where(labels == 2, 255, labels)}
    np.savez("ignored.npz", **ignored)
    np.savez("named.npz", **ignored, class_names=np.array([f"class {i}" for i in range(256)]))
    Path("arrays.yaml").write_text(f"data: {{name: npz, path: ignored.npz}}\nmodel: mlp\n{quick}")
    Path("ignored.yaml").write_text(f"data: house_data:samples\nmodel: mlp\n{quick}")
    Path("house_data.py").write_text(
        "import torch\n\n\ndef samples():\n    labels = torch.arange(40) % 3\n"
        "    return [(torch.zeros(3) + label, 255 if label == 2 else int(label)) for label in labels]\n"
    )
    np.save("a.npy", rng.normal(size=(2, 1, 8, 8)))
    np.save("digits.npy", rng.normal(size=(1797, 10)))
    logits = rng.normal(size=(40, 3)) + 3 * np.eye(3)[labels]
    np.savez("a.npz", logits=logits)
    np.save("labels.npy", labels)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.savez("probabilities.npz", logits=shares, labels=labels)


def run(command: str) -> Result:
    return CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)


def typed(commands: str) -> None:
    for command in commands.split("; "):
        outcome = run(command)
        assert outcome.exit_code == 0, f"{command}: {outcome.stderr}"


@functools.cache
def sentence(command: str) -> str:
    outcome = run(command)
    assert outcome.exit_code == 2, outcome.output
    last = outcome.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


def pattern(said: str) -> str:
    """What a case says, as a regular expression with a group for what is typed; within « and » it is one already
    where it holds a star.
    """
    before, _, rest = said.partition("«")
    remedy, _, after = rest.partition("»")
    own = remedy.replace("{{", r"\{").replace("}}", r"\}") if "*" in remedy else re.escape(remedy)
    return f"{re.escape(before)}({own}){re.escape(after)}"


@pytest.mark.parametrize(("refused", "said", "remedy"), CASES, ids=[refused for refused, _, _ in CASES])
def test_the_remedy_works_when_typed(refused: str, said: str, remedy: str, house: Path) -> None:
    found = re.search(pattern(said), line := sentence(refused))
    assert found, line
    typed(remedy.replace("{}", found[1]))


REMEDY = re.compile(r"--[a-z]|\b[a-z_]+(\.[a-z_]+)*=[^\s=]|\bpreceptor [a-z]+ ")


def sentences() -> Iterator[tuple[str, str]]:
    """Of the source: each file and the sentence of each error in it, as a regular expression."""
    for path in sorted(SRC.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError" and node.args:
                yield path.relative_to(SRC).as_posix(), _template(node.args[0])


def _template(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return re.escape(str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_template, node.values))
    return ".+"


def plain(template: str) -> str:
    return re.sub(r"\\(.)", r"\1", template)


def test_every_remedy_has_a_case(house: Path) -> None:
    provoked = [sentence(refused) for refused, _, _ in CASES]
    left = []
    for file, template in sentences():
        if not REMEDY.search(plain(template).replace("pip install", "")) or "pip install" in template.replace("\\", ""):
            continue
        if any(file == known and part in plain(template) for known, part in ELSEWHERE):
            continue
        if not any(re.search(template, line) for line in provoked):
            left.append(f"{file}: {plain(template)}")
    assert not left, "add a case that provokes it and types its remedy"


def test_what_is_said_to_be_elsewhere_is_there() -> None:
    known = [(file, plain(template)) for file, template in sentences()]
    for file, part in ELSEWHERE:
        assert any(file == other and part in text for other, text in known), (file, part)


def test_packages_to_install_are_extras() -> None:
    """What a sentence has one install is not installed here; that there is such an extra is checked."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    named = {
        extra
        for path in SRC.rglob("*.py")
        for extra in re.findall(r"pip install ['\"]preceptor\[(\w+)\]", path.read_text(encoding="utf-8"))
    }
    assert {"images", "parquet", "text"} <= named <= project["optional-dependencies"].keys()


def test_an_argument_that_an_error_names_is_one() -> None:
    """The command line adds the flag of an argument, and Python's callers look for it in a signature."""
    verbs: Any = get_command(app)
    flags = {parameter.name for verb in verbs.commands.values() for parameter in verb.params}
    functions = [preceptor.teach, preceptor.distill, preceptor.record, preceptor.export, preceptor.predict]
    functions += [preceptor.assess_teachers, preceptor.posterior]
    functions += [getattr(importlib.import_module("preceptor.assess"), name) for name in ("compare", "choose")]
    known = flags | {name for function in functions for name in inspect.signature(function).parameters}
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
                for keyword in node.keywords:
                    if keyword.arg == "argument" and isinstance(keyword.value, ast.Constant):
                        assert str(keyword.value.value).partition(" ")[0] in known, (path.name, keyword.value.value)
