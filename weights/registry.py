"""Models as data: which there are, what a client may ask of them, and how each part is loaded.

A model is embedded (``manifest.toml``), installed in the weights folder (see :mod:`weights.install`), or any
folder in diffusers layout by the name ``path:/some/folder``. The files of the first two are checked against
their listed hashes. Knows nothing of requests. Heavy imports happen inside the loaders.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import NotFound
from core.types import ModelInfo
from weights import loading, verification
from weights.catalogue import MANIFEST as MANIFEST
from weights.catalogue import Entry, entries, read_manifest
from weights.describe import facts_of, family_of, read_config
from weights.errors import BrokenWeights as BrokenWeights
from weights.errors import NotInstalled
from weights.tensor_file import sha256_of

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from weights.adapters.layers import Factors

PATH_PREFIX = "path:"
FEW_STEP = "few_step"
_ADAPTER_FILE = "pytorch_lora_weights.safetensors"
_PREVIEW_FILE = "preview.json"
# Files of a model folder that the service reads; others (READMEs, training notes) may change freely.
_SUFFIXES = {".json", ".safetensors", ".txt"}


def list_models(manifest: Path = MANIFEST) -> tuple[ModelInfo, ...]:
    """The models that can be served: the manifest's in its order, then others that are installed."""
    known = entries(manifest).values()
    return tuple(_info(entry, manifest) for entry in known if entry.installed and entry.role == "base")


def info(model_id: str, manifest: Path = MANIFEST) -> ModelInfo:
    """What a client may ask of ``model_id``. Raises :class:`NotFound` for an unknown model and
    :class:`NotInstalled`, which says how to get it, for a known one."""
    return _info(_entry(model_id, manifest), manifest)


def scheduler_config(model_id: str, manifest: Path = MANIFEST) -> dict[str, Any]:
    """The model's ``scheduler_config.json``: the noise schedule that it was trained with."""
    return read_config(verified_part(model_id, "scheduler", manifest) / "scheduler_config.json")


def preview_map(model_id: str, manifest: Path = MANIFEST) -> dict[str, list[Any]] | None:
    """``rgb = latents @ matrix + bias``, rgb in [0, 1], for small previews; None where the model has none."""
    entry = _entry(model_id, manifest)
    assert entry.folder is not None
    if entry.files is not None:
        verification.check_files(entry, _listed(entry, _PREVIEW_FILE))
    if not (entry.folder / _PREVIEW_FILE).exists():
        return None
    fitted = read_config(entry.folder / _PREVIEW_FILE)
    return {"matrix": fitted["matrix"], "bias": fitted["bias"]}


def load_text(
    model_id: str, manifest: Path = MANIFEST, *, dtype: torch.dtype | None = None
) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Tokenizer and text encoder, on the CPU, in evaluation mode; ``dtype`` float32 unless given.

    Nothing is in memory twice, whatever the precision of the files; so with every loader here.
    """
    import torch
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(verified_part(model_id, "tokenizer", manifest))
    folder = verified_part(model_id, "text_encoder", manifest)
    return tokenizer, loading.load_text_encoder(folder, dtype or torch.float32)


def load_second_text(
    model_id: str, manifest: Path = MANIFEST, *, dtype: torch.dtype | None = None
) -> tuple[CLIPTokenizer, CLIPTextModelWithProjection]:
    """As :func:`load_text`, the second ones of a model of the Stable Diffusion XL family."""
    import torch
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(verified_part(model_id, "tokenizer_2", manifest))
    folder = verified_part(model_id, "text_encoder_2", manifest)
    return tokenizer, loading.load_second_text_encoder(folder, dtype or torch.float32)


def zeroes_empty_prompts(model_id: str, manifest: Path = MANIFEST) -> bool:
    """Whether an empty negative prompt is all zeros to the model (``force_zeros_for_empty_prompt``)."""
    folder = verified_part(model_id, "model_index.json", manifest)
    return bool(read_config(folder).get("force_zeros_for_empty_prompt", False))


def load_vae(model_id: str, manifest: Path = MANIFEST, *, dtype: torch.dtype | None = None) -> AutoencoderKL:
    """The autoencoder, on the CPU, in evaluation mode; ``dtype`` float32 unless given."""
    import torch

    return loading.load_vae(verified_part(model_id, "vae", manifest), dtype or torch.float32)


def load_unet(
    model_id: str,
    manifest: Path = MANIFEST,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> UNet2DConditionModel:
    """The denoising network, in evaluation mode; ``dtype`` float32 unless given.

    On the device "meta" it has shapes and no values.
    """
    import torch

    return loading.load_unet(verified_part(model_id, "unet", manifest), dtype or torch.float32, device)


def load_few_step(model_id: str, manifest: Path = MANIFEST) -> Factors | None:
    """The UNet's factors of the model's few-step adapter, its own or a companion's; None without one.

    Raises :class:`InvalidRequest` for a file that is no adapter.
    """
    if not has_part(model_id, FEW_STEP, manifest):
        return None
    from weights.adapters import read_adapter, unet_factors

    file = part_folder(model_id, FEW_STEP, manifest) / _ADAPTER_FILE
    return unet_factors(read_adapter(file.read_bytes()))


def companions(model_id: str, manifest: Path = MANIFEST) -> dict[str, str]:
    """Installed models that complete ``model_id``: part → model id, of its family or made for several.

    Parts are ``inpaint``, ``controlnet``, ``clipseg``, ``clip``, ``safety_checker``, ``powerpaint``,
    ``few_step``, ``vae``. Of several with one part, the first of the manifest is taken.
    """
    family = _entry(model_id, manifest).family
    found: dict[str, str] = {}
    for entry in entries(manifest).values():
        if (
            entry.installed
            and entry.role != "base"
            and entry.model_id != model_id
            and entry.completes(family)
        ):
            found.setdefault(entry.part, entry.model_id)
    return found


def has_part(model_id: str, part: str, manifest: Path = MANIFEST) -> bool:
    """Whether ``part`` is in the model's own folder or among its :func:`companions`."""
    return _has_own(_entry(model_id, manifest), part) or part in companions(model_id, manifest)


