"""The requests that make adapters. ``serve_app.members`` has that by which pictures are drawn with them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from core.training import MAX_PHOTOS, MAX_RANK, MIN_PHOTOS, MIN_RANK
from serve_app.members import MAX_SEED, Members, Words
from serve_app.triggers import MAX_TRIGGER_CHARS, MAX_TRIGGER_WORDS, WORDS
from serve_app.uploaded import Upload

MAX_NAME_CHARS = 100
MAX_BATCH = 16
MAX_CLASS_PICTURES = 200
# Above any that is in use.
MAX_LEARNING_RATE = 0.1
MAX_PRIOR_WEIGHT = 10.0
MAX_ALPHA = 256.0


def _consented(consent: bool) -> bool:
    if not consent:
        raise PydanticCustomError(
            "consent", "Whoever can be recognised has to agree; say so by `true`.", {"limit": True}
        )
    return consent


def _few_words(text: str) -> str:
    words = " ".join(text.split())
    if len(words.split(" ")) > MAX_TRIGGER_WORDS:
        raise PydanticCustomError(
            "words", "At most {limit} words.", {"limit": MAX_TRIGGER_WORDS, "max_length": MAX_TRIGGER_WORDS}
        )
    if not WORDS.fullmatch(words):
        raise PydanticCustomError(
            "words", "Words are letters and digits, which an apostrophe, a hyphen or a full stop may join."
        )
    return words


def _safetensors(data: bytes) -> bytes:
    """The format's outer frame: the length of a JSON header in eight bytes, then that header."""
    length = int.from_bytes(data[:8], "little")
    if not (2 <= length <= len(data) - 8) or data[8:9] != b"{":
        raise PydanticCustomError("safetensors", "This is not a safetensors file.", {"limit": "safetensors"})
    return data


def _enough_photos(photos: list[Upload]) -> list[Upload]:
    if not MIN_PHOTOS <= len(photos) <= MAX_PHOTOS:
        raise PydanticCustomError(
            "photos",
            "{minimum} to {maximum} photos are needed.",
            {
                "minimum": MIN_PHOTOS,
                "maximum": MAX_PHOTOS,
                "limit": {"minimum": MIN_PHOTOS, "maximum": MAX_PHOTOS},
            },
        )
    return photos


FewWords = Annotated[Words, Field(max_length=MAX_TRIGGER_CHARS), AfterValidator(_few_words)]
AdapterFile = Annotated[
    bytes, AfterValidator(_safetensors), WithJsonSchema({"type": "string", "format": "binary"})
]
Consent = Annotated[bool, AfterValidator(_consented)]
_DEFAULT = "The default of the model's family if left out."


class TrainingRequest(Members):
    """Photos of one subject, and what to call it."""

    photos: Annotated[list[Upload], AfterValidator(_enough_photos)] = Field(
        description=f"{MIN_PHOTOS} to {MAX_PHOTOS} pictures of the same subject, in repeated fields: varied "
        "views, clothes and backgrounds. Deleted when the training ends, unless `keep_photos`.",
        json_schema_extra={"minItems": MIN_PHOTOS, "maxItems": MAX_PHOTOS},
    )
    name: Words = Field(max_length=MAX_NAME_CHARS, description="What the adapter is called in lists.")
    subject: FewWords = Field(
        description="The class of what the photos show, in prompts' words: `person`, `man`, `robot`, …"
    )
    trigger: FewWords | None = Field(
        None,
        description="The word that stands for this one subject in prompts, before the class: `zvokip man`. "
        "A rare one is chosen if left out.",
    )
    consent: Consent = Field(
        description="`true` if everybody who can be recognised in the photos has agreed to this use of them."
    )
    model: str | None = Field(None, description="An id from `GET /v1/models`; the first one if left out.")
    keep_photos: bool = Field(False, description="Keep the photos beyond the training.")
    num_steps: int | None = Field(None, ge=1, description=f"Optimizer steps. {_DEFAULT}")
    rank: int | None = Field(
        None, ge=MIN_RANK, le=MAX_RANK, description=f"How much the adapter can hold. {_DEFAULT}"
    )
    alpha: float | None = Field(
        None,
        gt=0,
        le=MAX_ALPHA,
        description="The adapter acts times `alpha / rank`. As the rank if only that is given.",
    )
    learning_rate: float | None = Field(None, gt=0, le=MAX_LEARNING_RATE, description=_DEFAULT)
    batch_size: int | None = Field(None, ge=1, le=MAX_BATCH, description=f"Photos per pass. {_DEFAULT}")
    gradient_accumulation: int | None = Field(
        None, ge=1, le=MAX_BATCH, description=f"Passes per optimizer step. {_DEFAULT}"
    )
    train_text_encoder: bool | None = Field(
        None, description=f"Train the text encoder as well as the UNet. {_DEFAULT}"
    )
    prior_weight: float | None = Field(
        None,
        ge=0,
        le=MAX_PRIOR_WEIGHT,
        description=f"How much the model is held to what it knew of the subject's class. {_DEFAULT}",
    )
    num_class_pictures: int | None = Field(
        None,
        ge=0,
        le=MAX_CLASS_PICTURES,
        description=f"Pictures of the class, drawn beforehand by the service, that hold it there. {_DEFAULT}",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=MAX_SEED,
        description="The same seed trains alike. Drawn at random if left out, and reported.",
    )
    flip: bool | None = Field(None, description=f"Mirror photos at random, which spoils faces. {_DEFAULT}")
    sample_every: int | None = Field(
        None, ge=0, description=f"Draw a sample picture every so many steps, 0 for none. {_DEFAULT}"
    )


class ImportRequest(Members):
    """An adapter file made elsewhere."""

    file: AdapterFile = Field(description="A safetensors file in the layout of PEFT, diffusers or kohya.")
    name: Words = Field(max_length=MAX_NAME_CHARS, description="What the adapter is called in lists.")
    subject: FewWords = Field(description="The class of what it shows: `person`, `man`, `robot`, …")
    trigger: FewWords = Field(description="The word that it was trained to know the subject by.")
    consent: Consent = Field(
        description="`true` if everybody who can be recognised in its pictures has agreed to this use."
    )
    model: str | None = Field(
        None,
        description="The model that it was made for, an id from `GET /v1/models`; the first one if left out.",
    )
