"""A language model is taken away from its run with its tokenizer: transformers reads both, and generates text."""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import preceptor
from preceptor.cli import app
from preceptor.data import tokens
from preceptor.data.tokenizers import tokenizer_of
from preceptor.errors import InputError
from preceptor.runs.verify import verify

transformers = pytest.importorskip("transformers")

MODEL = {"name": "causal_lm", "width": 16, "depth": 1, "heads": 2}
GIVEN: dict[str, Any] = {"epochs": 8, "batch_size": 8, "optimizer": {"name": "adamw", "lr": 0.03}, "device": "cpu"}
ODD = "añ <eos>\t<0x41>  日本 \U0001f600 don't . hello"


def written(path: Path) -> dict[str, Any]:
    path.write_text("|".join(f"say {'ab' * (1 + n % 3)} {n % 2}" for n in range(120)))
    return {"name": "tokens", "path": str(path), "separator": "|", "length": 32}


@pytest.fixture(scope="module", params=["bytes", {"bpe": 300}], ids=str)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("away")
    data = written(place / "text.txt") | {"tokenizer": request.param}
    preceptor.teach(data=data, model=MODEL, objective="cross_entropy", folder=place / "run", select="nll", **GIVEN)
    return place / "run"


def greedy(model: Any, ids: list[int], steps: int, end: int) -> list[int]:
    """The most probable next token, again and again, until a document ends."""
    for _ in range(steps):
        with torch.no_grad():
            ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
        if ids[-1] == end:
            break
    return ids


@pytest.mark.parametrize("how", ["saved", "exported"])
def test_text_is_generated_from_the_folder_alone(how: str, run: Path, tmp_path: Path) -> None:
    """Token by token what the run's model says, up to the end of the document."""
    if how == "exported":
        done = preceptor.export(run, to="pretrained", path=tmp_path / "exported")
        assert (done.against, done.difference is not None and done.difference < 1e-5) == ("stored", True)
        folder = done.path
    else:
        folder = Path(shutil.copytree(run / "pretrained", tmp_path / "saved"))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    asked = tokenizer("say ab", return_tensors="pt")
    found = model.generate(**asked, max_new_tokens=40, do_sample=False)[0].tolist()
    own = preceptor.load(run)
    assert found == greedy(own, asked["input_ids"][0].tolist(), 40, tokenizer.eos_token_id)
    assert found[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id == own.num_classes - 1
    text = tokenizer.decode(found, skip_special_tokens=True)
    assert text.startswith("say ab")
    assert set(text) <= set("say b01")


def test_the_tokens_are_those_that_the_run_learned(run: Path) -> None:
    """Of each document what the data made of it, and text again of these; an end in a text is text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    assert tokenizer.decode(tokenizer(ODD)["input_ids"]) == ODD
    options = preceptor.runs.read_recipe(run).data.options
    rows = tokens(**options).train
    document = rows.ids[rows.documents == 0].tolist()
    text = "say ab 0"
    assert [*tokenizer(text)["input_ids"], tokenizer.eos_token_id] == document
    if options["tokenizer"] == "bytes":
        assert tokenizer(ODD)["input_ids"] == list(ODD.encode())
    else:
        assert len(document) < len(text)


def test_a_run_lends_its_tokenizer_to_other_text(run: Path, tmp_path: Path) -> None:
    """A vocabulary that was learned from a teacher's documents is its student's, too, whatever that reads."""
    other = written(tmp_path / "other.txt")
    (tmp_path / "other.txt").write_text("|".join(f"zu {n % 9} sagen" for n in range(200)))
    data = other | {"tokenizer": str(run)}
    given: dict[str, Any] = GIVEN | {"epochs": 1, "model": MODEL, "loss": "kd", "teacher": str(run)}
    preceptor.distill(data=data, folder=tmp_path / "student", **given)
    for name in ("tokenizer.json", "pretrained/tokenizer.json"):
        one, other_one = (tokenizer_of(str((each / name).parent), []) for each in (run, tmp_path / "student"))
        assert (one.name, one.names, one.digest) == (other_one.name, other_one.names, other_one.digest)
    given |= {"teacher": str(run / "pretrained")}
    assert preceptor.distill(data=data, **given)["heldout"]["last"]["nll"] > 0
    if "bpe" in one.name:
        with pytest.raises(InputError, match=r"whose vocabulary is|has .* as number|does not know"):
            preceptor.distill(data=other | {"tokenizer": {"bpe": 300}}, **given)


def test_the_tokenizer_is_held_to_its_checksum(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    assert verify(copied).problems == ()
    with open(copied / "tokenizer.json", "a") as file:
        file.write(" ")
    assert any("tokenizer.json" in problem for problem in verify(copied).problems)
    with pytest.raises(InputError, match=r"tokenizer\.json' is damaged or of another run"):
        preceptor.export(copied, to="pretrained", path=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_transformers_goes_with_all_its_files(tmp_path: Path) -> None:
    """Its end of a document and its template for chats; a run is the same wherever its tokenizer lay."""
    library = pytest.importorskip("tokenizers")
    inner = library.Tokenizer(library.models.WordLevel({"say": 0, "ab": 1, "?": 2, "END": 3}, unk_token="?"))
    inner.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="END", unk_token="?")
    made.chat_template = "{{ messages[0].content }}"
    made.save_pretrained(tmp_path / "words")
    data = written(tmp_path / "text.txt") | {"tokenizer": str(tmp_path / "words")}
    given: dict[str, Any] = {"model": MODEL, "objective": "cross_entropy", **(GIVEN | {"epochs": 1})}
    preceptor.teach(data=data, folder=tmp_path / "run", **given)
    found = transformers.AutoTokenizer.from_pretrained(tmp_path / "run" / "pretrained")
    assert (found.eos_token, found.chat_template) == ("END", made.chat_template)
    assert found("say ab what")["input_ids"] == [0, 1, 2]
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "pretrained").config.eos_token_id == 3
    done = preceptor.export(f"{tmp_path / 'run'}:best", to="pretrained", path=tmp_path / "exported")
    exported, of_run = (transformers.AutoTokenizer.from_pretrained(each) for each in (done.path, tmp_path / "run"))
    assert exported("ab say")["input_ids"] == [1, 0]
    assert exported.chat_template == of_run.chat_template == made.chat_template


def test_predict_says_what_a_language_model_is_for(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one sentence, whose two commands work as they stand."""
    monkeypatch.chdir(shutil.copytree(run.parent, tmp_path / "there"))
    Path("lines.txt").write_text("say ab 0\n")
    for given in ("lines.txt", "nowhere.npz"):
        refused = CliRunner().invoke(app, ["predict", "run", given])
        assert refused.exit_code == 2
        [said] = refused.stderr.strip().splitlines()
        assert "'run' is a language model, which says what comes next" in said
    for command in re.findall(r"preceptor ((?:assess|export) run[^,]*)", said):
        done = CliRunner().invoke(app, shlex.split(command), catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert Path("run-pretrained/tokenizer.json").is_file()


def test_graphs_of_language_models_are_refused_in_one_sentence(run: Path, tmp_path: Path) -> None:
    for check in (True, False):
        with pytest.raises(InputError, match="cannot become onnx: its inputs go by name"):
            preceptor.export(run, to="onnx", check=check)
    done = preceptor.export(f"{run}:best", to="safetensors", path=tmp_path / "a.safetensors")
    assert (done.against, done.samples > 0) == ("stored", True)
    assert done.input == "inputs by name: input_ids, position_ids"
