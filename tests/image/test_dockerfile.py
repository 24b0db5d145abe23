"""The Dockerfile and .dockerignore agree with the project: names, versions, what is copied, what is not."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from image.build import NAME, VARIANTS, tags, version
from serve_app.api import API_VERSION
from tests.image.ignored import is_ignored, would_be_copied
from tests.k8s.manifests import K8S
from tests.readme import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.*)", DOCKERFILE, re.MULTILINE)
    for source in line.split()[:-1]
    if not source.startswith("--")
]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint is not None
    done = subprocess.run(
        [hadolint, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_exists_and_reaches_the_builder() -> None:
    assert len(COPIED) > 3
    for source in COPIED:
        assert (ROOT / source).exists(), source
        assert source == "." or not is_ignored(source), source


def test_the_versions_agree() -> None:
    (label,) = re.findall(r'image\.version="(.*?)"', DOCKERFILE)
    assert label == version() == PROJECT["project"]["version"] == API_VERSION
    assert "python3.11" in DOCKERFILE
    assert PROJECT["tool"]["mypy"]["python_version"] == "3.11"


def test_the_port_is_that_of_the_service() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text("utf-8"))
    port = config["http_options"]["port"]
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f"LIMNER_PORT={port} " in DOCKERFILE


def test_all_that_is_served_is_copied() -> None:
    copied = would_be_copied()
    (script,) = PROJECT["project"]["scripts"].values()
    assert f"-m {script.partition(':')[0]} " in (ROOT / "image" / "limner.sh").read_text("utf-8")
    for package in PROJECT["tool"]["setuptools"]["packages"]:
        path = package.replace(".", "/")
        assert (f"{path}/__init__.py" in copied) == (path != "weights/recipe"), path
    assert {"serve_config.yaml", "LICENSE", "weights/manifest.toml", "weights/mini/README.md"} <= copied


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".env",
        ".venv/bin/python",
        "core/.env",
        "core/__pycache__/errors.cpython-311.pyc",
        "weights/mini/.cache/token",
        "weights/recipe/draw.py",
        "tests/fakes.py",
        "benchmarks/RESULTS.md",
        "out/runs/unet/checkpoint.pt",
        "docs/pictures/grid.png",
        "k8s/overlays/gpu/serve.yaml",
        "id_rsa",
        "secrets.yaml",
        "pip.conf",
        "image/build.py",
        "limner.db",
    ],
)
def test_what_is_not_served_stays_out(path: str) -> None:
    assert is_ignored(path)


def test_only_what_is_served_gets_in() -> None:
    folders = {path.split("/")[0] for path in would_be_copied() if "/" in path}
    assert folders == {"core", "deployments", "image", "serve_app", "store", "weights"}
    assert not [path for path in would_be_copied() if "test" in path or "benchmark" in path]


def test_the_manifests_name_tags_that_are_built() -> None:
    built = {tag.removeprefix(f"{NAME}:") for variant in VARIANTS for tag in tags(NAME, variant)}
    paths = [*K8S.glob("overlays/*/kustomization.yaml"), K8S / "weights-pull" / "kustomization.yaml"]
    for path in paths:
        (image,) = yaml.safe_load(path.read_text("utf-8"))["images"]
        assert image["name"] == NAME
        assert image["newTag"] in built, path
        assert image["newTag"].endswith("-cuda") == (path.parent.name != "local")


def test_extras_that_the_manifests_need_are_installed() -> None:
    script = (ROOT / "image" / "install.sh").read_text("utf-8")
    assert {"postgres", "s3"} == set(re.findall(r'extras\["(\w+)"\]', script))
