"""Models into the weights folder and out of it: pull, import, verify, remove.

A model is built beside its place and moved there when it is complete; until then the one that was there
stays. One command at a time works on a weights folder.
"""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from core.errors import NotFound
from core.settings import weights_folder
from weights import convert, single_file, verification
from weights.catalogue import (
    LOCK,
    MANIFEST,
    Download,
    Entry,
    entries,
    manifest_entry,
    read_lock,
    read_manifest,
    write_description,
    write_json,
)
from weights.describe import facts_of, family_of, is_sdxl
from weights.errors import BrokenWeights, NotInstalled, RefusedWeights
from weights.fetch import Fetched, Progress, fetch
from weights.tensor_file import read_tensors, sha256_of

FAMILIES = Path(__file__).with_name("families")
# What completes a checkpoint that was published without an autoencoder.
_AUTOENCODERS = {"sd15": "sd-vae-ft-mse", "sdxl": "sdxl-vae-fp16-fix"}
_STAGING = ".staging"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Told the name of a file that is about to arrive; what it returns is told of the bytes.
Announce = Callable[[str], Progress]


def pull(
    model_id: str, *, again: bool = False, announce: Announce | None = None, manifest: Path = MANIFEST
) -> Entry:
    """Download a model of the manifest, and first those that it needs; returns it installed.

    One that is installed and intact is left alone unless ``again``. Raises :class:`NotFound`,
    :class:`RefusedWeights` or :class:`DownloadFailed`; what has arrived by then is kept, and the next try
    goes on from there.
    """
    if model_id not in read_manifest(manifest):
        known = [entry.model_id for entry in entries(manifest).values() if entry.downloads]
        raise NotFound(f"There is no model {model_id} to pull. Known: {', '.join(known)}.", limit=known)
    wanted = manifest_entry(model_id, manifest)
    if wanted.refusal:
        raise RefusedWeights(f"{model_id} cannot be pulled. {wanted.refusal}")
    if wanted.embedded or (not again and _intact(entries(manifest)[model_id])):
        return entries(manifest)[model_id]
    for required in wanted.requires:
        if not entries(manifest)[required].installed:
            pull(required, announce=announce, manifest=manifest)
    with _exclusive():
        arrived = _staging(model_id)
        for download in wanted.downloads:
            _obtain(download, arrived, announce)
        installed = _build(wanted, arrived, None, manifest)
        shutil.rmtree(arrived)
    return installed


def import_model(
    source: Path, *, name: str | None = None, vae: Path | None = None, manifest: Path = MANIFEST
) -> Entry:
    """Install a checkpoint file, a diffusers folder, or the downloaded files of a known model, offline.

    ``name`` is that of a known model, whose description it then gets, or a new one; by default it follows
    from the file's. ``vae`` is an autoencoder to take instead of the source's own. Raises
    :class:`RefusedWeights`.
    """
    if not source.exists():
        raise NotFound(f"There is nothing at {source}.")
    model_id = name or re.sub(r"[^a-z0-9.-]+", "-", source.stem.lower()).strip("-.")
    if not _NAME.fullmatch(model_id):
        raise RefusedWeights(f"{model_id!r} is no name for a model: small letters, digits, dots, dashes.")
    if model_id in read_manifest(manifest):
        wanted = manifest_entry(model_id, manifest)
        if wanted.embedded:
            raise RefusedWeights(f"{model_id} is the embedded model; choose another name.")
    else:
        described = f"Imported from {source.name}"
        wanted = Entry(model_id=model_id, family="", description=described, source=str(source.resolve()))
    with _exclusive():
        if wanted.layout == "files":
            arrived = _staging(model_id)
            for download in wanted.downloads:
                _copy(download, source, arrived)
            installed = _build(wanted, arrived, vae, manifest)
            shutil.rmtree(arrived)
            return installed
        if wanted.layout == "single-file" and wanted.downloads:
            inside = source / wanted.downloads[0].target
            source = inside if inside.is_file() else source
        layout = "diffusers" if source.is_dir() else "single-file"
        return _build(replace(wanted, layout=layout), source, vae, manifest)


def verify(model_id: str, manifest: Path = MANIFEST) -> int:
    """Read every file of an installed model again; returns how many. Raises :class:`BrokenWeights`."""
    entry = _installed(model_id, manifest)
    verification.check_files(entry, entry.files or {}, thorough=True)
    return len(entry.files or {})


def remove(model_id: str, manifest: Path = MANIFEST) -> Path:
    """Delete an installed model; returns its former folder. The embedded model stays."""
    entry = _installed(model_id, manifest)
    if entry.embedded or entry.folder is None:
        raise RefusedWeights(f"{model_id} is part of this repository and stays.")
    with _exclusive():
        # First out of sight in one step, so that no reader finds half a model.
        leaving = _staging(f"{model_id}.old", empty=True)
        entry.folder.rename(leaving)
        shutil.rmtree(leaving)
        verification.forget(model_id)
    return entry.folder


def _intact(entry: Entry) -> bool:
    if not entry.installed:
        return False
    try:
        verification.check_files(entry, entry.files or {})
    except BrokenWeights:
        return False
    return True


def _installed(model_id: str, manifest: Path) -> Entry:
    known = entries(manifest)
    if model_id not in known:
        raise NotFound(f"There is no model {model_id}. Known: {', '.join(known)}.", limit=list(known))
    if not known[model_id].installed:
        raise NotInstalled(f"{model_id} is not installed.")
    return known[model_id]


