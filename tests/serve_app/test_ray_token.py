"""The token of the local Ray cluster: secret, kept, one for each folder."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serve_app.ray_token import ray_token


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = ray_token(tmp_path / "data")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) == 64


def test_the_next_start_finds_the_same(tmp_path: Path) -> None:
    first = ray_token(tmp_path).read_text()
    assert ray_token(tmp_path).read_text() == first


def test_each_folder_has_its_own(tmp_path: Path) -> None:
    assert ray_token(tmp_path / "a").read_text() != ray_token(tmp_path / "b").read_text()


def test_starts_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: ray_token(tmp_path).read_text(), range(32)))
    assert len(found) == 1


def test_an_empty_file_of_a_start_that_was_cut_off_is_filled(tmp_path: Path) -> None:
    (tmp_path / "ray-token").touch()
    assert len(ray_token(tmp_path).read_text()) == 64
