"""The naming of CompVis latent-diffusion, from modules of diffusers: `write_names` inverts it."""

import re
from typing import Any

import torch

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
HEADS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def name_unet(key: str, layers: int) -> str:
    """Returns the name of a weight of `UNet2DConditionModel` under `model.diffusion_model.`."""
    for ours, theirs in HEADS.items():
        if key.startswith(f"{ours}."):
            return theirs + key.removeprefix(ours)
    found = re.match(r"(down|up|mid)_blocks?\.?(\d*)\.(\w+)\.(\d+)\.(.+)", key)
    assert found is not None, key
    side, part, number, rest = found[1], found[3], int(found[4]), found[5]
    if part == "resnets":
        head, _, tail = rest.rpartition(".")
        rest = f"{RESNET[head]}.{tail}"
    if side == "mid":
        return f"middle_block.{2 * number if part == 'resnets' else 1}.{rest}"
    first = int(found[2]) * (layers + 1)
    if side == "down":
        if part == "downsamplers":
            return f"input_blocks.{first + layers + 1}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{first + number + 1}.{int(part == 'attentions')}.{rest}"
    if part == "upsamplers":
        return f"output_blocks.{first + layers}.2.{rest}"
    return f"output_blocks.{first + number}.{int(part == 'attentions')}.{rest}"


def name_first_stage(key: str, levels: int) -> str:
    """Returns the name of a weight of `VQModel` or `AutoencoderKL` under `first_stage_model.`."""
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in ATTENTION.items():
            key = key.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)

    def rise(match: re.Match[str]) -> str:
        part = "block" if match[2] == "resnets" else "upsample"
        return f"up.{levels - 1 - int(match[1])}.{part}"

    return re.sub(r"up_blocks\.(\d)\.(resnets|upsamplers)(?:(?<=upsamplers)\.0)?", rise, key)


def write_names(unet: Any, vae: Any, conditioner: dict[str, Any]) -> dict[str, Any]:
    """Returns the checkpoint that CompVis code would have saved of these modules."""
    found = {}
    for key, value in unet.state_dict().items():
        name = name_unet(key, unet.config.layers_per_block)
        is_conv = re.search(r"\.proj_(in|out)\.weight", name) and value.ndim == 2
        found[f"model.diffusion_model.{name}"] = value[:, :, None, None] if is_conv else value
    for key, value in vae.state_dict().items():
        name = name_first_stage(key, len(vae.config.block_out_channels))
        is_conv = "attn_1" in name and value.ndim == 2
        found[f"first_stage_model.{name}"] = value[:, :, None, None] if is_conv else value
    found["first_stage_model.loss.logvar"] = torch.zeros(())
    return found | {f"cond_stage_model.{key}": value for key, value in conditioner.items()}
