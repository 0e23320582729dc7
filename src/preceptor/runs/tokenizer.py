"""The tokenizer of a run of texts, in its folder: a model is of no use without the numbers of its tokens."""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preceptor.data.tokenizer_files import FILES
from preceptor.data.tokenizers import Tokenizer
from preceptor.runs import files
from preceptor.runs.integrity import checked


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write a run's tokenizer, each file whole or not at all: what AutoTokenizer and `data.tokenizer` read.

    Raises:
        InputError: a file cannot be written.
    """
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save(Path(place))
        for name in FILES:
            files.write_text(folder / name, (Path(place) / name).read_text(encoding="utf-8"))


def copy_tokenizer(run: Path, folder: Path) -> None:
    """Copy a run's tokenizer into another folder; nothing of a run that has none, as those of earlier versions.

    Raises:
        InputError: it is damaged.
    """
    for path in (checked(run, name) for name in FILES):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def end_of(preprocessing: Mapping[str, Any], class_names: Sequence[str]) -> int | None:
    """The number of the token that ends a document, of data that were made by `preceptor.data.tokens`; else None."""
    context = preprocessing.get("context")
    name = context.get("end") if isinstance(context, Mapping) else None
    return list(class_names).index(str(name)) if name in class_names else None
