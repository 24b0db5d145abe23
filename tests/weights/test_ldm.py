from __future__ import annotations

import pytest

from weights import ldm


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("time_embed.0.weight", "time_embedding.linear_1.weight"),
        ("input_blocks.0.0.bias", "conv_in.bias"),
        ("input_blocks.1.0.in_layers.0.weight", "down_blocks.0.resnets.0.norm1.weight"),
        ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
        ("input_blocks.4.0.skip_connection.weight", "down_blocks.1.resnets.0.conv_shortcut.weight"),
        ("input_blocks.8.1.proj_in.weight", "down_blocks.2.attentions.1.proj_in.weight"),
        ("input_blocks.11.0.out_layers.3.bias", "down_blocks.3.resnets.1.conv2.bias"),
        ("middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
        ("middle_block.2.emb_layers.1.weight", "mid_block.resnets.1.time_emb_proj.weight"),
        ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
        ("output_blocks.5.2.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"),
        (
            "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight",
            "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight",
        ),
        ("out.2.weight", "conv_out.weight"),
        ("label_emb.0.0.weight", "add_embedding.linear_1.weight"),
        ("label_emb.1.0.weight", None),
        ("input_blocks.1.0.unknown.weight", None),
    ],
)
def test_unet_names(key: str, name: str | None) -> None:
    assert ldm.unet_name(key, layers_per_block=2) == name


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("encoder.down.0.block.1.norm1.weight", "encoder.down_blocks.0.resnets.1.norm1.weight"),
        ("encoder.down.2.downsample.conv.bias", "encoder.down_blocks.2.downsamplers.0.conv.bias"),
        (
            "encoder.down.1.block.0.nin_shortcut.weight",
            "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        ),
        ("decoder.up.3.block.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"),
        ("decoder.up.1.upsample.conv.weight", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
        ("decoder.mid.attn_1.q.weight", "decoder.mid_block.attentions.0.to_q.weight"),
        ("decoder.mid.attn_1.proj_out.bias", "decoder.mid_block.attentions.0.to_out.0.bias"),
        ("encoder.mid.block_2.conv2.weight", "encoder.mid_block.resnets.1.conv2.weight"),
        ("encoder.norm_out.bias", "encoder.conv_norm_out.bias"),
        ("post_quant_conv.weight", "post_quant_conv.weight"),
        ("loss.logvar", None),
    ],
)
def test_autoencoder_names(key: str, name: str | None) -> None:
    assert ldm.vae_name(key, num_levels=4) == name


@pytest.mark.parametrize("kind", ["weight", "bias"])
@pytest.mark.parametrize(
    ("old", "new"), [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")]
)
def test_old_attention_names_become_present_ones(old: str, new: str, kind: str) -> None:
    assert (
        ldm.modern_vae_name(f"decoder.mid_block.attentions.0.{old}.{kind}")
        == f"decoder.mid_block.attentions.0.{new}.{kind}"
    )


def test_present_autoencoder_names_stay() -> None:
    for name in ("decoder.mid_block.attentions.0.to_out.0.bias", "encoder.conv_in.weight"):
        assert ldm.modern_vae_name(name) == name


def test_text_names_get_the_level_that_some_lack() -> None:
    assert ldm.text_name("final_layer_norm.bias") == "text_model.final_layer_norm.bias"
    assert ldm.text_name("text_model.final_layer_norm.bias") == "text_model.final_layer_norm.bias"
