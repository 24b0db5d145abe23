"""A burst, then idleness, then a training, on a Ray cluster of a manifest's worker groups.

Run by ``test_scaling.py`` in namespaces of its own. The nodes are Ray's fake ones: real raylets whose GPUs
are only said to be there. Groups, labels, resources and bounds are the manifest's; only waits are shortened.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.k8s.manifests import K8S, ray_cluster, rendered, serve_config, settings

IDLE_S = 5
LIMIT_S = 240
NUM_REQUESTS = 10
MODULE = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"


def main(overlay: str, folder: str, grown: str) -> None:
    """Prints one line of JSON, last, if nodes came as ``grown`` says, and went again."""
    documents = rendered(K8S / "overlays" / overlay)
    start(documents, Path(folder))
    ray.init(address="auto", log_to_driver=False)
    groups = ray_cluster(documents)["workerGroupSpecs"]
    minimum = {each["groupName"]: each["minReplicas"] for each in groups}
    nodes_become(minimum, groups)
    serve.start(proxy_location="Disabled")
    config = serve_config(documents)["applications"][0]
    (denoiser,) = (each for each in config["deployments"] if each["name"] == "Denoiser")
    at_most = {**minimum, **json.loads(grown)}
    num_replicas = sum(number for name, number in at_most.items() if name.startswith("gpu"))
    application = stand_in(denoiser["ray_actor_options"], num_replicas)
    handle = serve.run(application, name="limner", route_prefix=None)
    with ThreadPoolExecutor() as pool:
        answers = pool.submit(asyncio.run, burst(handle))
        nodes_become(at_most, groups)
        roles = answers.result()
    nodes_become(minimum, groups)
    own = settings(documents).training
    training = ray.remote(num_cpus=0.1, num_gpus=own.num_gpus, label_selector=own.label_selector)(where)
    trained_on = ray.get(training.remote(), timeout=LIMIT_S)
    at_training = nodes(groups)
    nodes_become(minimum, groups)
    print(json.dumps({"roles": roles, "trained_on": trained_on["role"], "at_training": at_training}))


def start(documents: list[dict[str, Any]], folder: Path) -> None:
    """The head of a cluster with our groups."""
    cluster = {"metadata": {"name": "limner", "namespace": "limner"}, "spec": ray_cluster(documents)}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    types = config["available_node_types"]
    types["ray.head.default"] = types.pop("headgroup")
    config["head_node_type"] = "ray.head.default"
    for each in types.values():
        each["resources"].pop("memory", None)  # nobody asks for it, and this machine has less
        each.pop("idle_timeout_s", None)
    config["idle_timeout_minutes"] = IDLE_S / 60
    config["provider"] = {
        "type": "external",
        "module": MODULE,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "launch_multiple": True,
    }
    path = folder / "autoscaling.json"
    path.write_text(json.dumps(config))
    os.environ.update(
        RAY_FAKE_CLUSTER="1",
        RAY_enable_autoscaler_v2="1",
        RAY_CLOUD_INSTANCE_ID=FAKE_HEAD_NODE_ID,
        RAY_OVERRIDE_NODE_ID_FOR_TESTING=FAKE_HEAD_NODE_ID,
        AUTOSCALER_UPDATE_INTERVAL_S="1",
        RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY="1",
    )
    subprocess.run(
        [
            Path(sys.executable).with_name("ray"),
            *("start", "--head", "--num-cpus=0", "--include-dashboard=false", "--disable-usage-stats"),
            *(f"--temp-dir={folder}", f"--autoscaling-config={path}", "--object-store-memory=100000000"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


class Denoiser:
    """One without a network; it tells the role of its node."""

    async def denoise(self, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return where()["role"]


def stand_in(options: dict[str, Any], num_replicas: int) -> serve.Application:
    """A Denoiser's deployment with the labels and shares that the manifest asks for, scaled by its queue."""
    deployment = serve.deployment(
        ray_actor_options=options,
        max_ongoing_requests=1,
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": num_replicas,
            "target_ongoing_requests": 1,
            "upscale_delay_s": 0,
            "downscale_delay_s": 3,
            "metrics_interval_s": 0.5,
        },
    )
    return deployment(Denoiser).bind()


def where() -> dict[str, str]:
    """The labels of the node that this runs on."""
    context = ray.get_runtime_context()
    (labels,) = (each["Labels"] for each in ray.nodes() if each["NodeID"] == context.get_node_id())
    return dict(labels)


def nodes(groups: list[dict[str, Any]]) -> dict[str, int]:
    """How many worker nodes of each group are there now."""
    there = [each["Labels"].items() for each in ray.nodes() if each["Alive"]]
    return {each["groupName"]: sum(each["labels"].items() <= labels for labels in there) for each in groups}


def nodes_become(expected: dict[str, int], groups: list[dict[str, Any]]) -> None:
    limit = time.monotonic() + LIMIT_S
    while (there := nodes(groups)) != expected:
        assert time.monotonic() < limit, f"{there} is not {expected}"
        time.sleep(0.5)


async def burst(handle: Any) -> list[str]:
    """Where the requests were answered that came while all replicas were busy."""
    return list(await asyncio.gather(*(_answer(handle) for _ in range(NUM_REQUESTS))))


async def _answer(handle: Any) -> str:
    return str(await handle.denoise.remote(20))


if __name__ == "__main__":
    main(*sys.argv[1:])
