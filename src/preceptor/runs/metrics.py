"""``metrics.jsonl``: one line an epoch, appended and flushed to disk, cut back when a run resumes."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor.errors import InputError
from preceptor.runs.files import not_saved, to_json


class MetricsLog:
    """The metrics of one run.

    A checkpoint remembers how long the file was, so that lines written after it, by a run that was then
    killed, are cut off and written anew.

    Args:
        folder: the run folder; None writes nothing.
        active: False on all processes but one.
    """

    def __init__(self, folder: Path | None, active: bool) -> None:
        self.path: Path | None = folder / "metrics.jsonl" if folder and active else None

    def append(self, line: Mapping[str, Any]) -> int:
        """Append one line; return the file's length in bytes.

        Raises:
            InputError: the disk is full.
        """
        if self.path is None:
            return 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(to_json(line))
                file.flush()
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise not_saved(self.path, error) from error

    def cut(self, length: int) -> None:
        """Forget what was written after the file was `length` bytes long.

        Raises:
            InputError: the file is shorter than that; somebody else wrote to it.
        """
        if self.path is None:
            return
        found = self.path.stat().st_size if self.path.exists() else 0
        if found < length:
            raise InputError(
                f"'{self.path}' has {found} bytes where the checkpoint counts {length}; put the file back as "
                "it was, or remove the run folder to start afresh"
            )
        if found > length:
            os.truncate(self.path, length)
