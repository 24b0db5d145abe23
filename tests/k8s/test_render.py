"""Serve's configuration in the manifests is serve_config.yaml with the changes that serve.yaml names."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from core.settings import AppSettings
from k8s.render import FOLDERS, HERE, actor_options, merged, patch, serve_config
from serve_app.cli import SERVE_CONFIG
from tests.k8s.manifests import K8S, OVERLAYS, rendered
from tests.k8s.manifests import serve_config as rendered_config

SOURCE: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text("utf-8"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_generated_files_are_up_to_date(folder: str) -> None:
    assert (HERE / folder / "serve-config.yaml").read_text("utf-8") == patch(folder), "run `make manifests`"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_serve_accepts_what_kubernetes_gets(overlay: str) -> None:
    config = rendered_config(rendered(K8S / "overlays" / overlay))
    schema = ServeDeploySchema.model_validate(config)
    assert AppSettings.model_validate(schema.applications[0].args)


def test_only_the_address_differs_without_overrides() -> None:
    config = serve_config({})
    assert config["http_options"].pop("host") == "0.0.0.0"
    expected = {**SOURCE, "http_options": {"port": SOURCE["http_options"]["port"]}}
    assert config == expected


def test_changes_are_merged_member_by_member() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}) == {"a": {"b": 5, "c": 2}, "d": 3}
    assert merged({"labels": {}}, {"labels": {"role": "training"}}) == {"labels": {"role": "training"}}


def test_a_misspelt_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="modell"):
        serve_config({"args": {"modell": "mini"}})


def test_an_unknown_deployment_is_refused() -> None:
    with pytest.raises(KeyError, match="Painter"):
        serve_config({"deployments": {"Painter": {}}})


def test_labels_are_added_to_what_the_code_asks_for() -> None:
    labels = {"label_selector": {"role": "serving"}}
    config = serve_config(
        {"args": {"use_gpu": True}, "deployments": {"Denoiser": {"ray_actor_options": labels}}}
    )
    (override,) = config["applications"][0]["deployments"]
    assert override["ray_actor_options"] == {**actor_options(AppSettings(use_gpu=True))["Denoiser"], **labels}
    assert override["ray_actor_options"]["num_gpus"] == AppSettings().denoiser.gpu_share
