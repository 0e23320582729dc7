"""``metrics.jsonl``: one line an epoch, appended and flushed to disk, cut back when a run resumes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor.training.files import finite


class MetricsLog:
    """The metrics of one run.

    A checkpoint remembers how long the file was, so that lines written after it, by a run that was then killed, are cut
    off and written anew.

    Args:
        folder: the run folder; None writes nothing.
        active: False on all processes but one.
    """

    def __init__(self, folder: Path | None, active: bool) -> None:
        self.path = folder / "metrics.jsonl" if folder and active else None

    def append(self, line: Mapping[str, Any]) -> int:
        """Append one line; return the file's length in bytes."""
        if self.path is None:
            return 0
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite(line)) + "\n")
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def cut(self, length: int) -> None:
        """Forget what was written after the file was `length` bytes long."""
        if self.path is not None and self.path.exists():
            os.truncate(self.path, length)
