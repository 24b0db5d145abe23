"""Files by key, through fsspec: a local folder, memory, or an object store. Knows no meaning of a key."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Generator
from pathlib import Path

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from core.errors import InsufficientStorage, NotFound
from store.keys import checked_key

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Blobs:
    """The files below an fsspec URL such as ``file:///folder``, ``memory://name`` or ``s3://bucket/prefix``.

    Keys are relative paths of plain names (:func:`store.keys.checked_key`). May be used from any thread.
    Local files and folders are readable by their owner alone, and are on the disk once ``write`` returns.
    """

    def __init__(self, url: str, filesystem: AbstractFileSystem | None = None) -> None:
        self._fs, root = (filesystem, url) if filesystem is not None else url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def write(self, key: str, data: bytes) -> None:
        """Put a whole file in place of what was there: readers see the old one or the new one.

        Raises InsufficientStorage when there is no room; the old file is there still then, or nothing.
        """
        path = self._path(key)
        try:
            if self._is_local:
                _write_local(Path(path), data, Path(self._root))
            else:
                self._put(path, data)
        except OSError as error:
            if error.errno in _FULL:
                raise InsufficientStorage("The store has no room left for a file.") from error
            raise

    def read(self, key: str) -> bytes:
        """Raises NotFound."""
        try:
            data: bytes = self._fs.cat_file(self._path(key))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound("The file is not in the store.") from None
        return data

    def exists(self, key: str) -> bool:
        """Whether there is a file of this very key."""
        path = self._path(key)
        self._fs.invalidate_cache()
        return bool(self._fs.isfile(path))

    def keys(self, prefix: str) -> list[str]:
        """The keys of the file ``prefix`` or of all files in the folder ``prefix``, sorted."""
        path = self._path(prefix)
        self._fs.invalidate_cache()
        skipped = len(self._fs._strip_protocol(self._root)) + 1
        found = [str(each)[skipped:] for each in self._fs.find(path)]
        # What lies in a hidden file was never written to its end.
        return sorted(key for key in found if not Path(key).name.startswith("."))

    def delete(self, prefix: str) -> None:
        """Remove the file ``prefix`` or the folder ``prefix`` with all that is in it, if there is one.

        ``a/b`` does not touch ``a/bc``.
        """
        path = self._path(prefix)
        self._fs.invalidate_cache()
        while self._fs.exists(path):
            # Others may be removing the same folder, or writing into it still.
            with _suppress_races():
                self._fs.rm(path, recursive=True)
        if self._is_local:
            _remove_empty(Path(path).parent, Path(self._root))

    def _path(self, key: str) -> str:
        return f"{self._root}/{checked_key(key)}"

    def _put(self, path: str, data: bytes) -> None:
        was_there = self._fs.exists(path)
        try:
            self._fs.pipe_file(path, data)
        except OSError:
            if not was_there:
                with contextlib.suppress(OSError):
                    self._fs.rm_file(path)
            raise


@contextlib.contextmanager
def _suppress_races() -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def _write_local(path: Path, data: bytes, root: Path) -> None:
    """Write beside the place, then rename. A process killed meanwhile leaves a hidden file, no key."""
    partial = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        file = _open_in(path.parent, partial)
        with open(file, "wb") as writer:
            writer.write(data)
            writer.flush()
            os.fsync(writer.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        _remove_empty(path.parent, root)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _open_in(folder: Path, path: Path) -> int:
    while True:
        _make_private(folder)
        # Another thread may take the empty folder away again, having removed the last file in it.
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _make_private(folder: Path) -> None:
    """Make ``folder`` and what is missing above it; mkdir's own ``parents`` would let others read those."""
    while not folder.is_dir():
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError:
            _make_private(folder.parent)


def _remove_empty(folder: Path, root: Path) -> None:
    with contextlib.suppress(OSError):
        while folder != root and root in folder.parents:
            folder.rmdir()
            folder = folder.parent
