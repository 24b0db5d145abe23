"""The vocabulary of CLIP's tokenizer, derived from its merges; both in the files that transformers reads."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

_MERGES = Path(__file__).with_name("families") / "clip_bpe" / "merges.txt.gz"
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def merges_text() -> str:
    """``merges.txt``: a version line, then one pair a line by rank."""
    return gzip.decompress(_MERGES.read_bytes()).decode("utf-8")


def vocabulary(merges: str) -> dict[str, int]:
    """Token → id: 256 characters for bytes, the same ending a word, one token per merge, start and end.

    Bytes that print stand for themselves, the others for the code points from 256 on, as in GPT-2 (Radford
    et al., 2019).
    """
    printing = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    hidden = [byte for byte in range(256) if byte not in printing]
    letters = [chr(code) for code in (*printing, *range(256, 256 + len(hidden)))]
    pairs = merges.splitlines()[1:]
    joined = ["".join(pair.split()) for pair in pairs]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *joined, *_SPECIAL]
    return {token: index for index, token in enumerate(tokens)}


def write_tokenizer(folder: Path, config: Path) -> None:
    """Write ``merges.txt``, ``vocab.json`` and a copy of the tokenizer's ``config`` to ``folder``."""
    merges = merges_text()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "merges.txt").write_text(merges, "utf-8")
    (folder / "vocab.json").write_text(json.dumps(vocabulary(merges)), "utf-8")
    shutil.copyfile(config, folder / "tokenizer_config.json")
