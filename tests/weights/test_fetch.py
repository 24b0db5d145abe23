"""Downloads from a real server: resumed, checked, and never in the way of a good old file."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.weights.file_server import FileServer, serving
from weights import fetch as fetching
from weights.errors import DownloadFailed, RefusedWeights
from weights.fetch import fetch

WEIGHTS = save({"w": torch.arange(500_000, dtype=torch.float32)})
DIGEST = sha256(WEIGHTS).hexdigest()


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving({"/w.safetensors": WEIGHTS, "/notes.json": b"{}"}) as served:
        yield served


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_whole_with_its_hash_and_progress(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "w.safetensors"
    found = fetch(
        f"{server.url}/w.safetensors",
        target,
        sha256=DIGEST,
        num_bytes=len(WEIGHTS),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert target.read_bytes() == WEIGHTS
    assert (found.num_bytes, found.sha256) == (len(WEIGHTS), DIGEST)
    assert seen[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert seen == sorted(seen)
    assert leftovers(target.parent) == {"w.safetensors"}


def test_a_broken_connection_is_resumed_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [700_000, 500_000]
    found = fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors", sha256=DIGEST)
    assert found.sha256 == DIGEST
    ranges = [asked for _, asked in server.requests]
    assert ranges == [None, "bytes=700000-", "bytes=1200000-"]


def test_a_transfer_that_keeps_breaking_fails_and_goes_on_the_next_time(
    server: FileServer, tmp_path: Path
) -> None:
    target = tmp_path / "w.safetensors"
    target.write_bytes(b"the old one")
    server.cut_after = [300_000, 0, 0, 0]
    with pytest.raises(DownloadFailed, match="broke off at 300000 bytes"):
        fetch(f"{server.url}/w.safetensors", target, sha256=DIGEST)
    assert target.read_bytes() == b"the old one"
    server.requests.clear()
    assert fetch(f"{server.url}/w.safetensors", target, sha256=DIGEST).sha256 == DIGEST
    assert server.requests == [("/w.safetensors", "bytes=300000-")]
    assert target.read_bytes() == WEIGHTS


def test_a_file_that_changed_meanwhile_starts_over(server: FileServer, tmp_path: Path) -> None:
    server.cut_after = [300_000, 0, 0, 0]
    with pytest.raises(DownloadFailed):
        fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors")
    changed = save({"w": torch.ones(400_000)})
    server.files["/w.safetensors"] = changed
    found = fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors")
    assert found.sha256 == sha256(changed).hexdigest()


def test_a_server_without_ranges_sends_it_all_again(server: FileServer, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, [300_000]
    found = fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors")
    assert found.sha256 == DIGEST


def test_what_is_all_here_already_is_not_sent_again(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors.part").write_bytes(WEIGHTS)
    found = fetch(
        f"{server.url}/w.safetensors", tmp_path / "w.safetensors", sha256=DIGEST, num_bytes=len(WEIGHTS)
    )
    assert found.sha256 == DIGEST


def test_an_overlong_leftover_is_thrown_away(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors.part").write_bytes(WEIGHTS + b"more")
    assert fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors").sha256 == DIGEST


def test_a_truncated_file_of_unknown_length_is_refused(server: FileServer, tmp_path: Path) -> None:
    server.sizes, server.cut_after = False, [300_000]
    with pytest.raises(RefusedWeights, match="truncated: it has 300000 of"):
        fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors")
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize(
    ("expected", "message"),
    [({"sha256": "0" * 64}, f"its SHA-256 is {DIGEST}, not 0000"), ({"num_bytes": 5}, "bytes, not 5")],
)
def test_another_file_than_expected_is_refused_and_the_old_one_stays(
    expected: dict[str, str | int], message: str, server: FileServer, tmp_path: Path
) -> None:
    target = tmp_path / "w.safetensors"
    target.write_bytes(b"the old one")
    with pytest.raises(RefusedWeights, match=message):
        fetch(f"{server.url}/w.safetensors", target, **expected)  # type: ignore[arg-type]
    assert target.read_bytes() == b"the old one"
    assert leftovers(tmp_path) == {"w.safetensors"}


def test_a_pickle_is_refused_at_its_first_bytes(server: FileServer, tmp_path: Path) -> None:
    server.files["/w.safetensors"] = pickle.dumps(list(range(3_000_000)))
    seen: list[int] = []
    with pytest.raises(RefusedWeights, match="is a pickle"):
        fetch(
            f"{server.url}/w.safetensors",
            tmp_path / "w.safetensors",
            progress=lambda done, total: seen.append(done),
        )
    assert seen == []
    assert leftovers(tmp_path) == set()


def test_redirects_are_followed_and_resumed(server: FileServer, tmp_path: Path) -> None:
    server.redirects["/from"] = f"{server.url}/w.safetensors"
    server.cut_after = [700_000]
    assert fetch(f"{server.url}/from", tmp_path / "w.safetensors", sha256=DIGEST).sha256 == DIGEST
    assert server.requests[-1] == ("/w.safetensors", "bytes=700000-")


@pytest.mark.parametrize(
    ("status", "message"), [(404, "answered 404"), (401, "wants a login"), (403, "wants a login")]
)
def test_a_refusal_of_the_server_is_reported_at_once(
    status: int, message: str, server: FileServer, tmp_path: Path
) -> None:
    server.statuses["/w.safetensors"] = status
    with pytest.raises(DownloadFailed, match=message):
        fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors")
    assert len(server.requests) == 1


def test_a_fault_of_the_server_is_tried_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses["/w.safetensors"] = 503
    with pytest.raises(DownloadFailed, match="broke off at 0 bytes, 4 times"):
        fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors")
    assert len(server.requests) == 4


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with serving({}) as gone:
        url = f"{gone.url}/w.safetensors"
    with pytest.raises(DownloadFailed, match=r"http://127\.0\.0\.1:\d+/w\.safetensors cannot be reached"):
        fetch(url, tmp_path / "w.safetensors")


def test_a_full_disk_is_found_before_the_download(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_RESERVE_BYTES", 10**18)
    with pytest.raises(DownloadFailed, match="more than are free on the disk"):
        fetch(f"{server.url}/w.safetensors", tmp_path / "w.safetensors")


def test_small_text_files_are_fetched_as_they_are(server: FileServer, tmp_path: Path) -> None:
    fetch(f"{server.url}/notes.json", tmp_path / "notes.json")
    assert (tmp_path / "notes.json").read_text() == "{}"


def test_nothing_is_fetched_from_the_hub_where_it_is_switched_off(tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE is set"):
        fetch("https://huggingface.co/some/model/resolve/main/w.safetensors", tmp_path / "w.safetensors")
