"""Knowledge distillation whose teachers are trained, measured and chosen for what their students become.

Teach, assess, distill:

- `preceptor.teach` and `preceptor.distill` train, from a recipe or from keywords and your own objects, and
  `preceptor.distill_together` several students who share a teacher's answers, `preceptor.teach_together` models that
  teach each other;
- `preceptor.posterior` draws models from what a teacher's training has passed, which teach together;
- `preceptor.record` writes a teacher's answers down, for students to learn from without it;
- `preceptor.assess.compare` and `preceptor.assess.choose` say which teacher is worth most, from arrays of logits, and
  `preceptor.assess_teachers` from runs and files by name;
- `preceptor.load` gives a trained model back, `preceptor.export` for other programs, `preceptor.predict` its answers;
- `preceptor.losses`, `preceptor.tasks` and `preceptor.teaching` are for training loops of your own.

Everything is imported when it is first used: ``import preceptor`` costs nothing, ``import preceptor.losses`` torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from preceptor import assess, data, losses, models, outputs, records, runs, tasks, teaching
    from preceptor.errors import InputError
    from preceptor.runs.load import load
    from preceptor.serving import export, predict
    from preceptor.study.teachers import assess_teachers
    from preceptor.training import distill, distill_together, posterior, record, teach, teach_together

__all__ = [
    "InputError",
    "__version__",
    "assess",
    "assess_teachers",
    "data",
    "distill",
    "distill_together",
    "export",
    "load",
    "losses",
    "models",
    "outputs",
    "posterior",
    "predict",
    "record",
    "records",
    "runs",
    "tasks",
    "teach",
    "teach_together",
    "teaching",
]

_WHERE = {
    "InputError": "preceptor.errors",
    "assess_teachers": "preceptor.study.teachers",
    "distill": "preceptor.training",
    "distill_together": "preceptor.training",
    "export": "preceptor.serving",
    "load": "preceptor.runs.load",
    "posterior": "preceptor.training",
    "predict": "preceptor.serving",
    "record": "preceptor.training",
    "teach": "preceptor.training",
    "teach_together": "preceptor.training",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    if name in __all__:
        return importlib.import_module(f"preceptor.{name}")
    raise AttributeError(f"module 'preceptor' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
