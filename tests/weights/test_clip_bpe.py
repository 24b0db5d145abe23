from __future__ import annotations

import hashlib

import pytest
from transformers import CLIPTokenizer

from weights import clip_bpe
from weights.convert import SD15


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    clip_bpe.write_tokenizer(folder, SD15 / "tokenizer" / "tokenizer_config.json")
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def test_the_merges_are_those_of_stable_diffusion() -> None:
    published = "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"
    assert hashlib.sha256(clip_bpe.merges_text().encode()).hexdigest() == published


def test_the_vocabulary_has_every_token_once() -> None:
    vocabulary = clip_bpe.vocabulary(clip_bpe.merges_text())
    assert sorted(vocabulary.values()) == list(range(49_408))
    assert (vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]) == (49_406, 49_407)
    # Known ids of CLIP's published vocabulary.
    assert {word: vocabulary[f"{word}</w>"] for word in ("a", "of", "photo", "cat", "the", "!")} == {
        "a": 320,
        "of": 539,
        "photo": 1125,
        "cat": 2368,
        "the": 518,
        "!": 256,
    }


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [320, 1125, 539, 320, 2368]),
        ("A PHOTO  of a cat", [320, 1125, 539, 320, 2368]),
        ("", []),
    ],
)
def test_it_gives_the_known_ids(tokenizer: CLIPTokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer(text).input_ids == [49_406, *ids, 49_407]


def test_it_pads_to_77_with_the_end_token(tokenizer: CLIPTokenizer) -> None:
    ids = tokenizer("a cat", padding="max_length", max_length=77, truncation=True).input_ids
    assert len(ids) == 77
    assert set(ids[3:]) == {49_407}
    assert tokenizer.model_max_length == 77


def test_any_text_survives_the_round_trip(tokenizer: CLIPTokenizer) -> None:
    for text in ("naïve café — 2 × ½", "日本語のテキスト", "🦊 fox!!"):
        ids = tokenizer(text).input_ids[1:-1]
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
