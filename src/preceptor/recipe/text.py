"""Recipes as text: YAML that holds no code, ``key.key=value`` overrides, and one sentence for the first thing wrong."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from preceptor.errors import InputError, did_you_mean
from preceptor.recipe.nearest import fields_at, nearest
from preceptor.recipe.published import with_own_weights
from preceptor.schema import by_name

R = TypeVar("R", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.2, in which ``on`` and ``no`` are text, ``1e-3`` is a number, and no key stands twice in a mapping."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The keys as they are written: when a mapping is made of them, merged ones (``<<``) are among them."""
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1} has the key '{key.value}' again; keep one")
                seen.add((key.tag, key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what the loader would not read as text."""


_SCALARS = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9]\d*)", "-+0123456789"),
    "float": (
        r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag.rpartition(":")[2] in ("null", "merge")]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, (_form, _first) in _SCALARS.items():
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_form})$"), list(_first))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the recipe '{path}': {error.strerror}; give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise InputError(f"the recipe '{path}' is not text; give the path of a YAML file") from None
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"the recipe '{path}' is not valid YAML: {_detail(error)}") from None
    if not isinstance(value, dict):
        raise InputError(f"the recipe '{path}' holds a {type(value).__name__}, not a mapping of keys to values")
    return value


def _detail(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def find_recipe(name: str) -> Path:
    """A file, or a recipe that ships with Preceptor.

    Raises:
        InputError: there is neither.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    hint = did_you_mean(name, shipped)
    raise InputError(f"there is no recipe '{name}': no such file, and none of that name ships with Preceptor; {hint}")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that ship with Preceptor, by name."""
    return {file.stem: file for file in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))}


def text_override(key: str, text: str | Path) -> str:
    """The ``key=value`` of a value that is text whatever it looks like, such as a path.

    >>> text_override("data.data_dir", "0711")
    'data.data_dir="0711"'
    """
    quoted = yaml.safe_dump(str(text), default_style='"', width=math.inf)
    return f"{key}={quoted.rstrip()}"


def override(raw: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """`raw` with ``key.key=value`` assignments applied; values are YAML.

    >>> override({"optimizer": {"lr": 0.1}, "loss": "kd"}, ["optimizer.lr=1e-3", "loss.temperature=2"])
    {'optimizer': {'lr': 0.001}, 'loss': {'name': 'kd', 'temperature': 2}}
    """
    result = dict(raw)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise InputError(
                f"cannot read the override '{assignment}'; write it as key.key=value, e.g. optimizer.lr=0.1"
            )
        *parents, last = path.split(".")
        node = result
        for depth, parent in enumerate(parents, 1):
            child = node.get(parent)
            if child is not None and not isinstance(child, str | Mapping):
                whole = _changed(child, [*parents[depth:], last], text)
                raise InputError(
                    f"cannot apply the override '{assignment}': '{parent}' is {child!r}, which has no keys; give it as "
                    f"a whole, e.g. {_as_override('.'.join(parents[:depth]), whole)}"
                )
            node[parent] = {"name": child} if isinstance(child, str) else dict(child or {})
            node = node[parent]
        try:
            node[last] = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise InputError(
                f"the value in the override '{assignment}' is not valid YAML; correct or quote it: {_detail(error)}"
            ) from None
    return result


def _changed(value: Any, keys: Sequence[str], text: str) -> Any:
    """A list with what an override into one of its entries means, ``1.weight`` or ``parts.1.weight``; else as it is."""
    number, *rest = (keys[1:] if keys[0] == "parts" else keys) or [""]
    if not isinstance(value, list) or not number.isdigit() or int(number) >= len(value) or len(rest) != 1:
        return value
    entry = by_name(value[int(number)])
    changed = {**entry, rest[0]: yaml.load(text, _Loader)} if isinstance(entry, Mapping) else entry
    return [changed if place == int(number) else each for place, each in enumerate(value)]


def _as_override(key: str, value: Any) -> str:
    """What would set the key to this value, in the quotes that a shell needs."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=math.inf, sort_keys=False)
    return f"""{key}='{text.removesuffix(chr(10)).removesuffix(chr(10) + "...").strip()}'"""


def parse(kind: type[R], raw: Mapping[str, Any]) -> R:
    """`raw` checked against a recipe type; the first problem becomes one sentence."""
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as error:
        raise InputError(_sentence(kind, error)) from None


def load(kind: type[R], path: Path | str, overrides: Iterable[str] = ()) -> R:
    """A recipe of type `kind` from a YAML file, with overrides applied.

    Weights that the file has for its own loss are not another's that an override names (`with_own_weights`).

    Raises:
        InputError: the file cannot be read, or a key or value in it is unknown.
    """
    before, assignments = read_yaml(path), list(overrides)
    said = {assignment.partition("=")[0].partition(".")[0] for assignment in assignments}
    return parse(kind, with_own_weights(override(before, assignments), before, said))


def dump(recipe: BaseModel) -> str:
    """The resolved recipe as YAML, every default spelled out."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    # Unknown keys first: they are the likeliest cause of whatever else is wrong.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    where = _keys(first)
    key, context = ".".join(where), first.get("ctx", {})
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}' in the recipe; {nearest(kind, where[:-1], where[-1])}"
    if first["type"] == "missing":
        return f"the recipe lacks the key '{key}'; add it, or give {key}=..."
    if first["type"] == "value_error":
        named = str(context["error"])
        return f"'{key}': {named}; give one" if named.endswith("is no number") else named
    if first["type"] == "literal_error":
        known = re.findall(r"'([^']+)'", context["expected"])
        return f"'{key}' is '{first['input']}'; {did_you_mean(str(first['input']), known)}"
    if first["type"] == "model_type":
        keys = ", ".join(fields_at(kind, where))
        return f"'{key}' is {first['input']!r}; give a mapping with some of the keys {keys}"
    literals = [each for each in error.errors() if each["type"] == "literal_error" and _keys(each) == where]
    others = [each.get("ctx", {})["expected"] for each in literals]
    wanted = ", or ".join([f"{first['msg'][0].lower()}{first['msg'][1:]}", *others])
    return f"'{key}' is {first['input']!r}: {wanted}"


def _keys(error: Any) -> list[str]:
    """The keys that lead to what is wrong, without what pydantic calls its ways of reading it."""
    ways = ("function-", "constrained-", "literal[", "way-")
    found = [str(part) for part in error["loc"] if not str(part).startswith(ways)]
    return found[:-1] if found[-1:] in (["bool"], ["int"]) else found
