"""Sums of Ray's metrics, read as Prometheus would read them: the dashboard says where they are."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import httpx

from serve_app.ray_token import authorization

_OURS = "ray_limner_"


def totals(dashboard_url: str, token: Path) -> dict[str, float]:
    """Each of our metrics, summed over all replicas. The dashboard asks for what is in ``token``."""
    found: dict[str, float] = defaultdict(float)
    for target in _targets(dashboard_url, token):
        try:
            text = httpx.get(f"http://{target}/metrics", timeout=10).text
        except httpx.HTTPError:
            # Some of Ray's own processes come and go.
            continue
        for name, value in samples(text):
            found[name] += value
    return dict(found)


def samples(text: str) -> list[tuple[str, float]]:
    """The samples of Prometheus' text format whose names are ours, without their labels."""
    found = []
    for line in text.splitlines():
        if line.startswith(_OURS):
            name = line.split("{", 1)[0].split(" ", 1)[0]
            found.append((name, float(line.rsplit(" ", 1)[1])))
    return found


def _targets(dashboard_url: str, token: Path) -> list[str]:
    url = f"{dashboard_url}/api/prometheus/sd"
    answer = httpx.get(url, headers=authorization(token), timeout=10).raise_for_status()
    return [target for group in answer.json() for target in group["targets"]]
