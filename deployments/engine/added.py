"""What a UNet takes beside text and timestep, read off its configuration. Knows names and shapes alone."""

from __future__ import annotations

from typing import Any

from core.errors import LimnerError

# Original height and width, top and left of the crop, target height and width (Podell et al. 2023, §2.2).
NUM_TIME_IDS = 6
AddedShapes = tuple[tuple[str, tuple[int, ...]], ...]


class UnsupportedUNet(LimnerError):
    """The UNet wants conditions that nothing here can give it."""

    code, title = "unsupported_unet", "UNet not supported"


def added_shapes(config: Any) -> AddedShapes:
    """Names and shapes of the added conditions of a diffusers configuration, by name; () for none.

    Stable Diffusion XL takes the pooled text ``text_embeds`` and the sizes ``time_ids``. Raises
    :class:`UnsupportedUNet` for any other kind.
    """
    kind = getattr(config, "addition_embed_type", None)
    if kind is None:
        return ()
    if kind != "text_time":
        raise UnsupportedUNet(f"A UNet with {kind} conditions is not supported.", limit=["text_time"])
    pooled = config.projection_class_embeddings_input_dim - NUM_TIME_IDS * config.addition_time_embed_dim
    return (("text_embeds", (pooled,)), ("time_ids", (NUM_TIME_IDS,)))
