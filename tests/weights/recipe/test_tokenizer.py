from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from weights.recipe.tokenizer import build_tokenizer, save_tokenizer, train_merges

CORPUS = ["a red robot on a white background", "portrait of a smiling woman with red hair"] * 20
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return build_tokenizer(train_merges(CORPUS, vocab_size=640))


def test_frequent_words_are_single_tokens(tokenizer: CLIPTokenizer) -> None:
    assert tokenizer.tokenize("Red ROBOT") == ["red</w>", "robot</w>"]


@given(text=PRINTABLE)
def test_any_ascii_text_survives_up_to_case_and_spaces(tokenizer: CLIPTokenizer, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert back.replace(" ", "") == text.lower().replace(" ", "")


def test_words_outside_the_corpus_survive_with_spaces(tokenizer: CLIPTokenizer) -> None:
    text = "quick zebras juggle vexing café waltzes"
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_batches_are_padded_and_cut_to_77_tokens(tokenizer: CLIPTokenizer) -> None:
    texts = ["a robot", "robot " * 100, ""]
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert ids.shape == (3, 77)
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    assert (ids[:, -1] == tokenizer.eos_token_id).all()


def test_a_saved_tokenizer_loads_alike(tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 77
    text = "Portrait of an unknown robot, 3 eyes!"
    assert loaded(text).input_ids == tokenizer(text).input_ids
    merges = (tmp_path / "merges.txt").read_text("utf-8").splitlines()
    assert merges[0] == "#version: 0.2"
    assert len(tokenizer) == 2 * 256 + len(merges) - 1 + 2
    assert (tmp_path / "vocab.json").exists()
