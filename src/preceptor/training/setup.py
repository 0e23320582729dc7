"""Deprecated: `preceptor.training.samples`, `models` and `criteria`."""

from preceptor._renamed import Finder, renamed

_MOVED = {
    "samples": ("Samples", "cut", "load_data", "stack_of"),
    "models": ("model_name", "new_model"),
    "criteria": ("new_loss", "new_objective"),
}
__getattr__: Finder = renamed(
    __name__, {name: f"preceptor.training.{module}" for module, names in _MOVED.items() for name in names}
)