@contextmanager
def _exclusive() -> Iterator[None]:
    """Keep other commands off the weights folder."""
    (weights_folder() / _STAGING).mkdir(parents=True, exist_ok=True)
    with (weights_folder() / _STAGING / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RefusedWeights(f"Another command is at work in {weights_folder()}.") from error
        yield


def _staging(name: str, *, empty: bool = False) -> Path:
    folder = weights_folder() / _STAGING / name
    if empty and folder.exists():
        shutil.rmtree(folder)
    return folder


def _obtain(download: Download, arrived: Path, announce: Announce | None) -> None:
    """Fetch one file unless an earlier try did; its hash is the listed one, or the one it first had here."""
    target = arrived / download.target
    lock = read_lock()
    first = lock.get(download.url, {})
    sha256 = download.sha256 or first.get("sha256")
    if target.exists() and first and sha256_of(target) == sha256:
        return
    found = fetch(
        download.url,
        target,
        sha256=sha256,
        num_bytes=download.num_bytes,
        progress=announce(download.target) if announce else None,
    )
    _record(download, found)


def _record(download: Download, found: Fetched) -> None:
    lock = read_lock() | {download.url: {"bytes": found.num_bytes, "sha256": found.sha256}}
    write_json(weights_folder() / LOCK, lock)


def _copy(download: Download, source: Path, arrived: Path) -> None:
    """Find a file of a known model among the files at ``source``, by its place or by its name."""
    path_of_url = unquote(urlsplit(download.url).path)
    in_repository = path_of_url.partition("/resolve/")[2].partition("/")[2]
    places = [download.target, in_repository, Path(path_of_url).name]
    found = next((source / place for place in places if place and (source / place).is_file()), None)
    if found is None:
        raise RefusedWeights(f"{source} has no {in_repository or download.target} (from {download.url}).")
    if found.suffix == ".safetensors":
        read_tensors(found)
    sha256 = sha256_of(found)
    expected = download.sha256 or read_lock().get(download.url, {}).get("sha256")
    if expected and sha256 != expected:
        raise RefusedWeights(f"{found} is refused: its SHA-256 is {sha256}, not {expected}.")
    target = arrived / download.target
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(found, target)
    _record(download, Fetched(found.stat().st_size, sha256))


def _build(wanted: Entry, source: Path, vae: Path | None, manifest: Path) -> Entry:
    """Make the model's folder from ``source`` and put it in its place."""
    new = _staging(f"{wanted.model_id}.new", empty=True)
    new.mkdir(parents=True)
    if wanted.layout == "files":
        for download in wanted.downloads:
            (new / download.target).parent.mkdir(parents=True, exist_ok=True)
            (source / download.target).rename(new / download.target)
        facts: Mapping[str, object] = wanted.facts
    else:
        checkpoint = _with_vae(_read(wanted, source), wanted, vae, _family_files(wanted, source), manifest)
        convert.write_model(checkpoint, new, _family_files(wanted, source))
        family = wanted.family or family_of(new)
        inpaints = checkpoint.in_channels != int(checkpoint.configs["vae"]["latent_channels"])
        role = "inpaint" if inpaints and wanted.role == "base" else wanted.role
        facts = {**facts_of(new), **wanted.facts}
        wanted = replace(wanted, family=family, role=role, part=wanted.part or role)
    paths = sorted(path for path in new.rglob("*") if path.is_file())
    files = {path.relative_to(new).as_posix(): _facts(path) for path in paths}
    write_description(new, replace(wanted, facts=facts), files)
    place = weights_folder() / wanted.model_id
    verification.forget(wanted.model_id)
    if place.exists():
        old = _staging(f"{wanted.model_id}.old", empty=True)
        place.rename(old)
        new.rename(place)
        shutil.rmtree(old)
    else:
        new.rename(place)
    return entries(manifest)[wanted.model_id]


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _read(wanted: Entry, source: Path) -> convert.Checkpoint:
    if wanted.layout == "diffusers":
        return convert.read_folder(source, _family_files(wanted, source))
    return single_file.read_single_file(_file_of(wanted, source), _family_files(wanted, source))


def _file_of(wanted: Entry, source: Path) -> Path:
    return source / wanted.downloads[0].target if source.is_dir() else source


def _family_files(wanted: Entry, source: Path) -> Path:
    """Configs of the model's family; for what is imported under a new name they follow from ``source``."""
    if wanted.family:
        return FAMILIES / wanted.family
    if wanted.layout == "single-file":
        return FAMILIES / single_file.family_of_file(_file_of(wanted, source)).name
    return FAMILIES / ("sdxl" if is_sdxl(source) else "sd15")


def _with_vae(
    checkpoint: convert.Checkpoint, wanted: Entry, vae: Path | None, family: Path, manifest: Path
) -> convert.Checkpoint:
    """``checkpoint`` with an autoencoder: the one given, its own, or that of an installed model."""
    if vae is None and "vae" in checkpoint.parts:
        return checkpoint
    if vae is None:
        offered = [
            entry.folder / convert.WEIGHT_FILES["vae"]
            for entry in entries(manifest).values()
            if entry.part == "vae" and entry.folder is not None and entry.family == family.name
        ]
        if not offered:
            raise RefusedWeights(
                f"{wanted.model_id} has no autoencoder of its own. Run `limner weights pull "
                f"{_AUTOENCODERS[family.name]}` first, or name a file with --vae."
            )
        vae = offered[0]
    return replace(checkpoint, parts={**checkpoint.parts, "vae": convert.read_vae(vae, family)})
