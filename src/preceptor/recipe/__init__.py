"""The typed recipe: everything that decides a run, as data. Does not import torch.

A recipe is a YAML file; ``key.key=value`` overrides are applied before it is checked. Unknown keys are
refused with the nearest known name. What a component's own options may be is checked where the component is
found (`preceptor.names`), from the signature of the function that its name stands for.
"""

from preceptor.recipe.models import (
    Average,
    DistillRecipe,
    Recipe,
    Split,
    Stream,
    TeacherRef,
    TeachRecipe,
    Training,
)
from preceptor.recipe.optimization import AnyOptimizer, AnySchedule, Optimizer, OwnOptimizer, OwnSchedule, Schedule
from preceptor.recipe.selection import Metric, Sampling
from preceptor.recipe.text import dump, find_recipe, load, override, parse, read_yaml, text_override
from preceptor.schema import (
    Component,
    Named,
    Proxy,
    Strict,
    Temperature,
    Transform,
    VectorScaling,
    parse_transform,
)

__all__ = [
    "AnyOptimizer",
    "AnySchedule",
    "Average",
    "Component",
    "DistillRecipe",
    "Metric",
    "Named",
    "Optimizer",
    "OwnOptimizer",
    "OwnSchedule",
    "Proxy",
    "Recipe",
    "Sampling",
    "Schedule",
    "Split",
    "Stream",
    "Strict",
    "TeachRecipe",
    "TeacherRef",
    "Temperature",
    "Training",
    "Transform",
    "VectorScaling",
    "dump",
    "find_recipe",
    "load",
    "override",
    "parse",
    "parse_transform",
    "read_yaml",
    "text_override",
]
