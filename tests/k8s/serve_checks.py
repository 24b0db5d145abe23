"""Whether what Serve deploys fits what the worker groups offer. Each check yields what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ray.serve._private.build_app import build_app
from ray.serve._private.config import DeploymentConfig

from core.settings import EMBEDDED_FAMILY, AppSettings
from serve_app.app import build
from serve_app.cli import SPEECH
from tests.k8s.manifests import Document, pods, ray_cluster, serve_config, settings
from weights.catalogue import entries


@dataclass(frozen=True)
class Deployment:
    """A deployment of the application with the overrides of the manifest."""

    name: str
    max_replicas: int
    labels: Mapping[str, str]
    num_cpus: float
    num_gpus: float
    shutdown_s: float


def max_replicas(config: DeploymentConfig) -> int:
    """How many replicas there may be, with or without autoscaling."""
    scaling = config.autoscaling_config
    return scaling.max_replicas if scaling else config.num_replicas or 1


@cache
def _built(own: str) -> tuple[tuple[str, dict[str, Any], int, float], ...]:
    application = build_app(build(AppSettings.model_validate_json(own)), name="limner")
    return tuple(
        (
            each.name,
            dict(each.ray_actor_options or {}),
            max_replicas(each._deployment_config),
            each._deployment_config.graceful_shutdown_timeout_s,
        )
        for each in application.deployments
    )


def deployments(documents: list[Document]) -> list[Deployment]:
    """The application's, whose code sets what the manifest does not override."""
    embedded = settings(documents).model_copy(update={"model": EMBEDDED_FAMILY})
    application = serve_config(documents)["applications"][0]
    overrides = {each["name"]: each for each in application.get("deployments", [])}
    found = []
    for name, options, most, shutdown_s in _built(embedded.model_dump_json()):
        own = overrides.pop(name, {})
        options = own.get("ray_actor_options", options)
        found.append(
            Deployment(
                name,
                own.get("num_replicas", most),
                options.get("label_selector") or {},
                options.get("num_cpus", 1),
                options.get("num_gpus", 0),
                own.get("graceful_shutdown_timeout_s", shutdown_s),
            )
        )
    assert not overrides, f"no such deployments: {sorted(overrides)}"
    return found


def takes(group: Document, labels: Mapping[str, str], num_cpus: float, num_gpus: float) -> bool:
    """Whether Ray may place this on a node of the group."""
    own = group["resources"]
    return (
        labels.items() <= group.get("labels", {}).items()
        and num_cpus <= float(own["CPU"])
        and num_gpus <= float(own.get("GPU", 0))
    )


def fitting(documents: list[Document]) -> Iterator[str]:
    """Every deployment has a group, and its groups' largest sizes hold all its replicas."""
    groups = ray_cluster(documents)["workerGroupSpecs"]
    wanted: dict[tuple[str, ...], float] = {}
    for each in deployments(documents):
        fit = [group for group in groups if takes(group, each.labels, each.num_cpus, each.num_gpus)]
        if not fit:
            yield f"{each.name} fits no group"
        names = tuple(group["groupName"] for group in fit)
        wanted[names] = wanted.get(names, 0) + each.max_replicas * each.num_gpus
    for names, num_gpus in wanted.items():
        offered = sum(
            g["maxReplicas"] * int(g["resources"].get("GPU", 0)) for g in groups if g["groupName"] in names
        )
        if num_gpus > offered:
            yield f"{num_gpus:.1f} GPUs are wanted of {', '.join(names)}, which have {offered}"


def training(documents: list[Document]) -> Iterator[str]:
    """A training has a group of its own, from zero, with room for as many as the Trainer runs."""
    own, groups = settings(documents).training, ray_cluster(documents)["workerGroupSpecs"]
    num_gpus = own.num_gpus if settings(documents).use_gpu else 0
    fit = [group for group in groups if takes(group, own.label_selector, 0.1, num_gpus)]
    if not fit:
        yield "a training fits no group"
    if not own.label_selector:
        return
    if sum(group["maxReplicas"] for group in fit) < own.max_concurrent:
        yield "more trainings run at a time than their group has pods"
    for group in fit:
        if group["minReplicas"] != 0:
            yield "training nodes are kept without a training"
        guests = [
            each.name
            for each in deployments(documents)
            if takes(group, each.labels, each.num_cpus, each.num_gpus)
        ]
        if guests:
            yield f"training nodes may be taken by {', '.join(guests)}"


