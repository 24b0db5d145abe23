"""Pull, import, verify and remove, on a weights folder of the test's own and a server on loopback."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from core.errors import NotFound
from tests.tiny_family import build_tiny_family
from tests.weights import ldm_checkpoint as ldm
from tests.weights.file_server import FileServer, serving
from weights import install, registry
from weights.catalogue import LOCK, entries, read_manifest
from weights.errors import BrokenWeights, DownloadFailed, NotInstalled, RefusedWeights

ADAPTER = save({"lora": torch.arange(1_000, dtype=torch.float16)})
MANIFEST = """
[models.portraits]
family = "sd15"
description = "For tests"
licence = "CreativeML-OpenRAIL-M"
source = "here"
layout = "single-file"
requires = ["autoencoder"]
default_guidance_scale = 5.0
downloads."portraits.safetensors" = {{ url = "{url}/portraits.safetensors" }}

[models.autoencoder]
family = "sd15"
role = "vae"
layout = "files"
downloads."vae.safetensors" = {{ url = "{url}/vae.safetensors", to = "diffusion_pytorch_model.safetensors" }}

[models.adapter]
family = "sd15"
role = "adapter"
licence = "MIT"
layout = "files"
downloads."lora.safetensors" = {{ url = "{url}/lora.safetensors", sha256 = "{digest}" }}
downloads."sub/notes.json" = {{ url = "{url}/sub/notes.json" }}

[models.pickled]
family = "sd15"
role = "adapter"
layout = "files"
refusal = "It is published as a pickle only."
"""


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights folder, and a family of the same layers with few channels."""
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path / "weights"))
    ldm.small_family(tmp_path / "families" / "sd15")
    monkeypatch.setattr(install, "FAMILIES", tmp_path / "families")
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    parts = ldm.networks(ldm.small_family(folder / "sd15"))
    ldm.save(ldm.checkpoint(parts, vae=False), folder / "portraits.safetensors", torch.float16)
    return {
        "/portraits.safetensors": (folder / "portraits.safetensors").read_bytes(),
        "/vae.safetensors": save(parts["vae"].state_dict()),
        "/lora.safetensors": ADAPTER,
        "/sub/notes.json": b'{"rank": 4}',
    }


@pytest.fixture
def server(files: dict[str, bytes]) -> Iterator[FileServer]:
    with serving(dict(files)) as served:
        yield served


@pytest.fixture
def manifest(server: FileServer, tmp_path: Path) -> Path:
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST.format(url=server.url, digest=sha256(ADAPTER).hexdigest()))
    read_manifest.cache_clear()
    return path


def staged(weights: Path) -> list[str]:
    return sorted(path.name for path in (weights / ".staging").iterdir() if path.name != "lock")


def test_a_model_is_pulled_with_what_it_needs(manifest: Path, server: FileServer, weights: Path) -> None:
    announced: list[str] = []

    def announce(name: str) -> Any:
        announced.append(name)
        return lambda done, total: None

    entry = install.pull("portraits", announce=announce, manifest=manifest)
    assert entry.folder == weights / "portraits"
    assert announced == ["diffusion_pytorch_model.safetensors", "portraits.safetensors"]
    info = registry.info("portraits", manifest)
    assert (info.family, info.licence, info.default_guidance_scale) == ("sd15", "CreativeML-OpenRAIL-M", 5.0)
    assert (info.default_size, info.size_multiple, info.max_clip_skip) == (64, 64, 1)
    assert registry.load_unet("portraits", manifest, dtype=torch.float16).dtype == torch.float16
    assert staged(weights) == []
    assert [model.model_id for model in registry.list_models(manifest)] == ["portraits"]


def test_pulling_an_intact_model_again_downloads_nothing(manifest: Path, server: FileServer) -> None:
    install.pull("adapter", manifest=manifest)
    server.requests.clear()
    install.pull("adapter", manifest=manifest)
    assert server.requests == []
    install.pull("adapter", again=True, manifest=manifest)
    assert len(server.requests) == 2


