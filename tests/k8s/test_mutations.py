"""The checks catch what they are for: each mistake is found in an overlay that was right without it."""

from __future__ import annotations

import pytest

from tests.k8s.manifests import K8S, Document, rendered
from tests.k8s.mistakes import KUBERAY_MISTAKES, MISTAKES, SCHEMA_MISTAKES, Mutate
from tests.k8s.test_overlays import VALIDATOR, kuberay_errors, misfits, schema_errors


def mutated(mutate: Mutate) -> list[Document]:
    documents = rendered(K8S / "overlays" / "gpu-large")
    mutate(documents)
    return documents


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_misfit_is_found(mistake: str) -> None:
    mutate, expected = MISTAKES[mistake]
    found = misfits(mutated(mutate))
    assert any(expected in each for each in found), found


@pytest.mark.parametrize("mistake", SCHEMA_MISTAKES)
def test_a_mistake_of_kubernetes_is_found(mistake: str) -> None:
    assert list(schema_errors(mutated(SCHEMA_MISTAKES[mistake]))) != []


@pytest.mark.skipif(VALIDATOR is None, reason="KubeRay's schemas are not at hand")
@pytest.mark.parametrize("mistake", KUBERAY_MISTAKES)
def test_a_mistake_of_kuberay_is_found(mistake: str) -> None:
    assert list(kuberay_errors(mutated(KUBERAY_MISTAKES[mistake]))) != []