def drain(documents: list[Document]) -> Iterator[str]:
    """Ray drains for as long as the slowest replica that may run there, and Kubernetes waits for Ray."""
    by_name = {pod.name: pod for pod in pods(documents)}
    for group in ray_cluster(documents)["workerGroupSpecs"]:
        pod = by_name[group["groupName"]]
        drain_s = float(pod.env()["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        if pod.spec["terminationGracePeriodSeconds"] < drain_s + 5:
            yield f"group {pod.name}: Kubernetes kills what Ray still drains"
        for each in deployments(documents):
            if takes(group, each.labels, each.num_cpus, each.num_gpus) and each.shutdown_s >= drain_s:
                yield f"group {pod.name}: {each.name} needs {each.shutdown_s:.0f} s of {drain_s:.0f}"


def model(documents: list[Document]) -> Iterator[str]:
    """Who computes with a model that is not in the image has checked its files and those of its parts."""
    chosen = entries()[settings(documents).model]
    expected = [] if chosen.embedded else [chosen.model_id, *chosen.requires]
    for pod in pods(documents):
        checked = [
            each["args"] for each in pod.spec.get("initContainers", []) if each["name"] == "verify-weights"
        ]
        if (
            expected
            and pod.name in ("gpu", "gpu-spot", "training")
            and [set(args) for args in checked] != [set(expected)]
        ):
            yield f"{pod.name} verifies {checked}, not {expected}"


def stores(documents: list[Document]) -> Iterator[str]:
    """Who opens the database or the blob store has its Secret, and nobody else has."""
    own = settings(documents).store
    has_database, has_blobs = bool(own.database), bool(own.blobs)
    for pod in pods(documents):
        secrets = {each["secretRef"]["name"] for each in pod.spec["containers"][0].get("envFrom", [])}
        worker = pod.labels.get("ray.io/node-type") == "worker"
        if ("limner-database" in secrets) != (has_database and pod.name in ("router", "training")):
            yield f"{pod.name}: the database's Secret is missing or too much"
        if ("limner-blobs" in secrets) != (has_blobs and worker):
            yield f"{pod.name}: the blob store's Secret is missing or too much"
        if worker and not has_database and not any(each["name"] == "data" for each in pod.spec["volumes"]):
            yield f"{pod.name} would keep the store in a folder that is lost with it"
    if (
        not has_database
        and sum(group["maxReplicas"] for group in ray_cluster(documents)["workerGroupSpecs"]) > 1
    ):
        yield "SQLite would be shared between pods"


def http(documents: list[Document]) -> Iterator[str]:
    options = serve_config(documents)["http_options"]
    if options["host"] != "0.0.0.0":
        yield "the proxy listens where nobody reaches it"
    for pod in pods(documents):
        if "ray.io/is-ray-node" in pod.labels and pod.ports().get("serve") != options["port"]:
            yield f"{pod.name}: the port named serve is not {options['port']}"
    for each in documents:
        if each["kind"] == "HTTPRoute":
            ports = {backend["port"] for rule in each["spec"]["rules"] for backend in rule["backendRefs"]}
            if ports != {options["port"]}:
                yield f"HTTPRoute leads to {sorted(ports)}"


def speech(documents: list[Document]) -> Iterator[str]:
    """Replicas on different settings would not understand each other."""
    for pod in pods(documents):
        if "ray.io/is-ray-node" in pod.labels and not SPEECH.items() <= pod.env().items():
            yield f"{pod.name}: its replicas talk in another way than those of limner serve"


CHECKS = (fitting, training, drain, model, stores, http, speech)
