"""Do two versions of Preceptor train the same recipes to the same bits?

    python benchmarks/same_bits.py OLD/src src

trains six small recipes with each source tree given (about 20 s each on one thread): a teacher, a student of the live
teacher, one of its table, a stack, SoTeacher with averaged weights, and a student of the teacher that ``auto`` chooses.
A digest is the SHA-256 of the names, shapes and values of all weights that a run leaves. Prints one row a recipe, and
ends with 1 where two trees differ.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors import safe_open

SHORT = "training.epochs=3"
STACK = Path(__file__).resolve().parent / "recipes" / "same-bits.yaml"
STUDY = [f"{part}.training.epochs=2" for part in ("teach", "distill", "baseline")]
COMMANDS = {
    "teach": ["teach", "teach-digits", SHORT, "training.keep=all"],
    "soteacher": ["teach", "teach-digits", SHORT, "objective=SoTeacher", "average={kind: swa, start_epoch: 1}"],
    "live": ["distill", "distill-digits", SHORT, "cache=false", "--teacher", "teach"],
    "table": ["distill", "distill-digits", SHORT, "loss={name: wttm, temperature: 2}", "--teacher", "teach:best"],
    "stack": ["study", str(STACK), "seeds=[0, 1]", *STUDY],
    "auto": ["distill", "distill-digits", SHORT, "--teacher", "auto", "teach", "soteacher"],
}


def digests(source: Path) -> dict[str, str]:
    """What the weights of each recipe are, under one source tree."""
    environment = os.environ | {"PYTHONPATH": str(source.resolve()), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as place:
        for name, command in COMMANDS.items():
            full = [sys.executable, "-m", "preceptor", *command, "--out", name]
            subprocess.run(full, cwd=place, env=environment, check=True, capture_output=True)
        return {name: digest(Path(place) / name) for name in COMMANDS}


def digest(folder: Path) -> str:
    """Of all weights in a folder."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        if path.name == "state.safetensors":  # of a checkpoint, whose names are the trainer's own business
            continue
        with safe_open(path, framework="np") as file:
            for name in sorted(file.keys()):
                array = file.get_tensor(name)
                sha.update(f"{path.relative_to(folder)} {name} {array.dtype} {array.shape}\0".encode())
                sha.update(array.tobytes())
    return sha.hexdigest()[:16]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="+", help="a folder that holds the package preceptor")
    found = [digests(source) for source in parser.parse_args().source]
    for name in COMMANDS:
        row = [each[name] for each in found]
        print(f"{name:10} {'  '.join(row)}  {'same' if len(set(row)) == 1 else 'DIFFERENT'}")
    raise SystemExit(any(each != found[0] for each in found))


if __name__ == "__main__":
    main()
