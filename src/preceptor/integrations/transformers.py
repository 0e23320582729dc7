"""Distillation in the Trainer of transformers, or in any class made of it: `Distilled`."""

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from preceptor.errors import InputError
from preceptor.integrations.columns import LABELS, check_context, columns_of, columns_read
from preceptor.integrations.distillation import UNLABELLED, Distillation, Named, teacher_of, with_temperature
from preceptor.integrations.fused import FusedLosses
from preceptor.losses.tokens import note_if_hot, shifted
from preceptor.models.causal import ONE_LOGIT, base_of, catching, compared, head_of, hidden_and_head, uncached
from preceptor.models.vocabulary import same_vocabulary
from preceptor.names import find, options_of
from preceptor.notices import note
from preceptor.outputs import logits_of
from preceptor.tasks import Teacher, TeacherLike
from preceptor.tasks.teacher import leaves

__all__ = ["Distilled", "hidden_and_head", "same_vocabulary"]


@functools.cache
def Distilled(trainer: type[Any]) -> type[Any]:
    """A class like `trainer` (`transformers.Trainer` or one made of it) whose models learn from a teacher, too.

    ``Distilled(Trainer)(model=student, args=args, train_dataset=data, teacher=teacher, loss="wttm", temperature=4.0)``.
    It takes what `trainer` takes, and by keyword:

    - ``teacher``, ``loss``, ``temperature``, ``label_loss``, ``ce_weight``, ``distill_weight``, as of `Distillation`.
      Of a batch, a module is given the columns that its ``forward`` names, without labels, and a function all of them.
    - ``vocabulary``: of a language model whose head is wider than its tokenizer, how many of its outputs are tokens
      (`same_vocabulary`); the others are padding, and have no part in the loss to the teacher.
    - ``fused``: for causal language models, losses from hidden states, whose logits never all exist
      (`preceptor.losses.linear`): much less memory. The student's own logits are then those of the last position.
    - ``teacher_columns``: columns that the teacher reads and the student does not, which `remove_unused_columns` is to
      leave; those that a module's ``forward`` names are known.

    Losses are sums over the examples (rows, or tokens) whose label is not -100, by their number in the whole optimizer
    step: with losses per example the gradient is that of the whole batch, however it is shared out over accumulation
    and processes. Labels of a causal language model are shifted as its own loss does, here and nowhere else; where
    ``position_ids`` start again, a document does. Its temperature is 1 where none is given. Batches without labels
    need ``ce_weight=0``, and all their rows count.

    The log has ``ce`` and ``distill`` beside ``loss``, means over the steps since the last log; with
    `label_smoothing_factor` ``ce`` is smoothed. `evaluate` and `predict` are those of the class, asking no teacher.

    Raises:
        InputError: no Trainer; as of `Distillation`; `compute_loss_func` beside it; several GPUs in one process; no
            causal language model, or another loss, to be fused; at the first batch labels that are no class numbers, a
            model without logits, a teacher of other classes, or one that does not read where documents begin.
    """
    if not (isinstance(trainer, type) and hasattr(trainer, "compute_loss") and hasattr(trainer, "prediction_step")):
        raise InputError(
            f"Distilled takes a class such as transformers.Trainer, not {trainer!r}; write "
            "Distilled(Trainer)(model=student, teacher=teacher, ...)"
        )
    name = f"Distilled{trainer.__name__}"
    made = type(name, (_Distilled, trainer), {"__module__": __name__, "__qualname__": name, "__doc__": trainer.__doc__})
    setattr(sys.modules[__name__], name, made)  # where pickle looks for it
    return made


