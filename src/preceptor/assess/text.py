"""Tables as text, for `print`."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def as_text(table: "Table", notes: Iterable[str] = ()) -> str:
    """A table as wide as it needs to be, without colours, and a line for each note below it."""
    import io

    from rich.console import Console

    console = Console(file=io.StringIO(), width=10_000, color_system=None, legacy_windows=False)
    console.width = console.measure(table).maximum
    with console.capture() as capture:
        console.print(table)
    return "\n".join([*(line.rstrip() for line in capture.get().splitlines()), *(f"note: {note}" for note in notes)])
