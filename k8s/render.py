"""Writes generated manifests: ``python -m k8s.render``, ``make manifests``.

The single source of Serve's configuration in the RayService patches is ``serve_config.yaml``. A folder's
``serve.yaml`` says what differs there: ``args`` are merged into the application's arguments, ``deployments``
become Serve's overrides of single deployments.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from core.settings import EMBEDDED_FAMILY, AppSettings
from k8s import monitoring

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "serve_config.yaml"
# The folders whose serve.yaml makes a serve-config.yaml beside it.
FOLDERS = ("base/ray", "overlays/local", "overlays/gpu", "overlays/gpu-large")


def main() -> None:
    """Write every generated file anew."""
    for folder in FOLDERS:
        path = HERE / folder / "serve-config.yaml"
        path.write_text(patch(folder), "utf-8")
        print(path.relative_to(HERE.parent))
    for path, text in monitoring.generated().items():
        path.write_text(text, "utf-8")
        print(path.relative_to(HERE.parent))


def patch(folder: str) -> str:
    """The text of the folder's ``serve-config.yaml``."""
    config = serve_config(yaml.safe_load((HERE / folder / "serve.yaml").read_text("utf-8")))
    lines = yaml.safe_dump(config, sort_keys=False, width=100).splitlines()
    indented = "".join(f"    {line}\n" for line in lines)
    return (
        "# Written by `make manifests` from serve_config.yaml and serve.yaml. Do not edit.\n"
        "apiVersion: ray.io/v1\n"
        "kind: RayService\n"
        "metadata:\n"
        "  name: limner\n"
        f"{'' if folder == 'base/ray' else '  namespace: limner' + chr(10)}"
        "spec:\n"
        f"  serveConfigV2: |\n{indented}"
    )


def serve_config(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Serve's configuration with ``overrides``. Raises ValidationError for arguments that are refused."""
    config: dict[str, Any] = yaml.safe_load(SOURCE.read_text("utf-8"))
    # In a pod loopback would be nobody's; who may come in is for the network policies to say.
    config["http_options"]["host"] = "0.0.0.0"
    (application,) = config["applications"]
    application["args"] = merged(application["args"], overrides.get("args") or {})
    settings = AppSettings.model_validate(application["args"])
    changes: Mapping[str, dict[str, Any]] = overrides.get("deployments") or {}
    if changes:
        options = actor_options(settings)
        application["deployments"] = [
            {"name": name, **_change(options[name], change)} for name, change in changes.items()
        ]
    return config


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes``, mapping by mapping; an empty mapping of ``base`` is filled."""
    result = dict(deepcopy(base))
    for name, value in changes.items():
        old = result.get(name)
        result[name] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def actor_options(settings: AppSettings) -> dict[str, dict[str, Any]]:
    """Each deployment's ``ray_actor_options`` as the application sets them."""
    # Serve takes several seconds to import.
    from ray.serve._private.build_app import build_app

    from serve_app.app import build

    # What a replica asks for does not depend on the model, and only the embedded one is sure to be there.
    embedded = settings.model_copy(update={"model": EMBEDDED_FAMILY})
    built = build_app(build(embedded), name="limner")
    return {deployment.name: dict(deployment.ray_actor_options or {}) for deployment in built.deployments}


def _change(options: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Serve replaces ``ray_actor_options`` as a whole, so those of the code are said again."""
    if "ray_actor_options" not in change:
        return dict(change)
    return {**change, "ray_actor_options": {**options, **change["ray_actor_options"]}}


if __name__ == "__main__":
    main()
