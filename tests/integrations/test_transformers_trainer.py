"""Beside the gradient: who the teacher may be, where it is not, evaluation, resuming, columns and refusals."""

import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Trainer

import preceptor
from integrations.toys import CLASSES, arguments, batch_of, bert, relative_error, rows, trained
from preceptor.errors import InputError
from preceptor.integrations import transformers as room
from preceptor.integrations.transformers import Distilled
from preceptor.losses import dist, wttm


class Asked(nn.Module):
    """A teacher that tells how it was called."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, []

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        self.calls.append((self.training, torch.is_grad_enabled(), labels, next(self.parameters()).dtype))
        return self.model(input_ids=input_ids, attention_mask=attention_mask)


class Own(nn.Module):
    """A student with parameters of its own names, which reads vectors."""

    def __init__(self, classes: int = CLASSES, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.head = nn.Linear(64, classes)
        self.labelled: list[bool] = []

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        self.labelled.append(labels is not None)
        logits = self.head(pixel_values.flatten(1))
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def pictures(n: int = 8, classes: int = CLASSES) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [
        {"pixel_values": torch.rand(1, 8, 8, generator=generator), "labels": torch.tensor(row % classes)}
        for row in range(n)
    ]


def gradient_to(student: Own, answer: Tensor, data: Any) -> dict[str, Tensor]:
    """Of KL(p, q) to an answer, plainly."""
    batch = batch_of(data)
    logits = student.head(batch["pixel_values"].flatten(1))
    p = answer.detach().softmax(-1)
    (p * (p.log() - logits.log_softmax(-1))).sum(-1).mean().backward()
    return {name: each.grad for name, each in student.named_parameters()}


def alone(folder: Path, teacher: Any, **options: Any) -> Any:
    """A student that learns from the teacher alone."""
    given = {"loss": {"name": "kd", "temperature": 1.0}, "ce_weight": 0.0, "distill_weight": 1.0, **options}
    return trained(Distilled(Trainer), folder, pictures(), Own(), teacher=teacher, **given)


def test_a_teacher_is_a_module_a_function_or_a_weighted_list(tmp_path: Path) -> None:
    first, second, inputs = Own(seed=1), Own(seed=2), batch_of(pictures())
    answers = [each.head(inputs["pixel_values"].flatten(1)) for each in (first, second)]
    mean = (0.25 * answers[0].softmax(-1) + 0.75 * answers[1].softmax(-1)).log()
    plain = nn.Sequential(nn.Flatten(), first.head)  # names no column: it is given the picture
    function = lambda batch: first(batch["pixel_values"])  # noqa: E731
    for teacher, answer in [
        (first, answers[0]),
        (plain, answers[0]),
        (function, answers[0]),
        (preceptor.tasks.Teacher(first, temperature=2.0), answers[0] / 2),
        ([(first, 1.0), (second, 3.0)], mean),
    ]:
        found = alone(tmp_path, teacher).gradients[0]
        assert relative_error(found, gradient_to(Own(), answer, pictures())) < 1e-6


def test_a_run_is_a_teacher_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    preceptor.teach(data="digits", model="mlp", epochs=1, device="cpu", folder=run)
    data = pictures(classes=10)
    answer = preceptor.load(run)(batch_of(data)["pixel_values"])
    trainer = trained(
        Distilled(Trainer),
        tmp_path,
        data,
        Own(10),
        teacher=str(run),
        temperature=1.0,
        ce_weight=0.0,
        distill_weight=1.0,
    )
    assert relative_error(trainer.gradients[0], gradient_to(Own(10), answer, data)) < 1e-6


def test_the_teacher_is_asked_in_eval_mode_in_its_own_dtype_and_is_nowhere_else(tmp_path: Path) -> None:
    teacher = Asked(bert(1).bfloat16()).train()
    before = {name: each.clone() for name, each in teacher.state_dict().items()}
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, optim="adamw_torch")
    student = bert(0)
    trainer = trained(Distilled(Trainer), tmp_path, rows(), student, args=args, teacher=teacher)
    assert teacher.calls == [(False, False, None, torch.bfloat16)]
    assert all(module.training for module in teacher.modules())
    assert all(torch.equal(each, before[name]) for name, each in teacher.state_dict().items())
    [checkpoint] = tmp_path.glob("checkpoint-*")
    assert load_file(checkpoint / "model.safetensors").keys() == student.state_dict().keys()
    assert sum(len(group["params"]) for group in trainer.optimizer.param_groups) == len(list(student.parameters()))
    size = sum(path.stat().st_size for path in checkpoint.iterdir())
    plain = trained(Trainer, tmp_path / "plain", rows(), bert(0), args=arguments(tmp_path / "plain", **SAVED))
    [other] = (tmp_path / "plain").glob("checkpoint-*")
    assert plain.state.global_step == 1
    assert size == pytest.approx(sum(path.stat().st_size for path in other.iterdir()), rel=0.02)


SAVED = {"save_strategy": "steps", "save_steps": 1, "optim": "adamw_torch"}


def test_a_run_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    def trainer(folder: Path, steps: int) -> Any:
        args = arguments(
            folder, max_steps=steps, per_device_train_batch_size=2, gradient_accumulation_steps=2, **SAVED, seed=3
        )
        options = {"teacher": bert(1), "loss": "wttm", "temperature": 2.0}
        return Distilled(Trainer)(model=bert(0), args=args, train_dataset=rows(16), **options)

    whole = trainer(tmp_path / "whole", 6)
    whole.train()
    trainer(tmp_path / "cut", 3).train()
    resumed = trainer(tmp_path / "cut", 6)
    resumed.train(resume_from_checkpoint=True)
    for found, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_evaluation_is_the_students_own(smoothing: float, tmp_path: Path) -> None:
    options = {"per_device_eval_batch_size": 3, "label_smoothing_factor": smoothing}
    teacher = Asked(bert(1))
    found = Distilled(Trainer)(model=bert(0), args=arguments(tmp_path, **options), teacher=teacher)
    plain = Trainer(model=bert(0), args=arguments(tmp_path, **options))
    for data in (rows(), rows(hidden=(2,))):
        assert found.evaluate(data)["eval_loss"] == plain.evaluate(data)["eval_loss"]
        mine, theirs = found.predict(data), plain.predict(data)
        assert (mine.predictions == theirs.predictions).all()
        assert mine.metrics["test_loss"] == theirs.metrics["test_loss"]
    assert not teacher.calls


def test_the_student_makes_no_loss_of_its_own_in_training(tmp_path: Path) -> None:
    student = Own()
    trained(Distilled(Trainer), tmp_path, pictures(), student, teacher=Own(seed=1))
    assert student.labelled == [False]


class Typed(nn.Module):
    """A teacher that reads a column which the student does not know."""

    def forward(self, pixel_values: Tensor, kind: Tensor) -> Tensor:
        return pixel_values.flatten(1)[:, :CLASSES] * kind[:, None]


@pytest.mark.parametrize("named", [False, True])
def test_columns_of_the_teacher_stay_and_are_not_given_to_the_student(named: bool, tmp_path: Path) -> None:
    kinds = torch.arange(1, 9)
    data = [{**row, "kind": kinds[i], "text": "not a tensor"} for i, row in enumerate(pictures())]
    typed = Typed()
    teacher = typed if not named else lambda batch: typed(batch["pixel_values"], batch["kind"])
    options = {"teacher_columns": ["kind"]} if named else {}
    trainer = trained(
        Distilled(Trainer),
        tmp_path,
        data,
        Own(),
        teacher=teacher,
        temperature=1.0,
        ce_weight=0.0,
        distill_weight=1.0,
        **options,
    )
    answer = typed(batch_of(pictures())["pixel_values"], kinds)
    assert relative_error(trainer.gradients[0], gradient_to(Own(), answer, pictures())) < 1e-6
    assert trainer.evaluate(data)["eval_loss"] > 0


class Measuring(Trainer):
    """As trainers of others do: something measured beside a loss, which is a mean of each micro-batch."""

    loss_is_scaled_for_ga = False

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.seen = outputs.logits.shape
        return (loss, outputs) if return_outputs else loss


def test_any_trainer_may_be_distilled(tmp_path: Path) -> None:
    kind = Distilled(Measuring)
    assert kind is Distilled(Measuring)
    assert issubclass(kind, Measuring)
    assert pickle.loads(pickle.dumps(kind)) is kind
    args = arguments(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    trainer = trained(kind, tmp_path, rows(), bert(0), args=args, teacher=bert(1))
    plain = trained(Distilled(Trainer), tmp_path, rows(), bert(0), teacher=bert(1))
    assert trainer.seen == (2, CLASSES)
    assert relative_error(trainer.gradients[0], plain.gradients[0]) < 1e-6


def test_a_loss_of_a_batch_says_once_that_it_sees_micro_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for loss, said in (("dist", 1), (dist, 1), ("kd", 0)):
        args = arguments(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=3)
        trained(Distilled(Trainer), tmp_path, rows(32), bert(0), args=args, teacher=bert(1), loss=loss)
        assert capsys.readouterr().err.count("sees one micro-batch at a time") == said
    trained(Distilled(Trainer), tmp_path, rows(), bert(0), teacher=bert(1), loss="dist")
    assert "micro-batch" not in capsys.readouterr().err


class Deaf(Trainer):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return model(**inputs).loss


class Mute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, CLASSES))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"scores": pixel_values.flatten(1) @ self.weight, "hidden": self.weight}


def floats() -> list[dict[str, Tensor]]:
    return [{**row, "labels": torch.tensor(0.5)} for row in rows()]


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "classes": ("teacher has 5 classes and the student 4", {"teacher": bert(1, classes=5)}),
    "no logits": ("the student returns a dict of scores, hidden", {"model": Mute(), "data": pictures()}),
    "the teacher's": ("the teacher returns a dict of scores, hidden", {"teacher": Mute(), "data": pictures()}),
    "labels": ("labels have shape (8,) and torch.float32", {"data": floats()}),
    "no labels": (
        "no labels; give them as 'labels', or ce_weight=0",
        {"data": [{k: v for k, v in row.items() if k != "labels"} for row in rows()]},
    ),
    "own function": ("give a loss to the labels as label_loss=", {"compute_loss_func": lambda *_: 0}),
    "deaf": ("Deaf.compute_loss makes a loss without asking Trainer's", {"kind": Deaf}),
    "no trainer": ("takes a class such as transformers.Trainer, not", {"kind": dict}),
    "name": ("no loss called 'wtm'; did you mean 'wttm'?", {"loss": "wtm"}),
    "option": ("unknown key 'loss.temprature'", {"loss": {"name": "kd", "temprature": 2}}),
    "objective": ("no label_loss called 'focl'", {"label_loss": "focl"}),
    "twice": ("the temperature is 2 in the loss and 4 beside it", {"loss": {"name": "kd", "temperature": 2}}),
    "function": ("functools.partial(loss, temperature=4)", {"loss": wttm}),
    "reduced": (
        "gives shape () for 2 examples; return one value per example, without reduction",
        {"label_loss": nn.CrossEntropyLoss()},
    ),
    "memory": ("which only Preceptor's own loop can serve", {"label_loss": "SoTeacher"}),
    "weight": ("ce_weight is -1; give a number of at least 0", {"ce_weight": -1}),
    "run": ("there is no run folder or file 'runs/none'", {"teacher": "runs/none"}),
    "no column": (
        "names none of the batch's columns left, right; give a function of the batch",
        {"teacher": nn.Linear(2, 4), "model": None, "data": None},
    ),
    "smoothed twice": ("label_smoothing_factor is 0.1 beside a label_loss", {"label_loss": "cross_entropy"}),
}


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 4)

    def forward(self, left: Tensor, right: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        return {"logits": self.head(left + right)}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_said_in_one_sentence(case: str, tmp_path: Path) -> None:
    said, options = WRONG[case][0], dict(WRONG[case][1])
    if case == "no column":
        options |= {"model": Two(), "data": [{"left": torch.ones(2), "right": torch.ones(2), "labels": 1}] * 8}
    kind, data, model = options.pop("kind", Trainer), options.pop("data", None), options.pop("model", None)
    given: dict[str, Any] = {"teacher": Own(seed=1) if data and "pixel_values" in data[0] else bert(1), **options}
    if case in ("twice", "function"):
        given["temperature"] = 4
    args = arguments(tmp_path, label_smoothing_factor=0.1 if case == "smoothed twice" else 0.0)
    with pytest.raises(InputError, match=re.escape(said)) as error:
        trained(Distilled(kind), tmp_path, data or rows(), model or bert(0), args=args, **given)
    assert "\n" not in str(error.value)


# PEFT asks for what transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_student_is_not_its_own_teacher(tmp_path: Path) -> None:
    student = bert(0)
    with pytest.raises(InputError, match="the teacher has parameters that the student trains"):
        trained(Distilled(Trainer), tmp_path, rows(), student, teacher=student)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    adapted = get_peft_model(student, config)  # puts its adapters into the model that it is given
    with pytest.raises(InputError, match="the teacher has parameters that the student trains"):
        trained(Distilled(Trainer), tmp_path, rows(), adapted, teacher=student)
    trained(Distilled(Trainer), tmp_path, rows(), bert(0), teacher=[bert(1), bert(2)])


def test_a_run_of_a_model_of_ones_own_is_given_loaded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make = lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))  # noqa: E731
    preceptor.teach(data="digits", model=make, epochs=1, device="cpu", folder=run)
    options: dict[str, Any] = {"data": pictures(classes=10), "student": Own(10)}
    with pytest.raises(InputError, match=re.escape(f"teacher=preceptor.load('{run}', model=...)")):
        trained(Distilled(Trainer), tmp_path, **options, teacher=str(run))
    trained(Distilled(Trainer), tmp_path, **options, teacher=preceptor.load(run, model=make))


def test_a_folder_of_save_pretrained_is_a_teacher(tmp_path: Path) -> None:
    bert(1).save_pretrained(tmp_path / "saved")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a"))).save_pretrained(tmp_path / "saved")
    found = [
        trained(Distilled(Trainer), tmp_path, rows(), bert(0), teacher=teacher).gradients[0]
        for teacher in (bert(1), str(tmp_path / "saved"))
    ]
    assert relative_error(found[1], found[0]) == 0


def test_a_function_with_its_options_is_a_loss(tmp_path: Path) -> None:
    by_name = trained(Distilled(Trainer), tmp_path, rows(), bert(0), teacher=bert(1), loss="wttm", temperature=3.0)
    own = trained(Distilled(Trainer), tmp_path, rows(), bert(0), teacher=bert(1), loss=partial(wttm, temperature=3.0))
    assert relative_error(own.gradients[0], by_name.gradients[0]) == 0
    assert room.__all__ == ["Distilled", "hidden_and_head", "same_vocabulary"]
