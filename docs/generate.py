"""Write the generated pages: recipe.md of the recipe's types, api.md and catalogue.md of what the packages make public.

python docs/generate.py
"""

import ast
import importlib
import inspect
import json
import re
import runpy
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from preceptor import recipe, schema
from preceptor.study import recipe as studies

DOCS = Path(__file__).parent
NOTE = "<!-- Generated: python docs/generate.py -->\n"

RECIPE = """# Every key of a recipe

A recipe is a YAML file, a dict or keywords. `preceptor teach RECIPE --dry-run` prints one with every default spelled
out, and `key.key=value` after it overrides a key. An unknown key is refused with the nearest known name.
"""
# Title of each section, what it says before its table, and the type that it tells.
SECTIONS: list[tuple[str, str, type[BaseModel]]] = [
    ("A teacher: `teach`", "", recipe.TeachRecipe),
    ("A student: `distill`", "The keys of `teach` up to `streams`, and:", recipe.DistillRecipe),
    ("`teacher`", "", recipe.TeacherRef),
    ("`transform`: a temperature", "", schema.Temperature),
    ("`transform`: vector scaling", "", schema.VectorScaling),
    ("`transform`: a proxy", "", schema.Proxy),
    ("`split`", "", recipe.Split),
    ("`sampler`", "", recipe.Sampling),
    ("`optimizer`", "", recipe.Optimizer),
    ("`optimizer`: another", "", recipe.OwnOptimizer),
    ("`schedule`", "", recipe.Schedule),
    ("`schedule`: another", "", recipe.OwnSchedule),
    ("`training`", "", recipe.Training),
    ("`training.select`: another", "", recipe.Metric),
    ("`average`", "", recipe.Average),
    ("A study: `study`, `quickstart`", "", studies.Study),
    ("`teachers` of a study, `starts` of generations", "", studies.TeacherEntry),
    ("`losses` of a study", "", studies.LossEntry),
    ("A chain: `generations`", "", studies.Generations),
]
TYPES = {"integer": "int", "number": "float", "string": "text", "boolean": "bool", "object": "mapping", "null": "null"}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
ANY = 1e9  # a bound beyond which only mistakes lie
COMPONENTS = """
## What is found by name

`data`, `model`, `objective`, `loss`, `label_loss`, `augmentation` and `mixing` are a name (`loss: kd`), or a mapping of
a name and the options of the function that it stands for (`loss: {name: kd, temperature: 2}`): its keyword arguments,
in the [API](api.md). An outsider's name is `package.module:name` ([write your own](extend.md)).
"""

API = """# Python API

Public names, with their docstrings and signatures. Below these the code has no promise to keep.
"""
ROOMS = {
    "preceptor": "Verbs",
    "preceptor.losses": "Losses",
    "preceptor.losses.features": "Losses that look into the models",
    "preceptor.losses.linear": "Fused linear losses",
    "preceptor.losses.tokens": "Tokens",
    "preceptor.teaching": "Objectives",
    "preceptor.outputs": "Outputs",
    "preceptor.assess": "Assess",
    "preceptor.tasks": "Tasks",
    "preceptor.records": "Records",
    "preceptor.data": "Data",
    "preceptor.data.augment": "Augmentation",
    "preceptor.data.mixing": "Mixing",
    "preceptor.models": "Models",
    "preceptor.integrations": "Trainers of others",
    "preceptor.integrations.transformers": "transformers",
    "preceptor.integrations.lightning": "Lightning",
    "preceptor.integrations.timm": "timm",
}


def recipe_page() -> str:
    """Every key of every recipe: type, default, meaning."""
    parts = [NOTE, RECIPE, COMPONENTS]
    for title, before, kind in SECTIONS:
        known = recipe.Recipe.model_fields if kind is recipe.DistillRecipe else {}
        rows = [row for name, row in _rows(kind).items() if name not in known and name != "verb"]
        head = ["| key | type | default | meaning |", "|---|---|---|---|"]
        doc = " ".join(inspect.cleandoc(kind.__doc__ or "").replace("``", "`").split())
        parts.append("\n".join([f"\n## {title}\n", f"{doc} {before}".strip() + "\n", *head, *rows, ""]))
    return "".join(parts)


def _rows(kind: type[BaseModel]) -> dict[str, str]:
    described = kind.model_json_schema(mode="validation")
    rows = {}
    for name, field in described["properties"].items():
        info = kind.model_fields[name]
        given = info.get_default(call_default_factory=True)
        default = "required" if info.is_required() else f"`{_written(given)}`"
        cells = [f"`{name}`", _type(field), default, " ".join((info.description or "").replace("``", "`").split())]
        rows[name] = f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    return rows


def _anchor(title: str) -> str:
    """What a heading is linked by, here and on GitHub."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _written(value: Any) -> str:
    """A default as it would stand in YAML."""
    if isinstance(value, recipe.Component) and not value.options:
        return value.name
    if isinstance(value, BaseModel):
        return "{}"
    return str(value) if isinstance(value, str) else json.dumps(value)


def _type(field: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in field or "oneOf" in field:
        return " or ".join(_type(one) for one in field.get("anyOf") or field["oneOf"])
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        if name == "Component":
            return "[name](#what-is-found-by-name)"
        (title,) = (title for title, _, kind in SECTIONS if kind.__name__ == name)
        return f"[mapping](#{_anchor(title)})"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])} numbers"
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}"
    if isinstance(field.get("additionalProperties"), dict):
        return f"mapping of names to {_type(field['additionalProperties'])}"
    limits = [f"{sign} {field[key]:g}" for key, sign in BOUNDS.items() if abs(field.get(key, ANY)) < ANY]
    return " ".join([TYPES[field.get("type", "object")], ", ".join(limits)]).strip()


def api_page() -> str:
    """Every public name by its room, for mkdocstrings to fill in."""
    parts, told = [NOTE, API], set[str]()
    for package, title in ROOMS.items():
        module = importlib.import_module(package)
        parts.append(f"\n## {title}: `{package}`\n\n{inspect.cleandoc(module.__doc__ or '')}\n")
        for name, source in _public(module).items():
            if f"{source}.{name}" not in told:  # some names are public in two rooms
                parts.append(_entry(name, package, source))
            told.add(f"{source}.{name}")
    return "".join(parts)


def _entry(name: str, package: str, source: str) -> str:
    # Found by the module that defines it, as `preceptor.losses.kd` is a function to Python and a file to a reader of
    # sources; the heading says where to import it from.
    return f'\n::: {source}.{name}\n    options: {{heading: "{package}.{name}", toc_label: "{name}"}}\n'


def _public(module: Any) -> dict[str, str]:
    """The public names of a package or module, and the modules that define them."""
    tree = ast.parse(Path(inspect.getfile(module)).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    sources = {alias.name: str(node.module) for node in imports for alias in node.names}
    names = getattr(module, "__all__", [name for name in sources if hasattr(module, name)])
    own = [name for name in names if getattr(vars(module).get(name), "__module__", "") == module.__name__]
    sources |= dict.fromkeys(own, module.__name__)
    return {name: sources[name] for name in names if name in sources and not inspect.ismodule(getattr(module, name))}


catalogue_page = runpy.run_path(str(DOCS / "catalogue.py"))["catalogue_page"]
PAGES = {"catalogue.md": catalogue_page, "recipe.md": recipe_page, "api.md": api_page}

if __name__ == "__main__":
    for page, content in PAGES.items():
        (DOCS / page).write_text(content(), encoding="utf-8")
