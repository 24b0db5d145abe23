"""Files over HTTP: to a temporary file, resumed, hashed while they arrive, renamed once they are complete.

What was at the target before stays until then. Knows URLs and files; not what models are made of.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weights.errors import DownloadFailed, RefusedWeights
from weights.tensor_file import START_BYTES, check_start, read_tensors

if TYPE_CHECKING:
    from hashlib import _Hash

_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_CHUNK_BYTES = 1 << 20
# Left free on the disk beside the file itself.
_RESERVE_BYTES = 200_000_000
_HUB = "https://huggingface.co/"

# Bytes that have arrived, bytes in all (None where the server does not say).
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True, slots=True)
class Fetched:
    """A complete file."""

    num_bytes: int
    sha256: str


class _Interrupted(Exception):
    """The connection ended early; what has arrived is of use."""


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    num_bytes: int | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Download ``url`` to ``target``, going on from an earlier try, and return its size and hash.

    Raises :class:`RefusedWeights` for another hash or size than expected, and, where ``target`` is to be
    safetensors, for a pickle (found in its first bytes) or a broken file; :class:`DownloadFailed` when the
    server cannot be reached or does not give the whole file.
    """
    partial = target.with_name(f"{target.name}.part")
    tag = target.with_name(f"{target.name}.part.etag")
    target.parent.mkdir(parents=True, exist_ok=True)
    show = progress or (lambda done, total: None)
    transfer = _Transfer(_address(url), target.name, partial, tag, num_bytes, show)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            found = transfer.run()
            break
        except (_Interrupted, ConnectionError, TimeoutError, http.client.HTTPException) as error:
            if attempt == _ATTEMPTS:
                have = partial.stat().st_size if partial.exists() else 0
                raise DownloadFailed(
                    f"{url} broke off at {have} bytes, {_ATTEMPTS} times. Try again to go on from there."
                ) from error
    try:
        _check(found, target.name, sha256, num_bytes)
        if target.suffix == ".safetensors":
            read_tensors(partial)
    except RefusedWeights:
        partial.unlink()
        tag.unlink(missing_ok=True)
        raise
    partial.replace(target)
    tag.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return found


def _address(url: str) -> str:
    """``url`` at the mirror that HF_ENDPOINT names, if any. Raises where HF_HUB_OFFLINE forbids it."""
    from huggingface_hub import constants

    if not url.startswith(_HUB):
        return url
    if constants.HF_HUB_OFFLINE:
        raise DownloadFailed(f"{url} is not fetched: HF_HUB_OFFLINE is set.")
    return f"{constants.ENDPOINT.rstrip('/')}/{url.removeprefix(_HUB)}"


def _check(found: Fetched, name: str, sha256: str | None, num_bytes: int | None) -> None:
    if num_bytes is not None and found.num_bytes != num_bytes:
        raise RefusedWeights(f"{name} is refused: it has {found.num_bytes} bytes, not {num_bytes}.")
    if sha256 is not None and found.sha256 != sha256:
        raise RefusedWeights(f"{name} is refused: its SHA-256 is {found.sha256}, not {sha256}.")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class _Transfer:
    """One file on its way. ``run`` may be called again after an interruption."""

    url: str
    name: str
    partial: Path
    tag: Path
    num_bytes: int | None
    progress: Progress

    def run(self) -> Fetched:
        digest, have = self._arrived()
        try:
            with urllib.request.urlopen(self._request(have), timeout=_TIMEOUT_S) as response:
                if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                    digest, have = hashlib.sha256(), 0
                return self._receive(response, digest, have)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
                # All of it is here already, or it is of another file: the hash will tell.
                if have == self.num_bytes:
                    return Fetched(have, digest.hexdigest())
                self.partial.unlink()
                raise _Interrupted from error
            if error.code in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
                raise DownloadFailed(
                    f"{self.url} answered {error.code}: it wants a login. Download it by hand, accepting its "
                    "terms, and use `limner weights import`."
                ) from error
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                raise DownloadFailed(f"{self.url} answered {error.code} {error.reason}.") from error
            raise _Interrupted from error
        except urllib.error.URLError as error:
            raise DownloadFailed(f"{self.url} cannot be reached: {error.reason}.") from error

    def _arrived(self) -> tuple[_Hash, int]:
        """Hash and number of the bytes that earlier tries left."""
        digest, have = hashlib.sha256(), 0
        if not self.partial.exists():
            return digest, have
        with self.partial.open("rb") as file:
            while part := file.read(_CHUNK_BYTES):
                digest.update(part)
                have += len(part)
        return digest, have

    def _request(self, have: int) -> urllib.request.Request:
        headers = {"User-Agent": "limner", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if self.tag.exists():
                # The server starts over by itself if the file is no longer the same.
                headers["If-Range"] = self.tag.read_text("utf-8")
        return urllib.request.Request(self.url, headers=headers)

    def _receive(self, response: http.client.HTTPResponse, digest: _Hash, have: int) -> Fetched:
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        if total is not None and shutil.disk_usage(self.partial.parent).free < total - have + _RESERVE_BYTES:
            raise DownloadFailed(f"{self.name} needs {total - have} bytes, more than are free on the disk.")
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            self.tag.write_text(etag, "utf-8")
        else:
            self.tag.unlink(missing_ok=True)
        with self.partial.open("ab" if have else "wb") as file:
            while part := response.read(_CHUNK_BYTES):
                if have < START_BYTES and self.name.endswith(".safetensors"):
                    self._check_start(file.name, have, part)
                digest.update(part)
                file.write(part)
                have += len(part)
                self.progress(have, total)
            file.flush()
            os.fsync(file.fileno())
        if total is not None and have < total:
            raise _Interrupted
        return Fetched(have, digest.hexdigest())

    def _check_start(self, partial: str, have: int, part: bytes) -> None:
        """Refuse another format before gigabytes of it have arrived."""
        with open(partial, "rb") as file:
            first = (file.read(have) + part)[:START_BYTES]
        if len(first) < START_BYTES:
            return
        try:
            check_start(first, self.name)
        except RefusedWeights:
            self.partial.unlink()
            self.tag.unlink(missing_ok=True)
            raise
