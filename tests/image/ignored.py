"""What ``.dockerignore`` keeps from a builder, by Docker's rules: the last pattern that matches decides."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import PurePosixPath

from tests.readme import ROOT


@cache
def patterns() -> tuple[tuple[bool, re.Pattern[str]], ...]:
    """Each pattern, and whether it lets in what it matches."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    told = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return tuple((line.startswith("!"), _compiled(line.removeprefix("!"))) for line in told)


def _compiled(pattern: str) -> re.Pattern[str]:
    """``**`` is any number of folders, ``*`` and ``?`` stay within one name."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/"))
    return re.compile("".join(parts.get(token) or re.escape(token) for token in tokens))


def is_ignored(path: str) -> bool:
    """Whether ``path``, relative to the root, is kept from the builder, by its own name or a folder's."""
    own = PurePosixPath(path)
    above = [str(own), *(str(parent) for parent in own.parents if str(parent) != ".")]
    ignored = False
    for lets_in, pattern in patterns():
        if any(pattern.fullmatch(each) for each in above):
            ignored = not lets_in
    return ignored


def would_be_copied() -> set[str]:
    """Files of the checkout that `COPY . .` takes."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True)
    return {path for path in done.stdout.splitlines() if (ROOT / path).exists() and not is_ignored(path)}
