"""What Ray's autoscaler reads off our manifest, by the function with which it reads that of a cluster."""

from __future__ import annotations

from typing import Any

import pytest
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from tests.k8s.manifests import K8S, OVERLAYS, ray_cluster, rendered


def node_types(overlay: str) -> dict[str, Any]:
    """The autoscaler's node types; labels, resources and bounds of each."""
    spec = ray_cluster(rendered(K8S / "overlays" / overlay))
    cluster = {"metadata": {"name": "limner", "namespace": "limner"}, "spec": spec}
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    types: dict[str, Any] = config["available_node_types"]
    return types


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_head_offers_nothing(overlay: str) -> None:
    head = node_types(overlay)["headgroup"]
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]


def test_every_pod_of_the_gpu_groups_has_one_gpu_even_a_slice() -> None:
    types = node_types("gpu-large")
    assert {name: each["resources"].get("GPU", 0) for name, each in types.items()} == {
        "headgroup": 0,
        "router": 0,
        "gpu": 1,
        "gpu-spot": 1,
        "training": 1,
    }


def test_bounds_labels_and_preference() -> None:
    types = node_types("gpu-large")
    training, spot, gpu = types["training"], types["gpu-spot"], types["gpu"]
    assert (training["min_workers"], training["max_workers"]) == (0, 4)
    assert training["labels"] == {"role": "training"}
    assert spot["priority"] > gpu.get("priority", 0)
    assert spot["labels"] == {"role": "serving", "capacity": "spot"}
    assert gpu["idle_timeout_s"] > spot["idle_timeout_s"] > training["idle_timeout_s"]


def test_one_pool_has_no_spot_nodes() -> None:
    assert set(node_types("gpu")) == {"headgroup", "router", "gpu", "training"}


def test_a_laptop_has_one_worker() -> None:
    types = node_types("local")
    assert set(types) == {"headgroup", "router"}
    assert types["router"]["min_workers"] == types["router"]["max_workers"] == 1
