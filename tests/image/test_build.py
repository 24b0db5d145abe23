"""How builders are called, and that what pip here is told reaches the build and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from image.build import ENGINES, builder, parsed_settings, pip_flags, tags, version

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


@pytest.mark.parametrize("engine", ENGINES)
def test_an_index_is_handed_over_as_a_secret(engine: str, tmp_path: Path) -> None:
    settings = {"index-url": "https://me:token@packages.example.com/simple", "cert": "/certificates.crt"}
    flags = pip_flags(engine, settings, tmp_path)
    assert flags == [
        *("--secret", "id=certificates,src=/certificates.crt"),
        *("--secret", f"id=pip,src={tmp_path / 'pip.conf'}"),
    ]
    assert (tmp_path / "pip.conf").read_text("utf-8").splitlines() == [
        "[global]",
        "index-url = https://me:token@packages.example.com/simple",
        "cert = /run/secrets/certificates",
    ]


def test_folders_that_pip_looks_into_are_mounted_where_that_can_be(tmp_path: Path) -> None:
    index, wheels = tmp_path / "mirror" / "simple", tmp_path / "wheels"
    index.mkdir(parents=True)
    wheels.mkdir()
    settings = {"extra-index-url": f"file://{index}", "find-links": f"{wheels} /not/there"}
    own = ["--build-arg", "EXTRA_INDEX_URL="]
    mounted = [f"{path}:{path}:ro" for path in (index.parent, wheels)]
    assert [flag for flag in pip_flags("podman", settings, tmp_path) if flag in mounted] == mounted
    docker = pip_flags("docker", settings, tmp_path)
    assert "--volume" not in docker
    assert docker[-2:] == own


def test_a_machine_without_settings_hands_nothing_over(tmp_path: Path) -> None:
    assert pip_flags("podman", {}, tmp_path) == []
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("engine", ["podman", "buildah"])
def test_the_format_has_health_checks(engine: str) -> None:
    command = builder(engine)
    assert command[command.index("--format") + 1] == "docker"


def test_a_tag_says_version_and_variant() -> None:
    assert tags("registry.example.com/limner", "cuda") == [f"registry.example.com/limner:{version()}-cuda"]
    assert tags("limner", "cpu") == [f"limner:{version()}-cpu", "limner:local"]
