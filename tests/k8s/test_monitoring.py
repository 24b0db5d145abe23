"""Alert rules, the dashboard and the playbook fit each other and the code, and promtool runs the rules."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest
import yaml

from k8s.dashboard import dashboard
from k8s.monitoring import RULES, generated
from tests.k8s.manifests import K8S, rendered, the
from tests.k8s.metric_names import exported, groupings_in, names_in, selectors_in
from tests.k8s.monitoring_checks import ALERT_TESTS, Monitoring, monitoring, problems

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is in Debian's package prometheus")


def test_everything_fits() -> None:
    assert problems(monitoring()) == []


def test_generated_files_are_up_to_date() -> None:
    for path, text in generated().items():
        assert path.read_text("utf-8") == text, "run `make manifests`"


@pytest.mark.parametrize("overlay", ["gpu", "gpu-large"])
def test_the_overlays_have_the_rules_and_the_dashboard(overlay: str) -> None:
    documents = rendered(K8S / "overlays" / overlay)
    assert the(documents, "PrometheusRule")["spec"] == yaml.safe_load(RULES.read_text("utf-8"))
    shown = the(documents, "ConfigMap", "limner-dashboard")
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(shown["data"]["limner.dashboard.json"]) == dashboard()


@needs_promtool
def test_promtool_accepts_the_rules() -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("path", sorted(ALERT_TESTS.glob("*.yml")), ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: str) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_panels_lie_beside_and_below_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    numbers: set[int] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        numbers.add(panel["id"])
    assert len(numbers) == len(dashboard()["panels"])


def test_queries_are_read_right() -> None:
    query = 'sum by (job, le) (rate(ray_a_bucket{le="1", outcome=~"x|y"}[5m])) / on () group_left () b:c > 2'
    assert names_in(query) == {"ray_a_bucket", "b:c"}
    assert selectors_in(query) == [("ray_a_bucket", {"le": "1", "outcome": "x|y"})]
    assert groupings_in(query) == {"job", "le"}
    assert names_in("absent(up == 1) or vector(0)") == {"up"}


def test_the_code_is_read_right() -> None:
    found = {each.name: each for each in exported()}
    assert found["limner_requests"].series == ("ray_limner_requests_total",)
    assert found["limner_requests"].labels == {"pipeline", "outcome"}
    assert found["limner_request_s"].series[0] == "ray_limner_request_s_bucket"
    assert found["limner_denoise_work_s"].series == ("ray_limner_denoise_work_s",)
    assert found["limner_scaling_wanted_replicas"].labels == {"deployment"}
    assert len(found) == len(exported()), "a metric is made twice"


def test_labels_stay_few() -> None:
    """No metric of ours is labelled by who asks or by what."""
    assert {label for each in exported() for label in each.labels} <= {
        "code",
        "deployment",
        "outcome",
        "pipeline",
        "stage",
        "status",
        "verdict",
    }


def alert(found: Monitoring, name: str) -> dict[str, dict[str, str]]:
    (rule,) = (each for each in found.alerts if each["alert"] == name)
    return rule


def without_section(found: Monitoring) -> None:
    found.playbook = found.playbook.replace("### Queue long\n", "### Something else\n")


def new_panel(query: str) -> Callable[[Monitoring], None]:
    return lambda found: found.panels.append(replace(found.panels[0], queries=((query, ""),)))


def expression(name: str, query: str) -> Callable[[Monitoring], None]:
    return lambda found: alert(found, name).update(expr=query)  # type: ignore[call-overload]


MISTAKES: dict[str, tuple[Callable[[Monitoring], object], str]] = {
    "an alert without an entry": (without_section, "LimnerQueueLong has no entry"),
    "an entry that leaves an alert out": (
        lambda found: alert(found, "LimnerQueueLong")["annotations"].update(
            runbook="docs/operations.md#store-full"
        ),
        "does not explain LimnerQueueLong",
    ),
    "an entry for no alert": (
        lambda found: setattr(found, "playbook", found.playbook + "\n`LimnerAsleep`\n"),
        "LimnerAsleep, which is no alert",
    ),
    "a metric that was renamed": (
        expression("LimnerQueueLong", "ray_limner_denoise_queue_s > 60"),
        "ray_limner_denoise_queue_s, which nobody exports",
    ),
    "a counter without its ending": (
        expression("LimnerStoreFull", "increase(ray_limner_problems[5m]) > 0"),
        "ray_limner_problems, which nobody exports",
    ),
    "a record that there is not": (
        expression("LimnerQueueLong", "limner:work_s:all > 60"),
        "limner:work_s:all, which nobody exports",
    ),
    "a panel of nothing": (new_panel("ray_limner_images_total"), "ray_limner_images_total, which nobody"),
    "a label that it does not have": (
        expression("LimnerFailures", 'ray_limner_requests_total{status="500"} > 1'),
        "has no label status",
    ),
    "an outcome that there is not": (
        expression("LimnerFailures", 'ray_limner_requests_total{outcome=~"failed|error"} > 1'),
        "outcome is never error",
    ),
    "a panel by members": (
        new_panel("sum by (user) (ray_limner_requests_total)"),
        "groups by user, which no metric",
    ),
    "an alert that nothing tries": (
        lambda found: found.tests.clear(),
        "no test sees LimnerQueueLong fire",
    ),
    "no severity": (
        lambda found: alert(found, "LimnerQueueLong")["labels"].clear(),
        "LimnerQueueLong has no severity",
    ),
    "no summary": (
        lambda found: alert(found, "LimnerQueueLong")["annotations"].pop("summary"),
        "LimnerQueueLong has no summary",
    ),
    "a metric that the guide leaves out": (
        lambda found: setattr(found, "playbook", found.playbook.replace("limner_pictures", "")),
        "does not tell of limner_pictures",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    mutate, expected = MISTAKES[mistake]
    found = monitoring()
    mutate(found)
    assert any(expected in each for each in problems(found)), problems(found)
