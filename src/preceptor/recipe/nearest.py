"""What is meant by a key that there is not: the nearest one, also in another group or by another library's name."""

import difflib
from collections.abc import Iterator, Sequence

from pydantic import BaseModel

from preceptor.errors import did_you_mean
from preceptor.schema import Component

# What other libraries and papers call our keys: PyTorch Lightning, transformers, timm, scikit-learn, YOLO, fastai.
_OTHERS = {
    "optimizer.lr": "learning_rate base_lr init_lr lr0 max_lr peak_lr",
    "optimizer.weight_decay": "wd l2",
    "optimizer.betas": "adam_betas opt_betas",
    "optimizer.name": "optim opt optimizer_name",
    "schedule.name": "scheduler lr_scheduler lr_scheduler_type lr_schedule sched schedule_name",
    "schedule.warmup_epochs": "warmup num_warmup_epochs warmup_epoch",
    "schedule.final": "min_lr lrf final_lr",
    "schedule.factor": "lr_decay decay_rate",
    "training.epochs": "max_epochs num_epochs num_train_epochs n_epochs nb_epochs total_epochs epoch",
    "training.batch_size": "bs bsz batch train_batch_size per_device_train_batch_size",
    "training.accumulate": "accumulate_grad_batches gradient_accumulation_steps grad_accum_steps grad_accum",
    "training.clip_norm": "gradient_clip_val max_grad_norm clip_grad clip_grad_norm grad_clip gradient_clipping",
    "training.precision": "amp fp16 bf16 mixed_precision dtype",
    "training.compile": "torch_compile torchcompile",
    "training.num_workers": "workers n_workers dataloader_num_workers",
    "training.device": "accelerator gpu cuda",
    "training.select": "monitor metric_for_best_model",
    "training.checkpoint_every": "save_steps save_every checkpoint_interval",
    "training.checkpoint_epochs": "save_epochs save_period",
    "training.trackers": "logger report_to log_with",
    "split.heldout": "val_size validation_split val_split validation valid val",
    "split.test": "test_size",
    "split.train": "train_size",
    "average.decay": "ema_decay model_ema_decay",
    "average.kind": "ema swa model_ema",
    "augmentation": "augment augmentations transforms aug",
    "mixing": "mixup cutmix",
    "model": "arch net network architecture backbone student model_name",
    "data": "dataset",
    "data.data_dir": "data_dir data_path data_root root",
    "seed": "random_state random_seed manual_seed",
    "loss": "criterion loss_fn loss_function distillation_loss kd_loss",
    "objective": "criterion loss_fn loss_function loss",
    "loss.temperature": "temperature temp tau t kd_temperature distillation_temperature",
    "teacher": "teacher_model teacher_path teacher_name",
    "ce_weight": "label_weight hard_weight hard_loss_weight",
    "distill_weight": "kd_weight distillation_weight soft_weight lambda_kd",
}


def nearest(kind: type[BaseModel], path: Sequence[str], name: str) -> str:
    """A tail for an error sentence: which key of a recipe is meant by `name` below the keys `path`.

    >>> from preceptor.recipe import DistillRecipe
    >>> nearest(DistillRecipe, [], "lr"), nearest(DistillRecipe, ["optimizer"], "gradient_clip_val")
    ("did you mean 'optimizer.lr'?", "did you mean 'training.clip_norm'?")
    >>> nearest(DistillRecipe, ["optimizer"], "momentun")
    "did you mean 'momentum'?"
    """
    found = meant(kind, path, name)
    near = difflib.get_close_matches(name, fields_at(kind, path), n=1)
    if found is None or found == ".".join([*path, *near]):
        return did_you_mean(name, fields_at(kind, path))
    return f"did you mean '{found}'?"


def meant(kind: type[BaseModel], path: Sequence[str], name: str) -> str | None:
    """The whole key, from the top, that `name` stands for in another group, or by another name; or the nearest one
    where there is none near among its neighbours. None where a neighbour is.
    """
    said = name.lower().replace("-", "_")
    for depth in range(len(path), -1, -1):
        if exact := _exactly(_model_at(kind, path[:depth]), said):
            return ".".join([*path[:depth], exact])
    if difflib.get_close_matches(name, fields_at(kind, path), n=1):
        return None
    for depth in range(len(path), -1, -1):
        known = _known(_model_at(kind, path[:depth]))
        near = difflib.get_close_matches(said, known, n=1, cutoff=0.8)
        if near:
            return ".".join([*path[:depth], known[near[0]]])
    return None


def fields_at(kind: type[BaseModel], path: Sequence[str]) -> list[str]:
    """The field names of the nested model that `path` leads to."""
    return list(_model_at(kind, path).model_fields)


def _model_at(kind: type[BaseModel], path: Sequence[str]) -> type[BaseModel]:
    for part in path:
        field = kind.model_fields.get(part)
        nested = _models_in(field.annotation) if field else []
        if nested:
            kind = nested[0]
    return kind


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in getattr(annotation, "__args__", ()) for m in _models_in(argument)]


def _exactly(kind: type[BaseModel], name: str) -> str | None:
    return _known(kind).get(name)


def _known(kind: type[BaseModel]) -> dict[str, str]:
    """By its last part or another library's name, each key of a recipe that it can only be."""
    leaves = list(_leaves(kind))
    last = [key.rpartition(".")[2] for key in leaves]
    own = {name: key for name, key in zip(last, leaves, strict=True) if last.count(name) == 1}
    there = [key for key in _OTHERS if _takes(kind, key)]
    return {other: key for key in there for other in _OTHERS[key].split() if other not in kind.model_fields} | own


def _leaves(kind: type[BaseModel]) -> Iterator[str]:
    """The keys below the groups of a recipe."""
    for name, field in kind.model_fields.items():
        models = [model for model in _models_in(field.annotation) if not issubclass(model, Component)]
        if len(models) == 1 and "tuple" not in str(field.annotation):
            yield from (f"{name}.{inner}" for inner in models[0].model_fields)


def _takes(kind: type[BaseModel], key: str) -> bool:
    """Whether a recipe has a key; below what is found by name there may be any."""
    first, _, rest = key.partition(".")
    field = kind.model_fields.get(first)
    if field is None or not rest:
        return field is not None
    models = _models_in(field.annotation)
    return Component in models or any(rest in model.model_fields for model in models)
