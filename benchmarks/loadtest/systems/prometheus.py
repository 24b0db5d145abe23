"""Sums of Ray's metrics, read as Prometheus would read them: the dashboard says where they are."""

from __future__ import annotations

from collections import defaultdict

import httpx

_OURS = "ray_limner_"


def totals(dashboard_url: str) -> dict[str, float]:
    """Each of our metrics, summed over all replicas."""
    found: dict[str, float] = defaultdict(float)
    for target in _targets(dashboard_url):
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


def _targets(dashboard_url: str) -> list[str]:
    answer = httpx.get(f"{dashboard_url}/api/prometheus/sd", timeout=10).raise_for_status()
    return [target for group in answer.json() for target in group["targets"]]
