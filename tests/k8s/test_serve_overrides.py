"""Ray Serve itself makes of an overlay's arguments and overrides what the checks here assume."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.application_state import override_deployment_info
from ray.serve._private.build_app import build_app
from ray.serve._private.config import ReplicaConfig
from ray.serve._private.deployment_info import DeploymentInfo
from ray.serve.schema import ServeApplicationSchema

from core.settings import EMBEDDED_FAMILY
from serve_app.app import build
from tests.k8s.manifests import K8S, OVERLAYS, rendered, serve_config
from tests.k8s.serve_checks import Deployment, deployments, max_replicas


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serve_honours_arguments_and_overrides_together(overlay: str) -> None:
    documents = rendered(K8S / "overlays" / overlay)
    application = serve_config(documents)["applications"][0]
    # Only the embedded model is sure to be installed.
    arguments = {**application["args"], "model": EMBEDDED_FAMILY}
    builder: Any = build
    built = build_app(call_user_app_builder_with_args_if_necessary(builder, arguments), name="limner")
    infos = {
        each.name: DeploymentInfo(
            deployment_config=each._deployment_config,
            # Without the other deployments' handles, which want a running controller.
            replica_config=ReplicaConfig.create(object, ray_actor_options=each.ray_actor_options),
            start_time_ms=0,
            deployer_job_id="",
        )
        for each in built.deployments
    }
    deployed = override_deployment_info(infos, ServeApplicationSchema.model_validate(application))
    found = {name: _seen(name, info) for name, info in deployed.items()}
    assert found == {each.name: each for each in deployments(documents)}


def _seen(name: str, info: DeploymentInfo) -> Deployment:
    options = info.replica_config.ray_actor_options or {}
    return Deployment(
        name,
        max_replicas(info.deployment_config),
        options.get("label_selector") or {},
        options["num_cpus"],
        options.get("num_gpus", 0),
        info.deployment_config.graceful_shutdown_timeout_s,
    )
