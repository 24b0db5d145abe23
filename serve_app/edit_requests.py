"""The requests that bring a picture along. ``serve_app.members`` has what they share with others."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from core.specs import InpaintMode, Presentation, Strategy, SwapScope, Task
from serve_app.members import PROMPT, DrawingRequest, HiresMembers, Members, StyledRequest, Text, Words
from serve_app.uploaded import Upload

MAX_WORDS_CHARS = 200
MAX_MASK_PIXELS = 256
SCALES = [2, 4]
# Above any picture; how large an answer may be is the installation's to say.
MAX_SIDE = 65_535
_FILE = "PNG, JPEG, WebP, BMP, GIF or TIFF, not animated"


def _known_scale(scale: int) -> int:
    if scale not in SCALES:
        raise PydanticCustomError("scale", "The scale is 2 or 4.", {"limit": SCALES})
    return scale


class ImageToImageRequest(StyledRequest):
    """A picture to start from, and what to make of it."""

    image: Upload = Field(description=f"The picture to start from: {_FILE}.")
    prompt: Text = Field(
        "", description=f"What to draw. Only the strategy `variation` can do without. {PROMPT}"
    )
    strategy: Strategy = Field(
        Strategy.RESTYLE,
        strict=False,
        description="What is kept: `restyle` the layout, more of it the lower the strength; `variation` "
        "nearly everything; `preserve` what the prompt does not mention; `structure` the outlines alone.",
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="How much is drawn anew. By default what the model's `strengths` say, else 0.6 to "
        "restyle, 0.35 for a variation, 0.8 to preserve, 1 for the structure.",
    )
    width: int | None = Field(
        None,
        ge=1,
        description="At most so many pixels; the aspect ratio stays the picture's. Without width and "
        "height, about as many pixels as the model's `default_size` squared.",
    )
    height: int | None = Field(None, ge=1, description="At most so many pixels.")
    hires: HiresMembers | None = Field(
        None, description="A second pass: the result enlarged, its details drawn anew."
    )


class MaskRequest(Members):
    """A picture, and the words for what to find in it."""

    image: Upload = Field(description=f"The picture to look at: {_FILE}.")
    words: Words = Field(max_length=MAX_WORDS_CHARS, description="What to find: `hair`, `glasses`, …")
    model: str | None = Field(None, description="An id from `GET /v1/models`; the first one if left out.")


class BoxMembers(Members):
    """A rectangle in pixels of the upright picture."""

    left: int = Field(ge=0, le=MAX_SIDE)
    top: int = Field(ge=0, le=MAX_SIDE)
    width: int = Field(ge=1, le=MAX_SIDE)
    height: int = Field(ge=1, le=MAX_SIDE)


class MarginMembers(Members):
    """Pixels to add on each side."""

    left: int = Field(0, ge=0, le=MAX_SIDE)
    top: int = Field(0, ge=0, le=MAX_SIDE)
    right: int = Field(0, ge=0, le=MAX_SIDE)
    bottom: int = Field(0, ge=0, le=MAX_SIDE)


class InpaintRequest(StyledRequest):
    """A picture, the part of it to paint anew, and with what. The rest stays as it is, bit for bit."""

    image: Upload = Field(description=f"The picture to change: {_FILE}.")
    prompt: Text = Field(
        "",
        description="What to paint there; needed to replace and to add. With `remove` and a drawn mask it "
        f"may name the object. {PROMPT}",
    )
    mode: InpaintMode | None = Field(
        None,
        strict=False,
        description="`replace` what is there by the prompt (the default), `remove` it, `add` something, or "
        "`outpaint` beyond the edges.",
    )
    mask: Upload | None = Field(
        None,
        description="What to paint: a picture of the same size, white where to paint; or, if it is "
        "transparent somewhere, transparent where to paint.",
    )
    mask_prompt: Words | None = Field(
        None, max_length=MAX_WORDS_CHARS, description="What to paint, in words: `hair`, `glasses`, …"
    )
    box: BoxMembers | None = Field(None, description="What to paint, as a rectangle.")
    margins: MarginMembers | None = Field(None, description="Pixels to add on each side, to outpaint.")
    mask_grow: int | None = Field(
        None,
        ge=0,
        le=MAX_MASK_PIXELS,
        description="Pixels by which the mask grows; up to the mode and the model if left out.",
    )
    mask_feather: int | None = Field(
        None,
        ge=0,
        le=MAX_MASK_PIXELS,
        description="Pixels over which the mask fades; up to the mode and the model if left out.",
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="How much is drawn anew inside the mask; up to the mode and the model if left out.",
    )
    only_masked: bool = Field(
        False, description="Work on the surroundings of the mask alone, at the model's full resolution."
    )
    only_masked_padding: int = Field(
        32, ge=0, le=1_024, description="Pixels around the mask that `only_masked` shows to the model."
    )
    task: Task | None = Field(
        None, strict=False, description="One of PowerPaint's tasks; each implies the mode that suits it."
    )
    fitting_degree: float | None = Field(
        None,
        ge=0,
        le=1,
        description="For the task `shape_guided`: how closely to follow the mask's outline; 1 if left out.",
    )


class GenderSwapRequest(DrawingRequest):
    """A portrait of one person, and whom to make of it."""

    image: Upload = Field(description=f"A portrait with exactly one face: {_FILE}.")
    prompt: Text = Field("", description=f"Words to add to the swap's own. {PROMPT}")
    negative_prompt: Text = Field("", description="Words to add to what the swap keeps out.")
    target: Presentation = Field(
        Presentation.AUTO,
        strict=False,
        description="`auto` is the opposite of what the portrait shows; that is neither stored nor logged.",
    )
    scope: SwapScope = Field(
        SwapScope.PORTRAIT,
        strict=False,
        description="`portrait` repaints hair, face and clothes and keeps the background, bit for bit; "
        "`whole` redraws all of the picture.",
    )
    strength: float = Field(0.6, gt=0, le=1, description="How much is drawn anew.")
    num_inference_steps: int = Field(30, ge=1, description="Denoising steps per picture.")
    hires: HiresMembers | None = Field(
        None, description="For the scope `whole`: a second pass at a higher resolution."
    )


class UpscaleRequest(StyledRequest):
    """A picture to enlarge."""

    image: Upload = Field(description=f"The picture to enlarge: {_FILE}.")
    prompt: Text = Field("", description=f"What the picture shows, if you can tell. {PROMPT}")
    scale: Annotated[int, AfterValidator(_known_scale)] = Field(
        description="How many times wider and higher.", json_schema_extra={"enum": list(SCALES)}
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="How much of the detail is drawn anew. By default what the model's `strengths` say, "
        "else 0.3.",
    )
