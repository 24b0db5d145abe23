"""Builds the image with Docker, Podman or Buildah, whichever is there: ``make image``.

Knows what each of them is told; the Dockerfile knows what is in the image. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from image.folders import served

ROOT = Path(__file__).resolve().parent.parent
NAME = "limner"
ENGINES = ("docker", "podman", "buildah")
VARIANTS = ("cpu", "cuda")
# What pip may be told about where packages are.
_PIP_OPTIONS = ("index-url", "extra-index-url", "find-links", "trusted-host", "cert", "timeout")
_SOURCES = ("extra-index-url", "find-links")
_CERTIFICATES = "/run/secrets/certificates"  # where the Dockerfile's secret of this name is


def main(argv: Sequence[str] | None = None) -> int:
    """Build; returns the exit status."""
    parser = argparse.ArgumentParser(prog="image.build", description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, default="cpu")
    parser.add_argument("--engine", choices=ENGINES, help="otherwise the first that is there")
    parser.add_argument("--base", help="instead of the Dockerfile's")
    parser.add_argument("--name", default=NAME, help="such as registry.example.com/limner")
    parser.add_argument("flags", nargs="*", help="handed to the builder, after --")
    options = parser.parse_args(argv)
    engine = options.engine or available()
    if engine is None:
        print(f"image: none of {', '.join(ENGINES)} works here", file=sys.stderr)
        return 1
    settings = pip_settings()
    with tempfile.TemporaryDirectory() as secrets, served(folders(settings)) as url:
        command = [
            *builder(engine),
            *(flag for tag in tags(options.name, options.variant) for flag in ("--tag", tag)),
            *argument("VARIANT", options.variant),
            *(argument("BASE", options.base) if options.base else ()),
            *commit_flags(engine),
            *pip_flags(settings, url, Path(secrets)),
            *options.flags,
            ".",
        ]
        print(" ".join(command), flush=True)
        return subprocess.run(command, cwd=ROOT, check=False).returncode


def available() -> str | None:
    """The first of the engines that is installed and answers."""
    for engine in ENGINES:
        if shutil.which(engine):
            done = subprocess.run([engine, "info"], capture_output=True, check=False)
            if done.returncode == 0:
                return engine
    return None


def version() -> str:
    """Limner's version, as ``pyproject.toml`` has it."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def tags(name: str, variant: str) -> list[str]:
    """Version and variant; of the CPU's also ``local``, which ``k8s/overlays/local`` takes."""
    return [f"{name}:{version()}-{variant}", *([f"{name}:local"] if variant == "cpu" else [])]


def argument(name: str, value: str) -> tuple[str, str]:
    """A build argument."""
    return "--build-arg", f"{name}={value}"


def builder(engine: str) -> list[str]:
    """The engine's command. Its network is the machine's, so an index on the machine can be reached, too."""
    if engine == "docker":
        return ["docker", "build", "--network", "host"]
    # The OCI's format has no health checks.
    command = "bud" if engine == "buildah" else "build"
    return [engine, command, "--format", "docker", "--layers", "--network", "host"]


def commit_flags(engine: str) -> list[str]:
    """What makes two builds of one commit alike: every time in the image is the commit's."""
    log = ["git", "log", "-1", "--format=%H %ct"]
    done = subprocess.run(log, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:  # not a checkout
        return []
    revision, seconds = done.stdout.split()
    created = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    flags = [*argument("REVISION", revision), *argument("CREATED", created)]
    if engine == "docker":
        return [*flags, *argument("SOURCE_DATE_EPOCH", seconds)]
    return [*flags, "--timestamp", seconds]


def pip_settings() -> dict[str, str]:
    """Where this machine's pip finds packages, by option, from its files and the environment."""
    listing = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(listing, capture_output=True, text=True, check=False)
    return parsed_settings(done.stdout)


def parsed_settings(listed: str) -> dict[str, str]:
    """The options of ``pip config list``. The environment's win over the files'."""
    found: dict[str, str] = {}
    rows = re.findall(r"^([:\w-]+)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)
    for section, option, value in sorted(rows, key=lambda row: row[0] == ":env:"):
        if option in _PIP_OPTIONS and section in ("global", "install", ":env:"):
            found[option] = value.replace("\\n", " ").strip()
    return found


def folders(settings: Mapping[str, str]) -> list[Path]:
    """The local folders among pip's sources; around an index, since it links to files beside it."""
    named = [Path(word.removeprefix("file://")) for word in _sources(settings) if _is_local(word)]
    return sorted({path.parent if path.name == "simple" else path for path in named if path.exists()})


def _sources(settings: Mapping[str, str]) -> list[str]:
    return [word for option in ("index-url", *_SOURCES) for word in settings.get(option, "").split()]


def _is_local(source: str) -> bool:
    return source.startswith(("file://", "/"))


def pip_flags(settings: Mapping[str, str], url: str, secrets: Path) -> list[str]:
    """Lets pip in the build find what pip here finds, by secrets, which no layer keeps.

    ``url`` stands before the paths of local folders, ``secrets`` is a folder that lasts as long as the build.
    A machine with sources of its own is not sent to those of the Dockerfile.
    """
    flags: list[str] = []
    told = dict(settings)
    if "cert" in told:
        flags += ["--secret", f"id=certificates,src={told['cert']}"]
        told["cert"] = _CERTIFICATES
    for option in {"index-url", *_SOURCES} & told.keys():
        told[option] = " ".join(
            url + word.removeprefix("file://") if _is_local(word) else word for word in told[option].split()
        )
    if told:
        secret = secrets / "pip.conf"
        lines = ["[global]", *(f"{key} = {value}" for key, value in told.items())]
        secret.write_text("\n".join(lines) + "\n", "utf-8")
        flags += ["--secret", f"id=pip,src={secret}"]
    if any(source in told for source in _SOURCES):
        flags += argument("EXTRA_INDEX_URL", "")
    return flags


if __name__ == "__main__":
    sys.exit(main())