def part_folder(model_id: str, part: str, manifest: Path = MANIFEST) -> Path:
    """The folder of ``part``, its own or a companion's, every file checked.

    Raises :class:`NotInstalled` where there is none, naming what can be pulled.
    """
    own = _entry(model_id, manifest)
    if _has_own(own, part):
        return verified_part(model_id, part, manifest)
    attached = companions(model_id, manifest)
    if part not in attached:
        offered = [
            entry.model_id
            for entry in entries(manifest).values()
            if entry.part == part and entry.completes(own.family) and not entry.installed
        ]
        hint = f" Run `limner weights pull {offered[0]}`." if offered else ""
        raise NotInstalled(f"Model {model_id} has no {part}.{hint}", limit=offered)
    entry = entries(manifest)[attached[part]]
    assert entry.folder is not None
    verification.check_files(entry, entry.files or {})
    return entry.folder


def folder_of(model_id: str, manifest: Path = MANIFEST) -> Path:
    """The model's own folder, its files unchecked. Raises as :func:`info` does."""
    folder = _entry(model_id, manifest).folder
    assert folder is not None, "it is installed"
    return folder


def verified_part(model_id: str, part: str, manifest: Path = MANIFEST) -> Path:
    """The folder (or file) ``part`` of a model's own folder, after checking its files."""
    entry = _entry(model_id, manifest)
    assert entry.folder is not None
    if entry.files is None:
        if not (entry.folder / part).exists():
            raise BrokenWeights(f"Model {model_id} has no {entry.folder / part}.")
        return entry.folder / part
    listed = _listed(entry, part)
    if not listed:
        raise BrokenWeights(f"Model {model_id} lists no files of its {part}.")
    verification.check_files(entry, listed)
    return entry.folder / part


def update(model_id: str, manifest: Path = MANIFEST) -> int:
    """Write the sizes and hashes of an embedded model's files to the manifest; returns how many."""
    folder = _entry(model_id, manifest).folder
    assert folder is not None
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    if not paths:
        raise BrokenWeights(f"Model {model_id} has no files in {folder}.")
    header = f"[models.{model_id}.files]"
    lines = [_file_line(path, folder) for path in paths]
    kept: list[str] = []
    inside = False
    for line in manifest.read_text().splitlines():
        if line.startswith("["):
            inside = line == header
            if inside:
                kept.extend([header, *lines, ""])
        if not inside:
            kept.append(line)
    if header not in kept:
        kept.extend(["", header, *lines])
    manifest.write_text("\n".join(kept).rstrip() + "\n")
    read_manifest.cache_clear()
    verification.check_file.cache_clear()
    return len(paths)


def _file_line(path: Path, folder: Path) -> str:
    name = json.dumps(path.relative_to(folder).as_posix())
    return f'{name} = {{ bytes = {path.stat().st_size}, sha256 = "{sha256_of(path)}" }}'


def _entry(model_id: str, manifest: Path) -> Entry:
    if model_id.startswith(PATH_PREFIX):
        folder = Path(model_id.removeprefix(PATH_PREFIX))
        return Entry(
            model_id=model_id,
            family=family_of(folder),
            description=f"Model folder {folder.name}",
            facts=facts_of(folder),
            folder=folder,
        )
    known = entries(manifest)
    if model_id not in known:
        raise NotFound(
            f"There is no model {model_id}. Known: {', '.join(known)}.", field="model", limit=list(known)
        )
    if not known[model_id].installed:
        raise NotInstalled(
            f"Model {model_id} is not installed. Run `limner weights pull {model_id}`.", field="model"
        )
    return known[model_id]


def _info(entry: Entry, manifest: Path) -> ModelInfo:
    """That of ``entry``, with the few-step adapter of a companion where it has none of its own."""
    if _has_own(entry, FEW_STEP):
        return entry.info
    attached = companions(entry.model_id, manifest).get(FEW_STEP)
    few_step = None if attached is None else entries(manifest)[attached].few_step
    return replace(entry.info, few_step=few_step)


def _has_own(entry: Entry, part: str) -> bool:
    if entry.files is None:
        return entry.folder is not None and (entry.folder / part).is_dir()
    return bool(_listed(entry, part))


def _listed(entry: Entry, part: str) -> Mapping[str, Mapping[str, Any]]:
    return {name: facts for name, facts in (entry.files or {}).items() if Path(name).parts[0] == part}


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m weights.registry", description=__doc__)
    parser.add_argument("--update", metavar="MODEL", help="write the hashes of MODEL's files to the manifest")
    chosen = parser.parse_args().update
    if chosen:
        print(f"{chosen}: {update(chosen)} files")
        return
    for model in list_models():
        print(f"{model.model_id}: {model.description}")


if __name__ == "__main__":
    _main()
