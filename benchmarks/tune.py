"""Choose a study's hyper-parameters on held-out samples.

python benchmarks/tune.py quickstart benchmarks/grids/quickstart.yaml --out runs/tune-quickstart
"""

from pathlib import Path
from typing import Annotated

import typer

from foretold.grids import tune
from preceptor.recipe import find_recipe, load, read_yaml
from preceptor.runs.files import write_json
from preceptor.study.recipe import Study


def main(
    recipe: str,
    grids: Path,
    overrides: Annotated[list[str] | None, typer.Argument()] = None,
    *,
    out: Annotated[Path, typer.Option()],
) -> None:
    """Train every point of the grids; print and save each one's score and the choice."""
    points = read_yaml(grids)
    found = tune(
        load(Study, find_recipe(recipe), overrides or []), points, out, say=lambda text: typer.echo(text, err=True)
    )
    write_json(out / "tuned.json", found)
    for part in ("teachers", "losses", "baseline"):
        choices = {"baseline": found[part]} if part == "baseline" else found[part]
        for name, choice in choices.items():
            grid = points["baseline"] if part == "baseline" else points[part][name]
            for number, (point, score) in enumerate(zip(grid, choice["scores"], strict=True)):
                mark = "*" if number == choice["chosen"] else " "
                typer.echo(f"{mark} {part:9} {name:16} {score:.4f}  {' '.join(point)}")


if __name__ == "__main__":
    typer.run(main)