def test_a_broken_model_is_mended_by_pulling_it(manifest: Path, weights: Path) -> None:
    install.pull("adapter", manifest=manifest)
    (weights / "adapter" / "lora.safetensors").write_bytes(b"broken")
    install.pull("adapter", manifest=manifest)
    assert (weights / "adapter" / "lora.safetensors").read_bytes() == ADAPTER
    assert install.verify("adapter", manifest) == 2


def test_the_first_hash_of_a_file_holds_from_then_on(
    manifest: Path, server: FileServer, weights: Path
) -> None:
    install.pull("adapter", manifest=manifest)
    lock = json.loads((weights / LOCK).read_text())
    notes = lock[f"{server.url}/sub/notes.json"]
    assert notes == {"bytes": 11, "sha256": sha256(b'{"rank": 4}').hexdigest()}
    server.files["/sub/notes.json"] = b'{"rank": 8}'
    with pytest.raises(RefusedWeights, match=r"notes\.json is refused: its SHA-256 is"):
        install.pull("adapter", again=True, manifest=manifest)
    assert (weights / "adapter" / "sub" / "notes.json").read_bytes() == b'{"rank": 4}'
    assert install.verify("adapter", manifest) == 2


def test_an_interrupted_pull_goes_on_with_the_missing_files(manifest: Path, server: FileServer) -> None:
    notes = server.files.pop("/sub/notes.json")
    with pytest.raises(DownloadFailed, match="404"):
        install.pull("adapter", manifest=manifest)
    server.files["/sub/notes.json"] = notes
    server.requests.clear()
    install.pull("adapter", manifest=manifest)
    assert [path for path, _ in server.requests] == ["/sub/notes.json"]


def test_what_is_only_a_pickle_is_not_pulled(manifest: Path) -> None:
    with pytest.raises(RefusedWeights, match=r"pickled cannot be pulled\. It is published as a pickle only"):
        install.pull("pickled", manifest=manifest)


def test_an_unknown_model_is_not_pulled(manifest: Path) -> None:
    with pytest.raises(NotFound, match=r"no model nothing to pull\. Known: portraits"):
        install.pull("nothing", manifest=manifest)


def test_a_model_that_is_not_installed_says_how_to_get_it(manifest: Path) -> None:
    with pytest.raises(NotInstalled, match="Run `limner weights pull portraits`"):
        registry.info("portraits", manifest)
    with pytest.raises(NotInstalled):
        install.verify("portraits", manifest)
    assert registry.list_models(manifest) == ()


def imported(files: dict[str, bytes], folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files[f"/{name}"])
    return folder


