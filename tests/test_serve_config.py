"""``serve_config.yaml`` is accepted by Ray Serve's own schema and by the application."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from core.settings import AppSettings
from serve_app.cli import SERVE_CONFIG, app_settings

DOCUMENT: dict[str, Any] = yaml.safe_load(SERVE_CONFIG.read_text("utf-8"))


def test_ray_serve_accepts_the_file() -> None:
    schema = ServeDeploySchema.model_validate(DOCUMENT)
    assert [application.route_prefix for application in schema.applications] == ["/"]
    assert schema.http_options.host == "127.0.0.1"


def test_the_import_path_takes_these_arguments() -> None:
    module, _, name = DOCUMENT["applications"][0]["import_path"].partition(":")
    build = getattr(importlib.import_module(module), name)
    (argument,) = inspect.signature(build).parameters.values()
    # Ray Serve converts the arguments only when it finds the class itself here, not its name.
    assert argument.annotation is AppSettings


def test_the_arguments_are_the_applications_and_name_its_defaults() -> None:
    assert app_settings(SERVE_CONFIG) == AppSettings()


def test_a_misspelt_argument_is_refused() -> None:
    arguments = {**DOCUMENT["applications"][0]["args"], "modell": "mini"}
    with pytest.raises(ValidationError, match="modell"):
        AppSettings.model_validate(arguments)


def test_all_replicas_of_one_model_fit_on_one_gpu() -> None:
    settings = AppSettings()
    sharing = (settings.denoiser, settings.text_to_image, settings.image_to_image, settings.inpaint)
    shares = [*(own.gpu_share for own in sharing), settings.perception.gpu_share]
    assert sum(shares) <= 1 + 1e-9
