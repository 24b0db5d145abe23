"""The short way through a UNet computes what diffusers' own forward does, or is not taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
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

ROWS, TOKENS, WIDTH = 3, 5, 24
SD1: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 2,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "SD 1": SD1,
    "SD 2": {**SD1, "use_linear_projection": True, "attention_head_dim": (2, 4)},
    "SD XL": {
        **SD1,
        "use_linear_projection": True,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 8,
    },
    "inpainting": {**SD1, "in_channels": 9, "out_channels": 4},
    "one layer": {**SD1, "layers_per_block": 1},
}


def built(config: dict[str, Any]) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**config).eval().requires_grad_(False)


def inputs(unet: UNet2DConditionModel, height: int, width: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(ROWS, *shape, generator=generator)

    given: dict[str, Any] = {
        "sample": drawn(unet.config.in_channels, height, width),
        "timestep": torch.tensor([1.0, 500.0, 999.0]),
        "encoder_hidden_states": drawn(TOKENS, WIDTH),
        "return_dict": False,
    }
    if unet.config.addition_embed_type:
        given["added_cond_kwargs"] = {"text_embeds": drawn(8), "time_ids": 100 * drawn(6)}
    return given


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
        assert ({PackedConv2d, PackedGEGLU, PackedLinear} <= kinds) == (precision == "bfloat16")
        outputs[precision] = [plain, adapted]
    for exact, low in zip(outputs["float32"], outputs["bfloat16"], strict=True):
        assert relative_error(low, exact) < 0.03
    plain, adapted = outputs["float32"]
    assert relative_error(adapted, plain) > 0.1
    assert torch.allclose(adapted[1], plain[1], atol=1e-5)
