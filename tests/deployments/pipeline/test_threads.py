from __future__ import annotations

import os

from deployments.pipeline.threads import actor_options, num_cores


def test_no_more_cores_than_the_machine_has() -> None:
    assert 1 <= num_cores() <= (os.cpu_count() or 1)


def test_replicas_that_share_cores_spin_only_briefly() -> None:
    options = actor_options(0.25)
    assert options["num_gpus"] == 0.25
    assert options["runtime_env"]["env_vars"]["GOMP_SPINCOUNT"] == "1000"
