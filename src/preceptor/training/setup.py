"""Deprecated: `preceptor.training.data.samples`, `preceptor.training.objects.models` and `.criteria`."""

from preceptor._renamed import Finder, renamed

_MOVED = {
    "data.samples": ("Samples", "cut", "load_data", "stack_of"),
    "objects.models": ("model_name", "new_model"),
    "objects.criteria": ("new_loss", "new_objective"),
}
__getattr__: Finder = renamed(
    __name__, {name: f"preceptor.training.{module}" for module, names in _MOVED.items() for name in names}
)
