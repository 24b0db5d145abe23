"""Files by key: whole or not there, private, and nothing left of what found no room."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from core.errors import InsufficientStorage, InvalidRequest, NotFound
from store.blobs import Blobs
from store.keys import new_id

ROOT = Path(__file__).resolve().parents[2]


class SmallFileSystem(MemoryFileSystem):  # type: ignore[misc]
    """Files in memory with room for ``capacity`` bytes; what does not fit is cut off with an error."""

    cachable = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.store: dict[str, Any] = {}
        self.pseudo_dirs: list[str] = [""]
        self.capacity = capacity

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        room = self.capacity - sum(self.size(name) for name in self.store)
        super().pipe_file(path, value[:room], **options)
        if len(value) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "blobs"


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, folder: Path) -> Blobs:
    return Blobs(f"file://{folder}" if request.param == "file" else f"memory://{new_id('blobs')}")


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_what_was_written_is_read(blobs: Blobs) -> None:
    blobs.write("jobs/job_1/photos/000", b"one")
    assert blobs.read("jobs/job_1/photos/000") == b"one"
    blobs.write("jobs/job_1/photos/000", b"two")
    blobs.write("empty", b"")
    assert blobs.read("jobs/job_1/photos/000") == b"two"
    assert blobs.read("empty") == b""


def test_what_is_not_there_is_not_found(blobs: Blobs) -> None:
    blobs.write("a/b/c", b"1")
    for key in ("a/b/d", "a/b", "a/b/c/d", "x"):
        assert not blobs.exists(key)
        with pytest.raises(NotFound):
            blobs.read(key)
    assert blobs.exists("a/b/c")


def test_keys_of_a_folder_or_a_file(blobs: Blobs) -> None:
    for key in ("a/1", "a/b/2", "ab/3"):
        blobs.write(key, b"1")
    assert blobs.keys("a") == ["a/1", "a/b/2"]
    assert blobs.keys("a/b/2") == ["a/b/2"]
    assert blobs.keys("b") == []


def test_delete_takes_a_file_or_a_folder_and_no_namesake(blobs: Blobs) -> None:
    for key in ("jobs/job_1/photos/0", "jobs/job_1/checkpoint", "jobs/job_12/checkpoint"):
        blobs.write(key, b"1")
    blobs.delete("jobs/job_1/checkpoint")
    assert blobs.keys("jobs/job_1") == ["jobs/job_1/photos/0"]
    blobs.delete("jobs/job_1")
    blobs.delete("jobs/job_1")
    assert blobs.keys("jobs") == ["jobs/job_12/checkpoint"]


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", ".hidden", "", "a//b"])
def test_no_key_leads_out_of_the_store(blobs: Blobs, key: str, folder: Path) -> None:
    for use in (blobs.read, blobs.exists, blobs.keys, blobs.delete):
        with pytest.raises(InvalidRequest):
            use(key)
    with pytest.raises(InvalidRequest):
        blobs.write(key, b"1")
    assert not folder.exists()


def test_local_files_are_their_owners_alone(folder: Path) -> None:
    before = os.umask(0)
    try:
        Blobs(f"file://{folder}").write("jobs/job_1/checkpoint", b"1")
    finally:
        os.umask(before)
    for path in [folder.parent, folder, *folder.rglob("*")]:
        wanted = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


def test_empty_folders_go_with_their_last_file(folder: Path) -> None:
    blobs = Blobs(f"file://{folder}")
    blobs.write("jobs/job_1/photos/0", b"1")
    blobs.delete("jobs/job_1/photos/0")
    assert files_in(folder) == []
    assert folder.is_dir()


def test_readers_see_whole_files_while_others_write(folder: Path) -> None:
    blobs = Blobs(f"file://{folder}")
    whole = {bytes([number]) * 100_000 for number in range(4)}
    blobs.write("file", min(whole))
    with ThreadPoolExecutor(4) as threads:
        writing = [threads.submit(blobs.write, "file", data) for data in whole for _ in range(5)]
        read = [blobs.read("file") for _ in range(50)]
        for each in writing:
            each.result()
    assert set(read) <= whole
    assert files_in(folder) == ["file"]


def test_writers_and_removers_of_one_folder_do_not_disturb_each_other(folder: Path) -> None:
    blobs = Blobs(f"file://{folder}")

    def come_and_go(number: int) -> None:
        for _ in range(20):
            blobs.write(f"a/b/{number}", b"1")
            assert blobs.read(f"a/b/{number}") == b"1"
            blobs.delete(f"a/b/{number}")

    with ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(come_and_go, number) for number in range(4)]:
            each.result()
    assert files_in(folder) == []


def test_many_remove_one_folder(folder: Path) -> None:
    blobs = Blobs(f"file://{folder}")
    for number in range(50):
        blobs.write(f"a/{number}", b"1")
    with ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(blobs.delete, "a") for _ in range(4)]:
            each.result()
    assert files_in(folder) == []


def test_what_a_killed_writer_left_is_no_key_and_goes_with_its_folder(folder: Path) -> None:
    blobs = Blobs(f"file://{folder}")
    blobs.write("a/file", b"1")
    (folder / "a" / ".file.0123").write_bytes(b"half")
    assert blobs.keys("a") == ["a/file"]
    blobs.delete("a")
    assert files_in(folder) == []


def test_a_store_without_room_keeps_nothing_new() -> None:
    blobs = Blobs("/root", SmallFileSystem(1_000))
    blobs.write("a/one", b"1" * 600)
    with pytest.raises(InsufficientStorage):
        blobs.write("a/two", b"2" * 600)
    assert blobs.keys("a") == ["a/one"]
    blobs.write("a/two", b"2" * 400)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A file system of 256 KiB of its own; only root can have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_the_old_file_and_nothing_new(small_disk: Path) -> None:
    blobs = Blobs(f"file://{small_disk}")
    blobs.write("jobs/job_1/checkpoint", b"1" * 150_000)
    before = files_in(small_disk)
    for key in ("jobs/job_1/checkpoint", "jobs/job_2/checkpoint"):
        with pytest.raises(InsufficientStorage):
            blobs.write(key, b"2" * 150_000)
    assert files_in(small_disk) == before
    assert blobs.read("jobs/job_1/checkpoint") == b"1" * 150_000
    blobs.delete("jobs")
    blobs.write("jobs/job_2/checkpoint", b"2" * 150_000)


FILL = """
import sys
from core.errors import InsufficientStorage
from store.blobs import Blobs
blobs = Blobs(sys.argv[1])
blobs.write("a/small", b"1" * 1_000)
try:
    blobs.write("b/c/large", b"1" * 100_000)
except InsufficientStorage:
    print("refused")
"""


def test_a_limit_on_file_sizes_leaves_nothing_behind(folder: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command = [sys.executable, "-c", FILL, f"file://{folder}"]
    made = subprocess.run(command, preexec_fn=limit, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (made.stdout, made.stderr) == ("refused\n", "")
    assert files_in(folder) == ["a", "a/small"]


def test_other_faults_are_not_called_full(folder: Path) -> None:
    blobs = Blobs(f"file://{folder}")
    blobs.write("a", b"1")
    with pytest.raises(FileExistsError):
        blobs.write("a/b", b"1")
    assert files_in(folder) == ["a"]
