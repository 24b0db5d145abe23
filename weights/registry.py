"""Models as data: which there are, what a client may ask of them, and how each part is loaded.

``manifest.toml`` describes the models of this repository, with the size and SHA-256 of every file; a
file that differs is refused. ``path:/some/folder`` names any folder in diffusers layout, described from
its own configs. Knows nothing of requests. Heavy imports happen inside the loaders.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import LimnerError, NotFound
from core.types import ModelInfo, SamplerName

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

MANIFEST = Path(__file__).with_name("manifest.toml")
PATH_PREFIX = "path:"
_PREVIEW_FILE = "preview.json"
# Files of a model folder that the service reads; others (READMEs, training notes) may change freely.
_SUFFIXES = {".json", ".safetensors", ".txt"}


class BrokenWeights(LimnerError):
    """A model's files are missing or are not the ones its manifest lists."""

    code, title = "broken_weights", "Model files missing or corrupt"


@dataclass(frozen=True)
class _Entry:
    info: ModelInfo
    folder: Path
    files: dict[str, dict[str, Any]] | None


def list_models(manifest: Path = MANIFEST) -> tuple[ModelInfo, ...]:
    """The models of the manifest, in its order."""
    return tuple(_entry(model_id, manifest).info for model_id in _read(manifest))


def info(model_id: str, manifest: Path = MANIFEST) -> ModelInfo:
    """What a client may ask of ``model_id``. Raises :class:`NotFound` for an unknown one."""
    return _entry(model_id, manifest).info


def scheduler_config(model_id: str, manifest: Path = MANIFEST) -> dict[str, Any]:
    """The model's ``scheduler_config.json``: the noise schedule that it was trained with."""
    return _config(_verified(model_id, "scheduler", manifest) / "scheduler_config.json")


def preview_map(model_id: str, manifest: Path = MANIFEST) -> dict[str, list[Any]] | None:
    """``rgb = latents @ matrix + bias``, rgb in [0, 1], for small previews; None where the model has none."""
    folder = _verified(model_id, _PREVIEW_FILE, manifest)
    if not (folder / _PREVIEW_FILE).exists():
        return None
    fitted = _config(folder / _PREVIEW_FILE)
    return {"matrix": fitted["matrix"], "bias": fitted["bias"]}


def load_text(model_id: str, manifest: Path = MANIFEST) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Tokenizer and text encoder, float32 on the CPU, in evaluation mode."""
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(_verified(model_id, "tokenizer", manifest))
    encoder = CLIPTextModel.from_pretrained(
        _verified(model_id, "text_encoder", manifest), dtype=torch.float32, local_files_only=True
    )
    return tokenizer, encoder.eval().requires_grad_(False)


def load_vae(model_id: str, manifest: Path = MANIFEST) -> AutoencoderKL:
    """The autoencoder, float32 on the CPU, in evaluation mode."""
    import torch
    from diffusers import AutoencoderKL

    folder = _verified(model_id, "vae", manifest)
    vae: AutoencoderKL = AutoencoderKL.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return vae.eval().requires_grad_(False)


def load_unet(model_id: str, manifest: Path = MANIFEST) -> UNet2DConditionModel:
    """The denoising network, float32 on the CPU, in evaluation mode."""
    import torch
    from diffusers import UNet2DConditionModel

    folder = _verified(model_id, "unet", manifest)
    unet: UNet2DConditionModel = UNet2DConditionModel.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    return unet.eval().requires_grad_(False)


def update(model_id: str, manifest: Path = MANIFEST) -> int:
    """Write the sizes and hashes of the model's present files to the manifest; returns how many."""
    folder = _entry(model_id, manifest).folder
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES and path.is_file())
    if not paths:
        raise BrokenWeights(f"Model {model_id} has no files in {folder}.")
    header = f"[models.{model_id}.files]"
    lines = [header, *(_file_line(path, folder) for path in paths)]
    kept = []
    inside = False
    for line in manifest.read_text().splitlines():
        if line.startswith("["):
            inside = line == header
        if not inside:
            kept.append(line)
    manifest.write_text("\n".join(kept).rstrip() + "\n\n" + "\n".join(lines) + "\n")
    _read.cache_clear()
    _check_file.cache_clear()
    return len(paths)


