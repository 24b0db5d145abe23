"""Settings are frozen, checked, and come from the environment in one place."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from core.settings import AppSettings, LocalServer, SafetySettings, safety_enabled, weights_folder


def test_defaults_are_loopback_and_port_8000() -> None:
    server = LocalServer.from_environment({})
    assert (server.host, server.port, server.haproxy) == ("127.0.0.1", 8000, True)


def test_the_environment_overrides() -> None:
    server = LocalServer.from_environment({"LIMNER_PORT": "9000", "LIMNER_HAPROXY": "0", "OTHER": "x"})
    assert (server.port, server.haproxy) == (9000, False)


@pytest.mark.parametrize("port", ["0", "65536", "http", ""])
def test_a_bad_port_is_refused_by_name(port: str) -> None:
    with pytest.raises(ValidationError, match="port"):
        LocalServer.from_environment({"LIMNER_PORT": port})


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="denoizer"):
        AppSettings.model_validate({"denoizer": {}})
    with pytest.raises(ValidationError, match="max_row"):
        AppSettings.model_validate({"denoiser": {"max_row": 3}})


def test_settings_are_frozen() -> None:
    settings = AppSettings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.model = "other"  # type: ignore[misc]


def test_the_model_and_the_weights_folder_come_from_the_environment() -> None:
    assert LocalServer.from_environment({}).model is None
    assert LocalServer.from_environment({"LIMNER_MODEL": "mini"}).model == "mini"
    with pytest.raises(ValidationError, match="model"):
        LocalServer.from_environment({"LIMNER_MODEL": ""})
    assert weights_folder({}) == Path.home() / ".cache" / "limner" / "weights"
    assert weights_folder({"LIMNER_WEIGHTS": "/data/weights"}) == Path("/data/weights")
    assert weights_folder({"LIMNER_WEIGHTS": "~/models"}) == Path.home() / "models"


@pytest.mark.parametrize(
    ("enabled", "family", "checked"),
    [
        (None, "mini", False),
        (None, "sd15", True),
        (None, "custom", True),
        (True, "mini", True),
        (False, "sd15", False),
    ],
)
def test_pictures_of_real_families_are_checked_unless_told_otherwise(
    enabled: bool | None, family: str, checked: bool
) -> None:
    assert safety_enabled(SafetySettings(enabled=enabled), family) is checked
