"""What the tables of all studies have in common: values with their margin, GitHub's Markdown, how they were made."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from preceptor.assess.intervals import Estimate
from preceptor.study import page
from preceptor.study.statistics import differs

__all__ = ["difference", "facts", "made_by", "markdown_table", "markdown_text", "percent", "plus_minus"]


def plus_minus(estimate: Estimate, digits: int = 2, *, sign: bool = False) -> str:
    """``1.23 ± 0.45``, half the interval; without it where there is none, and a dash for what is not finite."""
    if not math.isfinite(estimate.value):
        return page.MISSING
    # Adding 0 turns a negative zero, which would print as -0.00, into a positive one.
    value = format(round(estimate.value, digits) + 0.0, f"{'+' if sign else ''}.{digits}f")
    margin = (estimate.high - estimate.low) / 2
    return f"{value} ± {margin:.{digits}f}" if math.isfinite(margin) else value


def difference(estimate: Estimate) -> str:
    """``+1.23 ± 0.45`` in Markdown, bold where the interval excludes 0."""
    text = plus_minus(estimate, sign=True)
    return f"**{text}**" if differs(estimate) else text


def percent(estimate: Estimate) -> Estimate:
    """A share, in percent."""
    return Estimate(100 * estimate.value, 100 * estimate.low, 100 * estimate.high)


def markdown_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 0, rule: str | None = None
) -> str:
    """A table in GitHub's Markdown, its cells as they are.

    Args:
        left: the column that is not flush right.
        rule: the line below the headers, in a spelling of its own.
    """
    aligned = [":--" if column == left else "--:" for column in range(len(headers))]
    first, second, *others = (f"| {' | '.join(cells)} |" for cells in (headers, aligned, *rows))
    return "\n".join([first, rule or second, *others])


def markdown_text(text: object) -> str:
    """Plain text in a table's cell, whatever it holds."""
    return html.escape(_one_line(text), quote=False).replace("|", "\\|").replace("*", "\\*")


def made_by(result: Mapping[str, Any]) -> str:
    """The command that made a study, and the `facts` about it, as one line of Markdown."""
    made = "; ".join(f"{name} {markdown_text(value)}" for name, value in facts(result).items())
    return f"Made by `{_one_line(result['command'])}`; {made}."


def facts(result: Mapping[str, Any]) -> dict[str, str]:
    """How a study was made, by name; what is not known is left out."""
    found = {
        "seeds": _seeds(result["seeds"]),
        "data": result.get("data"),
        **page.made_with(result["circumstances"]),
        "time": _duration(result["time_total"]),
    }
    return {name: str(value) for name, value in found.items() if value not in (None, "")}


def _seeds(seeds: Sequence[Any]) -> str:
    """``10 (0 to 9)`` where they are consecutive, all of them otherwise."""
    if len(seeds) > 2 and all(isinstance(s, int) for s in seeds) and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{len(seeds)} ({seeds[0]} to {seeds[-1]})"
    return f"{len(seeds)} ({', '.join(map(str, seeds))})"


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def _one_line(text: object) -> str:
    return " ".join(str(text).split()).replace("`", "'")
