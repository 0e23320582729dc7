"""What the pages that Preceptor writes have in common: one HTML file without network, sentences, numbers, pictures."""

import math
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preceptor.assess.intervals import Estimate
from preceptor.runs import files
from preceptor.study import pictures
from preceptor.study.statistics import differs

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["MISSING", "interval", "lead", "made_with", "number", "refuse_foreign", "sentence", "strong", "svg", "write"]

MISSING = "–"
# The second is in pages that were written before there was the first.
_MARKS = (b'<meta name="generator" content="Preceptor">', b"--paper: #ffffff; --ink: #1f2330")


def write(template: str, path: Path | str, values: Mapping[str, Any]) -> Path:
    """Fill a template of this package and write the page; its folder is made if need be, the file is whole or absent.

    Args:
        template: its path in the folder of this file; it extends ``page.html.j2``.
        path: of the page. Of files that are there, pages of ours alone are written over.
        values: what the template names.

    Raises:
        InputError: there is another file, or a folder.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = resources.files("preceptor.study")
    environment = Environment(
        loader=FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = pictures.typographic
    content = environment.get_template(template).render(**values)
    path = Path(path)
    refuse_foreign(path)
    files.make_folder(path.parent)
    files.write_text(path, content)
    return path


def refuse_foreign(path: Path) -> None:
    """Refuse to write a page over a file that is none.

    Raises:
        InputError: there is a folder or another file.
    """
    files.refuse_foreign(path, "page", *_MARKS)


def svg(draw: Callable[[Any], None], width: float, height: float, alt: str, *, axes: bool = True) -> "Markup":
    """A drawing as inline SVG (`pictures.to_svg`)."""
    from markupsafe import Markup

    return Markup(pictures.to_svg(draw, width, height, alt, axes=axes))


def sentence(text: str, *values: "str | Markup") -> "Markup":
    """Fill values into a sentence, escaped."""
    from markupsafe import Markup

    return Markup(text).format(*values)


def strong(name: str) -> "Markup":
    """A name, emphasised and escaped."""
    from markupsafe import Markup

    return Markup("<strong>{}</strong>").format(name)


def number(value: float, digits: int) -> str:
    """``1.23``; a dash for what is not finite."""
    return f"{value:.{digits}f}" if math.isfinite(value) else MISSING


def interval(estimate: Estimate, digits: int, *, unit: str = "", sign: bool = False) -> str:
    """``1.23 (0.78 to 1.68)``; without the interval where there is none."""
    form = f"{'+' if sign else ''}.{digits}f"
    text = format(estimate.value, form) + unit
    if math.isfinite(estimate.low):
        text += f" ({format(estimate.low, form)} to {format(estimate.high, form)})"
    return pictures.typographic(text)


def lead(estimate: Estimate) -> str:
    """How the lead over the runner-up is worded: as settled only where its interval excludes 0."""
    if math.isnan(estimate.low):
        return "Its lead over the next, {}, is {}."
    if differs(estimate):
        return "Its lead over the next, {}, is {}, an interval that excludes 0."
    return "Its lead over the next, {}, is {}, an interval that contains 0: the two cannot be told apart."


def made_with(circumstances: Mapping[str, Any]) -> dict[str, Any]:
    """Versions, commit, device and date by name, None where unknown, of `preceptor.runs.folder.circumstances`."""
    packages = circumstances.get("packages") or {}
    known = {name: circumstances.get(name) for name in ("preceptor", "python", "commit", "device", "threads", "date")}
    listed = ", ".join(f"{name} {version}" for name, version in packages.items())
    return {"preceptor": known.pop("preceptor"), "python": known.pop("python"), "packages": listed, **known}
