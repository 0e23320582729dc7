"""A task maps a batch to ``{"loss": ..., named parts...}``; the loop does not know what a teacher is.

Criteria give one value per example (or token); reduction happens here, once: the sum over unmasked examples divided by
`count`, the number of unmasked examples in the whole optimizer step. So micro-batches and processes add up to exactly
what one batch would give. For a stack each model has its own count, and the models' losses are summed.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from preceptor.data.mixing import OWN_SHARE, PARTNER, PARTNER_LABEL
from preceptor.errors import InputError
from preceptor.inputs import Inputs, call
from preceptor.losses.targets import Targets, takes_targets
from preceptor.outputs import logits_of
from preceptor.tasks.building import Plan, Recalled, build, student_taps, teacher_taps, usual_weights
from preceptor.tasks.criterion import Criterion, of_loss, of_objective, own_parameters
from preceptor.tasks.mutual import Company
from preceptor.tasks.reduction import check_match, mixed, reduce
from preceptor.tasks.stack import Stack
from preceptor.tasks.taps import check_features
from preceptor.tasks.teacher import Answer, TeacherFn, TeacherLike, as_teacher, of_all_classes
from preceptor.tasks.tokens import features_of_tokens, has_tokens, of_tokens, taught_of_tokens, tokens_alone
from preceptor.tasks.views import apart, length, viewing_of, with_views
from preceptor.teaching import cross_entropy

Output = dict[str, Tensor]
ANSWERED_FEATURES = "features of the teacher"
"""Beside it, where a student's loss looks into the teacher: what its taps caught, by name."""
SHOWN = "inputs shown"
Loss = Callable[..., Tensor] | Criterion

ANSWER = "answer of the teacher"
"""What a batch may bring where its teacher was asked before, for several students: logits as the teacher gives them."""


