"""Whether pods are as strict, as large and as patient as they have to be. Each check yields what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from tests.k8s.manifests import Document, Pod, pods, ray_cluster


def security(documents: list[Document]) -> Iterator[str]:
    """Pod Security "restricted" and beyond: no token, nothing written but to volumes."""
    for pod in pods(documents):
        own = pod.spec.get("securityContext", {})
        if not own.get("runAsNonRoot") or not own.get("runAsUser"):
            yield f"{pod.name} may run as root"
        if own.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.name} has no seccomp profile"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.name} gets a token of Kubernetes"
        if any(pod.spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{pod.name} shares its node's namespaces"
        yield from (
            f"{pod.name} mounts a folder of its node" for each in pod.spec["volumes"] if "hostPath" in each
        )
        for each in pod.containers():
            yield from _container(f"{pod.name}/{each['name']}", each)
        yield from _tokens(pod)


def _container(who: str, container: Document) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield f"{who} may gain privileges"
    if own.get("capabilities") != {"drop": ["ALL"]}:
        yield f"{who} keeps capabilities"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{who} may write to its root file system"
    if ":latest" in container["image"]:
        yield f"{who} runs an image without a version"


def _tokens(pod: Pod) -> Iterator[str]:
    """The volume with Kubernetes' token is the autoscaler's."""
    holders = {
        each["name"]
        for each in pod.containers()
        for mount in each.get("volumeMounts", [])
        if "serviceaccount" in mount["mountPath"]
    }
    expected = {"autoscaler"} if pod.name == "head" else set()
    if holders != expected:
        yield f"{pod.name}: Kubernetes' token is mounted by {sorted(holders)}"


def writable(documents: list[Document]) -> Iterator[str]:
    """Ray writes below /tmp; what is a model is only read."""
    for pod in pods(documents):
        if "ray.io/is-ray-node" not in pod.labels:
            continue
        (ray, *_) = pod.spec["containers"]
        mounts = {each["mountPath"]: each for each in ray["volumeMounts"]}
        if "/tmp" not in mounts or pod.env().get("HOME") != "/tmp":
            yield f"{pod.name} has no folder to write to"
        if mounts.get("/weights", {}).get("readOnly") is not True:
            yield f"{pod.name} may change the weights"


def resources(documents: list[Document]) -> Iterator[str]:
    """Requests are limits, disk included; Ray is told of the CPUs and GPUs that Kubernetes grants."""
    for pod in pods(documents):
        for each in pod.containers():
            own = each.get("resources", {})
            if not own.get("limits") or own.get("requests") != own["limits"]:
                yield f"{pod.name}/{each['name']}: requests are not limits"
            if each["name"] == "ray" and "ephemeral-storage" not in own.get("limits", {}):
                yield f"{pod.name} may fill its node's disk"
    for group in ray_cluster(documents)["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        num_gpus = sum(int(value) for name, value in limits.items() if name.startswith("nvidia.com/"))
        if int(group["resources"].get("GPU", 0)) != num_gpus:
            yield f"group {group['groupName']}: Ray's GPUs are not Kubernetes'"
        if group["resources"]["CPU"] != limits["cpu"]:
            yield f"group {group['groupName']}: Ray's CPUs are not Kubernetes'"


def placement(documents: list[Document]) -> Iterator[str]:
    """Pods with GPUs may go to nodes with GPUs, serving goes before training, replicas spread."""
    classes = {
        each["metadata"]["name"]: each["value"] for each in documents if each["kind"] == "PriorityClass"
    }
    for pod in pods(documents):
        limits = pod.spec["containers"][0]["resources"]["limits"]
        tolerated = {each["key"] for each in pod.spec.get("tolerations", [])}
        if any(name.startswith("nvidia.com/") for name in limits) != ("nvidia.com/gpu" in tolerated):
            yield f"{pod.name}: GPU and toleration do not go together"
        expected = "limner-training" if pod.name == "training" else "limner-serving"
        if pod.spec.get("priorityClassName") != expected:
            yield f"{pod.name} has not the priority {expected}"
        if pod.name in ("router", "gpu", "gpu-spot") and not pod.spec.get("topologySpreadConstraints"):
            yield f"{pod.name} does not spread"
        if pod.name == "gpu-spot" and not any("spot" in key for key in tolerated):
            yield "gpu-spot does not tolerate spot nodes"
    if classes.get("limner-training", 0) >= classes.get("limner-serving", 0):
        yield "training goes before serving"


def disruption(documents: list[Document]) -> Iterator[str]:
    """A budget is an integer below the group's minimum: else its nodes could never be drained."""
    minimum = {each["groupName"]: each["minReplicas"] for each in ray_cluster(documents)["workerGroupSpecs"]}
    for each in documents:
        if each["kind"] == "PodDisruptionBudget":
            name = each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
            least = each["spec"].get("minAvailable")
            if not isinstance(least, int):
                yield f"budget of {name}: minAvailable is no integer"
            elif least >= minimum.get(name, 0):
                yield f"budget of {name}: its nodes could never be drained"


def ray(documents: list[Document]) -> Iterator[str]:
    """Settings of the cluster that nothing else would miss."""
    cluster = ray_cluster(documents)
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "replicas may run on the head"
    if cluster.get("authOptions") != {"mode": "token"}:
        yield "Ray asks for no token"
    if not cluster.get("enableInTreeAutoscaling") or cluster["autoscalerOptions"].get("version") != "v2":
        yield "the autoscaler is not version 2"
    images = {
        each["image"] for pod in pods(documents) for each in pod.containers() if "limner" in each["image"]
    }
    if len(images) != 1:
        yield f"more than one image: {sorted(images)}"


def quota(documents: list[Document]) -> Iterator[str]:
    """Kueue admits no pod that asks for what has no quota; the quota is for as many as the group may have."""
    queues = {each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == "ClusterQueue"}
    for group in ray_cluster(documents)["workerGroupSpecs"]:
        name = group["template"]["metadata"]["labels"].get("kueue.x-k8s.io/queue-name")
        if name is None:
            continue
        granted = {
            each["name"]: _number(each["nominalQuota"])
            for part in queues[name]["resourceGroups"]
            for flavor in part["flavors"]
            for each in flavor["resources"]
        }
        requests = group["template"]["spec"]["containers"][0]["resources"]["requests"]
        for resource, quantity in requests.items():
            if _number(quantity) * group["maxReplicas"] > granted.get(resource, 0):
                yield f"{name} has no quota for {group['maxReplicas']} pods' {resource}"


def _number(quantity: str | int) -> int:
    text = str(quantity)
    return int(text.removesuffix("Gi")) << 30 if text.endswith("Gi") else int(text)


CHECKS = (security, writable, resources, placement, disruption, ray, quota)
