"""k8s/README.md and docs/operations.md say what the manifests and the code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.k8s.link_checks import SECRETS_BY_HAND
from tests.k8s.manifests import K8S, OVERLAYS, pods, ray_cluster, rendered
from tests.k8s.metric_names import series_of_ours
from tests.readme import ROOT

README = (K8S / "README.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
DOCUMENTS = {K8S / "README.md": README, ROOT / "docs" / "operations.md": OPERATIONS}


def rows(text: str, first: str) -> dict[str, list[str]]:
    """The table whose head begins with ``first``: cells by the first cell, without quotes."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {key.strip("`"): rest for key, *rest in cells}


def test_the_table_of_groups_is_the_manifests() -> None:
    table = rows(README, "group | runs")
    for column, overlay in enumerate(OVERLAYS, start=1):
        for each in ray_cluster(rendered(K8S / "overlays" / overlay))["workerGroupSpecs"]:
            least, most = each["minReplicas"], each["maxReplicas"]
            cell = table[each["groupName"]][column]
            assert re.match(str(least) if least == most else f"{least}–{most}", cell), (
                overlay,
                each["groupName"],
            )


def test_the_table_of_drains_is_the_manifests() -> None:
    table = rows(README, "group | slowest replica")
    found = {pod.name: pod for pod in pods(rendered(K8S / "overlays" / "gpu-large"))}
    for name, (_, drain, grace) in table.items():
        assert drain == f"{found[name].env()['RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S']} s"
        assert grace == f"{found[name].spec['terminationGracePeriodSeconds']} s"


@pytest.mark.parametrize("secret", sorted(SECRETS_BY_HAND))
def test_a_secret_made_by_hand_is_explained(secret: str) -> None:
    assert re.search(rf"create secret (generic|tls) {secret}\b", README)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", DOCUMENTS[path])
    assert links
    for link in links:
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"(?:k8s/)?((?:base|components|overlays|weights-pull)/[\w./-]*\w)", DOCUMENTS[path])
    assert named
    for name in named:
        assert (K8S / name).exists(), name


def test_metrics_that_are_named_exist() -> None:
    named = set(re.findall(r"\bray_limner_\w+", OPERATIONS))
    assert named
    assert not named - series_of_ours().keys()
