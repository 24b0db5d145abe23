"""Every overlay as kustomize renders it: accepted by the schemas, and all of its parts fit together."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import kubernetes_validate
import pytest

from tests.k8s import link_checks, pod_checks, serve_checks
from tests.k8s.manifests import ALTERNATIVES, K8S, OVERLAYS, Document, pods, rendered, with_component
from tests.readme import ROOT

KUBERNETES = "1.37"
# Kinds that are not Kubernetes' own. A kind that is neither is misspelt.
CUSTOM = {
    ("ray.io/v1", "RayService"),
    ("gateway.networking.k8s.io/v1", "Gateway"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"),
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"),
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"),
    ("kueue.x-k8s.io/v1beta2", "WorkloadPriorityClass"),
}
CHECKS = (*link_checks.CHECKS, *pod_checks.CHECKS, *serve_checks.CHECKS)


def kuberay_validator() -> ModuleType | None:
    """KubeRay's schemas and the rules of its operator, if they lie beside this repository."""
    beside = ROOT.parent / "shared" / "kuberay" / "validate.py"
    path = Path(os.environ.get("LIMNER_KUBERAY_VALIDATOR", beside))
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("kuberay_validate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VALIDATOR = kuberay_validator()


def schema_errors(documents: list[Document]) -> Iterator[str]:
    """What Kubernetes' schemas refuse, also in the pods of a RayService."""
    bare = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod.name, "labels": dict(pod.labels)},
            "spec": pod.spec,
        }
        for pod in pods(documents)
    ]
    for each in [*documents, *bare]:
        try:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            if (each["apiVersion"], each["kind"]) not in CUSTOM:
                yield f"unknown kind {each['kind']} of {each['apiVersion']}"
        except kubernetes_validate.ValidationError as error:
            yield f"{each['kind']} {each['metadata']['name']}: {error.message}"


def kuberay_errors(documents: list[Document]) -> Iterator[str]:
    if VALIDATOR is not None:
        for each in documents:
            if each["kind"] == "RayService":
                yield from VALIDATOR.check(each)


def misfits(documents: list[Document]) -> list[str]:
    """What is wrong beyond the schemas."""
    return [problem for check in CHECKS for problem in check(documents)]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay(overlay: str) -> None:
    documents = rendered(K8S / "overlays" / overlay)
    assert [*schema_errors(documents), *kuberay_errors(documents), *misfits(documents)] == []


@pytest.mark.parametrize("component", ALTERNATIVES)
@pytest.mark.parametrize("overlay", ["gpu", "gpu-large"])
def test_component_that_no_overlay_uses(overlay: str, component: str, tmp_path: Path) -> None:
    documents = with_component(overlay, component, tmp_path)
    assert [*schema_errors(documents), *kuberay_errors(documents), *misfits(documents)] == []


def test_weights_as_an_image_need_no_claim(tmp_path: Path) -> None:
    documents = with_component("gpu", "oci-weights", tmp_path)
    assert not [each for each in documents if each["kind"] == "PersistentVolumeClaim"]
    for pod in pods(documents):
        kinds = [set(each) - {"name"} for each in pod.spec["volumes"] if each["name"] == "weights"]
        assert kinds == ([{"image"}] if "ray.io/is-ray-node" in pod.labels else [])


def test_weights_pull() -> None:
    documents = rendered(K8S / "weights-pull")
    assert list(schema_errors(documents)) == []
    assert list(pod_checks.security(documents)) == []
    assert list(link_checks.selectors(documents)) == []
    assert list(link_checks.namespaces(documents)) == []


def test_every_yaml_file_is_used() -> None:
    """What no kustomization names is applied nowhere. serve.yaml is read by k8s.render."""
    for folder in {path.parent for path in K8S.rglob("*.yaml")}:
        text = (folder / "kustomization.yaml").read_text("utf-8")
        for path in folder.glob("*.yaml"):
            assert path.name in ("kustomization.yaml", "serve.yaml") or path.name in text, path
