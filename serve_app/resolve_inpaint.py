"""From an inpainting request to its spec: which mode, which mask, and whether they go together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from core.errors import InvalidRequest
from core.specs import Box, InpaintMode, InpaintSpec, Margins, Task
from core.types import OutputFormat
from core.uploads import wrong_size
from serve_app.answer_schemas import BoxParameters, InpaintParameters, MarginParameters
from serve_app.edit_requests import InpaintRequest
from serve_app.offer import Offer
from serve_app.resolve import Resolved, check_output, check_rules, resolve_common
from serve_app.resolve_edits import need_prompt

# The modes that a task goes with; the first is meant where the request names none.
MODES: Mapping[Task, tuple[InpaintMode, ...]] = {
    Task.TEXT_GUIDED: (InpaintMode.REPLACE, InpaintMode.ADD),
    Task.OBJECT_REMOVAL: (InpaintMode.REMOVE,),
    Task.SHAPE_GUIDED: (InpaintMode.REPLACE, InpaintMode.ADD),
    Task.OUTPAINTING: (InpaintMode.OUTPAINT,),
}
_MASKS = ("mask", "mask_prompt", "box")


def resolve_inpaint(
    request: InpaintRequest, offer: Offer, output_format: OutputFormat
) -> Resolved[InpaintSpec]:
    """Raises:
    InvalidRequest, ModerationBlocked: for the first value that breaks a limit or a rule, or that
        contradicts another.
    """
    common = resolve_common(request, offer, output_format)
    mode = _mode(request)
    if mode in (InpaintMode.REPLACE, InpaintMode.ADD):
        need_prompt(request.prompt, f"the mode {mode}")
    if request.mask_prompt is not None:
        check_rules("mask_prompt", request.mask_prompt, common.model, offer)
    _check_fitting(request)
    _check_mask(request, mode)
    margins = _margins(request, mode)
    width, height = request.image.size
    check_output(
        width + margins.left + margins.right,
        height + margins.top + margins.bottom,
        offer.limits,
        "margins" if mode is InpaintMode.OUTPAINT else "image",
    )
    same: dict[str, Any] = {
        "mode": mode,
        "mask_prompt": request.mask_prompt,
        "mask_grow": request.mask_grow,
        "mask_feather": request.mask_feather,
        "strength": request.strength,
        "only_masked": request.only_masked,
        "only_masked_padding": request.only_masked_padding,
        "task": request.task,
    }
    box = request.box.model_dump() if request.box else None
    outpainting = mode is InpaintMode.OUTPAINT
    spec = InpaintSpec(
        image=request.image.data,
        mask=request.mask.data if request.mask else None,
        box=Box(**box) if box else None,
        margins=margins if outpainting else None,
        fitting_degree=1.0 if request.fitting_degree is None else request.fitting_degree,
        **same,
        **common.spec,
    )
    parameters = InpaintParameters(
        box=BoxParameters(**box) if box else None,
        margins=MarginParameters(**asdict(margins)) if outpainting else None,
        fitting_degree=spec.fitting_degree if request.task is Task.SHAPE_GUIDED else None,
        **same,
        **common.parameters,
    )
    return Resolved(spec, parameters)


def _mode(request: InpaintRequest) -> InpaintMode:
    if request.task is None:
        return request.mode or InpaintMode.REPLACE
    able = MODES[request.task]
    if request.mode is not None and request.mode not in able:
        raise InvalidRequest(
            f"The task {request.task} goes with the mode {' or '.join(able)}.", field="mode", limit=list(able)
        )
    return request.mode or able[0]


def _check_fitting(request: InpaintRequest) -> None:
    if request.fitting_degree is not None and request.task is not Task.SHAPE_GUIDED:
        raise InvalidRequest(
            f"A fitting degree is for the task {Task.SHAPE_GUIDED}.",
            field="fitting_degree",
            limit=Task.SHAPE_GUIDED,
        )


def _check_mask(request: InpaintRequest, mode: InpaintMode) -> None:
    """Exactly one kind of mask, or none to outpaint; and it lies on the picture."""
    given = [name for name in _MASKS if getattr(request, name) is not None]
    if mode is InpaintMode.OUTPAINT:
        if given:
            raise InvalidRequest("To outpaint, send margins and no mask.", field=given[0], limit="margins")
        return
    if len(given) != 1:
        raise InvalidRequest(
            f"The mode {mode} needs exactly one of {', '.join(_MASKS)}; {len(given)} were sent.",
            field=given[1] if given else "mask",
            limit=list(_MASKS),
        )
    width, height = request.image.size
    if request.mask is not None and request.mask.size != (width, height):
        raise wrong_size(request.mask.facts, (width, height), "mask")
    box = request.box
    if box is not None and (box.left + box.width > width or box.top + box.height > height):
        raise InvalidRequest(
            f"The box reaches beyond the picture, which has {width} × {height} pixels.",
            field="box",
            limit={"width": width, "height": height},
        )


def _margins(request: InpaintRequest, mode: InpaintMode) -> Margins:
    """None to add unless ``mode`` is to outpaint."""
    if mode is not InpaintMode.OUTPAINT:
        if request.margins is not None:
            raise InvalidRequest(
                "Margins are for the mode outpaint.", field="margins", limit=InpaintMode.OUTPAINT
            )
        return Margins()
    margins = Margins(**request.margins.model_dump()) if request.margins else Margins()
    if margins == Margins():
        raise InvalidRequest("To outpaint, at least one margin is above 0.", field="margins", limit=1)
    return margins
