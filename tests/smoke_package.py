"""Does the wheel hold what it must, and nothing else? Run by ``make package`` in ``dist/``, on the installed wheel."""

import tarfile
import zipfile
from pathlib import Path

import preceptor
from preceptor.recipe import TeachRecipe, find_recipe, load
from preceptor.training import teach

NEEDED = ["preceptor/py.typed", "preceptor/recipes/quickstart.yaml", "preceptor/study/grid/report.html.j2"]
KINDS = {".py", ".typed", ".yaml", ".j2"}


def main() -> None:
    """Check the archives, then train something with the installed package."""
    assert Path(preceptor.__file__).is_relative_to(Path("installed").resolve()), preceptor.__file__
    (wheel,) = Path().glob("*.whl")
    (sdist,) = Path().glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    assert set(NEEDED) <= set(names), names
    strange = [n for n in names if ".dist-info/" not in n and Path(n).suffix not in KINDS]
    assert not strange, strange
    assert any(n.endswith(".dist-info/licenses/NOTICE") for n in names), "the licence files are missing"
    with tarfile.open(sdist) as archive:
        assert any(n.endswith("tests/smoke_package.py") for n in archive.getnames())
    recipe = load(TeachRecipe, find_recipe("teach-digits"), ["training.epochs=1"])
    assert 0 < teach(recipe)["test"]["last"]["accuracy"] <= 1
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 1024:.0f} KiB; it trains")


if __name__ == "__main__":
    main()
