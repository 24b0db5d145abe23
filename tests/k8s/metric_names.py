"""Which metrics the code exports, read from its source, and which ones a query asks for."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.readme import ROOT

# Whose metrics rules and panels use besides ours. tests/e2e/test_metrics.py sees Ray's on a live scrape.
OTHERS = {
    "ALERTS": "Prometheus",
    "up": "Prometheus",
    "autoscaler_active_nodes": "Ray",
    "autoscaler_pending_nodes": "Ray",
    "ray_node_cpu_utilization": "Ray",
    "ray_node_disk_utilization_percentage": "Ray",
    "ray_node_gpus_utilization": "Ray",
    "ray_node_gram_available": "Ray",
    "ray_node_gram_used": "Ray",
    "ray_node_mem_total": "Ray",
    "ray_node_mem_used": "Ray",
    "ray_resources": "Ray",
    "ray_serve_autoscaling_target_replicas": "Ray Serve",
    "ray_serve_deployment_replica_healthy": "Ray Serve",
    "ray_serve_deployment_status": "Ray Serve",
    "ray_serve_health_check_failures_total": "Ray Serve",
    "kube_statefulset_status_replicas_ready": "kube-state-metrics",
    "kubelet_volume_stats_available_bytes": "kubelet",
    "kubelet_volume_stats_capacity_bytes": "kubelet",
}
# Labels that Ray and the PodMonitors add to every series of ours.
GIVEN_LABELS = {"WorkerId", "NodeAddress", "SessionName", "ray_io_cluster", "ray_io_group", "le"}

_MAKERS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "Figure": ""}
_SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
_WORDS = {"and", "bool", "offset", "on", "or", "unless"}


@dataclass(frozen=True, slots=True)
class Exported:
    """A metric of ours; ``name`` is the code's, to which Ray adds ``ray_`` and, for counters, ``_total``."""

    name: str
    kind: str
    labels: frozenset[str]

    @property
    def series(self) -> tuple[str, ...]:
        return tuple(f"ray_{self.name}{suffix}" for suffix in _SUFFIXES[self.kind])


@cache
def exported() -> tuple[Exported, ...]:
    """Every metric that the product's code makes."""
    folders = ("deployments", "serve_app", "core", "store")
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return tuple(found for path in files for found in _made_in(path))


def _made_in(path: Path) -> Iterator[Exported]:
    module = ast.parse(path.read_text("utf-8"))
    constants = {
        node.targets[0].id: node.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in ast.walk(module):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
            continue
        first = node.args[0]
        if node.func.id not in _MAKERS or not isinstance(first, ast.Constant):
            continue
        if isinstance(first.value, str) and first.value.startswith("limner_"):
            yield Exported(first.value, _kind(node), frozenset(_labels(node, constants)))


def _kind(call: ast.Call) -> str:
    assert isinstance(call.func, ast.Name)
    if call.func.id == "Figure":
        kind = call.args[1]
        assert isinstance(kind, ast.Attribute)
        return kind.attr.lower()
    return _MAKERS[call.func.id]


def _labels(call: ast.Call, constants: dict[str, ast.expr]) -> Iterator[str]:
    """The tuple of names among the arguments; a histogram's list or tuple of bounds has numbers."""
    for given in call.args[1:]:
        argument = constants.get(given.id, given) if isinstance(given, ast.Name) else given
        if isinstance(argument, ast.Tuple):
            for each in argument.elts:
                if isinstance(each, ast.Constant) and isinstance(each.value, str):
                    yield each.value


def series_of_ours() -> dict[str, Exported]:
    """Our metrics by the names that Prometheus has."""
    return {name: each for each in exported() for name in each.series}


def names_in(query: str) -> set[str]:
    """The metrics that a PromQL query asks for."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"|\{[^}]*\}|\[[^\]]*\]', " ", query)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = set(re.findall(r"[a-zA-Z_:][\w:]*", bare))
    return words - _WORDS - set(re.findall(r"([a-zA-Z_:][\w:]*)\s*\(", bare))


def selectors_in(query: str) -> list[tuple[str, dict[str, str]]]:
    """Each metric with the labels that it is selected by, and their patterns."""
    found = re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", query)
    return [(name, dict(re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', inside))) for name, inside in found]


def groupings_in(query: str) -> set[str]:
    """The labels that results keep."""
    lists = re.findall(r"\bby\s*\(([^)]*)\)", query)
    return {label.strip() for each in lists for label in each.split(",") if label.strip()}