def test_a_file_is_imported_offline_under_a_name_of_its_own(
    manifest: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = imported(files, tmp_path / "downloads", "portraits.safetensors", "vae.safetensors")
    source = (folder / "portraits.safetensors").rename(folder / "My Portraits_v2.safetensors")
    entry = install.import_model(source, vae=folder / "vae.safetensors", manifest=manifest)
    assert (entry.model_id, entry.role, entry.family) == ("my-portraits-v2", "base", "custom")
    tokenizer, encoder = registry.load_text(entry.model_id, manifest)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert encoder.dtype == torch.float32
    assert registry.scheduler_config(entry.model_id, manifest)["beta_schedule"] == "scaled_linear"
    preview = registry.preview_map(entry.model_id, manifest)
    assert preview is not None
    assert torch.tensor(preview["matrix"]).shape == (4, 3)


def test_the_downloaded_file_of_a_known_model_gets_its_description(
    manifest: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = imported(files, tmp_path / "downloads", "portraits.safetensors", "vae.safetensors")
    install.import_model(folder, name="autoencoder", manifest=manifest)
    for source in (folder / "portraits.safetensors", folder):
        entry = install.import_model(source, name="portraits", manifest=manifest)
        assert (entry.family, entry.licence) == ("sd15", "CreativeML-OpenRAIL-M")


def test_the_downloaded_files_of_a_known_part_are_checked_as_if_pulled(
    manifest: Path, files: dict[str, bytes], tmp_path: Path
) -> None:
    folder = imported(files, tmp_path / "downloads", "lora.safetensors", "sub/notes.json")
    (folder / "lora.safetensors").write_bytes(save({"lora": torch.zeros(3)}))
    with pytest.raises(RefusedWeights, match=r"lora\.safetensors is refused: its SHA-256"):
        install.import_model(folder, name="adapter", manifest=manifest)
    (folder / "lora.safetensors").unlink()
    with pytest.raises(RefusedWeights, match=r"has no lora\.safetensors"):
        install.import_model(folder, name="adapter", manifest=manifest)


def test_a_checkpoint_without_autoencoder_says_what_to_do(
    manifest: Path, files: dict[str, bytes], tmp_path: Path, weights: Path
) -> None:
    folder = imported(files, tmp_path / "downloads", "portraits.safetensors")
    with pytest.raises(RefusedWeights, match="limner weights pull sd-vae-ft-mse"):
        install.import_model(folder / "portraits.safetensors", manifest=manifest)
    assert not (weights / "portraits").exists()


def test_a_nine_channel_checkpoint_is_a_companion_for_inpainting(manifest: Path, tmp_path: Path) -> None:
    parts = ldm.networks(tmp_path / "families" / "sd15", in_channels=9)
    source = ldm.save(ldm.checkpoint(parts), tmp_path / "inpaint.safetensors")
    entry = install.import_model(source, manifest=manifest)
    assert (entry.role, entry.part) == ("inpaint", "inpaint")
    assert registry.load_unet("inpaint", manifest).config.in_channels == 9


def test_a_diffusers_folder_is_imported_whole(manifest: Path, tmp_path: Path) -> None:
    source = build_tiny_family(tmp_path / "tiny")
    install.import_model(source, name="tiny", manifest=manifest)
    original, installed = (registry.load_unet(name, manifest) for name in (f"path:{source}", "tiny"))
    for name, value in original.state_dict().items():
        assert torch.equal(installed.state_dict()[name], value.half().float()), name
    assert registry.scheduler_config("tiny", manifest) == registry.scheduler_config(f"path:{source}")
    tokenizer, _ = registry.load_text("tiny", manifest)
    assert tokenizer("red hair").input_ids == registry.load_text(f"path:{source}")[0]("red hair").input_ids


def test_a_failed_import_leaves_the_installed_model(manifest: Path, tmp_path: Path, weights: Path) -> None:
    install.import_model(build_tiny_family(tmp_path / "tiny"), name="tiny", manifest=manifest)
    before = install.verify("tiny", manifest)
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(RefusedWeights, match="pickle"):
        install.import_model(tmp_path / "bad.safetensors", name="tiny", manifest=manifest)
    assert install.verify("tiny", manifest) == before


@pytest.mark.parametrize("name", ["../outside", "Capital", "", ".hidden", "a/b"])
def test_a_name_that_is_no_name_is_refused(name: str, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(RefusedWeights, match=r"is no name for a model|it is of an unknown format"):
        install.import_model(tmp_path / "x.safetensors", name=name, manifest=manifest)
    assert not (tmp_path / "outside").exists()


def test_the_embedded_model_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").touch()
    with pytest.raises(RefusedWeights, match="embedded"):
        install.import_model(tmp_path / "x.safetensors", name="mini")
    with pytest.raises(RefusedWeights, match="stays"):
        install.remove("mini")


def test_verify_finds_a_changed_byte(manifest: Path, weights: Path) -> None:
    install.pull("adapter", manifest=manifest)
    path = weights / "adapter" / "lora.safetensors"
    damaged = bytearray(ADAPTER)
    damaged[-1] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(BrokenWeights, match=r"lora\.safetensors is corrupt"):
        install.verify("adapter", manifest)


def test_a_removed_model_is_gone_and_can_be_pulled_again(manifest: Path, weights: Path) -> None:
    install.pull("adapter", manifest=manifest)
    assert install.remove("adapter", manifest) == weights / "adapter"
    assert not (weights / "adapter").exists()
    assert not entries(manifest)["adapter"].installed
    install.pull("adapter", manifest=manifest)
    assert entries(manifest)["adapter"].installed


def test_two_commands_do_not_work_at_once(manifest: Path, weights: Path) -> None:
    (weights / ".staging").mkdir(parents=True)
    with (weights / ".staging" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RefusedWeights, match="Another command is at work"):
            install.pull("adapter", manifest=manifest)