class _Distilled:
    """What `Distilled` lays over a Trainer.

    What a Trainer does with a loss function from outside (`compute_loss_func`: counting over accumulation and
    processes, scaling, labels kept from the model) is left to it; the teacher is asked here, and parts are kept.
    """

    loss_is_scaled_for_ga = True  # for accumulation, whatever the class below says of its own loss

    def __init__(
        self,
        *args: Any,
        teacher: TeacherLike | str | Path | Sequence[Any],
        loss: Named = "kd",
        temperature: float | None = None,
        label_loss: Named | None = None,
        ce_weight: float = 0.1,
        distill_weight: float = 0.9,
        vocabulary: int | None = None,
        fused: bool = False,
        teacher_columns: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        if kwargs.get("compute_loss_func") is not None:
            raise InputError("compute_loss_func is the teacher's place here; give a loss to the labels as label_loss=")
        teacher = teacher_of(teacher)
        self._teacher_columns: list[str] = [*columns_read(teacher), *teacher_columns]
        super().__init__(*args, **kwargs)
        trainer: Any = self
        if trainer.args.n_gpu > 1:
            raise InputError(
                f"one process has {trainer.args.n_gpu} GPUs, and would share each batch out among them; start it with "
                "torchrun or accelerate launch"
            )
        self._shifts: bool = _shifts(trainer)
        if self._shifts:
            loss = _of_tokens(with_temperature(loss, temperature), vocabulary or _num_classes(trainer))
            temperature = None
        options = {"temperature": temperature, "ce_weight": ce_weight, "distill_weight": distill_weight}
        options["label_loss"] = _smoothed(label_loss, trainer.args.label_smoothing_factor)
        sizes = {"num_classes": _num_classes(trainer), "vocabulary": vocabulary}
        self.distillation = Distillation(teacher, loss, **sizes, **options)
        _refuse_itself(self.distillation, trainer.model)
        self._fused: FusedLosses | None = FusedLosses(self.distillation) if fused else None
        if fused:
            head_of(self._student())
        self._states: list[Tensor] = []
        self._places: Tensor | None = None
        self._parts: dict[str, Tensor] = {}
        self._parts_since = 0
        self._parts_of: Any = None
        self._answer: Any = None
        self._shifted: Tensor | None = None
        self._said = self._told = False
        trainer.compute_loss_func = self._distilled_loss

    # --- Training -------------------------------------------------------------------------------------------------

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss of a micro-batch in training; in evaluation the plain one."""
        trainer: Any = super()
        if getattr(self, "compute_loss_func", None) is None:
            return trainer.compute_loss(model, inputs, *args, **kwargs)
        self._note_batch_level()
        labels = self._with_labels(inputs)["labels"]
        inputs = _with_decoder_inputs(self._student(), inputs, labels)
        self._shifted, self._places = inputs.get("shift_labels"), inputs.get("position_ids")
        if self._shifts and not self._told:
            check_context(self._student(), self.distillation.teacher, inputs)
            self._told = True
        own = {**self._own({**inputs, "labels": labels}), **uncached(self._student())}
        if self._fused is None:
            self._answer = self.distillation.ask(inputs, labels.device)
            found = trainer.compute_loss(model, own, *args, **kwargs)
        else:
            self._answer = self._fused.ask(inputs, labels.device)
            with catching(self._student()) as self._states:
                found = trainer.compute_loss(model, {**own, **ONE_LOGIT}, *args, **kwargs)
            self._states = []
        if self._answer is not None:
            raise InputError(
                f"{type(self).__mro__[2].__name__}.compute_loss makes a loss without asking Trainer's, which is where "
                "the teacher comes in; make it call super().compute_loss"
            )
        return found

    def _distilled_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """What Trainer calls with the student's outputs, as its `compute_loss_func`."""
        trainer: Any = self
        logits, teacher, self._answer = logits_of(outputs, "the student"), self._answer, None
        assert teacher is not None
        if self._shifted is not None:
            labels = self._shifted
        elif self._shifts:
            labels = shifted(labels, self._places)
        count = num_items_in_batch
        if count is None:  # nobody counted the whole step: as if all its micro-batches were like this one
            count = (labels != UNLABELLED).sum() * trainer.current_gradient_accumulation_steps
        count = torch.as_tensor(count).clamp(min=1)
        if self._fused is None:
            parts = self.distillation.losses(logits, teacher, labels, count)
        else:
            student = self._student()
            with trainer.accelerator.autocast():
                hidden = compared(student, self._states, logits)
                parts = self._fused.losses(hidden, head_of(student), teacher, labels, count)
        self._keep(parts, num_items_in_batch)
        return parts["loss"]

    def _keep(self, parts: Mapping[str, Tensor], counted: Any) -> None:
        """Add to the parts since the last log, as Trainer adds its loss."""
        trainer: Any = self
        scale = 1
        if trainer.args.average_tokens_across_devices and counted is not None:
            scale = trainer.accelerator.num_processes // trainer.get_tp_size()
        if self._parts_of is not trainer.state:  # trained again, after steps that were not logged
            self._parts, self._parts_of = {}, trainer.state
        if not self._parts:
            self._parts_since = trainer.state.global_step
        for name, part in parts.items():
            if name != "loss":
                self._parts[name] = self._parts.get(name, 0) + part * scale

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's log, with the parts of the loss beside the loss."""
        trainer: Any = self
        if "loss" in logs and self._parts:
            steps = max(trainer.state.global_step - self._parts_since, 1)
            for name, total in self._parts.items():
                logs[name] = trainer.accelerator.gather(total).mean().item() / steps
            self._parts = {}
        parent: Any = super()
        parent.log(logs, *args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        parent: Any = super()
        if getattr(self, "compute_loss_func", None) is not None:
            batch_samples = [self._counted(self._with_labels(batch)) for batch in batch_samples]
        return parent._get_num_items_in_batch(batch_samples, device)

    def _counted(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch whose labels are those that count: Trainer does not know of every model that it shifts them."""
        if not self._shifts or "shift_labels" in batch:
            return batch
        labels = batch["labels"].clone()
        labels[..., 0] = UNLABELLED
        if batch.get("position_ids") is not None:
            labels = labels.masked_fill(batch["position_ids"].to(labels.device) == 0, UNLABELLED)
        return {**batch, "labels": labels}

    def _with_labels(self, inputs: Any) -> dict[str, Any]:
        """A batch with labels; where it has none, and none are needed, with some that nobody looks at."""
        if inputs.get("labels") is not None:
            return dict(inputs)
        if self.distillation.ce_weight > 0:
            raise InputError(
                f"the batch has the columns {', '.join(inputs)} and no labels; give them as 'labels', or ce_weight=0 "
                "to learn from the teacher alone"
            )
        first = next(value for value in inputs.values() if isinstance(value, Tensor))
        return {**inputs, "labels": torch.zeros(len(first), dtype=torch.int64, device=first.device)}

    def _note_batch_level(self) -> None:
        trainer: Any = self
        batches, processes = trainer.args.gradient_accumulation_steps, trainer.accelerator.num_processes
        if self.distillation.batch_level and batches * processes > 1 and not self._said:
            self._said = True
            note(
                f"the loss speaks of a batch, and sees one micro-batch at a time: with {processes} process(es) x "
                f"{batches} micro-batch(es) the gradient is not that of the whole batch"
            )

    # --- Evaluation and columns -------------------------------------------------------------------------------------

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own: the student alone."""
        parent: Any = super()
        with self._plain():
            return parent.prediction_step(model, self._own(inputs), *args, **kwargs)

    @contextlib.contextmanager
    def _plain(self) -> Iterator[None]:
        trainer: Any = self
        kept, trainer.compute_loss_func = trainer.compute_loss_func, None
        try:
            yield
        finally:
            trainer.compute_loss_func = kept

    def _set_signature_columns_if_needed(self) -> None:
        parent: Any = super()
        parent._set_signature_columns_if_needed()
        trainer: Any = self
        missing = [name for name in self._teacher_columns if name not in trainer._signature_columns]
        trainer._signature_columns = [*trainer._signature_columns, *missing]

    def _student(self) -> Any:
        """The model without what several processes or PEFT have put around it."""
        trainer: Any = self
        return base_of(trainer.accelerator.unwrap_model(trainer.model))

    def _own(self, inputs: Any) -> dict[str, Any]:
        """A batch without the columns that only the teacher reads."""
        trainer: Any = self
        names, _ = columns_of(self._student())
        others = set(self._teacher_columns) - names - set(LABELS) - set(trainer.label_names)
        return {name: value for name, value in inputs.items() if name not in others}


def _smoothed(label_loss: Named | None, smoothing: float) -> Named | None:
    if not smoothing:
        return label_loss
    if label_loss is not None:
        raise InputError(
            f"label_smoothing_factor is {smoothing} beside a label_loss of its own, and would do nothing; leave one out"
        )
    return {"name": "label_smoothing", "smoothing": smoothing}


def _of_tokens(loss: Named, vocabulary: int | None) -> Named:
    """A loss by name to a teacher of tokens, at temperature 1 where it has one and none is given."""
    if callable(loss):
        return loss
    options = {"name": loss} if isinstance(loss, str) else dict(loss)
    if "temperature" in options_of(find("loss", options["name"], trust=True))[0]:
        options = {"temperature": 1.0, **options}
        if isinstance(options["temperature"], int | float):
            note_if_hot(options["name"], options["temperature"], vocabulary or 0)
    return options


def _shifts(trainer: Any) -> bool:
    """Whether position t of the student's logits speaks of label t + 1, as of a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # pyright: ignore[reportMissingImports]

    name = type(base_of(trainer.model)).__name__
    return getattr(trainer, "_loss_shifts_labels", False) or name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()


def _num_classes(trainer: Any) -> int | None:
    """C, where the model's configuration says it: of a language model the size of its vocabulary."""
    words = getattr(trainer.model, "get_output_embeddings", lambda: None)()
    return getattr(getattr(trainer.model, "config", None), "num_labels" if words is None else "vocab_size", None)


def _with_decoder_inputs(student: Any, inputs: Any, labels: Tensor) -> Any:
    """A batch with what a decoder reads: encoder-decoders make it of the labels, which they are not given here."""
    make = getattr(student, "prepare_decoder_input_ids_from_labels", None)
    if make is None or inputs.get("decoder_input_ids") is not None:
        return inputs
    return {**inputs, "decoder_input_ids": make(labels=labels)}


def _refuse_itself(distillation: Distillation, student: torch.nn.Module) -> None:
    trained = {id(each) for each in student.parameters() if each.requires_grad}
    models = [leaf.model for leaf in leaves(distillation.teacher) if isinstance(leaf, Teacher)]
    if any(id(each) in trained for model in models for each in model.parameters()):
        raise InputError(
            "the teacher has parameters that the student trains, and would change with it; give a model of its own, "
            "such as copy.deepcopy of it before the student is made"
        )
