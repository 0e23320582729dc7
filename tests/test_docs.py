"""The docs cannot rot: what is generated is fresh, examples run, links lead somewhere, commands and recipes exist."""

import importlib
import re
import runpy
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from preceptor.cli import app

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
# A reader sees the blocks; what they need to run stands before them, in comments.
EXAMPLE = re.compile(r"^(?:```python|<!-- python)\n(.*?)^(?:```|-->)$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^preceptor (teach|distill|study|generations) ([\w-]+)", re.MULTILINE)


@pytest.mark.parametrize("page", ["api.md", "catalogue.md", "recipe.md"])
def test_generated_pages_are_fresh(page: str) -> None:
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["PAGES"][page]()
    assert made == PAGES[page], "stale; run python docs/generate.py"


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if EXAMPLE.search(text)])
def test_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page, one after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    if page == "extend.md":
        monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))  # type: ignore[arg-type]
    names = {"__name__": "example"}
    for block in EXAMPLE.findall(PAGES[page]):
        exec(compile(block, page, "exec"), names)


def create_model(name: str, *, num_classes: int, checkpoint_path: str = "") -> torch.nn.Module:
    """As timm's."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, num_classes))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        if path.startswith("https:"):
            continue
        assert not path or (folder / path).exists(), link
        if anchor and (path or page).endswith(".md"):
            assert anchor in anchors(PAGES[Path(path or page).name]), link


def anchors(text: str) -> set[str]:
    """What GitHub calls a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("verb", "recipe"), sorted({found for text in PAGES.values() for found in COMMAND.findall(text)})
)
def test_commands_exist(verb: str, recipe: str) -> None:
    assert CliRunner().invoke(app, [verb, recipe, "--dry-run"]).exit_code == 0


def test_every_page_is_in_the_site() -> None:
    """Every page has a place in the menu, and every place a page."""
    menu = [page for entry in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"] for page in entry.values()]
    assert sorted(menu) == sorted(set(PAGES) - {"README.md"})


@pytest.mark.parametrize(
    "package", ["losses", "teaching", "outputs", "assess", "tasks", "data", "models", "integrations"]
)
def test_every_public_name_has_a_docstring(package: str) -> None:
    module = importlib.import_module(f"preceptor.{package}")
    public = [getattr(module, name) for name in getattr(module, "__all__", ())]
    assert not [found for found in public if callable(found) and not (found.__doc__ or "").strip()]
