"""``choice.json``: which of a run's epochs teaches best, written after the run was complete."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor.errors import InputError
from preceptor.runs import integrity
from preceptor.runs.files import finite
from preceptor.runs.folder import read_result


def write_choice(folder: Path, teaching: Mapping[str, Any]) -> None:
    """Write what was chosen, with the checksum of its weights and the seal of the result that it belongs to."""
    content = {
        "schema_version": integrity.SCHEMA,
        "of": integrity.read_sealed(folder / integrity.RESULT).get("sha256", ""),
        "teaching": finite(teaching),
        "files": integrity.manifest(folder, [integrity.TEACHING], without=()),
    }
    integrity.write_sealed(folder / integrity.CHOICE, content)


def read_choice(folder: Path) -> dict[str, Any] | None:
    """What was chosen in a run; None if nothing was, or its weights are not there any more.

    Raises:
        InputError: the run is not complete, or a file is damaged or of another run.
    """
    result = read_result(folder)
    if not (folder / integrity.TEACHING).is_file():
        return None
    path = folder / integrity.CHOICE
    if not path.is_file():
        return result.get("teaching")  # format 1 has it in its result
    integrity.checked(folder, integrity.TEACHING)
    content = integrity.read_sealed(path)
    if "teaching" not in content:
        raise InputError(f"'{path}' lacks 'teaching'; it is damaged or was not written by Preceptor")
    return content["teaching"]
