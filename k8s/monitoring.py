"""The monitoring component's generated files: rules for Prometheus's operator, and the dashboard's JSON.

Rules have one source, ``limner.rules.yml``, which Prometheus and promtool read as it is.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from k8s.dashboard import dashboard

COMPONENT = Path(__file__).resolve().parent / "components" / "monitoring"
RULES = COMPONENT / "limner.rules.yml"


def generated() -> dict[Path, str]:
    """The text of each generated file."""
    return {
        COMPONENT / "rules.yaml": prometheus_rule(),
        COMPONENT / "limner.dashboard.json": json.dumps(dashboard(), indent=1) + "\n",
    }


def prometheus_rule() -> str:
    """The rules as an object of Prometheus's operator."""
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "limner",
            "namespace": "limner",
            "labels": {"app.kubernetes.io/part-of": "limner"},
        },
        "spec": yaml.safe_load(RULES.read_text("utf-8")),
    }
    told = "# Written by `make manifests` from limner.rules.yml. Do not edit.\n"
    return told + yaml.safe_dump(document, sort_keys=False, width=110, allow_unicode=True)
