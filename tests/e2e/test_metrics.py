"""Every query of the dashboard and of the rules, asked of a Prometheus that scrapes it; a trace."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from k8s.dashboard import rows
from serve_app.cli import SERVE_CONFIG, free_ports
from serve_app.ray_token import authorization
from tests.e2e.collector import Collector, collector
from tests.e2e.conftest import started
from tests.e2e.prometheus import Prometheus, prometheus, wait_for
from tests.e2e.test_adapters import ask_for_training, events_of
from tests.e2e.test_scaling import plain
from tests.e2e.test_service import PROMPT, ROUTE, events
from tests.k8s.metric_names import names_in
from tests.k8s.monitoring_checks import monitoring
from tests.spans import PARENT_ID, SAMPLED, TRACE_ID

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is missing"),
]

GOAL = {"utilisation": 0.9, "horizon_s": 5.0}
ONE = {"min_replicas": 1, "max_replicas": 1, "look_back_s": 3, "interval_s": 1}
ARGUMENTS: dict[str, Any] = {
    "denoiser": {"autoscaling": {**ONE, **GOAL}},
    "inpaint": {"autoscaling": ONE},
    "safety": {"enabled": True},
}
NUM_STEPS = 4
NO_GPU, NOT_HERE, NOT_NOW = "no GPU here", "another exporter's", "it did not happen here"
# Metrics that are rightly absent here, and why.
ABSENT = {
    "ray_node_gpus_utilization": NO_GPU,
    "ray_node_gram_used": NO_GPU,
    "ray_node_gram_available": NO_GPU,
    'ray_resources{Name="GPU"}': NO_GPU,
    "kube_statefulset_status_replicas_ready": NOT_HERE,
    "kubelet_volume_stats_available_bytes": NOT_HERE,
    "kubelet_volume_stats_capacity_bytes": NOT_HERE,
    "ray_serve_health_check_failures_total": NOT_NOW,
    "ray_limner_adapter_cache_evictions_total": NOT_NOW,
    'ray_limner_moderation_verdicts_total{verdict="blocked"}': NOT_NOW,
}


@dataclass(frozen=True)
class Observed:
    """A service that has seen every kind of request, and what scrapes it."""

    prometheus: Prometheus
    url: str
    dashboard_url: str
    token: Path
    collector: Collector


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    document: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text("utf-8"))
    for name, settings in ARGUMENTS.items():
        document["applications"][0]["args"][name].update(settings)
    port, dashboard_port, prometheus_port = free_ports(3)
    url, dashboard_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{dashboard_port}"
    config, token = folder / "serve_config.yaml", folder / "data" / "ray-token"
    with collector() as receiving, pytest.MonkeyPatch.context() as patched:
        document["applications"][0]["args"]["tracing"] = {"endpoint": receiving.url, "ratio": 0.0}
        config.write_text(yaml.safe_dump(document))
        # Ray forgets figures after twice this time, and some are told every ten seconds only.
        patched.setenv("RAY_metrics_report_interval_ms", "5000")
        patched.setenv("RAY_PROMETHEUS_HOST", f"http://127.0.0.1:{prometheus_port}")
        process = started(folder / "log", port, dashboard_port, "--config", str(config))
        try:
            with prometheus(folder, prometheus_port, dashboard_url, token) as running:
                # Rates need to see the counters before the first request.
                wait_for(lambda: bool(running.ask("ray_limner_requests_total")))
                use(url)
                wait_for(lambda: running.value("sum(ray_limner_training_steps_total)") == NUM_STEPS)
                yield Observed(running, url, dashboard_url, token, receiving)
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(90) == 0


def use(url: str) -> None:
    """A few requests of several pipelines, and a training."""
    with httpx.Client(base_url=url, timeout=180) as client:
        body = {"prompt": PROMPT, "num_inference_steps": NUM_STEPS}
        quick = {"num_steps": NUM_STEPS, "sample_every": 0, "num_class_pictures": 0}
        job = ask_for_training(client, "anna", **quick).raise_for_status().json()
        draw(client, {**body, "n": 2}, 200, {"traceparent": SAMPLED})
        assert events(client, body)[-1][0] == "completed"
        draw(client, {**body, "num_inference_steps": 0}, 422)
        draw(client, {**body, "prompt": "a severed head"}, 400)
        draw(client, {**body, "num_inference_steps": 100, "n": 4, "deadline_s": 0.2}, 503)
        files: Any = {"image": plain("teal"), "mask": plain("white")}
        fields = {"prompt": PROMPT, "num_inference_steps": str(NUM_STEPS)}
        client.post("/v1/inpaint", data=fields, files=files).raise_for_status()
        # Long enough for autoscaling to see it.
        draw(client, {**body, "n": 4, "num_inference_steps": 30}, 200)
        assert list(events_of(client, job["id"], "anna"))[-1][1] == "succeeded"
        uses = {"adapters": [{"id": job["adapter_id"]}]}
        for _ in range(2):
            draw(client, {**body, **uses}, 200, {"X-Limner-User": "anna"})


def draw(
    client: httpx.Client, body: dict[str, Any], status: int, headers: dict[str, str] | None = None
) -> None:
    answer = client.post(ROUTE, json=body, headers=headers)
    assert answer.status_code == status, answer.text


def is_there(observed: Observed, query: str) -> None:
    """Fails if the query gives nothing, or gives something that it should not."""
    if any(name in query for name in ABSENT):
        assert not observed.prometheus.ask(query), query
    else:
        wait_for(lambda: bool(observed.prometheus.ask(query)))


def selectors(query: str) -> list[str]:
    """The metrics that a query asks for, with the labels that it selects them by."""
    return [
        each
        for name in sorted(names_in(query))
        for each in set(re.findall(rf"\b{name}\b(?:\{{[^}}]*\}})?", query))
    ]


PANELS = [
    pytest.param(query, id=f"{panel.title}-{number}")
    for panels in rows().values()
    for panel in panels
    for number, (query, _) in enumerate(panel.queries)
]


@pytest.mark.parametrize("query", PANELS)
def test_a_panel_shows_something(observed: Observed, query: str) -> None:
    is_there(observed, query.replace("$__rate_interval", "1m"))


@pytest.mark.parametrize("rule", monitoring().rules, ids=lambda rule: rule.get("alert") or rule["record"])
def test_what_a_rule_asks_for_is_there(observed: Observed, rule: dict[str, Any]) -> None:
    observed.prometheus.ask(rule["expr"])
    for selector in selectors(rule["expr"]):
        is_there(observed, selector)


def test_prometheus_evaluates_every_rule(observed: Observed) -> None:
    rules = observed.prometheus.rules()
    assert {rule["name"] for rule in rules} == {
        rule.get("alert") or rule["record"] for rule in monitoring().rules
    }
    assert [rule for rule in rules if rule["health"] != "ok"] == []


def test_requests_are_counted_as_they_ended(observed: Observed) -> None:
    wait_for(lambda: observed.prometheus.value('sum(ray_limner_requests_total{outcome="completed"})') == 7)
    found = {
        (each["metric"]["pipeline"], each["metric"]["outcome"]): float(each["value"][1])
        for each in observed.prometheus.ask("sum by (pipeline, outcome) (ray_limner_requests_total) > 0")
    }
    assert found == {
        ("text_to_image", "completed"): 5,
        ("text_to_image", "invalid"): 1,
        ("text_to_image", "blocked"): 1,
        ("text_to_image", "refused"): 1,
        ("inpaint", "completed"): 1,
        ("training", "completed"): 1,
    }
    codes = {
        each["metric"]["code"]: float(each["value"][1])
        for each in observed.prometheus.ask("sum by (code) (ray_limner_problems_total) > 0")
    }
    assert codes == {"invalid_request": 1, "moderation_blocked": 1, "deadline_unmeetable": 1}
    value = observed.prometheus.value
    assert value('sum(ray_limner_pictures_total{pipeline="text_to_image"})') == 2 + 1 + 2 + 4
    assert value("sum(ray_limner_request_s_count)") == 7
    assert value("sum(ray_limner_request_over_prediction_count)") == 6
    assert value('sum(ray_limner_moderation_verdicts_total{verdict="allowed"})') >= 10


def test_a_training_is_counted(observed: Observed) -> None:
    value = observed.prometheus.value
    wait_for(lambda: value('ray_limner_training_ended_total{outcome="succeeded"}') == 1)
    assert value('ray_limner_training_ended_total{outcome="failed"}') == 0
    assert value("ray_limner_training_duration_s_count") == 1
    assert value('ray_limner_training_s_total{outcome="succeeded"}') > 0
    assert value("sum(ray_limner_training_jobs)") == 0


def test_scaling_tells_what_it_saw_and_wants(observed: Observed) -> None:
    value = observed.prometheus.value
    seen = 'max_over_time(ray_limner_scaling_work_s{deployment="Denoiser"}[5m])'
    wait_for(lambda: value(seen) > 0)
    wait_for(lambda: value('limner:replicas:healthy{deployment="Denoiser"}') == 1)
    figures = {
        each["metric"]["__name__"].removeprefix("ray_limner_scaling_"): float(each["value"][1])
        for each in observed.prometheus.ask('{__name__=~"ray_limner_scaling_.*", deployment="Denoiser"}')
    }
    assert figures.keys() == {"wanted_replicas", "floor_replicas", "work_s", "load"}
    expected = (figures["work_s"] / GOAL["horizon_s"] + figures["load"]) / GOAL["utilisation"]
    assert figures["wanted_replicas"] == pytest.approx(expected)
    assert value('ray_limner_scaling_requests{deployment="Inpaint"}') == 0
    assert value('limner:replicas:wanted{deployment="Denoiser"}') == 1


def test_rays_dashboard_finds_prometheus(observed: Observed) -> None:
    url = f"{observed.dashboard_url}/api/prometheus_health"
    answer = httpx.get(url, headers=authorization(observed.token), timeout=30)
    assert answer.json()["result"], answer.text


def test_nothing_personal_is_a_label(observed: Observed) -> None:
    url = f"{observed.prometheus.url}/api/v1"
    names = httpx.get(f"{url}/label/__name__/values", timeout=30).json()["data"]
    ours = [name for name in names if name.startswith("ray_limner_")]
    assert ours
    found = httpx.get(f"{url}/series", params={"match[]": '{__name__=~"ray_limner_.*"}'}, timeout=30).json()[
        "data"
    ]
    text = str(found)
    for personal in ("anna", "purple dress", "severed", "adp_", "job_"):
        assert personal not in text


def test_a_trace_goes_from_the_client_to_the_steps(observed: Observed) -> None:
    wait_for(lambda: len(observed.collector.of(TRACE_ID)) == 12)
    spans = {span.span_id.hex(): span for span in observed.collector.of(TRACE_ID)}

    def path(span: Any) -> tuple[str, ...]:
        parent = span.parent_span_id.hex()
        return (*(path(spans[parent]) if parent in spans else (parent,)), span.name)

    request = (PARENT_ID, "POST text_to_image")
    picture = (*request, "TextToImage")
    denoise = (*picture, "denoise")
    stages = [(*picture, stage) for stage in ("encode prompt", "denoise all", "decode", "file")]
    steps = [denoise, (*denoise, "wait"), (*denoise, "steps")]
    # Two pictures were asked for.
    assert sorted(path(span) for span in spans.values()) == sorted(
        [request, picture, *stages, *steps, *steps]
    )
    # Nobody asked for others to be traced.
    assert len(observed.collector.spans) == 12
    assert "purple dress" not in str(observed.collector.spans)
