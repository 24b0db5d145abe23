"""How builders are called, and that what pip here is told reaches the build and nothing else."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from image.build import builder, folders, parsed_settings, pip_flags, tags, version
from image.folders import served

URL = "http://127.0.0.1:1"

LISTED = """\
:env:.disable-pip-version-check='1'
:env:.find-links='/wheels'
global.cert='/certificates.crt'
global.find-links='/elsewhere'
global.index-url='https://packages.example.com/simple'
user.password='secret'
"""


def test_pips_settings_are_those_about_sources_and_the_environment_wins() -> None:
    assert parsed_settings(LISTED) == {
        "find-links": "/wheels",
        "cert": "/certificates.crt",
        "index-url": "https://packages.example.com/simple",
    }


def test_several_values_are_one_line() -> None:
    listed = r"global.extra-index-url='\nhttps://a.example.com\nhttps://b.example.com'"
    assert parsed_settings(listed) == {"extra-index-url": "https://a.example.com https://b.example.com"}


def test_an_index_is_handed_over_as_a_secret(tmp_path: Path) -> None:
    settings = {"index-url": "https://me:token@packages.example.com/simple", "cert": "/certificates.crt"}
    assert pip_flags(settings, URL, tmp_path) == [
        *("--secret", "id=certificates,src=/certificates.crt"),
        *("--secret", f"id=pip,src={tmp_path / 'pip.conf'}"),
    ]
    assert (tmp_path / "pip.conf").read_text("utf-8").splitlines() == [
        "[global]",
        "index-url = https://me:token@packages.example.com/simple",
        "cert = /run/secrets/certificates",
    ]


def test_folders_that_pip_looks_into_are_served(tmp_path: Path) -> None:
    index, wheels = tmp_path / "mirror" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    settings = {"extra-index-url": f"file://{index} https://a.example.com", "find-links": str(wheels)}
    assert folders({**settings, "index-url": "/not/there"}) == [index.parent, wheels]
    assert pip_flags(settings, URL, tmp_path)[-2:] == ["--build-arg", "EXTRA_INDEX_URL="]
    told = (tmp_path / "pip.conf").read_text("utf-8").splitlines()
    assert f"extra-index-url = {URL}{index} https://a.example.com" in told
    assert f"find-links = {URL}{wheels}" in told


def test_only_the_folders_that_are_named_are_served(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "a.whl").write_text("a wheel")
    (ours / "way").symlink_to(theirs)
    with served([ours]) as url:
        assert httpx.get(f"{url}{ours}/a.whl").text == "a wheel"
        assert "a.whl" in httpx.get(f"{url}{ours}/").text
        for path in (f"{theirs}/a.whl", f"{tmp_path}/", f"{ours}/way/a.whl", "/etc/passwd", f"{ours}/b.whl"):
            assert httpx.get(f"{url}{path}").status_code == 404
        assert httpx.get(f"{url}{ours}/%2e%2e/theirs/a.whl").status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}{ours}/a.whl")


def test_a_machine_without_settings_hands_nothing_over(tmp_path: Path) -> None:
    assert pip_flags({}, URL, tmp_path) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_the_format_has_health_checks(engine: str) -> None:
    command = builder(engine)
    assert command[command.index("--format") + 1] == "docker"


def test_a_tag_says_version_and_variant() -> None:
    assert tags("registry.example.com/limner", "cuda") == [f"registry.example.com/limner:{version()}-cuda"]
    assert tags("limner", "cpu") == [f"limner:{version()}-cpu", "limner:local"]
