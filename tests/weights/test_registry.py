from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import NotFound
from core.types import SamplerName
from tests.tiny_family import build_tiny_family
from weights import registry

MODEL = """
[models.small]
path = "small"
family = "mini"
description = "For tests"
licence = "MIT"
default_size = 32
min_size = 16
max_size = 64
size_multiple = 8
max_clip_skip = 2
prediction_type = "v_prediction"
default_sampler = "dpmpp_2m"
default_num_inference_steps = 20
default_guidance_scale = 4.0
"""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest of one model that has a scheduler and a preview map."""
    folder = tmp_path / "small"
    (folder / "scheduler").mkdir(parents=True)
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "v_prediction"}')
    (folder / "preview.json").write_text(json.dumps({"matrix": [[1, 0, 0]] * 4, "bias": [0, 0, 0]}))
    (folder / "notes.md").write_text("not read by the service")
    path = tmp_path / "manifest.toml"
    path.write_text(MODEL)
    registry.update("small", path)
    return path


def test_the_manifest_describes_its_models(manifest: Path) -> None:
    (model,) = registry.list_models(manifest)
    assert model == registry.info("small", manifest)
    assert (model.model_id, model.family, model.default_sampler) == ("small", "mini", SamplerName.DPMPP_2M)


def test_the_shipped_manifest_is_complete() -> None:
    for model in registry.list_models():
        assert model.min_size <= model.default_size <= model.max_size
        for size in (model.min_size, model.default_size, model.max_size):
            assert size % model.size_multiple == 0
        assert model.licence


def test_the_embedded_model_is_described_as_its_files_are() -> None:
    described, found = registry.info("mini"), registry.info(f"path:{registry.MANIFEST.parent / 'mini'}")
    for fact in ("default_size", "size_multiple", "max_clip_skip", "prediction_type"):
        assert getattr(described, fact) == getattr(found, fact)
    assert registry.scheduler_config("mini")["prediction_type"] == described.prediction_type


def test_an_unknown_model_is_not_found(manifest: Path) -> None:
    with pytest.raises(NotFound, match="small") as refused:
        registry.info("large", manifest)
    assert refused.value.field == "model"


def test_files_are_read_once_they_match(manifest: Path) -> None:
    assert registry.scheduler_config("small", manifest) == {"prediction_type": "v_prediction"}
    preview = registry.preview_map("small", manifest)
    assert preview == {"matrix": [[1, 0, 0]] * 4, "bias": [0, 0, 0]}


def test_update_replaces_the_hashes_and_keeps_the_description(manifest: Path) -> None:
    config = manifest.parent / "small" / "scheduler" / "scheduler_config.json"
    config.write_text("{}")
    assert registry.update("small", manifest) == 2
    assert registry.scheduler_config("small", manifest) == {}
    assert manifest.read_text().count("[models.small.files]") == 1
    assert "notes.md" not in manifest.read_text()
    assert registry.info("small", manifest).description == "For tests"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "missing"), ("{}", "bytes"), ('{"prediction_type": "x_prediction"}', "corrupt")],
)
def test_a_file_other_than_the_listed_one_is_refused(
    manifest: Path, content: str | None, message: str
) -> None:
    config = manifest.parent / "small" / "scheduler" / "scheduler_config.json"
    if content is None:
        config.unlink()
    else:
        config.write_text(content)
    with pytest.raises(registry.BrokenWeights, match=message):
        registry.scheduler_config("small", manifest)


def test_a_part_without_listed_files_is_refused(manifest: Path) -> None:
    with pytest.raises(registry.BrokenWeights, match="unet"):
        registry.load_unet("small", manifest)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(tmp_path_factory.mktemp("family"), prediction_type="epsilon")


def test_a_folder_is_described_from_its_configs(tiny: Path) -> None:
    model = registry.info(f"path:{tiny}")
    assert (model.default_size, model.size_multiple, model.max_clip_skip) == (32, 8, 2)
    assert model.prediction_type == "epsilon"
    assert registry.scheduler_config(f"path:{tiny}")["prediction_type"] == "epsilon"
    assert registry.preview_map(f"path:{tiny}") is None


def test_a_folder_without_configs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(registry.BrokenWeights, match="missing"):
        registry.info(f"path:{tmp_path}")


def test_every_part_of_a_folder_loads_ready_for_inference(tiny: Path) -> None:
    model_id = f"path:{tiny}"
    tokenizer, text_encoder = registry.load_text(model_id)
    assert tokenizer("red hair").input_ids[0] == tokenizer.bos_token_id
    for network in (text_encoder, registry.load_vae(model_id), registry.load_unet(model_id)):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert {str(parameter.dtype) for parameter in network.parameters()} == {"torch.float32"}
