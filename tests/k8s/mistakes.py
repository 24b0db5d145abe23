"""Mistakes that people make in manifests, each with a word of what a check says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from tests.k8s.manifests import Document, group, ray_cluster, the

Mutate = Callable[[list[Document]], Any]


def pod(documents: list[Document], name: str) -> Document:
    """The pod template's spec of the head or a group."""
    own = ray_cluster(documents)["headGroupSpec"] if name == "head" else group(documents, name)
    spec: Document = own["template"]["spec"]
    return spec


def ray(documents: list[Document], name: str) -> Document:
    container: Document = pod(documents, name)["containers"][0]
    return container


def policy(documents: list[Document], name: str) -> Document:
    spec: Document = the(documents, "NetworkPolicy", name)["spec"]
    return spec


def serve(change: Callable[[Document], Any]) -> Mutate:
    """Changes what Serve deploys."""

    def mutate(documents: list[Document]) -> None:
        spec = the(documents, "RayService")["spec"]
        config = yaml.safe_load(spec["serveConfigV2"])
        change(config)
        spec["serveConfigV2"] = yaml.safe_dump(config)

    return mutate


def args(**changes: Any) -> Mutate:
    return serve(lambda config: config["applications"][0]["args"].update(changes))


def override(name: str, **options: Any) -> Mutate:
    """Changes a deployment's override."""

    def change(config: Document) -> None:
        (own,) = (each for each in config["applications"][0]["deployments"] if each["name"] == name)
        own.update(options)

    return serve(change)


def set_env(documents: list[Document], name: str, variable: str, value: str) -> None:
    (found,) = (each for each in ray(documents, name)["env"] if each["name"] == variable)
    found["value"] = value


DRAIN = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
EVERYWHERE = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}
SOME_CPU = {"num_cpus": 0.1}

