"""Whether an overlay's documents fit together: names, labels, ports. Each check yields what is wrong."""

from __future__ import annotations

from collections.abc import Iterator

from tests.k8s.manifests import Document, Pod, pods, ray_cluster, selected

# Made by hand or by an operator before the overlay is applied; k8s/README.md says how.
SECRETS_BY_HAND = {"limner-redis", "limner-database", "limner-blobs", "limner-tls"}
CLUSTER_SCOPED = {"Namespace", "PriorityClass", "ResourceFlavor", "ClusterQueue", "WorkloadPriorityClass"}
# Kubernetes and KubeRay make these.
GIVEN = {("ConfigMap", "kube-root-ca.crt"), ("Service", "limner-serve-svc")}


def references(documents: list[Document]) -> Iterator[str]:
    """Names that nothing has."""
    there = {(each["kind"], each["metadata"]["name"]) for each in documents} | GIVEN
    there |= {("Secret", name) for name in SECRETS_BY_HAND}
    for who, kind, name in _named(documents):
        if (kind, name) not in there:
            yield f"{who} names a {kind} that is not there: {name}"


def _named(documents: list[Document]) -> Iterator[tuple[str, str, str]]:
    for pod in pods(documents):
        yield pod.name, "ServiceAccount", pod.spec["serviceAccountName"]
        yield pod.name, "PriorityClass", pod.spec.get("priorityClassName", "limner-serving")
        queue = pod.labels.get("kueue.x-k8s.io/queue-name")
        if queue:
            yield pod.name, "LocalQueue", queue
            yield pod.name, "WorkloadPriorityClass", pod.labels["kueue.x-k8s.io/priority-class"]
        for each in pod.containers():
            for source in each.get("envFrom", []):
                yield pod.name, "Secret", source["secretRef"]["name"]
            for variable in each.get("env", []):
                if "valueFrom" in variable:
                    yield pod.name, "Secret", variable["valueFrom"]["secretKeyRef"]["name"]
        for volume in pod.spec.get("volumes", []):
            if "configMap" in volume:
                yield pod.name, "ConfigMap", volume["configMap"]["name"]
            if "persistentVolumeClaim" in volume:
                yield pod.name, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    password = ray_cluster(documents)["gcsFaultToleranceOptions"]["redisPassword"]
    yield "the head", "Secret", password["valueFrom"]["secretKeyRef"]["name"]
    for each in documents:
        if each["kind"] == "HTTPRoute":
            for rule in each["spec"]["rules"]:
                yield from (("HTTPRoute", "Service", backend["name"]) for backend in rule["backendRefs"])
            yield from (("HTTPRoute", "Gateway", parent["name"]) for parent in each["spec"]["parentRefs"])
        elif each["kind"] == "LocalQueue":
            yield "LocalQueue", "ClusterQueue", each["spec"]["clusterQueue"]


def namespaces(documents: list[Document]) -> Iterator[str]:
    for each in documents:
        expected = None if each["kind"] in CLUSTER_SCOPED else "limner"
        if each["metadata"].get("namespace") != expected:
            yield f"{each['kind']} {each['metadata']['name']} is not in the right namespace"


def volumes(documents: list[Document]) -> Iterator[str]:
    """Mounts without a volume, volumes that nobody mounts."""
    for pod in pods(documents):
        there = {each["name"] for each in pod.spec.get("volumes", [])}
        there |= {"data"} if pod.name == "limner-redis" else set()  # its volumeClaimTemplates
        mounted = {mount["name"] for each in pod.containers() for mount in each.get("volumeMounts", [])}
        yield from (f"{pod.name} mounts no volume: {name}" for name in sorted(mounted - there))
        yield from (f"{pod.name} has a volume that nobody mounts: {name}" for name in sorted(there - mounted))


def selectors(documents: list[Document]) -> Iterator[str]:
    """Selectors that take no pod, and ports that the pods do not have."""
    everyone = pods(documents)
    for each in documents:
        who = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "Service":
            found = [
                pod for pod in everyone if selected({"matchLabels": each["spec"]["selector"]}, pod.labels)
            ]
            yield from _reached(who, found, [port["targetPort"] for port in each["spec"]["ports"]])
        elif each["kind"] == "PodDisruptionBudget":
            found = [pod for pod in everyone if selected(each["spec"]["selector"], pod.labels)]
            yield from _reached(who, found, [])
        elif each["kind"] == "PodMonitor":
            found = [pod for pod in everyone if selected(each["spec"]["selector"], pod.labels)]
            yield from _reached(who, found, [port["port"] for port in each["spec"]["podMetricsEndpoints"]])
        elif each["kind"] == "NetworkPolicy":
            yield from _policy(who, each["spec"], everyone)


def _policy(who: str, spec: Document, everyone: list[Pod]) -> Iterator[str]:
    found = [pod for pod in everyone if selected(spec["podSelector"], pod.labels)]
    ingress = [port["port"] for rule in spec.get("ingress", []) for port in rule.get("ports", [])]
    yield from _reached(who, found, ingress)
    rules = [*spec.get("ingress", []), *spec.get("egress", [])]
    for peer in (peer for rule in rules for peer in [*rule.get("from", []), *rule.get("to", [])]):
        if set(peer) == {"podSelector"}:
            yield from _reached(
                who, [pod for pod in everyone if selected(peer["podSelector"], pod.labels)], []
            )


def _reached(who: str, found: list[Pod], ports: list[str | int]) -> Iterator[str]:
    if not found:
        yield f"{who} selects no pod"
    for port in ports:
        if not all(port in pod.ports() or port in pod.ports().values() for pod in found):
            yield f"{who}: not every selected pod has the port {port}"


def redis(documents: list[Document]) -> Iterator[str]:
    host, _, port = ray_cluster(documents)["gcsFaultToleranceOptions"]["redisAddress"].partition(":")
    there = [
        (each["metadata"]["name"], str(exposed["port"]))
        for each in documents
        if each["kind"] == "Service"
        for exposed in each["spec"]["ports"]
    ]
    if (host, port) not in there:
        yield f"redisAddress {host}:{port} is no service"


def isolation(documents: list[Document]) -> Iterator[str]:
    """Everything is forbidden first, and a pod's address inside the network is nobody's webhook."""
    policies = {
        each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == "NetworkPolicy"
    }
    if policies.get("default-deny") != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield "default-deny does not deny everything"
    for name, spec in policies.items():
        for peer in (peer for rule in spec.get("egress", []) for peer in rule.get("to", [])):
            block = peer.get("ipBlock", {})
            private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
            if block.get("cidr") == "0.0.0.0/0" and not private <= set(block.get("except", [])):
                yield f"NetworkPolicy {name} lets pods reach private addresses"
        if any(not rule.get("from") for rule in spec.get("ingress", [])):
            yield f"NetworkPolicy {name} lets everybody in"


CHECKS = (references, namespaces, volumes, selectors, redis, isolation)
