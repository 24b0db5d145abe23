"""``limner weights``: list, pull, import, verify and remove models; ``weights.install`` does the work."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core.errors import LimnerError
from core.settings import weights_folder
from weights import install, registry
from weights.catalogue import Entry, entries
from weights.errors import NotInstalled

_MEGABYTE = 1_000_000


def add_commands(commands: Any) -> None:
    """Add ``weights`` and its subcommands to the parser of ``limner``."""
    weights = commands.add_parser("weights", help="list, pull, import, verify and remove models")
    actions = weights.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="the models that are known, and which are installed")
    listing.add_argument("--json", action="store_true", help="as JSON, for programs")
    pulling = actions.add_parser("pull", help="download known models")
    pulling.add_argument("name", nargs="+")
    pulling.add_argument("--again", action="store_true", help="also what is installed already")
    importing = actions.add_parser("import", help="install a checkpoint file or a diffusers folder, offline")
    importing.add_argument("source", type=Path)
    importing.add_argument("--name", help="its name here; that of a known model gives it that description")
    importing.add_argument("--vae", type=Path, help="an autoencoder to use instead of its own")
    verifying = actions.add_parser("verify", help="read every file again and compare its hash")
    verifying.add_argument("name", nargs="*", help="all that are installed, if none is named")
    removing = actions.add_parser("remove", help="delete an installed model")
    removing.add_argument("name", nargs="+")


def run(options: argparse.Namespace) -> int:
    """Carry out a parsed ``weights`` command; returns the exit status."""
    try:
        return _ACTIONS[options.action](options)
    except LimnerError as error:
        print(f"limner: {error.message}", file=sys.stderr)
    except OSError as error:
        print(f"limner: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("limner: interrupted; pull again to go on", file=sys.stderr)
    return 1


def ensure_installed(model_id: str) -> bool:
    """Whether ``model_id`` can be served. Offers to pull it on a terminal; says what to run otherwise."""
    try:
        registry.info(model_id)
    except NotInstalled as error:
        if sys.stdin.isatty() and sys.stdout.isatty() and _agreed(entries()[model_id]):
            return run(argparse.Namespace(action="pull", name=[model_id], again=False)) == 0
        print(f"limner: {error.message}", file=sys.stderr)
        return False
    except LimnerError as error:
        print(f"limner: {error.message}", file=sys.stderr)
        return False
    role = entries()[model_id].role if model_id in entries() else "base"
    if role != "base":
        print(f"limner: {model_id} completes other models ({role}); it is no base to serve.", file=sys.stderr)
    return role == "base"


def _agreed(entry: Entry) -> bool:
    answer = input(f"limner: {entry.model_id} ({entry.licence}) is not installed. Pull it now? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _list(options: argparse.Namespace) -> int:
    known = entries().values()
    if options.json:
        print(json.dumps([_row(entry) for entry in known], indent=2))
        return 0
    rows = [("NAME", "STATE", "ROLE", "SIZE", "LICENCE", "WHERE")]
    rows += [
        (
            entry.model_id,
            _state(entry),
            entry.role,
            "?" if entry.num_bytes is None else f"{entry.num_bytes / _MEGABYTE:,.0f} MB",
            entry.licence or "?",
            str(entry.folder or entry.source),
        )
        for entry in known
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for *cells, last in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), last]))
    print(f"\nInstalled models live in {weights_folder()}; another place: LIMNER_WEIGHTS.")
    return 0


def _state(entry: Entry) -> str:
    if entry.embedded:
        return "embedded"
    return "installed" if entry.installed else "refused" if entry.refusal else "available"


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.model_id,
        "state": _state(entry),
        "family": entry.family,
        "role": entry.role,
        "bytes": entry.num_bytes,
        "licence": entry.licence,
        "description": entry.description,
        "source": entry.source,
        "path": None if entry.folder is None else str(entry.folder),
        "refusal": entry.refusal or None,
    }


def _pull(options: argparse.Namespace) -> int:
    for name in options.name:
        entry = install.pull(name, again=options.again, announce=_bar)
        print(f"{name}: installed in {entry.folder} ({entry.licence})")
    return 0


def _bar(name: str) -> Callable[[int, int | None], None]:
    """A progress bar for one file; nothing where standard error is no terminal."""
    bar = tqdm(desc=name, unit="B", unit_scale=True, disable=None, leave=True)

    def show(done: int, total: int | None) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return show


def _import(options: argparse.Namespace) -> int:
    entry = install.import_model(options.source, name=options.name, vae=options.vae)
    print(f"{entry.model_id}: a {entry.role} of family {entry.family}, installed in {entry.folder}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    names = options.name or [entry.model_id for entry in entries().values() if entry.installed]
    status = 0
    for name in names:
        try:
            print(f"{name}: {install.verify(name)} files are as listed")
        except LimnerError as error:
            print(f"limner: {error.message}", file=sys.stderr)
            status = 1
    return status


def _remove(options: argparse.Namespace) -> int:
    for name in options.name:
        print(f"{name}: removed from {install.remove(name)}")
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "pull": _pull,
    "import": _import,
    "verify": _verify,
    "remove": _remove,
}
