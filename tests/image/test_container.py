"""The image does what the manifests and `docker run` ask of it: `make image-test` builds it and runs this."""

from __future__ import annotations

import io
import time
import tomllib
from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from image.build import version
from tests.image.container import GRACE_S, IMAGE, Container, engine, running
from tests.image.ignored import would_be_copied
from tests.readme import ROOT

pytestmark = pytest.mark.slow
PROMPT = "cartoon portrait of a smiling woman with brown hair, purple dress, yellow background"
LOCK = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line
)


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    found = engine()
    if found is None:
        pytest.skip(f"no Docker or Podman with {IMAGE}: `make image` builds it")
    with running(found) as started:
        yield started


def test_a_picture_is_drawn(container: Container) -> None:
    began = time.monotonic()
    answer = httpx.post(
        f"{container.url}/v1/text-to-image",
        json={"prompt": PROMPT, "seed": 7},
        headers={"Accept": "image/png"},
        timeout=120,
    ).raise_for_status()
    with Image.open(io.BytesIO(answer.content)) as drawn:
        assert drawn.size == (128, 128)
        assert len(drawn.convert("RGB").getcolors(maxcolors=128 * 128) or ()) > 100
    took_s = time.monotonic() - began
    print(f"\nready after {container.ready_after_s:.1f} s, first picture {took_s:.1f} s later")


def test_nobody_is_root_and_nothing_is_written_outside_of_volumes(container: Container) -> None:
    assert container.output("id", "-u") == "1000"
    owners = container.output("sh", "-c", "stat -c %u /proc/[0-9]* 2> /dev/null | sort -u")
    assert owners == "1000"
    for place in ("/", "/app", "/opt/venv", "/usr/local/bin", "/etc"):
        assert container.run("touch", f"{place}/x").returncode != 0
    for place in ("/data", "/tmp"):
        assert container.run("touch", f"{place}/x").returncode == 0
    rights = container.output("sh", "-c", "grep -h CapEff /proc/[0-9]*/status 2> /dev/null | sort -u")
    assert set(rights.split()[1]) == {"0"}


def test_a_login_shell_finds_what_the_manifests_call(container: Container) -> None:
    for shell in (("bash", "-c"), ("bash", "-lc")):
        for command in ("limner", "ray", "serve", "wget"):
            container.output(*shell, f"command -v {command}")
    assert container.output("bash", "-lc", "ray --version").endswith(LOCK["ray"])
    assert "mini" in container.output("limner", "weights", "list")


def test_the_autoscaler_that_kuberay_runs_beside_the_head_can_be_imported(container: Container) -> None:
    container.output("python", "-c", "import ray.autoscaler._private.kuberay.run_autoscaler")


def test_every_dependency_is_the_locks(container: Container) -> None:
    program = (
        "from importlib.metadata import distributions as d\nfor each in d(): print(each.name, each.version)"
    )
    found = dict(line.split() for line in container.output("python", "-c", program).splitlines())
    pinned = {name.lower().replace("_", "-"): number for name, number in LOCK.items()}
    installed = {name.lower().replace("_", "-"): number for name, number in found.items()}
    assert installed.pop("torch") == f"{pinned['torch']}+cpu"
    assert {"ray", "diffusers", "psycopg", "s3fs"} <= installed.keys()
    assert installed.items() <= pinned.items()


def test_the_model_in_it_is_whole(container: Container) -> None:
    assert "mini" in container.output("limner", "weights", "verify", "mini")


def test_the_code_in_it_is_what_the_builder_was_given(container: Container) -> None:
    listed = container.output("find", "/app", "-type", "f", "!", "-name", "*.pyc").splitlines()
    inside = {path.removeprefix("/app/") for path in listed}
    assert inside == {path for path in would_be_copied() if not path.startswith("image/")}


def test_it_has_no_compiler_and_no_leftovers(container: Container) -> None:
    for command in ("gcc", "cc", "g++", "make", "pip", "git"):
        assert container.run("sh", "-c", f"command -v {command}").returncode != 0
    for place in ("/root/.cache", "/var/cache/apt/archives", "/var/lib/apt/lists", "/run/secrets"):
        assert not container.run("sh", "-c", f"ls {place}/*").stdout
    assert container.output("ls", "/opt") == "venv"
    secret = "find / -xdev -name pip.conf -o -xdev -name install.sh"
    assert not container.run("sh", "-c", secret).stdout


def test_the_health_check_passes(container: Container) -> None:
    form, *command = container.inspected()["Config"]["Healthcheck"]["Test"]
    assert form == "CMD"
    container.output(*command)


def test_its_labels_name_version_and_commit(container: Container) -> None:
    labels = container.inspected()["Config"]["Labels"]
    assert labels["org.opencontainers.image.version"] == version()
    licence = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["license"]
    assert labels["org.opencontainers.image.licenses"] == licence
    assert len(labels["org.opencontainers.image.revision"]) == 40


def test_sigterm_stops_it_in_time(container: Container) -> None:
    """The last test: nothing runs afterwards."""
    took_s = container.stop()
    state = container.inspected()["State"]
    assert state["ExitCode"] == 0, f"after {took_s:.1f} s"
    assert took_s < GRACE_S
    print(f"\nstopped after {took_s:.1f} s")
