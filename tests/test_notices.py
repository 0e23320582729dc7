"""One line to a person: where it goes, and where it is kept."""

import io
import json
import sys

import pytest

from preceptor import notices, teach
from preceptor.training import resolve


def test_a_note_is_a_line_on_stderr_and_stands_in_the_result(tmp_path, capsys, monkeypatch):
    made = resolve.teach_job
    monkeypatch.setattr("preceptor.training.verbs.teach_job", lambda *a, **k: (notices.note("look"), made(*a, **k))[1])
    result = teach(data="digits", model="mlp", epochs=1, device="cpu", folder=tmp_path / "run")
    assert "note: look\n" in capsys.readouterr().err
    assert result["notes"] == json.loads((tmp_path / "run" / "result.json").read_text())["notes"] == ["look"]


def test_notes_are_those_of_one_run_and_each_is_kept_once():
    with notices.notes_kept() as outer:
        notices.note("a")
        with notices.notes_kept() as inner:
            notices.note("b")
        notices.note("a")
    notices.note("c")
    assert (outer, inner, notices.kept_notes()) == (["a"], ["b"], [])


def test_only_one_process_speaks_and_a_closed_stream_stops_nothing(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    notices.say("second")
    monkeypatch.setenv("RANK", "0")
    notices.say("first")
    assert capsys.readouterr().err == "first\n"
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    notices.say("nobody")
    with pytest.raises(ValueError, match="closed"):  # what it would have been
        print("nobody", file=sys.stderr)