class Task:
    """A model and the criteria that it minimises: what is common to teachers and students.

    Args:
        model: maps inputs to logits (B, C), or (M, B, C) for a `Stack`.
        criteria: those with methods of their own are bound to the model and called by the loop.
        teacher: whom the criteria look into, beside the model.
        plan: what criteria with parts of their own are built by.

    Attributes:
        model: the loop wraps it for several processes; `bare` stays as it is.
        lead: how many leading axes of the logits are models: 0, or 1 for a stack.
        state: the criterion that has parameters or state, or all of them; None if there is none.
        room: what the criteria's parameters are called by.
    """

    room: ClassVar[str] = "objective"

    def __init__(
        self,
        model: nn.Module,
        criteria: Sequence[Criterion],
        teacher: TeacherFn | None = None,
        *,
        plan: Plan | None = None,
    ) -> None:
        plan = plan or Plan()
        self.model: nn.Module = model
        self.bare: nn.Module = model
        self.criteria: list[Criterion] = list(criteria)
        self.lead: int = int(isinstance(model, Stack))
        structure, stack = (model.template, (model.size,)) if isinstance(model, Stack) else (model, ())
        for each in self.criteria:
            each.call("bind", model=structure, num_samples=plan.num_samples, num_classes=plan.num_classes, stack=stack)
        build(self.criteria, model, teacher, plan)
        modules = [each.module for each in self.criteria if each.module is not None]
        self.state: nn.Module | None = nn.ModuleList(modules) if len(modules) > 1 else next(iter(modules), None)
        taps = list(dict.fromkeys(name for each in self.criteria for name in each.taps("student")))
        self.whose: str = "model" if teacher is None else "student"
        self._taps = student_taps(model, structure, taps, self.whose, plan)
        self._viewing = viewing_of(self.criteria)

    @property
    def observes(self) -> bool:
        """Whether a criterion wants to see a step's outputs."""
        return any(each.has("observe") for each in self.criteria)

    @property
    def batch_level(self) -> bool:
        """Whether a criterion is a statement about a batch."""
        return any(each.batch_level for each in self.criteria)

    @property
    def waits(self) -> bool:
        """Whether a criterion trains parts of its own for now, and the model may have gradients of 0."""
        return any(each.alone for each in self.criteria)

    @property
    def ends_steps(self) -> bool:
        """Whether a criterion wants to know when a step is over."""
        return any(each.has("end_step") for each in self.criteria)

    @property
    def parts(self) -> dict[str, nn.Parameter]:
        """The criteria's own parameters: ``loss.NAME``, where several have some ``loss.FitNet.NAME``; an objective's
        are ``objective.NAME``.
        """
        return own_parameters(self.criteria, self.room)

    def __call__(self, batch: Mapping[str, Any], count: Tensor | None = None) -> Output:
        """The loss of a micro-batch, a scalar to differentiate, with its parts.

        Args:
            batch: ``input`` (a tensor, or keyword arguments of the model by name), ``label`` (int64), and where there
                are any ``mask`` (bool, False on padding) and
                ``index`` (int64, the samples' places in their data set).
            count: examples of the whole optimizer step, one number for each model of a stack; by default those of
                this batch, for a loop that makes a step of each.

        Returns:
            ``loss``, ``logits``, and without gradient each part of the loss: a scalar, or one value per model.
        """
        batch = self._whole(batch)
        if count is None:
            mask: Tensor = batch["mask"]
            count = mask.flatten(self.lead).sum(-1).clamp(min=1)
        inputs = batch["input"] if self._viewing is None else with_views(self._viewing, batch["input"])
        with self._taps as features:
            logits = logits_of(call(self.model, inputs))
        seen: dict[str, Any] = {"student_features": features}
        if features and not self.lead:
            check_features(features, length(inputs), self.whose, gradient=logits.requires_grad)
        if self._viewing is not None:
            seen = apart("student", logits, features, len(batch["mask"]))
            logits = seen.pop("logits")
        return self._losses(batch, logits, {**seen, SHOWN: inputs}, count) | {"logits": logits}

    def _losses(self, batch: Mapping[str, Any], logits: Tensor, seen: Mapping[str, Any], count: Tensor) -> Output:
        raise NotImplementedError

    def _examples(
        self, batch: Mapping[str, Any], logits: Tensor, seen: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], Tensor, Mapping[str, Any]]:
        """The batch, its logits and what was seen of the model, of rows of tokens the positions that count alone."""
        if not has_tokens(batch, self.lead):
            return batch, logits, seen
        mask = batch["mask"]
        features = features_of_tokens(seen.get("student_features", {}), mask, self.whose)
        logits = of_tokens(logits, mask, f"the {self.whose}")
        return tokens_alone(batch), logits, {**seen, "student_features": features}

    def _whole(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch of somebody else's loop with a mask of all True, where it has none."""
        for each in self.criteria:
            if "index" in each.needs and "index" not in batch:
                raise InputError(
                    f"'{each.name}' needs to know each sample again, and the batch has no 'index'; add the samples' "
                    "places in their data set, int64"
                )
        if "mask" in batch:
            return batch
        return {**batch, "mask": torch.ones_like(batch["label"], dtype=torch.bool)}

    def penalty(self) -> Tensor | None:
        """The criteria's penalty on the weights, once per optimizer step: a scalar, or one value per model."""
        found = [self._penalty_of(each) for each in self.criteria if each.has("penalty")]
        return torch.stack(found).sum(0) if len(found) > 1 else next(iter(found), None)

    def _penalty_of(self, criterion: Criterion) -> Tensor:
        if isinstance(self.bare, Stack):
            return torch.vmap(lambda tensors: criterion.call("penalty", tensors))(self.bare.tensors())
        return criterion.call("penalty", dict(self.bare.named_parameters()) | dict(self.bare.named_buffers()))

    def observe(self, logits: Tensor, index: Tensor, mask: Tensor) -> None:
        """Hand a whole optimizer step's outputs, gathered over processes, to criteria that remember them."""
        for each in self.criteria:
            each.call("observe", logits, index, mask)

    def end_step(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Tell criteria with a memory of their own that a step is over, on every process.

        Args:
            gather: from a tensor (n, ...) to those of all processes, one after the other.
        """
        for each in self.criteria:
            each.call("end_step", gather)

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Tell criteria with a schedule where training stands: before each epoch, counted from 0, and where a run
        resumes within one.
        """
        for each in self.criteria:
            each.call("start_epoch", epoch, epochs)


class TeachTask(Task):
    """Train a model under an objective on hard labels.

    Args:
        model: maps inputs to logits (B, C), or (M, B, C) for a `Stack`.
        objective: ``objective(logits, labels, *, mask)``, a module with more to it, or a `Criterion`.
        num_samples: size of the data set that ``index`` points into, for criteria with a memory.
        num_classes: C, for the same.
        example: a batch of two samples or so, for criteria that look into the model with parts of its shapes.
        plan: all of these together, and more.

    >>> task = TeachTask(nn.Linear(2, 3), cross_entropy)
    >>> batch = {"input": torch.zeros(4, 2), "label": torch.tensor([0, 1, 2, 0])}
    >>> task(batch)["loss"].backward()
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Callable[..., Tensor] | Criterion,
        *,
        num_samples: int = 0,
        num_classes: int = 0,
        example: Mapping[str, Any] | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.objective: Criterion = objective if isinstance(objective, Criterion) else of_objective(objective)
        super().__init__(model, [self.objective], plan=plan or Plan(example, num_samples, num_classes))
        self.company: Company | None = None  # models that are trained beside this one, and tell it something

    def _losses(self, batch: Mapping[str, Any], logits: Tensor, seen: Mapping[str, Any], count: Tensor) -> Output:
        batch, logits, seen = self._examples(batch, logits, seen)
        # Masked labels may be anything; the objective must not trip over them.
        labels = batch["label"].masked_fill(~batch["mask"], 0)
        given = {**batch, **seen, "logits": logits, "labels": labels}
        values = self.objective(given)
        if OWN_SHARE in batch:
            values = mixed(values, self.objective({**given, "labels": batch[PARTNER_LABEL]}), batch[OWN_SHARE])
        share = reduce(values, batch["mask"], count, self.lead)
        output = {"loss": share.sum(), "objective": share.detach()}
        return output if self.company is None else self.company.joined(output, batch, logits, count)


class DistillTask(Task):
    """Train a student: ``ce_weight`` times a loss to the labels + ``distill_weight`` times one to the teacher, per
    example.

    Args:
        student: maps inputs to logits (B, C), or (M, B, C) for a `Stack`.
        teacher: a module, a function from the batch to logits or log-probabilities of the student's shape, or a list.
        loss: ``loss(student_logits, teacher_logits, *, mask)``, a module with more to it, or a `Criterion`; or a list
            of ``(loss, weight)``, which are summed. For a stack a list of ``(models, loss)`` where `models` are
            indices of the models that it trains.
        ce_weight, distill_weight: a number, or (M,) for a stack; by default 0.1 and 0.9, of a sum 1 and 1, of a loss
            that looks into the models as it was published.
        labelled: bool (N,) by sample index, or (M, N): where False the label is never looked at. None: all are
            labelled.
        label_loss: an objective as of `TeachTask`. It sees labelled examples only, and of a mixed one both labels; its
            part of the result is called ``ce``, and ``label`` where it is another than the cross-entropy.
        num_samples, num_classes, example, plan: as of `TeachTask`.

    >>> from functools import partial
    >>> from preceptor.losses import wttm
    >>> task = DistillTask(nn.Linear(2, 3), nn.Linear(2, 3), partial(wttm, temperature=4.0), distill_weight=3.0)
    >>> batch = {"input": torch.zeros(4, 2), "label": torch.tensor([0, 1, 2, 0])}
    >>> sorted(task(batch))
    ['ce', 'distill', 'logits', 'loss']
    """

    room: ClassVar[str] = "loss"

    ce_weight: float | Tensor
    distill_weight: float | Tensor
    labelled: Tensor | None

    def __init__(
        self,
        student: nn.Module,
        teacher: TeacherLike,
        loss: Loss | Sequence[tuple[Loss, float]] | Sequence[tuple[list[int], Criterion]],
        *,
        ce_weight: float | Tensor | None = None,
        distill_weight: float | Tensor | None = None,
        labelled: Tensor | None = None,
        label_loss: Callable[..., Tensor] | Criterion = cross_entropy,
        num_samples: int = 0,
        num_classes: int = 0,
        example: Mapping[str, Any] | None = None,
        plan: Plan | None = None,
    ) -> None:
        self.label_loss: Criterion = _criterion(label_loss, of_objective)
        self.groups: list[tuple[list[int], Criterion]] | None = None
        self.losses: list[tuple[Criterion, float]] = []
        several: Any = loss if isinstance(loss, Sequence) else [(loss, 1.0)]
        if isinstance(several[0][0], list):
            self.groups = list(several)
        else:
            self.losses = [(_criterion(each, of_loss), weight) for each, weight in several]
        criteria = [each for each, _ in self.losses] or [each for _, each in self.groups or []]
        self.teacher: TeacherFn = as_teacher(teacher)
        plan = plan or Plan(example, num_samples, num_classes)
        super().__init__(student, [*criteria, self.label_loss], self.teacher, plan=plan)
        usual = usual_weights(self.losses)
        self.ce_weight = usual["ce_weight"] if ce_weight is None else ce_weight
        self.distill_weight = usual["distill_weight"] if distill_weight is None else distill_weight
        self.labelled = labelled
        self._teacher_taps = teacher_taps(self.teacher, self.criteria, plan)

    @property
    def looks_at_teacher(self) -> bool:
        """Whether a loss needs more of the teacher than its answers to the batch."""
        return self._viewing is not None or any(each.taps("teacher") for each in self.criteria)

    @property
    def turned(self) -> Collection[str]:
        """The teacher's taps at which its maps have their channels last."""
        return () if isinstance(self._teacher_taps, Recalled) else self._teacher_taps.turned

    def _losses(self, batch: Mapping[str, Any], logits: Tensor, seen: Mapping[str, Any], count: Tensor) -> Output:
        taught = self._asked(batch, seen[SHOWN])
        if has_tokens(batch, self.lead):
            taught = taught_of_tokens(taught, batch["mask"])
        batch, logits, seen = self._examples(batch, logits, seen)
        mask, teacher = batch["mask"], taught["teacher_logits"]
        known = mask if self.labelled is None else mask & self._labelled(batch["index"])
        labels = batch["label"].masked_fill(~known, 0)
        check_match(logits, teacher)
        self._check_targets(teacher)
        given = {**batch, **seen, **taught, "logits": logits, "labels": labels}
        hard = reduce(self._hard(given, known), mask, count, self.lead)
        soft, parts = self._soft(given, known, count)
        loss = self.distill_weight * soft + (0 if self.waits else self.ce_weight) * hard
        return {"loss": loss.sum(), self._label_part: hard.detach(), "distill": soft.detach(), **parts}

    def _asked(self, batch: Mapping[str, Any], shown: Inputs) -> dict[str, Any]:
        """What the teacher says to the inputs shown to the student, and its features where a loss asks for them."""
        if ANSWER in batch:
            return {"teacher_logits": batch[ANSWER], "teacher_features": batch.get(ANSWERED_FEATURES, {})}
        with torch.no_grad():
            if isinstance(self._teacher_taps, Recalled):
                return {"teacher_logits": self.teacher(batch), "teacher_features": self._teacher_taps.of(batch)}
            with self._teacher_taps as features:
                said = self.teacher(batch if self._viewing is None else {**batch, "input": shown})
        if features:
            check_features(features, length(shown), "teacher")
        if self._viewing is None:
            return {"teacher_logits": said, "teacher_features": features}
        seen = apart("teacher", of_all_classes(said, "a loss of views"), features, len(batch["mask"]))
        return {"teacher_logits": seen.pop("logits"), **seen}

    @property
    def _label_part(self) -> str:
        return "ce" if self.label_loss.name == cross_entropy.__name__ else "label"

    def _check_targets(self, teacher: Answer) -> None:
        """Refuse a record of some classes to whoever needs all."""
        if isinstance(teacher, Targets):
            asking = [each for each in self.criteria if "teacher_logits" in each.needs]
            strangers = [each.name for each in asking if not takes_targets(each.function)]
            if strangers or self.groups is not None:
                who = f"the loss '{strangers[0]}'" if strangers else "a stack of students"
                of_all_classes(teacher, who)

    def _hard(self, given: Mapping[str, Any], known: Tensor) -> Tensor:
        """The loss to the labels of each example; of a mixed one to both, as far as they are known."""
        values = self.label_loss({**given, "mask": known})
        if OWN_SHARE not in given:
            return values
        also = given["mask"] if self.labelled is None else given["mask"] & self._labelled(given[PARTNER])
        others = self.label_loss({**given, "labels": given[PARTNER_LABEL].masked_fill(~also, 0), "mask": also})
        return mixed(values, others, given[OWN_SHARE])

    def _labelled(self, index: Tensor) -> Tensor:
        assert self.labelled is not None
        self.labelled = self.labelled.to(index.device)
        return self.labelled[index] if self.labelled.ndim == 1 else self.labelled.gather(-1, index)

    def _soft(self, given: Mapping[str, Any], known: Tensor, count: Tensor) -> tuple[Tensor, Output]:
        """The loss's share of the step's mean, a scalar or one value per model; and its parts, if it has several."""
        if self.groups is None:
            acting = [pair for pair in self.losses if pair[0].alone] or self.losses
            shares = [(each.name, weight, _share(each, given, known, count)) for each, weight in acting]
            first, *others = [weight * share for _, weight, share in shares]
            parts = {f"distill_{name}": share.detach() for name, _, share in shares}
            return sum(others, first), parts if len(self.losses) > 1 else {}
        # vmap gives every loss one model at a time, a batch-level one too.
        parts = []
        for models, criterion in self.groups:
            tensors = {name: given[name][models] for name in (*criterion.needs, "mask")}
            one = lambda given, known, count, criterion=criterion: _share(criterion, given, known, count)  # noqa: E731
            parts.append(torch.vmap(one)(tensors, known[models], count[models]))
        order = torch.tensor([model for models, _ in self.groups for model in models], device=count.device)
        return torch.cat(parts)[order.argsort()], {}


def _share(criterion: Criterion, given: Mapping[str, Any], known: Tensor, count: Tensor) -> Tensor:
    """A loss of one model on a micro-batch, as its share in the step's mean; one that needs labels sees labelled
    samples only.
    """
    seen = known if "labels" in criterion.needs else given["mask"]
    return reduce(criterion({**given, "mask": seen}), seen, count, 0)


def _criterion(given: Loss, read: Callable[[Callable[..., Tensor]], Criterion]) -> Criterion:
    return given if isinstance(given, Criterion) else read(given)
