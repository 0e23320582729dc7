"""The house: imports go down, never up and never in a circle, and no file is too long to read."""

import ast
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

import preceptor

SRC = Path(preceptor.__file__).parent
# A room imports the floors below its own; rooms of one floor do not know each other. docs/architecture.md tells why.
FLOORS = [
    ["__main__"],
    ["cli"],
    ["integrations", "serving", "study"],
    ["training"],
    ["records"],
    ["runs"],
    ["tasks"],
    ["assess", "teaching"],
    ["names"],
    ["outputs"],
    ["data", "models", "tensors"],
    ["recipe"],
    ["losses", "schema", "inputs", "hub"],
    ["pixels"],
    ["errors", "interrupts", "notices", "_renamed"],
]
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The same inside training, whose own files stand above all of its rooms.
TRAINING = [["loop", "teachers"], ["scoring"], ["optim"], ["engine", "objects"], ["checks"], ["data"]]
TRAINING_FLOOR_OF = {f"training.{room}": number for number, rooms in enumerate(TRAINING) for room in rooms}

# A module's imports: (module, whether Python follows it while the module is loaded).
Imports = dict[str, set[tuple[str, bool]]]


def imports_of(src: Path) -> Imports:
    """Of every module of the package in the folder `src`, the modules of the package that it imports."""
    paths = {module_name(path, src): path for path in src.rglob("*.py")}
    return {name: set(_imported(ast.parse(path.read_text()), True, set(paths))) for name, path in paths.items()}


def module_name(path: Path, src: Path) -> str:
    return ".".join((src.name, *path.relative_to(src).with_suffix("").parts)).removesuffix(".__init__")


def _imported(node: ast.AST, at_once: bool, known: set[str]) -> Iterator[tuple[str, bool]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        at_once = False
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        at_once = False
    if isinstance(node, ast.Import):
        yield from ((alias.name, at_once) for alias in node.names if alias.name in known)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            module = submodule if submodule in known else str(node.module)
            if module in known:
                yield module, at_once
    for child in ast.iter_child_nodes(node):
        yield from _imported(child, at_once, known)


def room(module: str) -> str:
    """The part of a module's name that says where in the house it is; "" of the package itself."""
    return (module + ".").split(".")[1]


def training_room(module: str) -> str:
    """The room inside training that a module is in, such as ``training.loop``; "" of any other."""
    inside = ".".join(module.split(".")[1:3])
    return inside if inside in TRAINING_FLOOR_OF else ""


def upward(imports: Imports, floor_of: Mapping[str, int] = FLOOR_OF, room: Callable[[str], str] = room) -> list[str]:
    """Imports of a room on the same floor or above; also those in functions and for a type checker alone."""
    return [
        f"{module} imports {target}"
        for module, targets in imports.items()
        for target, _ in sorted(targets)
        if room(module) and room(target) and room(module) != room(target)
        if floor_of[room(module)] >= floor_of[room(target)]
    ]


def check_no_circle(imports: Imports) -> None:
    """Raises CycleError, which names the circle. To load a module is to load the packages round it too."""
    graph: dict[str, set[str]] = {}
    for module, targets in imports.items():
        loaded = {target for target, at_once in targets if at_once}
        loaded |= {parent for target in loaded for parent in imports if target.startswith(parent + ".")}
        graph[module] = {name for name in loaded - {module} if not module.startswith(name + ".")}
    TopologicalSorter(graph).prepare()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_every_room_has_a_floor():
    assert {room(module) for module in imports_of(SRC)} - {""} == set(FLOOR_OF)


def test_no_import_goes_up():
    assert upward(imports_of(SRC)) == []


def test_no_import_goes_up_inside_training():
    imports = imports_of(SRC)
    rooms = {f"training.{path.name}" for path in (SRC / "training").iterdir() if (path / "__init__.py").is_file()}
    assert rooms == set(TRAINING_FLOOR_OF)
    assert upward(imports, TRAINING_FLOOR_OF, training_room) == []
    files = {module for module in imports if module.startswith("preceptor.training.") and not training_room(module)}
    assert [
        (module, file) for module in imports if training_room(module) for file, _ in imports[module] if file in files
    ] == []


def test_no_import_circle():
    check_no_circle(imports_of(SRC))


def test_an_upward_import_and_a_circle_would_be_seen(tmp_path):
    house = tmp_path / "preceptor"
    for name, text in {
        "__init__": "",
        "errors": "def f():\n    from preceptor.tasks import mean",
        "tasks/__init__": "from preceptor.tasks import mean",
        "tasks/mean": "import preceptor.tasks.total",
        "tasks/total": "from preceptor.tasks.mean import mean",
    }.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / f"{name}.py").write_text(text)
    imports = imports_of(house)
    assert upward(imports) == ["preceptor.errors imports preceptor.tasks.mean"]
    with pytest.raises(CycleError, match=r"preceptor\.tasks\.mean"):
        check_no_circle(imports)


def test_no_file_is_too_long():
    long = {str(path.relative_to(SRC)) for path in SRC.rglob("*.py") if lines(path) > 400}
    assert not long


def test_the_usual_file_is_short():
    assert median(lines(path) for path in SRC.rglob("*.py")) <= 112
