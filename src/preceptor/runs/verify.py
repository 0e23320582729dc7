"""``preceptor verify``: is everything in a folder what was written there?"""

from dataclasses import dataclass, field
from pathlib import Path

from preceptor.errors import InputError
from preceptor.runs import checkpoint, integrity

# JSON files that list the checksums of others: of runs, of studies of several kinds, and of records.
_STUDIES = ("study.json", "generations.json", "prediction.json")
_BESIDE = ("samples.json", "tokens.json", "head.json")
_LISTS = (integrity.RESULT, integrity.CHOICE, *_STUDIES, integrity.RECORD, integrity.SHARDS, *_BESIDE)


@dataclass(frozen=True)
class Verification:
    """What `verify` found in a folder."""

    num_files: int
    """Files that are what they were."""
    problems: tuple[str, ...]
    """A sentence for each file that has changed or is missing."""
    unchecked: tuple[str, ...]
    """What nothing is known of: files that are not ours or are made anew from others, and runs without checksums."""


def verify(folder: Path | str) -> Verification:
    """Check every file of a run, of a study and all of its runs, or of a record, against its SHA-256.

    Args:
        folder: a run, a study, a record, or a folder in which some lie. Runs that are not complete are held to the
            checksums of their checkpoints.

    Raises:
        InputError: there is no run, study or record.

    >>> import tempfile, preceptor
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = preceptor.teach(data="digits", model="mlp", epochs=1, device="cpu", folder=folder)
    ...     found = verify(folder)
    >>> found.problems, found.unchecked
    ((), ())
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder '{folder}'; give one that Preceptor wrote")
    files = {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    lists = sorted(path for path in files if path.name in _LISTS)
    runs = sorted(path.parent for path in files if path.name == "recipe.yaml")
    if not runs and not lists:
        raise InputError(f"'{folder}' holds no run and no study, nor a record; give a folder that Preceptor wrote")
    found = _Found()
    for path in lists:
        found.check_list(path)
    for run in runs:
        if not (run / integrity.RESULT).is_file():
            found.check_incomplete(run)
    alone = [path for path in sorted(files - found.mentioned) if not found.spoken_of & set(path.parents)]
    unchecked = [*found.unchecked, *(f"'{path}' is in no list" for path in alone)]
    return Verification(len(found.whole), tuple(found.problems), tuple(unchecked))


@dataclass
class _Found:
    """What is known so far."""

    whole: set[Path] = field(default_factory=set)
    mentioned: set[Path] = field(default_factory=set)
    spoken_of: set[Path] = field(default_factory=set)  # folders of whose other files nothing is known
    problems: dict[str, None] = field(default_factory=dict)  # once each: a study, too, lists the results of its runs
    unchecked: list[str] = field(default_factory=list)

    def check_list(self, path: Path) -> None:
        """A sealed JSON file, and what it lists."""
        self.mentioned.add(path)
        try:
            content = integrity.read_sealed(path)
            if path.name == integrity.CHOICE:
                integrity.check_choice(path)
            if path.name == integrity.SHARDS:
                integrity.check_shards(path)
        except InputError as error:
            self._damaged(path, error)
            return
        if "files" not in content:
            self.unchecked.append(f"'{path}' was written without checksums")
            self.spoken_of.add(path.parent)
            return
        self.whole.add(path)
        for name, wanted in content["files"].items():
            file = path.parent / name
            problem = integrity.difference(file, wanted)
            self.mentioned.add(file)
            if problem:
                self.problems[problem] = None
                self.whole.discard(file)
            else:
                self.whole.add(file)

    def check_incomplete(self, run: Path) -> None:
        """A run without a result."""
        self.unchecked.append(f"the run '{run}' is not complete")
        self.spoken_of.add(run)
        for path in checkpoint.saved(run / "checkpoints"):
            try:
                checkpoint.load(path)
            except InputError as error:
                self.problems[_first_part(error)] = None
            else:
                self.whole |= set(path.iterdir())

    def _damaged(self, path: Path, error: InputError) -> None:
        self.problems[_first_part(error)] = None
        self.spoken_of.add(path.parent)


def _first_part(error: InputError) -> str:
    """What is wrong, without the remedy."""
    return str(error).partition(";")[0]
