"""Forward passes of CompVis latent-diffusion and of ZoomLDM's conditioner, from weights alone.

Written from the published code's structure with torch's functions only, so that what diffusers'
converters make of a checkpoint is held against something that is not diffusers.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

State = Mapping[str, Tensor]


def select(state: State, prefix: str) -> dict[str, Tensor]:
    """Returns the weights under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def convolve(state: State, name: str, values: Tensor, stride: int = 1) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return functional.conv2d(values, weight, bias, stride, padding=weight.shape[-1] // 2)


def normalise(state: State, name: str, values: Tensor, eps: float) -> Tensor:
    return functional.group_norm(values, 32, state[f"{name}.weight"], state[f"{name}.bias"], eps)


def project(state: State, name: str, values: Tensor) -> Tensor:
    return functional.linear(values, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(state: State, name: str, values: Tensor, eps: float = 1e-5) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return functional.layer_norm(values, weight.shape, weight, bias, eps)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of one head over (N, tokens, width)."""
    shares = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(-1)
    return shares @ value


# --- UNet -----------------------------------------------------------------------------------------


def _pass_residual(state: State, name: str, values: Tensor, time: Tensor) -> Tensor:
    inner = functional.silu(normalise(state, f"{name}.in_layers.0", values, 1e-5))
    inner = convolve(state, f"{name}.in_layers.2", inner)
    inner = inner + project(state, f"{name}.emb_layers.1", functional.silu(time))[..., None, None]
    inner = functional.silu(normalise(state, f"{name}.out_layers.0", inner, 1e-5))
    inner = convolve(state, f"{name}.out_layers.3", inner)
    is_same = f"{name}.skip_connection.weight" not in state
    return inner + (values if is_same else convolve(state, f"{name}.skip_connection", values))


def _attend_by(state: State, name: str, values: Tensor, context: Tensor) -> Tensor:
    query = project(state, f"{name}.to_q", values)
    key, value = (project(state, f"{name}.to_{each}", context) for each in "kv")
    return project(state, f"{name}.to_out.0", attend(query, key, value))


def _pass_transformer(state: State, name: str, values: Tensor, context: Tensor) -> Tensor:
    count, width, height, across = values.shape
    inner = convolve(state, f"{name}.proj_in", normalise(state, f"{name}.norm", values, 1e-6))
    inner = inner.flatten(2).transpose(1, 2)
    block = f"{name}.transformer_blocks.0"
    own = layer_norm(state, f"{block}.norm1", inner)
    inner = inner + _attend_by(state, f"{block}.attn1", own, own)
    seen = layer_norm(state, f"{block}.norm2", inner)
    inner = inner + _attend_by(state, f"{block}.attn2", seen, context)
    passed = project(state, f"{block}.ff.net.0.proj", layer_norm(state, f"{block}.norm3", inner))
    passed, gate = passed.chunk(2, -1)
    inner = inner + project(state, f"{block}.ff.net.2", passed * functional.gelu(gate))
    inner = inner.transpose(1, 2).reshape(count, width, height, across)
    return values + convolve(state, f"{name}.proj_out", inner)


def predict(state: State, latents: Tensor, timestep: int, context: Tensor, width: int) -> Tensor:
    """Returns what the UNet under `model.diffusion_model.` predicts; `width` of its first level."""
    own = select(state, "model.diffusion_model.")
    half = width // 2
    angles = timestep * torch.exp(-math.log(10000) * torch.arange(half) / half)
    time = project(own, "time_embed.0", torch.cat([angles.cos(), angles.sin()])[None])
    time = project(own, "time_embed.2", functional.silu(time))

    def pass_block(name: str, values: Tensor) -> Tensor:
        number = 0
        while any(key.startswith(f"{name}.{number}.") for key in own):
            layer = f"{name}.{number}"
            if f"{layer}.in_layers.0.weight" in own:
                values = _pass_residual(own, layer, values, time)
            elif f"{layer}.proj_in.weight" in own:
                values = _pass_transformer(own, layer, values, context)
            elif f"{layer}.op.weight" in own:
                values = convolve(own, f"{layer}.op", values, stride=2)
            elif f"{layer}.conv.weight" in own:
                grown = values.repeat_interleave(2, 2).repeat_interleave(2, 3)
                values = convolve(own, f"{layer}.conv", grown)
            else:
                values = convolve(own, layer, values)
            number += 1
        return values

    def count(side: str) -> int:
        return 1 + max(int(key.split(".")[1]) for key in own if key.startswith(side))

    values, passed = latents, []
    for number in range(count("input_blocks")):
        values = pass_block(f"input_blocks.{number}", values)
        passed.append(values)
    values = pass_block("middle_block", values)
    for number in range(count("output_blocks")):
        values = pass_block(f"output_blocks.{number}", torch.cat([values, passed.pop()], 1))
    return convolve(own, "out.2", functional.silu(normalise(own, "out.0", values, 1e-5)))


# --- first stage ----------------------------------------------------------------------------------


def decode(state: State, latents: Tensor) -> Tensor:
    """Returns what the decoder under `first_stage_model.` makes; VQ takes the nearest codes."""
    own = select(state, "first_stage_model.")
    if "quantize.embedding.weight" in own:
        codes = own["quantize.embedding.weight"]
        flat = latents.permute(0, 2, 3, 1).reshape(-1, codes.shape[1])
        nearest = torch.cdist(flat, codes).argmin(1)
        latents = codes[nearest].reshape(*latents.shape[:1], *latents.shape[2:], -1)
        latents = latents.permute(0, 3, 1, 2)
    inside = select(own, "decoder.")

    def pass_residual(name: str, values: Tensor) -> Tensor:
        inner = convolve(
            inside,
            f"{name}.conv1",
            functional.silu(normalise(inside, f"{name}.norm1", values, 1e-6)),
        )
        inner = functional.silu(normalise(inside, f"{name}.norm2", inner, 1e-6))
        inner = convolve(inside, f"{name}.conv2", inner)
        is_same = f"{name}.nin_shortcut.weight" not in inside
        return inner + (values if is_same else convolve(inside, f"{name}.nin_shortcut", values))

    values = convolve(inside, "conv_in", convolve(own, "post_quant_conv", latents))
    values = pass_residual("mid.block_1", values)
    normed = normalise(inside, "mid.attn_1.norm", values, 1e-6)
    query, key, value = (
        convolve(inside, f"mid.attn_1.{each}", normed).flatten(2).transpose(1, 2) for each in "qkv"
    )
    seen = attend(query, key, value).transpose(1, 2).reshape(values.shape)
    values = values + convolve(inside, "mid.attn_1.proj_out", seen)
    values = pass_residual("mid.block_2", values)
    levels = 1 + max(int(key.split(".")[1]) for key in inside if key.startswith("up."))
    for level in reversed(range(levels)):
        number = 0
        while f"up.{level}.block.{number}.norm1.weight" in inside:
            values = pass_residual(f"up.{level}.block.{number}", values)
            number += 1
        if level:
            grown = values.repeat_interleave(2, 2).repeat_interleave(2, 3)
            values = convolve(inside, f"up.{level}.upsample.conv", grown)
    return convolve(
        inside, "conv_out", functional.silu(normalise(inside, "norm_out", values, 1e-6))
    )


# --- conditioner of ZoomLDM -----------------------------------------------------------------------


def encode_grid(state: State, features: Tensor, scale: int, heads: int) -> Tensor:
    """Returns the (65, dim) tokens of (channels, h, w) features, as the data loader gives them."""
    own = select(state, "cond_stage_model.")
    features = (features - features.mean(0)) / (features.std(0) + 1e-8)
    tokens = project(own, "dim_reduce", features.flatten(1).T)
    count, width = tokens.shape
    row = own["pad_token"][0].expand(64, width).clone()
    first = 32 if count == 1 else 32 - count // 2
    row[first : first + count] = tokens
    values = torch.cat([own["mag_embedding.weight"][scale][None], row])
    values = values + own["encoder.pos_embedding"][0]
    number = 0
    while (name := f"encoder.layers.encoder_layer_{number}") and f"{name}.ln_1.weight" in own:
        normed = layer_norm(own, f"{name}.ln_1", values, 1e-6)
        weight, bias = (own[f"{name}.self_attention.in_proj_{each}"] for each in ("weight", "bias"))
        parts = functional.linear(normed, weight, bias).chunk(3, -1)
        split = [part.reshape(65, heads, -1).transpose(0, 1) for part in parts]
        seen = attend(*split).transpose(0, 1).reshape(65, width)
        values = values + project(own, f"{name}.self_attention.out_proj", seen)
        passed = project(own, f"{name}.mlp.0", layer_norm(own, f"{name}.ln_2", values, 1e-6))
        values = values + project(own, f"{name}.mlp.3", functional.gelu(passed))
        number += 1
    return layer_norm(
        own, "layer_norm", project(own, "final_proj", layer_norm(own, "encoder.ln", values, 1e-6))
    )


# --- text encoder of PathLDM ----------------------------------------------------------------------


def encode_text(state: State, ids: Tensor, kept: Tensor, window: int, heads: int) -> Tensor:
    """Returns the (tokens, dim) of a text longer than a window of CLIP's positions.

    Args:
        state: of the whole checkpoint.
        ids: (tokens,) of the text and of what pads it.
        kept: (tokens,) true where no padding stands.
        window: tokens after which positions are counted anew; the causal mask spans them all.
        heads: of the attention.
    """
    own = {
        key.removeprefix("cond_stage_model.transformer.text_model."): value
        for key, value in state.items()
    }
    place = torch.arange(len(ids)) % window
    values = own["embeddings.token_embedding.weight"][ids]
    values = values + own["embeddings.position_embedding.weight"][place]
    later = torch.ones(len(ids), len(ids)).triu(1).bool() | ~kept
    number = 0
    while (name := f"encoder.layers.{number}") and f"{name}.layer_norm1.weight" in own:
        normed = layer_norm(own, f"{name}.layer_norm1", values)
        query, key, value = (
            project(own, f"{name}.self_attn.{each}_proj", normed)
            .unflatten(1, (heads, -1))
            .transpose(0, 1)
            for each in "qkv"
        )
        shares = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        seen = shares.masked_fill(later, -math.inf).softmax(-1) @ value
        merged = seen.transpose(0, 1).flatten(1)
        values = values + project(own, f"{name}.self_attn.out_proj", merged)
        wide = project(own, f"{name}.mlp.fc1", layer_norm(own, f"{name}.layer_norm2", values))
        wide = wide * torch.sigmoid(1.702 * wide)  # quick GELU
        values = values + project(own, f"{name}.mlp.fc2", wide)
        number += 1
    return layer_norm(own, "final_layer_norm", values)
