"""What a record says of itself: its form, what was asked of whom, and what replays it."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from preceptor.errors import InputError
from preceptor.records.forms import GRID, Form
from preceptor.runs import integrity
from preceptor.schema import Strict

MANIFEST: str = integrity.RECORD
FORMAT = 1
"""The format of records that this version writes, and the newest that it reads."""


class Identity(Strict):
    """Whose outputs for which samples: what must be the same for a record to be used, or gone on with."""

    teacher: dict[str, str] = Field(default_factory=dict)
    """Digests of the teachers' weights, by what they are called."""
    data: dict[str, str] = Field(default_factory=dict)
    """Digests of the data set, by what is digested."""
    ids: str = "position"
    """What the samples' ids are: ``position`` in the training set, or ``given`` with the samples."""
    temperature: float = 1.0
    """What the teacher's logits were divided by."""
    dtype: str = "float32"
    """What the teacher computed in."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of packages, by name."""
    features: dict[str, str] = Field(default_factory=dict)
    """Of stored features by name: where they were tapped, and their dtype."""


class Manifest(Strict):
    """What a record says of itself."""

    format: Literal[1] = 1
    """Of the folder."""
    form: Annotated[Form, Field(discriminator="kind")]
    """What is stored of each row of outputs."""
    num_classes: Annotated[int, Field(ge=2)]
    """C."""
    class_names: tuple[str, ...] = ()
    """Of the C classes, where they have names."""
    num_samples: Annotated[int, Field(ge=1)] | None = None
    """Samples of a view of a whole record, where that is known."""
    views: Annotated[int, Field(ge=1)] = 1
    """How often each sample is stored, each time with draws of its own."""
    grid: tuple[float, ...] = GRID
    """Exponents g = 1 / T of which the power sums are stored."""
    seed: int = 0
    """Of the draws of a sampled form, and of `streams`."""
    streams: dict[str, int] = Field(default_factory=dict)
    """Seeds of the named streams that replay the inputs."""
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    """How raw values became the teacher's inputs."""
    augmentation: Any = None
    """The recipe's entry."""
    mixing: Any = None
    """The recipe's entry."""
    features: tuple[str, ...] = ()
    """What is stored of inner modules, by name: a tap or word, or ``WORD.0``... where it stands for several."""
    identity: Identity = Identity()
    """Whose outputs for which samples."""


def difference(
    one: Manifest, other: Manifest, of_one: str = "in the one", of_other: str = "in the other"
) -> str | None:
    """The first field in which two manifests differ, with both values, or None.

    Args:
        one, other: the manifests.
        of_one, of_other: what a sentence says of whose value is meant.

    >>> from preceptor.records.forms import Dense
    >>> difference(Manifest(form=Dense(), num_classes=3), Manifest(form=Dense(), num_classes=4))
    "'num_classes' is 3 in the one and 4 in the other"
    """
    found = next(_differences(one.model_dump(mode="json"), other.model_dump(mode="json"), ""), None)
    if found is None:
        return None
    name, ours, theirs = found
    return f"'{name}' is {ours!r} {of_one} and {theirs!r} {of_other}"


def _differences(one: Any, other: Any, name: str) -> Any:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        one, other = ({str(place): value for place, value in enumerate(each)} for each in (one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        for key in dict.fromkeys((*one, *other)):
            yield from _differences(one.get(key), other.get(key), f"{name}.{key}" if name else key)
    elif one != other:
        yield name, one, other


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a record's manifest, sealed."""
    integrity.write_sealed(folder / MANIFEST, manifest.model_dump(mode="json") | {"files": {}})


def read_manifest(folder: Path) -> Manifest:
    """A record's manifest.

    Raises:
        InputError: there is none, it is damaged, or of a newer format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"'{folder}' holds no record (there is no '{MANIFEST}' in it); give a folder of one")
    content = integrity.unsealed(integrity.read_sealed(path))
    if isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise InputError(
            f"'{path}' has format {content['format']}, newer than this Preceptor's {FORMAT}; upgrade Preceptor"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"'{path}' cannot be read: '{'.'.join(map(str, first['loc']))}' {first['msg']}; record anew"
        ) from None
