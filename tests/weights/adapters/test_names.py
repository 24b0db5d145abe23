from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from tests.weights import ldm_checkpoint
from weights import convert
from weights.adapters.fitting import layer_shapes
from weights.adapters.names import Key, key_of, kohya_name

ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn1"
SELF_ATTENTION = "encoder.layers.3.self_attn"
LEVELS = st.sampled_from(
    [
        *(
            "down_blocks",
            "mid_block",
            "attentions",
            "resnets",
            "transformer_blocks",
            "attn1",
            "to_q",
            "to_out",
            "ff",
        ),
        *(
            "net",
            "proj",
            "proj_in",
            "conv",
            "conv1",
            "conv_in",
            "conv_shortcut",
            "time_emb_proj",
            "linear_1",
            "0",
            "12",
        ),
    ]
)


def real_layers(part: str) -> list[str]:
    """Layers of the embedded model and of Stable Diffusion 1.5."""
    config = json.loads((convert.SD15 / part / "config.json").read_text())
    shapes = {
        name.removesuffix(".weight").removeprefix("text_model."): shape
        for name, shape in convert.expected_shapes(part, config).items()
        if name.endswith(".weight") and "embedding." not in name
    }
    full_size = [name for name, shape in shapes.items() if len(shape) in (2, 4)]
    return [*layer_shapes("mini", part), *full_size]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (f"unet.{ATTENTION}.to_q.lora_A.weight", Key("unet", f"{ATTENTION}.to_q", "down")),
        (f"unet.{ATTENTION}.to_q.lora_B.default.weight", Key("unet", f"{ATTENTION}.to_q", "up")),
        (f"{ATTENTION}.to_q.lora_A.weight", Key("unet", f"{ATTENTION}.to_q", "down")),
        (f"unet.{ATTENTION}.to_out.0.lora.down.weight", Key("unet", f"{ATTENTION}.to_out.0", "down")),
        (f"unet.{ATTENTION}.processor.to_q_lora.up.weight", Key("unet", f"{ATTENTION}.to_q", "up")),
        (f"{ATTENTION}.processor.to_out_lora.down.weight", Key("unet", f"{ATTENTION}.to_out.0", "down")),
        (f"unet.{ATTENTION}.to_v.alpha", Key("unet", f"{ATTENTION}.to_v", "alpha")),
        ("unet.conv_in.lora.up.weight", Key("unet", "conv_in", "up")),
        (
            f"text_encoder.text_model.{SELF_ATTENTION}.q_proj.lora_linear_layer.down.weight",
            Key("text_encoder", f"{SELF_ATTENTION}.q_proj", "down"),
        ),
        (
            f"text_encoder.text_model.{SELF_ATTENTION}.to_out_lora.up.weight",
            Key("text_encoder", f"{SELF_ATTENTION}.out_proj", "up"),
        ),
        (
            f"text_encoder.{SELF_ATTENTION}.v_proj.lora_B.weight",
            Key("text_encoder", f"{SELF_ATTENTION}.v_proj", "up"),
        ),
        (
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0.lora_down.weight",
            Key("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0", "down"),
        ),
        (
            "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_0_proj.alpha",
            Key("unet", "down_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj", "alpha"),
        ),
        (
            "lora_unet_output_blocks_3_0_skip_connection.lora_up.weight",
            Key("unet", "up_blocks.1.resnets.0.conv_shortcut", "up"),
        ),
        (
            "lora_te_text_model_encoder_layers_11_mlp_fc2.lora_up.weight",
            Key("text_encoder", "encoder.layers.11.mlp.fc2", "up"),
        ),
        (
            "lora_te1_text_model_encoder_layers_0_self_attn_k_proj.lora_down.weight",
            Key("text_encoder", "encoder.layers.0.self_attn.k_proj", "down"),
        ),
        (
            "lora_te2_text_model_encoder_layers_31_mlp_fc1.lora_up.weight",
            Key("text_encoder_2", "encoder.layers.31.mlp.fc1", "up"),
        ),
        (
            f"text_encoder_2.text_model.{SELF_ATTENTION}.q_proj.lora_linear_layer.down.weight",
            Key("text_encoder_2", f"{SELF_ATTENTION}.q_proj", "down"),
        ),
        (
            f"text_encoder_2.text_model.{SELF_ATTENTION}.to_out_lora.up.weight",
            Key("text_encoder_2", f"{SELF_ATTENTION}.out_proj", "up"),
        ),
        ("lora_unet_label_emb_0_2.lora_up.weight", Key("unet", "add_embedding.linear_2", "up")),
        ("lora_unet_add_embedding_linear_1.lora_up.weight", Key("unet", "add_embedding.linear_1", "up")),
    ],
)
def test_a_key_of_every_layout(name: str, key: Key) -> None:
    assert key_of(name) == key


