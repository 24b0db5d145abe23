"""Which prompts are refused, as ``prompt_rules.toml`` has it. Knows words, not pictures and not HTTP."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from core.errors import ModerationBlocked

PROMPT_RULES_FILE = Path(__file__).with_name("prompt_rules.toml")
EVERY_FAMILY = "*"
# Letters that look Latin and are not, as far as one is likely to meet them in place of these.
_LOOKALIKES = str.maketrans("аеіорсухѕԁјνκο", "aeiopcyxsdjvko")
_NO_LETTER = re.compile(r"[\W_]+")


class Rule(BaseModel):
    """Broken by words that hold an entry of every group; entries are regular expressions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z]+(-[a-z]+)*$")
    reason: str = Field(min_length=1)
    families: tuple[str, ...] = Field(min_length=1)
    groups: tuple[tuple[str, ...], ...] = Field(min_length=1)


class _RulesFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: tuple[Rule, ...] = Field(min_length=1)


class PromptRules:
    """A list of rules, ready to be applied."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = [(rule, [_one_of(group) for group in rule.groups]) for rule in rules]

    def check(self, field: str, words: str, family: str) -> None:
        """Raises:
        ModerationBlocked: naming ``field`` and the reason, but not the words, for the first rule of
            ``family`` that is broken.
        """
        normal = normalised(words)
        for rule, groups in self._rules:
            if EVERY_FAMILY not in rule.families and family not in rule.families:
                continue
            if all(group.search(normal) for group in groups):
                raise ModerationBlocked(f"Not allowed here: {rule.reason}", field=field)


def load_prompt_rules(path: Path = PROMPT_RULES_FILE) -> PromptRules:
    """The rules of a file.

    Raises:
        pydantic.ValidationError: if the file is not as described here.
    """
    return PromptRules(_RulesFile.model_validate(tomllib.loads(path.read_text("utf-8"))).rule)


def normalised(words: str) -> str:
    """``words`` in lower case without accents and invisible characters, single spaces between words."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", words).casefold())
    visible = "".join(letter for letter in text if unicodedata.category(letter) not in ("Mn", "Cf"))
    return _NO_LETTER.sub(" ", visible.translate(_LOOKALIKES)).strip()


def _one_of(entries: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(entries)})\b")
