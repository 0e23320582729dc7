"""Checksums: what a run's files were when it was complete."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preceptor.errors import InputError
from preceptor.runs import files

# What a run writes; whatever else lies in its folder, a tracker's logs say, is not ours to vouch for.
_WRITTEN = ("recipe.yaml", "*.json", "*.jsonl", "*.safetensors", "checkpoints/*/*")


def manifest(folder: Path, *, without: str) -> dict[str, dict[str, Any]]:
    """The SHA-256 and the size in bytes of every file of a run, by its path within the folder, but for one."""
    found = sorted({path for pattern in _WRITTEN for path in folder.glob(pattern) if path.is_file()})
    names = {path.relative_to(folder).as_posix(): path for path in found if not path.name.startswith(".")}
    return {
        name: {"sha256": files.digest(path), "size": path.stat().st_size}
        for name, path in names.items()
        if name != without
    }


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """JSON content with the SHA-256 of all of it under ``sha256``."""
    plain = json.loads(files.to_json(content))
    return plain | {"sha256": _digest(plain)}


def check_seal(content: Mapping[str, Any], path: Path) -> None:
    """Refuse content that is not what was sealed.

    Raises:
        InputError: naming the file.
    """
    if content.get("sha256") != _digest(content):
        raise InputError(
            f"'{path}' is damaged: its content does not match its SHA-256; copy the run anew, or remove the folder and "
            "run the same command again"
        )


def _digest(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
