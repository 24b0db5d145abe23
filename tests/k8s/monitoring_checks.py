"""Whether rules, dashboard, tests of alerts and the playbook fit the code and each other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from k8s.dashboard import Panel, rows
from k8s.monitoring import RULES
from serve_app.traffic import OUTCOMES, PIPELINES
from tests.k8s.metric_names import (
    GIVEN_LABELS,
    OTHERS,
    exported,
    groupings_in,
    names_in,
    selectors_in,
    series_of_ours,
)
from tests.readme import ROOT

ALERT_TESTS = Path(__file__).with_name("alerts")
SEVERITIES = {"page", "ticket"}
# The values that labels of ours may have, where the code says so.
VALUES = {"outcome": {*OUTCOMES, "succeeded", "failed", "canceled"}, "pipeline": set(PIPELINES.values())}


@dataclass
class Monitoring:
    """Everything that has to fit together; tests change one thing of it."""

    rules: list[dict[str, Any]]
    panels: list[Panel]
    playbook: str
    tests: list[dict[str, Any]]
    others: Mapping[str, str] = field(default_factory=lambda: OTHERS)

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [rule for rule in self.rules if "alert" in rule]

    def queries(self) -> Iterator[tuple[str, str]]:
        """Who asks, and what."""
        for rule in self.rules:
            yield rule.get("alert") or rule["record"], rule["expr"]
        for panel in self.panels:
            for query, _ in panel.queries:
                yield f"panel {panel.title}", query


def monitoring() -> Monitoring:
    """As it is in the repository."""
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    files = sorted(ALERT_TESTS.glob("*.yml"))
    return Monitoring(
        rules=[rule for group in groups for rule in group["rules"]],
        panels=[panel for panels in rows().values() for panel in panels],
        playbook=(ROOT / "docs" / "operations.md").read_text("utf-8"),
        tests=[test for path in files for test in yaml.safe_load(path.read_text("utf-8"))["tests"]],
    )


def metrics(found: Monitoring) -> Iterator[str]:
    """Queries of what nobody exports or records."""
    there = {*series_of_ours(), *found.others, *(rule["record"] for rule in found.rules if "record" in rule)}
    for who, query in found.queries():
        for name in sorted(names_in(query) - there):
            yield f"{who} asks for {name}, which nobody exports"


def labels(found: Monitoring) -> Iterator[str]:
    """Selections by labels that a metric of ours does not have, or by values that a label never has."""
    ours = series_of_ours()
    for who, query in found.queries():
        for name, matchers in selectors_in(query):
            if name in ours:
                for label in sorted(matchers.keys() - ours[name].labels - GIVEN_LABELS):
                    yield f"{who}: {name} has no label {label}"
                for label in matchers.keys() & VALUES.keys():
                    for value in set(matchers[label].split("|")) - VALUES[label]:
                        yield f"{who}: {label} is never {value}"
        own = [ours[name] for name in names_in(query) if name in ours]
        if own and len(own) == len(names_in(query)):
            known = GIVEN_LABELS.union(*(each.labels for each in own))
            for label in sorted(groupings_in(query) - known):
                yield f"{who}: groups by {label}, which no metric of it has"


def playbook(found: Monitoring) -> Iterator[str]:
    """Alerts without an entry, and entries of alerts that there are not."""
    sections = dict(re.findall(r"^### (.*)\n((?:(?!^##).*\n?)*)", found.playbook, re.MULTILINE))
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-"): title for title in sections}
    for rule in found.alerts:
        file, _, anchor = rule["annotations"].get("runbook", "").partition("#")
        title = anchors.get(anchor)
        if file != "docs/operations.md" or title is None:
            yield f"{rule['alert']} has no entry in the playbook"
        elif f"**`{rule['alert']}`**" not in sections[title]:
            yield f"the entry '{title}' does not explain {rule['alert']}"
    named = set(re.findall(r"`(Limner[A-Z]\w+)`", found.playbook))
    for name in sorted(named - {rule["alert"] for rule in found.alerts}):
        yield f"the playbook explains {name}, which is no alert"


def wording(found: Monitoring) -> Iterator[str]:
    for rule in found.alerts:
        if rule["labels"].get("severity") not in SEVERITIES:
            yield f"{rule['alert']} has no severity"
        if not rule["annotations"].get("summary", "").endswith("."):
            yield f"{rule['alert']} has no summary"
        if not rule["alert"].startswith("Limner"):
            yield f"{rule['alert']} does not say whose it is"


def tried(found: Monitoring) -> Iterator[str]:
    """Alerts that no test sees fire, or none sees quiet."""
    seen: dict[str, set[bool]] = {}
    for test in found.tests:
        for each in test["alert_rule_test"]:
            seen.setdefault(each["alertname"], set()).add(bool(each["exp_alerts"]))
    for rule in found.alerts:
        fires = seen.get(rule["alert"], set())
        if True not in fires:
            yield f"no test sees {rule['alert']} fire"
        if False not in fires:
            yield f"no test sees {rule['alert']} quiet"


def documented(found: Monitoring) -> Iterator[str]:
    """Metrics of ours that the guide's table leaves out."""
    for each in exported():
        if f"`{each.name}`" not in found.playbook:
            yield f"docs/operations.md does not tell of {each.name}"


CHECKS = (metrics, labels, playbook, wording, tried, documented)


def problems(found: Monitoring) -> list[str]:
    return [problem for check in CHECKS for problem in check(found)]
