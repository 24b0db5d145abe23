"""The import rule, the size limits, and the forbidden names, read from the source itself."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("core", "weights", "store", "deployments", "serve_app")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60


def tracked_python() -> list[Path]:
    """Python files that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def imports_of(path: Path) -> set[str]:
    """Absolute module names that ``path`` imports anywhere, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(path: Path) -> str:
    """The row of the import rule that governs ``path``."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "deployments":
        return ".".join(parts[:2]) if len(parts) > 2 else "deployments"
    if parts[0] == "serve_app" and parts[-1] in ("app.py", "cli.py", "weights_cli.py", "doctor.py"):
        return "serve_app.root"
    return parts[0]


# Each layer: which of our packages it may import besides itself, and which libraries it must not.
RULE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "core": ((), ("torch", "ray", "fastapi", "diffusers", "transformers")),
    "weights": (("core",), ("ray", "fastapi")),
    "store": (("core",), ("torch", "ray", "fastapi")),
    "deployments.engine": (("core",), ("ray", "fastapi")),
    "deployments.pipeline": (("core", "weights", "store", "deployments.engine"), ("ray", "fastapi")),
    "deployments.serving": (
        ("core", "weights", "store", "deployments.engine", "deployments.pipeline"),
        ("fastapi",),
    ),
    "deployments.training": (("core", "weights", "store", "deployments.engine"), ("fastapi",)),
    "deployments": (
        (
            "core",
            "weights",
            "store",
            "deployments.engine",
            "deployments.pipeline",
            "deployments.serving",
            "deployments.training",
        ),
        ("fastapi",),
    ),
    "serve_app": (("core", "store"), ("torch", "diffusers", "transformers", "ray")),
    "serve_app.root": (OURS, ("torch", "diffusers", "transformers")),
}


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def product_python() -> list[Path]:
    """Without tests and benchmarks, which may import what they exercise."""
    return [path for path in tracked_python() if path.relative_to(ROOT).parts[0] in OURS]


@pytest.mark.parametrize("path", product_python(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    layer = layer_of(path)
    allowed, forbidden = RULE[layer]
    own = "serve_app" if layer == "serve_app.root" else layer
    for module in imports_of(path):
        assert not any(is_within(module, library) for library in forbidden), f"{path} imports {module}"
        if not any(is_within(module, package) for package in OURS):
            continue
        if layer == "deployments":
            # One replica class never imports another.
            assert any(is_within(module, package) for package in allowed), f"{path} imports {module}"
        else:
            assert is_within(module, own) or any(is_within(module, package) for package in allowed), (
                f"{path} imports {module}"
            )


def test_the_scheduler_knows_no_torch() -> None:
    assert not any(
        is_within(module, "torch") for module in imports_of(ROOT / "deployments/engine/scheduler.py")
    )


@pytest.mark.parametrize("path", tracked_python(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES, f"{path} has more than {MAX_FILE_LINES} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path}:{node.lineno} {node.name} has {length} lines"
        if isinstance(node, ast.ClassDef):
            assert not node.name.endswith(("Manager", "Helper", "Utils", "Base")), f"{path}: {node.name}"


def test_only_settings_reads_the_environment() -> None:
    for path in product_python():
        relative = path.relative_to(ROOT)
        if str(relative) not in ("core/settings.py", "serve_app/cli.py"):
            assert "environ" not in path.read_text("utf-8"), f"{relative} reads the environment"
