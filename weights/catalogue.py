"""Which models there are: those of ``manifest.toml``, and those installed in the weights folder.

An installed model is a folder with a ``model.json``, which says what the folder holds, where it came from and
the size and SHA-256 of every file. Knows descriptions and folders; not how a network is loaded.
"""

from __future__ import annotations

import json
import logging
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from core.settings import weights_folder
from core.telemetry import log, logger
from core.types import FewStep, ModelInfo, SamplerName
from weights.errors import BrokenWeights

_LOG = logger(__name__)
MANIFEST = Path(__file__).with_name("manifest.toml")
DESCRIPTION = "model.json"
LOCK = "lock.json"
_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Download:
    """One file of a source. ``target`` is its place in the model's folder, or in the source's layout.

    ``num_bytes`` and ``sha256`` are None where they are not known; the first pull records them in the lock.
    """

    url: str
    target: str
    num_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A model of the catalogue.

    ``role`` says what it is to models of its family (a base, or something that completes one), ``part`` the
    name under which a base finds it. ``folder`` and ``files`` are None until it is installed. ``layout`` is
    that of the source: ``single-file``, ``diffusers``, or ``files``, which are kept as they are. ``also_for``
    are other families that it completes, as the manifest has them.
    ``megabytes`` is about what is to be downloaded, ``refusal`` why it cannot be.
    """

    model_id: str
    family: str
    role: str = "base"
    part: str = ""
    layout: str = "diffusers"
    description: str = ""
    licence: str = ""
    source: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    files: Mapping[str, Mapping[str, Any]] | None = None
    downloads: tuple[Download, ...] = ()
    requires: tuple[str, ...] = ()
    also_for: tuple[str, ...] = ()
    megabytes: int | None = None
    refusal: str = ""
    embedded: bool = False

    @property
    def installed(self) -> bool:
        return self.folder is not None

    def completes(self, family: str) -> bool:
        """Whether it is for models of ``family``."""
        return family == self.family or family in self.also_for

    @property
    def num_bytes(self) -> int | None:
        """Of the files installed; before that, about that of the download. None where it is not known."""
        if self.files is not None:
            return sum(int(facts["bytes"]) for facts in self.files.values())
        return None if self.megabytes is None else self.megabytes * 1_000_000

    @property
    def few_step(self) -> FewStep | None:
        """How models draw with its few-step adapter; None where it has none."""
        if "few_step" not in self.facts:
            return None
        facts = dict(self.facts["few_step"])
        return FewStep(**{**facts, "sampler": SamplerName(facts["sampler"])})

    @property
    def info(self) -> ModelInfo:
        """What a client may ask of the model. Raises :class:`BrokenWeights` for a part that draws nothing."""
        if "default_size" not in self.facts:
            raise BrokenWeights(f"{self.model_id} is a {self.role} for {self.family} models, not a model.")
        facts = {**self.facts, "default_sampler": SamplerName(self.facts["default_sampler"])}
        facts["few_step"] = self.few_step
        return ModelInfo(
            model_id=self.model_id,
            family=self.family,
            description=self.description,
            licence=self.licence,
            **facts,
        )


def entries(manifest: Path = MANIFEST) -> dict[str, Entry]:
    """Every known model by id: the manifest's in its order, then what else is installed, by name."""
    known = {model_id: manifest_entry(model_id, manifest) for model_id in read_manifest(manifest)}
    return known | {entry.model_id: entry for entry in _installed(known)}


def _installed(known: Mapping[str, Entry]) -> Iterator[Entry]:
    for path in sorted(weights_folder().glob(f"*/{DESCRIPTION}")):
        model_id = path.parent.name
        if model_id in known and known[model_id].embedded:
            continue
        try:
            entry = described(path)
            # What a part is good for beyond its own family is known here, not where it was installed.
            yield replace(entry, also_for=known[model_id].also_for) if model_id in known else entry
        except BrokenWeights as error:
            # One broken folder must not keep the other models from being served.
            log(_LOG, logging.WARNING, "model left out", model=model_id, reason=error.message)


@cache
def read_manifest(manifest: Path) -> dict[str, dict[str, Any]]:
    """The tables of the manifest by model id."""
    models: dict[str, dict[str, Any]] = tomllib.loads(manifest.read_text("utf-8"))["models"]
    return models


def manifest_entry(model_id: str, manifest: Path = MANIFEST) -> Entry:
    """``model_id`` as the manifest has it, whether installed or not."""
    table = dict(read_manifest(manifest)[model_id])
    own_path, files = table.pop("path", None), table.pop("files", {})
    family, role = table.pop("family"), table.pop("role", "base")
    texts = {name: table.pop(name, "") for name in ("description", "licence", "refusal")}
    requires, also_for = tuple(table.pop("requires", ())), tuple(table.pop("also_for", ()))
    layout = table.pop("layout", "diffusers")
    megabytes = table.pop("megabytes", None)
    repository, revision = table.pop("repository", ""), table.pop("revision", "main")
    downloads = tuple(_downloads(repository, revision, table.pop("downloads", {})))
    source = table.pop("source", f"{_HUB}/{repository}" if repository else "")
    part = table.pop("part", role)
    return Entry(
        model_id=model_id,
        family=family,
        role=role,
        part=part,
        layout=layout,
        **texts,
        source=source,
        facts=table,
        folder=None if own_path is None else manifest.parent / own_path,
        files=None if own_path is None else files,
        downloads=downloads,
        requires=requires,
        also_for=also_for,
        megabytes=megabytes,
        embedded=own_path is not None,
    )


def _downloads(repository: str, revision: str, listed: Mapping[str, Mapping[str, Any]]) -> Iterable[Download]:
    for name, facts in listed.items():
        place = f"{facts.get('repository', repository)}/resolve/{facts.get('revision', revision)}"
        url = facts.get("url", f"{_HUB}/{place.replace('refs/pr/', 'refs%2Fpr%2F')}/{name}")
        yield Download(url, facts.get("to", name), facts.get("bytes"), facts.get("sha256"))


def described(path: Path) -> Entry:
    """The installed model whose ``model.json`` is ``path``. Raises :class:`BrokenWeights` if unreadable."""
    try:
        values = json.loads(path.read_text("utf-8"))
        return Entry(
            model_id=path.parent.name,
            folder=path.parent,
            requires=tuple(values.pop("requires", ())),
            **values,
        )
    except (ValueError, TypeError) as error:
        raise BrokenWeights(f"{path} cannot be read: {error}") from error


def write_description(folder: Path, entry: Entry, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the ``model.json`` of a model whose files lie in ``folder``."""
    values = {
        "family": entry.family,
        "role": entry.role,
        "part": entry.part,
        "layout": entry.layout,
        "description": entry.description,
        "licence": entry.licence,
        "source": entry.source,
        "facts": dict(entry.facts),
        "requires": list(entry.requires),
        "files": {name: dict(facts) for name, facts in sorted(files.items())},
    }
    write_json(folder / DESCRIPTION, values)


def read_lock() -> dict[str, dict[str, Any]]:
    """URL → size and hash of every file ever downloaded here: trust on first use."""
    path = weights_folder() / LOCK
    if not path.exists():
        return {}
    lock: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))
    return lock


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Replace ``path`` in one step: a reader sees the old file or the new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