MISTAKES: dict[str, tuple[Mutate, str]] = {
    "a claim's name": (
        lambda d: pod(d, "gpu")["volumes"][0].update(persistentVolumeClaim={"claimName": "weigths"}),
        "PersistentVolumeClaim",
    ),
    "a Secret's name": (
        lambda d: ray(d, "router")["envFrom"][0].update(secretRef={"name": "limner-db"}),
        "names a Secret",
    ),
    "Redis's Secret": (
        lambda d: ray_cluster(d)["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"][
            "secretKeyRef"
        ].update(name="redis"),
        "names a Secret",
    ),
    "Redis's address": (
        lambda d: ray_cluster(d)["gcsFaultToleranceOptions"].update(redisAddress="redis:6379"),
        "redisAddress",
    ),
    "a priority's name": (lambda d: pod(d, "gpu").update(priorityClassName="serving"), "PriorityClass"),
    "a service account's name": (
        lambda d: pod(d, "head").update(serviceAccountName="head"),
        "ServiceAccount",
    ),
    "a queue's name": (
        lambda d: the(d, "LocalQueue", "limner-training")["metadata"].update(name="training"),
        "LocalQueue",
    ),
    "a route's service": (
        lambda d: the(d, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0].update(name="limner"),
        "names a Service",
    ),
    "a route's port": (
        lambda d: the(d, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0].update(port=80),
        "HTTPRoute leads to",
    ),
    "a namespace": (
        lambda d: the(d, "PodMonitor", "limner-ray")["metadata"].update(namespace="default"),
        "namespace",
    ),
    "a mount without a volume": (lambda d: pod(d, "router")["volumes"].pop(), "mounts no volume"),
    "a volume for nobody": (
        lambda d: pod(d, "gpu")["volumes"].append({"name": "cache", "emptyDir": {}}),
        "nobody mounts",
    ),
    "a service's selector": (
        lambda d: the(d, "Service", "limner-redis")["spec"]["selector"].update(app="redis"),
        "selects no pod",
    ),
    "a budget's selector": (
        lambda d: the(d, "PodDisruptionBudget", "limner-gpu")["spec"]["selector"]["matchLabels"].update(
            x="y"
        ),
        "selects no pod",
    ),
    "a policy's port": (
        lambda d: policy(d, "redis")["ingress"][0]["ports"][0].update(port=6378),
        "has the port 6378",
    ),
    "a policy's peer": (
        lambda d: policy(d, "redis")["ingress"][0]["from"][0]["podSelector"]["matchLabels"].update(x="y"),
        "selects no pod",
    ),
    "a monitor's port": (
        lambda d: the(d, "PodMonitor", "limner-ray")["spec"]["podMetricsEndpoints"][0].update(port="metric"),
        "has the port metric",
    ),
    "a policy that lets out": (
        lambda d: policy(d, "webhooks")["egress"].append(EVERYWHERE),
        "private addresses",
    ),
    "a policy that lets in": (lambda d: policy(d, "gateway")["ingress"].append({}), "lets everybody in"),
    "no isolation": (lambda d: policy(d, "default-deny").update(policyTypes=["Ingress"]), "default-deny"),
    "root": (lambda d: pod(d, "training")["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "a writable root": (
        lambda d: ray(d, "gpu")["securityContext"].update(readOnlyRootFilesystem=False),
        "root file system",
    ),
    "capabilities": (lambda d: ray(d, "gpu")["securityContext"].pop("capabilities"), "keeps capabilities"),
    "an autoscaler's rights": (
        lambda d: ray_cluster(d)["autoscalerOptions"].pop("securityContext"),
        "head/autoscaler may gain",
    ),
    "a token for workers": (lambda d: pod(d, "gpu").pop("automountServiceAccountToken"), "gets a token"),
    "no token for the autoscaler": (
        lambda d: ray_cluster(d)["autoscalerOptions"]["volumeMounts"].pop(),
        "token is mounted by",
    ),
    "a folder of the node": (
        lambda d: pod(d, "gpu")["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
        "folder of its node",
    ),
    "weights that may be changed": (
        lambda d: [each.pop("readOnly", None) for each in ray(d, "gpu")["volumeMounts"]],
        "may change the weights",
    ),
    "no folder to write to": (lambda d: set_env(d, "gpu", "HOME", "/home/limner"), "no folder to write to"),
    "less memory than the limit": (
        lambda d: ray(d, "gpu")["resources"]["requests"].update(memory="1Gi"),
        "requests are not limits",
    ),
    "no bound on the disk": (
        lambda d: [each.pop("ephemeral-storage") for each in ray(d, "gpu")["resources"].values()],
        "fill its node's disk",
    ),
    "more GPUs for Ray than there are": (
        lambda d: group(d, "gpu")["resources"].update(GPU="2"),
        "Ray's GPUs",
    ),
    "more CPUs for Ray than there are": (
        lambda d: group(d, "router")["resources"].update(CPU="64"),
        "Ray's CPUs",
    ),
    "no way onto GPU nodes": (lambda d: pod(d, "gpu").pop("tolerations"), "toleration"),
    "training before serving": (
        lambda d: the(d, "PriorityClass", "limner-training").update(value=1_000_000),
        "training goes before",
    ),
    "all routers on one node": (
        lambda d: pod(d, "router").pop("topologySpreadConstraints"),
        "does not spread",
    ),
    "a budget in percent": (
        lambda d: the(d, "PodDisruptionBudget", "limner-gpu")["spec"].update(minAvailable="50%"),
        "no integer",
    ),
    "a budget of all": (
        lambda d: the(d, "PodDisruptionBudget", "limner-gpu")["spec"].update(minAvailable=4),
        "never be drained",
    ),
    "replicas on the head": (
        lambda d: ray_cluster(d)["headGroupSpec"]["rayStartParams"].pop("num-cpus"),
        "on the head",
    ),
    "no token for Ray": (lambda d: ray_cluster(d).pop("authOptions"), "asks for no token"),
    "more trainings than the quota": (
        lambda d: group(d, "training").update(maxReplicas=5),
        "no quota for 5 pods' cpu",
    ),
    "a slice without a quota": (
        lambda d: [
            each.update({"nvidia.com/mig-1g.10gb": "1"}) for each in ray(d, "training")["resources"].values()
        ],
        "mig-1g.10gb",
    ),
    "two images": (
        lambda d: ray(d, "gpu").update(image="registry.example.com/limner:0.2.0"),
        "more than one image",
    ),
    "a label that no group has": (
        lambda d: group(d, "router").update(labels={"role": "routers"}),
        "Router fits no group",
    ),
    "a share that no GPU has": (
        override("Denoiser", ray_actor_options={"num_gpus": 1.5}),
        "Denoiser fits no group",
    ),
    "more replicas than GPUs": (
        lambda d: [group(d, name).update(maxReplicas=2) for name in ("gpu", "gpu-spot")],
        "GPUs are wanted",
    ),
    "a training's label": (args(training={"label_selector": {"role": "train"}}), "a training fits no group"),
    "a training beside pipelines": (args(training={"label_selector": {"role": "serving"}}), "training nodes"),
    "more trainings than pods": (
        args(training={"max_concurrent": 9, "label_selector": {"role": "training"}}),
        "more trainings",
    ),
    "a guest on training nodes": (override("Router", ray_actor_options=SOME_CPU), "may be taken by Router"),
    "a training node for nothing": (
        lambda d: group(d, "training").update(minReplicas=1),
        "kept without a training",
    ),
    "a drain that is too short": (lambda d: set_env(d, "gpu", DRAIN, "30"), "needs 65 s"),
    "a grace that is too short": (
        lambda d: pod(d, "gpu").update(terminationGracePeriodSeconds=30),
        "still drains",
    ),
    "pipelines on spot nodes": (
        override("TextToImage", ray_actor_options={"num_gpus": 0.1, "label_selector": {"role": "serving"}}),
        "gpu-spot: TextToImage",
    ),
    "another model than the verified": (args(model="stable-diffusion-v1-5"), "verifies"),
    "no Secret for the database": (lambda d: ray(d, "training")["envFrom"].pop(0), "database's Secret"),
    "the database's Secret for all": (
        lambda d: ray(d, "gpu")["envFrom"].append({"secretRef": {"name": "limner-database"}}),
        "database's Secret",
    ),
    "SQLite for many": (args(store={"database": None, "blobs": None}), "SQLite would be shared"),
    "a proxy on loopback": (
        serve(lambda config: config["http_options"].update(host="127.0.0.1")),
        "nobody reaches",
    ),
    "one group without gRPC": (
        lambda d: ray(d, "gpu").update(
            env=[each for each in ray(d, "gpu")["env"] if each["name"] != "RAY_SERVE_USE_GRPC_BY_DEFAULT"]
        ),
        "gpu: its replicas talk in another way",
    ),
    "another port": (serve(lambda config: config["http_options"].update(port=9000)), "is not 9000"),
}

SCHEMA_MISTAKES: dict[str, Mutate] = {
    "a field of a pod": lambda d: pod(d, "gpu").update(tolerationz=[]),
    "a field of a policy": lambda d: policy(d, "dns").update(egres=[]),
    "a type": lambda d: the(d, "PodDisruptionBudget", "limner-gpu")["spec"].update(minAvailable={}),
    "a kind": lambda d: the(d, "PodMonitor", "limner-ray").update(kind="PodMonitors"),
    "a version": lambda d: the(d, "PodDisruptionBudget", "limner-gpu").update(apiVersion="policy/v2"),
}

KUBERAY_MISTAKES: dict[str, Mutate] = {
    "a field": lambda d: ray_cluster(d).update(enableInTreeAutoscaler=True),
    "a field of a group": lambda d: group(d, "gpu").update(minReplica=1),
    "resources said twice": lambda d: group(d, "gpu").update(rayStartParams={"num-gpus": "1"}),
    "labels in the wrong place": lambda d: group(d, "gpu").update(rayStartParams={"labels": "role=serving"}),
    "a restart policy": lambda d: pod(d, "gpu").update(restartPolicy="Always"),
    "a minimum above the maximum": lambda d: group(d, "gpu").update(minReplicas=99),
    "no port named serve": lambda d: ray(d, "head").update(ports=[{"name": "http", "containerPort": 8000}]),
    "an upgrade's type": lambda d: the(d, "RayService")["spec"]["upgradeStrategy"].update(type="Rolling"),
    "Redis's password in the environment": lambda d: ray(d, "head")["env"].append(
        {"name": "REDIS_PASSWORD", "value": "x"}
    ),
}
