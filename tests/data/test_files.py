"""Downloads are whole or absent; every failure is one sentence."""

import gzip
import hashlib
import io
import urllib.error
import urllib.request

import pytest

from preceptor.data.files import blamed_on, cache_folder, download, read_bytes
from preceptor.errors import InputError

CONTENT = b"shoes and shirts"
MD5 = hashlib.md5(CONTENT).hexdigest()


def test_download_keeps_a_file_with_the_right_checksum(monkeypatch, tmp_path):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(CONTENT))
    download("http://example.org/f", tmp_path / "new" / "f", MD5)
    assert (tmp_path / "new" / "f").read_bytes() == CONTENT
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_wrong_checksum_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"other"))
    with pytest.raises(InputError, match=rf"MD5 \w+ instead of {MD5}.*was not kept"):
        download("http://example.org/f", tmp_path / "f", MD5)
    assert list(tmp_path.iterdir()) == []


class Cut(io.BytesIO):
    """A connection that is lost after the first bytes."""

    def read(self, size=-1):
        if self.tell():
            raise ConnectionResetError("connection reset")
        return super().read(4)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (urllib.error.URLError("no route to host"), "no route to host"),
        (TimeoutError("timed out"), "timed out"),
        (urllib.error.HTTPError("http://example.org/f", 404, "Not Found", None, None), "Not Found"),  # type: ignore[arg-type]
        (None, "connection reset"),
    ],
)
def test_a_failed_download_is_one_sentence(monkeypatch, tmp_path, failure, reason):
    def urlopen(url, timeout):
        if failure is None:
            return Cut(CONTENT)
        raise failure

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(InputError, match=rf"^http://example.org/f could not be downloaded \(.*{reason}.*put the file"):
        download("http://example.org/f", tmp_path / "f", MD5)
    assert list(tmp_path.iterdir()) == []


def test_read_bytes(tmp_path):
    (tmp_path / "raw").write_bytes(CONTENT)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(CONTENT, mtime=0))
    assert read_bytes(tmp_path / "raw") == read_bytes(tmp_path / "packed.gz") == CONTENT


@pytest.mark.parametrize(
    "damaged", [gzip.compress(CONTENT, mtime=0)[:-12], b"no gzip", gzip.compress(CONTENT, mtime=0)[:12] + b"x" * 30]
)
def test_read_bytes_refuses_damaged_files(tmp_path, damaged):
    (tmp_path / "f.gz").write_bytes(damaged)
    with pytest.raises(InputError, match="truncated or damaged"):
        read_bytes(tmp_path / "f.gz")


def test_read_bytes_names_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_bytes(tmp_path / "absent")


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "preceptor"


def test_blamed_on(tmp_path):
    with pytest.raises(InputError, match=r"labels\.npy: too short"), blamed_on(tmp_path / "labels.npy"):
        raise InputError("too short")
