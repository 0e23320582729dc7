"""A run's tokenizer that somebody has changed cuts other tokens, though each has the name that it had."""

from pathlib import Path

import pytest

import preceptor
from preceptor.errors import InputError


def test_the_tokenizer_of_a_run_is_held_to_its_checksum(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Document {number} of a few words" for number in range(40)))
    data = {"name": "tokens", "path": str(text), "length": 16, "separator": "\n\n"}
    model = {"name": "causal_lm", "width": 8, "depth": 1, "heads": 1}
    given = {"objective": "cross_entropy", "model": model, "epochs": 1}
    run = tmp_path / "run"
    preceptor.teach(folder=run, data=data, **given)
    path = run / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole.replace('"normalizer": null', '"normalizer": {"type": "Lowercase"}'))
    assert path.read_text() != whole
    with pytest.raises(InputError, match=r"tokenizer\.json' is damaged or of another run"):
        preceptor.teach(data=data | {"tokenizer": str(run)}, **given)
    path.write_text(whole)
    preceptor.teach(data=data | {"tokenizer": str(run)}, **given)
