from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.powerpaint_files import build_v1_release, build_v2_release, rewrite
from tests.tiny_family import build_tiny_family
from weights import powerpaint, registry
from weights.errors import BrokenWeights, RefusedWeights

LEARNED = "text_model.embeddings.token_embedding.trainable_embeddings"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(tmp_path_factory.mktemp("base"))


@pytest.fixture
def v1(base: Path, tmp_path: Path) -> Path:
    return build_v1_release(tmp_path / "v1", base)


@pytest.fixture
def v2(base: Path, tmp_path: Path) -> Path:
    return build_v2_release(tmp_path / "v2", base)


def _text(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("tokenizer", "text_encoder")]


def encoded(tokenizer: Any, encoder: Any, text: str) -> torch.Tensor:
    tokens = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
    states: torch.Tensor = encoder(tokens).last_hidden_state
    return states


@pytest.mark.parametrize("token", powerpaint.TASK_TOKENS)
def test_each_vector_of_a_task_token_is_a_token_of_its_own(base: Path, v1: Path, token: str) -> None:
    tokenizer, encoder = powerpaint.load_v1_text(v1, base)
    _, *tokens, _ = tokenizer(f"red {powerpaint.words_of(token)} cat").input_ids
    assert len(tokens) == 12
    vectors = encoder.embeddings.token_embedding(torch.tensor(tokens[1:11]))
    learned = load_file(v1 / "text_encoder/text_encoder.safetensors")[f"{LEARNED}.{token}"]
    assert torch.equal(vectors, learned)


def test_words_alone_are_encoded_as_before(base: Path, v2: Path) -> None:
    plain = registry.load_text(f"path:{base}")
    extended = powerpaint.load_v2_text(v2, base)
    assert not powerpaint.has_task_tokens(plain[0])
    assert powerpaint.has_task_tokens(extended[0])
    for text in ("red hair, blue cat", "p_obj_0", ""):
        torch.testing.assert_close(encoded(*extended, text), encoded(*plain, text))


def test_a_diffusers_folder_may_have_task_tokens_of_its_own(base: Path, v1: Path, tmp_path: Path) -> None:
    tokenizer, encoder = powerpaint.load_v1_text(v1, base)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    encoder.save_pretrained(tmp_path / "text_encoder")
    own = registry.load_text(f"path:{shutil.copytree(base, tmp_path, dirs_exist_ok=True, ignore=_text)}")
    assert powerpaint.has_task_tokens(own[0])
    text = f"red cat {powerpaint.words_of('P_shape')}"
    assert torch.equal(encoded(*own, text), encoded(tokenizer, encoder, text))


def test_learned_vectors_may_be_rows_of_the_embedding(base: Path, v1: Path, tmp_path: Path) -> None:
    tokenizer, encoder = powerpaint.load_v1_text(v1, base)
    save_file(encoder.state_dict(), tmp_path / "rows.safetensors")
    again = powerpaint.load_text(tmp_path / "rows.safetensors", base / "text_encoder", base / "tokenizer")
    text = powerpaint.words_of("P_ctxt")
    assert torch.equal(encoded(*again, text), encoded(tokenizer, encoder, text))


def test_the_v1_unet_reads_nine_channels(base: Path, v1: Path) -> None:
    unet = powerpaint.load_v1_unet(v1, base / "unet")
    assert unet.config.in_channels == 9
    assert torch.equal(unet.conv_in.weight, load_file(v1 / powerpaint.V1_UNET)["conv_in.weight"])


def test_a_branch_without_configuration_has_that_of_its_unet(base: Path, v2: Path) -> None:
    weights = powerpaint.load_brushnet(v2, base)
    assert weights.config["conditioning_channels"] == 5
    assert (
        weights.config["cross_attention_dim"] == registry.load_unet(f"path:{base}").config.cross_attention_dim
    )
    (v2 / "config.json").write_text('{"conditioning_channels": 5, "in_channels": 4}')
    assert powerpaint.load_brushnet(v2, base).config == {"conditioning_channels": 5, "in_channels": 4}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{LEARNED}.P_obj": None}, "no 10 vectors of P_obj"),
        ({f"{LEARNED}.P_ctxt": torch.zeros(9, 32)}, "no 10 vectors of P_ctxt"),
        ({"text_model.final_layer_norm.bias": None}, "not those of this model family"),
        ({"text_model.final_layer_norm.bias": torch.zeros(33)}, "not those of this model family"),
    ],
)
def test_a_text_encoder_that_does_not_fit_is_refused(
    base: Path, v2: Path, changes: dict[str, torch.Tensor | None], said: str
) -> None:
    rewrite(v2 / powerpaint.V2_TEXT_ENCODER, changes)
    with pytest.raises(RefusedWeights, match=said):
        powerpaint.load_v2_text(v2, base)


def test_a_pickle_and_a_missing_file_are_told_apart(base: Path, v2: Path) -> None:
    path = v2 / powerpaint.V2_TEXT_ENCODER
    path.unlink()
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(RefusedWeights, match="pickle"):
        powerpaint.load_v2_text(v2, base)
    path.unlink()
    with pytest.raises(BrokenWeights, match="missing"):
        powerpaint.load_v2_text(v2, base)