@pytest.mark.parametrize("part", ["unet", "text_encoder", "text_encoder_2"])
def test_every_layer_of_stable_diffusion_xl_survives_kohyas_underscores(part: str) -> None:
    config = json.loads((convert.SDXL / part / "config.json").read_text())
    shapes = convert.expected_shapes(part, config)
    paths = [
        name.removesuffix(".weight").removeprefix("text_model.")
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) in (2, 4) and "embedding." not in name
    ]
    assert len(paths) > 50
    for path in paths:
        name = kohya_name(part, path, counted=True)
        assert key_of(f"{name}.lora_up.weight") == Key(part, path, "up")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_every_layer_of_real_models_survives_kohyas_underscores(part: str) -> None:
    paths = real_layers(part)
    assert len(paths) > 50
    for path in paths:
        assert key_of(f"{kohya_name(part, path)}.lora_up.weight") == Key(part, path, "up")


@pytest.mark.parametrize("family", [convert.SD15, convert.SDXL], ids=["sd15", "sdxl"])
def test_every_layer_of_a_real_unet_is_known_by_its_original_name_too(family: Path) -> None:
    config = json.loads((family / "unet" / "config.json").read_text())
    shapes = convert.expected_shapes("unet", config)
    names = [name for name, shape in shapes.items() if name.endswith(".weight") and len(shape) > 1]
    for name in names:
        renamed = ldm_checkpoint.ldm_unet(name, attention_above=family == convert.SDXL)
        original = renamed.removesuffix(".weight").replace(".", "_")
        assert key_of(f"lora_unet_{original}.alpha").path == name.removesuffix(".weight")


@given(st.lists(LEVELS, min_size=1, max_size=8))
def test_any_path_of_known_levels_comes_back(levels: list[str]) -> None:
    path = ".".join(levels)
    assert key_of(f"{kohya_name('unet', path)}.alpha") == Key("unet", path, "alpha")
    assert key_of(f"unet.{path}.lora_A.weight") == Key("unet", path, "down")
    assert key_of(f"unet.{path}.lora.up.weight") == Key("unet", path, "up")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "DoRA"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "DoRA"),
        ("lora_unet_mid_block_resnets_0_conv1.lora_mid.weight", "Tucker"),
        ("lora_unet_conv_in.diff", "diff"),
        ("lora_unet_conv_in.diff_b", "diff"),
        ("lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight", "Stable Diffusion 3"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "Flux"),
        ("lora_unet_conv_in.oft_blocks", "OFT"),
        ("base_model.model.down_blocks.0.proj_in.lora_A.weight", "adapter_config.json"),
        ("unet.conv_in.lora_B.bias", "biases"),
        ("model.diffusion_model.input_blocks.0.0.weight", "whole model"),
        ("conv_in.weight", "whole model"),
        ("bundle_emb.word.string_to_param", "embedding"),
        ("lora_unet_mid__block.alpha", "is not a tensor of a LoRA"),
        ("lora_unet_input_blocks_1_0_unknown.lora_up.weight", "is not a tensor of a LoRA"),
        ("something else", "is not a tensor of a LoRA"),
        ("", "is not a tensor of a LoRA"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_its_name(name: str, what: str) -> None:
    with pytest.raises(InvalidRequest, match=what) as refused:
        key_of(name)
    assert refused.value.field == "file"
