"""The short way through a UNet computes what diffusers' own forward does, or is not taken."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from core.settings import Precision
from deployments.engine.branch import Residuals
from deployments.engine.brushnet import BrushNet
from deployments.engine.lean_unet import as_published, make_lean
from deployments.engine.lora import LoraSlots
from deployments.engine.packed_layers import PackedConv2d, PackedGEGLU, PackedLinear
from deployments.engine.ports import ResidualPorts
from deployments.engine.unet import fast_unet
from tests.deployments.engine.lora_scenes import EVERYTHING, random_factors, relative_error
from tests.deployments.engine.scenes import small_unet
from tests.deployments.engine.unet_scenes import FAMILIES, ROWS, SD1, built, inputs


@pytest.mark.parametrize("size", [(16, 16), (24, 8), (14, 10)], ids=["native", "wide", "odd halves"])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_diffusers(family: str, size: tuple[int, int]) -> None:
    unet = built(FAMILIES[family])
    given = inputs(unet, *size)
    expected = unet(**given)[0]
    assert make_lean(unet)
    torch.testing.assert_close(unet(**given)[0], expected, rtol=1e-4, atol=1e-5)


def test_residuals_of_a_controlnet_reach_the_same_places() -> None:
    unet = built(SD1)
    given = inputs(unet, 16, 16)
    generator = torch.Generator().manual_seed(2)
    widths = [(16, 16), (16, 16), (16, 16), (16, 8), (32, 8), (32, 8)]
    given["down_block_additional_residuals"] = [
        torch.randn(ROWS, channels, side, side, generator=generator) for channels, side in widths
    ]
    given["mid_block_additional_residual"] = torch.randn(ROWS, 32, 8, 8, generator=generator)
    expected = unet(**given)[0]
    assert make_lean(unet)
    torch.testing.assert_close(unet(**given)[0], expected, rtol=1e-4, atol=1e-5)


def test_residuals_of_a_stream_reach_the_places_of_the_ports() -> None:
    unet = built(SD1)
    given = inputs(unet, 16, 16)
    shapes = BrushNet.from_unet(unet)(
        given["sample"], given["timestep"], given["encoder_hidden_states"], torch.zeros(ROWS, 5, 16, 16)
    )
    generator = torch.Generator().manual_seed(2)

    def drawn(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    stream = Residuals(tuple(map(drawn, shapes.down)), drawn(shapes.mid), tuple(map(drawn, shapes.up)))
    with ResidualPorts(unet).adding(stream):
        expected = unet(**given)[0]
    assert make_lean(unet)
    torch.testing.assert_close(unet(**given, stream=stream)[0], expected, rtol=1e-4, atol=1e-4)
    for broken in (
        Residuals(stream.down[:-1], stream.mid, stream.up),
        Residuals(stream.down, stream.mid, (*stream.up, stream.up[-1])),
    ):
        with pytest.raises(ValueError, match="residuals than places"):
            unet(**given, stream=broken)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_embed_type": "timestep"},
        {"resnet_time_scale_shift": "scale_shift"},
        {"mid_block_scale_factor": 2.0},
        {"act_fn": "gelu"},
        {"center_input_sample": True},
        {"only_cross_attention": True},
        {"down_block_types": ("SimpleCrossAttnDownBlock2D", "DownBlock2D")},
        {"upcast_attention": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_unet_of_another_kind_is_left_alone(changes: dict[str, Any]) -> None:
    unet = built({**SD1, **changes})
    assert not make_lean(unet)
    assert "forward" not in vars(unet)


def test_hooks_of_modules_act_as_published_alone() -> None:
    unet = built(SD1)
    calls: list[torch.nn.Module] = []
    unet.down_blocks[0].resnets[0].register_forward_hook(lambda module, *_: calls.append(module))
    given = inputs(unet, 16, 16)
    assert make_lean(unet)
    lean = unet(**given)[0]
    assert not calls
    with as_published(unet):
        published = unet(**given)[0]
    assert len(calls) == 1
    torch.testing.assert_close(lean, published, rtol=1e-4, atol=1e-5)
    unet(**given)
    assert len(calls) == 1


def test_other_arguments_are_diffusers_own() -> None:
    unet = built(SD1)
    given = inputs(unet, 16, 16)
    mask = torch.tensor([[1.0] * 3 + [0.0] * 2] * ROWS)
    plain, masked = unet(**given)[0], unet(**given, encoder_attention_mask=mask)[0]
    assert make_lean(unet)
    none = {"cross_attention_kwargs": None, "timestep_cond": None}
    torch.testing.assert_close(unet(**given, **none)[0], plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(unet(**given, encoder_attention_mask=mask)[0], masked)
    assert torch.equal(unet(**{**given, "return_dict": True}).sample, plain)


def test_packed_layers_predict_the_same_with_and_without_adapters() -> None:
    """An adapter on every layer, as bfloat16 with packed weights adds it and as float32 does."""
    factors = random_factors(small_unet(), 4, 0, EVERYTHING, size=0.3)
    rows = [[("a", 1.0)], [], [("a", -0.5)]]
    generator = torch.Generator().manual_seed(3)
    x, context = (torch.randn(3, *shape, generator=generator) for shape in ((4, 8, 8), (5, 8)))
    outputs: dict[str, list[Tensor]] = {}
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        unet, dtype = fast_unet(small_unet(), precision, "cpu", 1)
        call = (x.to(dtype), torch.tensor([10.0, 500.0, 900.0]), context.to(dtype))
        kinds = {type(module) for module in unet.modules()}
        slots = LoraSlots(unet, 2)
        with torch.inference_mode():
            plain = unet(*call)[0].float()
            with slots.acting(slots.rows(rows, {"a": factors})):
                adapted = unet(*call)[0].float()
            again = unet(*call)[0].float()
        assert torch.equal(plain, again)
        assert {PackedConv2d, PackedGEGLU, PackedLinear} <= kinds or precision == "float32"
        outputs[precision] = [plain, adapted]
    for exact, low in zip(outputs["float32"], outputs["bfloat16"], strict=True):
        assert relative_error(low, exact) < 0.03
    plain, adapted = outputs["float32"]
    assert relative_error(adapted, plain) > 0.1
    assert torch.allclose(adapted[1], plain[1], atol=1e-5)


def test_keys_of_texts_are_kept_until_the_texts_go() -> None:
    unet = built(SD1)
    given = inputs(unet, 16, 16)
    text = given.pop("encoder_hidden_states")
    texts = [text, text + 1]
    expected = [unet(**given, encoder_hidden_states=each)[0] for each in texts]
    assert make_lean(unet)
    with torch.inference_mode():
        for index in (0, 0, 1, 0, 1):
            got = unet(**given, encoder_hidden_states=texts[index])[0]
            torch.testing.assert_close(got, expected[index], rtol=1e-4, atol=1e-5)
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    kept = unet.forward._texts._kept[0][attention]
    with torch.inference_mode():
        unet(**given, encoder_hidden_states=texts[1])
    assert unet.forward._texts._kept[0][attention] is kept
    keys = weakref.ref(kept[1])
    del kept
    texts.clear()
    gc.collect()
    assert keys() is None


def test_adapters_on_keys_act_on_texts_called_with_before() -> None:
    factors = random_factors(small_unet(), 4, 0, ("attn2.to_k", "attn2.to_v"), size=0.3)
    generator = torch.Generator().manual_seed(3)
    x, context = (torch.randn(2, *shape, generator=generator) for shape in ((4, 8, 8), (5, 8)))
    call = x, torch.tensor([10, 500]), context
    published = small_unet()
    unet = small_unet()
    assert make_lean(unet)
    for slots in (unet, published):
        slots.__dict__["slots"] = LoraSlots(slots, 2)
    with torch.inference_mode():
        plain = unet(*call, return_dict=False)[0]
        adapted = []
        for each in (unet, published):
            slots = each.__dict__["slots"]
            with slots.acting(slots.rows([[("a", 1.0)], []], {"a": factors})):
                adapted.append(each(*call, return_dict=False)[0])
        again = unet(*call, return_dict=False)[0]
    torch.testing.assert_close(*adapted, rtol=1e-4, atol=1e-5)
    assert relative_error(adapted[0][:1], plain[:1]) > 0.01
    assert torch.equal(again, plain)
