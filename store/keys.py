"""Names: ids nobody can guess, and where each file lies among the blobs. No client's words become a path."""

from __future__ import annotations

import hashlib
import re
import secrets

from core.errors import InvalidRequest

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def new_id(prefix: str) -> str:
    """A new id such as ``adp_5f…``: ``prefix`` and 128 random bits in hexadecimal."""
    return f"{prefix}_{secrets.token_hex(16)}"


def checked_key(key: str) -> str:
    """``key`` itself if each of its parts is a plain name: no empty part, none that begins with a dot.

    Raises InvalidRequest otherwise, so that no key leaves the store's folder or meets a temporary file.
    """
    if not all(_SEGMENT.fullmatch(part) for part in key.split("/")):
        raise InvalidRequest("That is no name of a file in the store.", field="key")
    return key


def _id(value: str) -> str:
    if "/" in value or not _SEGMENT.fullmatch(value):
        raise InvalidRequest("That is not an id.", field="id")
    return value


def compiled_file(name: str) -> str:
    """What torch.compile made, for what ``name`` says."""
    return f"compiled/{_id(name)}"


def adapter_folder(adapter_id: str) -> str:
    """Everything that is kept of an adapter."""
    return f"adapters/{_id(adapter_id)}"


def adapter_file(adapter_id: str) -> str:
    """The adapter itself, in PEFT layout."""
    return f"{adapter_folder(adapter_id)}/adapter.safetensors"


def adapter_samples(adapter_id: str) -> str:
    """The folder of the sample pictures."""
    return f"{adapter_folder(adapter_id)}/samples"


def sample(adapter_id: str, number: int) -> str:
    """Sample picture ``number``."""
    return f"{adapter_samples(adapter_id)}/{number:03}.png"


def job_folder(job_id: str) -> str:
    """Everything that is kept of a job."""
    return f"jobs/{_id(job_id)}"


def photos(job_id: str) -> str:
    """The folder of the photos that a job learns from."""
    return f"{job_folder(job_id)}/photos"


def photo(job_id: str, number: int) -> str:
    """Photo ``number``, as it was sent."""
    return f"{photos(job_id)}/{number:03}"


def checkpoint(job_id: str) -> str:
    """What the next attempt at a job goes on from."""
    return f"{job_folder(job_id)}/checkpoint"


def class_pictures(model_id: str, subject: str) -> str:
    """The folder of pictures of a subject's class, as one model draws them. Case and spacing do not count."""
    # The id of a model that is a folder anywhere ("path:/…") is no plain name.
    model = model_id if _SEGMENT.fullmatch(model_id) else _digest(model_id)
    return f"class-pictures/{model}/{_digest(' '.join(subject.casefold().split()))}"


def class_picture(model_id: str, subject: str, number: int) -> str:
    """Class picture ``number``."""
    return f"{class_pictures(model_id, subject)}/{number:04}.png"


def _digest(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:32]
