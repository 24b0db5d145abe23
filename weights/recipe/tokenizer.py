"""Train the byte-pair tokenizer in CLIP's format: python -m weights.recipe.tokenizer --data DIR --out DIR.

Knows captions as text. Every byte is a token of its own, so any text can be encoded.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Final

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from weights.recipe import dataset
from weights.recipe.architecture import CONTEXT_TOKENS
from weights.recipe.captions import caption

START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
WORD_END: Final = "</w>"


def train_merges(corpus: Iterable[str], vocab_size: int) -> list[tuple[str, str]]:
    """Return the byte-pair merges, most frequent first, for a vocabulary of at most vocab_size tokens."""
    reference = CLIPTokenizer().backend_tokenizer
    model = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    model.normalizer = reference.normalizer
    model.pre_tokenizer = reference.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2 - 256,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=WORD_END,
        min_frequency=2,
        show_progress=False,
    )
    model.train_from_iterator(corpus, trainer)
    merges: list[list[str]] = json.loads(model.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def build_tokenizer(merges: list[tuple[str, str]]) -> CLIPTokenizer:
    """Return the tokenizer: bytes, bytes that end a word, merges, and last the two markers."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = alphabet + [letter + WORD_END for letter in alphabet]
    tokens += [left + right for left, right in merges] + [START, END]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT_TOKENS)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the tokenizer's files, vocab.json and merges.txt among them, which older readers want."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, caption every picture a few times, train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=1536)
    parser.add_argument("--captions-per-picture", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    _, records = dataset.load(options.data)
    rng = Random(options.seed)
    corpus = [caption(record, rng) for record in records for _ in range(options.captions_per_picture)]
    tokenizer = build_tokenizer(train_merges(corpus, options.vocab_size))
    save_tokenizer(tokenizer, options.out)
    longest = max(len(tokenizer(text).input_ids) for text in corpus[:2000])
    print(f"{len(tokenizer)} tokens; longest of 2000 captions: {longest}")


if __name__ == "__main__":
    main()