def _file_line(path: Path, folder: Path) -> str:
    name = json.dumps(path.relative_to(folder).as_posix())
    return f'{name} = {{ bytes = {path.stat().st_size}, sha256 = "{_sha256(path)}" }}'


@cache
def _read(manifest: Path) -> dict[str, dict[str, Any]]:
    models: dict[str, dict[str, Any]] = tomllib.loads(manifest.read_text())["models"]
    return models


def _entry(model_id: str, manifest: Path) -> _Entry:
    if model_id.startswith(PATH_PREFIX):
        return _described_from_configs(model_id)
    models = _read(manifest)
    if model_id not in models:
        raise NotFound(
            f"There is no model {model_id}. Known: {', '.join(models)}.", field="model", limit=list(models)
        )
    described = dict(models[model_id])
    folder = manifest.parent / described.pop("path")
    files = described.pop("files", {})
    described["default_sampler"] = SamplerName(described["default_sampler"])
    return _Entry(ModelInfo(model_id=model_id, **described), folder, files)


def _described_from_configs(model_id: str) -> _Entry:
    folder = Path(model_id.removeprefix(PATH_PREFIX))
    unet = _config(folder / "unet" / "config.json")
    vae = _config(folder / "vae" / "config.json")
    text = _config(folder / "text_encoder" / "config.json")
    scheduler = _config(folder / "scheduler" / "scheduler_config.json")
    vae_factor = 2 ** (len(vae["block_out_channels"]) - 1)
    multiple = vae_factor * 2 ** (len(unet["block_out_channels"]) - 1)
    default = unet["sample_size"] * vae_factor
    return _Entry(
        ModelInfo(
            model_id=model_id,
            family="sd15" if unet["cross_attention_dim"] == 768 else "custom",
            description=f"Model folder {folder.name}",
            default_size=default,
            min_size=multiple * max(1, default // 2 // multiple),
            max_size=default * 2,
            size_multiple=multiple,
            max_clip_skip=text["num_hidden_layers"] - 1,
            prediction_type=scheduler.get("prediction_type", "epsilon"),
            default_sampler=SamplerName.DPMPP_2M_KARRAS,
            default_num_inference_steps=25,
            default_guidance_scale=7.5,
        ),
        folder,
        None,
    )


def _verified(model_id: str, part: str, manifest: Path) -> Path:
    """The folder of ``part`` (or of the model, when it is a file), after checking its files."""
    entry = _entry(model_id, manifest)
    target = entry.folder / part
    if entry.files is not None:
        listed = {name: facts for name, facts in entry.files.items() if Path(name).parts[0] == part}
        if not listed and part != _PREVIEW_FILE:
            raise BrokenWeights(f"Model {model_id} lists no files of its {part}.")
        for name, facts in listed.items():
            _check_file(entry.folder / name, facts["bytes"], facts["sha256"])
    elif part != _PREVIEW_FILE and not target.is_dir():
        raise BrokenWeights(f"Model {model_id} has no folder {target}.")
    return entry.folder if part == _PREVIEW_FILE else target


@cache
def _check_file(path: Path, num_bytes: int, sha256: str) -> None:
    if not path.is_file():
        raise BrokenWeights(f"Model file {path} is missing.")
    if path.stat().st_size != num_bytes:
        raise BrokenWeights(f"Model file {path} has {path.stat().st_size} bytes, not {num_bytes}.")
    if _sha256(path) != sha256:
        raise BrokenWeights(f"Model file {path} is corrupt: its SHA-256 is not the listed one.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _config(path: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BrokenWeights(f"Model file {path} is missing.") from error
    return config


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
