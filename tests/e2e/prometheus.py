"""A real Prometheus that scrapes the service, with the rules of the monitoring component."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from k8s.monitoring import RULES

LIMIT_S = 60
# Ray's autoscaler and dashboard: as the PodMonitor of the head names them.
_HEAD_PORTS = ".*:442[12]7"


@dataclass(frozen=True)
class Prometheus:
    """Its HTTP API."""

    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The result of an instant query. Fails for one that Prometheus cannot read."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, timeout=30).json()
        assert answer["status"] == "success", (query, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def value(self, query: str) -> float:
        """The one number that a query gives; not a number if it gives none."""
        found = self.ask(query)
        return float(found[0]["value"][1]) if len(found) == 1 else math.nan

    def rules(self) -> list[dict[str, Any]]:
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def prometheus(folder: Path, port: int, dashboard_url: str, token: Path) -> Iterator[Prometheus]:
    """One that listens on ``port`` and finds its targets where Ray's dashboard tells of them."""
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(_config(folder, dashboard_url, token)))
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    running = Prometheus(f"http://127.0.0.1:{port}")
    try:
        wait_for(lambda: _is_ready(running.url))
        yield running
    finally:
        process.terminate()
        process.wait(30)


def wait_for(condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.5)


def _config(folder: Path, dashboard_url: str, token: Path) -> dict[str, Any]:
    rules = yaml.safe_load(RULES.read_text("utf-8"))
    for group in rules["groups"]:
        # The file says 30 s.
        group["interval"] = "2s"
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    return {
        "global": {"scrape_interval": "3s", "evaluation_interval": "2s"},
        "rule_files": [str(folder / "rules.yml")],
        "scrape_configs": [
            _job("limner/limner-ray", "drop", dashboard_url, token),
            _job("limner/limner-head", "keep", dashboard_url, token),
        ],
    }


def _job(name: str, action: str, dashboard_url: str, token: Path) -> dict[str, Any]:
    return {
        "job_name": name,
        "http_sd_configs": [
            {
                "url": f"{dashboard_url}/api/prometheus/sd",
                "refresh_interval": "2s",
                "authorization": {"type": "Bearer", "credentials_file": str(token)},
            }
        ],
        "relabel_configs": [
            {"source_labels": ["__address__"], "regex": _HEAD_PORTS, "action": action},
            {"target_label": "job", "replacement": name},
        ],
    }


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).is_success
    except httpx.TransportError:
        return False
