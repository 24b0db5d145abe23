"""A file is hashed once, and again when it changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from weights import verification
from weights.catalogue import Entry
from weights.errors import BrokenWeights
from weights.tensor_file import sha256_of


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.safetensors").write_bytes(b"weights")
    verification.check_file.cache_clear()
    facts = {"bytes": 7, "sha256": sha256_of(folder / "w.safetensors")}
    return Entry(model_id="model", family="sd15", folder=folder, files={"w.safetensors": facts})


def check(entry: Entry, *, thorough: bool = False) -> None:
    # As in another process.
    verification.check_file.cache_clear()
    assert entry.files is not None
    verification.check_files(entry, entry.files, thorough=thorough)


def path_of(entry: Entry) -> Path:
    assert entry.folder is not None
    return entry.folder / "w.safetensors"


def swap_unnoticed(entry: Entry) -> None:
    """Other bytes under the same size and modification time."""
    path = path_of(entry)
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"WEIGHTS")
    os.utime(path, ns=times)


def test_a_checked_file_is_not_read_again_until_it_changes(entry: Entry) -> None:
    check(entry)
    swap_unnoticed(entry)
    check(entry)
    os.utime(path_of(entry))
    with pytest.raises(BrokenWeights, match="corrupt"):
        check(entry)


def test_a_thorough_check_reads_every_byte(entry: Entry) -> None:
    check(entry)
    swap_unnoticed(entry)
    with pytest.raises(BrokenWeights, match="corrupt"):
        check(entry, thorough=True)


def test_what_is_forgotten_is_read_again(entry: Entry) -> None:
    check(entry)
    swap_unnoticed(entry)
    verification.forget("model")
    with pytest.raises(BrokenWeights, match="corrupt"):
        check(entry)


def test_a_missing_file_is_noticed_whatever_is_remembered(entry: Entry) -> None:
    check(entry)
    path_of(entry).unlink()
    with pytest.raises(BrokenWeights, match="missing"):
        check(entry)


def test_a_folder_that_cannot_be_written_is_no_hindrance(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / ".verified").write_text("a file where the folder would be")
    check(entry)
    swap_unnoticed(entry)
    with pytest.raises(BrokenWeights, match="corrupt"):
        check(entry)
