"""From the queue to nodes and back, with Ray's own autoscaler and the worker groups of our manifest."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from serve_app.cli import scratch_folder
from tests.readme import ROOT

pytestmark = pytest.mark.slow

LIMIT_S = 900
NAMESPACES = ("unshare", "--net", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child")


def can_unshare() -> bool:
    return subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make namespaces")
def test_a_burst_and_a_training_bring_nodes_that_go_again() -> None:
    # As many as Denoisers of 0.6 GPU need, and nothing else comes for them.
    grown = {"gpu": 4}
    with scratch_folder() as folder:
        arguments = f"gpu {folder} {shlex.quote(json.dumps(grown))}"
        scene = f"ip link set lo up && exec {sys.executable} -m tests.k8s.scaling_scene {arguments}"
        done = subprocess.run(
            [*NAMESPACES, "sh", "-c", scene],
            cwd=ROOT,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert set(seen["roles"]) == {"serving"}
    assert seen["trained_on"] == "training"
    assert seen["at_training"]["training"] == 1
