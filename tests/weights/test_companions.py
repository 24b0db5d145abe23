"""Installed parts find the base model that they complete, and their files are checked."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.tiny_family import build_tiny_family
from weights import registry
from weights.catalogue import Entry, entries, read_manifest, write_description
from weights.errors import BrokenWeights, NotInstalled
from weights.tensor_file import sha256_of

MANIFEST = """
[models.canny]
family = "custom"
role = "controlnet"
layout = "files"

[models.masks]
family = "custom"
role = "perception"
part = "clipseg"
layout = "files"

[models.other-masks]
family = "custom"
role = "perception"
part = "clipseg"
layout = "files"
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"path:{build_tiny_family(tmp_path_factory.mktemp('base'))}"


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.toml"
    path.write_text(MANIFEST)
    read_manifest.cache_clear()
    return path


def put(model_id: str, weights: Path, *, part: str, role: str = "perception", family: str = "custom") -> Path:
    folder = weights / model_id
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(f'{{"name": "{model_id}"}}')
    (folder / "deep").mkdir()
    (folder / "deep" / "notes.txt").write_text("deep")
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
        for name in ("config.json", "deep/notes.txt")
    }
    write_description(folder, Entry(model_id=model_id, family=family, role=role, part=part), files)
    return folder


def test_a_base_finds_the_installed_parts_of_its_family(base: str, manifest: Path, weights: Path) -> None:
    assert registry.companions(base, manifest) == {}
    put("canny", weights, part="controlnet", role="controlnet")
    put("foreign", weights, part="inpaint", role="inpaint", family="sd15")
    put("another-base", weights, part="base", role="base")
    assert registry.companions(base, manifest) == {"controlnet": "canny"}
    assert registry.has_part(base, "controlnet", manifest)
    assert not registry.has_part(base, "inpaint", manifest)
    assert registry.part_folder(base, "controlnet", manifest) == weights / "canny"


def test_of_several_the_first_of_the_manifest_is_taken(base: str, manifest: Path, weights: Path) -> None:
    for name in ("a-third", "other-masks", "masks"):
        put(name, weights, part="clipseg")
    assert registry.companions(base, manifest)["clipseg"] == "masks"


def test_a_missing_part_says_what_to_pull(base: str, manifest: Path) -> None:
    with pytest.raises(NotInstalled, match=r"has no clipseg\. Run `limner weights pull masks`") as missing:
        registry.part_folder(base, "clipseg", manifest)
    assert missing.value.limit == ["masks", "other-masks"]
    with pytest.raises(NotInstalled, match=r"has no powerpaint\.$"):
        registry.part_folder(base, "powerpaint", manifest)


def test_a_part_in_the_models_own_folder_comes_first(manifest: Path, weights: Path, tmp_path: Path) -> None:
    folder = build_tiny_family(tmp_path / "own")
    (folder / "clipseg").mkdir()
    put("masks", weights, part="clipseg")
    assert registry.part_folder(f"path:{folder}", "clipseg", manifest) == folder / "clipseg"
    assert registry.verified_part(f"path:{folder}", "clipseg", manifest) == folder / "clipseg"


def test_the_files_of_a_part_are_checked(base: str, manifest: Path, weights: Path) -> None:
    folder = put("canny", weights, part="controlnet", role="controlnet")
    registry.part_folder(base, "controlnet", manifest)
    (folder / "deep" / "notes.txt").write_text("DEEP")
    with pytest.raises(BrokenWeights, match=r"notes\.txt is corrupt"):
        registry.part_folder(base, "controlnet", manifest)


def test_a_part_is_not_a_model_to_serve(manifest: Path, weights: Path) -> None:
    put("canny", weights, part="controlnet", role="controlnet")
    with pytest.raises(BrokenWeights, match="canny is a controlnet for custom models"):
        registry.info("canny", manifest)
    assert registry.list_models(manifest) == ()


@pytest.mark.parametrize("content", ["{", "[]", '{"family": "custom", "colour": 1}'])
def test_a_description_that_cannot_be_read_leaves_the_others_alone(
    content: str, manifest: Path, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put("canny", weights, part="controlnet", role="controlnet")
    (weights / "odd").mkdir()
    (weights / "odd" / "model.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        known = entries(manifest)
    assert known["canny"].installed
    assert "odd" not in known
    assert "model left out" in caplog.text


def test_the_shipped_manifest_names_every_part_of_the_family() -> None:
    known = entries()
    assert {entry.part for entry in known.values() if entry.family == "sd15"} == {
        "base", "vae", "inpaint", "powerpaint", "controlnet", "clipseg", "clip", "safety_checker", "few_step",
    }  # fmt: skip
    for entry in known.values():
        assert entry.licence
        assert entry.description
        for required in entry.requires:
            assert required in known
        for download in entry.downloads:
            assert download.url.startswith("https://huggingface.co/")
            assert download.target.endswith((".safetensors", ".json", ".txt"))
            assert download.sha256 is None or len(download.sha256) == 64
