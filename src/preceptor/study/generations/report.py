"""What a study of generations found, for people: a table for the terminal and one for Markdown."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from jaxtyping import Float64
from numpy import ndarray

from preceptor.assess.intervals import mean_interval
from preceptor.study import page
from preceptor.study.statistics import check_format, check_lengths, values_at
from preceptor.study.text import made_by, markdown_table, markdown_text, plus_minus

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["SCHEMA", "check", "markdown", "table"]

SCHEMA = 1
"""Of ``generations.json``."""

_KEYS = ("name", "command", "data", "seeds", "top_k", "chains", "circumstances", "time_total")


def table(result: Mapping[str, Any]) -> "Table":
    """The chains as one table for the terminal.

    Args:
        result: the content of ``generations.json``.
    """
    from rich.table import Table

    check(result)
    caption = (
        f"Test set, {len(result['seeds'])} seeds; ± half-width of the 95 % interval of the mean, of the paired "
        "difference under 'vs gen. 0'. Ensemble: mean of the probabilities of all generations so far."
    )
    found = Table(title=f"Generations: {result['name']} on {result['data']}", caption=caption, caption_justify="left")
    for name in _headers(result):
        found.add_column(name, justify="left" if name == "start" else "right")
    for row in _rows(result):
        if row[1] == "0" and found.row_count:
            found.add_section()
        found.add_row(*row)
    return found


def markdown(result: Mapping[str, Any]) -> str:
    """The same table in GitHub's Markdown, with how it was made below.

    Args:
        result: the content of ``generations.json``.
    """
    check(result)
    headers, rows = _headers(result), [[markdown_text(start), *cells] for start, *cells in _rows(result)]
    grid = markdown_table(headers, rows, rule="|---|" + "---:|" * (len(headers) - 1))
    caption = (
        f"Test set, {len(result['seeds'])} seeds; ± is the half-width of the 95 % interval of the mean (of the paired "
        "difference under *vs gen. 0*). Ensemble: mean of the probabilities of all generations so far."
    )
    return f"{grid}\n\n{caption}\n\n{made_by(result)}\n"


def check(result: Mapping[str, Any]) -> None:
    """Raise an `InputError` that names what is wrong with a result: a newer format, what is missing, another length."""
    check_format(result, SCHEMA, _KEYS)
    for start, chain in result["chains"].items():
        for number, link in enumerate(chain):
            check_lengths(link, f"chains.{start}.{number}", len(result["seeds"]))


def _headers(result: Mapping[str, Any]) -> list[str]:
    mass = f"top-{result['top_k']} mass"
    model = ["model"] if result.get("models") else []
    return ["start", "gen.", *model, "accuracy %", "vs gen. 0", "entropy", mass, "calib. error", "Brier", "ensemble %"]


def _rows(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The cells: one row for each start and generation, means over seeds with 95 % intervals."""
    for start, chain in result["chains"].items():
        first = values_at(chain[0], "test", "accuracy")
        for number, link in enumerate(chain):
            accuracy = values_at(link, "test", "accuracy")
            gain = _points(accuracy - first, sign=True) if number else ""
            scores = (values_at(link, "test", key) for key in ("entropy", "top_k_mass", "calibration_error", "brier"))
            means = [page.number(float(score.mean()), 3) for score in scores]
            ensemble = _points(values_at(link, "ensemble", "accuracy")) if number else ""
            model = result["models"][number : number + 1] if result.get("models") else []
            yield [start, str(number), *model, _points(accuracy), gain, *means, ensemble]


def _points(shares: Float64[ndarray, "seeds"], *, sign: bool = False) -> str:
    return plus_minus(mean_interval(100 * shares), sign=sign)
